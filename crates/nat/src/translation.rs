use std::net::{Ipv4Addr, SocketAddrV4};

use shunt_packet::{
    checksum::Delta,
    ipv4::{Ipv4Packet, protocol},
    tcp::TcpHeader,
    udp::UdpHeader,
};

use crate::flow::FlowKey;

/// What becomes of a TCP or UDP packet: its new endpoints, and what they do to its checksums.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Translation {
    key: FlowKey,
    address_delta: Delta,
    transport_delta: Delta,
}

impl Translation {
    pub(crate) fn new(key: FlowKey, address_delta: Delta, transport_delta: Delta) -> Translation {
        Translation { key, address_delta, transport_delta }
    }

    /// Where the packet will go.
    #[must_use]
    pub fn destination(&self) -> Ipv4Addr {
        *self.key.dst().ip()
    }

    /// Rewrites the packet that this translation was made for: addresses, ports and both checksums,
    /// the latter by their precomputed deltas. Anything but TCP and UDP is left alone.
    pub fn apply(&self, packet: &mut Ipv4Packet<'_>) {
        let (src, dst): (SocketAddrV4, SocketAddrV4) = (self.key.src(), self.key.dst());
        match packet.header.protocol() {
            protocol::TCP => {
                let Ok(tcp) = TcpHeader::parse(packet.payload) else { return };
                tcp.rewrite(src.port(), dst.port(), self.transport_delta);
            }
            protocol::UDP => {
                let Ok(udp) = UdpHeader::parse(packet.payload) else { return };
                udp.rewrite(src.port(), dst.port(), self.transport_delta);
            }
            _ => return,
        }
        packet.header.rewrite(*src.ip(), *dst.ip(), self.address_delta);
    }
}
