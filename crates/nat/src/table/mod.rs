//! The connection table of one worker: fixed capacity, never rehashed, never reallocated.
//!
//! A connection is one 64-byte [`Connection`] record, two entries in the index (one for the key of
//! either direction), and a place in the timing wheel.
//!
//! # Why two index entries
//!
//! Both directions contain the peer endpoint, so one entry under a hash of that endpoint alone
//! would do for both. But such a hash can be flooded: all inside hosts that talk to one popular
//! remote server share its endpoint, and a client may open connections to many virtual endpoints
//! from one port of its own. All of these would crowd one bucket. Hashing the whole key of each
//! direction costs six bytes more a connection and has no such weakness.

mod index;
mod memory;
mod scan;
mod tags;
mod wheel;

use std::{io, ops::Range, sync::Arc, time::Duration};

use ahash::RandomState;
use arrayvec::ArrayVec;
use crossbeam_utils::CachePadded;
use zerocopy::FromZeros;

use crate::{
    Side,
    connection::{Connection, ConnectionKind, Links},
    counters::Occupancy,
    egress::EgressId,
    egress_set::EgressSet,
    flow::{Direction, FlowKey},
    state::ConnectionState,
    time::Instant,
};
use index::{Entry, Index, MAX_RECORDS, Probe};
use memory::Slab;
pub(crate) use scan::ScanPosition;
use wheel::{NIL, Wheel};

pub use memory::Pages;

/// One for the key of either direction.
const ENTRIES_PER_RECORD: usize = 2;

/// A record's place in its table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ConnectionId(u32);

/// A lookup that is under way: see [`ConnectionTable::prefetch_bucket`].
#[derive(Clone, Copy, Debug)]
pub struct Lookup {
    hash: u64,
    probe: Probe,
}

impl Lookup {
    /// The key's hash.
    #[inline]
    pub(crate) fn hash(&self) -> u64 {
        self.hash
    }

    /// Whether the key certainly had no connection when the second step was taken.
    #[inline]
    pub(crate) fn is_miss(&self) -> bool {
        matches!(self.probe, Probe::Absent)
    }
}

/// What a TCP segment acknowledges, and its own sequence number.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Acknowledgment {
    pub(crate) sequence: u32,
    pub(crate) number: u32,
}

/// Why a connection could not be added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InsertError {
    /// No record is free, or the index has no room for its keys.
    Full,
    /// This connection already has one of the keys.
    InUse(ConnectionId),
}

/// A connection that has run out and is still in the index: [`ConnectionTable::end`] is what is left to
/// do.
#[derive(Debug)]
#[must_use = "it is in the index and not in the wheel"]
pub struct Expired {
    id: u32,
    hashes: [u64; ENTRIES_PER_RECORD],
}

/// Connections that end together, and so wait for memory together.
pub const EXPIRED_AT_ONCE: usize = 32;

/// There is no memory for a connection table.
#[derive(Debug, thiserror::Error)]
#[error("no memory for a table of {capacity} connections, {} MiB: {error}", .bytes >> 20)]
pub struct TableMemoryError {
    /// The connections that it was to have room for.
    pub capacity: usize,
    /// The memory that it takes.
    pub bytes: usize,
    /// What the kernel says.
    pub error: io::Error,
}

/// All connections of one worker.
pub struct ConnectionTable {
    records: Slab<Connection>,
    /// The first free record; the others follow through their links.
    free: u32,
    /// Records from here on were never used: no list has to be built through all of them at the start.
    untouched: u32,
    len: usize,
    index: Index,
    wheel: Wheel,
    hasher: RandomState,
    /// What is drawn from when a connection has to go.
    chance: u64,
    /// Readable by others.
    occupancy: Arc<CachePadded<Occupancy>>,
}

/// How many records are looked at for one that can go. With a tenth of the table half open, one in
/// 800 searches misses them.
const EVICTION_SAMPLES: usize = 64;

impl ConnectionTable {
    /// A table for `capacity` connections (at most 2^30), hashing under a secret of this boot. All of its
    /// memory is touched here: to be called on the lcore that uses it.
    ///
    /// # Errors
    /// When there is no memory for it.
    pub fn new(capacity: u32, secret: [u64; 4]) -> Result<ConnectionTable, TableMemoryError> {
        let wanted = capacity;
        let capacity = capacity.clamp(1, MAX_RECORDS) as usize;
        let no_memory = |error| {
            let bytes = ConnectionTable::memory_of(wanted);
            TableMemoryError { capacity, bytes, error }
        };
        let [a, b, c, d] = secret;
        Ok(ConnectionTable {
            records: Slab::zeroed(capacity).map_err(no_memory)?,
            free: NIL,
            untouched: 0,
            len: 0,
            index: Index::new(ENTRIES_PER_RECORD * capacity).map_err(no_memory)?,
            wheel: Wheel::new(),
            hasher: RandomState::with_seeds(a, b, c, d),
            chance: a,
            occupancy: Arc::default(),
        })
    }

