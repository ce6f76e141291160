//! What the director is connected to, and by which side a packet would leave.

use std::net::{IpAddr, Ipv4Addr};

use hashbrown::{HashMap, HashSet};
use ipnet::IpNet;

use crate::{Side, problem::Reason};

/// The networks around the director: what rules are checked against.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Network {
    /// The director's own addresses, each with the prefix of the network that it is connected to there.
    pub addresses: Vec<(Side, IpNet)>,
    /// Routes to other networks.
    pub routes: Vec<Route>,
}

/// A static route.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Route {
    /// The network reached, without host bits.
    pub destination: IpNet,
    /// The gateway: a neighbour on one side.
    pub via: IpAddr,
}

impl Network {
    /// The networks that a side is connected to.
    pub fn connected_to(&self, side: Side) -> impl Iterator<Item = IpNet> {
        self.addresses.iter().filter(move |(of, _)| *of == side).map(|(_, net)| net.trunc())
    }

    /// The connected network in which an address lies, and its side.
    #[must_use]
    pub fn connected(&self, address: IpAddr) -> Option<(Side, IpNet)> {
        let within = |(_, net): &&(Side, IpNet)| net.contains(&address);
        self.addresses.iter().find(within).map(|(side, net)| (*side, net.trunc()))
    }

    /// The side on which this is an address of the director's own.
    #[must_use]
    pub fn owner(&self, address: IpAddr) -> Option<Side> {
        self.addresses.iter().find(|(_, net)| net.addr() == address).map(|(side, _)| *side)
    }

    /// Refuses an address that no host can have here.
    ///
    /// # Errors
    /// [`Reason::NotAHost`].
    pub fn check_host(&self, address: IpAddr) -> Result<(), Reason> {
        check_host(address)?;
        self.addresses.iter().try_for_each(|(_, net)| check_edge(*net, address))
    }
}

/// Refuses an address that no host can have anywhere.
///
/// # Errors
/// [`Reason::NotAHost`].
pub fn check_host(address: IpAddr) -> Result<(), Reason> {
    match never_a_host(address) {
        Some(why) => Err(Reason::NotAHost { address, why: why.to_owned(), net: None }),
        None => Ok(()),
    }
}

/// Refuses an address that no host of a network can have: its first and its last, of which /31 and /32
/// have neither (RFC 3021).
///
/// # Errors
/// [`Reason::NotAHost`].
pub fn check_edge(net: IpNet, address: IpAddr) -> Result<(), Reason> {
    // IPv6 has no broadcast; its first address is that of any router (RFC 4291, section 2.6.1).
    let IpNet::V4(v4) = net else { return Ok(()) };
    let of = match address {
        _ if v4.prefix_len() > 30 => return Ok(()),
        _ if address == v4.network() => "network",
        _ if address == v4.broadcast() => "broadcast",
        _ => return Ok(()),
    };
    let net = net.trunc();
    Err(Reason::NotAHost { address, why: format!("the {of} address of {net}"), net: Some(net) })
}

/// Why no host can have an address, if so.
fn never_a_host(address: IpAddr) -> Option<&'static str> {
    match address {
        _ if address.is_unspecified() => Some("the unspecified address"),
        _ if address.is_loopback() => Some("a loopback address"),
        _ if address.is_multicast() => Some("a multicast address"),
        IpAddr::V4(Ipv4Addr::BROADCAST) => Some("the broadcast address"),
        IpAddr::V4(v4) => match v4.octets()[0] {
            0 => Some("in 0.0.0.0/8, where no host is (RFC 1122, section 3.2.1.3)"),
            240.. => Some("in the reserved 240.0.0.0/4"),
            _ => None,
        },
        IpAddr::V6(_) => None,
    }
}

/// A [`Network`] prepared for being asked about many addresses.
pub(crate) struct NetworkIndex<'a> {
    pub(crate) network: &'a Network,
    own: HashMap<IpAddr, Side>,
    gateways: HashSet<IpAddr>,
    /// Networks that have addresses which no host can have.
    edges: HashMap<IpAddr, IpNet>,
    connected: Prefixes,
    reached: Prefixes,
}

