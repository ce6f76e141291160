use std::{
    net::{Ipv4Addr, SocketAddrV4},
    ops::Range,
};

use etherparse::{
    IcmpEchoHeader, Icmpv4Header, Icmpv4Type, IpDscp, IpFragOffset, IpNumber, Ipv4Header,
    Ipv4Options, TcpHeader, TcpOptionElement, UdpHeader,
};

/// An IPv4 packet in the making. Defaults: TTL 64, no options, not a fragment, right checksums.
#[derive(Clone, Debug)]
pub struct Packet {
    ip: Ipv4Header,
    transport: Transport,
    payload: Vec<u8>,
}

#[derive(Clone, Debug)]
enum Transport {
    Tcp(Box<TcpHeader>),
    Udp { src_port: u16, dst_port: u16, checksummed: bool },
    Icmp(Icmpv4Type),
    Raw,
}

/// Reads "192.0.2.1:80".
fn endpoint(text: &str) -> SocketAddrV4 {
    text.parse().unwrap_or_else(|_| panic!("{text:?} is no IPv4 endpoint"))
}

fn address(text: &str) -> Ipv4Addr {
    text.parse().unwrap_or_else(|_| panic!("{text:?} is no IPv4 address"))
}

impl Packet {
    /// A TCP segment without flags.
    #[must_use]
    pub fn tcp(src: &str, dst: &str) -> Packet {
        let (src, dst) = (endpoint(src), endpoint(dst));
        let header = TcpHeader::new(src.port(), dst.port(), 1000, 64240);
        Packet::new(*src.ip(), *dst.ip(), IpNumber::TCP, Transport::Tcp(Box::new(header)))
    }

    /// A UDP datagram.
    #[must_use]
    pub fn udp(src: &str, dst: &str) -> Packet {
        let (src, dst) = (endpoint(src), endpoint(dst));
        let (src_port, dst_port) = (src.port(), dst.port());
        let transport = Transport::Udp { src_port, dst_port, checksummed: true };
        Packet::new(*src.ip(), *dst.ip(), IpNumber::UDP, transport)
    }

    /// An ICMP echo request.
    #[must_use]
    pub fn echo_request(src: &str, dst: &str, id: u16, seq: u16) -> Packet {
        Packet::icmp(src, dst, Icmpv4Type::EchoRequest(IcmpEchoHeader { id, seq }))
    }

    /// An ICMP echo reply.
    #[must_use]
    pub fn echo_reply(src: &str, dst: &str, id: u16, seq: u16) -> Packet {
        Packet::icmp(src, dst, Icmpv4Type::EchoReply(IcmpEchoHeader { id, seq }))
    }

    /// Any ICMP message; an error's quote is its payload, and its precedence 6 (RFC 1812, section
    /// 4.3.2.5).
    #[must_use]
    pub fn icmp(src: &str, dst: &str, kind: Icmpv4Type) -> Packet {
        let is_error =
            matches!(kind, Icmpv4Type::DestinationUnreachable(_) | Icmpv4Type::TimeExceeded(_));
        let transport = Transport::Icmp(kind);
        let mut packet = Packet::new(address(src), address(dst), IpNumber::ICMP, transport);
        if is_error {
            packet.ip.dscp = IpDscp::CS6;
        }
        packet
    }

    /// A packet of any other protocol.
    #[must_use]
    pub fn raw(src: &str, dst: &str, protocol: u8) -> Packet {
        Packet::new(address(src), address(dst), IpNumber(protocol), Transport::Raw)
    }

    fn new(src: Ipv4Addr, dst: Ipv4Addr, protocol: IpNumber, transport: Transport) -> Packet {
        let mut ip = Ipv4Header::new(0, 64, protocol, src.octets(), dst.octets())
            .expect("an empty payload fits");
        ip.dont_fragment = true;
        Packet { ip, transport, payload: Vec::new() }
    }

    fn map_tcp(mut self, change: impl FnOnce(&mut TcpHeader)) -> Packet {
        match &mut self.transport {
            Transport::Tcp(header) => change(header),
            other => panic!("{other:?} is not TCP"),
        }
        self
    }

    /// Sets SYN.
    #[must_use]
    pub fn syn(self) -> Packet {
        self.map_tcp(|tcp| tcp.syn = true)
    }

    /// Sets FIN.
    #[must_use]
    pub fn fin(self) -> Packet {
        self.map_tcp(|tcp| tcp.fin = true)
    }

