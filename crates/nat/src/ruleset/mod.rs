//! The rules as a worker's engine runs them.
//!
//! The [`RulesetBuilder`] makes one [`Ruleset`] for each worker from
//! [`Rules`], at the start and at every change. It knows what outlives a change: the
//! registry of services and servers (`registry`), and the source endpoints (`pools`).
//!
//! | what | whose | where |
//! | --- | --- | --- |
//! | rules arranged for looking up, schedules | all workers', immutable until the next change | `compiled`, `service_lookup` |
//! | load and state of a server | all workers', atomics | [`ServerShared`](crate::ServerShared) |
//! | counters, ways out | one worker's, readable by others, never moved | `counters` |
//! | a scheduler's memory, source endpoints | one worker's | here, `pools` |
//!
//! A change replaces the first, and hands a worker pointers to the others: what it costs a worker does
//! not depend on how many services and servers there are.

mod address;
mod builder;
mod compiled;
mod pools;
mod registry;
mod server_endpoints;
mod service_lookup;

use std::{
    net::{Ipv4Addr, SocketAddrV4},
    ops::Range,
    sync::Arc,
};

use shunt_packet::ipv4::Ipv4Header;
use shunt_rules::{Defaults, ForwardingMode, Rules, ServerId, ServiceId, VirtualService};

use crate::{
    counters::{ServerCounters, ServerSlot, ServiceCounters, ServiceSlot},
    egress::EgressId,
    egress_set::EgressSet,
    flow::{Direction, FlowKey},
    persistence::{PersistencePolicy, PersistenceTable},
    scheduler::{Request, WorkerState},
    server::{AdminState, Health, Server},
    slots::{OwnSlots, SharedSlots},
    source_pool::{PoolUsage, SourcePool},
    time::Instant,
};

use address::resolve_rport;
pub use builder::{BuildError, RulesetBuilder, ServerStatus, ServiceStatus, Update};
use compiled::CompiledRules;
pub(crate) use compiled::ServiceOptions;
use pools::WorkerPools;
pub(crate) use service_lookup::OnePacketSource;

/// Services and SNAT rules, arranged for looking up, with one worker's state of them.
#[derive(Debug)]
pub struct Ruleset {
    compiled: Arc<CompiledRules>,
    pools: Arc<WorkerPools>,
    /// There is one if a service ever was persistent.
    persistence: Option<Arc<PersistenceTable>>,
    /// By [`ServiceId`].
    services: SharedSlots<ServiceSlot>,
    /// By [`ServerId`].
    servers: SharedSlots<ServerSlot>,
    /// What schedulers remember, by [`ServiceId`].
    states: OwnSlots<WorkerState>,
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

impl Ruleset {
    /// The rules for an only worker, without changes to come. Of two services with one endpoint, the
    /// later one counts. `seed` decides what is left to chance.
    ///
    /// # Errors
    /// What an engine can't do.
    pub fn new(rules: &Rules, seed: u64) -> Result<Ruleset, BuildError> {
        let mut update = RulesetBuilder::new(seed, 1).build(rules, Instant::default(), |_| 0)?;
        Ok(update.rulesets.swap_remove(0))
    }

    /// The services of the rules in their order, each with its servers in theirs; a fallback server
    /// comes last.
    pub fn services(&self) -> impl Iterator<Item = (ServiceId, &VirtualService, &[Server])> {
        self.compiled.order.iter().map(|id| {
            let service = self.compiled.service(*id);
            (*id, &*service.rules, &service.servers[service.listed()])
        })
    }

    /// Servers that were removed, from their service or with it, and have connections perhaps.
    pub fn retired_servers(&self) -> impl Iterator<Item = (ServiceId, &Server)> {
        let services = (0..).map(ServiceId).zip(&self.compiled.services);
        services.filter_map(|(id, service)| Some((id, service.as_ref()?))).flat_map(
            |(id, service)| {
                let retired = &service.servers[service.listed().end..];
                retired.iter().map(move |server| (id, server))
            },
        )
    }

    /// A server, unless nobody has this number.
    #[must_use]
    pub fn server(&self, id: ServerId) -> Option<&Server> {
        let mut services = self.compiled.services.iter().flatten();
        services.find_map(|service| service.position(id).map(|position| &service.servers[position]))
    }

