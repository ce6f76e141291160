use std::sync::Arc;

use super::{
    Built, Construction, Request, Schedule, WorkerState, roster::Roster, worker::Handover,
};
use crate::server::Server;

/// Smooth weighted round robin, after nginx: every pick raises each server's credit by its weight,
/// takes the server with the most, and charges it the total. Weights 5, 1, 1 give a a b a c a a,
/// not a a a a a b c.
///
/// A credit is worth what it is in relation to the total weight: at most one total or so. When the
/// total changes, because a weight did or a server became unusable, the credits are scaled
/// along; else a credit from large weights would give one server all connections for long after
/// the weights became small.
///
/// Each worker keeps credits for itself, in memory that was allocated with the schedule.
#[derive(Debug)]
struct WeightedRoundRobin {
    version: u64,
    roster: Arc<Roster>,
    credits: Handover,
}

pub(super) fn build(construction: &mut Construction) -> Built {
    let servers = construction.servers;
    let is_same = |before: &WeightedRoundRobin| before.roster.is_of(servers);
    construction.kept(is_same).unwrap_or_else(|| {
        let before = construction.before::<WeightedRoundRobin>();
        let roster = Arc::new(Roster::new(construction, before.map(|before| &*before.roster)));
        let version = construction.number();
        let workers = construction.builder.workers;
        let credits = Handover::new(workers, || Credits::new(version, Arc::clone(&roster)));
        (Arc::new(WeightedRoundRobin { version, roster, credits }), None)
    })
}

impl Schedule for WeightedRoundRobin {
    fn pick(&self, state: &mut WorkerState, servers: &[Server], _: &Request) -> Option<usize> {
        if state.goes_over_to(self.version) {
            self.take_over(state);
        }
        state.memory::<Credits>()?.pick(servers)
    }
}

impl WeightedRoundRobin {
    #[cold]
    fn take_over(&self, state: &mut WorkerState) {
        let is_fit = |credits: &Credits| credits.version == self.version;
        self.credits.take_over(state, is_fit, Credits::take_over);
        if !state.memory::<Credits>().is_some_and(|credits| is_fit(credits)) {
            // Somebody took what was prepared for this worker.
            state.forget();
            state.memory_or_begin(|| Credits::new(self.version, Arc::clone(&self.roster)));
        }
    }
}

/// What a worker owes each server.
#[derive(Debug)]
struct Credits {
    version: u64,
    roster: Arc<Roster>,
    /// By index.
    credits: Box<[Credit]>,
    /// The sum of the weights of the usable servers at the last pick.
    total: i64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Credit {
    credit: i64,
    /// How much of it was added for the last pick: the weight then, if the server was usable.
    added: i64,
}

impl Credits {
    fn new(version: u64, roster: Arc<Roster>) -> Credits {
        let credits = vec![Credit::default(); roster.len()].into();
        Credits { version, credits, roster, total: 0 }
    }

    /// A step for each server, or two if the total changed.
    fn pick(&mut self, servers: &[Server]) -> Option<usize> {
        let mut total = 0;
        let mut best = None;
        for (index, (server, credit)) in servers.iter().zip(&mut self.credits).enumerate() {
            let server = server.shared.observe();
            if !server.is_usable() {
                credit.added = 0;
                continue;
            }
            credit.added = i64::from(server.weight());
            credit.credit += credit.added;
            total += credit.added;
            best = better(best, index, credit);
        }
        if total != self.total {
            best = self.scale(total);
        }
        let (picked, _) = best?;
        self.credits[picked].credit -= total;
        Some(picked)
    }

    /// Scales what was there before the weights were added to a new total, and says who has most now.
    #[cold]
    fn scale(&mut self, total: i64) -> Option<(usize, i64)> {
        if total == 0 {
            return None;
        }
        let mut best = None;
        for (index, credit) in self.credits.iter_mut().enumerate() {
            if self.total != 0 {
                let before = i128::from(credit.credit - credit.added);
                let scaled = before * i128::from(total) / i128::from(self.total);
                credit.credit = scaled as i64 + credit.added;
            }
            if credit.added > 0 {
                best = better(best, index, credit);
            }
        }
        self.total = total;
        best
    }

