//! The rules as a worker's engine runs them.
//!
//! The [`RulesetBuilder`] makes one [`Ruleset`] for each worker from [`Rules`], at the start and at
//! every change. What never changes in between is the [`Plan`], which all workers share. What
//! changes with every connection is either a worker's own, and moves from one ruleset to the next
//! when the engine takes it in, or lies behind an `Arc` that the builder hands on.

mod builder;
mod dialled;
mod known;
mod plan;
mod server_endpoints;
mod sources;

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddrV4},
    sync::Arc,
};

use ipnet::{IpNet, Ipv4Net};
use shunt_rules::{Defaults, ForwardingMode, Rules, ServerId, ServiceId, VirtualService};

use crate::{
    counters::{ServerCounters, ServiceCounters},
    egress::EgressId,
    flow::FlowKey,
    persistence::PersistenceTable,
    scheduler::{Request, Schedule, WorkerState},
    server::{AdminState, Health, Server},
    source_pool::{PoolUsage, SourcePool},
    time::Instant,
};

pub use builder::{BuildError, RulesetBuilder, Update};
pub(crate) use plan::ServiceOptions;
use plan::{Place, Plan};
use sources::Sources;

/// Services and SNAT rules, arranged for looking up, with one worker's state of them.
#[derive(Debug)]
pub struct Ruleset {
    plan: Arc<Plan>,
    /// By [`ServiceId`].
    services: Vec<ServiceState>,
    /// By [`ServerId`].
    servers: Vec<ServerState>,
    /// There is one if a service ever was persistent.
    persistence: Option<Arc<PersistenceTable>>,
    sources: Sources,
}

/// What a server does for connections that it has not answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// It takes connections, unless it has too many now.
    InService,
    /// It takes no more: those that it has run out, unless it answers.
    Draining,
    /// It was removed or disabled, or is down: it will not answer.
    Gone,
}

/// What a worker has of a service.
#[derive(Debug)]
struct ServiceState {
    /// None if the service was removed.
    scheduler: Option<Arc<dyn Schedule>>,
    scheduling: WorkerState,
    counters: ServiceCounters,
}

/// What a worker has of a server.
#[derive(Clone, Copy, Debug, Default)]
struct ServerState {
    counters: ServerCounters,
    /// Since when it gets no new connections because its weight is 0 or it was removed.
    drained_since: Option<Instant>,
    /// The way out that packets to it take.
    egress: Option<EgressId>,
}

impl Ruleset {
    /// The rules for an only worker, without changes to come. Of two services with one endpoint, the
    /// later one counts. `seed` decides what is left to chance.
    ///
    /// # Errors
    /// What an engine can't do.
    pub fn new(rules: &Rules, seed: u64) -> Result<Ruleset, BuildError> {
        let mut update = RulesetBuilder::new(seed, 1).build(rules, |_| 0)?;
        Ok(update.rulesets.swap_remove(0))
    }

    /// The services of the rules in their order, each with its servers in theirs; a fallback server
    /// comes last.
    pub fn services(&self) -> impl Iterator<Item = (ServiceId, &VirtualService, &[Server])> {
        self.plan.order.iter().map(|id| {
            let service = self.plan.service(*id);
            (*id, &*service.service, &self.plan.servers[service.listed()])
        })
    }

    /// Servers that were removed, from their service or with it, and have connections perhaps.
    pub fn retired_servers(&self) -> impl Iterator<Item = (ServiceId, &Server)> {
        let retired = |place: &Place| !self.plan.service(place.service).lists(place.position);
        let places = self.plan.places.iter().flatten().filter(move |place| retired(place));
        places.map(|place| (place.service, &self.plan.servers[place.position]))
    }

    /// A server, unless nobody has this number.
    #[must_use]
    pub fn server(&self, id: ServerId) -> Option<&Server> {
        let place = self.plan.place(id)?;
        Some(&self.plan.servers[place.position])
    }

    /// How much of each SNAT rule's endpoints this worker uses, in the rules' order.
    pub fn snat_usage(&self) -> impl Iterator<Item = PoolUsage> {
        self.sources.snat.iter().map(|(_, pool)| pool.usage())
    }

    /// How much this worker uses of its share of full-NAT's local endpoints.
    #[must_use]
    pub fn local_usage(&self) -> PoolUsage {
        self.sources.local.usage()
    }

    /// How much this worker uses of its share of the endpoints for hairpins.
    #[must_use]
    pub fn hairpin_usage(&self) -> PoolUsage {
        self.sources.hairpin.usage()
    }

