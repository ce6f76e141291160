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
    RxOffloads(RxOffloads::IP_CHECKSUM.0 | RxOffloads::TCP_CHECKSUM.0 | RxOffloads::UDP_CHECKSUM.0);
const TX: TxOffloads =
    TxOffloads(TxOffloads::IP_CHECKSUM.0 | TxOffloads::TCP_CHECKSUM.0 | TxOffloads::UDP_CHECKSUM.0);

/// The checksum offloads that a port was started with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Offloads {
    pub(crate) rx: RxOffloads,
    pub(crate) tx: TxOffloads,
}

impl Offloads {
    /// What a port is asked for, of what it has. `None` when `hardware` is wanted and it has not
    /// all of it.
    pub(crate) fn negotiate(wanted: Checksum, info: &PortInfo) -> Option<Offloads> {
        let offered = Offloads { rx: info.rx_offloads & RX, tx: info.tx_offloads & TX };
        match wanted {
            Checksum::Auto => Some(offered),
            Checksum::Software => Some(Offloads { rx: RxOffloads::NONE, tx: TxOffloads::NONE }),
            Checksum::Hardware => (offered == Offloads { rx: RX, tx: TX }).then_some(offered),
        }
    }

    /// Readies a translated packet for a port that fills in checksums, and says what to ask it for.
    /// `received` is what the ingress port found.
    pub(crate) fn prepare(
        &self,
        packet: &mut Ipv4Packet<'_>,
        received: RxChecksum,
        translated: bool,
    ) -> Option<TxChecksum> {
        let ip = self.tx.ip_checksum();
        let verified = received.l4 == ChecksumStatus::Good;
        let l4 = if translated && verified { self.prepare_transport(packet) } else { None };
        if !ip && l4.is_none() {
            return None;
        }
        if ip {
            packet.header.clear_checksum();
        }
        let l3_len = packet.header.header_len() as u16;
        Some(TxChecksum { l2_len: ethernet::HEADER_LEN as u8, l3_len, ip, l4 })
    }

    fn prepare_transport(&self, packet: &mut Ipv4Packet<'_>) -> Option<L4> {
        let payload_len = packet.payload.len();
        let pseudo_header = packet.header.pseudo_header(payload_len as u16).fold();
        match packet.header.protocol() {
            protocol::TCP if self.tx.tcp_checksum() => {
                TcpHeader::parse(packet.payload).ok()?.set_checksum(pseudo_header);
                Some(L4::Tcp)
            }
            protocol::UDP if self.tx.udp_checksum() => {
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
        let (rx, tx) = (self.rx, self.tx);
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
        let rx = list(rx.ip_checksum(), rx.tcp_checksum(), rx.udp_checksum());
        let tx = list(tx.ip_checksum(), tx.tcp_checksum(), tx.udp_checksum());
        write!(f, "checked {rx}, filled in {tx}")
    }
}
