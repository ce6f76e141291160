use std::{net::SocketAddrV4, sync::Arc};

use hashbrown::HashSet;

use super::{
    Built, Construction, Request, Schedule, WorkerState,
    hash::{self, endpoint_key, keyed},
    slots::Slots,
    table::{Filling, MAX_SLOTS, Member, Recipe, SlotIndex, Table},
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
/// As with [source hashing](super::sh), a server that is not usable for a while stays in the table, and
/// one of configured weight 0 does not.
#[derive(Debug)]
struct Maglev(Slots);

/// How far a change of servers or weights changed the table of Maglev hashing. Both are fractions
/// of the space of hashes, so also of the possible clients, 0 to 1.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Disruption {
    /// What has another server now. When one of *n* equal servers leaves or comes, 1/*n* of them
    /// have to.
    pub moved: f64,
    /// What moved from one to another of the servers that are there before and after. As long as
    /// their weights stay, and the size of the table, that needn't be; it is the price of the
    /// algorithm.
    pub moved_between_survivors: f64,
}

/// Fills a table anew, unless endpoints, weights and size are what they were, and says what that did.
pub(super) fn build(construction: &mut Construction) -> Built {
    let servers = construction.servers;
    let seed = construction.builder.hash_seed;
    let size = size_for(servers.len(), construction.options.slots);
    let recipe = Recipe::new(Filling::Maglev { seed }, size, servers);
    let slots = Slots::new(construction, recipe);
    construction.kept(|before: &Maglev| before.0.is_same(&slots)).unwrap_or_else(|| {
        let disruption = construction
            .before::<Maglev>()
            .map(|before| (before.0.table(), slots.table()))
            .filter(|(before, after)| !Arc::ptr_eq(before, after))
            .map(|(before, after)| disruption(before, after));
        (Arc::new(Maglev(slots)), disruption)
    })
}

impl Schedule for Maglev {
    fn pick(&self, _: &mut WorkerState, servers: &[Server], request: &Request) -> Option<usize> {
        self.0.pick(servers, request.client)
    }
}

/// Compares two tables over the whole space of hashes.
fn disruption(before: &Table, after: &Table) -> Disruption {
    let (from_slots, to_slots) = (before.len() as u64, after.len() as u64);
    if from_slots == 0 || to_slots == 0 {
        let moved = if from_slots == to_slots { 0.0 } else { 1.0 };
        return Disruption { moved, moved_between_survivors: 0.0 };
    }
    let stays = present_in(before, after);
    let stayed = present_in(after, before);
    // The space of hashes is `from_slots` times `to_slots` points wide. Every slot of one table has as
    // many points as the other one has slots.
    let (mut point, mut moved, mut between_survivors) = (0, 0, 0);
    while point < from_slots * to_slots {
        let (from_slot, to_slot) = (point / to_slots, point / from_slots);
        let end = ((from_slot + 1) * to_slots).min((to_slot + 1) * from_slots);
        if let (Some(from), Some(to)) =
            (before.get(from_slot as usize), after.get(to_slot as usize))
            && before.members()[from].endpoint != after.members()[to].endpoint
        {
            moved += end - point;
            between_survivors += if stays[from] && stayed[to] { end - point } else { 0 };
        }
        point = end;
    }
    let fraction = |points: u64| points as f64 / (from_slots * to_slots) as f64;
    Disruption { moved: fraction(moved), moved_between_survivors: fraction(between_survivors) }
}

/// By index: whether a member has slots in the other table too.
fn present_in(table: &Table, other: &Table) -> Vec<bool> {
    let with_slots = other.members().iter().filter(|member| member.weight > 0);
    let endpoints: HashSet<SocketAddrV4> = with_slots.map(|member| member.endpoint).collect();
    table.members().iter().map(|member| endpoints.contains(&member.endpoint)).collect()
}