    /// Clients that persistent services remember; some of them may have run out.
    #[must_use]
    pub fn persistent_clients(&self) -> usize {
        self.persistence.as_ref().map_or(0, |table| table.len())
    }

    /// The server that each client of a persistent service keeps now; a client is known by its
    /// address under the service's mask.
    pub fn kept_servers(
        &self,
        now: Instant,
    ) -> impl Iterator<Item = (ServiceId, Ipv4Addr, ServerId)> {
        let kept = self.persistence.iter().flat_map(move |table| table.kept(now));
        kept.filter_map(|(clients, client, server)| {
            let keeps = |id: &ServiceId| {
                self.plan.service(*id).keep.is_some_and(|keep| keep.clients == clients)
            };
            let service = self.plan.order.iter().copied().find(keeps)?;
            Some((service, client, server))
        })
    }

    /// The service that these packets dial.
    pub(crate) fn service(&self, key: &FlowKey) -> Option<ServiceId> {
        self.plan.dialled.service(key.protocol(), key.dst())
    }

    /// What was said of a service.
    pub(crate) fn options(&self, service: ServiceId) -> &ServiceOptions {
        &self.plan.service(service).options
    }

    /// What was said of connections of no service.
    pub(crate) fn defaults(&self) -> &Defaults {
        &self.plan.defaults
    }

    /// The server for a new connection: the one that the client keeps, else the scheduled one, else
    /// the fallback.
    pub(crate) fn choose(
        &mut self,
        service: ServiceId,
        key: &FlowKey,
        now: Instant,
    ) -> Option<ServerId> {
        if let Some(kept) = self.kept_server(service, *key.src().ip(), now) {
            return Some(kept);
        }
        let plan = self.plan.service(service);
        let servers = &self.plan.servers[plan.scheduled()];
        let request = Request { client: key.src(), virtual_endpoint: key.dst(), now };
        let ServiceState { scheduler, scheduling, .. } = &mut self.services[service.0 as usize];
        match scheduler.as_ref()?.pick(scheduling, servers, &request) {
            Some(picked) => Some(servers[picked].id),
            None => {
                let fallback = &self.plan.servers[plan.fallback()?];
                fallback.is_usable().then_some(fallback.id)
            }
        }
    }

    /// Whether servers may be chosen for several connections before the first of them is open, if they
    /// are counted as if they had it.
    pub(crate) fn chooses_ahead(&self, service: ServiceId) -> bool {
        self.plan.service(service).chooses_ahead
    }

    /// The server that a client keeps, provided that the service would still choose it.
    fn kept_server(&self, service: ServiceId, client: Ipv4Addr, now: Instant) -> Option<ServerId> {
        let plan = self.plan.service(service);
        let kept = self.persistence.as_ref()?.lookup(plan.keep?, client, now)?;
        let place = self.plan.place(kept)?;
        let is_scheduled = plan.scheduled().contains(&place.position);
        (is_scheduled && self.plan.servers[place.position].is_usable()).then_some(kept)
    }

    /// Where the servers are that may take a connection, the chosen one first.
    pub(crate) fn candidates(
        &self,
        service: ServiceId,
        chosen: ServerId,
    ) -> impl Iterator<Item = usize> + use<> {
        let service = self.plan.service(service);
        let chosen = self.plan.place(chosen).map(|place| place.position);
        let others = if chosen == service.fallback() { 0..0 } else { service.scheduled() };
        chosen.into_iter().chain(others.filter(move |other| Some(*other) != chosen))
    }

    /// The server at a place, and its RIP:rport for a client that dialled `vport`, unless it takes no
    /// new connections.
    pub(crate) fn candidate(
        &self,
        position: usize,
        vport: u16,
    ) -> Option<(ServerId, SocketAddrV4)> {
        let server = &self.plan.servers[position];
        server.is_usable().then(|| (server.id, dialled(server.endpoint, vport)))
    }

    /// RIP:rport of a server for a client that dialled `vport`.
    pub(crate) fn endpoint(&self, server: ServerId, vport: u16) -> SocketAddrV4 {
        dialled(self.plan.server(server).endpoint, vport)
    }

    /// Notes that a client was given a server, which it keeps if the service is persistent.
    pub(crate) fn note_client(
        &self,
        service: ServiceId,
        server: ServerId,
        client: Ipv4Addr,
        now: Instant,
    ) {
        let plan = self.plan.service(service);
        if let (Some(table), Some(keep)) = (&self.persistence, plan.keep)
            && self.plan.place(server).is_some_and(|at| plan.scheduled().contains(&at.position))
        {
            table.add_connection(keep, client, server, now);
        }
    }

