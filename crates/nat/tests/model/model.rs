//! The whole NAT, as simply as can be: vectors, searched from one end to the other.

use std::{net::SocketAddrV4, rc::Rc};

use shunt_nat::{
    ConnectionState,
    Direction::{self, Inbound},
    DropReason, EngineCounters, ForwardingMode, OnUnknown, Reply, ServiceCounters, Side, Timeouts,
    Topology, VirtualService,
};

use crate::{
    clients::Clients,
    connection::{Connection, Owner, PoolName},
    flow::Flow,
    fragments::{Fate, Fragments},
    outcome::Outcome::{self, *},
    packet,
    pool::Pool,
    rewrite::{translated, translated_error},
    servers::{Scheduler, Server},
    setup::{Lab, Setup},
    state::{is_half_open, is_over},
    wire::{self, Content, ICMP, Ip, Kind, RST, Segment, TCP, UDP},
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
    /// the engine, but it looks at no more than `budget`. Returns the resets that go out.
    pub(crate) fn expire(&mut self, now: u64, budget: usize, witness: Witness<'_>) -> Vec<Vec<u8>> {
        self.fragments.forget_old(now);
        let is_ended =
            |connection: &&Connection| self.deadline(connection) <= now && !witness.has(connection);
        let ended: Vec<_> =
            self.connections.iter().filter(is_ended).take(budget).cloned().collect();
        for connection in &ended {
            self.counters.expired += 1;
            self.remove(now, connection);
        }
        ended.iter().flat_map(|connection| self.resets(connection)).collect()
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

    /// Counts every server's connections anew.
    fn recount(&mut self) {
        for (place, server) in self.servers.iter_mut().enumerate() {
            let its = || self.connections.iter().filter(|c| c.server() == Some(place));
            let active = its().filter(|c| c.state == ConnectionState::Established).count();
            server.set_connections(active as u32, (its().count() - active) as u32);
        }
    }
}

/// Packets of known connections.
impl Model {
    /// A packet with its transport header.
    fn receive_whole(
        &mut self,
        now: u64,
        side: Side,
        packet: Ip<'_>,
        witness: Witness<'_>,
    ) -> Outcome {
        let segment = match wire::read(packet) {
            Ok(Content::Segment(segment)) => segment,
            Ok(Content::IcmpError) => return self.receive_icmp_error(packet),
            Ok(Content::Redirect) => return Dropped(DropReason::IcmpRedirect),
            Ok(Content::Other) => return Punted,
            Err(malformed) => return Dropped(DropReason::Malformed(malformed)),
        };
        if let Some((at, direction)) = self.find(&segment.flow) {
            let goes_there = match segment.kind {
                Kind::EchoRequest => direction == Inbound,
                Kind::EchoReply => direction == Direction::Outbound,
                Kind::Tcp { .. } | Kind::Udp => true,
            };
            // RFC 6191: the endpoints of a connection that is over may be used again.
            let begins_anew = segment.flow.protocol == TCP
                && segment.opens()
                && is_over(self.connections[at].state);
            if goes_there && !begins_anew {
                return self.receive_known(now, packet, &segment, at, direction);
            }
        }
        self.receive_unknown(now, side, packet, &segment, witness)
    }

    fn receive_known(
        &mut self,
        now: u64,
        packet: Ip<'_>,
        segment: &Segment,
        at: usize,
        direction: Direction,
    ) -> Outcome {
        if packet.ttl() <= 1 {
            return Answered(Reply::TimeExceeded);
        }
        let connection = &mut self.connections[at];
        let is_believed = connection.see(direction, segment.kind, now);
        let (owner, leaves_as) = (connection.owner, connection.leaves_as(direction));
        self.counters.disbelieved_resets += u64::from(!is_believed);
        self.count(owner, direction, packet);
        self.recount();
        Sent(translated(packet.0, &leaves_as, self.mss_limit(owner)), Vec::new())
    }

    fn receive_icmp_error(&mut self, packet: Ip<'_>) -> Outcome {
        // What is quoted left here, so its answers would arrive the other way round.
        let Some(quoted) = wire::quoted_flow(packet) else { return Punted };
        let Some((at, direction)) = self.find(&quoted.reverse()) else { return Punted };
        if packet.ttl() <= 1 {
            return Answered(Reply::TimeExceeded);
        }
        self.counters.icmp_errors += 1;
        let original = self.connections[at].flow(direction.opposite());
        Forwarded(translated_error(packet.0, &quoted, &original))
    }

    fn receive_fragment(
        &mut self,
        now: u64,
        side: Side,
        packet: Ip<'_>,
        witness: Witness<'_>,
    ) -> Outcome {
        if !self.may_translate(packet) {
            return Punted;
        }
        match self.fragments.admit(packet, now) {
            Err(error) => Dropped(DropReason::Fragment(error)),
            Ok(Fate::Unknown) if packet.fragment_offset() == 0 => {
                self.receive_first_fragment(now, side, packet, witness)
            }
            Ok(Fate::Unknown) => Held,
            Ok(Fate::Translated(_)) if packet.ttl() <= 1 => Answered(Reply::TimeExceeded),
            Ok(Fate::Translated(to)) => Sent(translated(packet.0, &to, None), Vec::new()),
            Ok(Fate::Punted) => Punted,
            Ok(Fate::Refused | Fate::Overlapped) => Dropped(DropReason::FragmentRefused),
        }
    }

    fn receive_first_fragment(
        &mut self,
        now: u64,
        side: Side,
        packet: Ip<'_>,
        witness: Witness<'_>,
    ) -> Outcome {
        let outcome = self.receive_whole(now, side, packet, witness);
        match outcome {
            Sent(left, _) => {
                let to = endpoints(&left);
                let waiting = self.fragments.decide(packet, Fate::Translated(to), now);
                let followers = waiting.iter().map(|packet| translated(packet, &to, None));
                Sent(left, followers.collect())
            }
            Punted => {
                self.fragments.decide(packet, Fate::Punted, now);
                Punted
            }
            other => {
                self.fragments.decide(packet, Fate::Refused, now);
                other
            }
        }
    }

    /// Whether fragments of such a packet have to be looked at: it comes from or goes to somebody
    /// whose packets are translated, or has to be known for its answers' sake.
    fn may_translate(&self, packet: Ip<'_>) -> bool {
        let (src, dst) = (packet.src(), packet.dst());
        let rules = &self.setup.rules;
        let is_virtual =
            rules.services.iter().any(|s| s.endpoints.iter().any(|e| e.address == dst));
        [TCP, UDP, ICMP].contains(&packet.protocol())
            && (is_virtual
                || rules.snat.iter().any(|rule| rule.to.contains(&dst))
                || rules.snat.iter().any(|r| r.from.contains(&src) || r.from.contains(&dst))
                || self.servers.iter().any(|server| server.real.address == src))
    }
}

/// The addresses of a packet, as far as later fragments need them.
fn endpoints(packet: &[u8]) -> Flow {
    let ip = Ip(packet);
    let endpoint = |address| SocketAddrV4::new(address, 0);
    Flow { protocol: ip.protocol(), src: endpoint(ip.src()), dst: endpoint(ip.dst()) }
}

/// Packets that belong to no connection.
impl Model {
    fn receive_unknown(
        &mut self,
        now: u64,
        side: Side,
        packet: Ip<'_>,
        segment: &Segment,
        witness: Witness<'_>,
    ) -> Outcome {
        if let Some(service) = self.dialled(&segment.flow)
            && (side == Side::Outside || self.serves_inside(service))
        {
            let on_unknown = self.setup.rules.services[service].on_unknown;
            return refusal(packet, segment, on_unknown).unwrap_or_else(|| {
                self.open_service(now, side, packet, segment, service, witness)
            });
        }
        let (src, dst) = (*segment.flow.src.ip(), *segment.flow.dst.ip());
        if Lab.is_local(dst) {
            return Punted;
        }
        let rules = &self.setup.rules;
        let snat = |host| rules.snat.iter().position(|rule| rule.from.contains(&host));
        match (side, Lab.side_of(dst)) {
            (Side::Inside, Some(Side::Outside)) => {
                if let Some((service, leaves_as)) = self.one_packet_reply(&segment.flow) {
                    if packet.ttl() <= 1 {
                        return Answered(Reply::TimeExceeded);
                    }
                    self.services[service].out_packets += 1;
                    self.services[service].out_bytes += packet.total_len() as u64;
                    return Sent(translated(packet.0, &leaves_as, None), Vec::new());
                }
                match snat(src) {
                    Some(rule) => self.open_snat(now, packet, segment, rule, witness),
                    None => Punted,
                }
            }
            // The answers must not be taken for something that the inside begins.
            (Side::Outside, Some(Side::Inside))
                if snat(dst).is_some() && segment.opens() && packet.ttl() > 1 =>
            {
                let flows = [segment.flow, segment.flow.reverse()];
                let opened = self.open(now, packet, flows, Owner::Passthrough, None, witness);
                opened.unwrap_or_else(Dropped)
            }
            _ => Punted,
        }
    }

    /// The service that a packet dials: the one with the narrowest range of ports that fits, and of
    /// several with the same range the last.
    fn dialled(&self, flow: &Flow) -> Option<usize> {
        let services = self.setup.rules.services.iter().enumerate().rev();
        let fitting = services.filter(|(_, service)| service.protocols.contains(&flow.protocol));
        let endpoints = fitting
            .flat_map(|(at, service)| service.endpoints.iter().map(move |endpoint| (at, endpoint)));
        endpoints
            .filter(|(_, endpoint)| endpoint.address == *flow.dst.ip())
            .filter(|(_, endpoint)| endpoint.ports.contains(&flow.dst.port()))
            .min_by_key(|(_, endpoint)| endpoint.ports.len())
            .map(|(at, _)| at)
    }

    /// An inside client's server must not see its address, or it would answer directly.
    fn serves_inside(&self, service: usize) -> bool {
        let service = &self.setup.rules.services[service];
        let is_hidden =
            service.mode == ForwardingMode::FullNat || self.setup.rules.hairpin.is_some();
        is_hidden && !service.one_packet
    }

    fn open_service(
        &mut self,
        now: u64,
        side: Side,
        packet: Ip<'_>,
        segment: &Segment,
        service: usize,
        witness: Witness<'_>,
    ) -> Outcome {
        let mut choices = self.choices(now, &segment.flow, service);
        let last = choices.pop().expect("one choice at least");
        for choice in choices {
            let mut attempt = self.clone();
            let outcome = attempt.open_to(now, side, packet, segment, service, choice, witness);
            let given = attempt.servers.iter().map(|server| server.given);
            // The fragments that wait are only seen to later.
            if is_alike(&outcome, witness.outcome) && given.eq(witness.given()) {
                *self = attempt;
                return outcome;
            }
        }
        self.open_to(now, side, packet, segment, service, last, witness)
    }

    /// The servers to which a new connection may be given, or none: the one that the client keeps,
    /// else one that the scheduler may pick, else the fallback.
    fn choices(&mut self, now: u64, flow: &Flow, service: usize) -> Vec<Option<usize>> {
        let first = self.first_server(service);
        let options = &self.setup.rules.services[service];
        let kept = options
            .persistence
            .and_then(|persistence| self.clients.server(service, persistence, *flow.src.ip(), now));
        if let Some(kept) = kept
            && self.servers[kept].is_usable()
        {
            return vec![Some(kept)];
        }
        let fallback = first + options.servers.len();
        let servers = &self.servers[first..fallback];
        let picks = self.schedulers[service].pick(servers);
        let mut choices: Vec<_> =
            picks.servers.into_iter().map(|server| Some(first + server)).collect();
        if picks.nobody {
            let is_usable = options.fallback.is_some() && self.servers[fallback].is_usable();
            choices.push(is_usable.then_some(fallback));
        }
        choices
    }

    fn first_server(&self, service: usize) -> usize {
        let before = &self.setup.rules.services[..service];
        before.iter().map(|s| s.servers.len() + usize::from(s.fallback.is_some())).sum()
    }

    #[expect(clippy::too_many_arguments, reason = "it is what there is to know")]
    fn open_to(
        &mut self,
        now: u64,
        side: Side,
        packet: Ip<'_>,
        segment: &Segment,
        service: usize,
        chosen: Option<usize>,
        witness: Witness<'_>,
    ) -> Outcome {
        let setup = Rc::clone(&self.setup);
        let options = &setup.rules.services[service];
        let Some(chosen) = chosen else {
            self.services[service].refused += 1;
            return Answered(match segment.kind {
                Kind::Tcp { .. } => Reply::Reset,
                _ => Reply::PortUnreachable,
            });
        };
        let flow = segment.flow;
        if options.one_packet && flow.protocol == UDP {
            let owner = Owner::Service(service, chosen);
            self.note_given(service, chosen);
            self.count(owner, Inbound, packet);
            let leaves_as = Flow { dst: self.endpoint(chosen, flow.dst.port()), ..flow };
            return Sent(translated(packet.0, &leaves_as, None), Vec::new());
        }
        let pool = match options.mode {
            ForwardingMode::FullNat => Some(PoolName::Local),
            ForwardingMode::Nat if side == Side::Inside => Some(PoolName::Hairpin),
            ForwardingMode::Nat => None,
        };
        // A server may know this client's endpoint from another service: the others are tried then.
        let first = self.first_server(service);
        let fallback = first + options.servers.len();
        let others = if chosen == fallback { first..first } else { first..fallback };
        for server in [chosen].into_iter().chain(others.filter(|server| *server != chosen)) {
            if !self.servers[server].is_usable() {
                continue;
            }
            let real = self.endpoint(server, flow.dst.port());
            let seen_as = match pool {
                None => flow.src,
                Some(pool) => match self.allocate(pool, flow, real, witness) {
                    Some(seen_as) => seen_as,
                    None => return Dropped(DropReason::LocalPortsExhausted),
                },
            };
            let flows = [flow, Flow { src: real, dst: seen_as, ..flow }];
            let owner = Owner::Service(service, server);
            match self.open(now, packet, flows, owner, pool, witness) {
                Ok(outcome) => {
                    if let Some(persistence) = options.persistence
                        && server != fallback
                    {
                        self.clients.connect(service, persistence, *flow.src.ip(), server);
                    }
                    return outcome;
                }
                Err(DropReason::TupleInUse) => {}
                Err(reason) => return Dropped(reason),
            }
        }
        Dropped(DropReason::TupleInUse)
    }

    fn open_snat(
        &mut self,
        now: u64,
        packet: Ip<'_>,
        segment: &Segment,
        rule: usize,
        witness: Witness<'_>,
    ) -> Outcome {
        if let Some(refusal) = refusal(packet, segment, self.setup.on_unknown) {
            return refusal;
        }
        let (flow, pool) = (segment.flow, PoolName::Snat(rule));
        let Some(seen_as) = self.allocate(pool, flow, flow.dst, witness) else {
            return Dropped(DropReason::SnatPortsExhausted);
        };
        let flows = [flow, Flow { src: flow.dst, dst: seen_as, ..flow }];
        self.open(now, packet, flows, Owner::Snat, Some(pool), witness).unwrap_or_else(Dropped)
    }

    /// RIP:rport of a server for who dialled `vport`.
    fn endpoint(&self, server: usize, vport: u16) -> SocketAddrV4 {
        let real = &self.servers[server].real;
        SocketAddrV4::new(real.address, real.port.unwrap_or(vport))
    }

    /// The service that a datagram from one of its servers answers for, and how it leaves.
    fn one_packet_reply(&self, flow: &Flow) -> Option<(usize, Flow)> {
        if flow.protocol != UDP {
            return None;
        }
        let services = self.setup.rules.services.iter().enumerate().rev();
        services.filter(|(_, service)| service.one_packet).find_map(|(service, options)| {
            let vip = &options.endpoints[0];
            let from = SocketAddrV4::new(vip.address, *vip.ports.start());
            let first = self.first_server(service);
            let count = options.servers.len() + usize::from(options.fallback.is_some());
            let is_its = |server| self.endpoint(server, from.port()) == flow.src;
            (first..first + count).any(is_its).then_some((service, Flow { src: from, ..*flow }))
        })
    }

    /// A source endpoint for a connection with `peer`: one on which no living connection expects
    /// packets from there, and not the opener's own.
    fn allocate(
        &mut self,
        name: PoolName,
        flow: Flow,
        peer: SocketAddrV4,
        witness: Witness<'_>,
    ) -> Option<SocketAddrV4> {
        let is_free = |endpoint: &SocketAddrV4| {
            let answers = Flow { src: peer, dst: *endpoint, ..flow };
            let user = self.find(&answers).map(|(at, _)| &self.connections[at]);
            *endpoint != flow.src && user.is_none_or(|user| is_over(user.state))
        };
        let free: Vec<_> = self.pool(name).endpoints().filter(is_free).collect();
        let pool = self.pool_mut(name);
        let allocated = pool.allocate(flow.src, &free, witness.seen_as(flow))?;
        let was_long = witness.usage(name).scarce > pool.usage.scarce;
        pool.usage.scarce += u64::from(was_long && pool.is_scarce(free.len()));
        Some(allocated)
    }

    /// Opens a connection between two flows and translates the packet that does so.
    fn open(
        &mut self,
        now: u64,
        packet: Ip<'_>,
        flows: [Flow; 2],
        owner: Owner,
        pool: Option<PoolName>,
        witness: Witness<'_>,
    ) -> Result<Outcome, DropReason> {
        if let Err(reason) = self.make_room(now, &flows, witness) {
            if let Some(pool) = pool {
                self.pool_mut(pool).usage.in_use -= 1;
            }
            return Err(reason);
        }
        let state = match (flows[0].protocol, owner) {
            (UDP, _) => ConnectionState::UdpOneWay,
            (ICMP, _) => ConnectionState::Icmp,
            (_, Owner::Snat) => ConnectionState::SynSent,
            _ => ConnectionState::SynRecv,
        };
        let connection =
            Connection { flows, owner, pool, state, last_seen: now, expected: [None; 2] };
        let leaves_as = connection.leaves_as(Inbound);
        self.connections.push(connection);
        self.recount();
        self.counters.opened += 1;
        if let Owner::Service(service, server) = owner {
            self.note_given(service, server);
        }
        self.count(owner, Inbound, packet);
        Ok(Sent(translated(packet.0, &leaves_as, self.mss_limit(owner)), Vec::new()))
    }

    fn note_given(&mut self, service: usize, server: usize) {
        self.services[service].connections += 1;
        self.servers[server].given += 1;
    }

    /// Removes what is in the way of a new connection, if it may be.
    fn make_room(
        &mut self,
        now: u64,
        flows: &[Flow; 2],
        witness: Witness<'_>,
    ) -> Result<(), DropReason> {
        for flow in flows {
            let Some((at, _)) = self.find(flow) else { continue };
            let user = self.connections[at].clone();
            if !is_over(user.state) {
                return Err(DropReason::TupleInUse);
            }
            self.counters.replaced += 1;
            self.remove(now, &user);
        }
        if self.connections.len() == self.setup.capacity as usize {
            let victim = self.victim(witness).ok_or(DropReason::TableFull)?;
            self.counters.evicted += 1;
            self.remove(now, &victim);
        }
        Ok(())
    }

    /// Who has to leave a full table: a connection that is half open, else one that is over. The
    /// engine looks at 64 records at random; where these are more than a third it does not miss
    /// them.
    fn victim(&self, witness: Witness<'_>) -> Option<Connection> {
        let half_open = self.connections.iter().filter(|c| is_half_open(c.state));
        let over = self.connections.iter().filter(|c| is_over(c.state));
        let is_missed = |count: usize| 3 * count <= self.connections.len();
        let victim = self.connections.iter().find(|connection| !witness.has(connection));
        let is_right = match victim {
            None => is_missed(half_open.clone().count() + over.clone().count()),
            Some(victim) if is_over(victim.state) => is_missed(half_open.clone().count()),
            Some(victim) => is_half_open(victim.state),
        };
        let expected = || half_open.chain(over).next();
        if is_right { victim.cloned() } else { expected().cloned() }
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
            let was_begun_only = connection.state == ConnectionState::SynRecv;
            let until = now + persistence.timeout.as_millis() as u64;
            let until = (!was_begun_only).then_some(until);
            let client = *connection.flow(Inbound).src.ip();
            self.clients.disconnect(service, persistence, client, server, until);
        }
    }
}

/// Why a packet without a connection opens none, if so.
fn refusal(packet: Ip<'_>, segment: &Segment, on_unknown: OnUnknown) -> Option<Outcome> {
    match segment.kind {
        Kind::EchoReply => Some(Dropped(DropReason::UnknownConnection)),
        Kind::Tcp { flags, .. } if flags & RST != 0 => Some(Dropped(DropReason::UnknownConnection)),
        Kind::Tcp { .. } if !segment.opens() => Some(match on_unknown {
            OnUnknown::Reset => Answered(Reply::Reset),
            OnUnknown::Drop => Dropped(DropReason::UnknownConnection),
        }),
        _ if packet.ttl() <= 1 => Some(Answered(Reply::TimeExceeded)),
        _ => None,
    }
}

/// Whether two outcomes are the same but for the fragments that had waited.
fn is_alike(one: &Outcome, other: &Outcome) -> bool {
    match (one, other) {
        (Sent(one, _), Sent(other, _)) => one == other,
        _ => one == other,
    }
}
