//! How long a loop takes from one turn to the next.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use shunt_dpdk::clock::Tsc;

use crate::clock::Clock;

/// What no turn is to exceed.
pub(crate) const LONG_US: f64 = 100.0;

/// The turns of a loop in a stretch of time.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Pauses {
    /// The longest turn, in microseconds.
    pub(crate) longest_us: f64,
    /// How many a second took longer than [`LONG_US`], or than what was asked for instead.
    pub(crate) long_per_second: f64,
    /// What half of them took at most.
    pub(crate) median_us: f64,
    /// What all but one in a hundred took at most.
    pub(crate) p99_us: f64,
}

impl Pauses {
    /// Of a loop that does nothing, which is what this machine and its kernel add to any other. Those
    /// above `limit_us` count as long.
    pub(crate) fn of_nothing(clock: Clock, length: Duration, limit_us: f64) -> Pauses {
        let mut turns = Turns::new(clock, limit_us);
        let (start, length) = (Tsc::now(), clock.cycles(length));
        let mut last = start;
        while last - start < length {
            let now = Tsc::now();
            turns.note(now - last);
            last = now;
        }
        turns.pauses(clock, last - start)
    }

    /// Of two loops at the same time.
    pub(crate) fn merge(self, other: Pauses) -> Pauses {
        Pauses {
            longest_us: self.longest_us.max(other.longest_us),
            long_per_second: self.long_per_second + other.long_per_second,
            median_us: self.median_us.max(other.median_us),
            p99_us: self.p99_us.max(other.p99_us),
        }
    }
}

/// The longest turns that are told apart, in microseconds.
const COUNTED_US: usize = 1000;

/// Takes note of turns, in cycles.
pub(crate) struct Turns {
    limit: u64,
    longest: u64,
    long: u64,
    /// How many there were, by microseconds.
    counts: Box<[u32; COUNTED_US]>,
    cycles_per_us: u64,
}

impl Turns {
    pub(crate) fn new(clock: Clock, limit_us: f64) -> Turns {
        let cycles_per_us = 1e-6 / clock.seconds(1);
        Turns {
            limit: (limit_us * cycles_per_us) as u64,
            longest: 0,
            long: 0,
            counts: Box::new([0; COUNTED_US]),
            cycles_per_us: (cycles_per_us as u64).max(1),
        }
    }

    #[inline]
    pub(crate) fn note(&mut self, turn: u64) {
        self.longest = self.longest.max(turn);
        self.long += u64::from(turn > self.limit);
        self.counts[((turn / self.cycles_per_us) as usize).min(COUNTED_US - 1)] += 1;
    }

    /// What they come to, in so many cycles.
    pub(crate) fn pauses(&self, clock: Clock, cycles: u64) -> Pauses {
        Pauses {
            longest_us: clock.seconds(self.longest) * 1e6,
            long_per_second: self.long as f64 / clock.seconds(cycles),
            median_us: self.quantile_us(0.5),
            p99_us: self.quantile_us(0.99),
        }
    }

    /// What this share of the turns took at most.
    fn quantile_us(&self, share: f64) -> f64 {
        let all: u64 = self.counts.iter().map(|count| u64::from(*count)).sum();
        let mut left = (all as f64 * share) as u64;
        let is_beyond = |count: &u32| {
            let is_beyond = u64::from(*count) > left;
            left = left.saturating_sub(u64::from(*count));
            is_beyond
        };
        self.counts.iter().position(is_beyond).map_or(COUNTED_US, |us| us + 1) as f64
    }
}
