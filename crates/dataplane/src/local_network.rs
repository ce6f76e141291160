use std::{
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
};

use hashbrown::HashSet;
use ipnet::{IpNet, Ipv4Net};
use shunt_config::Config;
use shunt_nat::{Side, Topology};
use shunt_packet::ipv4;
use shunt_rules::{SourceRoutes, VirtualService};
use tracing::warn;

use crate::{
    neighbours::MAX_PINNED,
    routes::{NextHop, Routes},
};

/// Both sides, in the order in which their ports are polled.
pub(crate) const SIDES: [Side; 2] = Side::BOTH;

/// The director's place in the network: its own addresses, and the way to all others. All workers
/// share one.
#[derive(Debug)]
pub(crate) struct LocalNetwork {
    /// Addresses of the ports, by side.
    ports: [Vec<Ipv4Net>; 2],
    /// By side, the addresses that its port answers ARP for: its own, VIPs and those of SNAT outside,
    /// full-NAT's local addresses inside.
    answered: [AddressList; 2],
    routes: Routes,
    /// By side, the next hops towards all gateways and servers.
    wanted: [WantedNeighbours; 2],
    source_routes: SourceRoutes,
}

/// The neighbours on one side that are to be resolved ahead of time.
pub(crate) type WantedNeighbours = AddressList;

/// Addresses, each once, in an order.
#[derive(Clone, Debug, Default)]
pub(crate) struct AddressList {
    list: Vec<Ipv4Addr>,
    set: HashSet<Ipv4Addr>,
}

impl AddressList {
    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.list.len()
    }

    /// One of them, by its place.
    pub(crate) fn nth(&self, place: usize) -> Option<Ipv4Addr> {
        self.list.get(place).copied()
    }

    /// Whether this one is among them.
    #[inline]
    pub(crate) fn contains(&self, address: Ipv4Addr) -> bool {
        self.set.contains(&address)
    }

    fn push(&mut self, address: Ipv4Addr) {
        if self.set.insert(address) {
            self.list.push(address);
        }
    }
}

impl FromIterator<Ipv4Addr> for AddressList {
    fn from_iter<T: IntoIterator<Item = Ipv4Addr>>(addresses: T) -> AddressList {
        let mut list = AddressList::default();
        addresses.into_iter().for_each(|address| list.push(address));
        list
    }
}

impl LocalNetwork {
    /// What a service file says of it.
    pub(crate) fn new(config: &Config) -> LocalNetwork {
        let ports = SIDES.map(|side| config.ports.get(side).addresses.clone());
        let own = |side: Side| ports[side as usize].iter().map(Ipv4Net::addr);
        // A VIP may be an address of either port.
        let is_port_s =
            |address: &Ipv4Addr| SIDES.iter().any(|side| own(*side).any(|o| o == *address));
        let rules = &config.rules;
        let endpoints = rules.services.iter().flat_map(|service| &service.endpoints);
        let vips = endpoints.filter_map(|endpoint| v4(endpoint.address));
        let sources = rules.snat.iter().flat_map(|rule| &rule.to).filter_map(|to| v4(*to));
        let local = rules.local_addresses.iter().filter_map(|local| v4(local.address));
        let foreign = |address: &Ipv4Addr| !is_port_s(address);
        let answered = [
            own(Side::Outside).chain(vips.chain(sources).filter(foreign)).collect(),
            own(Side::Inside).chain(local.filter(foreign)).collect(),
        ];
        let mut routes = Routes::default();
        for side in SIDES {
            for network in &ports[side as usize] {
                routes.add_connected(*network, side);
            }
        }
        for route in &config.routes {
            // The configuration was validated: each gateway is a neighbour.
            if let (IpNet::V4(destination), IpAddr::V4(via)) = (route.destination, route.via) {
                routes.add_static(destination, via);
            }
        }
        let wanted = Default::default();
        let source_routes = rules.defaults.source_routes;
        let mut network = LocalNetwork { ports, answered, routes, wanted, source_routes };
        // Gateways first: most depends on them.
        let gateways = config.routes.iter().filter_map(|route| v4(route.via));
        let servers = rules.services.iter().flat_map(|service| service.all_servers());
        let servers = servers.filter_map(|server| v4(server.address));
        for address in gateways.chain(servers) {
            if let Some(hop) = network.next_hop(address).filter(|_| !network.is_local(address)) {
                network.wanted[hop.side as usize].push(hop.address);
            }
        }
        for (side, wanted) in SIDES.into_iter().zip(&network.wanted) {
            if wanted.len() > MAX_PINNED {
                warn!(
                    "{} servers and gateways are neighbours {side:?}: those beyond {MAX_PINNED} are \
                     asked for by ARP when packets go there, not ahead of time",
                    wanted.len()
                );
            }
        }
        network
    }

