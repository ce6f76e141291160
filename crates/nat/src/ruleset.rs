//! The rules as the engine runs them: arranged for looking up, with the state of their schedulers.

use std::net::{Ipv4Addr, SocketAddrV4};

use hashbrown::{HashMap, HashSet};

use crate::{
    flow::FlowKey,
    persistence::PersistenceTable,
    scheduler::{Disruption, Request, Scheduler, SchedulerKind},
    server::Server,
    service::{ForwardingMode, RealServer, Rules, SnatRule, VirtualEndpoint, VirtualService},
    source_pool::{PoolUsage, SourcePool},
    time::Instant,
};

/// A service's place in its [`Ruleset`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ServiceId(pub u32);

/// A server's place among all servers of all services of its [`Ruleset`], in their order; a
/// service's fallback server comes behind its others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ServerId(pub u32);

/// Services and SNAT rules, arranged for looking up.
#[derive(Debug)]
pub struct Ruleset {
    services: Vec<Service>,
    servers: Vec<Server>,
    exact: HashMap<(u8, SocketAddrV4), ServiceId>,
    /// Endpoints with many ports, by address, the narrowest first.
    ranges: HashMap<(u8, Ipv4Addr), Vec<(VirtualEndpoint, ServiceId)>>,
    /// The virtual endpoint that datagrams from a server of a one-packet service leave from.
    one_packet: HashMap<SocketAddrV4, (ServiceId, SocketAddrV4)>,
    /// Virtual addresses, and those of SNAT rules.
    outside_addresses: HashSet<Ipv4Addr>,
    server_addresses: HashSet<Ipv4Addr>,
    persistence: PersistenceTable,
    snat: Vec<(SnatRule, SourcePool)>,
    local: SourcePool,
    hairpin: SourcePool,
}

/// A service as the engine runs it.
#[derive(Debug)]
struct Service {
    options: VirtualService,
    scheduler: Scheduler,
    /// Its servers, the fallback not counted.
    servers: std::ops::Range<usize>,
    fallback: Option<ServerId>,
}

impl Ruleset {
    /// Arranges services and rules. Of two services with one endpoint, the later one counts. `seed`
    /// decides what is left to chance.
    #[must_use]
    pub fn new(rules: &Rules, seed: u64) -> Ruleset {
        let source_pool = |rule: &SnatRule| {
            SourcePool::new(rule.to.iter().map(|address| (*address, &rule.ports)))
        };
        let mut ruleset = Ruleset {
            services: Vec::with_capacity(rules.services.len()),
            servers: Vec::new(),
            exact: HashMap::new(),
            ranges: HashMap::new(),
            one_packet: HashMap::new(),
            outside_addresses: rules.snat.iter().flat_map(|rule| rule.to.clone()).collect(),
            server_addresses: HashSet::new(),
            persistence: PersistenceTable::new(
                rules.services.iter().any(|service| service.persistence.is_some()),
            ),
            snat: rules.snat.iter().map(|rule| (rule.clone(), source_pool(rule))).collect(),
            local: SourcePool::new(
                rules.local_addresses.iter().map(|local| (local.address, &local.ports)),
            ),
            hairpin: SourcePool::new(
                rules.hairpin.iter().map(|local| (local.address, &local.ports)),
            ),
        };
        for service in &rules.services {
            ruleset.add(service, seed);
        }
        ruleset
    }

    fn add(&mut self, service: &VirtualService, seed: u64) {
        let id = ServiceId(self.services.len() as u32);
        for protocol in &service.protocols {
            for endpoint in &service.endpoints {
                self.add_endpoint(id, *protocol, endpoint);
            }
        }
        let first = self.servers.len();
        self.servers.extend(service.servers.iter().map(server));
        let servers = first..self.servers.len();
        let fallback = service.fallback.as_ref().map(|fallback| {
            self.servers.push(server(fallback));
            ServerId(self.servers.len() as u32 - 1)
        });
        let all = &self.servers[first..];
        self.server_addresses.extend(all.iter().map(|server| *server.endpoint.ip()));
        if service.one_packet
            && let Some(endpoint) = service.endpoints.first()
        {
            let from = SocketAddrV4::new(endpoint.address, *endpoint.ports.start());
            let replies =
                all.iter().map(|server| (dialled(server.endpoint, from.port()), (id, from)));
            self.one_packet.extend(replies);
        }
        let scheduler = Scheduler::new(
            service.scheduler,
            service.scheduler_flags,
            &self.servers[servers.clone()],
            scheduler_seed(service.scheduler, seed ^ u64::from(id.0)),
        );
        self.services.push(Service { options: service.clone(), scheduler, servers, fallback });
    }

