//! Which server a client keeps (IPVS's persistence templates).

use std::{collections::VecDeque, net::Ipv4Addr};

use hashbrown::HashMap;

use crate::{
    ruleset::{ServerId, ServiceId},
    service::Persistence,
    time::Instant,
};

/// Clients that are remembered at most; more are served, but not remembered. Fuzzers, which start anew
/// thousands of times a second, get a table that they can fill.
const CAPACITY: usize = if cfg!(fuzzing) { 4 } else { 1 << 18 };

/// Templates looked at for every one that is made: twice as many are forgotten as made, if due.
const SWEEP: usize = 2;

type Client = (ServiceId, u32);

/// The servers that clients keep.
#[derive(Debug)]
pub(crate) struct PersistenceTable {
    templates: HashMap<Client, Template>,
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
    /// A table that, if it `is_used`, has all its memory from the start: growing would hold up
    /// packets.
    pub(crate) fn new(is_used: bool) -> PersistenceTable {
        let capacity = if is_used { CAPACITY } else { 0 };
        PersistenceTable {
            templates: HashMap::with_capacity(capacity),
            queue: VecDeque::with_capacity(capacity),
        }
    }

    /// The server that this client keeps.
    pub(crate) fn lookup(
        &self,
        service: ServiceId,
        persistence: Persistence,
        client: Ipv4Addr,
        now: Instant,
    ) -> Option<ServerId> {
        let template = self.templates.get(&key(service, persistence, client))?;
        template.is_alive(now).then_some(template.server)
    }

    /// Notes that a client's connection was given to a server, which the client keeps from now on.
    pub(crate) fn add_connection(
        &mut self,
        service: ServiceId,
        persistence: Persistence,
        client: Ipv4Addr,
        server: ServerId,
        now: Instant,
    ) {
        self.sweep(now);
        let client = key(service, persistence, client);
        let has_room = self.templates.len() < CAPACITY;
        match self.templates.get_mut(&client) {
            Some(known) if known.server == server => known.connections += 1,
            Some(known) => *known = Template { server, connections: 1, expires: now },
            None if has_room => {
                self.templates.insert(client, Template { server, connections: 1, expires: now });
                self.queue.push_back(client);
            }
            None => {}
        }
    }

    /// Notes that a client's connection to a server ended. From now on counts how long the client
    /// keeps the server, provided that the connection `counts`: a handshake that was never finished
    /// binds nobody, or a flood could fill the table.
    pub(crate) fn remove_connection(
        &mut self,
        service: ServiceId,
        persistence: Persistence,
        client: Ipv4Addr,
        server: ServerId,
        counts: bool,
        now: Instant,
    ) {
        let known = self.templates.get_mut(&key(service, persistence, client));
        // What has run out may be forgotten at any time, so it must not come back to life.
        if let Some(known) = known
            && known.server == server
            && known.is_alive(now)
        {
            // Connections from before the client was given another server in between are not counted.
            known.connections = known.connections.saturating_sub(1);
            if counts {
                known.expires = now + persistence.timeout;
            }
        }
    }

    /// Services, masked clients, and the servers that they keep.
    pub(crate) fn iter(
        &self,
        now: Instant,
    ) -> impl Iterator<Item = (ServiceId, Ipv4Addr, ServerId)> {
        self.templates.iter().filter(move |(_, template)| template.is_alive(now)).map(
            |((service, client), template)| (*service, Ipv4Addr::from(*client), template.server),
        )
    }

