//! The whole NAT, as simply as can be: vectors, searched from one end to the other.

mod known;
mod unknown;

use std::rc::Rc;

use shunt_nat::{
    ConnectionState,
    Direction::{self, Inbound},
    EngineCounters, ServiceCounters, Side, Timeouts, VirtualService,
};

use crate::{
    clients::{Clients, masked},
    connection::{Connection, Owner, PoolName},
    flow::Flow,
    fragments::Fragments,
    outcome::Outcome,
    packet,
    pool::Pool,
    servers::{Scheduler, Server},
    setup::Setup,
    wire::Ip,
    witness::Witness,
};

#[derive(Clone)]
pub(crate) struct Model {
    setup: Rc<Setup>,
    pub(crate) connections: Vec<Connection>,
    /// All servers of all services in their order, a service's fallback behind its others.
    pub(crate) servers: Vec<Server>,
    schedulers: Vec<Scheduler>,
    pub(crate) clients: Clients,
    pub(crate) fragments: Fragments,
    snat: Vec<Pool>,
    local: Pool,
    hairpin: Pool,
    pub(crate) counters: EngineCounters,
    pub(crate) services: Vec<ServiceCounters>,
}

impl Model {
    pub(crate) fn new(setup: Rc<Setup>) -> Model {
        let rules = &setup.rules;
        let servers = |service: &VirtualService| {
            service.servers.iter().chain(&service.fallback).map(|real| Server::new(*real)).collect()
        };
        let scheduler = |service: &VirtualService| {
            let falls_back = service.scheduler_flags.fallback;
            Scheduler::new(service.scheduler, falls_back, service.servers.len())
        };
        Model {
            connections: Vec::new(),
            servers: rules.services.iter().flat_map::<Vec<_>, _>(servers).collect(),
            schedulers: rules.services.iter().map(scheduler).collect(),
            clients: Clients::default(),
            fragments: Fragments::default(),
            snat: rules
                .snat
                .iter()
                .map(|rule| Pool::new(rule.to.iter().map(|to| (*to, rule.ports.clone())).collect()))
                .collect(),
            local: Pool::of(&rules.local_addresses),
            hairpin: Pool::of(rules.hairpin.as_slice()),
            counters: EngineCounters::default(),
            services: vec![ServiceCounters::default(); rules.services.len()],
            setup,
        }
    }

    /// What becomes of a packet that arrives.
    pub(crate) fn receive(
        &mut self,
        now: u64,
        side: Side,
        packet: Ip<'_>,
        witness: Witness<'_>,
    ) -> Outcome {
        if packet.is_fragment() {
            self.receive_fragment(now, side, packet, witness)
        } else {
            self.receive_whole(now, side, packet, witness)
        }
    }

    /// Ends connections that were silent for as long as they may be. When it comes to each is up to
    /// the engine, and in which order, but it looks at no more than `budget`. Returns the resets that
    /// go out.
    pub(crate) fn expire(&mut self, now: u64, budget: usize, witness: Witness<'_>) -> Vec<Vec<u8>> {
        self.fragments.forget_old(now);
        let is_ended =
            |connection: &&Connection| self.deadline(connection) <= now && !witness.has(connection);
        let mut ended: Vec<_> =
            self.connections.iter().filter(is_ended).take(budget).cloned().collect();
        ended.sort_by_key(|connection| !self.goes_first(now, connection, witness));
        for connection in &ended {
            self.counters.expired += 1;
            self.remove(now, connection);
        }
        ended.iter().flat_map(|connection| self.resets(connection)).collect()
    }

    /// Of several connections of one client that end at once, one that binds the client to its server
    /// may do so only before one that does not has released it.
    fn goes_first(&self, now: u64, connection: &Connection, witness: Witness<'_>) -> bool {
        let Owner::Service(service, _) = connection.owner else { return true };
        let Some(persistence) = self.setup.rules.services[service].persistence else { return true };
        let client = masked(persistence, *connection.flow(Inbound).src.ip());
        binds(connection) == witness.keeps(now, service, client)
    }

    pub(crate) fn set_weight(&mut self, server: usize, weight: u16) {
        self.servers[server].weight = weight;
    }