/// Sizes of tables, each with the most servers that it is for. Sizes are primes, and few: a change of
/// size moves nearly every client. Up to 40 servers take 16 KiB.
///
/// What counts is how many slots there are for each server. From 100 on, shares are exact within about
/// 1 % (section 5.3 of the paper). But when one of 40 servers leaves, 2.1 % of all clients move from one
/// to another of those that stay with 100 slots for each, and 0.9 % with 400; when one of ten leaves, that
/// is 0.5 % with 16,381 slots, and 0.3 % with 65,537.
///
/// Fuzzers, which fill tables thousands of times a second, get small ones.
const SIZES: [(usize, usize); 3] = if cfg!(fuzzing) {
    [(251, 2), (509, 5), (1021, 10)]
} else {
    [(16_381, 40), (65_537, 655), (655_373, 6553)]
};

/// The size for more servers than that.
const LARGEST_SIZE: usize = if cfg!(fuzzing) { 4093 } else { MAX_SLOTS as usize };

/// How many slots there are for so many servers, drained ones included: draining one is not to move the
/// clients of the others. Nothing else counts, so that a restart and a second director agree.
fn size_for(servers: usize, wanted: Option<u32>) -> usize {
    match wanted {
        // With any other number than a prime, preferences are no permutations.
        Some(wanted) => {
            let mut sizes = wanted.clamp(2, MAX_SLOTS) as usize..;
            sizes.find(|size| is_prime(*size)).expect("there is no largest prime")
        }
        None => {
            let enough = SIZES.into_iter().find(|(_, most_servers)| *most_servers >= servers);
            enough.map_or(LARGEST_SIZE, |(size, _)| size)
        }
    }
}

fn is_prime(number: usize) -> bool {
    let divisors = (2..).take_while(|divisor| divisor * divisor <= number);
    number > 1 && divisors.into_iter().all(|divisor| !number.is_multiple_of(divisor))
}