    /// Notes that a client's connection ended: if it was the last one, from now on counts how long the
    /// client keeps its server, provided that the connection `counts`.
    pub(crate) fn release_client(
        &self,
        service: ServiceId,
        server: ServerId,
        client: Ipv4Addr,
        counts: bool,
        now: Instant,
    ) {
        if let (Some(table), Some(keep)) = (&self.persistence, self.plan.service(service).keep) {
            table.remove_connection(keep, client, server, counts, now);
        }
    }

    /// A server was given a connection, or a datagram of which none is kept.
    pub(crate) fn note_given(&mut self, service: ServiceId, server: ServerId) {
        self.services[service.0 as usize].counters.connections += 1;
        self.servers[server.0 as usize].counters.connections += 1;
    }

    /// The way out that packets to a server take, if one did so before.
    #[inline]
    pub(crate) fn egress(&self, server: ServerId) -> Option<EgressId> {
        self.servers[server.0 as usize].egress
    }

    /// Notes which way out packets to a server take.
    pub(crate) fn set_egress(&mut self, server: ServerId, egress: EgressId) {
        self.servers[server.0 as usize].egress = Some(egress);
    }

    /// Forgets the ways out to all servers.
    pub(crate) fn forget_egress(&mut self) {
        self.servers.iter_mut().for_each(|server| server.egress = None);
    }

    /// A server's connection opened.
    pub(crate) fn add_connection(&mut self, server: ServerId, is_active: bool) {
        *self.count_mut(server, is_active) += 1;
        self.plan.server(server).shared.add_connection(is_active);
    }

    /// A server's connection ended.
    pub(crate) fn remove_connection(&mut self, server: ServerId, is_active: bool) {
        *self.count_mut(server, is_active) -= 1;
        self.plan.server(server).shared.remove_connection(is_active);
    }

    /// A server's connection became active, or ceased to be.
    pub(crate) fn move_connection(&mut self, server: ServerId, is_active: bool) {
        *self.count_mut(server, !is_active) -= 1;
        *self.count_mut(server, is_active) += 1;
        self.plan.server(server).shared.move_connection(is_active);
    }

    fn count_mut(&mut self, server: ServerId, is_active: bool) -> &mut u32 {
        let ServerCounters { active, inactive, .. } = &mut self.servers[server.0 as usize].counters;
        if is_active { active } else { inactive }
    }

    /// This worker's counters of all services, by [`ServiceId`].
    pub(crate) fn service_counters(&self) -> impl ExactSizeIterator<Item = ServiceCounters> {
        self.services.iter().map(|service| service.counters)
    }

    /// This worker's counters of a service.
    pub(crate) fn counters_mut(&mut self, service: ServiceId) -> &mut ServiceCounters {
        &mut self.services[service.0 as usize].counters
    }

    /// This worker's counters of all servers, by [`ServerId`].
    pub(crate) fn server_counters(&self) -> impl ExactSizeIterator<Item = ServerCounters> {
        self.servers.iter().map(|server| server.counters)
    }

    /// What tells a service from others that have its number before or after it.
    pub(crate) fn birth(&self, service: ServiceId) -> Option<u64> {
        let plan = self.plan.services.get(service.0 as usize)?.as_ref()?;
        Some(plan.born)
    }

    /// What a server does for connections that it has not answered.
    pub(crate) fn standing(&self, server: ServerId) -> Standing {
        let Some(place) = self.plan.place(server) else { return Standing::Gone };
        let shared = &self.plan.servers[place.position].shared;
        let is_removed = !self.plan.service(place.service).lists(place.position);
        if is_removed || shared.health() == Health::Down || shared.admin() == AdminState::Disabled {
            Standing::Gone
        } else if shared.is_in_service() {
            Standing::InService
        } else {
            Standing::Draining
        }
    }

    /// When the next server's connections on this worker are to end because it was drained.
    pub(crate) fn next_drain(&self) -> Option<Instant> {
        let servers = (0..).map(ServerId).zip(&self.servers);
        let with_connections = servers.filter(|(_, state)| state.counters.current() > 0);
        with_connections.filter_map(|(server, _)| self.drain_deadline(server)).min()
    }

    /// Whether the connections of a drained server had their time.
    pub(crate) fn is_drained(&self, server: ServerId, now: Instant) -> bool {
        self.drain_deadline(server).is_some_and(|deadline| deadline <= now)
    }

