//! Taking numbers of ways out back, so that they can mean others.
//!
//! Connections and servers remember them, and nobody knows which. So a number that is given up is
//! searched for in all of them, a few at a time, and must lead nowhere meanwhile. It is free when the
//! search is over: whoever opens a connection or meets a server later has been told a number that is
//! in use.

use super::Engine;
use crate::egress_set::EgressSet;

/// Records and servers that are searched for each record that may be looked at for being silent: it
/// is less work.
const SEARCHED_PER_LOOK: usize = 4;

/// A search for numbers that are given up.
#[derive(Debug, Default)]
pub(super) struct EgressSearch {
    released: EgressSet,
    /// Records from the first one that are still to be searched, and servers.
    records: usize,
    servers: usize,
}

impl Engine {
    /// Has connections and servers forget these ways out, beside those that they are forgetting
    /// already, a few each time that [`expire`](Engine::expire) is called. Until that is
    /// [done](Engine::releases_egresses), the caller must let nothing leave by them, nor note any of
    /// them.
    pub fn release_egresses(&mut self, released: &EgressSet) {
        if !self.releases_egresses() {
            self.egress_search.released = EgressSet::default();
        }
        self.egress_search.released.extend(released);
        self.egress_search.records = self.table.touched();
        self.egress_search.servers = self.rules.server_count();
    }

    /// Whether a connection or a server may still remember one of the ways out that it is to forget.
    #[must_use]
    pub fn releases_egresses(&self) -> bool {
        self.egress_search.records > 0 || self.egress_search.servers > 0
    }

    /// Goes on with the search, for as long as `looks` at records would take.
    #[inline]
    pub(super) fn search_egresses(&mut self, looks: usize) {
        if self.releases_egresses() {
            self.search(looks.saturating_mul(SEARCHED_PER_LOOK));
        }
    }

    /// What the servers of new rules remember was taken over from old ones.
    pub(super) fn search_servers_again(&mut self) {
        if self.releases_egresses() {
            self.egress_search.servers = self.rules.server_count();
        }
    }

    #[cold]
    fn search(&mut self, budget: usize) {
        let EgressSearch { released, records, servers } = &mut self.egress_search;
        let searched = budget.min(*records);
        self.table.forget_egresses(*records - searched..*records, released);
        *records -= searched;
        let searched = (budget - searched).min(*servers);
        self.rules.forget_egresses(*servers - searched..*servers, released);
        *servers -= searched;
    }
}
