mod burst;
mod drain;
mod egress;
mod fast_path;
mod fragments;
mod icmp;
mod inspect;
mod open;
mod preschedule;

use std::{net::Ipv4Addr, sync::Arc};

use crossbeam_utils::CachePadded;

use arrayvec::ArrayVec;
use shunt_packet::{
    ipv4::{Ipv4Header, Ipv4Packet},
    plain::PlainPacket,
    tcp::{self, TcpFlags},
};
use shunt_rules::{ServerId, ServiceId};

use shunt_rules::Timeouts;

use crate::{
    Side,
    connection::{Connection, ConnectionKind},
    counters::{EngineCounters, LiveEngineCounters, ServerCounters, ServiceCounters},
    flow::{Direction, FlowKey, Segment, SegmentKind},
    fragments::{FragmentTracker, TrackerLimits},
    ruleset::{Ruleset, Standing},
    state::ConnectionState,
    table::{Acknowledgment, ConnectionId, ConnectionTable, Lookup, TableMemoryError},
    time::Instant,
    verdict::{DropReason, Reply, Verdict},
};

pub use burst::{Burst, BurstPacket, MAX_BURST, PrefetchedBurst, Processed, SlowPath};
use drain::Drain;
use egress::EgressSearch;
use fragments::FragmentAction;
pub use inspect::{ConnectionFilter, ConnectionInfo, Cursor, Origin};
use preschedule::Prescheduled;

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
}

/// A packet of a burst: what it says of itself, and how far its connection was looked up. The default
/// is a packet of which nothing is known.
#[derive(Clone, Copy, Default)]
struct PendingLookup(Option<(Segment, Lookup)>);

/// A client of a persistent service, and the server that it keeps.
type BoundClient = (ServiceId, ServerId, Ipv4Addr);

/// Clients that are owed their release at most: those beyond it are remembered for longer than they should.
const MAX_OWED: usize = 64;

/// The NAT engine of one worker.
pub struct Engine {
    rules: Ruleset,
    table: ConnectionTable,
    counters: Arc<CachePadded<LiveEngineCounters>>,
    drain: Drain,
    prescheduled: Prescheduled,
    /// Whether the last search for a connection that the full table can do without was in vain.
    is_crowded: bool,
    egress_search: EgressSearch,
    fragments: FragmentTracker<FragmentAction>,
    /// Clients whose connection ended while somebody else held up the persistence table, and when it did.
    owed: ArrayVec<(BoundClient, Instant), MAX_OWED>,
}

impl Engine {
    /// An engine without connections. To be made on the lcore that uses it: see
    /// [`ConnectionTable::new`].
    ///
    /// # Errors
    /// When there is no memory for the connection table.
    pub fn new(config: &EngineConfig, rules: Ruleset) -> Result<Engine, TableMemoryError> {
        Ok(Engine {
            table: ConnectionTable::new(config.capacity, config.secret)?,
            counters: Arc::default(),
            drain: Drain::default(),
            prescheduled: Prescheduled::default(),
            is_crowded: false,
            egress_search: EgressSearch::default(),
            fragments: FragmentTracker::new(TrackerLimits::default(), config.secret),
            owed: ArrayVec::new(),
            rules,
        })
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
        self.process_looked_up(now, side, packet, &PendingLookup::default(), topology)
    }

    /// Reads a packet's headers, and prefetches the part of the index that leads to its connection.
    #[inline]
    fn prefetch_bucket(&self, packet: &PlainPacket<'_>) -> PendingLookup {
        // Expired TTLs take the slow path, which answers them.
        if packet.header.ttl() <= 1 {
            return PendingLookup::default();
        }
        let segment = Segment::of(packet);
        PendingLookup(Some((segment, self.table.prefetch_bucket(&segment.key))))
    }

    /// Prefetches the connection. Returns whether there is certainly none, so that the packet may open
    /// one.
    #[inline]
    fn prefetch_record(&self, lookup: &mut PendingLookup) -> bool {
        let PendingLookup(Some((_, lookup))) = lookup else { return false };
        self.table.prefetch_record(lookup);
        lookup.is_miss()
    }