    /// Who stays keeps its credit; who comes starts with none.
    ///
    /// The sum of the credits need not be zero then, but who leaves takes along most of what it
    /// has more or less than the average, so the average stays within about one total: the worst
    /// that comes of it is that a newcomer's first turn is one turn early or late.
    fn take_over(&mut self, before: &Credits) {
        for (index, was_at) in self.roster.common(&before.roster) {
            self.credits[index] = before.credits[was_at];
        }
        self.total = before.total;
    }
}

/// The first of those with the most credit.
#[inline]
fn better(best: Option<(usize, i64)>, index: usize, credit: &Credit) -> Option<(usize, i64)> {
    match best {
        Some((_, most)) if most >= credit.credit => best,
        _ => Some((index, credit.credit)),
    }
}

#[cfg(test)]
mod tests {
    use super::super::{
        Schedule, SchedulerBuilder, SchedulerFlags, SchedulerKind::WeightedRoundRobin,
        SchedulerOptions, WorkerState, testing::*,
    };
    use super::Server;
    use crate::server::Health;
    use proptest::prelude::*;
    use std::sync::Arc;

    fn picks(weights: &[u16], count: usize) -> Vec<usize> {
        let servers = servers(weights);
        scheduler(WeightedRoundRobin, &servers).picks(&servers, count)
    }

    #[test]
    fn smooth() {
        assert_eq!(picks(&[5, 1, 1], 7), [0, 0, 1, 0, 2, 0, 0]);
        assert_eq!(picks(&[4, 3, 2], 9), [0, 1, 2, 0, 1, 0, 2, 1, 0]);
    }

    #[test]
    fn weight_zero_takes_no_part() {
        assert_eq!(picks(&[0, 1, 1], 4), [1, 2, 1, 2]);
    }

    #[test]
    fn a_change_of_weight_takes_effect_at_once() {
        let servers = servers(&[65535, 1, 1]);
        let mut scheduler = scheduler(WeightedRoundRobin, &servers);
        scheduler.picks(&servers, 20_000);
        servers[0].shared.set_weight(1);
        scheduler.servers_changed(&servers);
        let picked = scheduler.picks(&servers, 30);
        for count in counts(&picked, 3) {
            assert!((9..=11).contains(&count), "{picked:?}");
        }
    }

    #[test]
    fn overload_of_the_heaviest_leaves_the_others_their_proportion() {
        let servers = servers(&[65535, 1, 1]);
        let mut scheduler = scheduler(WeightedRoundRobin, &servers);
        scheduler.picks(&servers, 20_000);
        servers[0].set_overloaded(true);
        let picked = scheduler.picks(&servers, 10);
        assert!(counts(&picked, 3)[1..].iter().all(|count| (4..=6).contains(count)), "{picked:?}");
        servers[0].set_overloaded(false);
        assert!(counts(&scheduler.picks(&servers, 65537), 3)[0] >= 65534);
    }

    #[test]
    fn frequent_changes_starve_nobody() {
        let mut servers = servers(&[5, 1, 1]);
        let mut scheduler = scheduler(WeightedRoundRobin, &servers);
        let mut picked = Vec::new();
        for round in 0..700 {
            servers.rotate_left(1);
            let heavy = servers.iter().find(|server| server.weight() >= 5).unwrap();
            heavy.shared.set_weight(5 + round % 2);
            scheduler.servers_changed(&servers);
            let [pick] = scheduler.picks(&servers, 1)[..] else { unreachable!("one pick") };
            picked.push(usize::from(servers[pick].endpoint.ip().octets()[3]) - 1);
        }
        let [a, b, c] = counts(&picked, 3)[..] else { unreachable!("three servers") };
        assert!((490..=540).contains(&a) && b.abs_diff(c) <= 4, "{a} {b} {c}");
    }

