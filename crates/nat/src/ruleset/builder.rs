use std::{
    net::{IpAddr, SocketAddrV4},
    sync::{Arc, Weak},
};

use hashbrown::HashSet;
use shunt_rules::{ForwardingMode, RealServer, Rules, ServerId, ServiceId, VirtualService};

use super::{
    Ruleset,
    address::{AddressSet, first_ipv6, v4, v4_net},
    compiled::{CompiledRules, CompiledService, Drain, Generation, ServiceOptions},
    pools::{PoolRegistry, WorkerPools},
    registry::{Outcome, Registry, ServerEntry, ServiceEntry},
    server_endpoints::ServerEndpoints,
    service_lookup::ServiceLookup,
};
use crate::{
    connection::MAX_IDS,
    counters::{ServerCounters, ServerSlot, ServiceCounters, ServiceSlot},
    persistence::PersistenceTable,
    scheduler::{Disruption, SchedulerBuilder, SchedulerOptions, WorkerState},
    server::{Server, ServerShared},
    slots::{OwnSlots, SharedSlots},
    source_pool::PoolUsage,
    time::Instant,
};

/// Makes [`Ruleset`]s, one for each worker at every change, and knows what outlives a change.
///
/// Services and servers are matched by their [identities](shunt_rules::ServiceIdentity). Who stays keeps
/// its number, its connections, its counters and, as far as that makes sense, the state of its
/// scheduler. Who is removed gets no new connections, but those that it has live on. When they have
/// ended, and all rulesets from before have been dropped, the next change gives its number away.
///
/// What a change leaves alone is neither compiled again nor copied: one server's new weight among
/// 100,000 servers takes some milliseconds here, and workers some pointers.
#[derive(Debug)]
pub struct RulesetBuilder {
    seed: u64,
    workers: Vec<WorkerSlots>,
    generation: Generation,
    /// Compiled rules that some worker may run still.
    alive: Vec<(Generation, Weak<CompiledRules>)>,
    registry: Registry,
    schedulers: SchedulerBuilder,
    pools: PoolRegistry,
    worker_pools: Arc<[Arc<WorkerPools>]>,
    lookup: Arc<ServiceLookup>,
    server_endpoints: Arc<ServerEndpoints>,
    virtual_addresses: AddressSet,
    server_addresses: AddressSet,
    persistence: Option<Arc<PersistenceTable>>,
    /// Whether the last change had clients forgotten, and workers may note such still.
    is_unsettled: bool,
    /// The last rules.
    rules: Rules,
}

/// What one worker counts.
#[derive(Debug, Default)]
struct WorkerSlots {
    services: SharedSlots<ServiceSlot>,
    servers: SharedSlots<ServerSlot>,
    /// For how many services its schedulers have room.
    scheduled: usize,
}

/// What a change comes to.
#[derive(Debug)]
pub struct Update {
    /// One for each worker. A worker has to take in those of all updates in their order, and to send
    /// back those that they replace, for being dropped where that disturbs nobody.
    pub rulesets: Vec<Ruleset>,
    /// What the change did to the tables of services that are scheduled by Maglev hashing, if they
    /// had to be filled anew.
    pub disruptions: Vec<(ServiceId, Disruption)>,
}

/// Why an engine can't run rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BuildError {
    /// It does IPv4 only.
    #[error("{0} is an IPv6 address; IPv6 is not supported yet")]
    Ipv6(IpAddr),
    /// It can't tell so many apart.
    #[error(
        "{ids} services or servers, with those before the change; there can be {MAX_IDS} at most"
    )]
    TooMany {
        /// Those of the rules before and after, and those that were removed and have connections.
        ids: usize,
    },
}

/// A service of the rules, as it stands now on all workers.
#[derive(Debug)]
pub struct ServiceStatus<'a> {
    /// Its number.
    pub id: ServiceId,
    /// What was said of it; of a removed one, last.
    pub rules: &'a Arc<VirtualService>,
    /// Whether it was removed, and has connections.
    pub is_removed: bool,
    /// What was counted for it.
    pub counters: ServiceCounters,
}

/// A server of a service, as it stands now on all workers.
#[derive(Debug)]
pub struct ServerStatus<'a> {
    /// Its number.
    pub id: ServerId,
    /// What was said of it; of a removed one, last, with weight 0.
    pub rules: RealServer,
    /// Whether it was removed, and has connections.
    pub is_removed: bool,
    /// Its load and its state, which can be set.
    pub shared: &'a ServerShared,
    /// What was counted for it.
    pub counters: ServerCounters,
}

