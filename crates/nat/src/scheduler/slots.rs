use std::{net::SocketAddrV4, sync::Arc};

use super::{Construction, SchedulerFlags, hash, table::Recipe, table::Table, usable};
use crate::server::Server;

/// A table of servers and how it is looked up: what `sh`, `dh` and `mh` have in common.
///
/// A client whose server is down, drained or disabled goes to the next one in its order of hashes; so
/// does, with the flag `fallback`, one whose server is overloaded. All others keep theirs, and the
/// client gets its own back afterwards.
#[derive(Clone, Debug)]
pub(super) struct Slots {
    table: Arc<Table>,
    flags: SchedulerFlags,
    seed: u64,
}

/// How many servers of its order of hashes a client tries before it is given any by weight. As long as
/// half of all weights is usable, 1 client in 65,536 gets that far.
const TRIES: usize = 16;

impl Slots {
    /// With the table of this recipe.
    pub(super) fn new(construction: &mut Construction, recipe: Recipe) -> Slots {
        let (flags, seed) = (construction.options.flags, construction.builder.hash_seed);
        Slots { table: construction.builder.tables.get(recipe), flags, seed }
    }

    /// Whether they would be the same if they were made now: as tables of equal recipes are shared,
    /// this compares them.
    pub(super) fn is_same(&self, other: &Slots) -> bool {
        let Slots { table, flags, seed } = other;
        Arc::ptr_eq(&self.table, table) && (self.flags, self.seed) == (*flags, *seed)
    }

    pub(super) fn table(&self) -> &Arc<Table> {
        &self.table
    }

    /// The server of an endpoint. One table look-up, unless its server is not usable.
    #[inline]
    pub(super) fn pick(&self, servers: &[Server], endpoint: SocketAddrV4) -> Option<usize> {
        let hash = hash::keyed(self.seed, hash::endpoint_key(endpoint, self.flags.port));
        if let Some(assigned) = self.table.at(hash)
            && let Some(server) = servers.get(assigned)
        {
            if server.is_usable() {
                return Some(assigned);
            }
            if server.shared.is_in_service() && !self.flags.fallback {
                return None;
            }
        }
        self.next_usable(servers, hash)
    }

    /// A server's slots lie all over the table, so its clients spread over all the others.
    #[cold]
    fn next_usable(&self, servers: &[Server], first: u64) -> Option<usize> {
        let mut hash = first;
        for _ in 0..TRIES {
            hash = hash::keyed(self.seed, hash);
            let Some(next) = self.table.at(hash) else { break };
            if servers.get(next).is_some_and(Server::is_usable) {
                return Some(next);
            }
        }
        choose(usable(servers), first)
    }
}

/// One of the candidates, each in proportion to its weight, by a random number. If weights change
/// meanwhile, it is one of them all the same.
pub(super) fn choose<'a>(
    candidates: impl Iterator<Item = (usize, &'a Server)> + Clone,
    random: u64,
) -> Option<usize> {
    let total = candidates.clone().map(|(_, server)| u64::from(server.weight())).sum();
    let mut point = hash::scale(random, total);
    let mut last = None;
    for (index, server) in candidates {
        let weight = u64::from(server.weight());
        if point < weight {
            return Some(index);
        }
        point -= weight;
        last = Some(index);
    }
    last
}

#[cfg(test)]
mod tests {
    use super::{super::testing::*, *};

    #[test]
    fn chooses_by_weight() {
        let servers = servers(&[1, 0, 3]);
        let choices = (0..8).map(|eighth| choose(usable(&servers), eighth << 61).unwrap());
        assert_eq!(choices.collect::<Vec<_>>(), [0, 0, 2, 2, 2, 2, 2, 2]);
        assert_eq!(choose(usable(&servers), u64::MAX), Some(2));
        assert_eq!(choose(usable(&[]), 5), None);
    }
}
