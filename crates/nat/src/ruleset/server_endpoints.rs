use std::{
    net::{Ipv4Addr, SocketAddrV4},
    ops::RangeInclusive,
};

use hashbrown::HashMap;
use shunt_rules::ServiceId;

type PortRange = (RangeInclusive<u16>, ServiceId);

/// Which service's servers send from which endpoints.
#[derive(Debug, Default)]
pub(super) struct ServerEndpoints {
    exact: HashMap<(u8, SocketAddrV4), ServiceId>,
    /// Of servers that are dialled on the vport, in services of many ports, by address.
    ranges: HashMap<(u8, Ipv4Addr), Vec<PortRange>>,
}

impl ServerEndpoints {
    /// Adds a server of a service whose clients dial these ports. Where several services share an
    /// endpoint, the first one counts.
    pub(super) fn add(
        &mut self,
        service: ServiceId,
        protocol: u8,
        server: SocketAddrV4,
        vports: &RangeInclusive<u16>,
    ) {
        let (first, last) = (*vports.start(), *vports.end());
        let port = match server.port() {
            0 if first != last => {
                let ranges = self.ranges.entry((protocol, *server.ip())).or_default();
                return ranges.push((vports.clone(), service));
            }
            0 => first,
            port => port,
        };
        let endpoint = SocketAddrV4::new(*server.ip(), port);
        self.exact.entry((protocol, endpoint)).or_insert(service);
    }

    pub(super) fn service(&self, protocol: u8, endpoint: SocketAddrV4) -> Option<ServiceId> {
        self.exact.get(&(protocol, endpoint)).copied().or_else(|| {
            let ranges = self.ranges.get(&(protocol, *endpoint.ip()))?;
            let (_, service) = ranges.iter().find(|(ports, _)| ports.contains(&endpoint.port()))?;
            Some(*service)
        })
    }
}
