//! Source endpoints for translated connections.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{Ipv4Addr, SocketAddrV4},
};

use shunt_rules::{LocalAddress, SnatRule};

use crate::wire::v4;

/// A search that passed over fewer taken ports must not be called long.
const LONG_SEARCH: usize = 8;

/// A worker's addresses, and its ports on each.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pool {
    addresses: Vec<(Ipv4Addr, Vec<u16>)>,
    /// By host, the addresses one of which is the host's own, as far as can be seen: a host keeps to
    /// one address while that has free ports (RFC 4787, REQ-2).
    homes: BTreeMap<Ipv4Addr, Vec<Ipv4Addr>>,
    /// Connections for which it may be called a long search, and those that got nothing.
    pub(crate) scarce: u64,
    pub(crate) exhausted: u64,
}

impl Pool {
    /// All that a rule has: what comes for them says by its source whose it is.
    pub(crate) fn of_rule(rule: &SnatRule) -> Pool {
        let addresses = rule.to.iter().map(|to| (v4(*to), rule.ports.clone().collect())).collect();
        Pool { addresses, ..Pool::default() }
    }

    /// Those that `is_own`.
    pub(crate) fn of(local: &[LocalAddress], is_own: impl Fn(SocketAddrV4) -> bool) -> Pool {
        let addresses = local.iter().map(|local| {
            let address = v4(local.address);
            let is_own = |port: &u16| is_own(SocketAddrV4::new(address, *port));
            (address, local.ports.clone().filter(is_own).collect())
        });
        Pool { addresses: addresses.collect(), ..Pool::default() }
    }

    /// The pool that takes the place of another one.
    pub(crate) fn after(self, before: Pool) -> Pool {
        let homes = if self.addresses == before.addresses { before.homes } else { self.homes };
        Pool { homes, addresses: self.addresses, ..before }
    }

    /// Each one once.
    pub(crate) fn addresses(&self) -> BTreeSet<Ipv4Addr> {
        self.addresses.iter().map(|(address, _)| *address).collect()
    }

    pub(crate) fn endpoints(&self) -> impl Iterator<Item = SocketAddrV4> {
        self.addresses.iter().flat_map(|(address, ports)| {
            ports.iter().map(|port| SocketAddrV4::new(*address, *port))
        })
    }

    /// Gives one of the endpoints that are `free` to a host: on the host's own address if that has
    /// any, with the host's own port if it is among them. Which of the others is the engine's
    /// choice, `witnessed` if it is known.
    pub(crate) fn allocate(
        &mut self,
        host: SocketAddrV4,
        free: &[SocketAddrV4],
        witnessed: Option<SocketAddrV4>,
    ) -> Option<SocketAddrV4> {
        let is_acceptable = |endpoint: &SocketAddrV4| {
            let own = SocketAddrV4::new(*endpoint.ip(), host.port());
            (*endpoint == own || !free.contains(&own))
                && self.possible_homes(host, *endpoint.ip(), free).next().is_some()
        };
        let acceptable: Vec<_> = free.iter().copied().filter(is_acceptable).collect();
        let Some(first) = acceptable.first() else {
            self.exhausted += 1;
            return None;
        };
        match witnessed.filter(|witnessed| acceptable.contains(witnessed)) {
            Some(witnessed) => {
                let homes = self.possible_homes(host, *witnessed.ip(), free).collect();
                self.homes.insert(*host.ip(), homes);
                Some(witnessed)
            }
            None => Some(*first),
        }
    }

    /// Gives one of the addresses that are `free` to a host: its own if it is among them.
    pub(crate) fn allocate_address(
        &mut self,
        host: Ipv4Addr,
        free: &[SocketAddrV4],
        witnessed: Option<SocketAddrV4>,
    ) -> Option<SocketAddrV4> {
        // As if every address had but one port.
        let endpoint = SocketAddrV4::new(host, 0);
        let is_acceptable = |given: &SocketAddrV4| {
            self.possible_homes(endpoint, *given.ip(), free).next().is_some()
        };
        let acceptable: Vec<_> = free.iter().copied().filter(is_acceptable).collect();
        let Some(first) = acceptable.first() else {
            self.exhausted += 1;
            return None;
        };
        let Some(given) = witnessed.filter(|given| acceptable.contains(given)) else {
            return Some(*first);
        };
        let homes = self.possible_homes(endpoint, *given.ip(), free).collect();
        self.homes.insert(host, homes);
        Some(given)
    }

    /// Those that have ports.
    pub(crate) fn addresses_with_ports(&self) -> impl Iterator<Item = Ipv4Addr> {
        let with_ports = self.addresses.iter().filter(|(_, ports)| !ports.is_empty());
        with_ports.map(|(address, _)| *address)
    }

    /// The addresses that can be a host's own if it was given this one.
    fn possible_homes(
        &self,
        host: SocketAddrV4,
        given: Ipv4Addr,
        free: &[SocketAddrV4],
    ) -> impl Iterator<Item = Ipv4Addr> {
        let all = || self.endpoints().map(|endpoint| *endpoint.ip()).collect();
        let known = self.homes.get(host.ip()).cloned().unwrap_or_else(all);
        known
            .into_iter()
            .filter(move |home| *home == given || free.iter().all(|endpoint| endpoint.ip() != home))
    }

    /// Whether the engine may say that it had to search for long.
    pub(crate) fn is_scarce(&self, free: usize) -> bool {
        self.endpoints().count() - free >= LONG_SEARCH
    }
}
