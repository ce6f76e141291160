//! Which services and servers stay the same when rules change.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::{IpAddr, SocketAddrV4},
    sync::Arc,
};

use hashbrown::HashMap;
use shunt_rules::{
    RealServer, Rules, ServerId, ServerIdentity, ServiceId, ServiceIdentity, VirtualService,
};

use super::{
    address::v4,
    compiled::{CompiledService, Generation},
};
use crate::{
    persistence::{PersistencePolicy, TemplateGroup},
    server::{Server, ServerShared},
    slots::Numbered,
    time::Instant,
};

/// Services and servers of the rules, and those that were removed but may have connections.
#[derive(Debug, Default)]
pub(super) struct Registry {
    /// By [`ServiceId`].
    pub(super) services: Numbered<ServiceEntry>,
    /// By [`ServerId`].
    pub(super) servers: Numbered<ServerEntry>,
    /// The services of the rules, in their order.
    pub(super) order: Vec<ServiceId>,
    /// Services of which something was removed that may have connections.
    retiring: BTreeSet<ServiceId>,
    /// Servers that get no new connections because their weight is 0 or they were removed, since when.
    pub(super) draining: BTreeMap<ServerId, Instant>,
    /// How many [`TemplateGroup`]s were given away.
    groups: u32,
}

/// A service, and what outlives a change of it.
#[derive(Debug)]
pub(super) struct ServiceEntry {
    pub(super) removed: Option<Generation>,
    /// Of a removed service, the last ones.
    pub(super) rules: Arc<VirtualService>,
    /// In the order of the rules, the fallback last.
    pub(super) listed: Vec<ServerId>,
    pub(super) removed_servers: Vec<ServerId>,
    /// Virtual addresses that it had before, and until when.
    pub(super) former_addresses: Vec<(IpAddr, Generation)>,
    pub(super) policy: Option<PersistencePolicy>,
    /// What workers were given last; `None` if that is no longer true.
    pub(super) compiled: Option<Arc<CompiledService>>,
    /// The last that there was.
    pub(super) last_compiled: Option<Arc<CompiledService>>,
}

/// A server, and what outlives a change of it.
#[derive(Debug)]
pub(super) struct ServerEntry {
    pub(super) born: Generation,
    pub(super) removed: Option<Generation>,
    pub(super) service: ServiceId,
    pub(super) rules: RealServer,
    pub(super) shared: Arc<ServerShared>,
}

/// What a change of the rules does.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    /// Whether something is dialled otherwise than before.
    pub(super) dialling: bool,
    /// Whether servers came or went.
    pub(super) servers: bool,
    /// Whether something was forgotten that clients may be told to keep.
    pub(super) clients_lose: bool,
    /// Servers whose numbers are free, with the services that had them.
    pub(super) forgotten_servers: Vec<(ServiceId, ServerId)>,
    /// Services whose numbers are free, as workers ran them last.
    pub(super) forgotten_services: Vec<(ServiceId, Option<Arc<CompiledService>>)>,
}

impl ServiceEntry {
    pub(super) fn all_servers(&self) -> impl Iterator<Item = ServerId> {
        self.listed.iter().chain(&self.removed_servers).copied()
    }

    fn is_retiring(&self) -> bool {
        self.removed.is_some()
            || !self.removed_servers.is_empty()
            || !self.former_addresses.is_empty()
    }

    /// What workers run of it has to be made anew.
    fn invalidate(&mut self) {
        if let Some(compiled) = self.compiled.take() {
            self.last_compiled = Some(compiled);
        }
    }
}

impl Registry {
    /// Forgets what was removed and has no connections, provided that no worker can open more: all
    /// compiled rules from before `oldest` have been dropped.
    pub(super) fn forget(&mut self, oldest: Generation, outcome: &mut Outcome) {
        for id in self.retiring.clone() {
            self.forget_servers(id, oldest, outcome);
            let entry = self.service(id);
            if entry.removed.is_some_and(|removed| removed <= oldest)
                && entry.removed_servers.is_empty()
            {
                let entry = self.services.remove(id.0);
                let compiled = entry.and_then(|entry| entry.compiled.or(entry.last_compiled));
                outcome.forgotten_services.push((id, compiled));
                self.retiring.remove(&id);
            } else if !entry.is_retiring() {
                self.retiring.remove(&id);
            }
        }
    }

