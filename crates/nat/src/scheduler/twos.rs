use std::sync::Arc;

use super::{
    Built, Construction, Request, Schedule, WorkerState, hash::Random, load::PerWeight,
    slots::choose, usable,
};
use crate::server::Server;

/// The power of two choices (Mitzenmacher: The Power of Two Choices in Randomized Load Balancing,
/// 2001), weighted: of two servers drawn by weight, the one with the least
/// [`overhead`](super::load::overhead) / weight, the first drawn if they are equal. Nearly as even
/// as [weighted least-connection](super::wlc), without everybody running to the same server.
#[derive(Debug)]
struct PowerOfTwo {
    version: u64,
    seed: u64,
}

pub(super) fn build(construction: &mut Construction) -> Built {
    let seed = construction.options.seed;
    let is_same = |before: &PowerOfTwo| before.seed == seed;
    construction.kept(is_same).unwrap_or_else(|| {
        let version = construction.number();
        (Arc::new(PowerOfTwo { version, seed }), None)
    })
}

impl Schedule for PowerOfTwo {
    fn pick(&self, state: &mut WorkerState, servers: &[Server], _: &Request) -> Option<usize> {
        if state.goes_over_to(self.version) {
            // Workers draw differently.
            state.random = Random::new(self.seed).fork(state.worker as u64);
        }
        let first = choose(usable(servers), state.random.next())?;
        let others = usable(servers).filter(|(index, _)| *index != first);
        let second = choose(others, state.random.next());
        let load = |index: &usize| PerWeight::of(servers[*index].shared.observe());
        [first].into_iter().chain(second).min_by_key(load)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{SchedulerFlags, SchedulerKind::PowerOfTwo, SchedulerOptions, testing::*};

    #[test]
    fn of_two_always_the_less_loaded() {
        let servers = [loaded(1, 1, 5, 0), loaded(2, 2, 9, 0)];
        assert_eq!(scheduler(PowerOfTwo, &servers).picks(&servers, 20), [1; 20]);
    }

    #[test]
    fn of_many_never_the_most_loaded_and_the_least_loaded_most() {
        let servers = [0, 1, 2, 3].map(|load| loaded(load + 1, 1, load.into(), 0));
        let counts = counts(&scheduler(PowerOfTwo, &servers).picks(&servers, 6000), 4);
        // The least loaded is one of the two in half of the draws, and so on.
        for (count, expected) in counts.into_iter().zip([3000usize, 2000, 1000, 0]) {
            assert!(count.abs_diff(expected) <= expected / 10, "{count} for {expected}");
        }
    }

    #[test]
    fn draws_by_weight() {
        let servers = [loaded(1, 3, 0, 0), loaded(2, 1, 0, 0), loaded(3, 0, 0, 0)];
        let counts = counts(&scheduler(PowerOfTwo, &servers).picks(&servers, 4000), 3);
        assert!((2850..3150).contains(&counts[0]) && counts[2] == 0, "{counts:?}");
    }

    #[test]
    fn fills_up_in_proportion() {
        let mut servers = servers(&[1, 2, 5, 0]);
        let mut scheduler = scheduler(PowerOfTwo, &servers);
        fill(|servers| scheduler.pick(servers, &request(1)), &mut servers, 8000);
        for (server, share) in servers.iter().zip([1000u32, 2000, 5000, 0]) {
            assert!(server.active().abs_diff(share) <= share / 20, "{servers:?}");
        }
    }

    #[test]
    fn the_seed_decides() {
        let servers = servers(&[1; 10]);
        let [first, same, other] = [1, 1, 2].map(|seed| {
            Subject::new(PowerOfTwo, SchedulerFlags::default(), &servers, seed).picks(&servers, 50)
        });
        assert_eq!(first, same);
        assert_ne!(first, other);
    }

    #[test]
    fn workers_draw_differently() {
        let servers = servers(&[1; 10]);
        let [first, same, other] = [3, 3, 4].map(|worker| {
            let flags = SchedulerFlags::default();
            let options = SchedulerOptions { kind: PowerOfTwo, flags, slots: None, seed: SEED };
            Subject::of_worker(worker, options, &servers).picks(&servers, 50)
        });
        assert_eq!(first, same);
        assert_ne!(first, other);
    }

    #[test]
    fn a_change_of_the_servers_does_not_repeat_what_was_drawn() {
        let servers = servers(&[1; 10]);
        let mut scheduler = scheduler(PowerOfTwo, &servers);
        let before = scheduler.picks(&servers, 50);
        scheduler.servers_changed(&servers[..9]);
        scheduler.servers_changed(&servers);
        assert_ne!(scheduler.picks(&servers, 50), before);
    }

    #[test]
    fn the_largest_weights_fit() {
        let servers = vec![loaded(1, 65535, u32::MAX, u32::MAX / 2); 1000];
        let picked = scheduler(PowerOfTwo, &servers).picks(&servers, 1000);
        assert!(counts(&picked, 1000).iter().all(|count| *count < 20));
    }
}
