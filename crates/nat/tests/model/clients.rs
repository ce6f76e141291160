//! Which server a client keeps (IPVS's persistence templates).

use std::{collections::BTreeMap, net::Ipv4Addr};

use shunt_rules::Persistence;

/// By service and masked address. What has run out stays, and counts no more.
#[derive(Clone, Debug, Default)]
pub(crate) struct Clients(BTreeMap<(usize, Ipv4Addr), Kept>);

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
        let alive = self.0.iter().filter(move |(_, kept)| kept.is_alive(now));
        alive.map(|((service, client), kept)| (*service, *client, kept.server))
    }

    pub(crate) fn forget_service(&mut self, service: usize) {
        self.0.retain(|(known, _), _| *known != service);
    }

    pub(crate) fn forget_server(&mut self, server: usize) {
        self.0.retain(|_, kept| kept.server != server);
    }

    pub(crate) fn server(
        &self,
        service: usize,
        persistence: Persistence,
        client: Ipv4Addr,
        now: u64,
    ) -> Option<usize> {
        let kept = self.0.get(&(service, masked(persistence, client)))?;
        kept.is_alive(now).then_some(kept.server)
    }

    /// A client's connection was given to a server.
    pub(crate) fn connect(
        &mut self,
        service: usize,
        persistence: Persistence,
        client: Ipv4Addr,
        server: usize,
    ) {
        let kept = self.0.entry((service, masked(persistence, client)));
        let kept = kept.or_insert(Kept { server, connections: 0, expires: 0 });
        if kept.server != server {
            *kept = Kept { server, connections: 0, expires: 0 };
        }
        kept.connections += 1;
    }

    /// A client's connection to a server ended; if the client keeps that server still, it does so
    /// until the timeout after its last connection. A handshake that was never finished binds nobody:
    /// it does not `count`.
    pub(crate) fn disconnect(
        &mut self,
        service: usize,
        persistence: Persistence,
        client: Ipv4Addr,
        server: usize,
        counts: bool,
        now: u64,
    ) {
        let kept = self.0.get_mut(&(service, masked(persistence, client)));
        if let Some(kept) = kept.filter(|kept| kept.server == server && kept.is_alive(now)) {
            kept.connections = kept.connections.saturating_sub(1);
            if counts {
                kept.expires = now + persistence.timeout.as_millis() as u64;
            }
        }
    }
}