    /// Forgets servers of a service that were removed, and addresses that it had before.
    fn forget_servers(&mut self, id: ServiceId, oldest: Generation, outcome: &mut Outcome) {
        let is_idle = |server: ServerId| self.server(server).shared.is_idle();
        let is_over = |server: ServerId| {
            self.server(server).removed.is_some_and(|removed| removed <= oldest) && is_idle(server)
        };
        let entry = self.service(id);
        let (gone, left): (Vec<_>, Vec<_>) =
            entry.removed_servers.iter().partition(|server| is_over(**server));
        let mut former = entry.former_addresses.clone();
        if entry.all_servers().all(is_idle) {
            former.retain(|(_, until)| *until > oldest);
        }
        if gone.is_empty() && former.len() == entry.former_addresses.len() {
            return;
        }
        let entry = self.service_mut(id);
        entry.invalidate();
        (entry.removed_servers, entry.former_addresses) = (left, former);
        for server in gone {
            self.servers.remove(server.0);
            self.draining.remove(&server);
            outcome.forgotten_servers.push((id, server));
            outcome.servers = true;
            outcome.clients_lose = true;
        }
    }

    /// Takes in new rules. Services that are the same as before cost no more than finding that out.
    pub(super) fn update(
        &mut self,
        rules: &Rules,
        now: Instant,
        generation: Generation,
        outcome: &mut Outcome,
    ) {
        let before = std::mem::take(&mut self.order);
        // Most changes leave most services in their places: there they need not be searched for.
        let is_same = |(id, service): &(&ServiceId, &Arc<VirtualService>)| {
            let entry = self.service(**id);
            Arc::ptr_eq(&entry.rules, service) || entry.rules.identity() == service.identity()
        };
        let in_place = before.iter().zip(&rules.services).take_while(is_same).count();
        let mut candidates = self.candidates(&before[in_place..]);
        for (index, service) in rules.services.iter().enumerate() {
            let known = match before[..in_place].get(index) {
                Some(id) => Some(*id),
                None => candidates.take(&service.identity()),
            };
            let id = known.unwrap_or_else(|| self.add_service(service));
            self.order.push(id);
            let entry = self.service(id);
            let is_unchanged =
                known.is_some() && entry.removed.is_none() && entry.rules == *service;
            if !is_unchanged {
                self.update_service(id, service, now, generation, outcome);
            }
        }
        for id in candidates.left() {
            if self.service(id).removed.is_none() {
                self.remove_service(id, now, generation, outcome);
            }
        }
        outcome.dialling |= self.order != before;
    }

    /// Services that those of new rules may be: of several with one identity, those that are there come
    /// before those that were removed.
    fn candidates(&self, there: &[ServiceId]) -> Queues<Option<ServiceIdentity>, ServiceId> {
        let is_removed = |id: &&ServiceId| self.service(**id).removed.is_some();
        let all = there.iter().chain(self.retiring.iter().filter(is_removed));
        Queues::new(all.map(|id| (self.service(*id).rules.identity(), *id)))
    }

    /// The services of the rules in their order, then those that were removed.
    pub(super) fn listed_first(&self) -> impl Iterator<Item = (ServiceId, &ServiceEntry)> {
        let removed = self.retiring.iter().filter(|id| self.service(**id).removed.is_some());
        self.order.iter().chain(removed).map(|id| (*id, self.service(*id)))
    }

    /// # Panics
    /// When no service has this number.
    pub(super) fn service(&self, id: ServiceId) -> &ServiceEntry {
        self.services.get(id.0).expect("a known service")
    }

    pub(super) fn service_mut(&mut self, id: ServiceId) -> &mut ServiceEntry {
        self.services.get_mut(id.0).expect("a known service")
    }

    /// # Panics
    /// When no server has this number.
    pub(super) fn server(&self, id: ServerId) -> &ServerEntry {
        self.servers.get(id.0).expect("a known server")
    }

    fn server_mut(&mut self, id: ServerId) -> &mut ServerEntry {
        self.servers.get_mut(id.0).expect("a known server")
    }

    fn add_service(&mut self, rules: &Arc<VirtualService>) -> ServiceId {
        ServiceId(self.services.add(ServiceEntry {
            removed: None,
            rules: Arc::clone(rules),
            listed: Vec::new(),
            removed_servers: Vec::new(),
            former_addresses: Vec::new(),
            policy: None,
            compiled: None,
            last_compiled: None,
        }))
    }

    fn update_service(
        &mut self,
        id: ServiceId,
        rules: &Arc<VirtualService>,
        now: Instant,
        generation: Generation,
        outcome: &mut Outcome,
    ) {
        let policy = self.persistence_policy(id, rules);
        let kept = self.service(id).policy.map(|policy| policy.group);
        outcome.clients_lose |= kept != policy.map(|policy| policy.group);
        let entry = self.service_mut(id);
        entry.invalidate();
        let former = std::mem::replace(&mut entry.rules, Arc::clone(rules));
        outcome.dialling |= entry.removed.is_some()
            || former.protocols != rules.protocols
            || former.endpoints != rules.endpoints
            || former.one_packet
            || rules.one_packet;
        let addresses = former.endpoints.iter().map(|endpoint| (endpoint.address, generation));
        entry.former_addresses.extend(
            addresses.filter(|(address, _)| rules.endpoints.iter().all(|e| e.address != *address)),
        );
        (entry.removed, entry.policy) = (None, policy);

        let known = entry.all_servers().collect::<Vec<_>>();
        let identities = known.iter().map(|id| (self.server(*id).rules.identity(), *id));
        let mut candidates = Queues::<ServerIdentity, ServerId>::new(identities);
        let mut listed = Vec::with_capacity(rules.servers.len() + 1);
        for real in rules.all_servers() {
            let server = match candidates.take(&real.identity()) {
                Some(known) => {
                    self.update_server(known, real, now);
                    known
                }
                None => {
                    outcome.servers = true;
                    self.add_server(id, real, now, generation)
                }
            };
            listed.push(server);
        }
        // In the order that they had.
        let is_left = candidates.left();
        let removed: Vec<_> = known.into_iter().filter(|id| is_left.contains(id)).collect();
        for server in &removed {
            self.remove_server(*server, now, generation);
        }
        let entry = self.service_mut(id);
        (entry.listed, entry.removed_servers) = (listed, removed);
        if entry.is_retiring() {
            self.retiring.insert(id);
        }
    }