/// Fills a table; the order of the members does not matter.
pub(super) fn fill<I: SlotIndex>(members: &[Member], size: usize, seed: u64) -> Box<[I]> {
    let mut order: Vec<usize> =
        (0..members.len()).filter(|index| members[*index].weight > 0).collect();
    order.sort_unstable_by_key(|index| members[*index].endpoint);
    if order.is_empty() {
        return Box::default();
    }
    let mut preferences: Vec<Preferences> =
        order.iter().map(|index| Preferences::new(members[*index].endpoint, seed, size)).collect();
    let mut slots = vec![I::FREE; size].into_boxed_slice();
    let weights: Vec<u16> = order.iter().map(|index| members[*index].weight).collect();
    for turn in Turns::new(&weights, size).take(size) {
        // Ends: a permutation reaches every slot, and there are as many slots as turns.
        let preferences = &mut preferences[turn];
        let mut slot = preferences.next();
        while slots[slot] != I::FREE {
            slot = preferences.next();
        }
        slots[slot] = I::new(order[turn]);
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
        super::{SchedulerBuilder, SchedulerFlags, SchedulerKind, SchedulerOptions, testing::*},
        *,
    };
    use proptest::prelude::*;

    fn maglev(servers: &[Server]) -> Table {
        table(servers, SEED)
    }

    fn table(servers: &[Server], seed: u64) -> Table {
        sized(servers, seed, size_for(servers.len(), None))
    }

    fn sized(servers: &[Server], seed: u64, size: usize) -> Table {
        Table::new(Recipe::new(Filling::Maglev { seed }, size, servers))
    }

    fn slot_counts(maglev: &Table) -> Vec<usize> {
        let size = maglev.len();
        let middles = (0..size as u128).map(|slot| (((slot * 2 + 1) << 63) / size as u128) as u64);
        let slots: Vec<usize> = middles.map(|hash| maglev.at(hash).unwrap()).collect();
        counts(&slots, maglev.members().len())
    }

    #[test]
    fn a_preference_is_a_permutation() {
        let (size, _) = SIZES[0];
        for host in 1..=20 {
            let mut preferences = Preferences::new(server(host, 1).endpoint, SEED, size);
            let mut seen = vec![false; size];
            for _ in 0..size {
                assert!(!std::mem::replace(&mut seen[preferences.next()], true));
            }
        }
    }

    #[test]
    fn the_sizes_are_prime_and_enough() {
        for (size, most_servers) in SIZES {
            assert!(is_prime(size) && size >= 100 * most_servers);
        }
        assert!(is_prime(LARGEST_SIZE));
        for (servers, size) in [
            (0, 16_381),
            (1, 16_381),
            (40, 16_381),
            (41, 65_537),
            (655, 65_537),
            (656, 655_373),
            (6553, 655_373),
            (6554, 6_553_577),
            (1_000_000, 6_553_577),
        ] {
            assert_eq!(size_for(servers, None), size, "{servers} servers");
        }
    }

    #[test]
    fn a_wanted_size_is_taken_if_it_is_prime_and_rounded_up_if_not() {
        let wanted = [0, 1, 2, 4, 251, 252, 65_536, MAX_SLOTS, u32::MAX];
        let taken = [2, 2, 2, 5, 251, 257, 65_537, 6_553_577, 6_553_577];
        assert_eq!(wanted.map(|wanted| size_for(3, Some(wanted))), taken);
        let primes = (0..30).filter(|number| is_prime(*number)).collect::<Vec<_>>();
        assert_eq!(primes, [2, 3, 5, 7, 11, 13, 17, 19, 23, 29]);
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
            assert!(count.abs_diff(SIZES[0].0 * eighths / 8) <= 3, "{counts:?}");
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
                let disruption = super::disruption(&maglev(&all), &maglev(&rest));
                let needed = 1.0 / n as f64;
                assert!(disruption.moved >= needed * 0.99, "{n}: {disruption:?}");
                assert!(disruption.moved_between_survivors <= 0.015, "{n}: {disruption:?}");
                let both = needed + disruption.moved_between_survivors;
                assert!((disruption.moved - both).abs() < 0.001, "{n}: {disruption:?}");

                let back = super::disruption(&maglev(&rest), &maglev(&all));
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
        servers[2].shared.set_weight(0);
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
        let servers = servers(&[10; 10]);
        let before = maglev(&servers);
        servers[3].shared.set_weight(5);
        let disruption = super::disruption(&before, &maglev(&servers));
        // Its share falls from 1/10 to 1/19.
        let needed = 1.0 / 10.0 - 1.0 / 19.0;
        assert!((needed..needed + 0.015).contains(&disruption.moved), "{disruption:?}");
    }

    #[test]
    fn clients_of_the_others_stay_when_one_drains() {
        let servers = servers(&[1; 8]);
        let mut scheduler = scheduler(SchedulerKind::Maglev, &servers);
        let before = scheduler.picks_of_clients(&servers, 8000);
        assert!(counts(&before, 8).iter().all(|count| (850..1150).contains(count)));
        servers[5].shared.set_weight(0);
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

    /// The fraction of many points in the space of hashes that have another server.
    fn moved(before: &Table, after: &Table) -> f64 {
        let endpoint = |table: &Table, hash| table.members()[table.at(hash).unwrap()].endpoint;
        const POINTS: u64 = 200_003;
        let hashes = (0..POINTS).map(|point| point * (u64::MAX / POINTS));
        let moved = hashes.filter(|hash| endpoint(before, *hash) != endpoint(after, *hash));
        moved.count() as f64 / POINTS as f64
    }

    #[test]
    fn a_change_of_size_is_reported_as_it_is() {
        let all = servers(&[1; 41]);
        let (small, large) = (maglev(&all[..40]), maglev(&all));
        assert_eq!((small.len(), large.len()), (16_381, 65_537));
        for (before, after) in [(&small, &large), (&large, &small)] {
            let reported = disruption(before, after);
            let found = moved(before, after);
            assert!((reported.moved - found).abs() < 0.001, "{reported:?} {found}");
            assert!(reported.moved > 0.9, "a change of size moves nearly all: {reported:?}");
            let newcomer = reported.moved - reported.moved_between_survivors;
            assert!((newcomer - 1.0 / 41.0).abs() < 0.001, "{reported:?}");
        }
        let third = sized(&all[..1], SEED, 3);
        assert_eq!(disruption(&third, &sized(&all[..1], SEED, 16_381)), Disruption::default());
    }

    #[test]
    fn wanted_slots_take_effect_and_are_reported() {
        let servers = servers(&[1, 1]);
        let mut builder = SchedulerBuilder::new(1);
        let flags = SchedulerFlags::default();
        let options = SchedulerOptions { kind: SchedulerKind::Maglev, flags, slots: None, seed: 0 };
        let (before, _) = builder.build(&options, &servers, None);
        let wanted = SchedulerOptions { slots: Some(1021), ..options };
        let (after, disruption) = builder.build(&wanted, &servers, Some(&before));
        let size = |schedule: &Arc<dyn Schedule>| {
            let schedule: &dyn std::any::Any = &**schedule;
            schedule.downcast_ref::<Maglev>().unwrap().0.table().len()
        };
        assert_eq!((size(&before), size(&after)), (16_381, 1021));
        assert!(disruption.is_some_and(|disruption| disruption.moved > 0.3), "{disruption:?}");
    }

    #[test]
    fn services_of_the_same_servers_share_a_table() {
        let servers = servers(&[1, 2]);
        let mut builder = SchedulerBuilder::new(1);
        let mut build = |flags, servers: &[Server]| {
            let options =
                SchedulerOptions { kind: SchedulerKind::Maglev, flags, slots: None, seed: 0 };
            builder.build(&options, servers, None).0
        };
        let table = |schedule: &Arc<dyn Schedule>| {
            let schedule: &dyn std::any::Any = &**schedule;
            Arc::clone(schedule.downcast_ref::<Maglev>().unwrap().0.table())
        };
        let first = build(SchedulerFlags::default(), &servers);
        let with_port = build(SchedulerFlags { port: true, fallback: true }, &servers);
        assert!(Arc::ptr_eq(&table(&first), &table(&with_port)));
        let other = build(SchedulerFlags::default(), &servers[1..]);
        assert!(!Arc::ptr_eq(&table(&first), &table(&other)));
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
            let counts = slot_counts(&table(&servers(&weights), seed));
            for (count, weight) in counts.into_iter().zip(weights) {
                // One per cent of the share, and two slots for rounding.
                let share = SIZES[0].0 as f64 * f64::from(weight) / total;
                prop_assert!((count as f64 - share).abs() <= share * 0.01 + 2.0);
                prop_assert_eq!(count == 0, weight == 0);
            }
        }

        /// The bound of the paper, section 5.3: from 100 slots for each server on, no server has more
        /// than 1 % above or below its share. (Shares of 100 slots are rounded to one slot.)
        #[test]
        fn balanced_from_a_hundred_slots_for_each_server_on(
            hosts in prop::collection::hash_set(any::<u16>(), 1..40),
            size in prop::sample::select(vec![4093usize, 8191, 16_381]),
            weight in 1u16..,
            seed: u64,
        ) {
            let servers: Vec<_> = hosts.iter().map(|host| server(*host, weight)).collect();
            let counts = slot_counts(&sized(&servers, seed, size));
            let share = size as f64 / servers.len() as f64;
            for count in counts {
                prop_assert!((count as f64 - share).abs() <= (share * 0.01).max(1.0), "{}", count);
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
            let before = table(&all, seed);
            let disruption = super::disruption(&before, &table(&rest, seed));
            prop_assert!(disruption.moved_between_survivors <= 0.05, "{:?}", disruption);
        }
    }
}
