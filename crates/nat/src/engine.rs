use std::net::Ipv4Addr;

use shunt_packet::{
    icmp::IcmpHeader,
    ipv4::{Ipv4Packet, protocol},
    tcp::TcpFlags,
};

use crate::{
    connection::{Connection, ConnectionKind},
    counters::{EngineCounters, ServerCounters, ServiceCounters},
    flow::{Direction, FlowKey, Segment},
    icmp,
    ruleset::{Ruleset, ServerId, ServiceId},
    state::{ConnectionState, Timeouts},
    table::{ConnectionId, ConnectionTable, InsertError},
    time::Instant,
    verdict::{DropReason, Reply, Verdict},
};

/// Which of the director's two networks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Where the clients are.
    Outside,
    /// Where the real servers are.
    Inside,
}

/// What the engine has to know of the director's surroundings; asked only when a connection opens.
pub trait Topology {
    /// Whether the address is the director's own: a port's address, or one that it answers for.
    fn is_local(&self, address: Ipv4Addr) -> bool;

    /// On which side the route to this address leads out, if there is one.
    fn side_of(&self, address: Ipv4Addr) -> Option<Side>;
}

/// The sizes and limits of an engine.
#[derive(Clone, Copy, Debug)]
pub struct EngineConfig {
    /// Connections that there is room for, at most 2^30.
    pub capacity: u32,
    /// A secret of this boot, under which the connection table hashes.
    pub secret: [u64; 4],
    /// How long connections may be silent.
    pub timeouts: Timeouts,
}

/// The NAT engine of one worker.
pub struct Engine {
    rules: Ruleset,
    table: ConnectionTable,
    timeouts: Timeouts,
    counters: EngineCounters,
    services: Vec<ServiceCounters>,
    servers: Vec<ServerCounters>,
}

impl Engine {
    /// An engine without connections.
    ///
    /// # Panics
    /// When there is no memory for the connection table.
    #[must_use]
    pub fn new(config: &EngineConfig, rules: Ruleset) -> Engine {
        Engine {
            table: ConnectionTable::new(config.capacity, config.secret),
            timeouts: config.timeouts,
            counters: EngineCounters::default(),
            services: vec![ServiceCounters::default(); rules.service_count()],
            servers: vec![ServerCounters::default(); rules.server_count()],
            rules,
        }
    }

    /// What to do with a sound, checksummed IPv4 packet that arrived on `side`. Of the packet, only
    /// ICMP errors are changed here; see [`Verdict`].
    pub fn process(
        &mut self,
        now: Instant,
        side: Side,
        packet: &mut Ipv4Packet<'_>,
        topology: &impl Topology,
    ) -> Verdict {
        if packet.header.is_fragment() {
            return self.process_fragment(packet);
        }
        if packet.header.protocol() == protocol::ICMP {
            return self.process_icmp(packet);
        }
        match Segment::parse(packet) {
            Ok(Some(segment)) => self.process_segment(now, side, packet, segment, topology),
            Ok(None) => Verdict::Punt,
            Err(reason) => Verdict::Drop(DropReason::Malformed(reason)),
        }
    }

    /// Ends connections that have been silent for too long, looking at no more than `budget`
    /// records, so that a worker can bound the time it takes.
    pub fn expire(&mut self, now: Instant, mut budget: usize) {
        while let Some(connection) = self.table.expire(now, &mut budget) {
            self.counters.expired += 1;
            self.forget(&connection);
        }
    }

    /// The connections.
    #[must_use]
    pub fn table(&self) -> &ConnectionTable {
        &self.table
    }

    /// The engine's own counters.
    #[must_use]
    pub fn counters(&self) -> &EngineCounters {
        &self.counters
    }

    /// Counters of all services, by [`ServiceId`].
    #[must_use]
    pub fn service_counters(&self) -> &[ServiceCounters] {
        &self.services
    }

    /// Counters of all servers, by [`ServerId`].
    #[must_use]
    pub fn server_counters(&self) -> &[ServerCounters] {
        &self.servers
    }

    fn process_segment(
        &mut self,
        now: Instant,
        side: Side,
        packet: &Ipv4Packet<'_>,
        segment: Segment,
        topology: &impl Topology,
    ) -> Verdict {
        match self.table.lookup(&segment.key) {
            Some((id, direction)) if !self.reopens(id, &segment) => {
                self.process_hit(now, packet, &segment, id, direction)
            }
            _ => self.process_miss(now, side, packet, &segment, topology),
        }
    }

