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
    /// How many a second took longer than [`LONG_US`].
    pub(crate) long_per_second: f64,
}

impl Pauses {
    /// Of a loop that does nothing, which is what this machine and its kernel add to any other.
    pub(crate) fn of_nothing(clock: Clock, length: Duration) -> Pauses {
        let mut turns = Turns::new(clock);
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
        }
    }
}

/// Takes note of turns, in cycles.
pub(crate) struct Turns {
    limit: u64,
    longest: u64,
    long: u64,
}

impl Turns {
    pub(crate) fn new(clock: Clock) -> Turns {
        let limit = (LONG_US / (clock.seconds(1) * 1e6)) as u64;
        Turns { limit, longest: 0, long: 0 }
    }

    #[inline]
    pub(crate) fn note(&mut self, turn: u64) {
        self.longest = self.longest.max(turn);
        self.long += u64::from(turn > self.limit);
    }

    /// What they come to, in so many cycles.
    pub(crate) fn pauses(&self, clock: Clock, cycles: u64) -> Pauses {
        Pauses {
            longest_us: clock.seconds(self.longest) * 1e6,
            long_per_second: self.long as f64 / clock.seconds(cycles),
        }
    }
}
