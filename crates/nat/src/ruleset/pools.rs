//! Source endpoints when the rules change.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddrV4},
    sync::Arc,
};

use hashbrown::{HashMap, HashSet};
use ipnet::Ipv4Net;
use shunt_rules::{LocalAddress, Rules, SnatRule};

use super::{
    address::{v4, v4_net},
    compiled::Generation,
};
use crate::source_pool::{AddressUse, PoolCounts, Ports, SourcePool};

/// The source endpoints of one worker.
#[derive(Debug)]
pub(super) struct WorkerPools {
    /// In the order of the rules.
    pub(super) snat: Vec<(Ipv4Net, SourcePool)>,
    pub(super) local: SourcePool,
    pub(super) hairpin: SourcePool,
    /// Of all addresses that connections use, whether a rule still names them or not.
    uses: HashMap<Ipv4Addr, Arc<AddressUse>>,
}

impl WorkerPools {
    /// A connection that had an endpoint on this address ended.
    pub(super) fn release(&self, address: Ipv4Addr) {
        if let Some(usage) = self.uses.get(&address) {
            usage.release();
        }
    }
}

/// What outlives a change; everything but the rules is by worker.
#[derive(Debug)]
pub(super) struct PoolRegistry {
    addresses: HashMap<Ipv4Addr, AddressEntry>,
    snat: Vec<(SnatRule, Counts)>,
    /// Rules that were removed, and when.
    former: Vec<(SnatRule, Generation)>,
    local: Counts,
    hairpin: Counts,
    /// What workers have, and the rules that say so.
    last: Option<(SourceRules, Arc<[Arc<WorkerPools>]>)>,
}

/// The part of the rules that says which source endpoints there are.
#[derive(Debug, PartialEq, Eq)]
struct SourceRules {
    snat: Vec<SnatRule>,
    local_addresses: Vec<LocalAddress>,
    hairpin: Option<LocalAddress>,
}

type Counts = Box<[Arc<PoolCounts>]>;

#[derive(Debug)]
struct AddressEntry {
    uses: Box<[Arc<AddressUse>]>,
    /// Since when no rule names it.
    unnamed: Option<Generation>,
}

impl AddressEntry {
    fn is_idle(&self) -> bool {
        self.uses.iter().all(|usage| usage.is_idle())
    }
}

impl PoolRegistry {
    pub(super) fn new(workers: usize) -> PoolRegistry {
        PoolRegistry {
            addresses: HashMap::new(),
            snat: Vec::new(),
            former: Vec::new(),
            local: each(workers),
            hairpin: each(workers),
            last: None,
        }
    }

    /// Forgets what no rule names and no connection uses, provided that no worker can open more: all
    /// compiled rules from before `oldest` have been dropped.
    pub(super) fn forget(&mut self, oldest: Generation) {
        let addresses = &mut self.addresses;
        self.former.retain(|(rule, since)| {
            let is_idle =
                |address: &IpAddr| addresses.get(&v4(*address)).is_none_or(AddressEntry::is_idle);
            *since > oldest || !rule.to.iter().all(is_idle)
        });
        addresses.retain(|_, known| {
            known.unnamed.is_none_or(|since| since > oldest) || !known.is_idle()
        });
    }

    /// Takes in new rules; returns each worker's source endpoints, those that it has if the rules say
    /// the same of them.
    pub(super) fn update(
        &mut self,
        rules: &Rules,
        workers: usize,
        now: Generation,
        owner: impl Fn(SocketAddrV4) -> usize,
    ) -> Arc<[Arc<WorkerPools>]> {
        let wanted = SourceRules {
            snat: rules.snat.clone(),
            local_addresses: rules.local_addresses.clone(),
            hairpin: rules.hairpin.clone(),
        };
        if let Some((rules, pools)) = &self.last
            && *rules == wanted
        {
            return Arc::clone(pools);
        }
        self.name_addresses(rules, workers, now);
        self.take_in_snat(&rules.snat, workers, now);
        let local = Shares::of(&rules.local_addresses, workers, &owner);
        let hairpin = Shares::of(rules.hairpin.as_slice(), workers, &owner);
        let pools = (0..workers).map(|worker| {
            Arc::new(WorkerPools {
                snat: self.snat.iter().map(|known| self.snat_pool(known, worker)).collect(),
                local: self.pool(local.of_worker(worker), &self.local, worker),
                hairpin: self.pool(hairpin.of_worker(worker), &self.hairpin, worker),
                uses: self
                    .addresses
                    .iter()
                    .map(|(address, known)| (*address, Arc::clone(&known.uses[worker])))
                    .collect(),
            })
        });
        let pools: Arc<[_]> = pools.collect();
        self.last = Some((wanted, Arc::clone(&pools)));
        pools
    }