    /// When a connection has been silent for as long as it may be.
    pub(crate) fn deadline(&self, connection: &Connection) -> u64 {
        let timeout = self.timeouts(connection.owner).of(connection.state);
        connection.last_seen + timeout.as_millis() as u64
    }

    /// The connection that a packet belongs to: its place, and the packet's direction.
    pub(crate) fn find(&self, flow: &Flow) -> Option<(usize, Direction)> {
        self.connections.iter().enumerate().find_map(|(at, connection)| {
            let direction = connection.flows.iter().position(|own| own == flow)?;
            Some((at, [Inbound, Direction::Outbound][direction]))
        })
    }

    pub(crate) fn pool(&self, name: PoolName) -> &Pool {
        match name {
            PoolName::Snat(rule) => &self.snat[rule],
            PoolName::Local => &self.local,
            PoolName::Hairpin => &self.hairpin,
        }
    }

    fn pool_mut(&mut self, name: PoolName) -> &mut Pool {
        match name {
            PoolName::Snat(rule) => &mut self.snat[rule],
            PoolName::Local => &mut self.local,
            PoolName::Hairpin => &mut self.hairpin,
        }
    }

    pub(crate) fn pools(&self) -> impl Iterator<Item = PoolName> {
        let snat = (0..self.snat.len()).map(PoolName::Snat);
        snat.chain([PoolName::Local, PoolName::Hairpin])
    }

    fn timeouts(&self, owner: Owner) -> &Timeouts {
        match owner {
            Owner::Service(service, _) => &self.setup.rules.services[service].timeouts,
            Owner::Snat | Owner::Passthrough => &self.setup.timeouts,
        }
    }

    pub(crate) fn mss_limit(&self, owner: Owner) -> Option<u16> {
        match owner {
            Owner::Service(service, _) => self.setup.rules.services[service].mss_limit,
            Owner::Snat | Owner::Passthrough => None,
        }
    }

    /// Both ends are told, each in the name of the other, provided that its sequence numbers are
    /// known.
    fn resets(&self, connection: &Connection) -> Vec<Vec<u8>> {
        let is_wanted = match connection.owner {
            Owner::Service(service, _) => self.setup.rules.services[service].reset_on_expiry,
            Owner::Snat | Owner::Passthrough => self.setup.reset_on_expiry,
        };
        if !is_wanted || connection.state != ConnectionState::Established {
            return Vec::new();
        }
        let reset = |direction: Direction| {
            let sequence = connection.expected[direction as usize]?;
            Some(packet::reset(connection.leaves_as(direction), sequence))
        };
        [Inbound, Direction::Outbound].into_iter().filter_map(reset).collect()
    }

    fn count(&mut self, owner: Owner, direction: Direction, packet: Ip<'_>) {
        let Owner::Service(service, _) = owner else { return };
        let counters = &mut self.services[service];
        let (packets, bytes) = match direction {
            Inbound => (&mut counters.in_packets, &mut counters.in_bytes),
            Direction::Outbound => (&mut counters.out_packets, &mut counters.out_bytes),
        };
        *packets += 1;
        *bytes += packet.total_len() as u64;
    }

    /// A connection ends.
    fn remove(&mut self, now: u64, connection: &Connection) {
        let (at, _) = self.find(&connection.flows[0]).expect("a connection to remove");
        self.connections.remove(at);
        self.recount();
        if let Some(pool) = connection.pool {
            self.pool_mut(pool).usage.in_use -= 1;
        }
        let setup = Rc::clone(&self.setup);
        if let Owner::Service(service, server) = connection.owner
            && let Some(persistence) = setup.rules.services[service].persistence
        {
            let counts = binds(connection);
            let client = *connection.flow(Inbound).src.ip();
            self.clients.disconnect(service, persistence, client, server, counts, now);
        }
    }

    /// Counts every server's connections anew.
    fn recount(&mut self) {
        for (place, server) in self.servers.iter_mut().enumerate() {
            let its = || self.connections.iter().filter(|c| c.server() == Some(place));
            let active = its().filter(|c| c.state == ConnectionState::Established).count();
            server.set_connections(active as u32, (its().count() - active) as u32);
        }
    }
}

/// Whether a connection that ends binds its client to its server for some time: it was more than an
/// attempt.
fn binds(connection: &Connection) -> bool {
    connection.state != ConnectionState::SynRecv
}
