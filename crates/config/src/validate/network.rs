//! What the director is connected to, and which port a packet would leave by.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use super::ipv4::never_a_host;
use crate::{Side, fault::Fault};

/// Connected networks, own addresses and static routes.
pub(super) struct Network {
    addresses: Vec<(Ipv4Net, Side)>,
    routes: Vec<(Ipv4Net, Ipv4Addr, Side)>,
}

impl Network {
    /// A network of ports alone, each address with the role of its port.
    pub(super) fn new(addresses: Vec<(Ipv4Net, Side)>) -> Network {
        Network { addresses, routes: Vec::new() }
    }

    pub(super) fn add_route(&mut self, destination: Ipv4Net, via: Ipv4Addr, role: Side) {
        self.routes.push((destination, via, role));
    }

    /// The networks that the port with this role is connected to.
    pub(super) fn connected_to(&self, role: Side) -> impl Iterator<Item = Ipv4Net> {
        self.addresses.iter().filter(move |(_, of)| *of == role).map(|(net, _)| net.trunc())
    }

    /// The connected network in which `address` lies, and its port.
    pub(super) fn connected(&self, address: Ipv4Addr) -> Option<(Ipv4Net, Side)> {
        let within = |(net, _): &&(Ipv4Net, Side)| net.contains(&address);
        self.addresses.iter().find(within).map(|(net, role)| (net.trunc(), *role))
    }

    /// The port whose own address this is.
    pub(super) fn owner(&self, address: Ipv4Addr) -> Option<Side> {
        self.addresses.iter().find(|(net, _)| net.addr() == address).map(|&(_, role)| role)
    }

    /// Where packets to `address` leave: the longest prefix that covers it, and its port.
    pub(super) fn egress(&self, address: Ipv4Addr) -> Option<(Ipv4Net, Side)> {
        let connected = self.addresses.iter().map(|(net, role)| (net.trunc(), *role));
        let routed = self.routes.iter().map(|&(net, _, role)| (net, role));
        let covering = connected.chain(routed).filter(|(net, _)| net.contains(&address));
        covering.max_by_key(|(net, _)| net.prefix_len())
    }

    /// Refuses an `address`, written for `key`, that no host can have here.
    pub(super) fn check_host(&self, key: &str, address: Ipv4Addr) -> Result<(), Fault> {
        check_host(key, address)?;
        let nets = self.addresses.iter().map(|(net, _)| *net);
        match nets.filter_map(|net| Some((net, edge(net, address)?))).next() {
            Some((net, edge)) => Err(not_a_host(key, address, &edge).help(usable(net))),
            None => Ok(()),
        }
    }

    /// Refuses an `address`, written for `key`, that the director cannot take as one of its own for
    /// the outside to see: a VIP, or the source of SNAT.
    pub(super) fn check_virtual(&self, key: &str, address: Ipv4Addr) -> Result<(), Fault> {
        self.check_free(key, address)?;
        match self.connected(address) {
            Some((net, Side::Inside)) if self.owner(address).is_none() => {
                let message = format!(
                    "`{key}` is {address}, in the inside network {net}; the director answers for \
                     it on the outside port only"
                );
                Err(Fault::new(message).help(
                    "write an address of an outside network, or add this one to the inside \
                     port's `addresses`",
                ))
            }
            _ => Ok(()),
        }
    }

    /// Refuses an `address`, written for `key`, that the director cannot take as one of its own for
    /// the servers to see: the source of `full-nat`.
    pub(super) fn check_local(&self, key: &str, address: Ipv4Addr) -> Result<(), Fault> {
        self.check_free(key, address)?;
        let why = match self.connected(address) {
            Some((_, Side::Inside)) => return Ok(()),
            Some((net, Side::Outside)) => format!("in the outside network {net}"),
            None => "in no network that the inside port is connected to".to_owned(),
        };
        let help = match self.connected_to(Side::Inside).next() {
            Some(net) => format!("write a free address in {net}, or the inside port's own"),
            None => "write an address of the inside port".to_owned(),
        };
        Err(Fault::new(format!("`{key}` is {address}, {why}; servers reply to it")).help(help))
    }

    /// Refuses an `address`, written for `key`, that no host can have here or that a gateway has.
    fn check_free(&self, key: &str, address: Ipv4Addr) -> Result<(), Fault> {
        self.check_host(key, address)?;
        if self.routes.iter().any(|&(_, via, _)| via == address) {
            return Err(Fault::new(format!("`{key}` is {address}, the gateway of a route"))
                .help("write an address that no other host has"));
        }
        Ok(())
    }
}

