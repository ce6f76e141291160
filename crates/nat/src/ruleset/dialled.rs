use std::net::{Ipv4Addr, SocketAddrV4};

use hashbrown::HashMap;

use super::v4;
use shunt_rules::{ServiceId, VirtualEndpoint};

/// Which service is dialled where.
#[derive(Debug, Default)]
pub(super) struct Dialled {
    exact: HashMap<(u8, SocketAddrV4), ServiceId>,
    /// Endpoints with many ports, by address, the narrowest first.
    ranges: HashMap<(u8, Ipv4Addr), Vec<(VirtualEndpoint, ServiceId)>>,
}

impl Dialled {
    /// Of two services with one endpoint, the later one counts.
    pub(super) fn add(&mut self, id: ServiceId, protocol: u8, endpoint: &VirtualEndpoint) {
        let (first, last) = (*endpoint.ports.start(), *endpoint.ports.end());
        if first == last {
            let endpoint = SocketAddrV4::new(v4(endpoint.address), first);
            self.exact.insert((protocol, endpoint), id);
            return;
        }
        let ranges = self.ranges.entry((protocol, v4(endpoint.address))).or_default();
        ranges.retain(|(known, _)| known != endpoint);
        ranges.push((endpoint.clone(), id));
        ranges.sort_by_key(|(endpoint, _)| endpoint.ports.len());
    }

    pub(super) fn service(&self, protocol: u8, endpoint: SocketAddrV4) -> Option<ServiceId> {
        self.exact.get(&(protocol, endpoint)).copied().or_else(|| {
            let ranges = self.ranges.get(&(protocol, *endpoint.ip()))?;
            let hit = ranges.iter().find(|(range, _)| range.ports.contains(&endpoint.port()))?;
            Some(hit.1)
        })
    }
}
