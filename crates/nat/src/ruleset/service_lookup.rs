use std::net::{Ipv4Addr, SocketAddrV4};

use hashbrown::HashMap;
use shunt_rules::{ServerId, ServiceId, VirtualEndpoint, VirtualService};

use super::address::v4;

/// Which service a packet dials, and for which one a datagram from a one-packet service's server
/// answers.
#[derive(Debug, Default)]
pub(super) struct ServiceLookup {
    exact: HashMap<ExactEndpoint, ServiceId>,
    /// Endpoints with many ports, by address, the narrowest first.
    ranges: HashMap<(u8, Ipv4Addr), Vec<(VirtualEndpoint, ServiceId)>>,
    /// By a server's endpoint.
    one_packet: HashMap<SocketAddrV4, OnePacketSource>,
}

/// An endpoint of one port and its protocol, in one word: it is looked up for every connection, and one
/// word is hashed and compared at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct ExactEndpoint(u64);

impl ExactEndpoint {
    #[inline]
    fn new(protocol: u8, endpoint: SocketAddrV4) -> ExactEndpoint {
        let address = u64::from(endpoint.ip().to_bits());
        ExactEndpoint(address << 24 | u64::from(endpoint.port()) << 8 | u64::from(protocol))
    }
}

/// What a datagram from a server of a one-packet service leaves as.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OnePacketSource {
    pub(crate) service: ServiceId,
    pub(crate) server: ServerId,
    /// The endpoint that clients know the service by.
    pub(crate) virtual_endpoint: SocketAddrV4,
}

impl ServiceLookup {
    /// Of two services with one endpoint, the one that is added later counts.
    pub(super) fn add(&mut self, id: ServiceId, service: &VirtualService) {
        for protocol in &service.protocols {
            for endpoint in &service.endpoints {
                self.add_endpoint(id, protocol.number(), endpoint);
            }
        }
    }

    fn add_endpoint(&mut self, id: ServiceId, protocol: u8, endpoint: &VirtualEndpoint) {
        let address = v4(endpoint.address);
        if let Some(port) = endpoint.port() {
            let endpoint = SocketAddrV4::new(address, port);
            self.exact.insert(ExactEndpoint::new(protocol, endpoint), id);
            return;
        }
        let ranges = self.ranges.entry((protocol, address)).or_default();
        ranges.retain(|(known, _)| known != endpoint);
        ranges.push((endpoint.clone(), id));
        ranges.sort_by_key(|(endpoint, _)| endpoint.ports.len());
    }

    /// Adds the servers of a one-packet service, by the endpoints from which they answer.
    pub(super) fn add_one_packet(
        &mut self,
        service: ServiceId,
        virtual_endpoint: SocketAddrV4,
        servers: impl Iterator<Item = (ServerId, SocketAddrV4)>,
    ) {
        let source = |server| OnePacketSource { service, server, virtual_endpoint };
        self.one_packet.extend(servers.map(|(server, real)| (real, source(server))));
    }

    /// The service that packets to this endpoint dial.
    pub(super) fn service(&self, protocol: u8, endpoint: SocketAddrV4) -> Option<ServiceId> {
        self.exact.get(&ExactEndpoint::new(protocol, endpoint)).copied().or_else(|| {
            let ranges = self.ranges.get(&(protocol, *endpoint.ip()))?;
            let hit = ranges.iter().find(|(range, _)| range.ports.contains(&endpoint.port()))?;
            Some(hit.1)
        })
    }

    /// What a datagram from this endpoint leaves as, if a one-packet service has such a server.
    pub(super) fn one_packet_source(&self, real: SocketAddrV4) -> Option<OnePacketSource> {
        self.one_packet.get(&real).copied()
    }
}