    /// Connections in the table.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether there is no room for another one.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.len == self.records.len()
    }

    /// How many connections there is room for.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.records.len()
    }

    /// Bytes that records and index occupy when the table is full.
    #[must_use]
    pub fn memory(&self) -> usize {
        ConnectionTable::memory_of(self.records.len() as u32)
    }

    /// Bytes that a table for `capacity` connections occupies when it is full.
    #[must_use]
    pub fn memory_of(capacity: u32) -> usize {
        let capacity = capacity.clamp(1, MAX_RECORDS) as usize;
        capacity * size_of::<Connection>() + Index::memory_of(ENTRIES_PER_RECORD * capacity)
    }

    /// What kind of pages the table is in: the worse of records and index.
    #[must_use]
    pub fn pages(&self) -> Pages {
        self.records.pages().max(self.index.pages())
    }

    /// The connection that a packet with this key belongs to, and the packet's direction.
    #[inline]
    #[must_use]
    pub fn lookup(&self, key: &FlowKey) -> Option<(ConnectionId, Direction)> {
        self.find(self.hash(key), key)
    }

    /// The first of three steps of a lookup: hashes the key, and prefetches the part of the index that
    /// it leads to. Taken for a whole burst one after the other, the steps let its
    /// packets wait for memory together.
    #[inline]
    #[must_use]
    pub fn prefetch_bucket(&self, key: &FlowKey) -> Lookup {
        let hash = self.hash(key);
        self.index.prefetch(hash);
        Lookup { hash, probe: Probe::Unknown }
    }

    /// The second step: looks into the index, and prefetches the record that it most probably leads
    /// to.
    #[inline]
    pub fn prefetch_record(&self, lookup: &mut Lookup) {
        lookup.probe = self.index.probe(lookup.hash);
        if let Probe::Candidate(candidate) = lookup.probe {
            self.records.prefetch(candidate.record as usize);
        }
    }

    /// The third step: the answer. The table may have changed since the other steps, and these may
    /// have been left out.
    #[inline]
    #[must_use]
    pub fn finish_lookup(
        &self,
        lookup: Lookup,
        key: &FlowKey,
    ) -> Option<(ConnectionId, Direction)> {
        match lookup.probe {
            Probe::Candidate(candidate) if self.is_key_of(candidate, key) => {
                Some((ConnectionId(candidate.record), candidate.direction))
            }
            _ => self.find(lookup.hash, key),
        }
    }

    /// Prefetches the part of the index that a key leads to.
    #[inline]
    pub(crate) fn prefetch_key(&self, key: &FlowKey) {
        self.index.prefetch(self.hash(key));
    }

    /// How many connections are in each state, to be read while they come and go.
    #[must_use]
    pub fn occupancy(&self) -> &Arc<CachePadded<Occupancy>> {
        &self.occupancy
    }

    /// The record of a connection.
    #[must_use]
    pub fn get(&self, id: ConnectionId) -> &Connection {
        &self.records[id.0 as usize]
    }

    /// All connections, in no order.
    pub fn iter(&self) -> impl Iterator<Item = &Connection> {
        self.records[..self.untouched as usize]
            .iter()
            .filter(|record| record.state() != ConnectionState::None)
    }

    /// Adds a connection between two keys.
    ///
    /// # Errors
    /// When the table is full, or one of the keys is in use.
    pub fn insert(
        &mut self,
        inbound: FlowKey,
        outbound: FlowKey,
        kind: ConnectionKind,
        (state, timeout): (ConnectionState, Duration),
        now: Instant,
    ) -> Result<ConnectionId, InsertError> {
        let hashes = [self.hash(&inbound), self.hash(&outbound)];
        hashes.iter().for_each(|hash| self.index.prefetch(*hash));
        for (hash, key) in hashes.iter().zip([&inbound, &outbound]) {
            if let Some((id, _)) = self.find(*hash, key) {
                return Err(InsertError::InUse(id));
            }
        }
        let id = self.take_record().ok_or(InsertError::Full)?;
        self.records[id as usize] = Connection::new(inbound, outbound, kind, state, timeout, now);
        if self.add_to_index(id, hashes).is_err() {
            self.release_record(id);
            return Err(InsertError::Full);
        }
        self.wheel.link(&mut self.records, id, now + timeout);
        self.len += 1;
        self.occupancy.add(state);
        Ok(ConnectionId(id))
    }

    /// Notes a packet of this direction: what it acknowledges, if it does, and the state that it
    /// leads to.
    #[inline]
    pub(crate) fn note_packet(
        &mut self,
        id: ConnectionId,
        direction: Direction,
        acknowledgment: Option<Acknowledgment>,
        (state, timeout): (ConnectionState, impl FnOnce() -> Duration),
        now: Instant,
    ) {
        let record = &mut self.records[id.0 as usize];
        record.touch(now);
        if let Some(Acknowledgment { sequence, number }) = acknowledgment {
            record.note_acknowledgment(direction, sequence, number);
        }
        if record.state() != state {
            self.occupancy.remove(record.state());
            self.occupancy.add(state);
            let timeout = timeout();
            record.set_state(state, timeout);
            // Most changes bring the deadline nearer, and the wheel would come by too late.
            self.wheel.unlink(&mut self.records, id.0);
            self.wheel.link(&mut self.records, id.0, now + timeout);
        }
    }

    /// The record of a connection, for a packet that leaves its state and so its deadline as they are.
    #[inline]
    pub(crate) fn get_mut(&mut self, id: ConnectionId) -> &mut Connection {
        &mut self.records[id.0 as usize]
    }

    /// Notes that a connection's client keeps its server because of it.
    pub(crate) fn bind_client(&mut self, id: ConnectionId) {
        self.records[id.0 as usize].bind_client();
    }

    /// Notes on which side packets of this direction arrive, and which way out they take.
    pub(crate) fn set_egress(
        &mut self,
        id: ConnectionId,
        direction: Direction,
        side: Side,
        egress: EgressId,
    ) {
        self.records[id.0 as usize].set_egress(direction, side, egress);
    }

    /// How many records have ever been used: those of the connections are among the first so many.
    pub(crate) fn touched(&self) -> usize {
        self.untouched as usize
    }

    /// Has these records forget the ways out that are among `released`.
    pub(crate) fn forget_egresses(&mut self, records: Range<usize>, released: &EgressSet) {
        self.records[records].iter_mut().for_each(|record| record.forget_egresses(released));
    }

    /// A connection that a full table can do without: one that is half open, else one that both
    /// ends are done with. Found by looking at a few at random: a flood is hard to miss, and neither
    /// lists of candidates nor a search through the table cost anything before.
    pub(crate) fn evictable(&mut self) -> Option<ConnectionId> {
        let mut closing = None;
        for _ in 0..EVICTION_SAMPLES {
            // A linear congruential generator (Knuth's MMIX); its high bits are good enough here.
            self.chance = self
                .chance
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            let id = ((self.chance >> 32) * u64::from(self.untouched)) >> 32;
            let state = self.records[id as usize].state();
            if state.is_half_open() {
                return Some(ConnectionId(id as u32));
            }
            if state.is_closing() {
                closing = Some(ConnectionId(id as u32));
            }
        }
        closing
    }

    /// Removes a connection and returns what it was.
    pub fn remove(&mut self, id: ConnectionId) -> Connection {
        self.wheel.unlink(&mut self.records, id.0);
        let hashes = self.prefetch_keys(id.0);
        self.discard(id.0, hashes)
    }

    /// The next connections that have been silent for too long, found by looking at no more than
    /// `budget` records; `budget` is what is left of it. Each must be [ended](ConnectionTable::end)
    /// before anything else is done to the table; what that takes is prefetched meanwhile.
    pub fn expire(
        &mut self,
        now: Instant,
        budget: &mut usize,
    ) -> ArrayVec<Expired, EXPIRED_AT_ONCE> {
        let mut expired = ArrayVec::new();
        while *budget > 0 && !expired.is_full() {
            *budget -= 1;
            let Some(id) = self.wheel.next_due(&mut self.records, now) else { break };
            // The one after it is looked at next.
            self.records.prefetch(self.records[id as usize].links.next as usize);
            let remaining = self.records[id as usize].remaining(now);
            if remaining.is_zero() {
                expired.push(Expired { id, hashes: self.prefetch_keys(id) });
            } else {
                self.wheel.link(&mut self.records, id, now + remaining);
            }
        }
        expired
    }

    /// Removes a connection that has run out and returns what it was.
    #[expect(clippy::needless_pass_by_value, reason = "none can be ended twice")]
    pub fn end(&mut self, expired: Expired) -> Connection {
        let Expired { id, hashes } = expired;
        self.discard(id, hashes)
    }

    /// Hashes both keys of a record, and prefetches where they are in the index.
    fn prefetch_keys(&self, id: u32) -> [u64; ENTRIES_PER_RECORD] {
        let record = &self.records[id as usize];
        [Direction::Inbound, Direction::Outbound].map(|direction| {
            let hash = self.hash(&record.key(direction));
            self.index.prefetch(hash);
            hash
        })
    }

    #[inline]
    fn hash(&self, key: &FlowKey) -> u64 {
        self.hasher.hash_one(key.to_bits())
    }

    #[inline]
    fn find(&self, hash: u64, key: &FlowKey) -> Option<(ConnectionId, Direction)> {
        let entry = self.index.find(hash, |entry| self.is_key_of(entry, key))?;
        Some((ConnectionId(entry.record), entry.direction))
    }

    /// Whether packets of this direction of the record have this key; those of a free one have none.
    #[inline]
    fn is_key_of(&self, entry: Entry, key: &FlowKey) -> bool {
        self.records[entry.record as usize].key(entry.direction) == *key
    }

    fn take_record(&mut self) -> Option<u32> {
        if self.free != NIL {
            let id = self.free;
            self.free = self.records[id as usize].links.next;
            // The next connection gets it.
            self.records.prefetch(self.free as usize);
            Some(id)
        } else if (self.untouched as usize) < self.records.len() {
            self.untouched += 1;
            Some(self.untouched - 1)
        } else {
            None
        }
    }

    fn release_record(&mut self, id: u32) -> Connection {
        let mut empty = Connection::new_zeroed();
        empty.links = Links { next: self.free, previous: NIL };
        self.free = id;
        std::mem::replace(&mut self.records[id as usize], empty)
    }

    fn add_to_index(&mut self, record: u32, hashes: [u64; 2]) -> Result<(), index::Full> {
        let [inbound, outbound] = entries(record);
        self.index.insert(hashes[0], inbound)?;
        self.index.insert(hashes[1], outbound).inspect_err(|_| {
            self.index.remove(hashes[0], inbound);
        })
    }

    /// Takes an unlinked record out of the index and frees it.
    fn discard(&mut self, id: u32, hashes: [u64; ENTRIES_PER_RECORD]) -> Connection {
        for (hash, entry) in hashes.into_iter().zip(entries(id)) {
            self.index.remove(hash, entry);
        }
        self.len -= 1;
        self.occupancy.remove(self.records[id as usize].state());
        self.release_record(id)
    }
}