    #[test]
    fn one_that_comes_and_goes_does_not_hold_back_a_newcomer() {
        let [a, b, c, d] = [1, 2, 3, 4].map(|host| server(host, 1));
        let mut scheduler = scheduler(WeightedRoundRobin, &[a.clone(), b.clone()]);
        for _ in 0..1000 {
            let with = [a.clone(), b.clone(), c.clone()];
            scheduler.servers_changed(&with);
            while scheduler.picks(&with, 1) != [2] {}
            scheduler.servers_changed(&with[..2]);
        }
        let after = [a, b, c, d];
        scheduler.servers_changed(&after);
        let picked = scheduler.picks(&after, 40);
        assert!(counts(&picked, 4).iter().all(|count| (8..=12).contains(count)), "{picked:?}");
    }

    #[test]
    fn credits_survive_changes_that_the_worker_did_not_pick_between() {
        let servers = servers(&[5, 1, 1]);
        let [mut often, mut seldom] = [(); 2].map(|()| scheduler(WeightedRoundRobin, &servers));
        assert_eq!(often.picks(&servers, 3), [0, 0, 1]);
        assert_eq!(seldom.picks(&servers, 3), [0, 0, 1]);
        let reversed: Vec<_> = servers.iter().rev().cloned().collect();
        seldom.servers_changed(&reversed);
        seldom.servers_changed(&[reversed.clone(), vec![server(9, 0)]].concat());
        for scheduler in [&mut often, &mut seldom] {
            scheduler.servers_changed(&reversed);
            assert_eq!(scheduler.picks(&reversed, 4), [2, 0, 2, 2], "the rest of the cycle");
        }
    }

    #[test]
    fn who_left_and_came_back_between_two_picks_starts_anew() {
        let servers = servers(&[1, 1]);
        let mut scheduler = scheduler(WeightedRoundRobin, &servers);
        assert_eq!(scheduler.picks(&servers, 1), [0]);
        scheduler.servers_changed(&[]);
        scheduler.servers_changed(&servers);
        assert_eq!(scheduler.picks(&servers, 2), [0, 1], "as nobody stayed");
    }

    /// Workers are given what the builder allocated, and leave there what they had before.
    #[test]
    fn credits_are_allocated_by_the_builder() {
        let servers = servers(&[2, 1]);
        let mut builder = SchedulerBuilder::new(2);
        let flags = SchedulerFlags::default();
        let options = SchedulerOptions { kind: WeightedRoundRobin, flags, slots: None, seed: 0 };
        let (first, _) = builder.build(&options, &servers, None);
        let (second, _) = builder.build(&options, &servers[..1], Some(&first));
        let prepared = |schedule: &Arc<dyn Schedule>, worker| {
            let schedule: &dyn std::any::Any = &**schedule;
            let schedule: &super::WeightedRoundRobin = schedule.downcast_ref().unwrap();
            schedule.credits.address::<super::Credits>(worker)
        };
        let (in_first, in_second) = (prepared(&first, 1), prepared(&second, 1));
        let mut state = WorkerState::new(1);
        first.pick(&mut state, &servers, &request(1));
        let address = |state: &mut WorkerState| {
            state.memory::<super::Credits>().map(|credits| std::ptr::from_ref(credits))
        };
        assert_eq!((address(&mut state), prepared(&first, 1)), (in_first, None));
        second.pick(&mut state, &servers[..1], &request(1));
        assert_eq!((address(&mut state), prepared(&second, 1)), (in_second, in_first));
        let mut another = WorkerState::new(1);
        assert_eq!(second.pick(&mut another, &servers[..1], &request(1)), Some(0));
    }

