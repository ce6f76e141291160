use std::{net::SocketAddrV4, sync::Arc};

use hashbrown::HashSet;

use super::{
    Request, SchedulerFlags,
    hash::{self, endpoint_key, keyed},
    slots::Slots,
    turns::Turns,
};
use crate::server::Server;

/// Maglev hashing (Eisenbud et al.: Maglev: A Fast and Reliable Software Network Load Balancer,
/// NSDI 2016, section 3.4): a table of slots, looked up by the client's address (with the flag
/// `port`: and port). A server's share of the slots is its share of the weights to about 1 %, and
/// when a server comes or goes, nearly all slots of the others stay as they are.
///
/// Each server prefers the slots in an order of its own, a permutation that its endpoint's hash
/// chooses. Servers take turns by weight; a turn takes the most preferred slot that is still free.
///
/// As with [source hashing](super::sh), a server beyond its threshold stays in the table, for the
/// flag `fallback` to deal with, and one of weight 0 does not.
#[derive(Clone, Debug)]
pub(crate) struct Maglev {
    slots: Slots,
    /// By index: what the slots were made from.
    members: Arc<[Member]>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Member {
    endpoint: SocketAddrV4,
    weight: u16,
}

/// How far a change of servers or weights changed the table of Maglev hashing. Both are fractions
/// of the table, so also of the possible clients, 0 to 1.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Disruption {
    /// What has another server now. When one of *n* equal servers leaves or comes, 1/*n* of them
    /// have to.
    pub moved: f64,
    /// What moved from one to another of the servers that are there before and after. As long as
    /// their weights stay, that needn't be; it is the price of the algorithm: below 1 % for up
    /// to 500 servers of equal weight, up to 5 % for uneven weights.
    pub moved_between_survivors: f64,
}

impl Maglev {
    pub(crate) fn new(flags: SchedulerFlags, servers: &[Server], seed: u64) -> Maglev {
        let members = members(servers);
        Maglev { slots: Slots::new(fill(&members, seed), flags, seed), members }
    }

    pub(crate) fn pick(&self, servers: &[Server], request: &Request) -> Option<usize> {
        self.slots.pick(servers, request.client)
    }

    /// Fills a table anew, unless endpoints and weights are what they were, and says what that did.
    pub(crate) fn after(
        before: &Maglev,
        flags: SchedulerFlags,
        servers: &[Server],
        seed: u64,
    ) -> (Maglev, Option<Disruption>) {
        if members(servers) == before.members {
            let slots = before.slots.with_flags(flags);
            return (Maglev { slots, members: Arc::clone(&before.members) }, None);
        }
        let after = Maglev::new(flags, servers, seed);
        let disruption = Maglev::disruption(before, &after);
        (after, Some(disruption))
    }

    /// Compares two tables, point by point in the space of hashes if their sizes differ.
    pub(crate) fn disruption(before: &Maglev, after: &Maglev) -> Disruption {
        let stays = before.present_in(after);
        let stayed = after.present_in(before);
        let points = before.slots.len().max(after.slots.len());
        let mut moved = 0;
        let mut between_survivors = 0;
        for point in 0..points as u64 {
            // The middle of a slot of the larger table.
            let hash = (((u128::from(point) * 2 + 1) << 63) / points as u128) as u64;
            let (Some(from), Some(to)) = (before.slots.at(hash), after.slots.at(hash)) else {
                moved += 1;
                continue;
            };
            if before.members[from].endpoint != after.members[to].endpoint {
                moved += 1;
                between_survivors += usize::from(stays[from] && stayed[to]);
            }
        }
        let fraction = |count: usize| count as f64 / points.max(1) as f64;
        Disruption { moved: fraction(moved), moved_between_survivors: fraction(between_survivors) }
    }

