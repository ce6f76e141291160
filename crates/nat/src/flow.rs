use std::{
    fmt,
    net::{Ipv4Addr, SocketAddrV4},
};

use shunt_packet::{
    Malformed,
    checksum::Sum,
    icmp::IcmpHeader,
    ipv4::{Addresses, Ipv4Packet, protocol},
    plain::{PlainPacket, PlainTransport, Ports},
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
/// It is two words as a packet has them, in network byte order, so that keys are read from packets and
/// written to them, compared, turned round and hashed without looking at their parts.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct FlowKey {
    /// The source in the lower half, the destination in the upper one.
    addresses: u64,
    /// From the lowest bit on: source port, destination port, protocol.
    ports_and_protocol: u64,
}

/// Where the protocol is; and how far addresses and ports are turned for the opposite direction.
const PROTOCOL: u32 = u32::BITS;
const ADDRESS: u32 = u32::BITS;
const PORT: u32 = u16::BITS;

impl FlowKey {
    /// The key of packets from `src` to `dst`; see [`protocol`] for the protocol's number.
    #[inline]
    #[must_use]
    pub fn new(protocol: u8, src: SocketAddrV4, dst: SocketAddrV4) -> FlowKey {
        let addresses = [src.ip().octets(), dst.ip().octets()];
        let ports = [src.port().to_be_bytes(), dst.port().to_be_bytes()];
        FlowKey::of_headers(protocol, zerocopy::transmute!(addresses), zerocopy::transmute!(ports))
    }

    /// The key of packets with these headers.
    #[inline(always)]
    pub(crate) fn of_headers(protocol: u8, addresses: Addresses, ports: Ports) -> FlowKey {
        FlowKey::of_words(protocol, u64::from_le_bytes(addresses), u32::from_le_bytes(ports))
    }

    /// The key of these [addresses](FlowKey::address_word) and [ports](FlowKey::port_word).
    #[inline(always)]
    pub(crate) fn of_words(protocol: u8, addresses: u64, ports: u32) -> FlowKey {
        let ports_and_protocol = u64::from(ports) | u64::from(protocol) << PROTOCOL;
        FlowKey { addresses, ports_and_protocol }
    }

    /// Both addresses, as a record stores them.
    #[inline(always)]
    pub(crate) fn address_word(&self) -> u64 {
        self.addresses
    }

    /// Both ports, as a record stores them.
    #[inline(always)]
    pub(crate) fn port_word(&self) -> u32 {
        self.ports_and_protocol as u32
    }

    /// Both addresses, as a header has them.
    #[inline(always)]
    pub(crate) fn addresses(&self) -> Addresses {
        self.addresses.to_le_bytes()
    }

    /// Both ports, as a header has them.
    #[inline(always)]
    pub(crate) fn ports(&self) -> Ports {
        self.port_word().to_le_bytes()
    }

    /// All 13 bytes in one word, for hashing.
    #[inline]
    pub(crate) fn to_bits(self) -> u128 {
        u128::from(self.addresses) | u128::from(self.ports_and_protocol) << u64::BITS
    }

    /// IANA number of the transport protocol.
    #[inline]
    #[must_use]
    pub fn protocol(&self) -> u8 {
        (self.ports_and_protocol >> PROTOCOL) as u8
    }

    /// Where the packet comes from.
    #[inline]
    #[must_use]
    pub fn src(&self) -> SocketAddrV4 {
        let [src, _]: [[u8; 4]; 2] = zerocopy::transmute!(self.addresses());
        let [port, _]: [[u8; 2]; 2] = zerocopy::transmute!(self.ports());
        SocketAddrV4::new(Ipv4Addr::from_octets(src), u16::from_be_bytes(port))
    }

    /// Where the packet goes.
    #[inline]
    #[must_use]
    pub fn dst(&self) -> SocketAddrV4 {
        self.reverse().src()
    }

    /// The key of the packets that go the other way between the same endpoints.
    #[inline(always)]
    #[must_use]
    pub fn reverse(&self) -> FlowKey {
        let ports = self.port_word().rotate_left(PORT);
        FlowKey::of_words(self.protocol(), self.addresses.rotate_left(ADDRESS), ports)
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
        let (protocol, ports, kind) = match &packet.transport {
            PlainTransport::Tcp(tcp) => {
                let kind = SegmentKind::Tcp {
                    flags: tcp.flags(),
                    sequence: tcp.sequence(),
                    acknowledgment: tcp.acknowledgment(),
                };
                (protocol::TCP, tcp.ports(), kind)
            }
            PlainTransport::Udp(udp) => (protocol::UDP, udp.ports(), SegmentKind::Udp),
        };
        Segment { key: FlowKey::of_headers(protocol, packet.header.addresses(), ports), kind }
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
