//! Packets that belong to no connection: they open one, or it is said why not.

use std::{
    net::{IpAddr, SocketAddrV4},
    rc::Rc,
};

use shunt_nat::{
    ConnectionState,
    Direction::{Inbound, Outbound},
    DropReason, Reply, Side, Topology,
};
use shunt_rules::{ForwardingMode, LatePackets, OnUnknown};

use super::{Arrival, Model, Service};
use crate::{
    connection::{Connection, Owner, PoolName},
    flow::Flow,
    outcome::Outcome::{self, *},
    rewrite::translated,
    setup::Lab,
    state::{is_half_open, is_over},
    wire::{ICMP, Ip, Kind, RST, Segment, TCP, UDP, v4},
    witness::Witness,
};

impl Model {
    pub(super) fn receive_unknown(
        &mut self,
        arrival: Arrival,
        packet: Ip<'_>,
        segment: &Segment,
        witness: Witness<'_>,
    ) -> Outcome {
        if let Some(service) = self.dialled(&segment.flow)
            && (arrival.side == Side::Outside || self.serves_inside(service))
        {
            let on_unknown = self.options(service).on_unknown(&self.rules.defaults);
            return refusal(packet, segment, on_unknown)
                .unwrap_or_else(|| self.open_service(arrival, packet, segment, service, witness));
        }
        let (src, dst) = (*segment.flow.src.ip(), *segment.flow.dst.ip());
        if Lab.is_local(dst) {
            return Punted;
        }
        let rules = Rc::clone(&self.rules);
        let snat =
            |host| rules.snat.iter().position(|rule| rule.from.contains(&IpAddr::from(host)));
        match (arrival.side, Lab.side_of(dst)) {
            (Side::Inside, Some(Side::Outside)) => {
                if let Some((server, leaves_as)) = self.one_packet_reply(&segment.flow) {
                    if packet.ttl() <= 1 {
                        return Answered(Reply::TimeExceeded);
                    }
                    self.count_for(server, Outbound, packet);
                    return Sent(translated(packet.0, &leaves_as, None), Vec::new());
                }
                if let Some(outcome) = self.late(segment, snat(src).is_some()) {
                    return outcome;
                }
                match snat(src) {
                    Some(rule) => self.open_snat(arrival, packet, segment, rule, witness),
                    None => Punted,
                }
            }
            // The answers must not be taken for something that the inside begins.
            (Side::Outside, Some(Side::Inside))
                if (snat(dst).is_some() || self.is_server(&segment.flow.reverse()))
                    && segment.opens()
                    && packet.ttl() > 1 =>
            {
                let flows = [segment.flow, segment.flow.reverse()];
                let opened = self.open(arrival, packet, flows, Owner::Passthrough, false, witness);
                opened.unwrap_or_else(Dropped)
            }
            _ => Punted,
        }
    }

    /// What becomes of a packet that a service's server sends outwards from where it serves, without
    /// opening anything.
    fn late(&self, segment: &Segment, is_snat: bool) -> Option<Outcome> {
        let service = self.serving(&segment.flow)?;
        let on_unknown = self.options(service).on_unknown(&self.rules.defaults);
        let resets = match self.rules.defaults.late_packets {
            LatePackets::Forward => return None,
            LatePackets::OnUnknown => on_unknown == OnUnknown::Reset,
            answer => answer == LatePackets::Reset,
        };
        match segment.kind {
            _ if segment.flow.protocol == TCP && segment.opens() => None,
            Kind::Udp if is_snat => None,
            Kind::Tcp { flags, .. } if resets && flags & RST == 0 => Some(Answered(Reply::Reset)),
            _ => Some(Dropped(DropReason::LatePacket)),
        }
    }

    /// Whether what comes like this must not leave as it is.
    pub(super) fn is_server(&self, flow: &Flow) -> bool {
        self.rules.defaults.late_packets != LatePackets::Forward && self.serving(flow).is_some()
    }

    /// The service that a packet comes from. A server that listens on a certain port goes before one that
    /// does so wherever its clients dial, unless these can dial one port only.
    fn serving(&self, flow: &Flow) -> Option<usize> {
        let known = (0..self.services.len()).filter(|service| self.services[*service].is_some());
        let removed = known.filter(|service| !self.order.contains(service));
        let services: Vec<_> = self.order.iter().copied().chain(removed).collect();
        let serves = |service: usize, by_range: bool| {
            let options = self.options(service);
            let has_protocol = options.protocols.iter().any(|p| p.number() == flow.protocol);
            let Service { listed, removed_servers, .. } = self.service(service);
            has_protocol
                && listed.iter().chain(removed_servers).any(|server| {
                    let real = &self.server(*server).real;
                    v4(real.address) == *flow.src.ip()
                        && options.endpoints.iter().any(|endpoint| {
                            let is_range = real.port.is_none() && endpoint.ports.len() > 1;
                            let port = flow.src.port();
                            is_range == by_range
                                && match real.port {
                                    Some(rport) => rport == port,
                                    None => endpoint.ports.contains(&port),
                                }
                        })
                })
        };
        [false, true].into_iter().find_map(|by_range| {
            services.iter().copied().find(|service| serves(*service, by_range))
        })
    }