    /// Whether two configurations come to the same network: where they differ in nothing but in how servers
    /// are chosen, there is nothing to be found out again.
    pub(crate) fn is_same(old: &Config, new: &Config) -> bool {
        let has_same_addresses = |old: &VirtualService, new: &VirtualService| {
            old.endpoints == new.endpoints && server_addresses(old).eq(server_addresses(new))
        };
        let (before, after) = (&old.rules, &new.rules);
        let mut services = before.services.iter().zip(&after.services);
        let has_same_ports = SIDES
            .iter()
            .all(|side| old.ports.get(*side).addresses == new.ports.get(*side).addresses);
        has_same_ports
            && old.routes == new.routes
            && before.defaults.source_routes == after.defaults.source_routes
            && before.snat == after.snat
            && before.local_addresses == after.local_addresses
            && before.services.len() == after.services.len()
            && services.all(|(old, new)| Arc::ptr_eq(old, new) || has_same_addresses(old, new))
    }

    /// Whether packets take the same ways as in another one: what connections remember of these
    /// still holds.
    pub(crate) fn has_ways_of(&self, other: &LocalNetwork) -> bool {
        self.ports == other.ports && self.routes == other.routes
    }

    /// The neighbours on one side that are to be resolved ahead of time.
    pub(crate) fn wanted_neighbours(&self, side: Side) -> &WantedNeighbours {
        &self.wanted[side as usize]
    }

    /// The next hop towards an address.
    pub(crate) fn next_hop(&self, destination: Ipv4Addr) -> Option<NextHop> {
        self.routes.lookup(destination)
    }

    /// Whether an address stands for more than one host.
    pub(crate) fn is_group(&self, address: Ipv4Addr) -> bool {
        address.is_multicast()
            || address.is_broadcast()
            || (!self.is_local(address) && self.routes.is_directed_broadcast(address))
    }

    /// Whether a packet that arrives on this side may be from an address: one that another host can
    /// have, and, outside, none of those that lie inside (ingress filtering, RFC 2827): whoever
    /// sends as a real server could break into its connections.
    pub(crate) fn may_come_from(&self, side: Side, address: Ipv4Addr) -> bool {
        if !ipv4::is_valid_source(address) {
            return false;
        }
        let is_other_host = !self.is_local(address) && !self.routes.is_directed_broadcast(address);
        let is_spoofed = side == Side::Outside && self.side_of(address) == Some(Side::Inside);
        is_other_host && !is_spoofed
    }

    /// Whether packets may come whose sender chose their way.
    pub(crate) fn allows_source_routes(&self) -> bool {
        self.source_routes == SourceRoutes::Forward
    }

    /// The addresses that one side's port answers ARP for, its own first.
    pub(crate) fn answered(&self, side: Side) -> impl Iterator<Item = Ipv4Addr> {
        self.answered[side as usize].list.iter().copied()
    }

    /// Whether one side's port answers ARP for an address.
    pub(crate) fn answers(&self, side: Side, address: Ipv4Addr) -> bool {
        self.answered[side as usize].contains(address)
    }