    /// Rules that were removed, and whose connections may live.
    pub(super) fn former_rules(&self) -> impl Iterator<Item = &SnatRule> {
        self.former.iter().map(|(rule, _)| rule)
    }

    fn name_addresses(&mut self, rules: &Rules, workers: usize, now: Generation) {
        let snat = rules.snat.iter().flat_map(|rule| rule.to.iter().copied());
        let local = rules.local_addresses.iter().chain(&rules.hairpin).map(|local| local.address);
        let named: HashSet<Ipv4Addr> = snat.chain(local).map(v4).collect();
        for (address, known) in &mut self.addresses {
            if !named.contains(address) {
                known.unnamed.get_or_insert(now);
            }
        }
        for address in named {
            let new = || AddressEntry { uses: each(workers), unnamed: None };
            self.addresses.entry(address).or_insert_with(new).unnamed = None;
        }
    }

    /// Rules are matched by the hosts that they are for.
    fn take_in_snat(&mut self, rules: &[SnatRule], workers: usize, now: Generation) {
        let mut before = std::mem::take(&mut self.snat);
        for rule in rules {
            let known = before.iter().position(|(known, _)| known.from == rule.from);
            let counts = match known.map(|known| before.remove(known)) {
                Some((known, counts)) => {
                    if known.to != rule.to {
                        self.former.push((known, now));
                    }
                    counts
                }
                None => each(workers),
            };
            self.snat.push((rule.clone(), counts));
        }
        self.former.extend(before.into_iter().map(|(rule, _)| (rule, now)));
    }

    fn snat_pool(
        &self,
        (rule, counts): &(SnatRule, Counts),
        worker: usize,
    ) -> (Ipv4Net, SourcePool) {
        let all = rule.to.iter().map(|address| (v4(*address), Ports::All(rule.ports.clone())));
        (v4_net(rule.from), self.pool(all, counts, worker))
    }

    fn pool(
        &self,
        addresses: impl IntoIterator<Item = (Ipv4Addr, Ports)>,
        counts: &Counts,
        worker: usize,
    ) -> SourcePool {
        let with_use =
            |(address, ports)| (address, ports, Arc::clone(&self.addresses[&address].uses[worker]));
        SourcePool::new(addresses.into_iter().map(with_use), Arc::clone(&counts[worker]))
    }
}

fn each<T: Default>(workers: usize) -> Box<[Arc<T>]> {
    (0..workers).map(|_| Arc::default()).collect()
}

/// How workers share local addresses: a port is for the worker to which its replies come.
struct Shares<'a> {
    addresses: &'a [LocalAddress],
    /// By address, then by worker; empty if there is one worker, who has all.
    own: Vec<Vec<Vec<u16>>>,
}

impl Shares<'_> {
    fn of<'a>(
        addresses: &'a [LocalAddress],
        workers: usize,
        owner: impl Fn(SocketAddrV4) -> usize,
    ) -> Shares<'a> {
        let share = |local: &LocalAddress| {
            let mut own = vec![Vec::new(); workers];
            for port in local.ports.clone() {
                own[owner(SocketAddrV4::new(v4(local.address), port))].push(port);
            }
            own
        };
        let own = if workers > 1 { addresses.iter().map(share).collect() } else { Vec::new() };
        Shares { addresses, own }
    }

    fn of_worker(&self, worker: usize) -> impl Iterator<Item = (Ipv4Addr, Ports)> {
        self.addresses.iter().enumerate().map(move |(place, local)| {
            let ports = match self.own.get(place) {
                Some(own) => Ports::Own(own[worker].as_slice().into()),
                None => Ports::All(local.ports.clone()),
            };
            (v4(local.address), ports)
        })
    }
}
