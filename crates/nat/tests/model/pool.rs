//! Source endpoints for translated connections.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddrV4},
    ops::RangeInclusive,
};

use shunt_nat::{LocalAddress, PoolUsage};

/// A search that passed over fewer taken ports must not be called long.
const LONG_SEARCH: usize = 8;

/// Addresses, and the ports on each.
#[derive(Clone, Debug)]
pub(crate) struct Pool {
    addresses: Vec<(Ipv4Addr, RangeInclusive<u16>)>,
    /// By host, the addresses one of which is the host's own, as far as can be seen: a host keeps to
    /// one address while that has free ports (RFC 4787, REQ-2).
    homes: BTreeMap<Ipv4Addr, Vec<Ipv4Addr>>,
    pub(crate) usage: PoolUsage,
}

impl Pool {
    pub(crate) fn new(addresses: Vec<(Ipv4Addr, RangeInclusive<u16>)>) -> Pool {
        let endpoints = addresses.iter().map(|(_, ports)| ports.len() as u64).sum();
        let usage = PoolUsage { endpoints, ..PoolUsage::default() };
        Pool { addresses, homes: BTreeMap::new(), usage }
    }

    pub(crate) fn of(local: &[LocalAddress]) -> Pool {
        Pool::new(local.iter().map(|local| (local.address, local.ports.clone())).collect())
    }

    pub(crate) fn endpoints(&self) -> impl Iterator<Item = SocketAddrV4> {
        self.addresses.iter().flat_map(|(address, ports)| {
            ports.clone().map(|port| SocketAddrV4::new(*address, port))
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
            self.usage.exhausted += 1;
            return None;
        };
        self.usage.in_use += 1;
        match witnessed.filter(|witnessed| acceptable.contains(witnessed)) {
            Some(witnessed) => {
                let homes = self.possible_homes(host, *witnessed.ip(), free).collect();
                self.homes.insert(*host.ip(), homes);
                Some(witnessed)
            }
            None => Some(*first),
        }
    }

    /// The addresses that can be a host's own if it was given this one.
    fn possible_homes(
        &self,
        host: SocketAddrV4,
        given: Ipv4Addr,
        free: &[SocketAddrV4],
    ) -> impl Iterator<Item = Ipv4Addr> {
        let all = || self.addresses.iter().map(|(address, _)| *address).collect();
        let known = self.homes.get(host.ip()).cloned().unwrap_or_else(all);
        known
            .into_iter()
            .filter(move |home| *home == given || free.iter().all(|endpoint| endpoint.ip() != home))
    }

    /// Whether the engine may say that it had to search for long.
    pub(crate) fn is_scarce(&self, free: usize) -> bool {
        self.usage.endpoints as usize - free >= LONG_SEARCH
    }
}