    /// Sets RST.
    #[must_use]
    pub fn rst(self) -> Packet {
        self.map_tcp(|tcp| tcp.rst = true)
    }

    /// Sets ACK, and what is acknowledged.
    #[must_use]
    pub fn ack(self, acknowledgment: u32) -> Packet {
        self.map_tcp(|tcp| {
            tcp.ack = true;
            tcp.acknowledgment_number = acknowledgment;
        })
    }

    /// Sets the sequence number.
    #[must_use]
    pub fn seq(self, sequence: u32) -> Packet {
        self.map_tcp(|tcp| tcp.sequence_number = sequence)
    }

    /// Sets the window, which is 64240 otherwise.
    #[must_use]
    pub fn window(self, window: u16) -> Packet {
        self.map_tcp(|tcp| tcp.window_size = window)
    }

    /// Announces a maximum segment size, in an option behind two others.
    #[must_use]
    pub fn mss(self, mss: u16) -> Packet {
        let options = [
            TcpOptionElement::WindowScale(7),
            TcpOptionElement::Noop,
            TcpOptionElement::MaximumSegmentSize(mss),
        ];
        self.map_tcp(|tcp| tcp.set_options(&options).expect("options that fit"))
    }

    /// A UDP datagram without a checksum.
    #[must_use]
    pub fn unchecksummed(mut self) -> Packet {
        match &mut self.transport {
            Transport::Udp { checksummed, .. } => *checksummed = false,
            other => panic!("{other:?} is not UDP"),
        }
        self
    }

    /// Sets the TTL.
    #[must_use]
    pub fn ttl(mut self, ttl: u8) -> Packet {
        self.ip.time_to_live = ttl;
        self
    }

    /// Sets the identification field.
    #[must_use]
    pub fn id(mut self, identification: u16) -> Packet {
        self.ip.identification = identification;
        self
    }

    /// Sets whether routers may not fragment it.
    #[must_use]
    pub fn dont_fragment(mut self, dont_fragment: bool) -> Packet {
        self.ip.dont_fragment = dont_fragment;
        self
    }

    /// Makes it a fragment: offset in units of 8 bytes, and whether more follow.
    #[must_use]
    pub fn fragment(mut self, offset: u16, more: bool) -> Packet {
        self.ip.dont_fragment = false;
        self.ip.fragment_offset = IpFragOffset::try_new(offset).expect("an offset of 13 bits");
        self.ip.more_fragments = more;
        self
    }

    /// The fragment of it that has these bytes of its payload, transport header included. The first
    /// one is a multiple of 8; a fragment can be cut again.
    ///
    /// # Panics
    /// When there are no such bytes.
    #[must_use]
    pub fn part(&self, range: Range<usize>) -> Packet {
        let segment = self.segment();
        let more = range.end < segment.len() || self.ip.more_fragments;
        let offset = self.ip.fragment_offset.value() + (range.start / 8) as u16;
        let part = Packet { transport: Transport::Raw, ..self.clone() };
        part.fragment(offset, more).payload(&segment[range])
    }

    /// Sets IPv4 options: a multiple of 4 bytes, at most 40.
    #[must_use]
    pub fn options(mut self, options: &[u8]) -> Packet {
        self.ip.options = Ipv4Options::try_from(options).expect("whole words of options");
        self
    }

    /// Sets the data.
    #[must_use]
    pub fn payload(mut self, payload: impl Into<Vec<u8>>) -> Packet {
        self.payload = payload.into();
        self
    }

    /// The packet's bytes, from the IPv4 header on.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        let segment = self.segment();
        let mut ip = self.ip.clone();
        ip.set_payload_len(segment.len()).expect("a payload that fits");
        ip.header_checksum = ip.calc_header_checksum();
        let mut bytes = ip.to_bytes().to_vec();
        bytes.extend_from_slice(&segment);
        bytes
    }

    /// What the IPv4 header is followed by.
    fn segment(&self) -> Vec<u8> {
        let (src, dst) = (self.ip.source, self.ip.destination);
        let mut segment = Vec::new();
        match &self.transport {
            Transport::Tcp(header) => {
                let mut header = header.clone();
                header.checksum = header
                    .calc_checksum_ipv4_raw(src, dst, &self.payload)
                    .expect("a payload that fits");
                header.write(&mut segment).expect("writing to memory");
            }
            Transport::Udp { src_port, dst_port, checksummed } => {
                let header = if *checksummed {
                    UdpHeader::with_ipv4_checksum(*src_port, *dst_port, &self.ip, &self.payload)
                } else {
                    UdpHeader::without_ipv4_checksum(*src_port, *dst_port, self.payload.len())
                };
                let header = header.expect("a payload that fits");
                segment.extend_from_slice(&header.to_bytes());
            }
            Transport::Icmp(kind) => {
                let header = Icmpv4Header::with_checksum(kind.clone(), &self.payload);
                segment.extend_from_slice(&header.to_bytes());
            }
            Transport::Raw => {}
        }
        segment.extend_from_slice(&self.payload);
        segment
    }

    /// The packet in an Ethernet frame.
    #[must_use]
    pub fn frame(&self, src: [u8; 6], dst: [u8; 6]) -> Vec<u8> {
        ethernet(src, dst, 0x0800, &self.bytes())
    }
}

