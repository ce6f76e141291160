use std::net::{IpAddr, Ipv4Addr};

use hashbrown::HashSet;
use ipnet::{IpNet, Ipv4Net};
use shunt_config::Config;
use shunt_nat::{Side, Topology};
use shunt_packet::ipv4;

use crate::routes::{NextHop, Routes};

/// Both sides, in the order in which their ports are polled.
pub(crate) const SIDES: [Side; 2] = Side::BOTH;

/// What is around the director: its own addresses, and the way to all others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Surroundings {
    /// Addresses of the ports, by side.
    ports: [Vec<Ipv4Net>; 2],
    /// By side, addresses of ours that no port has: VIPs and those of SNAT outside, full-NAT's
    /// local addresses inside.
    virtual_addresses: [Vec<Ipv4Addr>; 2],
    local: HashSet<Ipv4Addr>,
    routes: Routes,
    /// By side, the next hops towards all servers and gateways.
    wanted: [Vec<Ipv4Addr>; 2],
}

impl Surroundings {
    /// What a service file says of them.
    pub(crate) fn new(config: &Config) -> Surroundings {
        let ports = SIDES.map(|side| config.ports.get(side).addresses.clone());
        let virtual_addresses = [config.virtual_addresses(), config.local_addresses()]
            .map(|addresses| addresses.into_iter().filter_map(ipv4).collect());
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
        let own = ports.iter().flatten().map(Ipv4Net::addr);
        let local = own.chain(virtual_addresses.iter().flatten().copied()).collect();
        let wanted = Default::default();
        let mut surroundings = Surroundings { ports, virtual_addresses, local, routes, wanted };
        surroundings.want_neighbours(config);
        surroundings
    }

    fn want_neighbours(&mut self, config: &Config) {
        let servers = config.rules.services.iter().flat_map(|service| service.all_servers());
        let servers = servers.map(|server| server.address);
        let gateways = config.routes.iter().map(|route| route.via);
        for address in servers.chain(gateways).filter_map(ipv4) {
            if let Some(hop) = self.next_hop(address).filter(|_| !self.is_local(address)) {
                self.wanted[hop.side as usize].push(hop.address);
            }
        }
    }

    /// The neighbours on one side that are to be resolved ahead of time.
    pub(crate) fn wanted_neighbours(&self, side: Side) -> &[Ipv4Addr] {
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

    /// The addresses that one side's port answers ARP for.
    pub(crate) fn answered(&self, side: Side) -> impl Iterator<Item = Ipv4Addr> {
        let virtual_addresses = self.virtual_addresses[side as usize].iter().copied();
        self.ports[side as usize].iter().map(Ipv4Net::addr).chain(virtual_addresses)
    }

    /// Whether one side's port answers ARP for an address.
    pub(crate) fn answers(&self, side: Side, address: Ipv4Addr) -> bool {
        self.answered(side).any(|own| own == address)
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

/// Rules and routes are checked to be of IPv4.
fn ipv4(address: IpAddr) -> Option<Ipv4Addr> {
    match address {
        IpAddr::V4(address) => Some(address),
        IpAddr::V6(_) => None,
    }
}

impl Topology for Surroundings {
    fn is_local(&self, address: Ipv4Addr) -> bool {
        self.local.contains(&address)
    }

    fn side_of(&self, address: Ipv4Addr) -> Option<Side> {
        self.routes.lookup(address).map(|hop| hop.side)
    }
}
