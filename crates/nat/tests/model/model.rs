//! The whole NAT, as simply as can be: vectors, searched from one end to the other.

mod change;
mod known;
mod unknown;

use std::{net::Ipv4Addr, rc::Rc};

use shunt_nat::{
    ConnectionState,
    Direction::{self, Inbound},
    EngineCounters, PoolUsage, ServiceCounters, Side, Traffic,
};
use shunt_rules::{Persistence, Rules, SnatRule, VirtualService};

use crate::{
    clients::Clients,
    connection::{Connection, Owner, PoolName},
    flow::Flow,
    fragments::{Counted, Fragments},
    outcome::Outcome,
    packet,
    pool::Pool,
    servers::{Scheduler, Server},
    setup::Setup,
    state::is_over,
    wire::Ip,
    witness::Witness,
};

fn count_packet(traffic: &mut Traffic, direction: Direction, packet: Ip<'_>) {
    let (packets, bytes) = match direction {
        Inbound => (&mut traffic.in_packets, &mut traffic.in_bytes),
        Direction::Outbound => (&mut traffic.out_packets, &mut traffic.out_bytes),
    };
    *packets += 1;
    *bytes += packet.total_len() as u64;
}

#[derive(Clone)]
pub(crate) struct Model {
    /// Of each worker.
    capacity: usize,
    workers: Vec<Worker>,
    rules: Rc<Rules>,
    pub(crate) connections: Vec<Connection>,
    /// By number, like the servers: those of the rules, and those that were removed and had
    /// connections when the rules changed last.
    pub(crate) services: Vec<Option<Service>>,
    pub(crate) servers: Vec<Option<Server>>,
    /// The services of the rules in their order.
    order: Vec<usize>,
    pub(crate) clients: Clients,
    /// Rules that were removed, and whose addresses were in use when the rules changed last.
    former_snat: Vec<SnatRule>,
    pub(crate) counters: EngineCounters,
    /// For which service and server the last packet counted, if for one.
    counted: Counted,
}

/// What a worker has to itself, beside its connections and `wrr`'s credits.
#[derive(Clone, Default)]
struct Worker {
    fragments: Fragments,
    snat: Vec<Pool>,
    local: Pool,
    hairpin: Pool,
}

/// Where and when a packet arrives.
#[derive(Clone, Copy)]
pub(crate) struct Arrival {
    pub(crate) now: u64,
    pub(crate) worker: usize,
    pub(crate) side: Side,
}

#[derive(Clone)]
pub(crate) struct Service {
    /// Of a removed service, the last ones.
    options: Rc<VirtualService>,
    is_removed: bool,
    /// Its servers: first those that are scheduled, then the fallback.
    listed: Vec<usize>,
    scheduled: usize,
    removed_servers: Vec<usize>,
    /// Virtual addresses that it had before.
    former_addresses: Vec<Ipv4Addr>,
    scheduler: Scheduler,
    pub(crate) counters: ServiceCounters,
}

impl Model {
    pub(crate) fn new(setup: &Setup) -> Model {
        let mut model = Model {
            capacity: setup.capacity as usize,
            workers: vec![Worker::default(); setup.workers],
            rules: Rc::default(),
            connections: Vec::new(),
            services: Vec::new(),
            servers: Vec::new(),
            order: Vec::new(),
            clients: Clients::default(),
            former_snat: Vec::new(),
            counters: EngineCounters::default(),
            counted: None,
        };
        model.change(0, &setup.rules);
        model
    }

    /// What becomes of a packet that arrives.
    pub(crate) fn receive(
        &mut self,
        arrival: Arrival,
        packet: Ip<'_>,
        witness: Witness<'_>,
    ) -> Outcome {
        if packet.is_fragment() {
            self.receive_fragment(arrival, packet, witness)
        } else {
            self.receive_whole(arrival, packet, witness)
        }
    }

    /// A worker ends connections that were silent for as long as they may be, or whose server was drained for
    /// as long as they may outlive that. When it comes to each is up to the engine, and in which
    /// order, but it looks at no more than `budget`. Returns the resets that go out.
    pub(crate) fn expire(
        &mut self,
        now: u64,
        worker: usize,
        budget: usize,
        witness: Witness<'_>,
    ) -> Vec<Vec<u8>> {
        self.workers[worker].fragments.forget_old(now);
        let is_due = |c: &Connection| c.deadline() <= now || self.is_drained(now, c);
        let is_ended = |connection: &&Connection| is_due(connection) && !witness.has(connection);
        let ended: Vec<_> =
            self.connections_of(worker).filter(is_ended).take(budget).cloned().collect();
        let mut resets = Vec::new();
        for connection in &ended {
            let is_told = if self.is_drained(now, connection) {
                self.counters.drained += 1;
                !is_over(connection.state)
            } else {
                self.counters.expired += 1;
                self.resets_on_expiry(connection.owner)
                    && connection.state == ConnectionState::Established
            };
            if is_told {
                resets.extend(self::resets(connection));
            }
            self.remove(now, connection);
        }
        resets
    }

    /// Whether a connection has outlived the draining of its server for as long as it may.
    pub(crate) fn is_drained(&self, now: u64, connection: &Connection) -> bool {
        let Owner::Service(service, server) = connection.owner else { return false };
        let timeout = self.options(service).drain_timeout;
        let since = self.server(server).drained_since;
        since.zip(timeout).is_some_and(|(since, timeout)| since + timeout.as_millis() as u64 <= now)
    }

    pub(crate) fn service(&self, number: usize) -> &Service {
        self.services[number].as_ref().expect("a service")
    }

    fn service_mut(&mut self, number: usize) -> &mut Service {
        self.services[number].as_mut().expect("a service")
    }

