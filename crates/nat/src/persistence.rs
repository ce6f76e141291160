//! Which server a client keeps (IPVS's persistence templates).
//!
//! A client's connections end up on any worker, so all workers share what clients keep. It is locked
//! in parts, and only when a connection of a persistent service opens or ends.

use std::{
    collections::VecDeque,
    net::Ipv4Addr,
    sync::{Mutex, MutexGuard, PoisonError},
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

/// A service while its clients are told apart in one way. After a change it is another one, and what
/// its clients kept is forgotten. Numbers are never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct ClientsId(pub(crate) u32);

/// What a service's clients are told to keep.
#[derive(Clone, Copy, Debug)]
pub(crate) struct KeepRule {
    pub(crate) clients: ClientsId,
    pub(crate) persistence: Persistence,
}

impl KeepRule {
    fn client(&self, address: Ipv4Addr) -> Client {
        let host_bits = 32 - u32::from(self.persistence.prefix_len.min(32));
        let mask = u32::MAX.checked_shl(host_bits).unwrap_or(0);
        (self.clients, address.to_bits() & mask)
    }
}

type Client = (ClientsId, u32);

/// The servers that clients keep.
#[derive(Debug)]
pub(crate) struct PersistenceTable {
    shards: Box<[Mutex<Shard>]>,
    hasher: RandomState,
}

#[derive(Debug)]
struct Shard {
    templates: HashMap<Client, Template, RandomState>,
    /// Every template once, roughly in the order in which they run out.
    queue: VecDeque<Client>,
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
        };
        PersistenceTable { shards: (0..SHARDS).map(|_| Mutex::new(shard())).collect(), hasher }
    }

    /// The server that this client keeps.
    pub(crate) fn lookup(
        &self,
        rule: KeepRule,
        client: Ipv4Addr,
        now: Instant,
    ) -> Option<ServerId> {
        let client = rule.client(client);
        let shard = self.shard(&client);
        let template = shard.templates.get(&client)?;
        template.is_alive(now).then_some(template.server)
    }

    /// Notes that a client's connection was given to a server, which the client keeps from now on.
    pub(crate) fn add_connection(
        &self,
        rule: KeepRule,
        client: Ipv4Addr,
        server: ServerId,
        now: Instant,
    ) {
        let client = rule.client(client);
        let mut shard = self.shard(&client);
        shard.sweep(now);
        let has_room = shard.templates.len() < SHARD_CAPACITY;
        match shard.templates.get_mut(&client) {
            Some(known) if known.server == server => known.connections += 1,
            Some(known) => *known = Template { server, connections: 1, expires: now },
            None if has_room => {
                let template = Template { server, connections: 1, expires: now };
                shard.templates.insert(client, template);
                shard.queue.push_back(client);
            }
            None => {}
        }
    }

    /// Notes that a client's connection to a server ended. From now on counts how long the client
    /// keeps the server, provided that the connection `counts`: a handshake that was never finished
    /// binds nobody, or a flood could fill the table.
    pub(crate) fn remove_connection(
        &self,
        rule: KeepRule,
        client: Ipv4Addr,
        server: ServerId,
        counts: bool,
        now: Instant,
    ) {
        let client = rule.client(client);
        // What has run out may be forgotten at any time, so it must not come back to life.
        if let Some(known) = self.shard(&client).templates.get_mut(&client)
            && known.server == server
            && known.is_alive(now)
        {
            // Connections from before the client was given another server in between are not counted.
            known.connections = known.connections.saturating_sub(1);
            if counts {
                known.expires = now + rule.persistence.timeout;
            }
        }
    }

    /// Forgets clients of services that are gone, and servers that are.
    pub(crate) fn forget(
        &self,
        is_known: impl Fn(ClientsId) -> bool,
        is_server: impl Fn(ServerId) -> bool,
    ) {
        for shard in &self.shards {
            let Shard { templates, queue } = &mut *lock(shard);
            templates.retain(|(clients, _), kept| is_known(*clients) && is_server(kept.server));
            queue.retain(|client| templates.contains_key(client));
        }
    }

    /// Services, masked clients, and the servers that they keep.
    pub(crate) fn kept(&self, now: Instant) -> Vec<(ClientsId, Ipv4Addr, ServerId)> {
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

    fn shard(&self, client: &Client) -> MutexGuard<'_, Shard> {
        // The high bits; the shard's own map goes by the low ones.
        let hash = self.hasher.hash_one(client) >> 32;
        lock(&self.shards[hash as usize % SHARDS])
    }
}