    /// What to do with a packet that was looked up, and not changed since.
    #[inline(never)]
    fn process_looked_up(
        &mut self,
        now: Instant,
        side: Side,
        packet: &mut Ipv4Packet<'_>,
        lookup: &PendingLookup,
        topology: &impl Topology,
    ) -> Verdict {
        match lookup {
            PendingLookup(Some((segment, lookup))) => {
                let found = self.table.finish_lookup(*lookup, &segment.key);
                self.process_segment(now, side, packet, segment, found, topology)
            }
            PendingLookup(None) if packet.header.is_fragment() => {
                self.process_fragment(now, side, packet, topology)
            }
            PendingLookup(None) => self.process_whole(now, side, packet, topology),
        }
    }

    /// A packet with its transport header: a whole one, or a first fragment.
    fn process_whole(
        &mut self,
        now: Instant,
        side: Side,
        packet: &mut Ipv4Packet<'_>,
        topology: &impl Topology,
    ) -> Verdict {
        match Segment::parse(packet) {
            Ok(Some(segment)) => {
                let found = self.table.lookup(&segment.key);
                self.process_segment(now, side, packet, &segment, found, topology)
            }
            Ok(None) => self.process_icmp(side, packet, topology),
            Err(reason) => Verdict::Drop(DropReason::Malformed(reason)),
        }
    }

    /// Ends connections that have been silent for too long, and those whose server was drained and
    /// whose time is over, looking at no more than `budget` records, so that a worker can bound the
    /// time it takes. Where both ends are to be told, `send` gets a reset for each: an IPv4 packet to
    /// be routed.
    pub fn expire(
        &mut self,
        now: Instant,
        mut budget: usize,
        mut send: impl FnMut(&[u8; tcp::RESET_LEN]),
    ) {
        self.fragments.expire(now);
        if !self.owed.is_empty() {
            self.release_owed();
        }
        self.search_egresses(budget);
        while budget > 0 {
            let expired = self.table.expire(now, &mut budget);
            if expired.is_empty() {
                break;
            }
            for expired in expired {
                let connection = self.table.end(expired);
                self.end_expired(now, &connection, &mut send);
            }
        }
        self.end_all_drained(now, budget, send);
    }

    fn end_expired(
        &mut self,
        now: Instant,
        connection: &Connection,
        send: &mut impl FnMut(&[u8; tcp::RESET_LEN]),
    ) {
        if self.is_drained(connection, now) {
            return self.end_drained(now, connection, send);
        }
        self.counters.expired.add(1);
        if self.resets_on_expiry(connection) {
            resets(connection).into_iter().flatten().for_each(|reset| send(&reset));
        }
        self.forget(now, connection);
    }

    /// Goes over to other rules, and returns those that applied so far, to be dropped where that
    /// disturbs nobody. Connections live on: under the new options of their service, or the last ones
    /// of a service that was removed.
    pub fn replace_rules(&mut self, mut rules: Ruleset) -> Ruleset {
        // What they are known by may be gone with the rules.
        self.release_owed();
        self.owed.clear();
        rules.take_over(&mut self.rules);
        let before = std::mem::replace(&mut self.rules, rules);
        self.search_servers_again();
        self.drain.plan(self.rules.next_drain());
        before
    }

    /// The connections.
    #[must_use]
    pub fn table(&self) -> &ConnectionTable {
        &self.table
    }

    /// The rules, and the state of what they schedule.
    #[must_use]
    pub fn rules(&self) -> &Ruleset {
        &self.rules
    }

    /// Packets of which fragments came, and which are not complete.
    #[must_use]
    pub fn incomplete_packets(&self) -> usize {
        self.fragments.len()
    }

    /// The engine's own counters.
    #[must_use]
    pub fn counters(&self) -> EngineCounters {
        self.counters.get()
    }

    /// The engine's own counters, to be read while it counts.
    #[must_use]
    pub fn live_counters(&self) -> &Arc<CachePadded<LiveEngineCounters>> {
        &self.counters
    }