/// A record's entries in the index, by direction.
fn entries(record: u32) -> [Entry; ENTRIES_PER_RECORD] {
    [Direction::Inbound, Direction::Outbound].map(|direction| Entry { record, direction })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use shunt_packet::ipv4::protocol;
    use std::{
        collections::HashMap,
        net::{Ipv4Addr, SocketAddrV4},
    };

    const SECRET: [u64; 4] = [1, 2, 3, 4];

    fn keys(client: u16) -> (FlowKey, FlowKey) {
        let endpoint = |last, port| SocketAddrV4::new(Ipv4Addr::new(192, 0, 2, last), port);
        let (client, vip, real) = (endpoint(1, client), endpoint(100, 80), endpoint(200, 8080));
        (FlowKey::new(protocol::TCP, client, vip), FlowKey::new(protocol::TCP, real, client))
    }

    fn insert(
        table: &mut ConnectionTable,
        client: u16,
        seconds: u64,
        now: Instant,
    ) -> Result<ConnectionId, InsertError> {
        let (inbound, outbound) = keys(client);
        let state = (ConnectionState::SynRecv, Duration::from_secs(seconds));
        table.insert(inbound, outbound, ConnectionKind::Snat, state, now)
    }

    /// The state that all connections here are opened in.
    fn unchanged() -> (ConnectionState, impl FnOnce() -> Duration) {
        (ConnectionState::SynRecv, || unreachable!("the timeout is asked for on changes only"))
    }

    /// Ends what has run out among so many records, and says how many did.
    fn expire(table: &mut ConnectionTable, now: Instant, mut budget: usize) -> usize {
        let mut ended = 0;
        loop {
            let expired = table.expire(now, &mut budget);
            if expired.is_empty() {
                return ended;
            }
            ended += expired.len();
            for expired in expired {
                table.end(expired);
            }
        }
    }

    fn expire_all(table: &mut ConnectionTable, now: Instant) -> usize {
        expire(table, now, usize::MAX)
    }

    #[test]
    fn both_keys_lead_to_the_record() {
        let mut table = ConnectionTable::new(4, SECRET).unwrap();
        let id = insert(&mut table, 4000, 60, Instant::default()).unwrap();
        let (inbound, outbound) = keys(4000);
        assert_eq!(table.lookup(&inbound), Some((id, Direction::Inbound)));
        assert_eq!(table.lookup(&outbound), Some((id, Direction::Outbound)));
        assert_eq!(table.lookup(&inbound.reverse()), None);
        let again = insert(&mut table, 4000, 60, Instant::default());
        assert_eq!(again, Err(InsertError::InUse(id)));
    }

    #[test]
    fn a_full_table_says_so_and_recovers() {
        let mut table = ConnectionTable::new(3, SECRET).unwrap();
        let ids: Vec<_> =
            (0..3).map(|n| insert(&mut table, n, 60, Instant::default()).unwrap()).collect();
        assert_eq!(insert(&mut table, 3, 60, Instant::default()), Err(InsertError::Full));
        table.remove(ids[1]);
        assert_eq!(table.lookup(&keys(1).0), None);
        insert(&mut table, 3, 60, Instant::default()).unwrap();
        assert_eq!((table.len(), table.iter().count()), (3, 3));
    }

    #[test]
    fn silence_ends_a_connection_within_two_ticks() {
        let mut table = ConnectionTable::new(4, SECRET).unwrap();
        let start = Instant::from_millis(123_456);
        insert(&mut table, 1, 60, start).unwrap();
        assert_eq!(expire_all(&mut table, start + Duration::from_secs(59)), 0);
        assert_eq!(expire_all(&mut table, start + Duration::from_millis(62_048)), 1);
        assert!(table.is_empty());
    }

    #[test]
    fn a_packet_prolongs_it() {
        let mut table = ConnectionTable::new(4, SECRET).unwrap();
        let at = |seconds: u64| Instant::from_millis(seconds * 1000);
        let id = insert(&mut table, 1, 60, at(0)).unwrap();
        table.note_packet(id, Direction::Inbound, None, unchanged(), at(50));
        assert_eq!(expire_all(&mut table, at(100)), 0);
        assert_eq!(expire_all(&mut table, at(113)), 1);
    }

    #[test]
    fn a_shorter_timeout_counts_at_once() {
        let mut table = ConnectionTable::new(4, SECRET).unwrap();
        let at = |seconds: u64| Instant::from_millis(seconds * 1000);
        let id = insert(&mut table, 1, 900, at(0)).unwrap();
        let closed = (ConnectionState::Close, || Duration::from_secs(10));
        table.note_packet(id, Direction::Outbound, None, closed, at(5));
        assert_eq!(expire_all(&mut table, at(18)), 1);
    }

    #[test]
    fn timeouts_may_exceed_a_turn_and_pauses_too() {
        let mut table = ConnectionTable::new(4, SECRET).unwrap();
        let hours = |hours: u64| Instant::from_millis(hours * 3_600_000);
        insert(&mut table, 1, 2 * 86_400, hours(0)).unwrap();
        for hour in 1..48 {
            assert_eq!(expire_all(&mut table, hours(hour)), 0, "hour {hour}");
        }
        assert_eq!(expire_all(&mut table, hours(49)), 1);
    }

    #[test]
    fn a_lookup_in_steps_sees_what_changed_in_between() {
        let mut table = ConnectionTable::new(64, SECRET).unwrap();
        let ids: Vec<_> =
            (0..40).map(|n| insert(&mut table, n, 60, Instant::default()).unwrap()).collect();
        let begun: Vec<_> = (0..50)
            .map(|client| {
                let mut lookup = table.prefetch_bucket(&keys(client).0);
                table.prefetch_record(&mut lookup);
                assert!(!lookup.is_miss() || client >= 40);
                lookup
            })
            .collect();
        // Another connection takes the first one's record.
        table.remove(ids[0]);
        let id = insert(&mut table, 45, 60, Instant::default()).unwrap();
        assert_eq!(id, ids[0]);
        for (client, lookup) in (0..).zip(begun) {
            let key = keys(client).0;
            let found = table.finish_lookup(lookup, &key);
            assert_eq!(found, table.lookup(&key), "{client}");
            assert_eq!(found.is_some(), (1..40).contains(&client) || client == 45, "{client}");
        }
    }

    #[test]
    fn half_open_connections_go_first() {
        let mut table = ConnectionTable::new(64, SECRET).unwrap();
        let ids: Vec<_> =
            (0..64).map(|n| insert(&mut table, n, 60, Instant::default()).unwrap()).collect();
        let set = |table: &mut ConnectionTable, id: &ConnectionId, state| {
            let change = (state, || Duration::from_secs(60));
            table.note_packet(*id, Direction::Inbound, None, change, Instant::default());
        };
        assert!(table.evictable().is_some());
        ids.iter().for_each(|id| set(&mut table, id, ConnectionState::Established));
        assert_eq!(table.evictable(), None);
        set(&mut table, &ids[9], ConnectionState::TimeWait);
        let found = std::iter::repeat_with(|| table.evictable()).take(20).flatten().next();
        assert_eq!(found, Some(ids[9]));
        ids[10..40].iter().for_each(|id| set(&mut table, id, ConnectionState::SynRecv));
        let state = table.evictable().map(|id| table.get(id).state());
        assert_eq!(state, Some(ConnectionState::SynRecv));
    }

    #[test]
    fn a_budget_bounds_the_work() {
        let mut table = ConnectionTable::new(100, SECRET).unwrap();
        for client in 0..100 {
            insert(&mut table, client, 1, Instant::default()).unwrap();
        }
        let later = Instant::from_millis(10_000);
        assert_eq!(expire(&mut table, later, 40), 40);
        assert_eq!(expire_all(&mut table, later), 60);
    }

    #[derive(Clone, Debug)]
    enum Step {
        Insert { client: u16, seconds: u64 },
        Remove { client: u16 },
        Packet { client: u16 },
        Wait { millis: u64 },
    }

    fn step() -> impl Strategy<Value = Step> {
        let client = 0u16..24;
        prop_oneof![
            (client.clone(), 1u64..2000)
                .prop_map(|(client, seconds)| Step::Insert { client, seconds }),
            client.clone().prop_map(|client| Step::Remove { client }),
            client.prop_map(|client| Step::Packet { client }),
            (0u64..400_000).prop_map(|millis| Step::Wait { millis }),
        ]
    }

    proptest! {
        /// Against a map of deadlines: a connection is never gone before its deadline, and never
        /// there more than two ticks after it.
        #[test]
        fn expiry_follows_the_deadlines(steps in prop::collection::vec(step(), 1..120)) {
            let mut table = ConnectionTable::new(16, SECRET).unwrap();
            let mut model: HashMap<u16, (u64, u64)> = HashMap::new();
            let mut now = 0;
            for step in steps {
                let instant = Instant::from_millis(now);
                match step {
                    Step::Insert { client, seconds } => {
                        let fits = model.len() < 16 && !model.contains_key(&client);
                        prop_assert_eq!(insert(&mut table, client, seconds, instant).is_ok(), fits);
                        if fits {
                            model.insert(client, (now + seconds * 1000, seconds * 1000));
                        }
                    }
                    Step::Remove { client } => {
                        if model.remove(&client).is_some() {
                            let (id, _) = table.lookup(&keys(client).0).unwrap();
                            table.remove(id);
                        }
                    }
                    Step::Packet { client } => {
                        if let Some((deadline, timeout)) = model.get_mut(&client) {
                            *deadline = now + *timeout;
                            let (id, _) = table.lookup(&keys(client).1).unwrap();
                            table.note_packet(id, Direction::Outbound, None, unchanged(), instant);
                        }
                    }
                    Step::Wait { millis } => now += millis,
                }
                expire_all(&mut table, Instant::from_millis(now));
                model.retain(|client, (deadline, _)| {
                    let there = table.lookup(&keys(*client).0).is_some();
                    assert!(there || *deadline <= now, "{client} went {} ms early", *deadline - now);
                    assert!(!there || *deadline + 2048 > now, "{client} is late at {now}");
                    there
                });
                prop_assert_eq!(table.len(), model.len());
                prop_assert_eq!(table.iter().count(), model.len());
            }
        }
    }
}