    proptest! {
        /// Effective weights and outages come without a new schedule. Nobody starves, and nobody is owed
        /// more than a few turns when all is quiet again.
        #[test]
        fn even_after_any_effective_weights(
            changes in prop::collection::vec(
                (any::<prop::sample::Index>(), prop_oneof![0u16..20, any::<u16>()], any::<bool>(), 0usize..40),
                0..200,
            ),
            weights in prop::collection::vec(1u16..20, 2..7),
        ) {
            let servers = servers(&weights);
            let mut scheduler = scheduler(WeightedRoundRobin, &servers);
            for (who, weight, is_up, count) in changes {
                let shared = &who.get(&servers).shared;
                shared.set_effective_weight(weight);
                shared.set_health(if is_up { Health::Up } else { Health::Down });
                for _ in 0..count {
                    let picked = scheduler.pick(&servers, &request(1));
                    prop_assert_eq!(picked.is_some(), servers.iter().any(Server::is_usable));
                    prop_assert!(picked.is_none_or(|picked| servers[picked].is_usable()));
                }
            }
            for (server, weight) in servers.iter().zip(&weights) {
                server.shared.set_effective_weight(*weight);
                server.shared.set_health(Health::Up);
            }
            let total: f64 = weights.iter().map(|weight| f64::from(*weight)).sum();
            let count = 400;
            let picked = counts(&scheduler.picks(&servers, count), weights.len());
            for (picked, weight) in picked.into_iter().zip(&weights) {
                let share = count as f64 * f64::from(*weight) / total;
                prop_assert!((picked as f64 - share).abs() < 8.0, "{} of {}", picked, share);
            }
        }

        #[test]
        fn exactly_proportional_over_a_cycle(weights in prop::collection::vec(0u16..50, 1..8)) {
            let cycle = weights.iter().map(|weight| usize::from(*weight)).sum();
            prop_assume!(cycle > 0);
            let picked = counts(&picks(&weights, cycle), weights.len());
            prop_assert_eq!(picked, weights.into_iter().map(usize::from).collect::<Vec<_>>());
        }

        /// At every moment, not only after whole cycles, nobody is far from its share.
        #[test]
        fn even_at_every_moment(
            weights in prop::collection::vec(1u16.., 1..8),
            count in 1usize..2000,
        ) {
            let total: f64 = weights.iter().map(|weight| f64::from(*weight)).sum();
            let picked = counts(&picks(&weights, count), weights.len());
            for (picked, weight) in picked.into_iter().zip(&weights) {
                let share = count as f64 * f64::from(*weight) / total;
                let servers = weights.len() as f64;
                prop_assert!((picked as f64 - share).abs() < servers, "{} of {}", picked, share);
            }
        }

        /// However servers came and went before, the next turns are in proportion.
        #[test]
        fn even_after_any_churn(
            changes in prop::collection::vec((1u16..7, 0u16..20, 0usize..40), 0..200),
            weights in prop::collection::vec(1u16..20, 2..7),
        ) {
            let mut scheduler = scheduler(WeightedRoundRobin, &[]);
            let mut present = Vec::new();
            for (host, weight, count) in changes {
                match present.iter().position(|other: &Server| other.endpoint == server(host, 1).endpoint) {
                    Some(position) => drop(present.remove(position)),
                    None => present.push(server(host, weight)),
                }
                scheduler.servers_changed(&present);
                for _ in 0..count {
                    scheduler.pick(&present, &request(1));
                }
            }
            let servers = servers(&weights);
            scheduler.servers_changed(&servers);
            let total: f64 = weights.iter().map(|weight| f64::from(*weight)).sum();
            let count = 400;
            let picked = counts(&scheduler.picks(&servers, count), weights.len());
            for (picked, weight) in picked.into_iter().zip(&weights) {
                let share = count as f64 * f64::from(*weight) / total;
                prop_assert!((picked as f64 - share).abs() < 5.0, "{} of {}", picked, share);
            }
        }
    }
}