impl<'a> NetworkIndex<'a> {
    pub(crate) fn new(network: &'a Network) -> NetworkIndex<'a> {
        let addresses = &network.addresses;
        let (mut connected, mut edges) = (Prefixes::default(), HashMap::new());
        for (side, net) in addresses {
            connected.insert(net.trunc(), *side);
            for edge in [net.network(), net.broadcast()] {
                if check_edge(*net, edge).is_err() {
                    edges.entry(edge).or_insert(*net);
                }
            }
        }
        let mut reached = connected.clone();
        for route in &network.routes {
            if let Some((side, _)) = connected.lookup(route.via) {
                reached.insert(route.destination, side);
            }
        }
        NetworkIndex {
            network,
            own: addresses.iter().map(|(side, net)| (net.addr(), *side)).collect(),
            gateways: network.routes.iter().map(|route| route.via).collect(),
            edges,
            connected,
            reached,
        }
    }

    pub(crate) fn owner(&self, address: IpAddr) -> Option<Side> {
        self.own.get(&address).copied()
    }

    /// Refuses an address that no host can have here.
    pub(crate) fn check_host(&self, address: IpAddr) -> Result<(), Reason> {
        check_host(address)?;
        self.edges.get(&address).map_or(Ok(()), |net| check_edge(*net, address))
    }

    /// Refuses an address that the director cannot take as one of its own.
    fn check_free(&self, address: IpAddr) -> Result<(), Reason> {
        self.check_host(address)?;
        if self.gateways.contains(&address) { Err(Reason::IsGateway(address)) } else { Ok(()) }
    }

    /// Refuses an address that the director cannot take as one of its own for the outside to see: a
    /// VIP, or the source of SNAT.
    pub(crate) fn check_virtual(&self, address: IpAddr) -> Result<(), Reason> {
        self.check_free(address)?;
        match self.connected.lookup(address) {
            Some((Side::Inside, net)) if self.owner(address).is_none() => {
                Err(Reason::VirtualIsInside { address, net })
            }
            _ => Ok(()),
        }
    }

    /// Refuses an address that the director cannot take as one of its own for the servers to see: the
    /// source of full-NAT.
    pub(crate) fn check_local(&self, address: IpAddr) -> Result<(), Reason> {
        self.check_free(address)?;
        let outside = match self.connected.lookup(address) {
            Some((Side::Inside, _)) => return Ok(()),
            Some((Side::Outside, net)) => Some(net),
            None => None,
        };
        Err(Reason::LocalNotInside { address, outside, inside: self.inside() })
    }

    /// Refuses a server that packets don't reach through the inside.
    pub(crate) fn check_reach(&self, address: IpAddr) -> Result<(), Reason> {
        match self.reached.lookup(address) {
            Some((Side::Inside, _)) => Ok(()),
            Some((Side::Outside, net)) => {
                Err(Reason::ServerOutside { address, net, inside: self.inside() })
            }
            None => Err(Reason::ServerUnreachable { address, inside: self.inside() }),
        }
    }

    /// A network inside, for examples.
    pub(crate) fn inside(&self) -> Option<IpNet> {
        self.network.connected_to(Side::Inside).next()
    }
}

/// Networks and their sides, found by longest prefix.
#[derive(Clone, Default)]
struct Prefixes {
    sides: HashMap<IpNet, Side>,
    /// The lengths that there are, the longest first.
    lengths: Vec<u8>,
}

impl Prefixes {
    fn insert(&mut self, net: IpNet, side: Side) {
        self.sides.entry(net).or_insert(side);
        if let Err(index) = self.lengths.binary_search_by(|len| net.prefix_len().cmp(len)) {
            self.lengths.insert(index, net.prefix_len());
        }
    }

