//! What a worker does when no packets come.
//!
//! It polls on for some milliseconds, so that traffic of a thousand packets a second or more always finds it
//! awake. Then it naps between two polls, each time for a small share of the silence so far: a packet that
//! ends a silence comes late by a sixty-fourth of it at most, and in a long silence the naps are long
//! enough that falling asleep and waking up cost next to nothing.
//!
//! A nap takes what it is meant to take: the kernel's timer slack, by which it may let a thread sleep
//! longer (50 microseconds by default), is set to nothing for each worker.

use std::{num::NonZeroU64, thread::sleep, time::Duration};

use rustix::thread::set_current_timer_slack;
use shunt_config::Idle;
use shunt_dpdk::clock::Tsc;

/// Silence in which a worker polls on: four times that between packets of a thousand a second, since
/// packets don't come as regularly.
const AWAKE: Duration = Duration::from_millis(4);

/// The share of the silence that a nap takes.
const SHARE: u32 = 64;

/// The longest nap. Receive queues have to hold what comes meanwhile; and naps of this length take
/// an idle worker to some percent of its CPU even on virtual machines, where each may cost 20
/// microseconds.
const LONGEST: Duration = Duration::from_micros(500);

/// Keeps track of the silence on one worker.
pub(crate) struct IdleBackoff {
    idle: Idle,
    /// Cycles when the last packet came.
    last: u64,
    cycles_per_micro: u64,
}

impl IdleBackoff {
    /// For the thread that calls this.
    pub(crate) fn new(idle: Idle) -> IdleBackoff {
        if idle == Idle::Adaptive {
            // Without it naps are longer; they still end.
            let _ = set_current_timer_slack(NonZeroU64::new(1));
        }
        IdleBackoff { idle, last: Tsc::now(), cycles_per_micro: (Tsc::hz() / 1_000_000).max(1) }
    }

    /// To be called after each poll, with whether there was anything to do, and when it ended in cycles:
    /// naps if it is time, and returns whether it did.
    #[inline]
    pub(crate) fn on_poll(&mut self, is_busy: bool, end: u64) -> bool {
        if self.idle == Idle::Spin {
            return false;
        }
        let nap = self.nap_at(end, is_busy);
        if let Some(nap) = nap {
            sleep(nap);
        }
        nap.is_some()
    }

    /// How long to nap after a poll that ended at `now`.
    #[inline]
    fn nap_at(&mut self, now: u64, is_busy: bool) -> Option<Duration> {
        if is_busy {
            self.last = now;
            return None;
        }
        let silence = now.wrapping_sub(self.last) / self.cycles_per_micro;
        nap(Duration::from_micros(silence))
    }
}

/// How long to nap after so long a silence.
fn nap(silence: Duration) -> Option<Duration> {
    (silence >= AWAKE).then(|| (silence / SHARE).min(LONGEST))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn micros(micros: u64) -> Duration {
        Duration::from_micros(micros)
    }

    /// What a simulated worker did.
    #[derive(Debug, Default)]
    struct Outcome {
        /// How long each packet waited.
        waits: Vec<Duration>,
        /// Share of the time in which it was awake.
        busy: f64,
    }

    impl Outcome {
        fn longest(&self) -> Duration {
            self.waits.iter().max().copied().expect("packets")
        }

        fn median(&self) -> Duration {
            let mut waits = self.waits.clone();
            waits.sort();
            waits[waits.len() / 2]
        }
    }

    /// Runs the rule against packets that arrive at those times, until the last one. A poll takes a
    /// microsecond, and a nap another 15 of the CPU: much, as in a virtual machine.
    fn simulate(arrivals: &[Duration]) -> Outcome {
        const POLL: Duration = Duration::from_micros(1);
        const NAP: Duration = Duration::from_micros(15);
        // A cycle is a microsecond.
        let mut idle = IdleBackoff { idle: Idle::Adaptive, last: 0, cycles_per_micro: 1 };
        let (mut now, mut asleep) = (Duration::ZERO, Duration::ZERO);
        let mut outcome = Outcome::default();
        let mut waiting = arrivals.iter().peekable();
        while waiting.peek().is_some() {
            let mut received = 0;
            while let Some(arrival) = waiting.next_if(|arrival| **arrival <= now) {
                outcome.waits.push(now - *arrival);
                received += 1;
            }
            now += POLL;
            if let Some(nap) = idle.nap_at(now.as_micros() as u64, received > 0) {
                asleep += nap;
                now += nap + NAP;
            }
        }
        outcome.busy = 1.0 - asleep.as_secs_f64() / now.as_secs_f64();
        outcome
    }

    /// Packets for a while, so many a second, with silences of all lengths between them: those of a
    /// Poisson process, in an order that spreads them evenly.
    fn irregular(rate: f64, length: Duration) -> Vec<Duration> {
        const GOLDEN_RATIO: f64 = 0.618_033_988_749_894_9;
        let mut now = Duration::ZERO;
        let arrivals = (1..).map(|n| {
            let uniform = (f64::from(n) * GOLDEN_RATIO).fract();
            now += Duration::from_secs_f64(-uniform.ln() / rate);
            now
        });
        arrivals.take_while(|arrival| *arrival < length).collect()
    }

    #[test]
    fn naps_grow_with_the_silence_and_are_bounded() {
        assert_eq!(nap(micros(0)), None);
        assert_eq!(nap(micros(3999)), None);
        assert_eq!(nap(micros(4000)), Some(micros(4000) / 64));
        assert_eq!(nap(micros(16_000)), Some(micros(250)));
        assert_eq!(nap(micros(32_000)), Some(LONGEST));
        assert_eq!(nap(Duration::from_secs(3600)), Some(LONGEST));
    }

    #[test]
    fn steady_packets_find_the_worker_awake() {
        for rate in [1_000, 5_000, 100_000] {
            let arrivals: Vec<_> = (1..=1000).map(|n| micros(n * 1_000_000 / rate)).collect();
            let outcome = simulate(&arrivals);
            assert!(outcome.longest() <= micros(1), "{rate}: {:?}", outcome.longest());
        }
    }

    #[test]
    fn most_packets_find_the_worker_awake_though_they_come_as_they_like() {
        let outcome = simulate(&irregular(1_000.0, Duration::from_secs(10)));
        assert!(outcome.median() <= micros(1), "{:?}", outcome.median());
        let late = outcome.waits.iter().filter(|wait| **wait > micros(1)).count();
        assert!(late * 40 < outcome.waits.len(), "{late} of {}", outcome.waits.len());
    }

    #[test]
    fn a_packet_after_a_silence_waits_for_a_small_part_of_it() {
        for silence in [4_000, 5_000, 10_000, 30_000, 100_000, 1_000_000] {
            let arrivals: Vec<_> = (1..=50).map(|n| micros(n * silence)).collect();
            let bound = micros(silence) / SHARE + micros(17);
            let longest = simulate(&arrivals).longest();
            assert!(longest <= bound.min(LONGEST + micros(17)), "{silence}: {longest:?}");
        }
    }

    #[test]
    fn an_idle_worker_needs_little_of_its_cpu() {
        let nothing = simulate(&[Duration::from_secs(10)]);
        assert!(nothing.busy < 0.04, "{}", nothing.busy);
        // ARP and the like, a packet a second.
        let little: Vec<_> = (1..=10).map(Duration::from_secs).collect();
        assert!(simulate(&little).busy < 0.05, "{}", simulate(&little).busy);
    }
}