    fn drain_deadline(&self, server: ServerId) -> Option<Instant> {
        let since = self.servers[server.0 as usize].drained_since?;
        let service = self.plan.place(server)?.service;
        Some(since + self.options(service).drain_timeout?)
    }

    /// Takes over what belongs to the worker from the rules that it had before. Allocates nothing,
    /// and takes time in proportion to services and servers.
    pub(crate) fn take_over(&mut self, before: &mut Ruleset, now: Instant) {
        for id in self.plan.surviving_services(&before.plan) {
            let state = &mut self.services[id.0 as usize];
            let state_before = &mut before.services[id.0 as usize];
            state.counters = state_before.counters;
            std::mem::swap(&mut state.scheduling, &mut state_before.scheduling);
        }
        for place in self.plan.places.iter().flatten() {
            let server = &self.plan.servers[place.position];
            let id = server.id.0 as usize;
            if self.plan.former_place(&before.plan, server.id).is_some() {
                self.servers[id] = before.servers[id];
            }
            let is_drained = server.shared.configured_weight() == 0
                || !self.plan.service(place.service).lists(place.position);
            let drained_since = &mut self.servers[id].drained_since;
            *drained_since = is_drained.then(|| drained_since.unwrap_or(now));
        }
    }

    /// The one-packet service that a datagram from this endpoint answers for, and the endpoint that
    /// clients know it by.
    pub(crate) fn one_packet_source(
        &self,
        real: SocketAddrV4,
    ) -> Option<(ServiceId, SocketAddrV4)> {
        self.plan.one_packet.get(&real).copied()
    }

    /// The service whose servers send from this endpoint.
    pub(crate) fn server_service(&self, protocol: u8, endpoint: SocketAddrV4) -> Option<ServiceId> {
        self.plan.server_endpoints.service(protocol, endpoint)
    }

    /// Whether an SNAT rule covers this inside host.
    pub(crate) fn snat_covers(&self, host: Ipv4Addr) -> bool {
        self.snat_pool(host).is_some()
    }

    /// The source endpoints of the SNAT rule that covers an inside host.
    pub(crate) fn snat_pool(&self, host: Ipv4Addr) -> Option<&SourcePool> {
        let (_, pool) = self.sources.snat.iter().find(|(from, _)| from.contains(&host))?;
        Some(pool)
    }

    /// The source endpoints of a service's connections, if they are translated: those of hairpins
    /// for inside clients.
    pub(crate) fn local_pool(&self, service: ServiceId, is_hairpin: bool) -> Option<&SourcePool> {
        match self.options(service).mode {
            ForwardingMode::FullNat => Some(&self.sources.local),
            ForwardingMode::Nat if is_hairpin => Some(&self.sources.hairpin),
            ForwardingMode::Nat => None,
        }
    }

    /// A connection that had a source endpoint on this address ended.
    pub(crate) fn release_source(&self, address: Ipv4Addr) {
        self.sources.release(address);
    }

    /// Whether inside hosts may dial this service.
    pub(crate) fn serves_inside(&self, service: ServiceId) -> bool {
        let options = self.options(service);
        match options.mode {
            // A server would answer the inside host directly.
            _ if options.one_packet => false,
            ForwardingMode::FullNat => true,
            ForwardingMode::Nat => self.plan.has_hairpin,
        }
    }

    /// Whether a packet between these addresses may have to be translated, or known for the sake of
    /// its answers.
    pub(crate) fn concerns(&self, src: Ipv4Addr, dst: Ipv4Addr) -> bool {
        self.plan.translates_to(dst)
            || self.plan.translates_from(src)
            || self.plan.server_addresses.contains(&dst)
            || self.snat_covers(src)
            || self.snat_covers(dst)
    }
}

/// A server whose rport is 0 is dialled on the vport.
fn dialled(endpoint: SocketAddrV4, vport: u16) -> SocketAddrV4 {
    match endpoint.port() {
        0 => SocketAddrV4::new(*endpoint.ip(), vport),
        _ => endpoint,
    }
}

/// Rules have addresses of either family; those that an engine is given were checked to be IPv4.
fn v4(address: IpAddr) -> Ipv4Addr {
    match address {
        IpAddr::V4(address) => address,
        IpAddr::V6(address) => unreachable!("{address} was to be refused before"),
    }
}

fn v4_net(network: IpNet) -> Ipv4Net {
    match network {
        IpNet::V4(network) => network,
        IpNet::V6(network) => unreachable!("{network} was to be refused before"),
    }
}