    /// Clients keep their servers for as long as they are told apart in the same way.
    fn persistence_policy(
        &mut self,
        id: ServiceId,
        rules: &VirtualService,
    ) -> Option<PersistencePolicy> {
        let persistence = rules.persistence?;
        let before = self.service(id).policy;
        let group = match before {
            Some(policy) if policy.persistence.prefix_len == persistence.prefix_len => policy.group,
            _ => {
                self.groups += 1;
                TemplateGroup(self.groups)
            }
        };
        Some(PersistencePolicy { group, persistence })
    }

    fn remove_service(
        &mut self,
        id: ServiceId,
        now: Instant,
        generation: Generation,
        outcome: &mut Outcome,
    ) {
        outcome.clients_lose = true;
        let entry = self.service_mut(id);
        entry.invalidate();
        entry.removed = Some(generation);
        entry.policy = None;
        let mut listed = std::mem::take(&mut entry.listed);
        entry.removed_servers.append(&mut listed);
        for server in entry.removed_servers.clone() {
            self.remove_server(server, now, generation);
        }
        self.retiring.insert(id);
    }

    fn add_server(
        &mut self,
        service: ServiceId,
        rules: &RealServer,
        now: Instant,
        generation: Generation,
    ) -> ServerId {
        let RealServer { weight, upper_threshold, lower_threshold, .. } = *rules;
        let shared = Arc::new(ServerShared::new(weight, upper_threshold, lower_threshold));
        let entry = ServerEntry { born: generation, removed: None, service, rules: *rules, shared };
        let id = ServerId(self.servers.add(entry));
        self.note_draining(id, now);
        id
    }

    fn update_server(&mut self, id: ServerId, rules: &RealServer, now: Instant) {
        let entry = self.server_mut(id);
        let before = std::mem::replace(&mut entry.rules, *rules);
        entry.removed = None;
        if before.weight != rules.weight {
            entry.shared.set_weight(rules.weight);
        }
        if before != *rules {
            entry.shared.set_thresholds(rules.upper_threshold, rules.lower_threshold);
        }
        self.note_draining(id, now);
    }

    /// It gets no new connections from now on.
    fn remove_server(&mut self, id: ServerId, now: Instant, generation: Generation) {
        let entry = self.server_mut(id);
        entry.removed.get_or_insert(generation);
        let rules = RealServer { weight: 0, upper_threshold: 0, ..entry.rules };
        let removed = entry.removed;
        self.update_server(id, &rules, now);
        self.server_mut(id).removed = removed;
    }

    fn note_draining(&mut self, id: ServerId, now: Instant) {
        if self.server(id).rules.weight == 0 {
            self.draining.entry(id).or_insert(now);
        } else {
            self.draining.remove(&id);
            self.server(id).shared.set_drain_deadline(None);
        }
    }

    /// A server as schedulers see it.
    pub(super) fn scheduler_view(&self, id: ServerId) -> Server {
        let ServerEntry { rules, shared, .. } = self.server(id);
        let endpoint = SocketAddrV4::new(v4(rules.address), rules.port.unwrap_or(0));
        Server { id, endpoint, shared: Arc::clone(shared) }
    }
}

/// Who is there with an identity, first come, first served.
struct Queues<K, V>(HashMap<K, VecDeque<V>>);

impl<K: Eq + std::hash::Hash, V: Copy + Ord> Queues<K, V> {
    fn new(all: impl Iterator<Item = (K, V)>) -> Queues<K, V> {
        let mut queues: HashMap<K, VecDeque<V>> = HashMap::new();
        for (identity, one) in all {
            queues.entry(identity).or_default().push_back(one);
        }
        Queues(queues)
    }

    fn take(&mut self, identity: &K) -> Option<V> {
        self.0.get_mut(identity)?.pop_front()
    }

    /// Those that nobody took.
    fn left(self) -> BTreeSet<V> {
        self.0.into_values().flatten().collect()
    }
}