impl RulesetBuilder {
    /// A builder for so many workers. `seed` decides what is left to chance.
    #[must_use]
    pub fn new(seed: u64, workers: usize) -> RulesetBuilder {
        RulesetBuilder {
            seed,
            workers: std::iter::repeat_with(WorkerSlots::default).take(workers).collect(),
            generation: 0,
            alive: Vec::new(),
            registry: Registry::default(),
            schedulers: SchedulerBuilder::new(workers),
            pools: PoolRegistry::new(workers),
            worker_pools: Arc::new([]),
            lookup: Arc::default(),
            server_endpoints: Arc::default(),
            virtual_addresses: AddressSet::default(),
            server_addresses: AddressSet::default(),
            persistence: None,
            is_unsettled: false,
            rules: Rules::default(),
        }
    }

    /// Arranges rules for the workers, by whose clock it is `now`. `owner` says to which worker the
    /// packets come that arrive inside for a local address and port, and is asked once for each of
    /// them.
    ///
    /// It takes 0.1 ms or so for each service with Maglev hashing whose servers changed.
    ///
    /// # Errors
    /// What an engine can't do. Nothing has changed then.
    ///
    /// # Panics
    /// When `owner` names a worker that there isn't.
    pub fn build(
        &mut self,
        rules: &Rules,
        now: Instant,
        owner: impl Fn(SocketAddrV4) -> usize,
    ) -> Result<Update, BuildError> {
        if let Some(address) = first_ipv6(rules) {
            return Err(BuildError::Ipv6(address));
        }
        self.check_ids(rules)?;
        self.generation += 1;

        let mut outcome = Outcome::default();
        self.forget(&mut outcome);
        self.registry.update(rules, now, self.generation, &mut outcome);
        self.make_room();
        self.update_clients(&outcome);
        self.worker_pools = self.pools.update(rules, self.workers.len(), self.generation, owner);
        let has_other_defaults = self.rules.defaults != rules.defaults;
        self.rules = rules.clone();

        let disruptions = self.compile_services(has_other_defaults);
        if outcome.dialling {
            self.lookup = Arc::new(self.service_lookup());
        }
        if outcome.dialling || outcome.servers {
            self.server_endpoints = Arc::new(self.server_endpoints());
        }
        let compiled = Arc::new(self.compile());
        self.alive.push((self.generation, Arc::downgrade(&compiled)));
        let rulesets = (0..self.workers.len()).map(|worker| self.ruleset(&compiled, worker));
        Ok(Update { rulesets: rulesets.collect(), disruptions })
    }

    /// To be called when all workers run the rules of the last update: what they have noted in the
    /// meantime of clients that those before told apart is forgotten, too. Nobody would ever note that
    /// their connections end.
    pub fn settle(&mut self) {
        if std::mem::take(&mut self.is_unsettled) {
            self.forget_clients(|_| true);
        }
    }