/// A worker that panicked leaves nothing half done that would matter.
fn lock(shard: &Mutex<Shard>) -> MutexGuard<'_, Shard> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shard {
    fn sweep(&mut self, now: Instant) {
        for _ in 0..SWEEP {
            let Some(client) = self.queue.pop_front() else { return };
            if self.templates.get(&client).is_some_and(|template| template.is_alive(now)) {
                self.queue.push_back(client);
            } else {
                self.templates.remove(&client);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const PER_NETWORK: KeepRule = keep(0, 24);
    const SERVER: ServerId = ServerId(7);
    const OTHER: ServerId = ServerId(8);

    const fn keep(clients: u32, prefix_len: u8) -> KeepRule {
        let timeout = Duration::from_secs(300);
        KeepRule { clients: ClientsId(clients), persistence: Persistence { timeout, prefix_len } }
    }

    fn client(last: u8) -> Ipv4Addr {
        Ipv4Addr::new(192, 0, 2, last)
    }

    fn at(seconds: u64) -> Instant {
        Instant::from_millis(seconds * 1000)
    }

    /// A client's connection, over at once.
    fn connect(table: &PersistenceTable, rule: KeepRule, client: Ipv4Addr, now: u64) {
        table.add_connection(rule, client, SERVER, at(now));
        table.remove_connection(rule, client, SERVER, true, at(now));
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
        assert_eq!(table.kept(at(299)), [(ClientsId(0), client(0), SERVER)]);
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
        table.remove_connection(PER_NETWORK, client(1), SERVER, true, at(5000));
        assert_eq!(server(5299), Some(SERVER));
        assert_eq!(server(5300), None);
    }

    #[test]
    fn an_unfinished_handshake_binds_nobody_and_releases_nobody() {
        let table = PersistenceTable::new(0);
        let flood = || {
            table.add_connection(PER_NETWORK, client(1), SERVER, at(0));
            table.remove_connection(PER_NETWORK, client(1), SERVER, false, at(0));
        };
        flood();
        assert_eq!(table.lookup(PER_NETWORK, client(1), at(0)), None);
        connect(&table, PER_NETWORK, client(1), 0);
        flood();
        assert_eq!(table.lookup(PER_NETWORK, client(1), at(299)), Some(SERVER));
    }

    #[test]
    fn connections_to_a_former_server_change_nothing() {
        let table = PersistenceTable::new(0);
        table.add_connection(PER_NETWORK, client(1), SERVER, at(0));
        table.add_connection(PER_NETWORK, client(1), OTHER, at(1));
        table.remove_connection(PER_NETWORK, client(1), SERVER, true, at(8700));
        assert_eq!(table.lookup(PER_NETWORK, client(1), at(2)), Some(OTHER));
        table.remove_connection(PER_NETWORK, client(1), OTHER, true, at(0));
        assert_eq!(table.lookup(PER_NETWORK, client(1), at(300)), None);
    }

    #[test]
    fn what_has_run_out_stays_so() {
        let table = PersistenceTable::new(0);
        table.add_connection(PER_NETWORK, client(1), SERVER, at(0));
        table.add_connection(PER_NETWORK, client(1), OTHER, at(1));
        table.remove_connection(PER_NETWORK, client(1), OTHER, true, at(2));
        table.add_connection(PER_NETWORK, client(1), SERVER, at(1000));
        table.remove_connection(PER_NETWORK, client(1), SERVER, true, at(1000));
        table.remove_connection(PER_NETWORK, client(1), SERVER, true, at(1300));
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
        table.forget(|clients| clients == ClientsId(2), |server| server == SERVER);
        assert_eq!(table.kept(at(1)), [(ClientsId(2), client(0), SERVER)]);
        connect(&table, keep(1, 24), client(1), 1);
        assert_eq!(table.len(), 2);
        let queued: usize = table.shards.iter().map(|shard| lock(shard).queue.len()).sum();
        assert_eq!(queued, 2);
    }
}