    /// How much of each SNAT rule's endpoints this worker uses, in the rules' order.
    pub fn snat_usage(&self) -> impl Iterator<Item = PoolUsage> {
        self.pools.snat.iter().map(|(_, pool)| pool.usage())
    }

    /// How much this worker uses of its share of full-NAT's local endpoints.
    #[must_use]
    pub fn local_usage(&self) -> PoolUsage {
        self.pools.local.usage()
    }

    /// How much this worker uses of its share of the endpoints for hairpins.
    #[must_use]
    pub fn hairpin_usage(&self) -> PoolUsage {
        self.pools.hairpin.usage()
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
        kept.filter_map(|(group, client, server)| {
            let keeps = |id: &ServiceId| {
                self.compiled.service(*id).policy.is_some_and(|policy| policy.group == group)
            };
            let service = self.compiled.order.iter().copied().find(keeps)?;
            Some((service, client, server))
        })
    }

    /// The service that these packets dial.
    pub(crate) fn service(&self, key: &FlowKey) -> Option<ServiceId> {
        self.compiled.lookup.service(key.protocol(), key.dst())
    }

    /// What was said of a service.
    pub(crate) fn options(&self, service: ServiceId) -> &ServiceOptions {
        &self.compiled.service(service).options
    }

    /// What was said of connections of no service.
    pub(crate) fn defaults(&self) -> &Defaults {
        &self.compiled.defaults
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
        let compiled = self.compiled.service(service);
        let servers = compiled.scheduled();
        let request = Request { client: key.src(), virtual_endpoint: key.dst(), now };
        let schedule = compiled.schedule.as_ref()?;
        match schedule.pick(&mut self.states[service.0], servers, &request) {
            Some(picked) => Some(servers[picked].id),
            None => {
                let fallback = &compiled.servers[compiled.fallback()?];
                fallback.is_usable().then_some(fallback.id)
            }
        }
    }

    /// Whether servers may be chosen for several connections before the first of them is open, if they
    /// are counted as if they had it.
    pub(crate) fn chooses_ahead(&self, service: ServiceId) -> bool {
        self.compiled.service(service).preschedules
    }

    /// The server that a client keeps, provided that the service would still choose it.
    fn kept_server(&self, service: ServiceId, client: Ipv4Addr, now: Instant) -> Option<ServerId> {
        let compiled = self.compiled.service(service);
        let (table, policy) = (self.persistence.as_ref()?, compiled.policy?);
        let kept = table.lookup(policy, client, now).or_else(|| table.hint(policy, client, now))?;
        let server = compiled.scheduled().get(compiled.position(kept)?)?;
        server.is_usable().then_some(kept)
    }

    /// The positions of the servers that may take a connection, the chosen one first.
    pub(crate) fn candidates(
        &self,
        service: ServiceId,
        chosen: ServerId,
    ) -> impl Iterator<Item = usize> + use<> {
        let service = self.compiled.service(service);
        let chosen = service.position(chosen);
        let others = if chosen == service.fallback() { 0 } else { service.scheduled };
        chosen.into_iter().chain((0..others).filter(move |other| Some(*other) != chosen))
    }

    /// The server at a position, and its RIP:rport for a client that dialled `vport`, unless it takes no
    /// new connections.
    pub(crate) fn candidate(
        &self,
        service: ServiceId,
        position: usize,
        vport: u16,
    ) -> Option<(ServerId, SocketAddrV4)> {
        let server = &self.compiled.service(service).servers[position];
        server.is_usable().then(|| (server.id, resolve_rport(server.endpoint, vport)))
    }

    /// RIP:rport of a server for a client that dialled `vport`.
    pub(crate) fn endpoint(
        &self,
        service: ServiceId,
        server: ServerId,
        vport: u16,
    ) -> SocketAddrV4 {
        resolve_rport(self.compiled.service(service).server(server).endpoint, vport)
    }

    /// Notes that a client of a persistent service was given a server.
    pub(crate) fn hint_client(
        &self,
        service: ServiceId,
        server: ServerId,
        client: Ipv4Addr,
        now: Instant,
    ) {
        if let Some((table, policy)) = self.keeps(service, server) {
            table.set_hint(policy, client, server, now);
        }
    }