    fn lookup(&self, address: IpAddr) -> Option<(Side, IpNet)> {
        self.lengths.iter().find_map(|&length| {
            let net = IpNet::new(address, length).ok()?.trunc();
            self.sides.get(&net).map(|side| (*side, net))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network() -> Network {
        let net = |text: &str| text.parse::<IpNet>().unwrap();
        let route = |to: &str, via: &str| Route { destination: net(to), via: via.parse().unwrap() };
        Network {
            addresses: vec![
                (Side::Outside, net("192.0.2.1/24")),
                (Side::Inside, net("10.0.0.1/24")),
                (Side::Inside, net("10.1.0.0/31")),
            ],
            routes: vec![route("0.0.0.0/0", "192.0.2.254"), route("10.9.0.0/16", "10.0.0.254")],
        }
    }

    fn refusal(check: fn(&NetworkIndex<'_>, IpAddr) -> Result<(), Reason>, text: &str) -> String {
        let network = network();
        let checked = check(&NetworkIndex::new(&network), text.parse().unwrap());
        checked.err().map(|reason| reason.to_string()).unwrap_or_default()
    }

    #[test]
    fn servers_are_reached_by_the_longest_prefix() {
        let check = |text| refusal(|network, address| network.check_reach(address), text);
        assert_eq!(check("10.0.0.9"), "");
        assert_eq!(check("10.9.1.1"), "");
        assert!(check("10.8.1.1").contains("through the outside port (the default route)"));
        assert!(check("192.0.2.9").contains("through the outside port (192.0.2.0/24)"));
    }

    #[test]
    fn edges_are_no_hosts_except_in_point_to_point_networks() {
        let check = |text| refusal(|network, address| network.check_host(address), text);
        assert!(check("10.0.0.0").contains("the network address"));
        assert!(check("10.0.0.255").contains("the broadcast address of 10.0.0.0/24"));
        for host in ["10.1.0.0", "10.1.0.1", "10.9.0.255"] {
            assert_eq!(check(host), "");
            assert_eq!(network().check_host(host.parse().unwrap()), Ok(()));
        }
        let reason = network().check_host("10.0.0.255".parse().unwrap()).unwrap_err();
        assert_eq!(reason.help(), "hosts of 10.0.0.0/24 have 10.0.0.1 to 10.0.0.254");
    }

    #[test]
    fn virtual_addresses_are_outside_or_own() {
        let check = |text| refusal(|network, address| network.check_virtual(address), text);
        for text in ["192.0.2.1", "192.0.2.77", "198.51.100.1", "10.0.0.1"] {
            assert_eq!(check(text), "", "{text}");
        }
        assert!(check("10.0.0.77").contains("inside network 10.0.0.0/24"));
        assert!(check("192.0.2.254").contains("gateway"));
    }

    #[test]
    fn local_addresses_are_inside() {
        let check = |text| refusal(|network, address| network.check_local(address), text);
        for text in ["10.0.0.1", "10.0.0.77", "10.1.0.1"] {
            assert_eq!(check(text), "", "{text}");
        }
        assert!(check("192.0.2.1").contains("outside network 192.0.2.0/24"));
        assert!(check("10.9.0.1").contains("in no network"));
        assert!(check("10.0.0.254").contains("gateway"));
        assert!(check("10.0.0.255").contains("broadcast"));
    }

    #[test]
    fn what_no_host_can_have() {
        for text in
            ["0.0.0.0", "0.1.2.3", "127.0.0.1", "224.0.0.1", "239.1.1.1", "240.0.0.1", "::", "::1"]
        {
            assert!(check_host(text.parse().unwrap()).is_err(), "{text}");
        }
        let broadcast = check_host(Ipv4Addr::BROADCAST.into()).unwrap_err().to_string();
        assert_eq!(broadcast, "255.255.255.255 is the broadcast address");
        assert_eq!(check_host(Ipv4Addr::new(192, 0, 2, 1).into()), Ok(()));
    }
}
