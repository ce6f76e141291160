//! Which server a client keeps (IPVS's persistence templates).

use std::{collections::BTreeMap, net::Ipv4Addr};

use shunt_rules::Persistence;

/// For how many seconds a client that was given a server is given it again before that has answered.
const HINT_LIFE: u64 = 5;

/// By service and masked address. What has run out stays, and counts no more.
#[derive(Clone, Debug, Default)]
pub(crate) struct Clients {
    kept: BTreeMap<(usize, Ipv4Addr), Kept>,
    /// Servers that were given, and the seconds in which they were.
    hints: BTreeMap<(usize, Ipv4Addr), (usize, u64)>,
}

#[derive(Clone, Debug)]
struct Kept {
    server: usize,
    /// Connections since the client was given this server.
    connections: u32,
    /// When it runs out, once there are none.
    expires: u64,
}

impl Kept {
    fn is_alive(&self, now: u64) -> bool {
        self.connections > 0 || now < self.expires
    }
}

/// The address that a client is known by.
pub(crate) fn masked(persistence: Persistence, client: Ipv4Addr) -> Ipv4Addr {
    let mask = u64::from(u32::MAX) << (32 - u32::from(persistence.prefix_len));
    Ipv4Addr::from(client.to_bits() & mask as u32)
}

impl Clients {
    /// Services, clients, and the servers that they keep now.
    pub(crate) fn iter(&self, now: u64) -> impl Iterator<Item = (usize, Ipv4Addr, usize)> {
        let alive = self.kept.iter().filter(move |(_, kept)| kept.is_alive(now));
        alive.map(|((service, client), kept)| (*service, *client, kept.server))
    }

    pub(crate) fn forget_service(&mut self, service: usize) {
        self.kept.retain(|(known, _), _| *known != service);
        self.hints.retain(|(known, _), _| *known != service);
    }

    pub(crate) fn forget_server(&mut self, server: usize) {
        self.kept.retain(|_, kept| kept.server != server);
        self.hints.retain(|_, (given, _)| *given != server);
    }

    pub(crate) fn server(
        &self,
        service: usize,
        persistence: Persistence,
        client: Ipv4Addr,
        now: u64,
    ) -> Option<usize> {
        let client = (service, masked(persistence, client));
        if let Some(kept) = self.kept.get(&client).filter(|kept| kept.is_alive(now)) {
            return Some(kept.server);
        }
        let (server, since) = self.hints.get(&client)?;
        let life = HINT_LIFE.min(persistence.timeout.as_secs());
        (now / 1000 - since < life).then_some(*server)
    }

    /// A client was given a server, which has not answered yet.
    pub(crate) fn give(
        &mut self,
        service: usize,
        persistence: Persistence,
        client: Ipv4Addr,
        server: usize,
        now: u64,
    ) {
        self.hints.insert((service, masked(persistence, client)), (server, now / 1000));
    }

    /// A server has answered a client's connection.
    pub(crate) fn connect(
        &mut self,
        service: usize,
        persistence: Persistence,
        client: Ipv4Addr,
        server: usize,
    ) {
        let kept = self.kept.entry((service, masked(persistence, client)));
        let kept = kept.or_insert(Kept { server, connections: 0, expires: 0 });
        if kept.server != server {
            *kept = Kept { server, connections: 0, expires: 0 };
        }
        kept.connections += 1;
    }

    /// A client's connection to a server ended, which that had answered; if the client keeps that server
    /// still, it does so until the timeout after its last connection.
    pub(crate) fn disconnect(
        &mut self,
        service: usize,
        persistence: Persistence,
        client: Ipv4Addr,
        server: usize,
        now: u64,
    ) {
        let kept = self.kept.get_mut(&(service, masked(persistence, client)));
        if let Some(kept) = kept.filter(|kept| kept.server == server && kept.is_alive(now)) {
            kept.connections = kept.connections.saturating_sub(1);
            kept.expires = now + persistence.timeout.as_millis() as u64;
        }
    }
}
