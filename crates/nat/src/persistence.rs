//! Which server a client keeps (IPVS's persistence templates).
//!
//! A client's connections end up on any worker, so all workers share what clients keep.
//!
//! A client keeps a server when that has answered it: somebody who sends in the name of others makes
//! nobody keep anything. For the connections that a client opens at once, before the first of them is
//! answered, there are hints: a small table of words, in which the next client with a like hash takes an
//! older one's place. A flood can only make clients forget what they were hinted a moment ago.
//!
//! Templates are in parts that are locked by themselves, and only when a connection of a persistent
//! service opens, is answered for the first time, or ends. Whoever holds a lock has little to do; a worker
//! that does not get it after a while does without, rather than sleep.
//!
//! When there is no more room, services that have more templates give way to those that have fewer.

use std::{
    collections::VecDeque,
    hint::spin_loop,
    net::Ipv4Addr,
    sync::{
        Mutex, MutexGuard, PoisonError, TryLockError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use ahash::RandomState;
use hashbrown::HashMap;

use shunt_rules::{Persistence, ServerId};

use crate::time::Instant;

/// Clients that are remembered at most; more are served, but not remembered. Fuzzers, which start anew
/// thousands of times a second, get a table that they can fill.
const CAPACITY: usize = if cfg!(fuzzing) { 4 } else { 1 << 18 };

/// Parts that are locked by themselves.
const SHARDS: usize = if cfg!(fuzzing) { 1 } else { 64 };

const SHARD_CAPACITY: usize = CAPACITY / SHARDS;

/// Templates looked at for every one that is made: twice as many are forgotten as made, if due.
const SWEEP: usize = 2;

/// Templates looked at for one of a service that has more of them, when there is no room.
const EVICTION_SAMPLES: usize = 8;

/// Hints are in groups, each a cache line.
const HINT_GROUPS: usize = 1 << 9;
const GROUP: usize = 8;

/// For how many seconds a hint is good.
const HINT_LIFE: u64 = 5;

/// How often a worker tries to get a lock, a few nanoseconds each.
const ATTEMPTS: u32 = 2000;

/// The templates of a service, as long as its clients are told apart in one way. After a change of that
/// it is another group, and what clients kept is forgotten. Numbers are never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct TemplateGroup(pub(crate) u32);

/// How a service's clients keep their servers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PersistencePolicy {
    pub(crate) group: TemplateGroup,
    pub(crate) persistence: Persistence,
}

impl PersistencePolicy {
    fn client(&self, address: Ipv4Addr) -> Client {
        let host_bits = 32 - u32::from(self.persistence.prefix_len.min(32));
        let mask = u32::MAX.checked_shl(host_bits).unwrap_or(0);
        (self.group, address.to_bits() & mask)
    }
}

type Client = (TemplateGroup, u32);

/// The servers that clients keep.
#[derive(Debug)]
pub(crate) struct PersistenceTable {
    shards: Box<[Mutex<Shard>]>,
    hints: Box<[HintGroup]>,
    hasher: RandomState,
}

#[derive(Debug)]
struct Shard {
    templates: HashMap<Client, Template, RandomState>,
    /// Every template once, roughly in the order in which they run out.
    queue: VecDeque<Client>,
    /// How many templates each service has.
    counts: HashMap<TemplateGroup, usize, RandomState>,
}

#[derive(Debug, Default)]
#[repr(align(64))]
struct HintGroup([AtomicU64; GROUP]);

/// What a client was given a moment ago, in one word: 28 bits that tell clients apart, 20 of the server,
/// and 16 of the second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Hint {
    tag: u64,
    server: ServerId,
    second: u64,
}

impl Hint {
    const SERVER_AT: u32 = 16;
    const TAG_AT: u32 = 36;

    /// In seconds.
    fn age(self, now: Instant) -> u64 {
        second(now).wrapping_sub(self.second) & 0xffff
    }

    fn to_bits(self) -> u64 {
        self.tag << Hint::TAG_AT | u64::from(self.server.0) << Hint::SERVER_AT | self.second
    }

    fn from_bits(bits: u64) -> Hint {
        let server = ServerId((bits >> Hint::SERVER_AT) as u32 & 0xf_ffff);
        Hint { tag: bits >> Hint::TAG_AT, server, second: bits & 0xffff }
    }
}