    /// Notes that a server has answered a client, which keeps it if the service is persistent. Returns
    /// whether that is to be [released](Ruleset::release_client) when the connection ends.
    pub(crate) fn bind_client(
        &self,
        service: ServiceId,
        server: ServerId,
        client: Ipv4Addr,
        now: Instant,
    ) -> bool {
        let keeps = self.keeps(service, server);
        keeps.is_some_and(|(table, policy)| table.add_connection(policy, client, server, now))
    }

    /// The table, if clients of a service keep this server: its fallback is nobody's.
    fn keeps(
        &self,
        service: ServiceId,
        server: ServerId,
    ) -> Option<(&PersistenceTable, PersistencePolicy)> {
        let table = self.persistence.as_ref()?;
        let compiled = self.compiled.service(service);
        compiled.schedules(server).then_some((&**table, compiled.policy?))
    }

    /// Notes that a client's connection ended: if it was the last one, from now on counts how long the
    /// client keeps its server. Returns whether that could be noted: if not, it is to be tried again.
    #[must_use]
    pub(crate) fn release_client(
        &self,
        service: ServiceId,
        server: ServerId,
        client: Ipv4Addr,
        now: Instant,
    ) -> bool {
        match (&self.persistence, self.compiled.service(service).policy) {
            (Some(table), Some(policy)) => table.remove_connection(policy, client, server, now),
            _ => true,
        }
    }

    /// A server was given a connection, or a datagram of which none is kept.
    pub(crate) fn note_given(&self, server: ServerId) {
        self.servers[server.0].count_connection();
    }

    /// No server of the service could take a connection.
    pub(crate) fn note_refused(&self, service: ServiceId) {
        self.services[service.0].count_refused();
    }

    /// Counts a packet from a client of a server's, or to one.
    #[inline]
    pub(crate) fn count_packet(&self, server: ServerId, direction: Direction, header: &Ipv4Header) {
        self.servers[server.0].count_packet(direction, header);
    }

    /// The way out that packets to a server take, if one did so before.
    #[inline]
    pub(crate) fn egress(&self, server: ServerId) -> Option<EgressId> {
        self.servers[server.0].egress()
    }

    /// Notes which way out packets to a server take.
    pub(crate) fn set_egress(&mut self, server: ServerId, egress: EgressId) {
        self.servers[server.0].set_egress(Some(egress));
    }

    /// How many servers may have a way out.
    pub(crate) fn server_count(&self) -> usize {
        self.compiled.servers as usize
    }

    /// Has these servers forget their ways out, as far as they are among `released`.
    pub(crate) fn forget_egresses(&mut self, servers: Range<usize>, released: &EgressSet) {
        for server in servers {
            let slot = &self.servers[server as u32];
            if slot.egress().is_some_and(|egress| released.contains(egress)) {
                slot.set_egress(None);
            }
        }
    }

    /// A server's connection opened.
    pub(crate) fn add_connection(&self, service: ServiceId, server: ServerId, is_active: bool) {
        self.servers[server.0].add_current(is_active);
        self.compiled.service(service).server(server).shared.add_connection(is_active);
    }

    /// A server's connection ended.
    pub(crate) fn remove_connection(&self, service: ServiceId, server: ServerId, is_active: bool) {
        self.servers[server.0].remove_current(is_active);
        self.compiled.service(service).server(server).shared.remove_connection(is_active);
    }

    /// A server's connection became active, or ceased to be.
    pub(crate) fn move_connection(&self, service: ServiceId, server: ServerId, is_active: bool) {
        let slot = &self.servers[server.0];
        slot.remove_current(!is_active);
        slot.add_current(is_active);
        self.compiled.service(service).server(server).shared.move_connection(is_active);
    }

    /// This worker's counters of all services, by [`ServiceId`].
    pub(crate) fn service_counters(&self) -> impl Iterator<Item = ServiceCounters> {
        (0..).zip(&self.compiled.services).map(|(number, service)| {
            let mut counters = self.services[number].get();
            let servers = service.iter().flat_map(|service| &service.servers);
            servers.for_each(|server| counters += self.servers[server.id.0].get());
            counters
        })
    }