    /// Counters of all services, by [`ServiceId`]; numbers that nobody has count nothing.
    pub fn service_counters(&self) -> impl Iterator<Item = ServiceCounters> {
        self.rules.service_counters()
    }

    /// Counters of all servers, by [`ServerId`]; numbers that nobody has count
    /// nothing.
    pub fn server_counters(&self) -> impl Iterator<Item = ServerCounters> {
        self.rules.server_counters()
    }

    fn process_segment(
        &mut self,
        now: Instant,
        side: Side,
        packet: &Ipv4Packet<'_>,
        segment: &Segment,
        found: Option<(ConnectionId, Direction)>,
        topology: &impl Topology,
    ) -> Verdict {
        match found {
            Some((id, direction)) if segment.goes(direction) && !self.reopens(id, segment) => {
                match self.unanswered(id, direction, segment) {
                    Standing::Gone if packet.header.ttl() > 1 => {
                        self.counters.rescheduled.add(1);
                        let removed = self.table.remove(id);
                        self.forget(now, &removed);
                        self.process_miss(now, side, packet, segment, topology)
                    }
                    standing => {
                        let is_alive = standing == Standing::InService;
                        self.process_hit(now, packet, segment, id, direction, is_alive)
                    }
                }
            }
            _ => self.process_miss(now, side, packet, segment, topology),
        }
    }

    /// Whether a segment uses the endpoints of a connection that both ends are done with for a new
    /// one (RFC 6191). The old one makes room when the new one is inserted.
    fn reopens(&self, id: ConnectionId, segment: &Segment) -> bool {
        matches!(segment.kind, SegmentKind::Tcp { flags, .. } if flags.opens())
            && self.table.get(id).state().is_closing()
    }

    /// How it stands with a server that a client tries to reach, and that has not answered; all is well
    /// with all others.
    fn unanswered(&self, id: ConnectionId, direction: Direction, segment: &Segment) -> Standing {
        let record = self.table.get(id);
        match record.kind() {
            ConnectionKind::Service(service, server)
                if direction == Direction::Inbound && segment.opens() && record.is_unanswered() =>
            {
                self.rules.standing(service, server)
            }
            _ => Standing::InService,
        }
    }

    /// A packet of a connection, which it keeps `alive`, or not.
    fn process_hit(
        &mut self,
        now: Instant,
        packet: &Ipv4Packet<'_>,
        segment: &Segment,
        id: ConnectionId,
        direction: Direction,
        is_alive: bool,
    ) -> Verdict {
        if packet.header.ttl() <= 1 {
            return Verdict::Reply(Reply::TimeExceeded);
        }
        let record = self.table.get(id);
        let (kind, before) = (record.kind(), record.state());
        let translation = record.translation(direction);
        let after = self.next_state(id, direction, segment);
        let timeout = || after.timeout(timeouts_of(&self.rules, kind));
        let acknowledgment = match segment.kind {
            SegmentKind::Tcp { flags, sequence, acknowledgment }
                if flags.contains(TcpFlags::ACK) =>
            {
                Some(Acknowledgment { sequence, number: acknowledgment })
            }
            _ => None,
        };
        if is_alive {
            self.table.note_packet(id, direction, acknowledgment, (after, timeout), now);
        }
        self.count(kind, direction, packet.header);
        let ConnectionKind::Service(service, server) = kind else {
            return Verdict::Translate(translation);
        };
        let is_answered = before.is_half_open() && !after.is_half_open();
        if is_answered && after != ConnectionState::Close {
            let client = *self.table.get(id).key(Direction::Inbound).src().ip();
            if self.rules.bind_client(service, server, client, now) {
                self.table.bind_client(id);
            }
        }
        let is_active = after == ConnectionState::Established;
        if is_active != (before == ConnectionState::Established) {
            self.rules.move_connection(service, server, is_active);
        }
        Verdict::Translate(translation.with_mss_limit(self.rules.options(service).mss_limit))
    }

