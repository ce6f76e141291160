//! Packets, read by offset (RFC 791, 792, 768, 9293).

use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};

use shunt_packet::Malformed;

use crate::flow::Flow;

pub(crate) const ICMP: u8 = 1;
pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;

pub(crate) const FIN: u8 = 0x01;
pub(crate) const SYN: u8 = 0x02;
pub(crate) const RST: u8 = 0x04;
pub(crate) const ACK: u8 = 0x10;

/// Echo, timestamp, information, address mask (RFC 792, RFC 950).
pub(crate) const QUERIES: [u8; 4] = [8, 13, 15, 17];
const REPLIES: [u8; 4] = [0, 14, 16, 18];
const REDIRECT: u8 = 5;
/// Destination unreachable, source quench, time exceeded, parameter problem (RFC 1122, 3.2.2).
const ERRORS: [u8; 4] = [3, 4, 11, 12];

/// An address of the rules, which are IPv4 here.
pub(crate) fn v4(address: IpAddr) -> Ipv4Addr {
    match address {
        IpAddr::V4(address) => address,
        IpAddr::V6(address) => panic!("{address} in the rules"),
    }
}

pub(crate) fn word(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

fn long(bytes: &[u8], at: usize) -> u32 {
    u32::from(word(bytes, at)) << 16 | u32::from(word(bytes, at + 2))
}

/// An IPv4 packet whose header is sound.
#[derive(Clone, Copy)]
pub(crate) struct Ip<'a>(pub(crate) &'a [u8]);

impl<'a> Ip<'a> {
    /// A packet, if version and lengths are right.
    pub(crate) fn whole(bytes: &'a [u8]) -> Option<Ip<'a>> {
        let ip = Ip::quoted(bytes)?;
        (ip.header_len()..=bytes.len()).contains(&ip.total_len()).then_some(ip)
    }

    /// A packet of which only the beginning need be there.
    fn quoted(bytes: &'a [u8]) -> Option<Ip<'a>> {
        let is_sound = bytes.len() >= 20
            && bytes[0] >> 4 == 4
            && (20..=bytes.len()).contains(&Ip(bytes).header_len());
        is_sound.then_some(Ip(bytes))
    }

    pub(crate) fn header_len(self) -> usize {
        usize::from(self.0[0] & 0x0f) * 4
    }

    pub(crate) fn total_len(self) -> usize {
        word(self.0, 2).into()
    }

    pub(crate) fn id(self) -> u16 {
        word(self.0, 4)
    }

    /// In bytes.
    pub(crate) fn fragment_offset(self) -> usize {
        usize::from(word(self.0, 6) & 0x1fff) * 8
    }

    pub(crate) fn more_fragments(self) -> bool {
        word(self.0, 6) & 0x2000 != 0
    }

    pub(crate) fn is_fragment(self) -> bool {
        self.more_fragments() || self.fragment_offset() > 0
    }

    pub(crate) fn ttl(self) -> u8 {
        self.0[8]
    }

    pub(crate) fn protocol(self) -> u8 {
        self.0[9]
    }

    pub(crate) fn src(self) -> Ipv4Addr {
        long(self.0, 12).into()
    }

    pub(crate) fn dst(self) -> Ipv4Addr {
        long(self.0, 16).into()
    }

    pub(crate) fn payload(self) -> &'a [u8] {
        &self.0[self.header_len()..self.total_len()]
    }
}

/// What a packet carries.
pub(crate) enum Content {
    /// What can belong to a connection.
    Segment(Segment),
    IcmpError,
    Redirect,
    Other,
}

#[derive(Clone, Copy)]
pub(crate) struct Segment {
    pub(crate) flow: Flow,
    pub(crate) kind: Kind,
}

#[derive(Clone, Copy)]
pub(crate) enum Kind {
    Tcp {
        flags: u8,
        sequence: u32,
        acknowledgment: u32,
    },
    Udp,
    Query,
    Reply,
    /// Of a protocol without ports.
    Other,
}

impl Segment {
    /// Whether it is what a new connection begins with: a bare SYN, a datagram, an echo request.
    pub(crate) fn opens(&self) -> bool {
        match self.kind {
            Kind::Tcp { flags, .. } => flags & (SYN | ACK | RST | FIN) == SYN,
            Kind::Udp | Kind::Query | Kind::Other => true,
            Kind::Reply => false,
        }
    }
}

/// Reads the transport header of a whole packet or a first fragment.
pub(crate) fn read(ip: Ip<'_>) -> Result<Content, Malformed> {
    let payload = ip.payload();
    let (src_port, dst_port, kind) = match ip.protocol() {
        TCP if payload.len() < 20 => return Err(Malformed::TcpTruncated),
        TCP => {
            let data_offset = usize::from(payload[12] >> 4) * 4;
            if !(20..=payload.len()).contains(&data_offset) {
                return Err(Malformed::TcpDataOffset);
            }
            let (sequence, acknowledgment) = (long(payload, 4), long(payload, 8));
            let kind = Kind::Tcp { flags: payload[13], sequence, acknowledgment };
            (word(payload, 0), word(payload, 2), kind)
        }
        UDP if payload.len() < 8 => return Err(Malformed::UdpTruncated),
        UDP => {
            // The rest of a datagram in fragments is elsewhere.
            let longest = if ip.is_fragment() { usize::MAX } else { payload.len() };
            if !(8..=longest).contains(&usize::from(word(payload, 4))) {
                return Err(Malformed::UdpLength);
            }
            (word(payload, 0), word(payload, 2), Kind::Udp)
        }
        ICMP if payload.len() < 8 => return Err(Malformed::IcmpTruncated),
        ICMP => match payload[0] {
            kind if QUERIES.contains(&kind) => (word(payload, 4), 0, Kind::Query),
            kind if REPLIES.contains(&kind) => (0, word(payload, 4), Kind::Reply),
            REDIRECT => return Ok(Content::Redirect),
            kind if ERRORS.contains(&kind) => return Ok(Content::IcmpError),
            _ => return Ok(Content::Other),
        },
        _ => (0, 0, Kind::Other),
    };
    Ok(Content::Segment(Segment { flow: flow(ip, src_port, dst_port), kind }))
}

fn flow(ip: Ip<'_>, src_port: u16, dst_port: u16) -> Flow {
    Flow {
        protocol: ip.protocol(),
        src: SocketAddrV4::new(ip.src(), src_port),
        dst: SocketAddrV4::new(ip.dst(), dst_port),
    }
}

/// The flow of the packet that an ICMP error is about, if it goes to that packet's sender (or else
/// it is forged) and quotes enough of it.
pub(crate) fn quoted_flow(error: Ip<'_>) -> Option<Flow> {
    let quoted = Ip::quoted(&error.payload()[8..])?;
    let payload = &quoted.0[quoted.header_len()..];
    if error.dst() != quoted.src() || quoted.fragment_offset() > 0 {
        return None;
    }
    let (src_port, dst_port) = match (quoted.protocol(), payload) {
        (TCP | UDP, [_, _, _, _, ..]) => (word(payload, 0), word(payload, 2)),
        (ICMP, [kind, _, _, _, _, _, _, _, ..]) if QUERIES.contains(kind) => (word(payload, 4), 0),
        (ICMP, [kind, _, _, _, _, _, _, _, ..]) if REPLIES.contains(kind) => (0, word(payload, 4)),
        (TCP | UDP | ICMP, _) => return None,
        _ => (0, 0),
    };
    Some(flow(quoted, src_port, dst_port))
}