    /// By index: whether a member has slots in the other table too.
    fn present_in(&self, other: &Maglev) -> Vec<bool> {
        let with_slots = other.members.iter().filter(|member| member.weight > 0);
        let endpoints: HashSet<SocketAddrV4> = with_slots.map(|member| member.endpoint).collect();
        self.members.iter().map(|member| endpoints.contains(&member.endpoint)).collect()
    }
}

fn members(servers: &[Server]) -> Arc<[Member]> {
    let member = |server: &Server| Member { endpoint: server.endpoint, weight: server.weight };
    servers.iter().map(member).collect()
}

/// The paper's two table sizes, and one more: primes, 256 KiB, 2.5 MiB and 25 MiB of slots. Few and
/// far apart, because a change of size moves nearly every client. Fuzzers, which fill tables thousands
/// of times a second, get small ones.
const SIZES: [usize; 3] =
    if cfg!(fuzzing) { [251, 509, 1021] } else { [65_537, 655_373, 6_553_577] };

/// So many slots for each server hold the shares within about 1 % (section 5.3 of the paper).
const SLOTS_PER_SERVER: usize = 100;

fn size_for(servers: usize) -> usize {
    let enough = SIZES.into_iter().find(|size| *size >= servers * SLOTS_PER_SERVER);
    enough.unwrap_or(SIZES[SIZES.len() - 1])
}

/// Fills a table; the order of the members does not matter.
fn fill(members: &[Member], seed: u64) -> Vec<u32> {
    const FREE: u32 = u32::MAX;
    let mut order: Vec<usize> =
        (0..members.len()).filter(|index| members[*index].weight > 0).collect();
    order.sort_unstable_by_key(|index| members[*index].endpoint);
    if order.is_empty() {
        return Vec::new();
    }
    let size = size_for(order.len());
    let mut preferences: Vec<Preferences> =
        order.iter().map(|index| Preferences::new(members[*index].endpoint, seed, size)).collect();
    let mut slots = vec![FREE; size];
    let turns = Turns::new(order.iter().map(|index| members[*index].weight).collect());
    for turn in turns.take(size) {
        // Ends: a permutation reaches every slot, and there are as many slots as turns.
        let preferences = &mut preferences[turn];
        let mut slot = preferences.next();
        while slots[slot] != FREE {
            slot = preferences.next();
        }
        slots[slot] = order[turn] as u32;
    }
    slots
}

/// A permutation of the slots: the paper's offset and skip.
struct Preferences {
    next: usize,
    skip: usize,
    size: usize,
}

impl Preferences {
    /// The size is prime, so that any skip reaches all slots.
    fn new(endpoint: SocketAddrV4, seed: u64, size: usize) -> Preferences {
        let offset = keyed(seed, endpoint_key(endpoint, true));
        let skip = keyed(seed, offset);
        Preferences {
            next: hash::scale(offset, size as u64) as usize,
            skip: hash::scale(skip, size as u64 - 1) as usize + 1,
            size,
        }
    }

    fn next(&mut self) -> usize {
        let slot = self.next;
        self.next += self.skip;
        if self.next >= self.size {
            self.next -= self.size;
        }
        slot
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{SchedulerKind, testing::*},
        *,
    };
    use proptest::prelude::*;

    const NO_FLAGS: SchedulerFlags = SchedulerFlags { fallback: false, port: false };

    fn maglev(servers: &[Server]) -> Maglev {
        Maglev::new(NO_FLAGS, servers, SEED)
    }

    fn slot_counts(maglev: &Maglev) -> Vec<usize> {
        let size = maglev.slots.len();
        let middles = (0..size as u128).map(|slot| (((slot * 2 + 1) << 63) / size as u128) as u64);
        let slots: Vec<usize> = middles.map(|hash| maglev.slots.at(hash).unwrap()).collect();
        counts(&slots, maglev.members.len())
    }

    #[test]
    fn a_preference_is_a_permutation() {
        for host in 1..=20 {
            let mut preferences = Preferences::new(server(host, 1).endpoint, SEED, SIZES[0]);
            let mut seen = vec![false; SIZES[0]];
            for _ in 0..SIZES[0] {
                assert!(!std::mem::replace(&mut seen[preferences.next()], true));
            }
        }
    }

