//! Checksums: what the port does, and what is left to us.
//!
//! A port that fills in a transport checksum covers whatever payload it finds. So it is asked only
//! for packets that the receiving port has *checked*: otherwise a payload that was corrupted on the
//! way in would leave with a checksum that says it is sound. All others keep their checksum by the
//! connection's delta, which keeps a wrong one wrong.

use std::fmt;

use shunt_config::Checksum;
use shunt_dpdk::{ChecksumStatus, L4, PortInfo, RxChecksum, RxOffloads, TxChecksum, TxOffloads};
use shunt_packet::{
    ethernet,
    ipv4::{Ipv4Packet, protocol},
    tcp::TcpHeader,
    udp::UdpHeader,
};

const RX: RxOffloads =
    RxOffloads::IP_CHECKSUM.union(RxOffloads::TCP_CHECKSUM).union(RxOffloads::UDP_CHECKSUM);
const TX: TxOffloads =
    TxOffloads::IP_CHECKSUM.union(TxOffloads::TCP_CHECKSUM).union(TxOffloads::UDP_CHECKSUM);

/// The checksum offloads that a port was started with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Offloads {
    pub(crate) rx: RxOffloads,
    pub(crate) tx: TxOffloads,
}

impl Offloads {
    /// Everything in software.
    pub(crate) const NONE: Offloads = Offloads { rx: RxOffloads::empty(), tx: TxOffloads::empty() };

    /// What a port is asked for, of what it has. `None` when `hardware` is wanted and it has not
    /// all of it.
    pub(crate) fn negotiate(wanted: Checksum, info: &PortInfo) -> Option<Offloads> {
        let offered = Offloads { rx: info.rx_offloads & RX, tx: info.tx_offloads & TX };
        match wanted {
            Checksum::Auto => Some(offered),
            Checksum::Software => Some(Offloads::NONE),
            Checksum::Hardware => (offered == Offloads { rx: RX, tx: TX }).then_some(offered),
        }
    }

    /// Readies a packet for a port that fills in checksums, and says what to ask it for. `received` is
    /// what the ingress port found. Where it says that there is no checksum yet, because a sender on
    /// this machine left it to a network card that the packet never came by, the port or we compute it.
    pub(crate) fn prepare(
        &self,
        packet: &mut Ipv4Packet<'_>,
        received: RxChecksum,
        translated: bool,
    ) -> Option<TxChecksum> {
        let ip = self.tx.contains(TxOffloads::IP_CHECKSUM);
        // No port can know the checksum of a packet of which it has only a part.
        let l4 = match received.l4 {
            _ if packet.header.is_fragment() => None,
            ChecksumStatus::None => self.complete_transport(packet),
            ChecksumStatus::Good if translated => self.prepare_transport(packet),
            _ => None,
        };
        if ip {
            packet.header.clear_checksum();
        } else if received.ip == ChecksumStatus::None {
            packet.compute_checksum();
        }
        if !ip && l4.is_none() {
            return None;
        }
        let l3_len = packet.header.header_len() as u16;
        Some(TxChecksum { l2_len: ethernet::HEADER_LEN as u8, l3_len, ip, l4 })
    }

    /// Has the port compute a transport checksum, or computes it.
    fn complete_transport(&self, packet: &mut Ipv4Packet<'_>) -> Option<L4> {
        let prepared = self.prepare_transport(packet);
        if prepared.is_none() {
            packet.compute_transport_checksum();
        }
        prepared
    }

    fn prepare_transport(&self, packet: &mut Ipv4Packet<'_>) -> Option<L4> {
        let payload_len = packet.payload.len();
        let pseudo_header = packet.header.pseudo_header(payload_len as u16).fold();
        match packet.header.protocol() {
            protocol::TCP if self.tx.contains(TxOffloads::TCP_CHECKSUM) => {
                TcpHeader::parse(packet.payload).ok()?.set_checksum(pseudo_header);
                Some(L4::Tcp)
            }
            protocol::UDP if self.tx.contains(TxOffloads::UDP_CHECKSUM) => {
                let udp = UdpHeader::parse(packet.payload).ok()?;
                // Bytes behind the datagram are no part of it, but a NIC may take them for it.
                if udp.checksum() == 0 || usize::from(udp.length()) != payload_len {
                    return None;
                }
                udp.set_checksum(pseudo_header);
                Some(L4::Udp)
            }
            _ => None,
        }
    }
}