    fn next_state(
        &mut self,
        id: ConnectionId,
        direction: Direction,
        segment: &Segment,
    ) -> ConnectionState {
        let record = self.table.get(id);
        match segment.kind {
            SegmentKind::Tcp { flags, sequence, .. }
                if flags.contains(TcpFlags::RST) && !record.believes_reset(direction, sequence) =>
            {
                self.counters.out_of_window_resets.add(1);
                record.state()
            }
            // An opener alone gets nowhere, or a flood could fill the table with what must stay.
            SegmentKind::Tcp { flags, .. }
                if !flags.contains(TcpFlags::RST)
                    && direction == Direction::Inbound
                    && record.is_unanswered() =>
            {
                record.state()
            }
            SegmentKind::Tcp { flags, sequence, acknowledgment }
                if !flags.contains(TcpFlags::RST) =>
            {
                let acknowledgment = flags.contains(TcpFlags::ACK).then_some(acknowledgment);
                if record.accepts(direction, sequence, acknowledgment) {
                    return record.state().after(direction, flags);
                }
                self.counters.out_of_window_fins.add(u64::from(flags.contains(TcpFlags::FIN)));
                record.state()
            }
            SegmentKind::Tcp { flags, .. } => record.state().after(direction, flags),
            SegmentKind::Udp | SegmentKind::Query { .. } | SegmentKind::Other => {
                record.state().after_datagram(direction)
            }
        }
    }

    #[inline(always)]
    fn count(&mut self, kind: ConnectionKind, direction: Direction, header: &Ipv4Header) {
        if let ConnectionKind::Service(_, server) = kind {
            self.rules.count_packet(server, direction, header);
        }
    }

    fn resets_on_expiry(&self, connection: &Connection) -> bool {
        let is_wanted = match connection.kind() {
            ConnectionKind::Service(service, _) => self.rules.options(service).reset_on_expiry,
            ConnectionKind::Snat | ConnectionKind::Passthrough => {
                self.rules.defaults().reset_on_expiry
            }
        };
        is_wanted && connection.state() == ConnectionState::Established
    }

    /// Has a client keep its server for some time only, once a connection of it has ended.
    fn release_client(&mut self, client: BoundClient, since: Instant) {
        let (service, server, address) = client;
        if !self.rules.release_client(service, server, address, since) && !self.owed.is_full() {
            self.owed.push((client, since));
        }
    }

    /// Tries again what could not be noted of clients.
    fn release_owed(&mut self) {
        for (client, since) in std::mem::take(&mut self.owed) {
            self.release_client(client, since);
        }
    }

    /// Releases the counters and ports of a connection that has left the table.
    fn forget(&mut self, now: Instant, connection: &Connection) {
        match connection.kind() {
            ConnectionKind::Service(service, server) => {
                let is_active = connection.state() == ConnectionState::Established;
                self.rules.remove_connection(service, server, is_active);
                if connection.binds_client() {
                    let client = *connection.key(Direction::Inbound).src().ip();
                    self.release_client((service, server, client), now);
                }
                if connection.is_full_nat() {
                    self.rules.release_source(seen_as(connection));
                }
            }
            ConnectionKind::Snat => self.rules.release_source(seen_as(connection)),
            ConnectionKind::Passthrough => {}
        }
    }
}

/// The timeouts of a connection.
fn timeouts_of(rules: &Ruleset, kind: ConnectionKind) -> &Timeouts {
    match kind {
        ConnectionKind::Service(service, _) => &rules.options(service).timeouts,
        ConnectionKind::Snat | ConnectionKind::Passthrough => &rules.defaults().timeouts,
    }
}

/// The address as which a connection's opener is seen by the other end.
fn seen_as(connection: &Connection) -> Ipv4Addr {
    *connection.key(Direction::Outbound).dst().ip()
}

/// The resets that end a connection at both ends, each as if the other end had sent it; an end
/// whose sequence numbers were never seen can't be told.
fn resets(connection: &Connection) -> [Option<[u8; tcp::RESET_LEN]>; 2] {
    [Direction::Inbound, Direction::Outbound].map(|direction| {
        let sequence = connection.expected(direction)?;
        let sent: FlowKey = connection.key(direction.opposite()).reverse();
        Some(tcp::reset(sent.src(), sent.dst(), sequence))
    })
}
