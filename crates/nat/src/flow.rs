use std::{fmt, net::SocketAddrV4};

use shunt_packet::{
    Malformed,
    checksum::Sum,
    icmp::IcmpHeader,
    ipv4::{Ipv4Packet, protocol},
    plain::{PlainPacket, PlainTransport},
    tcp::{TcpFlags, TcpHeader},
    udp::UdpHeader,
};

/// Which way a packet of a connection goes, seen from the one who opened it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Client to server.
    Inbound = 0,
    /// Server to client.
    Outbound = 1,
}

impl Direction {
    /// The other way.
    #[must_use]
    pub fn opposite(self) -> Direction {
        match self {
            Direction::Inbound => Direction::Outbound,
            Direction::Outbound => Direction::Inbound,
        }
    }
}

/// One direction of a TCP or UDP flow, or of an ICMP query: protocol, source and destination endpoint.
/// A query's identifier is the port of the one who asks; the other port is 0. So are both of any other
/// protocol.
///
/// All in one word, so that keys are compared, copied and hashed as such: from the lowest bit on,
/// source and destination address, source and destination port, protocol.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct FlowKey(u128);

const DST: u32 = 32;
const SRC_PORT: u32 = 64;
const DST_PORT: u32 = 80;
const PROTOCOL: u32 = 96;

/// Addresses and ports of a key, as a record stores them: 12 bytes.
pub(crate) type Tuple = [u32; 3];

impl FlowKey {
    /// The key of packets from `src` to `dst`; see [`protocol`] for the protocol's number.
    #[inline]
    #[must_use]
    pub fn new(protocol: u8, src: SocketAddrV4, dst: SocketAddrV4) -> FlowKey {
        FlowKey(
            u128::from(src.ip().to_bits())
                | u128::from(dst.ip().to_bits()) << DST
                | u128::from(src.port()) << SRC_PORT
                | u128::from(dst.port()) << DST_PORT
                | u128::from(protocol) << PROTOCOL,
        )
    }

    /// The key that [`FlowKey::tuple`] is a part of.
    #[inline]
    pub(crate) fn of_tuple(protocol: u8, tuple: Tuple) -> FlowKey {
        let [src, dst, ports] = tuple.map(u128::from);
        FlowKey(src | dst << DST | ports << SRC_PORT | u128::from(protocol) << PROTOCOL)
    }

    /// All but the protocol.
    pub(crate) fn tuple(&self) -> Tuple {
        [self.0 as u32, (self.0 >> DST) as u32, (self.0 >> SRC_PORT) as u32]
    }

    /// All 13 bytes in one word, for hashing.
    #[inline]
    pub(crate) fn to_bits(self) -> u128 {
        self.0
    }

    /// IANA number of the transport protocol.
    #[inline]
    #[must_use]
    pub fn protocol(&self) -> u8 {
        (self.0 >> PROTOCOL) as u8
    }

    /// Where the packet comes from.
    #[inline]
    #[must_use]
    pub fn src(&self) -> SocketAddrV4 {
        SocketAddrV4::new((self.0 as u32).into(), (self.0 >> SRC_PORT) as u16)
    }

    /// Where the packet goes.
    #[inline]
    #[must_use]
    pub fn dst(&self) -> SocketAddrV4 {
        SocketAddrV4::new(((self.0 >> DST) as u32).into(), (self.0 >> DST_PORT) as u16)
    }

    /// The key of the packets that go the other way between the same endpoints.
    #[inline]
    #[must_use]
    pub fn reverse(&self) -> FlowKey {
        FlowKey::new(self.protocol(), self.dst(), self.src())
    }

    /// What the addresses add to a checksum.
    pub(crate) fn address_sum(&self) -> Sum {
        Sum::ZERO.address(*self.src().ip()).address(*self.dst().ip())
    }

    /// What addresses and ports add to a transport checksum, pseudo-header included. ICMP has none.
    pub(crate) fn transport_sum(&self) -> Sum {
        let addresses = match self.protocol() {
            protocol::ICMP => Sum::ZERO,
            _ => self.address_sum(),
        };
        addresses.word(self.src().port()).word(self.dst().port())
    }
}