    /// Whether an address can be a neighbour's on this side: it lies in a network of the port.
    pub(crate) fn is_neighbour(&self, side: Side, address: Ipv4Addr) -> bool {
        self.ports[side as usize].iter().any(|network| network.contains(&address))
    }

    /// Our address for talking to `peer` on this side: the one in its network, else the first.
    pub(crate) fn source(&self, side: Side, peer: Ipv4Addr) -> Ipv4Addr {
        let addresses = &self.ports[side as usize];
        let own = addresses.iter().find(|network| network.contains(&peer)).or(addresses.first());
        own.map_or(Ipv4Addr::UNSPECIFIED, Ipv4Net::addr)
    }
}

/// The addresses of a service's servers, its fallback included.
fn server_addresses(service: &VirtualService) -> impl Iterator<Item = IpAddr> {
    service.all_servers().map(|server| server.address)
}

/// Addresses of IPv4; a service file has no others.
fn v4(address: IpAddr) -> Option<Ipv4Addr> {
    match address {
        IpAddr::V4(address) => Some(address),
        IpAddr::V6(_) => None,
    }
}

impl Topology for LocalNetwork {
    fn is_local(&self, address: Ipv4Addr) -> bool {
        self.answered.iter().any(|addresses| addresses.contains(address))
    }

    fn side_of(&self, address: Ipv4Addr) -> Option<Side> {
        self.routes.lookup(address).map(|hop| hop.side)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A network with a route to 10.9.0.0/16 by this gateway and so many services of ten servers.
    fn network(outside: &str, gateway: &str, services: usize) -> LocalNetwork {
        let server = |n: usize| {
            let [.., b, c, d] = (n as u32 + 256).to_be_bytes();
            format!("{{ address = \"10.{b}.{c}.{d}:80\" }}")
        };
        let service = |n: usize| {
            let vip = Ipv4Addr::from_bits(0xc0a8_0200 + n as u32);
            let servers: Vec<_> = (10 * n..10 * n + 10).map(server).collect();
            let servers = servers.join(", ");
            format!("[[service]]\nvip = \"{vip}:80\"\nscheduler = \"rr\"\nserver = [{servers}]\n")
        };
        let services: String = (0..services).map(service).collect();
        let text = format!(
            r#"
            [[port]]
            name = "outside"
            role = "outside"
            device = "net_null0"
            addresses = ["{outside}/16"]

            [[port]]
            name = "inside"
            role = "inside"
            device = "net_null1"
            addresses = ["10.0.0.1/13"]

            [[route]]
            to = "10.9.0.0/16"
            via = "{gateway}"

            {services}
            "#
        );
        let config = Config::parse("network.toml", &text);
        LocalNetwork::new(&config.unwrap_or_else(|errors| panic!("{errors}")))
    }

    #[test]
    fn services_and_servers_change_no_way() {
        let before = network("192.168.0.1", "10.0.0.2", 1);
        assert!(network("192.168.0.1", "10.0.0.2", 2).has_ways_of(&before));
        assert!(!network("192.168.0.9", "10.0.0.2", 1).has_ways_of(&before));
        assert!(!network("192.168.0.1", "10.0.0.3", 1).has_ways_of(&before));
    }

    #[test]
    fn each_next_hop_is_wanted_once() {
        let network = network("192.168.0.1", "10.0.0.2", 3);
        let wanted = network.wanted_neighbours(Side::Inside);
        assert_eq!((wanted.len(), wanted.nth(30)), (31, Some(Ipv4Addr::new(10, 0, 1, 29))));
        assert_eq!(wanted.nth(0), Some(Ipv4Addr::new(10, 0, 0, 2)), "gateways first");
        assert_eq!(network.wanted_neighbours(Side::Outside).len(), 0);
        let vip = Ipv4Addr::new(192, 168, 2, 2);
        assert!(network.is_local(vip) && network.answers(Side::Outside, vip));
        assert!(!network.answers(Side::Inside, vip));
    }
}