    /// All services: those of the rules in their order, then those that were removed and may have
    /// connections.
    pub fn services(&self) -> impl Iterator<Item = ServiceStatus<'_>> {
        self.registry.listed_first().map(|(id, _)| self.service_status(id))
    }

    /// The servers of a service: those of the rules in their order with the fallback last, then those
    /// that were removed and may have connections. None if no service has this number.
    pub fn servers(&self, service: ServiceId) -> impl Iterator<Item = ServerStatus<'_>> {
        let entry = self.registry.services.get(service.0);
        let servers = entry.into_iter().flat_map(ServiceEntry::all_servers);
        servers.map(|id| {
            let ServerEntry { rules, removed, shared, .. } = self.registry.server(id);
            let (is_removed, counters) = (removed.is_some(), self.server_counters(id));
            ServerStatus { id, rules: *rules, is_removed, shared, counters }
        })
    }

    /// How much of each SNAT rule's endpoints is in use, in the rules' order, by all workers.
    #[must_use]
    pub fn snat_usage(&self) -> Vec<PoolUsage> {
        let mut all = vec![PoolUsage::default(); self.rules.snat.len()];
        for worker in self.worker_pools.iter() {
            for (usage, (_, pool)) in all.iter_mut().zip(&worker.snat) {
                // Each worker has all endpoints, and tells its replies by the remote end.
                let PoolUsage { in_use, scarce, exhausted, endpoints } = pool.usage();
                usage.endpoints = endpoints;
                usage.in_use += in_use;
                usage.scarce += scarce;
                usage.exhausted += exhausted;
            }
        }
        all
    }

    /// How much of full-NAT's local endpoints is in use, by all workers.
    #[must_use]
    pub fn local_usage(&self) -> PoolUsage {
        let mut all = PoolUsage::default();
        self.worker_pools.iter().for_each(|worker| all += worker.local.usage());
        all
    }

    /// How much of the endpoints for hairpins is in use, by all workers.
    #[must_use]
    pub fn hairpin_usage(&self) -> PoolUsage {
        let mut all = PoolUsage::default();
        self.worker_pools.iter().for_each(|worker| all += worker.hairpin.usage());
        all
    }

    /// The state of a server, to be read and set: it takes effect on all workers at once, without new
    /// rules. `None` if no server has this number.
    #[must_use]
    pub fn server(&self, id: ServerId) -> Option<&Arc<ServerShared>> {
        Some(&self.registry.servers.get(id.0)?.shared)
    }

    fn service_status(&self, id: ServiceId) -> ServiceStatus<'_> {
        let entry = self.registry.service(id);
        let mut counters = ServiceCounters::default();
        self.workers.iter().for_each(|worker| counters += worker.services[id.0].get());
        entry.all_servers().for_each(|server| counters += self.server_counters(server));
        let is_removed = entry.removed.is_some();
        ServiceStatus { id, rules: &entry.rules, is_removed, counters }
    }

    fn server_counters(&self, id: ServerId) -> ServerCounters {
        let mut counters = ServerCounters::default();
        self.workers.iter().for_each(|worker| counters += worker.servers[id.0].get());
        counters
    }

    /// Whether there are numbers for all, even if none of those that are known stays.
    fn check_ids(&self, rules: &Rules) -> Result<(), BuildError> {
        let servers = rules.services.iter().map(|service| service.all_servers().count());
        let services = self.registry.services.end() + rules.services.len();
        let servers = self.registry.servers.end() + servers.sum::<usize>();
        match services.max(servers) {
            ..=MAX_IDS => Ok(()),
            ids => Err(BuildError::TooMany { ids }),
        }
    }

    /// Forgets whom no worker and no connection needs any more.
    fn forget(&mut self, outcome: &mut Outcome) {
        self.alive.retain(|(_, compiled)| compiled.strong_count() > 0);
        let oldest = self.alive.first().map_or(Generation::MAX, |(generation, _)| *generation);
        self.registry.forget(oldest, outcome);
        self.pools.forget(oldest);
        for worker in &self.workers {
            for (service, server) in &outcome.forgotten_servers {
                let slot = &worker.servers[server.0];
                worker.services[service.0].take_over(slot.get());
                slot.clear();
            }
            for (service, _) in &outcome.forgotten_services {
                worker.services[service.0].clear();
            }
        }
        for (_, compiled) in &outcome.forgotten_services {
            if let Some(compiled) = compiled {
                self.virtual_addresses.replace(&compiled.virtual_addresses, &[]);
                self.server_addresses.replace(&compiled.server_addresses, &[]);
            }
        }
    }

    fn make_room(&mut self) {
        for worker in &mut self.workers {
            worker.services.grow_to(self.registry.services.end());
            worker.servers.grow_to(self.registry.servers.end());
        }
    }

    /// What clients keep is forgotten with their services, and with the servers that they keep.
    fn update_clients(&mut self, outcome: &Outcome) {
        self.is_unsettled = outcome.clients_lose;
        let is_wanted = || self.registry.services.iter().any(|(_, entry)| entry.policy.is_some());
        if self.persistence.is_none() && is_wanted() {
            self.persistence = Some(Arc::new(PersistenceTable::new(self.seed)));
        } else if self.is_unsettled {
            self.forget_clients(|id| {
                // One that has the number of another from before is new.
                let server = self.registry.servers.get(id.0);
                server.is_some_and(|server| server.born < self.generation)
            });
        }
    }

    /// Forgets clients of services that are gone or tell them apart in another way now, and servers
    /// that are gone.
    fn forget_clients(&self, is_server: impl Fn(ServerId) -> bool) {
        let policies = self.registry.services.iter().filter_map(|(_, entry)| entry.policy);
        let groups: HashSet<_> = policies.map(|policy| policy.group).collect();
        if let Some(table) = &self.persistence {
            table.forget(|group| groups.contains(&group), is_server);
        }
    }

    /// Compiles services that are not what they were.
    fn compile_services(&mut self, has_other_defaults: bool) -> Vec<(ServiceId, Disruption)> {
        let is_stale =
            |(_, entry): &(u32, &ServiceEntry)| has_other_defaults || entry.compiled.is_none();
        let stale = self.registry.services.iter().filter(is_stale);
        let stale: Vec<_> = stale.map(|(id, _)| ServiceId(id)).collect();
        let mut disruptions = Vec::new();
        for id in stale {
            let (compiled, disruption) = self.compile_service(id);
            disruptions.extend(disruption.map(|disruption| (id, disruption)));
            let compiled = Arc::new(compiled);
            let entry = self.registry.service_mut(id);
            let before = entry.compiled.take().or(entry.last_compiled.take());
            let (vips, servers) = match &before {
                Some(before) => (&before.virtual_addresses[..], &before.server_addresses[..]),
                None => Default::default(),
            };
            self.virtual_addresses.replace(vips, &compiled.virtual_addresses);
            self.server_addresses.replace(servers, &compiled.server_addresses);
            entry.compiled = Some(compiled);
        }
        // In the order of the rules.
        let order = &self.registry.order;
        if disruptions.len() > 1 {
            let places: hashbrown::HashMap<_, _> = order.iter().zip(0..).collect();
            disruptions.sort_by_key(|(id, _)| places.get(id).copied());
        }
        disruptions
    }

    fn compile_service(&mut self, id: ServiceId) -> (CompiledService, Option<Disruption>) {
        let entry = self.registry.service(id);
        let rules = &entry.rules;
        let all: Vec<ServerId> = entry.all_servers().collect();
        let servers: Box<[Server]> =
            all.iter().map(|id| self.registry.scheduler_view(*id)).collect();
        let births = all.iter().map(|id| self.registry.server(*id).born).collect();
        let mut positions: Box<[_]> = all.iter().copied().zip(0..).collect();
        positions.sort_unstable();
        let is_listed = entry.removed.is_none();
        let has_fallback = is_listed && rules.fallback.is_some();
        let scheduled = entry.listed.len() - usize::from(has_fallback);
        let before = entry.compiled.as_ref().or(entry.last_compiled.as_ref());
        let (schedule, disruption) = if is_listed {
            let options = SchedulerOptions {
                kind: rules.scheduler,
                flags: rules.scheduler_flags,
                slots: rules.scheduler_slots,
                seed: self.seed ^ u64::from(id.0),
            };
            let before = before.and_then(|before| before.schedule.as_ref());
            let built = self.schedulers.build(&options, &servers[..scheduled], before);
            (Some(built.0), built.1)
        } else {
            (None, None)
        };
        let endpoints = rules.endpoints.iter().map(|endpoint| v4(endpoint.address));
        let former = entry.former_addresses.iter().map(|(address, _)| v4(*address));
        let compiled = CompiledService {
            rules: Arc::clone(rules),
            options: ServiceOptions::of(rules, &self.rules.defaults),
            server_births: births,
            positions,
            scheduled,
            has_fallback,
            schedule,
            policy: entry.policy,
            preschedules: entry.policy.is_none()
                && rules.mode == ForwardingMode::Nat
                && !rules.one_packet
                && rules.all_servers().all(|server| server.upper_threshold == 0),
            virtual_addresses: endpoints.chain(former).collect(),
            server_addresses: servers.iter().map(|server| *server.endpoint.ip()).collect(),
            servers,
        };
        (compiled, disruption)
    }

    fn service_lookup(&self) -> ServiceLookup {
        let mut lookup = ServiceLookup::default();
        for id in &self.registry.order {
            if let Some(service) = &self.registry.service(*id).compiled {
                lookup.add(*id, &service.rules);
                if let Some((virtual_endpoint, servers)) = service.one_packet() {
                    lookup.add_one_packet(*id, virtual_endpoint, servers);
                }
            }
        }
        lookup
    }

    /// Servers that were removed, or whose service was, may be heard of for as long as they are known.
    fn server_endpoints(&self) -> ServerEndpoints {
        let mut endpoints = ServerEndpoints::default();
        for (id, entry) in self.registry.listed_first() {
            let Some(service) = &entry.compiled else { continue };
            for server in &service.servers {
                for protocol in &entry.rules.protocols {
                    for dialled in &entry.rules.endpoints {
                        let real = server.endpoint;
                        endpoints.add(id, protocol.number(), real, &dialled.ports);
                    }
                }
            }
        }
        endpoints
    }

    fn compile(&self) -> CompiledRules {
        let Registry { services, order, .. } = &self.registry;
        let by_number = |number| services.get(number)?.compiled.clone();
        let snat = || self.rules.snat.iter().chain(self.pools.former_rules());
        let hairpin = self.rules.hairpin.as_ref();
        CompiledRules {
            services: (0..services.end() as u32).map(by_number).collect(),
            servers: self.registry.servers.end() as u32,
            order: order.clone(),
            lookup: Arc::clone(&self.lookup),
            server_endpoints: Arc::clone(&self.server_endpoints),
            defaults: self.rules.defaults,
            has_hairpin: hairpin.is_some_and(|hairpin| !hairpin.ports.is_empty()),
            virtual_addresses: self.virtual_addresses.clone(),
            server_addresses: self.server_addresses.clone(),
            snat_addresses: snat().flat_map(|rule| &rule.to).map(|to| v4(*to)).collect(),
            former_inside: self.pools.former_rules().map(|rule| v4_net(rule.from)).collect(),
            drains: self.drains(),
        }
    }

    /// Servers that get no new connections and have some, whose time is limited.
    fn drains(&self) -> Vec<Drain> {
        let mut drains = Vec::new();
        for (server, since) in &self.registry.draining {
            let entry = self.registry.server(*server);
            let timeout = self.registry.service(entry.service).rules.drain_timeout;
            let deadline = timeout.map(|timeout| *since + timeout);
            entry.shared.set_drain_deadline(deadline);
            if let Some(deadline) = deadline
                && !entry.shared.is_idle()
            {
                drains.push(Drain { deadline, server: *server });
            }
        }
        drains.sort_unstable();
        drains
    }

    fn ruleset(&mut self, compiled: &Arc<CompiledRules>, worker: usize) -> Ruleset {
        let slots = &mut self.workers[worker];
        let services = self.registry.services.end();
        let states = OwnSlots::beyond(slots.scheduled, services, || WorkerState::new(worker));
        slots.scheduled = slots.scheduled.max(services);
        Ruleset {
            compiled: Arc::clone(compiled),
            pools: Arc::clone(&self.worker_pools[worker]),
            persistence: self.persistence.clone(),
            services: slots.services.clone(),
            servers: slots.servers.clone(),
            states,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr, SocketAddr};

    use shunt_rules::{Protocol, Scheduler};

    use super::*;

    const WORKERS: usize = 2;

    fn rules(services: u16) -> Rules {
        let server = |port| RealServer {
            address: IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1)),
            port: Some(port),
            weight: 1,
            upper_threshold: 0,
            lower_threshold: 0,
        };
        let service = |port| {
            let vip = SocketAddr::from((Ipv4Addr::new(192, 0, 2, 1), port));
            let servers = vec![server(port), server(port + 10_000)];
            Arc::new(VirtualService::new(Protocol::Tcp, vip, Scheduler::Maglev, servers))
        };
        Rules { services: (1..=services).map(service).collect(), ..Rules::default() }
    }

    fn build(builder: &mut RulesetBuilder, rules: &Rules) -> Vec<Ruleset> {
        builder.build(rules, Instant::default(), |_| 0).expect("rules").rulesets
    }

    /// Whoever compiled all services anew, or had workers copy something of each server, would hold up
    /// large directors at every change.
    #[test]
    fn what_a_change_leaves_alone_is_shared() {
        let mut builder = RulesetBuilder::new(1, WORKERS);
        let mut rules = rules(50);
        let before = build(&mut builder, &rules);
        Arc::make_mut(&mut rules.services[7]).servers[1].weight = 5;
        let after = build(&mut builder, &rules);
        let [old, new] = [&before, &after].map(|rulesets| &rulesets[0].compiled);
        let services = old.services.iter().zip(&new.services).enumerate();
        let changed = services.filter(|(_, (old, new))| {
            let [old, new] = [old, new].map(|service| service.as_ref().expect("a service"));
            !Arc::ptr_eq(old, new)
        });
        assert_eq!(changed.map(|(number, _)| number).collect::<Vec<_>>(), [7]);
        assert!(Arc::ptr_eq(&old.lookup, &new.lookup), "nothing is dialled otherwise");
        assert!(Arc::ptr_eq(&old.server_endpoints, &new.server_endpoints), "servers are the same");
        for (old, new) in before.iter().zip(&after) {
            assert!(Arc::ptr_eq(&old.pools, &new.pools), "a worker's endpoints");
            assert!(std::ptr::eq(&old.servers[0], &new.servers[0]), "a worker's counters");
        }
        let shared = |ruleset: &Ruleset| Arc::as_ptr(&ruleset.compiled);
        assert!(after.iter().all(|ruleset| shared(ruleset) == shared(&after[0])), "all workers'");
    }
}
