use std::net::SocketAddrV4;

use hashbrown::HashMap;

use crate::server::Server;

/// Where each server stands in a service's order, by who it is: its endpoint.
pub(super) struct Positions(HashMap<SocketAddrV4, usize>);

impl Positions {
    pub(super) fn of(servers: &[Server]) -> Positions {
        Positions(servers.iter().enumerate().map(|(at, server)| (server.endpoint, at)).collect())
    }

    pub(super) fn get(&self, endpoint: &SocketAddrV4) -> Option<usize> {
        self.0.get(endpoint).copied()
    }
}

/// The endpoints of a service's servers in their order: what to compare a later order with.
pub(super) fn endpoints(servers: &[Server]) -> Vec<SocketAddrV4> {
    servers.iter().map(|server| server.endpoint).collect()
}