    /// The service that a packet dials: the one with the narrowest range of ports that fits, and of
    /// several with the same range the last.
    fn dialled(&self, flow: &Flow) -> Option<usize> {
        let services = self.order.iter().map(|service| (*service, self.options(*service))).rev();
        let fitting = services.filter(|(_, service)| {
            service.protocols.iter().any(|protocol| protocol.number() == flow.protocol)
        });
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
        let service = self.options(service);
        let is_hidden = service.mode == ForwardingMode::FullNat || self.rules.hairpin.is_some();
        is_hidden && !service.one_packet
    }

    fn open_service(
        &mut self,
        arrival: Arrival,
        packet: Ip<'_>,
        segment: &Segment,
        service: usize,
        witness: Witness<'_>,
    ) -> Outcome {
        let mut choices = self.choices(arrival, &segment.flow, service);
        let last = choices.pop().expect("one choice at least");
        for choice in choices {
            let mut attempt = self.clone();
            let outcome = attempt.open_to(arrival, packet, segment, service, choice, witness);
            let worker = arrival.worker;
            let is_same = |pool| {
                attempt.pool(worker, pool).exhausted == witness.usage(worker, pool).exhausted
            };
            let searched_alike = attempt.pools().all(is_same);
            if witness.saw(&outcome) && searched_alike && attempt.given().eq(witness.given()) {
                *self = attempt;
                return outcome;
            }
        }
        self.open_to(arrival, packet, segment, service, last, witness)
    }

    /// The servers to which a new connection may be given, or none: the one that the client keeps,
    /// else one that the scheduler may pick, else the fallback.
    fn choices(&mut self, arrival: Arrival, flow: &Flow, service: usize) -> Vec<Option<usize>> {
        let kept = self.persistence(service).and_then(|persistence| {
            self.clients.server(service, persistence, *flow.src.ip(), arrival.now)
        });
        if let Some(kept) = kept
            && self.scheduled(service).contains(&kept)
            && self.server(kept).is_usable()
        {
            return vec![Some(kept)];
        }
        let scheduled = self.scheduled(service).to_vec();
        let servers: Vec<_> = scheduled.iter().map(|server| self.server(*server).clone()).collect();
        let picks = self.service_mut(service).scheduler.pick(arrival.worker, &servers);
        let mut choices: Vec<_> =
            picks.servers.into_iter().map(|server| Some(scheduled[server])).collect();
        if picks.nobody {
            choices.push(self.fallback(service).filter(|server| self.server(*server).is_usable()));
        }
        choices
    }

    pub(super) fn scheduled(&self, service: usize) -> &[usize] {
        let service = self.service(service);
        &service.listed[..service.scheduled]
    }

    fn fallback(&self, service: usize) -> Option<usize> {
        let service = self.service(service);
        service.listed.get(service.scheduled).copied()
    }

    /// Connections that servers were given.
    pub(crate) fn given(&self) -> impl Iterator<Item = u64> {
        self.servers.iter().map(|server| server.as_ref().map_or(0, |server| server.given))
    }

