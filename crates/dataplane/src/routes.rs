use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use shunt_nat::Side;

/// Where to send a packet next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NextHop {
    /// Out of which port.
    pub(crate) side: Side,
    /// To which neighbour: the destination itself, or a gateway.
    pub(crate) address: Ipv4Addr,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    network: Ipv4Net,
    side: Side,
    /// `None` when the network is connected.
    gateway: Option<Ipv4Addr>,
}

/// The routing table. A director has a handful of routes, so the longest match is the first in a
/// list that is ordered by length.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Routes(Vec<Entry>);

impl Routes {
    /// Adds the network of a port's address.
    pub(crate) fn add_connected(&mut self, network: Ipv4Net, side: Side) {
        self.add(Entry { network: network.trunc(), side, gateway: None });
    }

    /// Adds a route through a gateway, which must be a neighbour already known by
    /// [`Routes::add_connected`]. Returns whether it is.
    pub(crate) fn add_static(&mut self, network: Ipv4Net, gateway: Ipv4Addr) -> bool {
        let Some(NextHop { side, address }) = self.lookup(gateway) else { return false };
        self.add(Entry { network: network.trunc(), side, gateway: Some(gateway) });
        address == gateway
    }

    /// The next hop towards `destination` (longest prefix match).
    pub(crate) fn lookup(&self, destination: Ipv4Addr) -> Option<NextHop> {
        let entry = self.0.iter().find(|entry| entry.network.contains(&destination))?;
        Some(NextHop { side: entry.side, address: entry.gateway.unwrap_or(destination) })
    }

    /// Whether `address` names a whole connected network: its first or its last address (RFC 919;
    /// networks of one or two addresses have none, RFC 3021).
    pub(crate) fn is_directed_broadcast(&self, address: Ipv4Addr) -> bool {
        self.0.iter().filter(|entry| entry.gateway.is_none()).any(|Entry { network, .. }| {
            network.prefix_len() < 31
                && (network.network() == address || network.broadcast() == address)
        })
    }

    fn add(&mut self, entry: Entry) {
        let shorter = |other: &Entry| other.network.prefix_len() < entry.network.prefix_len();
        let at = self.0.iter().position(shorter).unwrap_or(self.0.len());
        self.0.insert(at, entry);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> Ipv4Addr {
        text.parse().unwrap()
    }

    fn routes() -> Routes {
        let mut routes = Routes::default();
        routes.add_connected("192.0.2.100/24".parse().unwrap(), Side::Outside);
        routes.add_connected("10.0.0.1/8".parse().unwrap(), Side::Inside);
        assert!(routes.add_static("0.0.0.0/0".parse().unwrap(), address("192.0.2.1")));
        assert!(routes.add_static("10.9.0.0/16".parse().unwrap(), address("192.0.2.2")));
        routes
    }

    #[test]
    fn the_longest_prefix_wins() {
        let hop = |to| routes().lookup(address(to)).map(|hop| (hop.side, hop.address));
        assert_eq!(hop("192.0.2.7"), Some((Side::Outside, address("192.0.2.7"))));
        assert_eq!(hop("10.1.2.3"), Some((Side::Inside, address("10.1.2.3"))));
        assert_eq!(hop("10.9.2.3"), Some((Side::Outside, address("192.0.2.2"))));
        assert_eq!(hop("198.51.100.1"), Some((Side::Outside, address("192.0.2.1"))));
        assert_eq!(Routes::default().lookup(address("10.1.2.3")), None);
    }

    #[test]
    fn a_gateway_must_be_a_neighbour() {
        let mut routes = Routes::default();
        assert!(!routes.add_static("0.0.0.0/0".parse().unwrap(), address("192.0.2.1")));
    }

    #[test]
    fn a_network_is_no_host() {
        for (to, expected) in [("192.0.2.255", true), ("10.0.0.0", true), ("10.0.0.255", false)] {
            assert_eq!(routes().is_directed_broadcast(address(to)), expected, "{to}");
        }
    }
}