    /// Clients that are remembered, some of which may have run out.
    pub(crate) fn len(&self) -> usize {
        self.templates.len()
    }

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

fn key(service: ServiceId, persistence: Persistence, client: Ipv4Addr) -> Client {
    let host_bits = 32 - u32::from(persistence.prefix_len.min(32));
    let mask = u32::MAX.checked_shl(host_bits).unwrap_or(0);
    (service, client.to_bits() & mask)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const SERVICE: ServiceId = ServiceId(0);
    const PER_NETWORK: Persistence =
        Persistence { timeout: Duration::from_secs(300), prefix_len: 24 };

    fn client(last: u8) -> Ipv4Addr {
        Ipv4Addr::new(192, 0, 2, last)
    }

    fn at(seconds: u64) -> Instant {
        Instant::from_millis(seconds * 1000)
    }

    const SERVER: ServerId = ServerId(7);

    /// A client's connection, over at once.
    fn connect(table: &mut PersistenceTable, persistence: Persistence, client: Ipv4Addr, now: u64) {
        table.add_connection(SERVICE, persistence, client, SERVER, at(now));
        table.remove_connection(SERVICE, persistence, client, SERVER, true, at(now));
    }

    #[test]
    fn a_network_keeps_its_server_for_a_while() {
        let mut table = PersistenceTable::new(true);
        connect(&mut table, PER_NETWORK, client(1), 0);
        let server = |address, now| table.lookup(SERVICE, PER_NETWORK, address, at(now));
        assert_eq!(server(client(200), 299), Some(SERVER));
        assert_eq!(server(client(200), 300), None);
        assert_eq!(server(Ipv4Addr::new(192, 0, 3, 1), 0), None);
        assert_eq!(table.lookup(ServiceId(1), PER_NETWORK, client(1), at(0)), None);
        assert_eq!(table.iter(at(299)).next(), Some((SERVICE, client(0), SERVER)));
    }

    #[test]
    fn all_clients_may_be_one() {
        let everyone = Persistence { prefix_len: 0, ..PER_NETWORK };
        let mut table = PersistenceTable::new(true);
        connect(&mut table, everyone, client(1), 0);
        assert_eq!(table.lookup(SERVICE, everyone, Ipv4Addr::LOCALHOST, at(1)), Some(SERVER));
    }

    #[test]
    fn the_last_connection_counts() {
        let mut table = PersistenceTable::new(true);
        let server =
            |table: &PersistenceTable, now| table.lookup(SERVICE, PER_NETWORK, client(1), at(now));
        table.add_connection(SERVICE, PER_NETWORK, client(1), SERVER, at(0));
        connect(&mut table, PER_NETWORK, client(2), 1);
        assert_eq!(server(&table, 5000), Some(SERVER), "one is still open");
        table.remove_connection(SERVICE, PER_NETWORK, client(1), SERVER, true, at(5000));
        assert_eq!(server(&table, 5299), Some(SERVER));
        assert_eq!(server(&table, 5300), None);
    }

    #[test]
    fn an_unfinished_handshake_binds_nobody_and_releases_nobody() {
        let mut table = PersistenceTable::new(true);
        let flood = |table: &mut PersistenceTable| {
            table.add_connection(SERVICE, PER_NETWORK, client(1), SERVER, at(0));
            table.remove_connection(SERVICE, PER_NETWORK, client(1), SERVER, false, at(0));
        };
        flood(&mut table);
        assert_eq!(table.lookup(SERVICE, PER_NETWORK, client(1), at(0)), None);
        connect(&mut table, PER_NETWORK, client(1), 0);
        flood(&mut table);
        assert_eq!(table.lookup(SERVICE, PER_NETWORK, client(1), at(299)), Some(SERVER));
    }

    #[test]
    fn connections_to_a_former_server_change_nothing() {
        let mut table = PersistenceTable::new(true);
        let other = ServerId(8);
        table.add_connection(SERVICE, PER_NETWORK, client(1), SERVER, at(0));
        table.add_connection(SERVICE, PER_NETWORK, client(1), other, at(1));
        table.remove_connection(SERVICE, PER_NETWORK, client(1), SERVER, true, at(8700));
        assert_eq!(table.lookup(SERVICE, PER_NETWORK, client(1), at(2)), Some(other));
        table.remove_connection(SERVICE, PER_NETWORK, client(1), other, true, at(0));
        assert_eq!(table.lookup(SERVICE, PER_NETWORK, client(1), at(300)), None);
    }

    #[test]
    fn what_has_run_out_stays_so() {
        let mut table = PersistenceTable::new(true);
        let other = ServerId(8);
        table.add_connection(SERVICE, PER_NETWORK, client(1), SERVER, at(0));
        table.add_connection(SERVICE, PER_NETWORK, client(1), other, at(1));
        table.remove_connection(SERVICE, PER_NETWORK, client(1), other, true, at(2));
        table.add_connection(SERVICE, PER_NETWORK, client(1), SERVER, at(1000));
        table.remove_connection(SERVICE, PER_NETWORK, client(1), SERVER, true, at(1000));
        table.remove_connection(SERVICE, PER_NETWORK, client(1), SERVER, true, at(1300));
        assert_eq!(table.lookup(SERVICE, PER_NETWORK, client(1), at(1300)), None);
    }

    #[test]
    fn what_has_run_out_is_forgotten() {
        let each = Persistence { prefix_len: 32, ..PER_NETWORK };
        let mut table = PersistenceTable::new(true);
        for second in 0..10_000 {
            connect(&mut table, each, Ipv4Addr::from_bits(second as u32), second);
            assert_eq!(table.queue.len(), table.templates.len());
        }
        assert!(table.len() < 700, "{} templates of 300 s, one a second", table.len());
    }
}