    #[test]
    fn the_sizes_are_prime_and_enough() {
        for size in SIZES {
            assert!((2..).take_while(|divisor| divisor * divisor <= size).all(|d| size % d != 0));
        }
        assert_eq!(
            [1, 655, 656, 6553, 6554].map(size_for),
            [SIZES[0], SIZES[0], SIZES[1], SIZES[1], SIZES[2]]
        );
        assert_eq!(size_for(1_000_000), SIZES[2]);
    }

    #[test]
    fn equal_weights_get_equal_shares() {
        for n in [1, 2, 3, 10, 100, 655] {
            let counts = slot_counts(&maglev(&servers(&vec![1; n])));
            let (least, most) = (counts.iter().min().unwrap(), counts.iter().max().unwrap());
            assert!(most - least <= 1, "{n} servers: {least} to {most}");
        }
    }

    #[test]
    fn shares_follow_the_weights() {
        let counts = slot_counts(&maglev(&servers(&[1, 0, 2, 5])));
        assert_eq!(counts[1], 0);
        for (count, eighths) in [(counts[0], 1), (counts[2], 2), (counts[3], 5)] {
            assert!(count.abs_diff(65537 * eighths / 8) <= 3, "{counts:?}");
        }
        let extreme = slot_counts(&maglev(&servers(&[65535, 1, 65535])));
        assert!(extreme[1] == 1 && extreme[0].abs_diff(extreme[2]) <= 1, "{extreme:?}");
    }

    #[test]
    fn one_of_n_leaves_and_the_others_keep_their_clients() {
        for n in [2, 3, 5, 10, 50, 100, 500] {
            let all = servers(&vec![1; n]);
            for leaver in [0, n / 2, n - 1] {
                let mut rest = all.clone();
                rest.remove(leaver);
                let disruption = Maglev::disruption(&maglev(&all), &maglev(&rest));
                let needed = 1.0 / n as f64;
                assert!(disruption.moved >= needed * 0.99, "{n}: {disruption:?}");
                assert!(disruption.moved_between_survivors <= 0.015, "{n}: {disruption:?}");
                let both = needed + disruption.moved_between_survivors;
                assert!((disruption.moved - both).abs() < 0.001, "{n}: {disruption:?}");

                let back = Maglev::disruption(&maglev(&rest), &maglev(&all));
                assert_eq!(back, disruption, "coming is leaving backwards");
            }
        }
    }

    #[test]
    fn a_change_is_reported() {
        let mut servers = servers(&[1, 1, 1, 1]);
        let mut scheduler = scheduler(SchedulerKind::Maglev, &servers);
        assert_eq!(scheduler.last_disruption(), None);
        servers[0].set_active(9);
        scheduler.servers_changed(&servers);
        assert_eq!(scheduler.last_disruption(), None, "connections are no change");
        servers.reverse();
        scheduler.servers_changed(&servers);
        assert_eq!(scheduler.last_disruption(), Some(Disruption::default()));
        servers[2].weight = 0;
        scheduler.servers_changed(&servers);
        let drained = scheduler.last_disruption().unwrap();
        assert!((0.25..0.29).contains(&drained.moved), "{drained:?}");
        servers.remove(2);
        scheduler.servers_changed(&servers);
        assert_eq!(scheduler.last_disruption(), Some(Disruption::default()), "it had no slots");
        scheduler.servers_changed(&[]);
        let all = Disruption { moved: 1.0, moved_between_survivors: 0.0 };
        assert_eq!(scheduler.last_disruption(), Some(all));
        assert_eq!(scheduler.pick(&[], &request(1)), None);
        scheduler.servers_changed(&servers);
        assert_eq!(scheduler.last_disruption(), Some(all));
    }