impl fmt::Debug for FlowKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self.protocol() {
            protocol::TCP => "tcp",
            protocol::UDP => "udp",
            protocol::ICMP => "icmp",
            _ => "?",
        };
        write!(f, "{name} {} -> {}", self.src(), self.dst())
    }
}

/// What the engine needs of an unfragmented packet that can belong to a connection.
#[derive(Clone, Copy)]
pub(crate) struct Segment {
    pub(crate) key: FlowKey,
    pub(crate) kind: SegmentKind,
}

#[derive(Clone, Copy)]
pub(crate) enum SegmentKind {
    Tcp {
        flags: TcpFlags,
        sequence: u32,
        acknowledgment: u32,
    },
    Udp,
    /// An ICMP query, an echo request for instance, or its reply. In its key, the identifier is the port
    /// of the one who asks, and the other port is 0, so that a reply's key is the reverse of its request's.
    Query {
        is_request: bool,
    },
    /// Of a protocol without ports: both are 0 in its key.
    Other,
}

impl Segment {
    /// What a plain packet carries.
    #[inline]
    pub(crate) fn of(packet: &PlainPacket<'_>) -> Segment {
        let (src_port, dst_port, kind) = match &packet.transport {
            PlainTransport::Tcp(tcp) => {
                let kind = SegmentKind::Tcp {
                    flags: tcp.flags(),
                    sequence: tcp.sequence(),
                    acknowledgment: tcp.acknowledgment(),
                };
                (tcp.src_port(), tcp.dst_port(), kind)
            }
            PlainTransport::Udp(udp) => (udp.src_port(), udp.dst_port(), SegmentKind::Udp),
        };
        let src = SocketAddrV4::new(packet.header.src(), src_port);
        let dst = SocketAddrV4::new(packet.header.dst(), dst_port);
        Segment { key: FlowKey::new(packet.header.protocol(), src, dst), kind }
    }

    /// Reads the transport header; `None` for an ICMP message that is no query and no reply.
    #[inline]
    pub(crate) fn parse(packet: &mut Ipv4Packet<'_>) -> Result<Option<Segment>, Malformed> {
        let (src_port, dst_port, kind) = match packet.header.protocol() {
            protocol::TCP => {
                let tcp = TcpHeader::parse(packet.payload)?;
                let kind = SegmentKind::Tcp {
                    flags: tcp.flags(),
                    sequence: tcp.sequence(),
                    acknowledgment: tcp.acknowledgment(),
                };
                (tcp.src_port(), tcp.dst_port(), kind)
            }
            protocol::UDP => {
                // Of a first fragment, the datagram's end is elsewhere.
                let udp = match packet.header.is_fragment() {
                    true => UdpHeader::parse_partial(packet.payload)?,
                    false => UdpHeader::parse(packet.payload)?,
                };
                (udp.src_port(), udp.dst_port(), SegmentKind::Udp)
            }
            protocol::ICMP => {
                let (icmp, _) = IcmpHeader::split(packet.payload)?;
                let identifier = icmp.identifier();
                if icmp.is_query() {
                    (identifier, 0, SegmentKind::Query { is_request: true })
                } else if icmp.is_query_reply() {
                    (0, identifier, SegmentKind::Query { is_request: false })
                } else {
                    return Ok(None);
                }
            }
            _ => (0, 0, SegmentKind::Other),
        };
        let header = &packet.header;
        let src = SocketAddrV4::new(header.src(), src_port);
        let dst = SocketAddrV4::new(header.dst(), dst_port);
        let key = FlowKey::new(header.protocol(), src, dst);
        Ok(Some(Segment { key, kind }))
    }

    /// Whether its kind can go this way: queries go in, replies go out. With an identifier of
    /// 0, their keys don't tell them apart.
    pub(crate) fn goes(&self, direction: Direction) -> bool {
        match self.kind {
            SegmentKind::Query { is_request } => is_request == (direction == Direction::Inbound),
            SegmentKind::Tcp { .. } | SegmentKind::Udp | SegmentKind::Other => true,
        }
    }

    /// Whether it may open a connection: a TCP SYN, an ICMP query, and whatever has neither.
    pub(crate) fn opens(&self) -> bool {
        match self.kind {
            SegmentKind::Tcp { flags, .. } => flags.opens(),
            SegmentKind::Udp | SegmentKind::Other => true,
            SegmentKind::Query { is_request } => is_request,
        }
    }
}
