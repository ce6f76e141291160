use shunt_dpdk::clock::Tsc;
use shunt_nat::Instant;

/// The time stamp counter as a clock: reading it costs no call. All lcores of a director share one, so
/// that an instant means the same to each.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    start: u64,
    cycles_per_milli: u64,
}

impl Clock {
    /// A clock that begins now.
    pub(crate) fn start() -> Clock {
        Clock { start: Tsc::now(), cycles_per_milli: (Tsc::hz() / 1000).max(1) }
    }

    /// The time since its start.
    pub(crate) fn now(&self) -> Instant {
        self.at(Tsc::now())
    }

    /// The time since its start, when the counter stood so.
    #[inline]
    pub(crate) fn at(&self, counter: u64) -> Instant {
        // The counters of two cores may differ by a little: no time has passed then.
        let cycles = counter.saturating_sub(self.start);
        Instant::from_millis(cycles / self.cycles_per_milli)
    }
}