    /// Whether the endpoints of a connection that both ends are done with are used for a new one
    /// (RFC 6191). The old one stays until the new one takes its place.
    fn reopens(&self, id: ConnectionId, segment: &Segment) -> bool {
        segment.flags.is_some_and(TcpFlags::opens) && self.table.get(id).state().is_closing()
    }

    fn process_hit(
        &mut self,
        now: Instant,
        packet: &Ipv4Packet<'_>,
        segment: &Segment,
        id: ConnectionId,
        direction: Direction,
    ) -> Verdict {
        if packet.header.ttl() <= 1 {
            return Verdict::Reply(Reply::TimeExceeded);
        }
        let record = self.table.get(id);
        let state = match segment.flags {
            Some(flags) => record.state().after(direction, flags),
            None => record.state(),
        };
        let (kind, translation) = (record.kind(), record.translation(direction));
        self.table.note_packet(id, state, || self.timeouts.of(state), now);
        self.count(kind, direction, packet);
        Verdict::Translate(translation)
    }

    fn process_miss(
        &mut self,
        now: Instant,
        side: Side,
        packet: &Ipv4Packet<'_>,
        segment: &Segment,
        topology: &impl Topology,
    ) -> Verdict {
        let (src, dst) = (*segment.key.src().ip(), *segment.key.dst().ip());
        if side == Side::Outside
            && let Some(service) = self.rules.service(&segment.key)
        {
            return match refuse(packet, segment) {
                Some(refusal) => refusal,
                None => self.open_service(now, packet, segment, service),
            };
        }
        if topology.is_local(dst) {
            return Verdict::Punt;
        }
        match (side, topology.side_of(dst)) {
            (Side::Inside, Some(Side::Outside)) if self.rules.snat_covers(src) => {
                match refuse(packet, segment) {
                    Some(refusal) => refusal,
                    None => self.open_snat(now, packet, segment),
                }
            }
            // Replies to what the outside opened must not be taken for connections to be SNATed.
            (Side::Outside, Some(Side::Inside))
                if self.rules.snat_covers(dst) && refuse(packet, segment).is_none() =>
            {
                let key = segment.key;
                self.open(now, packet, key, key.reverse(), ConnectionKind::Passthrough)
                    .unwrap_or_else(Verdict::Drop)
            }
            _ => Verdict::Punt,
        }
    }

    fn open_service(
        &mut self,
        now: Instant,
        packet: &Ipv4Packet<'_>,
        segment: &Segment,
        service: ServiceId,
    ) -> Verdict {
        let key = segment.key;
        let Some(scheduled) = self.rules.schedule(service) else {
            self.services[service.0 as usize].refused += 1;
            return Verdict::Reply(match segment.flags {
                Some(_) => Reply::Reset,
                None => Reply::PortUnreachable,
            });
        };
        // A server may already serve this very client endpoint through another service: the others
        // are tried in its place then.
        for server in self.rules.candidates(service, scheduled) {
            let Some(real) = self.rules.active_endpoint(server) else { continue };
            let outbound = FlowKey::new(key.protocol(), real, key.src());
            let kind = ConnectionKind::Service(service, server);
            match self.open(now, packet, key, outbound, kind) {
                Err(DropReason::TupleInUse) => {}
                result => return result.unwrap_or_else(Verdict::Drop),
            }
        }
        Verdict::Drop(DropReason::TupleInUse)
    }

    fn open_snat(&mut self, now: Instant, packet: &Ipv4Packet<'_>, segment: &Segment) -> Verdict {
        let key = segment.key;
        let Some((address, ports)) = self.rules.snat_of(*key.src().ip()) else {
            return Verdict::Punt;
        };
        // A port is free for this destination when no connection expects replies on it: so one
        // port serves many destinations (RFC 4787, "address and port-dependent mapping").
        let table = &self.table;
        let replies = |port| {
            let outside = std::net::SocketAddrV4::new(address, port);
            FlowKey::new(key.protocol(), key.dst(), outside)
        };
        let is_free = |port| {
            table.lookup(&replies(port)).is_none_or(|(id, _)| table.get(id).state().is_closing())
        };
        let Some(port) = ports.allocate(key.src().port(), is_free) else {
            return Verdict::Drop(DropReason::SnatPortsExhausted);
        };
        self.open(now, packet, key, replies(port), ConnectionKind::Snat)
            .unwrap_or_else(Verdict::Drop)
    }