impl From<Packet> for Vec<u8> {
    fn from(packet: Packet) -> Vec<u8> {
        packet.bytes()
    }
}

/// A MAC address of tests: locally administered, ending in `last`.
#[must_use]
pub const fn mac(last: u8) -> [u8; 6] {
    [0x02, 0, 0, 0, 0, last]
}

/// An Ethernet II frame around any payload, not padded.
#[must_use]
pub fn ethernet(src: [u8; 6], dst: [u8; 6], ethertype: u16, payload: &[u8]) -> Vec<u8> {
    [&dst[..], &src, &ethertype.to_be_bytes(), payload].concat()
}

/// "Who has `target`? Tell `sender`", broadcast.
#[must_use]
pub fn arp_request(sender_mac: [u8; 6], sender: &str, target: &str) -> Vec<u8> {
    arp(1, sender_mac, sender, [0; 6], target, [0xff; 6])
}

/// "`sender` is at `sender_mac`", to the one who asked.
#[must_use]
pub fn arp_reply(sender_mac: [u8; 6], sender: &str, target_mac: [u8; 6], target: &str) -> Vec<u8> {
    arp(2, sender_mac, sender, target_mac, target, target_mac)
}

fn arp(
    operation: u16,
    sender_mac: [u8; 6],
    sender: &str,
    target_mac: [u8; 6],
    target: &str,
    dst: [u8; 6],
) -> Vec<u8> {
    let body = [
        &[0, 1, 8, 0, 6, 4][..],
        &operation.to_be_bytes(),
        &sender_mac,
        &address(sender).octets(),
        &target_mac,
        &address(target).octets(),
    ]
    .concat();
    ethernet(sender_mac, dst, 0x0806, &body)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verify_checksums;

    #[test]
    fn what_is_built_is_sound() {
        let packets = [
            Packet::tcp("192.0.2.1:4000", "192.0.2.2:80").syn().payload("odd"),
            Packet::udp("192.0.2.1:4000", "192.0.2.2:53").options(&[1, 1, 1, 0]).payload("q"),
            Packet::udp("192.0.2.1:4000", "192.0.2.2:53").unchecksummed(),
            Packet::echo_request("192.0.2.1", "192.0.2.2", 7, 1).payload("ping"),
            Packet::raw("192.0.2.1", "192.0.2.2", 47).payload("gre"),
        ];
        for packet in packets {
            verify_checksums(&packet.frame(mac(1), mac(2))).unwrap();
        }
    }

    #[test]
    fn parts_make_the_whole() {
        let whole = Packet::udp("192.0.2.1:4000", "192.0.2.2:53").payload([7; 100]);
        let parts =
            [whole.part(0..64), whole.part(64..108).part(0..8), whole.part(64..108).part(8..44)];
        let mut joined = Vec::new();
        for (part, (offset, more)) in parts.iter().zip([(0, true), (8, true), (9, false)]) {
            assert_eq!(part.ip.fragment_offset.value(), offset);
            assert_eq!(part.ip.more_fragments, more);
            joined.extend_from_slice(&part.payload);
        }
        assert_eq!(joined, whole.segment());
    }

    #[test]
    fn corruption_is_found() {
        let frame =
            Packet::tcp("192.0.2.1:4000", "192.0.2.2:80").payload("data").frame(mac(1), mac(2));
        for at in 14..frame.len() {
            let mut bad = frame.clone();
            bad[at] ^= 0x40;
            assert!(verify_checksums(&bad).is_err(), "byte {at}");
        }
    }
}
