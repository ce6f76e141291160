//! Connections of drained servers, when their time is over.

use shunt_packet::tcp;

use super::{Engine, resets};
use crate::{
    connection::{Connection, ConnectionKind},
    table::ScanPosition,
    time::Instant,
};

/// How far the search for connections of drained servers is. The table has no lists by server, so it
/// is searched from one end to the other, once, when a server's time is over: it gets no new
/// connections meanwhile.
#[derive(Debug, Default)]
pub(super) struct Drain {
    /// When a server's time is over next, among those with connections.
    next: Option<Instant>,
    /// Where the search is, while there is one.
    search: Option<ScanPosition>,
}

impl Drain {
    /// Sets when the next search is to begin. One that is under way ends: what it was for may have
    /// changed.
    pub(super) fn plan(&mut self, next: Option<Instant>) {
        *self = Drain { next, search: None };
    }
}

impl Engine {
    /// Whether a connection is to end because its server was drained long enough ago.
    pub(super) fn is_drained(&self, connection: &Connection, now: Instant) -> bool {
        match connection.kind() {
            ConnectionKind::Service(service, server) => self.rules.is_drained(service, server, now),
            ConnectionKind::Snat | ConnectionKind::Passthrough => false,
        }
    }

    pub(super) fn end_drained(
        &mut self,
        now: Instant,
        connection: &Connection,
        send: &mut impl FnMut(&[u8; tcp::RESET_LEN]),
    ) {
        self.counters.drained.add(1);
        if !connection.state().is_closing() {
            resets(connection).into_iter().flatten().for_each(|reset| send(&reset));
        }
        self.forget(now, connection);
    }

    /// Ends connections of drained servers, looking at no more than `budget` records.
    pub(super) fn end_all_drained(
        &mut self,
        now: Instant,
        mut budget: usize,
        mut send: impl FnMut(&[u8; tcp::RESET_LEN]),
    ) {
        while budget > 0 && self.drain.next.is_some_and(|next| next <= now) {
            budget -= 1;
            match self.table.scan(self.drain.search.get_or_insert_default()) {
                // Since it began, the time of others may have come.
                None => self.drain.plan(self.rules.next_drain()),
                Some(Some(id)) if self.is_drained(self.table.get(id), now) => {
                    let ended = self.table.remove(id);
                    self.end_drained(now, &ended, &mut send);
                }
                Some(_) => {}
            }
        }
    }
}
