use std::{
    net::{IpAddr, SocketAddrV4},
    sync::{Arc, Weak},
};

use hashbrown::{HashMap, HashSet};
use shunt_rules::{ForwardingMode, Rules, ServerId, ServiceId, VirtualService};

use super::{
    Ruleset, ServerState, ServiceState, dialled,
    dialled::Dialled,
    known::{Generation, Known, KnownServer},
    plan::{Place, Plan, ServiceOptions, ServicePlan},
    server_endpoints::ServerEndpoints,
    sources::{KnownSources, Sources},
    v4, v4_net,
};
use crate::{
    connection::MAX_IDS,
    counters::ServiceCounters,
    persistence::PersistenceTable,
    scheduler::{Disruption, SchedulerBuilder, SchedulerOptions, WorkerState},
    server::Server,
};

/// Makes [`Ruleset`]s, one for each worker at every change, and knows what outlives a change.
///
/// A service is who it was if its first protocol and its first endpoint are; a server is who it was,
/// within its service, if its address and port are. Who stays keeps its number, its connections, its
/// counters and, as far as that makes sense, the state of its scheduler. Who is removed gets no new
/// connections, but those that it has live on. When they have ended, and all rulesets from before have
/// been dropped, the next change gives its number away.
#[derive(Debug)]
pub struct RulesetBuilder {
    seed: u64,
    workers: usize,
    generation: Generation,
    /// Plans that some worker may run still.
    alive: Vec<(Generation, Weak<Plan>)>,
    known: Known,
    schedulers: SchedulerBuilder,
    sources: KnownSources,
    persistence: Option<Arc<PersistenceTable>>,
    /// Whether the last change had clients forgotten, and workers may note such still.
    is_unsettled: bool,
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

fn check_families(rules: &Rules) -> Result<(), BuildError> {
    let services = rules.services.iter().flat_map(|service| {
        let vips = service.endpoints.iter().map(|endpoint| endpoint.address);
        vips.chain(service.all_servers().map(|server| server.address))
    });
    let snat = rules.snat.iter().flat_map(|rule| rule.to.iter().copied().chain([rule.from.addr()]));
    let local = rules.local_addresses.iter().chain(&rules.hairpin).map(|local| local.address);
    match services.chain(snat).chain(local).find(IpAddr::is_ipv6) {
        Some(address) => Err(BuildError::Ipv6(address)),
        None => Ok(()),
    }
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

impl RulesetBuilder {
    /// A builder for so many workers. `seed` decides what is left to chance.
    #[must_use]
    pub fn new(seed: u64, workers: usize) -> RulesetBuilder {
        RulesetBuilder {
            seed,
            workers,
            generation: 0,
            alive: Vec::new(),
            known: Known::default(),
            schedulers: SchedulerBuilder::new(workers),
            sources: KnownSources::new(workers),
            persistence: None,
            is_unsettled: false,
        }
    }

    /// Arranges rules for the workers. `owner` says to which worker the packets come that arrive
    /// inside for a local address and port, and is asked once for each of them.
    ///
    /// It may take milliseconds for each service with Maglev hashing whose servers changed.
    ///
    /// # Errors
    /// What an engine can't do. Nothing has changed then.
    ///
    /// # Panics
    /// When `owner` names a worker that there isn't.
    pub fn build(
        &mut self,
        rules: &Rules,
        owner: impl Fn(SocketAddrV4) -> usize,
    ) -> Result<Update, BuildError> {
        check_families(rules)?;
        self.check_ids(rules)?;
        self.generation += 1;
        self.forget();
        self.known.update(rules, self.generation);
        self.update_clients();
        let sources = self.sources.update(rules, self.workers, self.generation, owner);

        let plan = Arc::new(self.plan(rules));
        let disruptions = self.update_schedulers(&plan);
        self.alive.push((self.generation, Arc::downgrade(&plan)));
        let rulesets = (0..).zip(sources).map(|(worker, own)| self.ruleset(&plan, worker, own));
        Ok(Update { rulesets: rulesets.collect(), disruptions })
    }

    /// Whether there are numbers for all, even if none of those that are known stays.
    fn check_ids(&self, rules: &Rules) -> Result<(), BuildError> {
        let servers = rules.services.iter().map(|service| service.all_servers().count());
        let services = self.known.services.len() + rules.services.len();
        let servers = self.known.servers.len() + servers.sum::<usize>();
        match services.max(servers) {
            ..=MAX_IDS => Ok(()),
            ids => Err(BuildError::TooMany { ids }),
        }
    }

    /// To be called when all workers run the rules of the last update: what they have noted in the
    /// meantime of clients that those before told apart is forgotten, too. Nobody would ever note that
    /// their connections end.
    pub fn settle(&mut self) {
        if std::mem::take(&mut self.is_unsettled) {
            self.forget_clients(|_| true);
        }
    }

    /// Forgets whom no worker and no connection needs any more.
    fn forget(&mut self) {
        self.alive.retain(|(_, plan)| plan.strong_count() > 0);
        let oldest = self.alive.first().map_or(Generation::MAX, |(generation, _)| *generation);
        self.known.forget(oldest);
        self.sources.forget(oldest);
    }

    /// What clients keep is forgotten with their services, and with the servers that they keep.
    fn update_clients(&mut self) {
        self.is_unsettled = std::mem::take(&mut self.known.clients_lose);
        let is_wanted = self.known.services.iter().flatten().any(|known| known.keep.is_some());
        if self.persistence.is_none() && is_wanted {
            self.persistence = Some(Arc::new(PersistenceTable::new(self.seed)));
        } else if self.is_unsettled {
            self.forget_clients(|ServerId(id)| {
                // One that has the number of another from before is new.
                let known = self.known.servers.get(id as usize).and_then(Option::as_ref);
                known.is_some_and(|known| known.born < self.generation)
            });
        }
    }

    /// Forgets clients of services that are gone or tell them apart in another way now, and servers
    /// that are gone.
    fn forget_clients(&self, is_server: impl Fn(ServerId) -> bool) {
        let keeps = self.known.services.iter().flatten().filter_map(|known| known.keep);
        let keeps: HashSet<_> = keeps.map(|keep| keep.clients).collect();
        if let Some(table) = &self.persistence {
            table.forget(|clients| keeps.contains(&clients), is_server);
        }
    }

    /// Servers that were removed, or whose service was, may be heard of for as long as they are known.
    fn add_server_endpoints(&self, plan: &mut Plan) {
        for id in self.known.order.iter().copied().chain(self.known.removed_services()) {
            let known = self.known.service(id);
            let servers = known.listed.iter().chain(&known.removed_servers);
            for endpoint in servers.map(|server| self.server(*server).endpoint) {
                for protocol in &known.options.protocols {
                    for dialled in &known.options.endpoints {
                        let endpoints = &mut plan.server_endpoints;
                        endpoints.add(id, protocol.number(), endpoint, &dialled.ports);
                    }
                }
            }
        }
    }

    fn plan(&self, rules: &Rules) -> Plan {
        let mut plan = Plan {
            services: Vec::with_capacity(self.known.services.len()),
            order: self.known.order.clone(),
            servers: Vec::with_capacity(self.known.servers.len()),
            places: vec![None; self.known.servers.len()],
            dialled: Dialled::default(),
            one_packet: HashMap::new(),
            server_endpoints: ServerEndpoints::default(),
            defaults: rules.defaults,
            has_hairpin: rules.hairpin.as_ref().is_some_and(|hairpin| !hairpin.ports.is_empty()),
            outside_addresses: HashSet::new(),
            server_addresses: HashSet::new(),
            former_inside: self.sources.former_rules().map(|rule| v4_net(rule.from)).collect(),
        };
        for (id, known) in (0..).map(ServiceId).zip(&self.known.services) {
            let Some(known) = known else {
                plan.services.push(None);
                continue;
            };
            let first = plan.servers.len();
            for server in known.listed.iter().chain(&known.removed_servers) {
                let KnownServer { born, .. } = *self.known.server(*server);
                let place = Place { born, service: id, position: plan.servers.len() };
                plan.places[server.0 as usize] = Some(place);
                plan.servers.push(self.server(*server));
            }
            let all = &plan.servers[first..];
            plan.server_addresses.extend(all.iter().map(|server| *server.endpoint.ip()));
            plan.outside_addresses.extend(known.options.endpoints.iter().map(|e| v4(e.address)));
            plan.outside_addresses
                .extend(known.former_addresses.iter().map(|(former, _)| v4(*former)));
            let has_fallback = known.removed.is_none() && known.options.fallback.is_some();
            plan.services.push(Some(ServicePlan {
                born: known.born,
                service: Arc::clone(&known.options),
                options: ServiceOptions::of(&known.options, &rules.defaults),
                first,
                scheduled: known.listed.len() - usize::from(has_fallback),
                has_fallback,
                keep: known.keep,
                chooses_ahead: known.keep.is_none()
                    && known.options.mode == ForwardingMode::Nat
                    && !known.options.one_packet
                    && all[..known.listed.len()]
                        .iter()
                        .all(|server| server.shared.thresholds().0 == 0),
            }));
        }
        self.add_server_endpoints(&mut plan);
        let snat = rules.snat.iter().chain(self.sources.former_rules());
        plan.outside_addresses.extend(snat.flat_map(|rule| &rule.to).map(|address| v4(*address)));
        for (id, service) in plan.order.iter().zip(&rules.services) {
            for protocol in &service.protocols {
                for endpoint in &service.endpoints {
                    plan.dialled.add(*id, protocol.number(), endpoint);
                }
            }
            if let Some(from) = one_packet_source(service) {
                let listed = &plan.servers[plan.service(*id).listed()];
                let replies =
                    listed.iter().map(|s| (dialled(s.endpoint, from.port()), (*id, from)));
                plan.one_packet.extend(replies);
            }
        }
        plan
    }

    fn server(&self, id: ServerId) -> Server {
        let KnownServer { real, shared, .. } = self.known.server(id);
        Server {
            id,
            endpoint: SocketAddrV4::new(v4(real.address), real.port.unwrap_or(0)),
            shared: Arc::clone(shared),
        }
    }

    fn update_schedulers(&mut self, plan: &Plan) -> Vec<(ServiceId, Disruption)> {
        let mut disruptions = Vec::new();
        for id in &plan.order {
            let servers = &plan.servers[plan.service(*id).scheduled()];
            let seed = self.seed ^ u64::from(id.0);
            let known = self.known.service_mut(*id);
            let options = SchedulerOptions {
                kind: known.options.scheduler,
                flags: known.options.scheduler_flags,
                slots: known.options.scheduler_slots,
                seed,
            };
            let (scheduler, disruption) =
                self.schedulers.build(&options, servers, known.scheduler.as_ref());
            known.scheduler = Some(scheduler);
            disruptions.extend(disruption.map(|disruption| (*id, disruption)));
        }
        disruptions
    }

    fn ruleset(&self, plan: &Arc<Plan>, worker: usize, sources: Sources) -> Ruleset {
        let services = self.known.services.iter().map(|known| ServiceState {
            scheduler: known.as_ref().and_then(|known| known.scheduler.clone()),
            scheduling: WorkerState::new(worker),
            counters: ServiceCounters::default(),
        });
        Ruleset {
            plan: Arc::clone(plan),
            services: services.collect(),
            servers: vec![ServerState::default(); self.known.servers.len()],
            persistence: self.persistence.clone(),
            sources,
        }
    }
}

/// What datagrams from the servers of a one-packet service leave from.
fn one_packet_source(service: &VirtualService) -> Option<SocketAddrV4> {
    let endpoint = service.endpoints.first().filter(|_| service.one_packet)?;
    Some(SocketAddrV4::new(v4(endpoint.address), *endpoint.ports.start()))
}