/// Seconds, as far as a hint tells them apart: one that is older than 18 hours may count once more.
fn second(now: Instant) -> u64 {
    (now.as_millis() / 1000) & 0xffff
}

/// Lives as long as the client has connections, and for the service's timeout after the last one.
#[derive(Debug)]
struct Template {
    server: ServerId,
    connections: u32,
    expires: Instant,
}

impl Template {
    fn is_alive(&self, now: Instant) -> bool {
        self.connections > 0 || now < self.expires
    }
}

impl PersistenceTable {
    /// A table that has all its memory from the start: growing would hold up packets. The seed keeps
    /// clients from choosing their shard.
    pub(crate) fn new(seed: u64) -> PersistenceTable {
        let hasher = RandomState::with_seeds(seed, 0, 0, 0);
        let shard = || Shard {
            templates: HashMap::with_capacity_and_hasher(SHARD_CAPACITY, hasher.clone()),
            queue: VecDeque::with_capacity(SHARD_CAPACITY),
            counts: HashMap::with_hasher(hasher.clone()),
        };
        PersistenceTable {
            shards: (0..SHARDS).map(|_| Mutex::new(shard())).collect(),
            hints: (0..HINT_GROUPS).map(|_| HintGroup::default()).collect(),
            hasher,
        }
    }

    /// The server that this client was given a moment ago, and that has not answered yet.
    pub(crate) fn hint(
        &self,
        rule: PersistencePolicy,
        client: Ipv4Addr,
        now: Instant,
    ) -> Option<ServerId> {
        let hash = self.hasher.hash_one(rule.client(client));
        let HintGroup(group) = &self.hints[hash as usize % HINT_GROUPS];
        let is_its = |hint: &Hint| hint.tag == hash >> Hint::TAG_AT;
        let hints = group.iter().map(|word| word.load(Relaxed)).filter(|bits| *bits != 0);
        let hint = hints.map(Hint::from_bits).find(is_its)?;
        let life = HINT_LIFE.min(rule.persistence.timeout.as_secs());
        (hint.age(now) < life).then_some(hint.server)
    }

    /// Notes that a client was given a server.
    pub(crate) fn set_hint(
        &self,
        rule: PersistencePolicy,
        client: Ipv4Addr,
        server: ServerId,
        now: Instant,
    ) {
        let hash = self.hasher.hash_one(rule.client(client));
        let new = Hint { tag: hash >> Hint::TAG_AT, server, second: second(now) };
        let HintGroup(group) = &self.hints[hash as usize % HINT_GROUPS];
        // The client's own, else a free one, else the oldest one.
        let rank = |word: &&AtomicU64| {
            let bits = word.load(Relaxed);
            let hint = Hint::from_bits(bits);
            (bits != 0 && hint.tag == new.tag, bits == 0, hint.age(now))
        };
        if let Some(word) = group.iter().max_by_key(rank) {
            word.store(new.to_bits(), Relaxed);
        }
    }

    /// The server that this client keeps.
    pub(crate) fn lookup(
        &self,
        rule: PersistencePolicy,
        client: Ipv4Addr,
        now: Instant,
    ) -> Option<ServerId> {
        let client = rule.client(client);
        let shard = try_lock(self.shard(&client))?;
        let template = shard.templates.get(&client)?;
        template.is_alive(now).then_some(template.server)
    }

    /// Notes that a server has answered a client, which keeps it from now on. Returns whether that is
    /// to be [released](PersistenceTable::remove_connection) when the connection ends.
    pub(crate) fn add_connection(
        &self,
        rule: PersistencePolicy,
        client: Ipv4Addr,
        server: ServerId,
        now: Instant,
    ) -> bool {
        let client = rule.client(client);
        let Some(mut shard) = try_lock(self.shard(&client)) else { return false };
        shard.sweep(now);
        if let Some(known) = shard.templates.get_mut(&client) {
            if known.server == server {
                known.connections += 1;
            } else {
                *known = Template { server, connections: 1, expires: now };
            }
            return true;
        }
        if shard.templates.len() >= SHARD_CAPACITY && !shard.evict_for(client.0) {
            return false;
        }
        shard.insert(client, Template { server, connections: 1, expires: now });
        true
    }