    fn open_to(
        &mut self,
        arrival: Arrival,
        packet: Ip<'_>,
        segment: &Segment,
        service: usize,
        chosen: Option<usize>,
        witness: Witness<'_>,
    ) -> Outcome {
        let options = Rc::clone(&self.service(service).options);
        let Some(chosen) = chosen else {
            self.service_mut(service).counters.refused += 1;
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
            ForwardingMode::Nat if arrival.side == Side::Inside => Some(PoolName::Hairpin),
            ForwardingMode::Nat => None,
        };
        // A server may know this client's endpoint from another service, or no source endpoint may be
        // free towards it: the others are tried then, after a fourth vain search no more.
        let (mut refusal, mut searches) = (DropReason::TupleInUse, 0);
        let fallback = self.fallback(service);
        let others = if Some(chosen) == fallback { &[] } else { self.scheduled(service) };
        let others: Vec<_> = others.iter().copied().filter(|server| *server != chosen).collect();
        for server in [chosen].into_iter().chain(others) {
            if !self.server(server).is_usable() {
                continue;
            }
            let real = self.endpoint(server, flow.dst.port());
            let seen_as = match pool {
                None => flow.src,
                Some(pool) => match self.allocate(arrival.worker, pool, flow, real, witness) {
                    Some(seen_as) => seen_as,
                    None => {
                        refusal = DropReason::LocalPortsExhausted;
                        searches += 1;
                        if searches > 3 {
                            break;
                        }
                        continue;
                    }
                },
            };
            let flows = [flow, Flow { src: real, dst: seen_as, ..flow }];
            let owner = Owner::Service(service, server);
            match self.open(arrival, packet, flows, owner, pool.is_some(), witness) {
                Ok(outcome) => {
                    if let Some(persistence) = options.persistence
                        && Some(server) != fallback
                    {
                        let client = *flow.src.ip();
                        self.clients.give(service, persistence, client, server, arrival.now);
                    }
                    return outcome;
                }
                Err(DropReason::TupleInUse) => refusal = DropReason::TupleInUse,
                Err(reason) => return Dropped(reason),
            }
        }
        Dropped(refusal)
    }

    fn open_snat(
        &mut self,
        arrival: Arrival,
        packet: Ip<'_>,
        segment: &Segment,
        rule: usize,
        witness: Witness<'_>,
    ) -> Outcome {
        if let Some(refusal) = refusal(packet, segment, self.rules.defaults.on_unknown) {
            return refusal;
        }
        let (flow, pool) = (segment.flow, PoolName::Snat(rule));
        let seen_as = match segment.kind {
            Kind::Other if [33, 51, 136].contains(&flow.protocol) => {
                return Dropped(DropReason::Untranslatable);
            }
            Kind::Other => self.allocate_address(arrival.worker, pool, flow, witness),
            _ => self.allocate(arrival.worker, pool, flow, flow.dst, witness),
        };
        let Some(seen_as) = seen_as else {
            return Dropped(DropReason::SnatPortsExhausted);
        };
        let flows = [flow, Flow { src: flow.dst, dst: seen_as, ..flow }];
        self.open(arrival, packet, flows, Owner::Snat, true, witness).unwrap_or_else(Dropped)
    }

    /// RIP:rport of a server for who dialled `vport`.
    fn endpoint(&self, server: usize, vport: u16) -> SocketAddrV4 {
        let real = &self.server(server).real;
        SocketAddrV4::new(v4(real.address), real.port.unwrap_or(vport))
    }

    /// The service that a datagram from one of its servers answers for, and how it leaves.
    pub(super) fn one_packet_reply(&self, flow: &Flow) -> Option<((usize, usize), Flow)> {
        if flow.protocol != UDP {
            return None;
        }
        self.order.iter().rev().copied().find_map(|service| {
            let options = self.options(service);
            let vip = options.endpoints.first().filter(|_| options.one_packet)?;
            let from = SocketAddrV4::new(v4(vip.address), *vip.ports.start());
            let mut listed = self.service(service).listed.iter().rev();
            let is_it = |server: &&usize| self.endpoint(**server, from.port()) == flow.src;
            let server = *listed.find(is_it)?;
            Some(((service, server), Flow { src: from, ..*flow }))
        })
    }

    /// A source endpoint for a connection with `peer`: one on which no connection expects packets from
    /// there but one of the opener's that is over, else one on which another's is over that does. And
    /// not the opener's own.
    fn allocate(
        &mut self,
        worker: usize,
        name: PoolName,
        flow: Flow,
        peer: SocketAddrV4,
        witness: Witness<'_>,
    ) -> Option<SocketAddrV4> {
        let user = |endpoint: &SocketAddrV4| {
            let answers = Flow { src: peer, dst: *endpoint, ..flow };
            self.find(worker, &answers).map(|(at, _)| &self.connections[at])
        };
        let is_own = |user: &Connection| user.flow(Inbound).src == flow.src;
        let others = self.pool(worker, name).endpoints().filter(|endpoint| *endpoint != flow.src);
        let over: Vec<_> = others
            .filter(|endpoint| user(endpoint).is_none_or(|user| is_over(user.state)))
            .collect();
        let is_free = |endpoint: &SocketAddrV4| user(endpoint).is_none_or(is_own);
        let free: Vec<_> = over.iter().copied().filter(is_free).collect();
        let candidates = if free.is_empty() { over } else { free.clone() };
        let pool = self.pool_mut(worker, name);
        let allocated = pool.allocate(flow.src, &candidates, witness.seen_as(worker, flow))?;
        let was_long = witness.usage(worker, name).scarce > pool.scarce;
        pool.scarce += u64::from(was_long && pool.is_scarce(free.len()));
        Some(allocated)
    }

