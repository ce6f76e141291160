//! Building packets, with a library that shares no code with the engine.

use std::net::{Ipv4Addr, SocketAddrV4};

use etherparse::{
    IcmpEchoHeader, Icmpv4Header, Icmpv4Type, IpFragOffset, IpNumber, Ipv4Header, Ipv4Options,
    TcpHeader, UdpHeader,
};

use crate::{
    flow::Flow,
    wire::{ICMP, TCP, UDP},
};

/// What a packet has besides its endpoints.
#[derive(Clone, Debug)]
pub(crate) struct Shape {
    /// TCP's control bits.
    pub(crate) flags: u8,
    pub(crate) sequence: u32,
    pub(crate) acknowledgment: u32,
    /// TCP's options: whole words.
    pub(crate) tcp_options: Vec<u8>,
    pub(crate) has_udp_checksum: bool,
    /// IPv4's options: whole words.
    pub(crate) ip_options: Vec<u8>,
    pub(crate) ttl: u8,
    pub(crate) payload: u8,
    pub(crate) cut: Option<Cut>,
    /// Bytes that are changed after all: places and what they are exchanged with.
    pub(crate) damage: Vec<(u8, u8)>,
}

/// The part of a packet that is a fragment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cut {
    pub(crate) id: u8,
    /// In units of 8 bytes.
    pub(crate) offset: u16,
    /// In bytes; not beyond the packet's end, if that is before.
    pub(crate) length: usize,
    pub(crate) more: bool,
}

/// An IPv4 packet with these endpoints. `is_request` says which kind of echo it is, if it is one.
pub(crate) fn build(flow: Flow, is_request: bool, shape: &Shape) -> Vec<u8> {
    let payload: Vec<u8> = (1..=shape.payload).collect();
    let (src, dst) = (flow.src.ip().octets(), flow.dst.ip().octets());
    let (src_port, dst_port) = (flow.src.port(), flow.dst.port());
    let mut ip = Ipv4Header::new(0, shape.ttl, IpNumber(flow.protocol), src, dst).expect("short");
    ip.options = Ipv4Options::try_from(&shape.ip_options[..]).expect("whole words");
    let mut segment = match flow.protocol {
        TCP => {
            let mut tcp = TcpHeader::new(src_port, dst_port, shape.sequence, 1024);
            tcp.set_options_raw(&shape.tcp_options).expect("whole words");
            tcp.acknowledgment_number = shape.acknowledgment;
            let bit = |bit: u8| shape.flags & bit != 0;
            (tcp.fin, tcp.syn, tcp.rst) = (bit(1), bit(2), bit(4));
            (tcp.psh, tcp.ack, tcp.urg) = (bit(8), bit(16), bit(32));
            (tcp.ece, tcp.cwr) = (bit(64), bit(128));
            tcp.checksum = tcp.calc_checksum_ipv4_raw(src, dst, &payload).expect("short");
            tcp.to_bytes().to_vec()
        }
        UDP if shape.has_udp_checksum => {
            let udp = UdpHeader::with_ipv4_checksum(src_port, dst_port, &ip, &payload);
            udp.expect("short").to_bytes().to_vec()
        }
        UDP => {
            let udp = UdpHeader::without_ipv4_checksum(src_port, dst_port, payload.len());
            udp.expect("short").to_bytes().to_vec()
        }
        ICMP => {
            let echo = |id| IcmpEchoHeader { id, seq: 1 };
            let kind = match is_request {
                true => Icmpv4Type::EchoRequest(echo(src_port)),
                false => Icmpv4Type::EchoReply(echo(dst_port)),
            };
            Icmpv4Header::with_checksum(kind, &payload).to_bytes().to_vec()
        }
        _ => Vec::new(),
    };
    segment.extend_from_slice(&payload);
    if let Some(cut) = shape.cut {
        segment = part(&mut ip, &segment, cut);
    }
    let mut bytes = assemble(ip, &segment);
    damage(&mut bytes, &shape.damage);
    bytes
}

fn part(ip: &mut Ipv4Header, segment: &[u8], cut: Cut) -> Vec<u8> {
    ip.identification = cut.id.into();
    ip.fragment_offset = IpFragOffset::try_new(cut.offset).expect("13 bits");
    ip.more_fragments = cut.more;
    let rest = segment.iter().copied().skip(usize::from(cut.offset) * 8);
    let is_beyond = usize::from(cut.offset) * 8 >= segment.len();
    // What lies beyond the packet's end has to have some bytes, too.
    let filler = std::iter::repeat_n(0, if is_beyond { cut.length } else { 0 });
    rest.chain(filler).take(cut.length).collect()
}

fn assemble(mut ip: Ipv4Header, payload: &[u8]) -> Vec<u8> {
    ip.set_payload_len(payload.len()).expect("short");
    ip.header_checksum = ip.calc_header_checksum();
    [&ip.to_bytes()[..], payload].concat()
}

/// The header's checksum stays right: others don't get as far as to the engine.
fn damage(bytes: &mut [u8], damage: &[(u8, u8)]) {
    if damage.is_empty() {
        return;
    }
    for (place, change) in damage {
        let place = usize::from(*place) % bytes.len();
        bytes[place] ^= change;
    }
    if let Ok((header, _)) = Ipv4Header::from_slice(bytes) {
        bytes[10..12].copy_from_slice(&header.calc_header_checksum().to_be_bytes());
    }
}

/// An ICMP message that quotes `quote`.
pub(crate) fn icmp_error(
    src: Ipv4Addr,
    dst: Ipv4Addr,
    kind: u8,
    quote: &[u8],
    shape: &Shape,
) -> Vec<u8> {
    let ip = Ipv4Header::new(0, shape.ttl, IpNumber::ICMP, src.octets(), dst.octets());
    let mut ip = ip.expect("short");
    let kind = Icmpv4Type::Unknown { type_u8: kind, code_u8: 1, bytes5to8: [0, 0, 5, 120] };
    let mut message = Icmpv4Header::with_checksum(kind, quote).to_bytes().to_vec();
    message.extend_from_slice(quote);
    if let Some(cut) = shape.cut {
        message = part(&mut ip, &message, cut);
    }
    let mut bytes = assemble(ip, &message);
    damage(&mut bytes, &shape.damage);
    bytes
}

/// The reset that a connection's end gets when the connection expires: an atomic datagram (RFC 6864)
/// with a TTL of 64.
pub(crate) fn reset(flow: Flow, sequence: u32) -> Vec<u8> {
    let (src, dst): (SocketAddrV4, SocketAddrV4) = (flow.src, flow.dst);
    let mut tcp = TcpHeader::new(src.port(), dst.port(), sequence, 0);
    tcp.rst = true;
    let addresses = (src.ip().octets(), dst.ip().octets());
    tcp.checksum =
        tcp.calc_checksum_ipv4_raw(addresses.0, addresses.1, &[]).expect("an empty payload");
    let mut ip =
        Ipv4Header::new(0, 64, IpNumber::TCP, addresses.0, addresses.1).expect("an empty payload");
    ip.dont_fragment = true;
    assemble(ip, &tcp.to_bytes())
}