    #[test]
    fn a_weight_moves_little_more_than_its_share() {
        let before = servers(&[10; 10]);
        let mut after = before.clone();
        after[3].weight = 5;
        let disruption = Maglev::disruption(&maglev(&before), &maglev(&after));
        // Its share falls from 1/10 to 1/19.
        let needed = 1.0 / 10.0 - 1.0 / 19.0;
        assert!((needed..needed + 0.015).contains(&disruption.moved), "{disruption:?}");
    }

    #[test]
    fn clients_of_the_others_stay_when_one_drains() {
        let mut servers = servers(&[1; 8]);
        let mut scheduler = scheduler(SchedulerKind::Maglev, &servers);
        let before = scheduler.picks_of_clients(&servers, 8000);
        assert!(counts(&before, 8).iter().all(|count| (850..1150).contains(count)));
        servers[5].weight = 0;
        scheduler.servers_changed(&servers);
        let after = scheduler.picks_of_clients(&servers, 8000);
        let moved = before.iter().zip(&after).filter(|(b, a)| **b != 5 && a != b).count();
        assert!(moved < 8000 / 100 && !after.contains(&5), "{moved} of 8000 moved");
    }

    #[test]
    fn an_overloaded_server_refuses_or_falls_back_and_others_do_not_notice() {
        let servers = servers(&[1, 1, 1]);
        for fallback in [false, true] {
            let flags = SchedulerFlags { fallback, port: false };
            let mut scheduler = Subject::new(SchedulerKind::Maglev, flags, &servers, SEED);
            let before = scheduler.picks_of_clients(&servers, 300);
            servers[1].set_overloaded(true);
            let mut fallen = Vec::new();
            for (client, server) in (0..300).zip(before) {
                match (server, scheduler.pick(&servers, &request(client))) {
                    (1, picked) => fallen.push(picked),
                    (server, picked) => assert_eq!(picked, Some(server)),
                }
            }
            servers[1].set_overloaded(false);
            if fallback {
                assert!(fallen.contains(&Some(0)) && fallen.contains(&Some(2)));
                assert!(!fallen.contains(&None) && !fallen.contains(&Some(1)));
            } else {
                assert!(fallen.iter().all(Option::is_none));
            }
        }
    }

    #[test]
    fn with_port_one_client_spreads() {
        let servers = servers(&[1, 1]);
        let flags = SchedulerFlags { port: true, fallback: false };
        let mut scheduler = Subject::new(SchedulerKind::Maglev, flags, &servers, SEED);
        let picked: Vec<usize> = (1..=1000)
            .map(|cport| scheduler.pick(&servers, &request_from(1, cport)).unwrap())
            .collect();
        assert!(counts(&picked, 2).iter().all(|count| (400..600).contains(count)));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn balanced_for_any_weights(
            weights in prop::collection::vec(prop_oneof![0u16..4, 0u16..], 1..40),
            seed: u64,
        ) {
            let total: f64 = weights.iter().map(|weight| f64::from(*weight)).sum();
            prop_assume!(total > 0.0);
            let counts = slot_counts(&Maglev::new(NO_FLAGS, &servers(&weights), seed));
            for (count, weight) in counts.into_iter().zip(weights) {
                // One per cent of the share, and two slots for rounding.
                let share = SIZES[0] as f64 * f64::from(weight) / total;
                prop_assert!((count as f64 - share).abs() <= share * 0.01 + 2.0);
                prop_assert_eq!(count == 0, weight == 0);
            }
        }

        #[test]
        fn little_disruption_for_any_weights(
            weights in prop::collection::vec(1u16..100, 2..40),
            leaver: prop::sample::Index,
            seed: u64,
        ) {
            let all = servers(&weights);
            let mut rest = all.clone();
            rest.remove(leaver.index(all.len()));
            let before = Maglev::new(NO_FLAGS, &all, seed);
            let disruption = Maglev::disruption(&before, &Maglev::new(NO_FLAGS, &rest, seed));
            prop_assert!(disruption.moved_between_survivors <= 0.05, "{:?}", disruption);
        }
    }
}
