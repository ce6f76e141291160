use std::{net::SocketAddrV4, sync::Arc};

use super::{Construction, SchedulerFlags, hash, table::Recipe, table::Table, usable};
use crate::server::{Observation, Server};

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
pub(super) fn choose(
    candidates: impl Iterator<Item = (usize, Observation)> + Clone,
    random: u64,
) -> Option<usize> {
    let total = candidates.clone().map(|(_, server)| u64::from(server.weight())).sum();
    let mut point = hash::scale(random, total);
    for (index, server) in candidates.clone() {
        let weight = u64::from(server.weight());
        if point < weight {
            return Some(index);
        }
        point -= weight;
    }
    candidates.map(|(index, _)| index).last()
}

#[cfg(test)]
mod tests {
    use super::{
        super::{SchedulerKind, testing::*},
        *,
    };
    use crate::server::Health;

    const HASHING: [SchedulerKind; 3] =
        [SchedulerKind::SourceHash, SchedulerKind::Maglev, SchedulerKind::DestinationHash];

    /// By the number of a client, who dials a virtual address of its own.
    fn pick(scheduler: &mut Subject, servers: &[Server], client: u32) -> Option<usize> {
        scheduler.pick(servers, &request_to(client, client as u8, 1 + (client >> 8) as u16))
    }

    fn picks(scheduler: &mut Subject, servers: &[Server]) -> Vec<usize> {
        (0..4000).map(|client| pick(scheduler, servers, client).unwrap()).collect()
    }

    fn hashing(kind: SchedulerKind, servers: &[Server]) -> Subject {
        // With the port, for there are more clients than virtual addresses.
        Subject::new(kind, SchedulerFlags { port: true, fallback: false }, servers, SEED)
    }

    #[test]
    fn clients_of_who_is_down_spread_and_the_others_keep_theirs() {
        for kind in HASHING {
            let servers = servers(&[1, 1, 1, 3]);
            let mut scheduler = hashing(kind, &servers);
            let healthy = picks(&mut scheduler, &servers);
            servers[0].shared.set_health(Health::Down);
            let one_down = picks(&mut scheduler, &servers);
            let moved: Vec<usize> = healthy
                .iter()
                .zip(&one_down)
                .filter_map(|(before, after)| (before != after).then_some((*before, *after)))
                .map(|(before, after)| {
                    assert_eq!(before, 0, "{kind}: the others keep theirs");
                    after
                })
                .collect();
            assert_eq!(moved.len(), counts(&healthy, 4)[0], "{kind}");
            let moved = counts(&moved, 4);
            let shares =
                moved.iter().map(|count| *count as f64 / moved.iter().sum::<usize>() as f64);
            for (share, expected) in shares.zip([0.0, 0.2, 0.2, 0.6]) {
                assert!((share - expected).abs() < 0.06, "{kind}: {moved:?} by weight");
            }

            servers[1].shared.set_health(Health::Down);
            let two_down = picks(&mut scheduler, &servers);
            for (before, after) in one_down.iter().zip(&two_down) {
                assert!(before == after || *before == 1, "{kind}: also who moved keeps its second");
                assert!([2, 3].contains(after), "{kind}");
            }
            servers[0].shared.set_health(Health::Up);
            servers[1].shared.set_health(Health::Up);
            assert_eq!(picks(&mut scheduler, &servers), healthy, "{kind}: all get theirs back");
        }
    }

    #[test]
    fn the_last_one_gets_all() {
        for kind in HASHING {
            let servers = servers(&[65535, 65535, 1, 65535]);
            let mut scheduler = hashing(kind, &servers);
            for down in [0, 1, 3] {
                servers[down].shared.set_health(Health::Down);
            }
            assert!(picks(&mut scheduler, &servers).iter().all(|picked| *picked == 2), "{kind}");
            servers[2].shared.set_health(Health::Down);
            assert_eq!(pick(&mut scheduler, &servers, 1), None, "{kind}");
        }
    }

    /// One whose server is down and whose next is overloaded goes on to the one after that.
    #[test]
    fn who_is_overloaded_refuses_its_own_clients_only() {
        for kind in HASHING {
            let servers = servers(&[1, 1, 1]);
            let mut scheduler = hashing(kind, &servers);
            let healthy = picks(&mut scheduler, &servers);
            servers[0].shared.set_health(Health::Down);
            servers[1].set_overloaded(true);
            for (client, server) in (0..).zip(healthy) {
                let picked = pick(&mut scheduler, &servers, client);
                assert_eq!(picked, (server != 1).then_some(2), "{kind}: {server}");
            }
        }
    }

    #[test]
    fn who_is_down_when_the_table_is_made_gets_its_clients_later() {
        for kind in HASHING {
            let servers = servers(&[1, 2, 1]);
            let healthy = picks(&mut hashing(kind, &servers), &servers);
            servers[1].shared.set_health(Health::Down);
            servers[2].shared.set_effective_weight(0);
            let mut scheduler = hashing(kind, &servers);
            assert_eq!(counts(&picks(&mut scheduler, &servers), 3), [4000, 0, 0], "{kind}");
            servers[1].shared.set_health(Health::Up);
            servers[2].shared.set_effective_weight(1);
            assert_eq!(picks(&mut scheduler, &servers), healthy, "{kind}");
        }
    }

    /// It is in no table, but somebody wants it to have connections.
    #[test]
    fn an_effective_weight_without_a_configured_one_serves_if_nobody_else_does() {
        for kind in HASHING {
            let servers = servers(&[0, 0]);
            let mut scheduler = hashing(kind, &servers);
            assert_eq!(pick(&mut scheduler, &servers, 1), None);
            servers[1].shared.set_effective_weight(5);
            assert_eq!(pick(&mut scheduler, &servers, 1), Some(1), "{kind}");
        }
    }

    #[test]
    fn chooses_by_weight() {
        let servers = servers(&[1, 0, 3]);
        let choices = (0..8).map(|eighth| choose(usable(&servers), eighth << 61).unwrap());
        assert_eq!(choices.collect::<Vec<_>>(), [0, 0, 2, 2, 2, 2, 2, 2]);
        assert_eq!(choose(usable(&servers), u64::MAX), Some(2));
        assert_eq!(choose(usable(&[]), 5), None);
    }
}