    /// Notes that a client's connection to a server ended. From now on counts how long the client
    /// keeps the server. Returns whether that could be noted: if not, it is to be tried again.
    #[must_use]
    pub(crate) fn remove_connection(
        &self,
        rule: PersistencePolicy,
        client: Ipv4Addr,
        server: ServerId,
        now: Instant,
    ) -> bool {
        let client = rule.client(client);
        let Some(mut shard) = try_lock(self.shard(&client)) else { return false };
        // What has run out may be forgotten at any time, so it must not come back to life.
        if let Some(known) = shard.templates.get_mut(&client)
            && known.server == server
            && known.is_alive(now)
        {
            // Connections from before the client was given another server in between are not counted.
            known.connections = known.connections.saturating_sub(1);
            known.expires = now + rule.persistence.timeout;
        }
        true
    }

    /// Forgets clients of services that are gone, and servers that are.
    pub(crate) fn forget(
        &self,
        is_known: impl Fn(TemplateGroup) -> bool,
        is_server: impl Fn(ServerId) -> bool,
    ) {
        for shard in &self.shards {
            let Shard { templates, queue, counts } = &mut *lock(shard);
            templates.retain(|(group, _), kept| {
                let is_kept = is_known(*group) && is_server(kept.server);
                if !is_kept {
                    uncount(counts, *group);
                }
                is_kept
            });
            queue.retain(|client| templates.contains_key(client));
        }
        for hint in self.hints.iter().flat_map(|HintGroup(group)| group) {
            if !is_server(Hint::from_bits(hint.load(Relaxed)).server) {
                hint.store(0, Relaxed);
            }
        }
    }

    /// Services, masked clients, and the servers that they keep.
    pub(crate) fn kept(&self, now: Instant) -> Vec<(TemplateGroup, Ipv4Addr, ServerId)> {
        let of_shard = |shard| {
            let shard = lock(shard);
            let alive = shard.templates.iter().filter(|(_, template)| template.is_alive(now));
            let kept = |(client, template): (&Client, &Template)| {
                (client.0, Ipv4Addr::from(client.1), template.server)
            };
            alive.map(kept).collect::<Vec<_>>()
        };
        self.shards.iter().flat_map(of_shard).collect()
    }

    /// Clients that are remembered, some of which may have run out.
    pub(crate) fn len(&self) -> usize {
        self.shards.iter().map(|shard| lock(shard).templates.len()).sum()
    }

    fn shard(&self, client: &Client) -> &Mutex<Shard> {
        // The high bits; the shard's own map goes by the low ones.
        let hash = self.hasher.hash_one(client) >> 32;
        &self.shards[hash as usize % SHARDS]
    }
}

/// For the main lcore. A worker that panicked leaves nothing half done that would matter.
fn lock(shard: &Mutex<Shard>) -> MutexGuard<'_, Shard> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

/// For workers, who must not sleep.
fn try_lock(shard: &Mutex<Shard>) -> Option<MutexGuard<'_, Shard>> {
    for _ in 0..ATTEMPTS {
        match shard.try_lock() {
            Ok(guard) => return Some(guard),
            Err(TryLockError::Poisoned(poisoned)) => return Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => spin_loop(),
        }
    }
    None
}

/// Counts a template less.
fn uncount(counts: &mut HashMap<TemplateGroup, usize, RandomState>, group: TemplateGroup) {
    if let Some(count) = counts.get_mut(&group) {
        *count -= 1;
        if *count == 0 {
            counts.remove(&group);
        }
    }
}

impl Shard {
    fn sweep(&mut self, now: Instant) {
        for _ in 0..SWEEP {
            let Some(client) = self.queue.pop_front() else { return };
            if self.templates.get(&client).is_some_and(|template| template.is_alive(now)) {
                self.queue.push_back(client);
            } else {
                self.remove(&client);
            }
        }
    }

    fn insert(&mut self, client: Client, template: Template) {
        self.templates.insert(client, template);
        self.queue.push_back(client);
        *self.counts.entry(client.0).or_default() += 1;
    }

    /// Removes a template that is no longer in the queue.
    fn remove(&mut self, client: &Client) {
        if self.templates.remove(client).is_some() {
            uncount(&mut self.counts, client.0);
        }
    }