    fn add_endpoint(&mut self, id: ServiceId, protocol: u8, endpoint: &VirtualEndpoint) {
        self.outside_addresses.insert(endpoint.address);
        let (first, last) = (*endpoint.ports.start(), *endpoint.ports.end());
        if first == last {
            let endpoint = SocketAddrV4::new(endpoint.address, first);
            self.exact.insert((protocol, endpoint), id);
            return;
        }
        let ranges = self.ranges.entry((protocol, endpoint.address)).or_default();
        ranges.retain(|(known, _)| known != endpoint);
        ranges.push((endpoint.clone(), id));
        ranges.sort_by_key(|(endpoint, _)| endpoint.ports.len());
    }

    /// How many services there are.
    #[must_use]
    pub fn service_count(&self) -> usize {
        self.services.len()
    }

    /// All servers, by [`ServerId`].
    #[must_use]
    pub fn servers(&self) -> &[Server] {
        &self.servers
    }

    /// How much of each SNAT rule's endpoints is in use, in the rules' order.
    pub fn snat_usage(&self) -> impl Iterator<Item = PoolUsage> {
        self.snat.iter().map(|(_, pool)| pool.usage())
    }

    /// How much of full-NAT's local endpoints is in use.
    #[must_use]
    pub fn local_usage(&self) -> PoolUsage {
        self.local.usage()
    }

    /// How much of the endpoints for hairpins is in use.
    #[must_use]
    pub fn hairpin_usage(&self) -> PoolUsage {
        self.hairpin.usage()
    }

    /// Clients that persistent services remember; some of them may have run out.
    #[must_use]
    pub fn persistent_clients(&self) -> usize {
        self.persistence.len()
    }

    /// The server that each client of a persistent service keeps now; a client is known by its
    /// address under the service's mask.
    pub fn kept_servers(
        &self,
        now: Instant,
    ) -> impl Iterator<Item = (ServiceId, Ipv4Addr, ServerId)> {
        self.persistence.iter(now)
    }

    /// The service that these packets dial.
    pub(crate) fn service(&self, key: &FlowKey) -> Option<ServiceId> {
        let dialled = key.dst();
        self.exact.get(&(key.protocol(), dialled)).copied().or_else(|| {
            let ranges = self.ranges.get(&(key.protocol(), *dialled.ip()))?;
            let hit = ranges.iter().find(|(range, _)| range.ports.contains(&dialled.port()))?;
            Some(hit.1)
        })
    }

    /// What was said of a service.
    pub(crate) fn options(&self, service: ServiceId) -> &VirtualService {
        &self.services[service.0 as usize].options
    }

    /// The server for a new connection: the one that the client keeps, else the scheduled one, else
    /// the fallback.
    pub(crate) fn choose(
        &mut self,
        service: ServiceId,
        key: &FlowKey,
        now: Instant,
    ) -> Option<ServerId> {
        let Service { options, scheduler, servers, fallback } =
            &mut self.services[service.0 as usize];
        let kept = options.persistence.and_then(|persistence| {
            self.persistence.lookup(service, persistence, *key.src().ip(), now)
        });
        if let Some(kept) = kept
            && self.servers[kept.0 as usize].is_usable()
        {
            return Some(kept);
        }
        let request = Request { client: key.src(), virtual_endpoint: key.dst(), now };
        match scheduler.pick(&self.servers[servers.clone()], &request) {
            Some(picked) => Some(ServerId((servers.start + picked) as u32)),
            None => fallback.filter(|fallback| self.servers[fallback.0 as usize].is_usable()),
        }
    }

    /// The servers that may take a connection, the chosen one first.
    pub(crate) fn candidates(
        &self,
        service: ServiceId,
        chosen: ServerId,
    ) -> impl Iterator<Item = ServerId> + use<> {
        let Service { servers, fallback, .. } = &self.services[service.0 as usize];
        let others = if *fallback == Some(chosen) { 0..0 } else { servers.clone() };
        let others = others.map(|server| ServerId(server as u32));
        std::iter::once(chosen).chain(others.filter(move |server| *server != chosen))
    }

    /// RIP:rport of a server for a client that dialled `vport`, unless it takes no new connections.
    pub(crate) fn usable_endpoint(&self, server: ServerId, vport: u16) -> Option<SocketAddrV4> {
        let server = &self.servers[server.0 as usize];
        server.is_usable().then(|| dialled(server.endpoint, vport))
    }

    /// Has a server take another share of its service's new connections.
    pub(crate) fn set_weight(&mut self, server: ServerId, weight: u16) {
        let server = server.0 as usize;
        self.servers[server].weight = weight;
        let owner = self.services.iter_mut().find(|service| service.servers.contains(&server));
        if let Some(Service { scheduler, servers, .. }) = owner {
            scheduler.servers_changed(&self.servers[servers.clone()]);
        }
    }

    /// What the last change of its servers did to a service that schedules by Maglev hashing.
    #[must_use]
    pub fn last_disruption(&self, service: ServiceId) -> Option<Disruption> {
        self.services[service.0 as usize].scheduler.last_disruption()
    }

