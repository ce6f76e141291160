use std::sync::Arc;

use hashbrown::HashMap;

use shunt_rules::ServerId;

use crate::server::Server;

/// Where each server stands in a service's order.
pub(super) struct Positions(HashMap<ServerId, usize>);

impl Positions {
    pub(super) fn of(servers: &[Server]) -> Positions {
        Positions(servers.iter().enumerate().map(|(at, server)| (server.id, at)).collect())
    }

    pub(super) fn get(&self, server: ServerId) -> Option<usize> {
        self.0.get(&server).copied()
    }
}

/// A service's servers in their order: what to compare a later order with.
pub(super) fn order_of(servers: &[Server]) -> Arc<[ServerId]> {
    servers.iter().map(|server| server.id).collect()
}