/// Refuses an `address`, written for `key`, that no host can have anywhere.
pub(super) fn check_host(key: &str, address: Ipv4Addr) -> Result<(), Fault> {
    match never_a_host(address) {
        Some(why) => Err(not_a_host(key, address, why)
            .help("write the address of one host, as in `192.168.1.100`")),
        None => Ok(()),
    }
}

/// Refuses a port's own address, written with its network for `key`, that no host can have.
pub(super) fn check_own(key: &str, net: Ipv4Net) -> Result<(), Fault> {
    check_host(key, net.addr())?;
    match edge(net, net.addr()) {
        Some(edge) => Err(not_a_host(key, net.addr(), &edge).help(usable(net))),
        None => Ok(()),
    }
}

fn not_a_host(key: &str, address: Ipv4Addr, why: &str) -> Fault {
    Fault::new(format!("`{key}` is {address}, {why}"))
}

/// Whether `address` is the network's own or its broadcast address; /31 and /32 have neither (RFC
/// 3021).
fn edge(net: Ipv4Net, address: Ipv4Addr) -> Option<String> {
    let of = match address {
        _ if net.prefix_len() > 30 => return None,
        _ if address == net.network() => "network",
        _ if address == net.broadcast() => "broadcast",
        _ => return None,
    };
    Some(format!("the {of} address of {}", net.trunc()))
}

fn usable(net: Ipv4Net) -> String {
    let (network, broadcast) = (u32::from(net.network()), u32::from(net.broadcast()));
    let (first, last) = (Ipv4Addr::from(network + 1), Ipv4Addr::from(broadcast - 1));
    format!("hosts of {} have {first} to {last}", net.trunc())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network() -> Network {
        let net = |text: &str| text.parse::<Ipv4Net>().unwrap();
        let mut network = Network::new(vec![
            (net("192.0.2.1/24"), Side::Outside),
            (net("10.0.0.1/24"), Side::Inside),
            (net("10.1.0.0/31"), Side::Inside),
        ]);
        network.add_route(net("0.0.0.0/0"), Ipv4Addr::new(192, 0, 2, 254), Side::Outside);
        network.add_route(net("10.9.0.0/16"), Ipv4Addr::new(10, 0, 0, 254), Side::Inside);
        network
    }

    fn egress(text: &str) -> Option<Side> {
        network().egress(text.parse().unwrap()).map(|(_, role)| role)
    }

    #[test]
    fn the_longest_prefix_wins() {
        assert_eq!(egress("10.0.0.9"), Some(Side::Inside));
        assert_eq!(egress("10.9.1.1"), Some(Side::Inside));
        assert_eq!(egress("10.8.1.1"), Some(Side::Outside));
        assert_eq!(egress("192.0.2.9"), Some(Side::Outside));
    }

    #[test]
    fn edges_are_no_hosts_except_in_point_to_point_networks() {
        let check = |text: &str| network().check_host("x", text.parse().unwrap());
        assert!(check("10.0.0.0").unwrap_err().message.contains("the network address"));
        let fault = check("10.0.0.255").unwrap_err();
        assert!(fault.message.contains("the broadcast address of 10.0.0.0/24"));
        assert_eq!(fault.help.unwrap(), "hosts of 10.0.0.0/24 have 10.0.0.1 to 10.0.0.254");
        assert_eq!(check("10.1.0.0"), Ok(()));
        assert_eq!(check("10.1.0.1"), Ok(()));
        assert_eq!(check("10.9.0.255"), Ok(()));
    }

    #[test]
    fn virtual_addresses_are_outside_or_own() {
        let check = |text: &str| network().check_virtual("vip", text.parse().unwrap());
        for text in ["192.0.2.1", "192.0.2.77", "198.51.100.1", "10.0.0.1"] {
            assert_eq!(check(text), Ok(()), "{text}");
        }
        assert!(check("10.0.0.77").unwrap_err().message.contains("inside network 10.0.0.0/24"));
        assert!(check("192.0.2.254").unwrap_err().message.contains("gateway"));
    }

    #[test]
    fn local_addresses_are_inside() {
        let check = |text: &str| network().check_local("address", text.parse().unwrap());
        for text in ["10.0.0.1", "10.0.0.77", "10.1.0.1"] {
            assert_eq!(check(text), Ok(()), "{text}");
        }
        assert!(check("192.0.2.1").unwrap_err().message.contains("outside network 192.0.2.0/24"));
        assert!(check("10.9.0.1").unwrap_err().message.contains("in no network"));
        assert!(check("10.0.0.254").unwrap_err().message.contains("gateway"));
        assert!(check("10.0.0.255").unwrap_err().message.contains("broadcast"));
    }
}