    /// Notes that a client was given a server, which it keeps if the service is persistent.
    pub(crate) fn note_client(
        &mut self,
        service: ServiceId,
        server: ServerId,
        client: Ipv4Addr,
        now: Instant,
    ) {
        let Service { options, fallback, .. } = &self.services[service.0 as usize];
        if let Some(persistence) = options.persistence
            && *fallback != Some(server)
        {
            self.persistence.add_connection(service, persistence, client, server, now);
        }
    }

    /// Notes that a client's connection ended: if it was the last one, from now on counts how long the
    /// client keeps its server, provided that the connection `counts`.
    pub(crate) fn release_client(
        &mut self,
        service: ServiceId,
        server: ServerId,
        client: Ipv4Addr,
        counts: bool,
        now: Instant,
    ) {
        if let Some(persistence) = self.services[service.0 as usize].options.persistence {
            self.persistence.remove_connection(service, persistence, client, server, counts, now);
        }
    }

    /// A server's connection opened.
    pub(crate) fn add_connection(&mut self, server: ServerId, is_active: bool) {
        self.change(server, |server| *count(server, is_active) += 1);
    }

    /// A server's connection ended.
    pub(crate) fn remove_connection(&mut self, server: ServerId, is_active: bool) {
        self.change(server, |server| *count(server, is_active) -= 1);
    }

    /// A server's connection became active, or ceased to be.
    pub(crate) fn move_connection(&mut self, server: ServerId, is_active: bool) {
        self.change(server, |server| {
            *count(server, !is_active) -= 1;
            *count(server, is_active) += 1;
        });
    }

    fn change(&mut self, server: ServerId, change: impl FnOnce(&mut Server)) {
        let server = &mut self.servers[server.0 as usize];
        change(server);
        server.update_overload();
    }

    /// The one-packet service that a datagram from this endpoint answers for, and the endpoint that
    /// clients know it by.
    pub(crate) fn one_packet_source(
        &self,
        real: SocketAddrV4,
    ) -> Option<(ServiceId, SocketAddrV4)> {
        self.one_packet.get(&real).copied()
    }

    /// Whether an SNAT rule covers this inside host.
    pub(crate) fn snat_covers(&self, host: Ipv4Addr) -> bool {
        self.snat.iter().any(|(rule, _)| rule.from.contains(&host))
    }

    /// The source endpoints of the SNAT rule that covers an inside host.
    pub(crate) fn snat_pool(&mut self, host: Ipv4Addr) -> Option<&mut SourcePool> {
        let (_, pool) = self.snat.iter_mut().find(|(rule, _)| rule.from.contains(&host))?;
        Some(pool)
    }

    /// The source endpoints of a service's connections, if they are translated: those of hairpins
    /// for inside clients.
    pub(crate) fn local_pool(
        &mut self,
        service: ServiceId,
        is_hairpin: bool,
    ) -> Option<&mut SourcePool> {
        match self.services[service.0 as usize].options.mode {
            ForwardingMode::FullNat => Some(&mut self.local),
            ForwardingMode::Nat if is_hairpin => Some(&mut self.hairpin),
            ForwardingMode::Nat => None,
        }
    }

    /// Whether inside hosts may dial this service.
    pub(crate) fn serves_inside(&self, service: ServiceId) -> bool {
        let options = &self.services[service.0 as usize].options;
        match options.mode {
            // A server would answer the inside host directly.
            _ if options.one_packet => false,
            ForwardingMode::FullNat => true,
            ForwardingMode::Nat => self.hairpin.usage().endpoints > 0,
        }
    }

    /// Whether packets to this outside address may have to be translated.
    pub(crate) fn translates_to(&self, address: Ipv4Addr) -> bool {
        self.outside_addresses.contains(&address)
    }

    /// Whether packets from this inside address may have to be translated.
    pub(crate) fn translates_from(&self, address: Ipv4Addr) -> bool {
        self.server_addresses.contains(&address) || self.snat_covers(address)
    }
}

/// Chance is drawn from the seed of this boot. Hashing isn't: a client is to find its server again
/// after a restart, and on a second director.
fn scheduler_seed(kind: SchedulerKind, seed: u64) -> u64 {
    match kind {
        SchedulerKind::PowerOfTwo => seed,
        _ => 0,
    }
}

/// A server whose rport is 0 is dialled on the vport.
fn server(real: &RealServer) -> Server {
    let endpoint = SocketAddrV4::new(real.address, real.port.unwrap_or(0));
    Server {
        upper_threshold: real.upper_threshold,
        lower_threshold: real.lower_threshold,
        ..Server::new(endpoint, real.weight)
    }
}

fn dialled(endpoint: SocketAddrV4, vport: u16) -> SocketAddrV4 {
    match endpoint.port() {
        0 => SocketAddrV4::new(*endpoint.ip(), vport),
        _ => endpoint,
    }
}

fn count(server: &mut Server, is_active: bool) -> &mut u32 {
    if is_active { &mut server.active } else { &mut server.inactive }
}
