//! Addresses of the rules, which may be of either family, as an engine runs them: it does IPv4.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddrV4},
    sync::Arc,
};

use hashbrown::HashMap;
use ipnet::{IpNet, Ipv4Net};
use shunt_rules::Rules;

/// An address of rules that were [checked](first_ipv6).
pub(super) fn v4(address: IpAddr) -> Ipv4Addr {
    match address {
        IpAddr::V4(address) => address,
        IpAddr::V6(address) => unreachable!("{address} was to be refused before"),
    }
}

/// A network of rules that were [checked](first_ipv6).
pub(super) fn v4_net(network: IpNet) -> Ipv4Net {
    match network {
        IpNet::V4(network) => network,
        IpNet::V6(network) => unreachable!("{network} was to be refused before"),
    }
}

/// The first address of the rules that an engine can't use.
pub(super) fn first_ipv6(rules: &Rules) -> Option<IpAddr> {
    let services = rules.services.iter().flat_map(|service| {
        let vips = service.endpoints.iter().map(|endpoint| endpoint.address);
        vips.chain(service.all_servers().map(|server| server.address))
    });
    let snat = rules.snat.iter().flat_map(|rule| rule.to.iter().copied().chain([rule.from.addr()]));
    let local = rules.local_addresses.iter().chain(&rules.hairpin).map(|local| local.address);
    services.chain(snat).chain(local).find(IpAddr::is_ipv6)
}

/// RIP:rport of a server for a client that dialled `vport`: a server whose rport is 0 is dialled on
/// that.
pub(super) fn resolve_rport(endpoint: SocketAddrV4, vport: u16) -> SocketAddrV4 {
    match endpoint.port() {
        0 => SocketAddrV4::new(*endpoint.ip(), vport),
        _ => endpoint,
    }
}

/// Addresses that several services may have, each with how many do. What was handed out stays as it
/// was when they change.
#[derive(Clone, Debug, Default)]
pub(super) struct AddressSet(Arc<HashMap<Ipv4Addr, u32>>);

impl AddressSet {
    pub(super) fn contains(&self, address: Ipv4Addr) -> bool {
        self.0.contains_key(&address)
    }

    /// A service that had the addresses `before` has those `after`.
    pub(super) fn replace(&mut self, before: &[Ipv4Addr], after: &[Ipv4Addr]) {
        if before == after {
            return;
        }
        let counts = Arc::make_mut(&mut self.0);
        for address in after {
            *counts.entry(*address).or_default() += 1;
        }
        for address in before {
            if let Some(count) = counts.get_mut(address) {
                *count -= 1;
                if *count == 0 {
                    counts.remove(address);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_stays_while_somebody_has_it() {
        let [one, two] = [1, 2].map(|last| Ipv4Addr::new(192, 0, 2, last));
        let mut set = AddressSet::default();
        set.replace(&[], &[one, two, one]);
        set.replace(&[], &[two]);
        let before = set.clone();
        set.replace(&[one, two, one], &[one]);
        assert!(set.contains(one) && set.contains(two));
        set.replace(&[two], &[]);
        assert!(set.contains(one) && !set.contains(two));
        assert!(before.contains(two), "who was handed it before has it still");
    }
}