    /// The same for packets without ports: an address on which nobody else hears from that peer.
    fn allocate_address(
        &mut self,
        worker: usize,
        name: PoolName,
        flow: Flow,
        witness: Witness<'_>,
    ) -> Option<SocketAddrV4> {
        let is_free = |endpoint: &SocketAddrV4| {
            self.find(worker, &Flow { src: flow.dst, dst: *endpoint, ..flow }).is_none()
        };
        let addresses = self.pool(worker, name).addresses_with_ports();
        let all: Vec<_> = addresses.map(|address| SocketAddrV4::new(address, 0)).collect();
        let free: Vec<_> = all.into_iter().filter(is_free).collect();
        let seen_as = witness.seen_as(worker, flow);
        self.pool_mut(worker, name).allocate_address(*flow.src.ip(), &free, seen_as)
    }

    /// Opens a connection between two flows and translates the packet that does so.
    fn open(
        &mut self,
        arrival: Arrival,
        packet: Ip<'_>,
        flows: [Flow; 2],
        owner: Owner,
        is_hidden: bool,
        witness: Witness<'_>,
    ) -> Result<Outcome, DropReason> {
        self.make_room(arrival, &flows, witness)?;
        let state = match (flows[0].protocol, owner) {
            (TCP, Owner::Snat) => ConnectionState::SynSent,
            (TCP, _) => ConnectionState::SynRecv,
            (ICMP, _) => ConnectionState::Icmp,
            _ => ConnectionState::UdpOneWay,
        };
        let timeout = self.timeout(owner, state);
        let Arrival { now, worker, side } = arrival;
        let (last_seen, expected) = (now, [None; 2]);
        let connection = Connection {
            worker,
            side,
            flows,
            owner,
            is_hidden,
            state,
            last_seen,
            timeout,
            expected,
            binds_client: false,
        };
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
        self.service_mut(service).counters.connections += 1;
        self.server_mut(server).given += 1;
    }

    /// Removes what is in the way of a new connection, if it may be.
    fn make_room(
        &mut self,
        Arrival { now, worker, .. }: Arrival,
        flows: &[Flow; 2],
        witness: Witness<'_>,
    ) -> Result<(), DropReason> {
        for flow in flows {
            let Some((at, _)) = self.find(worker, flow) else { continue };
            let user = self.connections[at].clone();
            if !is_over(user.state) {
                return Err(DropReason::TupleInUse);
            }
            self.counters.replaced += 1;
            self.remove(now, &user);
        }
        if self.connections_of(worker).count() == self.capacity {
            let victim = self.victim(worker, witness).ok_or(DropReason::TableFull)?;
            self.counters.evicted += 1;
            self.remove(now, &victim);
        }
        Ok(())
    }

    /// Who has to leave a worker's full table: a connection that is half open, else one that is over. The
    /// engine looks at 64 records at random; where these are more than a third it does not miss
    /// them.
    fn victim(&self, worker: usize, witness: Witness<'_>) -> Option<Connection> {
        let all = || self.connections_of(worker);
        let half_open = all().filter(|c| is_half_open(c.state));
        let over = all().filter(|c| is_over(c.state));
        let is_missed = |count: usize| 3 * count <= all().count();
        let victim = all().find(|connection| !witness.has(connection));
        let is_right = match victim {
            None => is_missed(half_open.clone().count() + over.clone().count()),
            Some(victim) if is_over(victim.state) => is_missed(half_open.clone().count()),
            Some(victim) => is_half_open(victim.state),
        };
        let expected = || half_open.chain(over).next();
        if is_right { victim.cloned() } else { expected().cloned() }
    }
}

/// Why a packet without a connection opens none, if so.
fn refusal(packet: Ip<'_>, segment: &Segment, on_unknown: OnUnknown) -> Option<Outcome> {
    match segment.kind {
        Kind::Reply => Some(Dropped(DropReason::UnknownConnection)),
        Kind::Tcp { flags, .. } if flags & RST != 0 => Some(Dropped(DropReason::UnknownConnection)),
        Kind::Tcp { .. } if !segment.opens() => Some(match on_unknown {
            OnUnknown::Reset => Answered(Reply::Reset),
            OnUnknown::Drop => Dropped(DropReason::UnknownConnection),
        }),
        _ if packet.ttl() <= 1 => Some(Answered(Reply::TimeExceeded)),
        _ => None,
    }
}
