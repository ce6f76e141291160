use std::net::Ipv4Addr;

use shunt_packet::{
    checksum::Delta,
    icmp::IcmpHeader,
    ipv4::{Ipv4Packet, protocol},
    tcp::{TcpHeader, clamp_mss},
    udp::UdpHeader,
};

use shunt_rules::{ServerId, ServiceId};

use crate::flow::{Direction, FlowKey};

/// What becomes of a TCP, UDP or echo packet: its new endpoints, and what they do to its checksums.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Translation {
    key: FlowKey,
    address_delta: Delta,
    transport_delta: Delta,
    /// What a SYN may announce as its maximum segment size at most.
    mss_limit: Option<u16>,
    /// The server for which these packets count, its service, and which way they go.
    counted: Option<(ServiceId, ServerId, Direction)>,
}

impl Translation {
    pub(crate) fn new(key: FlowKey, address_delta: Delta, transport_delta: Delta) -> Translation {
        Translation { key, address_delta, transport_delta, mss_limit: None, counted: None }
    }

    /// The translation of packets with key `from` into such with key `to`.
    pub(crate) fn between(from: &FlowKey, to: FlowKey) -> Translation {
        let address_delta = Delta::between(from.address_sum(), to.address_sum());
        let transport_delta = Delta::between(from.transport_sum(), to.transport_sum());
        Translation::new(to, address_delta, transport_delta)
    }

    /// The same, and a SYN's maximum segment size is clamped.
    pub(crate) fn with_mss_limit(self, limit: Option<u16>) -> Translation {
        Translation { mss_limit: limit, ..self }
    }

    /// The same, for packets that count for a server.
    pub(crate) fn counted_by(
        self,
        service: ServiceId,
        server: ServerId,
        direction: Direction,
    ) -> Translation {
        Translation { counted: Some((service, server, direction)), ..self }
    }

    /// The server for which these packets count, its service, and which way they go.
    pub(crate) fn counted(&self) -> Option<(ServiceId, ServerId, Direction)> {
        self.counted
    }

    /// Where the packet will go.
    #[must_use]
    pub fn destination(&self) -> Ipv4Addr {
        *self.key.dst().ip()
    }

    /// Rewrites the packet, or the fragment of it, that this translation was made for: addresses, ports and both checksums,
    /// the latter by their precomputed deltas. ICMP errors are left alone.
    pub fn apply(&self, packet: &mut Ipv4Packet<'_>) {
        if packet.header.is_later_fragment() || self.rewrite_transport(packet) {
            packet.header.rewrite(self.key.addresses(), self.address_delta);
        }
    }

    /// Rewrites the transport header, if there is one.
    fn rewrite_transport(&self, packet: &mut Ipv4Packet<'_>) -> bool {
        match packet.header.protocol() {
            protocol::TCP => {
                let Ok(tcp) = TcpHeader::parse(packet.payload) else { return false };
                tcp.rewrite(self.key.ports(), self.transport_delta);
                if let Some(limit) = self.mss_limit {
                    clamp_mss(packet.payload, limit);
                }
            }
            protocol::UDP => {
                let Ok(udp) = UdpHeader::parse_partial(packet.payload) else { return false };
                udp.rewrite(self.key.ports(), self.transport_delta);
            }
            protocol::ICMP => {
                let Ok((icmp, _)) = IcmpHeader::split(packet.payload) else { return false };
                if icmp.is_error() {
                    return false;
                }
                let asker = if icmp.is_query() { self.key.src() } else { self.key.dst() };
                icmp.rewrite(asker.port(), self.transport_delta);
            }
            _ => {}
        }
        true
    }
}