    /// Makes room for a service's template by removing one of a service that has more of them.
    fn evict_for(&mut self, group: TemplateGroup) -> bool {
        let count = |group| self.counts.get(&group).copied().unwrap_or_default();
        let own = count(group);
        let sample = self.queue.iter().take(EVICTION_SAMPLES);
        let Some(place) = sample.map(|(other, _)| count(*other)).position(|other| other > own + 1)
        else {
            self.queue.rotate_left(EVICTION_SAMPLES.min(self.queue.len()));
            return false;
        };
        if let Some(victim) = self.queue.remove(place) {
            self.remove(&victim);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const PER_NETWORK: PersistencePolicy = keep(0, 24);
    const SERVER: ServerId = ServerId(7);
    const OTHER: ServerId = ServerId(8);

    const fn keep(group: u32, prefix_len: u8) -> PersistencePolicy {
        let timeout = Duration::from_secs(300);
        PersistencePolicy {
            group: TemplateGroup(group),
            persistence: Persistence { timeout, prefix_len },
        }
    }

    fn client(last: u8) -> Ipv4Addr {
        Ipv4Addr::new(192, 0, 2, last)
    }

    fn at(seconds: u64) -> Instant {
        Instant::from_millis(seconds * 1000)
    }

    /// A client's connection, over at once.
    fn connect(table: &PersistenceTable, rule: PersistencePolicy, client: Ipv4Addr, now: u64) {
        table.add_connection(rule, client, SERVER, at(now));
        assert!(table.remove_connection(rule, client, SERVER, at(now)));
    }

    #[test]
    fn a_network_keeps_its_server_for_a_while() {
        let table = PersistenceTable::new(0);
        connect(&table, PER_NETWORK, client(1), 0);
        let server = |address, now| table.lookup(PER_NETWORK, address, at(now));
        assert_eq!(server(client(200), 299), Some(SERVER));
        assert_eq!(server(client(200), 300), None);
        assert_eq!(server(Ipv4Addr::new(192, 0, 3, 1), 0), None);
        assert_eq!(table.lookup(keep(1, 24), client(1), at(0)), None);
        assert_eq!(table.kept(at(299)), [(TemplateGroup(0), client(0), SERVER)]);
    }

    #[test]
    fn all_clients_may_be_one() {
        let table = PersistenceTable::new(0);
        connect(&table, keep(0, 0), client(1), 0);
        assert_eq!(table.lookup(keep(0, 0), Ipv4Addr::LOCALHOST, at(1)), Some(SERVER));
    }

    #[test]
    fn the_last_connection_counts() {
        let table = PersistenceTable::new(0);
        let server = |now| table.lookup(PER_NETWORK, client(1), at(now));
        table.add_connection(PER_NETWORK, client(1), SERVER, at(0));
        connect(&table, PER_NETWORK, client(2), 1);
        assert_eq!(server(5000), Some(SERVER), "one is still open");
        assert!(table.remove_connection(PER_NETWORK, client(1), SERVER, at(5000)));
        assert_eq!(server(5299), Some(SERVER));
        assert_eq!(server(5300), None);
    }

    #[test]
    fn hints_are_good_for_a_moment() {
        let table = PersistenceTable::new(0);
        let hint = |address, now| table.hint(PER_NETWORK, address, Instant::from_millis(now));
        assert_eq!(hint(client(1), 0), None);
        table.set_hint(PER_NETWORK, client(1), SERVER, at(70_000));
        assert_eq!(hint(client(200), 70_004_999), Some(SERVER));
        assert_eq!(hint(client(200), 70_005_000), None);
        assert_eq!(hint(Ipv4Addr::new(192, 0, 3, 1), 70_000_000), None);
        assert_eq!(table.hint(keep(1, 24), client(1), at(70_000)), None);
        assert_eq!((table.len(), table.lookup(PER_NETWORK, client(1), at(70_000))), (0, None));
        let short = Persistence { timeout: Duration::from_secs(2), prefix_len: 24 };
        let short = PersistencePolicy { persistence: short, ..PER_NETWORK };
        assert_eq!(table.hint(short, client(1), at(70_001)), Some(SERVER));
        assert_eq!(table.hint(short, client(1), at(70_002)), None);
    }

    #[test]
    fn a_hint_is_one_word() {
        for (tag, server, second) in [(0, 0, 0), (0xfff_ffff, 0xf_ffff, 0xffff), (1, 2, 3)] {
            let hint = Hint { tag, server: ServerId(server), second };
            assert_eq!(Hint::from_bits(hint.to_bits()), hint);
        }
    }

    /// A flood of clients of one service takes no room from another one's.
    #[test]
    fn who_has_more_gives_way() {
        let table = PersistenceTable::new(0);
        let flooded = keep(1, 32);
        for number in 0..2 * CAPACITY as u32 {
            table.add_connection(flooded, Ipv4Addr::from_bits(number), SERVER, at(0));
        }
        let before = table.len();
        assert!(before > CAPACITY * 9 / 10, "{before}");
        let quiet = keep(2, 32);
        for number in 0..1000 {
            let address = Ipv4Addr::from_bits(number << 8);
            assert!(table.add_connection(quiet, address, OTHER, at(1)), "{number}");
            assert_eq!(table.lookup(quiet, address, at(1)), Some(OTHER));
        }
        for shard in &table.shards {
            let Shard { templates, queue, counts } = &*lock(shard);
            assert!(templates.len() <= SHARD_CAPACITY);
            assert_eq!(queue.len(), templates.len());
            assert_eq!(counts.values().sum::<usize>(), templates.len());
        }
    }

    #[test]
    fn nobody_waits_for_a_lock_for_long() {
        let table = PersistenceTable::new(0);
        table.add_connection(PER_NETWORK, client(1), SERVER, at(0));
        let held: Vec<_> = table.shards.iter().map(lock).collect();
        assert_eq!(table.lookup(PER_NETWORK, client(1), at(0)), None);
        assert!(!table.add_connection(PER_NETWORK, client(2), SERVER, at(0)));
        assert!(!table.remove_connection(PER_NETWORK, client(1), SERVER, at(0)));
        drop(held);
        assert!(table.remove_connection(PER_NETWORK, client(1), SERVER, at(0)));
    }

    #[test]
    fn connections_to_a_former_server_change_nothing() {
        let table = PersistenceTable::new(0);
        table.add_connection(PER_NETWORK, client(1), SERVER, at(0));
        table.add_connection(PER_NETWORK, client(1), OTHER, at(1));
        assert!(table.remove_connection(PER_NETWORK, client(1), SERVER, at(8700)));
        assert_eq!(table.lookup(PER_NETWORK, client(1), at(2)), Some(OTHER));
        assert!(table.remove_connection(PER_NETWORK, client(1), OTHER, at(0)));
        assert_eq!(table.lookup(PER_NETWORK, client(1), at(300)), None);
    }

    #[test]
    fn what_has_run_out_stays_so() {
        let table = PersistenceTable::new(0);
        table.add_connection(PER_NETWORK, client(1), SERVER, at(0));
        table.add_connection(PER_NETWORK, client(1), OTHER, at(1));
        assert!(table.remove_connection(PER_NETWORK, client(1), OTHER, at(2)));
        table.add_connection(PER_NETWORK, client(1), SERVER, at(1000));
        assert!(table.remove_connection(PER_NETWORK, client(1), SERVER, at(1000)));
        assert!(table.remove_connection(PER_NETWORK, client(1), SERVER, at(1300)));
        assert_eq!(table.lookup(PER_NETWORK, client(1), at(1300)), None);
    }

    #[test]
    fn what_has_run_out_is_forgotten() {
        let table = PersistenceTable::new(0);
        for second in 0..40_000 {
            connect(&table, keep(0, 32), Ipv4Addr::from_bits(second as u32), second);
        }
        for shard in &table.shards {
            let shard = lock(shard);
            assert_eq!(shard.queue.len(), shard.templates.len());
        }
        assert!(table.len() < 600, "{} templates of 300 s, one a second", table.len());
    }

    #[test]
    fn what_is_gone_is_forgotten_and_can_be_remembered_again() {
        let table = PersistenceTable::new(0);
        connect(&table, keep(1, 24), client(1), 0);
        connect(&table, keep(2, 24), client(1), 0);
        table.add_connection(keep(2, 24), Ipv4Addr::LOCALHOST, OTHER, at(0));
        table.forget(|clients| clients == TemplateGroup(2), |server| server == SERVER);
        assert_eq!(table.kept(at(1)), [(TemplateGroup(2), client(0), SERVER)]);
        connect(&table, keep(1, 24), client(1), 1);
        assert_eq!(table.len(), 2);
        let queued: usize = table.shards.iter().map(|shard| lock(shard).queue.len()).sum();
        assert_eq!(queued, 2);
    }
}