    pub(crate) fn server(&self, number: usize) -> &Server {
        self.servers[number].as_ref().expect("a server")
    }

    fn server_mut(&mut self, number: usize) -> &mut Server {
        self.servers[number].as_mut().expect("a server")
    }

    fn options(&self, service: usize) -> &VirtualService {
        &self.service(service).options
    }

    /// Clients of a service that was removed keep nothing.
    fn persistence(&self, service: usize) -> Option<Persistence> {
        self.options(service).persistence.filter(|_| !self.service(service).is_removed)
    }

    pub(crate) fn connections_of(
        &self,
        worker: usize,
    ) -> impl Iterator<Item = &Connection> + Clone {
        self.connections.iter().filter(move |connection| connection.worker == worker)
    }

    /// Packets of which a worker has seen fragments, but not all.
    pub(crate) fn incomplete_packets(&self, worker: usize) -> usize {
        self.workers[worker].fragments.len()
    }

    /// The connection that a packet belongs to: its place, and the packet's direction. All that belong
    /// to it come to the worker that has it ([`crate::run`] sees to that).
    pub(crate) fn find(&self, worker: usize, flow: &Flow) -> Option<(usize, Direction)> {
        self.connections.iter().enumerate().find_map(|(at, connection)| {
            let mut flows = connection.flows.iter().filter(|_| connection.worker == worker);
            let direction = flows.position(|own| own == flow)?;
            Some((at, [Inbound, Direction::Outbound][direction]))
        })
    }

    pub(crate) fn pool(&self, worker: usize, name: PoolName) -> &Pool {
        let Worker { snat, local, hairpin, .. } = &self.workers[worker];
        match name {
            PoolName::Snat(rule) => &snat[rule],
            PoolName::Local => local,
            PoolName::Hairpin => hairpin,
        }
    }

    fn pool_mut(&mut self, worker: usize, name: PoolName) -> &mut Pool {
        let Worker { snat, local, hairpin, .. } = &mut self.workers[worker];
        match name {
            PoolName::Snat(rule) => &mut snat[rule],
            PoolName::Local => local,
            PoolName::Hairpin => hairpin,
        }
    }

    pub(crate) fn pools(&self) -> impl Iterator<Item = PoolName> {
        let snat = (0..self.rules.snat.len()).map(PoolName::Snat);
        snat.chain([PoolName::Local, PoolName::Hairpin])
    }

    /// What can be seen of a worker's pool. It counts all the worker's connections on its addresses.
    pub(crate) fn usage(&self, worker: usize, name: PoolName) -> PoolUsage {
        let pool = self.pool(worker, name);
        let addresses = pool.addresses();
        let uses = |c: &&Connection| c.source().is_some_and(|source| addresses.contains(&source));
        PoolUsage {
            endpoints: pool.endpoints().count() as u64,
            in_use: self.connections_of(worker).filter(uses).count() as u64,
            scarce: pool.scarce,
            exhausted: pool.exhausted,
        }
    }

    fn timeout(&self, owner: Owner, state: ConnectionState) -> u64 {
        let timeouts = match owner {
            Owner::Service(service, _) => self.options(service).timeouts(&self.rules.defaults),
            Owner::Snat | Owner::Passthrough => self.rules.defaults.timeouts,
        };
        state.timeout(&timeouts).as_millis() as u64
    }

    pub(crate) fn mss_limit(&self, owner: Owner) -> Option<u16> {
        match owner {
            Owner::Service(service, _) => self.options(service).mss_limit,
            Owner::Snat | Owner::Passthrough => None,
        }
    }

    fn resets_on_expiry(&self, owner: Owner) -> bool {
        match owner {
            Owner::Service(service, _) => {
                self.options(service).reset_on_expiry(&self.rules.defaults)
            }
            Owner::Snat | Owner::Passthrough => self.rules.defaults.reset_on_expiry,
        }
    }

    fn count(&mut self, owner: Owner, direction: Direction, packet: Ip<'_>) {
        if let Owner::Service(service, server) = owner {
            self.count_for((service, server), direction, packet);
        }
    }

    fn count_for(
        &mut self,
        (service, server): (usize, usize),
        direction: Direction,
        packet: Ip<'_>,
    ) {
        self.counted = Some(((service, server), direction));
        count_packet(&mut self.service_mut(service).counters.traffic, direction, packet);
        count_packet(&mut self.server_mut(server).traffic, direction, packet);
    }

    /// A connection ends.
    fn remove(&mut self, now: u64, connection: &Connection) {
        let (at, _) =
            self.find(connection.worker, &connection.flows[0]).expect("a connection to remove");
        self.connections.remove(at);
        self.recount();
        if let Owner::Service(service, server) = connection.owner
            && let Some(persistence) = self.persistence(service)
        {
            let client = *connection.flow(Inbound).src.ip();
            if connection.binds_client {
                self.clients.disconnect(service, persistence, client, server, now);
            }
        }
    }

    /// Counts every server's connections anew.
    fn recount(&mut self) {
        for (place, server) in self.servers.iter_mut().enumerate() {
            let Some(server) = server else { continue };
            let its = || self.connections.iter().filter(|c| c.server() == Some(place));
            let active = its().filter(|c| c.state == ConnectionState::Established).count();
            server.set_connections(active as u32, (its().count() - active) as u32);
        }
    }
}

/// Both ends are told, each in the name of the other, provided that its sequence numbers are known.
fn resets(connection: &Connection) -> impl Iterator<Item = Vec<u8>> {
    [Inbound, Direction::Outbound].into_iter().filter_map(|direction| {
        let sequence = connection.expected[direction as usize]?;
        Some(packet::reset(connection.leaves_as(direction), sequence))
    })
}