    /// Adds a connection and translates the packet that opens it.
    fn open(
        &mut self,
        now: Instant,
        packet: &Ipv4Packet<'_>,
        inbound: FlowKey,
        outbound: FlowKey,
        kind: ConnectionKind,
    ) -> Result<Verdict, DropReason> {
        let state = match (inbound.protocol(), kind) {
            (protocol::UDP, _) => ConnectionState::Udp,
            (_, ConnectionKind::Snat) => ConnectionState::SynSent,
            _ => ConnectionState::SynRecv,
        };
        let id = self.insert(now, inbound, outbound, kind, state)?;
        self.counters.opened += 1;
        if let ConnectionKind::Service(service, server) = kind {
            self.services[service.0 as usize].connections += 1;
            self.servers[server.0 as usize].connections += 1;
            self.servers[server.0 as usize].current += 1;
        }
        self.count(kind, Direction::Inbound, packet);
        Ok(Verdict::Translate(self.table.get(id).translation(Direction::Inbound)))
    }

    /// Inserts into the table, in the place of connections that both ends are done with.
    fn insert(
        &mut self,
        now: Instant,
        inbound: FlowKey,
        outbound: FlowKey,
        kind: ConnectionKind,
        state: ConnectionState,
    ) -> Result<ConnectionId, DropReason> {
        let state_and_timeout = (state, self.timeouts.of(state));
        loop {
            match self.table.insert(inbound, outbound, kind, state_and_timeout, now) {
                Ok(id) => return Ok(id),
                Err(InsertError::Full) => return Err(DropReason::TableFull),
                Err(InsertError::InUse(id)) if self.table.get(id).state().is_closing() => {
                    self.replace(id);
                }
                Err(InsertError::InUse(_)) => return Err(DropReason::TupleInUse),
            }
        }
    }

    fn process_icmp(&mut self, packet: &mut Ipv4Packet<'_>) -> Verdict {
        match IcmpHeader::split(packet.payload) {
            Err(reason) => return Verdict::Drop(DropReason::Malformed(reason)),
            Ok((header, _)) if header.is_redirect() => {
                return Verdict::Drop(DropReason::IcmpRedirect);
            }
            Ok((header, _)) if !header.is_error() => return Verdict::Punt,
            Ok(_) => {}
        }
        let Some(quoted) = icmp::quoted_key(packet) else { return Verdict::Punt };
        // What is quoted left here; its answers would arrive under the reverse key.
        let Some((id, direction)) = self.table.lookup(&quoted.reverse()) else {
            return Verdict::Punt;
        };
        if packet.header.ttl() <= 1 {
            return Verdict::Reply(Reply::TimeExceeded);
        }
        let original = self.table.get(id).key(direction.opposite());
        icmp::translate_error(packet, &quoted, &original);
        self.counters.icmp_errors += 1;
        Verdict::Forward
    }

    /// Only the first fragment of a packet has ports, so none of those that would have to be
    /// translated can be let through.
    fn process_fragment(&self, packet: &Ipv4Packet<'_>) -> Verdict {
        let header = &packet.header;
        let has_ports = matches!(header.protocol(), protocol::TCP | protocol::UDP);
        let concerned =
            self.rules.translates_to(header.dst()) || self.rules.translates_from(header.src());
        if has_ports && concerned { Verdict::Drop(DropReason::Fragment) } else { Verdict::Punt }
    }

    fn count(&mut self, kind: ConnectionKind, direction: Direction, packet: &Ipv4Packet<'_>) {
        let ConnectionKind::Service(service, _) = kind else { return };
        let counters = &mut self.services[service.0 as usize];
        let bytes = u64::from(packet.header.total_len());
        match direction {
            Direction::Inbound => {
                counters.in_packets += 1;
                counters.in_bytes += bytes;
            }
            Direction::Outbound => {
                counters.out_packets += 1;
                counters.out_bytes += bytes;
            }
        }
    }

    fn replace(&mut self, id: ConnectionId) {
        let removed = self.table.remove(id);
        self.counters.replaced += 1;
        self.forget(&removed);
    }

    fn forget(&mut self, connection: &Connection) {
        if let ConnectionKind::Service(_, ServerId(server)) = connection.kind() {
            self.servers[server as usize].current -= 1;
        }
    }
}

/// Why a packet without a connection may not open one, if so: it is no first packet, or would go no
/// further.
fn refuse(packet: &Ipv4Packet<'_>, segment: &Segment) -> Option<Verdict> {
    match segment.flags {
        Some(flags) if flags.has(TcpFlags::RST) => {
            Some(Verdict::Drop(DropReason::UnknownConnection))
        }
        Some(flags) if !flags.opens() => Some(Verdict::Reply(Reply::Reset)),
        _ if packet.header.ttl() <= 1 => Some(Verdict::Reply(Reply::TimeExceeded)),
        _ => None,
    }
}