    /// This worker's counters of all servers, by [`ServerId`].
    pub(crate) fn server_counters(&self) -> impl Iterator<Item = ServerCounters> {
        (0..self.compiled.servers).map(|number| self.servers[number].get())
    }

    /// What tells a server from others that have its number before or after it.
    pub(crate) fn birth(&self, service: ServiceId, server: ServerId) -> Option<u64> {
        let service = self.compiled.services.get(service.0 as usize)?.as_ref()?;
        Some(service.server_births[service.position(server)?])
    }

    /// What a server does for connections that it has not answered.
    pub(crate) fn standing(&self, service: ServiceId, server: ServerId) -> Standing {
        let service = self.compiled.service(service);
        let Some(position) = service.position(server) else { return Standing::Gone };
        let shared = &service.servers[position].shared;
        let is_removed = !service.listed().contains(&position);
        if is_removed || shared.health() == Health::Down || shared.admin() == AdminState::Disabled {
            Standing::Gone
        } else if shared.is_in_service() {
            Standing::InService
        } else {
            Standing::Draining
        }
    }

    /// When the connections of the next drained server with connections on this worker are to end.
    pub(crate) fn next_drain(&self) -> Option<Instant> {
        let has_connections = |server: ServerId| self.servers[server.0].get().current() > 0;
        let mut drains = self.compiled.drains.iter();
        drains.find(|drain| has_connections(drain.server)).map(|drain| drain.deadline)
    }

    /// Whether the connections of a drained server had their time.
    pub(crate) fn is_drained(&self, service: ServiceId, server: ServerId, now: Instant) -> bool {
        let deadline = self.compiled.service(service).server(server).shared.drain_deadline();
        deadline.is_some_and(|deadline| deadline <= now)
    }

    /// Takes over what belongs to the worker from the rules that it had before: a few pointers.
    pub(crate) fn take_over(&mut self, before: &mut Ruleset) {
        self.states.take_over(&mut before.states);
    }

    /// The server of a one-packet service that a datagram from this endpoint is from.
    pub(crate) fn one_packet_source(&self, real: SocketAddrV4) -> Option<OnePacketSource> {
        self.compiled.lookup.one_packet_source(real)
    }

    /// The service whose servers send from this endpoint.
    pub(crate) fn server_service(&self, protocol: u8, endpoint: SocketAddrV4) -> Option<ServiceId> {
        self.compiled.server_endpoints.service(protocol, endpoint)
    }

    /// Whether an SNAT rule covers this inside host.
    pub(crate) fn snat_covers(&self, host: Ipv4Addr) -> bool {
        self.snat_pool(host).is_some()
    }

    /// The source endpoints of the SNAT rule that covers an inside host.
    pub(crate) fn snat_pool(&self, host: Ipv4Addr) -> Option<&SourcePool> {
        let (_, pool) = self.pools.snat.iter().find(|(from, _)| from.contains(&host))?;
        Some(pool)
    }

    /// The source endpoints of a service's connections, if they are translated: those of hairpins
    /// for inside clients.
    pub(crate) fn local_pool(&self, service: ServiceId, is_hairpin: bool) -> Option<&SourcePool> {
        match self.options(service).mode {
            ForwardingMode::FullNat => Some(&self.pools.local),
            ForwardingMode::Nat if is_hairpin => Some(&self.pools.hairpin),
            ForwardingMode::Nat => None,
        }
    }

    /// A connection that had a source endpoint on this address ended.
    pub(crate) fn release_source(&self, address: Ipv4Addr) {
        self.pools.release(address);
    }

    /// Whether inside hosts may dial this service.
    pub(crate) fn serves_inside(&self, service: ServiceId) -> bool {
        let options = self.options(service);
        match options.mode {
            // A server would answer the inside host directly.
            _ if options.one_packet => false,
            ForwardingMode::FullNat => true,
            ForwardingMode::Nat => self.compiled.has_hairpin,
        }
    }

    /// Whether a packet between these addresses may have to be translated, or known for the sake of
    /// its answers.
    pub(crate) fn concerns(&self, src: Ipv4Addr, dst: Ipv4Addr) -> bool {
        self.compiled.translates_to(dst)
            || self.compiled.translates_from(src)
            || self.compiled.server_addresses.contains(dst)
            || self.snat_covers(src)
            || self.snat_covers(dst)
    }
}
