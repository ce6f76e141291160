use std::{fmt, net::SocketAddrV4};

use shunt_packet::{
    Malformed,
    checksum::Sum,
    icmp::IcmpHeader,
    ipv4::{Ipv4Packet, protocol},
    tcp::{TcpFlags, TcpHeader},
    udp::UdpHeader,
};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

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

/// Addresses and ports of one direction: 12 bytes, as a record stores them.
#[derive(Clone, Copy, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub(crate) struct Tuple {
    pub(crate) src: u32,
    pub(crate) dst: u32,
    pub(crate) src_port: u16,
    pub(crate) dst_port: u16,
}

/// One direction of a TCP or UDP flow, or of an ICMP echo: protocol, source and destination endpoint.
/// An echo's identifier is the port of the one who asks; the other port is 0.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct FlowKey {
    pub(crate) tuple: Tuple,
    pub(crate) protocol: u8,
}

impl FlowKey {
    /// The key of packets from `src` to `dst`; see [`protocol`] for the protocol's number.
    #[must_use]
    pub fn new(protocol: u8, src: SocketAddrV4, dst: SocketAddrV4) -> FlowKey {
        let tuple = Tuple {
            src: src.ip().to_bits(),
            dst: dst.ip().to_bits(),
            src_port: src.port(),
            dst_port: dst.port(),
        };
        FlowKey { tuple, protocol }
    }

    /// IANA number of the transport protocol.
    #[must_use]
    pub fn protocol(&self) -> u8 {
        self.protocol
    }

    /// Where the packet comes from.
    #[must_use]
    pub fn src(&self) -> SocketAddrV4 {
        SocketAddrV4::new(self.tuple.src.into(), self.tuple.src_port)
    }

    /// Where the packet goes.
    #[must_use]
    pub fn dst(&self) -> SocketAddrV4 {
        SocketAddrV4::new(self.tuple.dst.into(), self.tuple.dst_port)
    }

    /// The key of the packets that go the other way between the same endpoints.
    #[must_use]
    pub fn reverse(&self) -> FlowKey {
        let Tuple { src, dst, src_port, dst_port } = self.tuple;
        let tuple = Tuple { src: dst, dst: src, src_port: dst_port, dst_port: src_port };
        FlowKey { tuple, protocol: self.protocol }
    }

    /// All 13 bytes in one word, for hashing.
    pub(crate) fn to_bits(self) -> u128 {
        let Tuple { src, dst, src_port, dst_port } = self.tuple;
        u128::from(src)
            | u128::from(dst) << 32
            | u128::from(src_port) << 64
            | u128::from(dst_port) << 80
            | u128::from(self.protocol) << 96
    }

    /// What the addresses add to a checksum.
    pub(crate) fn address_sum(&self) -> Sum {
        Sum::ZERO.address(self.tuple.src.into()).address(self.tuple.dst.into())
    }

    /// What addresses and ports add to a transport checksum, pseudo-header included. ICMP has none.
    pub(crate) fn transport_sum(&self) -> Sum {
        let addresses = match self.protocol {
            protocol::ICMP => Sum::ZERO,
            _ => self.address_sum(),
        };
        addresses.word(self.tuple.src_port).word(self.tuple.dst_port)
    }
}

impl fmt::Debug for FlowKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self.protocol {
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
    /// An ICMP echo request or reply. In its key, the identifier is the port of the one who asks,
    /// and the other port is 0, so that a reply's key is the reverse of its request's.
    Echo {
        is_request: bool,
    },
}

impl Segment {
    /// Reads the transport header; `None` when it is of no kind that can be translated.
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
                if icmp.is_echo_request() {
                    (identifier, 0, SegmentKind::Echo { is_request: true })
                } else if icmp.is_echo_reply() {
                    (0, identifier, SegmentKind::Echo { is_request: false })
                } else {
                    return Ok(None);
                }
            }
            _ => return Ok(None),
        };
        let header = &packet.header;
        let (src, dst) = (header.src().to_bits(), header.dst().to_bits());
        let tuple = Tuple { src, dst, src_port, dst_port };
        let key = FlowKey { tuple, protocol: header.protocol() };
        Ok(Some(Segment { key, kind }))
    }

    /// Whether its kind can go this way: echo requests go in, replies go out. With an identifier of
    /// 0, their keys don't tell them apart.
    pub(crate) fn goes(&self, direction: Direction) -> bool {
        match self.kind {
            SegmentKind::Echo { is_request } => is_request == (direction == Direction::Inbound),
            SegmentKind::Tcp { .. } | SegmentKind::Udp => true,
        }
    }

    /// Whether it may open a connection: a TCP SYN, any UDP datagram, an echo request.
    pub(crate) fn opens(&self) -> bool {
        match self.kind {
            SegmentKind::Tcp { flags, .. } => flags.opens(),
            SegmentKind::Udp => true,
            SegmentKind::Echo { is_request } => is_request,
        }
    }
}