impl fmt::Display for Offloads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |ip, tcp, udp| {
            let names = [(ip, "IPv4"), (tcp, "TCP"), (udp, "UDP")];
            let names: Vec<_> =
                names.into_iter().filter(|(on, _)| *on).map(|(_, name)| name).collect();
            if names.is_empty() {
                "in software".to_owned()
            } else {
                format!("{} in hardware", names.join("+"))
            }
        };
        let rx = |offload| self.rx.contains(offload);
        let tx = |offload| self.tx.contains(offload);
        let rx = list(
            rx(RxOffloads::IP_CHECKSUM),
            rx(RxOffloads::TCP_CHECKSUM),
            rx(RxOffloads::UDP_CHECKSUM),
        );
        let tx = list(
            tx(TxOffloads::IP_CHECKSUM),
            tx(TxOffloads::TCP_CHECKSUM),
            tx(TxOffloads::UDP_CHECKSUM),
        );
        write!(f, "{rx} on receive, {tx} on transmit")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use shunt_testkit::{Packet, mac, verify_checksums};

    const ALL: Offloads = Offloads { rx: RX, tx: TX };
    const CHECKED: RxChecksum = RxChecksum { ip: ChecksumStatus::Good, l4: ChecksumStatus::Good };
    const UNCHECKED: RxChecksum =
        RxChecksum { ip: ChecksumStatus::Unknown, l4: ChecksumStatus::Unknown };

    fn tcp() -> Packet {
        Packet::tcp("192.0.2.1:4000", "192.0.2.2:80").ack(1).payload("odd")
    }

    fn udp() -> Packet {
        Packet::udp("192.0.2.1:4000", "192.0.2.2:53").payload("odd")
    }

    /// A frame that was readied, and what the NIC was asked for.
    fn prepare(
        offloads: Offloads,
        packet: &Packet,
        received: RxChecksum,
        translated: bool,
    ) -> (Vec<u8>, Option<TxChecksum>) {
        let mut frame = packet.frame(mac(1), mac(2));
        let mut view = Ipv4Packet::parse(&mut frame[ethernet::HEADER_LEN..]).unwrap();
        let request = offloads.prepare(&mut view, received, translated);
        (frame, request)
    }

    /// What NICs do, and no more: they add up what they find, the checksum's field included.
    fn fill_in(frame: &mut [u8], request: &TxChecksum) {
        let checksum = |bytes: &[u8]| {
            let word =
                |pair: &[u8]| u64::from(pair[0]) << 8 | u64::from(*pair.get(1).unwrap_or(&0));
            !((bytes.chunks(2).map(word).sum::<u64>() % 0xffff) as u16)
        };
        let l3 = usize::from(request.l2_len);
        let l4 = l3 + usize::from(request.l3_len);
        if request.ip {
            let found = checksum(&frame[l3..l4]);
            frame[l3 + 10..l3 + 12].copy_from_slice(&found.to_be_bytes());
        }
        let field = match request.l4 {
            Some(L4::Tcp) => l4 + 16,
            Some(L4::Udp) => l4 + 6,
            None => return,
        };
        let found = checksum(&frame[l4..]);
        frame[field..field + 2].copy_from_slice(&found.to_be_bytes());
    }

    #[test]
    fn a_nic_completes_what_is_prepared() {
        let options = [0x94, 4, 0, 0];
        for packet in [tcp(), udp(), tcp().options(&options), udp().options(&options)] {
            let (mut frame, request) = prepare(ALL, &packet, CHECKED, true);
            let request = request.expect("the NIC has work");
            assert!(request.ip && request.l4.is_some());
            assert!(verify_checksums(&frame).is_err(), "nothing is left to the NIC");
            fill_in(&mut frame, &request);
            assert_eq!(frame, packet.frame(mac(1), mac(2)));
        }
    }

    #[test]
    fn transport_checksums_are_left_alone_unless_checked_and_translated() {
        let icmp = Packet::echo_request("192.0.2.1", "192.0.2.2", 7, 1);
        for (packet, received, translated) in [
            (tcp(), UNCHECKED, true),
            (tcp(), CHECKED, false),
            (udp(), UNCHECKED, true),
            (udp().unchecksummed(), CHECKED, true),
            (icmp, CHECKED, true),
            (tcp().payload([7; 40]).part(0..32), CHECKED, true),
        ] {
            let (mut frame, request) = prepare(ALL, &packet, received, translated);
            let request = request.expect("the NIC has work");
            assert_eq!(request.l4, None);
            fill_in(&mut frame, &request);
            assert_eq!(frame, packet.frame(mac(1), mac(2)));
        }
    }

    /// What a sender leaves to a NIC: the sum of the pseudo-header in place of the checksum.
    fn unfinished(packet: &Packet) -> Vec<u8> {
        let mut frame = packet.frame(mac(1), mac(2));
        let mut view = Ipv4Packet::parse(&mut frame[ethernet::HEADER_LEN..]).unwrap();
        assert!(ALL.prepare(&mut view, CHECKED, true).is_some());
        frame
    }

    #[test]
    fn what_was_left_to_a_nic_is_computed() {
        let nobody = RxChecksum { ip: ChecksumStatus::None, l4: ChecksumStatus::None };
        let software = Offloads { rx: RxOffloads::empty(), tx: TxOffloads::empty() };
        for packet in
            [tcp(), udp(), tcp().options(&[1; 4]), udp().unchecksummed(), udp().payload("o")]
        {
            for translated in [false, true] {
                let mut frame = unfinished(&packet);
                let mut view = Ipv4Packet::parse(&mut frame[ethernet::HEADER_LEN..]).unwrap();
                assert_eq!(software.prepare(&mut view, nobody, translated), None);
                assert_eq!(frame, packet.frame(mac(1), mac(2)), "in software");

                let mut frame = unfinished(&packet);
                let mut view = Ipv4Packet::parse(&mut frame[ethernet::HEADER_LEN..]).unwrap();
                let request = ALL.prepare(&mut view, nobody, translated).expect("the NIC has work");
                fill_in(&mut frame, &request);
                assert_eq!(frame, packet.frame(mac(1), mac(2)), "by the port");
            }
        }
    }

    #[test]
    fn bytes_behind_a_datagram_are_not_summed() {
        let mut frame = udp().payload("datagram, not all of it").frame(mac(1), mac(2));
        frame[ethernet::HEADER_LEN + 25] -= 1;
        let mut view = Ipv4Packet::parse(&mut frame[ethernet::HEADER_LEN..]).unwrap();
        assert_eq!(ALL.prepare(&mut view, CHECKED, true).and_then(|request| request.l4), None);
    }

    #[test]
    fn software_asks_for_nothing() {
        let software = Offloads { rx: RxOffloads::empty(), tx: TxOffloads::empty() };
        let (frame, request) = prepare(software, &tcp(), CHECKED, true);
        assert_eq!((frame, request), (tcp().frame(mac(1), mac(2)), None));
    }
}
