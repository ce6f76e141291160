//! The time stamp counter, and the time that it stands for.

use std::time::Duration;

use shunt_dpdk::clock::Tsc;
use shunt_nat::Instant;

/// Real time by the time stamp counter, and the time that a director is told.
#[derive(Clone, Copy)]
pub(crate) struct Clock {
    cycles_per_milli: u64,
    /// When the director's time began to go as it does.
    since: u64,
    /// Its time then.
    then: Instant,
    /// Cycles that are a millisecond to it.
    told: u64,
}

impl Clock {
    /// One that tells the real time from now on. EAL has to run.
    pub(crate) fn start() -> Clock {
        let cycles_per_milli = (Tsc::hz() / 1000).max(1);
        let (since, then) = (Tsc::now(), Instant::default());
        Clock { cycles_per_milli, since, then, told: cycles_per_milli }
    }

    /// Tells a time that goes so many times as fast from now on.
    pub(crate) fn speed_up(&mut self, speed: f64) {
        let now = Tsc::now();
        self.then = self.at(now);
        self.since = now;
        self.told = ((self.cycles_per_milli as f64 / speed) as u64).max(1);
    }

    /// The time that the director is told.
    #[inline]
    pub(crate) fn at(self, tsc: u64) -> Instant {
        Instant::from_millis(self.then.as_millis() + (tsc - self.since) / self.told)
    }

    /// Cycles in which so much of the director's time goes by.
    pub(crate) fn cycles_told(self, time: Duration) -> u64 {
        time.as_millis() as u64 * self.told
    }

    /// Cycles of so much real time.
    pub(crate) fn cycles(self, time: Duration) -> u64 {
        time.as_millis() as u64 * self.cycles_per_milli
    }

    /// The real time of so many cycles.
    pub(crate) fn seconds(self, cycles: u64) -> f64 {
        cycles as f64 / (self.cycles_per_milli * 1000) as f64
    }
}
