use std::{fmt, net::SocketAddrV4};

use shunt_packet::{
    Malformed,
    checksum::Sum,
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

/// One direction of a TCP or UDP flow: protocol, source and destination endpoint.
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

    /// What addresses and ports add to a transport checksum, pseudo-header included.
    pub(crate) fn transport_sum(&self) -> Sum {
        self.address_sum().word(self.tuple.src_port).word(self.tuple.dst_port)
    }
}

impl fmt::Debug for FlowKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self.protocol {
            protocol::TCP => "tcp",
            protocol::UDP => "udp",
            _ => "?",
        };
        write!(f, "{name} {} -> {}", self.src(), self.dst())
    }
}

/// What the engine needs of an unfragmented TCP or UDP packet.
#[derive(Clone, Copy)]
pub(crate) struct Segment {
    pub(crate) key: FlowKey,
    /// `None` in UDP.
    pub(crate) flags: Option<TcpFlags>,
}

impl Segment {
    /// Reads the transport header; `None` when the packet is neither TCP nor UDP.
    pub(crate) fn parse(packet: &mut Ipv4Packet<'_>) -> Result<Option<Segment>, Malformed> {
        let (src_port, dst_port, flags) = match packet.header.protocol() {
            protocol::TCP => {
                let tcp = TcpHeader::parse(packet.payload)?;
                (tcp.src_port(), tcp.dst_port(), Some(tcp.flags()))
            }
            protocol::UDP => {
                let udp = UdpHeader::parse(packet.payload)?;
                (udp.src_port(), udp.dst_port(), None)
            }
            _ => return Ok(None),
        };
        let header = &packet.header;
        let (src, dst) = (header.src().to_bits(), header.dst().to_bits());
        let tuple = Tuple { src, dst, src_port, dst_port };
        let key = FlowKey { tuple, protocol: header.protocol() };
        Ok(Some(Segment { key, flags }))
    }
}
