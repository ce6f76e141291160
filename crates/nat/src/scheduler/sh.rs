use std::sync::Arc;

use super::{
    Built, Construction, Request, Schedule, WorkerState,
    slots::Slots,
    table::{Filling, Member, Recipe, SlotIndex},
    turns::Turns,
};
use crate::server::Server;

/// Source hashing: a statically assigned table of slots, looked up by the client's address (with
/// the flag `port`: and port), so that a client keeps its server.
///
/// A server that is beyond its threshold, or not in service, stays in the table:
/// [`Slots`] says what its clients get meanwhile. A server of configured weight 0 is not in the table.
/// When a configured weight changes or a server comes or goes, most clients change servers:
/// [Maglev hashing](super::mh) is for those who mind.
#[derive(Debug)]
struct SourceHash(Slots);

pub(super) fn build(construction: &mut Construction) -> Built {
    let slots = tiled(construction);
    let is_same = |before: &SourceHash| before.0.is_same(&slots);
    construction.kept(is_same).unwrap_or_else(|| (Arc::new(SourceHash(slots)), None))
}

impl Schedule for SourceHash {
    fn pick(&self, _: &mut WorkerState, servers: &[Server], request: &Request) -> Option<usize> {
        self.0.pick(servers, request.client)
    }
}

/// A server's share of the slots is exact to about 1 in this many per server.
const SLOTS_PER_SERVER: usize = 64;

/// IPVS's table has 256.
const MIN_SLOTS: usize = 1024;

/// A table that is tiled with the servers.
pub(super) fn tiled(construction: &mut Construction) -> Slots {
    let servers = construction.servers;
    let recipe = Recipe::new(Filling::Tiled, size_for(servers.len()), servers);
    Slots::new(construction, recipe)
}

fn size_for(servers: usize) -> usize {
    (servers * SLOTS_PER_SERVER).next_power_of_two().max(MIN_SLOTS)
}

/// Slots in proportion to the weights, at least one for every weight above 0, tiled so that a
/// server's slots lie apart. The order of the servers does not matter.
pub(super) fn tile<I: SlotIndex>(members: &[Member], size: usize) -> Box<[I]> {
    let mut order: Vec<usize> = (0..members.len()).collect();
    order.sort_unstable_by_key(|index| members[*index].endpoint);
    let weights: Vec<u16> = order.iter().map(|index| members[*index].weight).collect();
    Turns::new(&weights, size).take(size).map(|turn| I::new(order[turn])).collect()
}

#[cfg(test)]
mod tests {
    use super::{
        super::{SchedulerFlags, SchedulerKind::SourceHash, testing::*},
        *,
    };

    fn tile_counts(weights: &[u16]) -> Vec<usize> {
        let recipe = Recipe::new(Filling::Tiled, size_for(weights.len()), &servers(weights));
        let slots: Box<[u32]> = tile(&recipe.members, recipe.size);
        let slots: Vec<usize> = slots.into_iter().map(|slot| slot as usize).collect();
        counts(&slots, weights.len())
    }

    #[test]
    fn slots_are_in_proportion_to_the_weights() {
        assert_eq!(tile_counts(&[1, 1, 0, 2]), [256, 256, 0, 512]);
        assert_eq!(tile_counts(&[65535; 4]), [256; 4]);
        assert_eq!(tile_counts(&[65535, 1]), [1023, 1]);
        assert_eq!(tile_counts(&[1; 100]).len(), 100);
        assert!(tile_counts(&[1; 100]).iter().all(|count| (81..=82).contains(count)));
    }

    #[test]
    fn a_client_keeps_its_server_on_all_ports() {
        let servers = servers(&[1, 2, 3]);
        let mut scheduler = scheduler(SourceHash, &servers);
        for client in 0..100 {
            let picked = scheduler.pick(&servers, &request(client));
            assert!(picked.is_some());
            for cport in [1, 80, 65535] {
                let again = scheduler.pick(&servers, &request_from(client, cport));
                assert_eq!(again, picked);
            }
        }
    }

    #[test]
    fn clients_spread_by_weight() {
        let servers = servers(&[1, 0, 3]);
        let picked = scheduler(SourceHash, &servers).picks_of_clients(&servers, 8000);
        let counts = counts(&picked, 3);
        assert_eq!(counts[1], 0);
        assert!((1800..2200).contains(&counts[0]), "{counts:?}");
    }

    #[test]
    fn with_port_one_client_spreads() {
        let servers = servers(&[1, 1]);
        let flags = SchedulerFlags { port: true, fallback: false };
        let mut scheduler = Subject::new(SourceHash, flags, &servers, SEED);
        let picked: Vec<usize> = (1..=1000)
            .map(|cport| scheduler.pick(&servers, &request_from(1, cport)).unwrap())
            .collect();
        assert!(counts(&picked, 2).iter().all(|count| (400..600).contains(count)));
    }

    #[test]
    fn the_seed_decides() {
        let servers = servers(&[1, 1, 1, 1]);
        let mut of_seed = [1, 1, 2].map(|seed| {
            Subject::new(SourceHash, SchedulerFlags::default(), &servers, seed)
                .picks_of_clients(&servers, 100)
        });
        let [first, same, other] = &mut of_seed;
        assert_eq!(first, same);
        assert_ne!(first, other);
    }

    #[test]
    fn an_overloaded_server_refuses_its_clients_and_no_others() {
        let servers = servers(&[1, 1, 1]);
        let mut scheduler = scheduler(SourceHash, &servers);
        let before = scheduler.picks_of_clients(&servers, 300);
        servers[1].set_overloaded(true);
        for (client, server) in (0..300).zip(before) {
            let picked = scheduler.pick(&servers, &request(client));
            assert_eq!(picked, (server != 1).then_some(server));
        }
    }

    #[test]
    fn with_fallback_its_clients_spread_over_the_others() {
        let servers = servers(&[1, 1, 3]);
        let flags = SchedulerFlags { fallback: true, port: false };
        let mut scheduler = Subject::new(SourceHash, flags, &servers, SEED);
        let before = scheduler.picks_of_clients(&servers, 5000);
        servers[0].set_overloaded(true);
        let during = scheduler.picks_of_clients(&servers, 5000);
        let mut fallen = Vec::new();
        for (before, during) in before.iter().zip(during) {
            match before {
                0 => fallen.push(during),
                stays => assert_eq!(during, *stays),
            }
        }
        let counts = counts(&fallen, 3);
        assert_eq!(counts[0], 0);
        assert!((2.0..4.0).contains(&(counts[2] as f64 / counts[1] as f64)), "{counts:?}");
        servers[0].set_overloaded(false);
        assert_eq!(scheduler.picks_of_clients(&servers, 5000), before);
    }

    #[test]
    fn order_does_not_matter_and_drained_servers_get_no_clients() {
        let mut servers = servers(&[1, 2, 3]);
        let mut scheduler = scheduler(SourceHash, &servers);
        let before = scheduler.picks_of_clients(&servers, 100);
        servers.reverse();
        scheduler.servers_changed(&servers);
        let reversed = scheduler.picks_of_clients(&servers, 100);
        assert!(before.iter().zip(&reversed).all(|(before, after)| before + after == 2));
        servers[0].shared.set_weight(0);
        scheduler.servers_changed(&servers);
        assert_eq!(counts(&scheduler.picks_of_clients(&servers, 1000), 3)[0], 0);
        scheduler.servers_changed(&servers[1..]);
        assert!(scheduler.picks_of_clients(&servers[1..], 1000).contains(&1));
    }
}
