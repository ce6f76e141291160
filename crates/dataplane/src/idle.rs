//! What a worker does when no packets come.
//!
//! It polls on for a while, since a nap takes at least some tens of microseconds whatever one asks
//! for (the kernel's timer slack alone is 50), and a packet that comes meanwhile waits so long. Then
//! it naps for an eighth of the silence so far: so a packet is never late by much more than an
//! eighth of the time since the last one, steady traffic meets no nap at all, and in a long silence
//! the naps are long enough that falling asleep and waking up cost next to nothing.

use std::{thread::sleep, time::Duration};

use shunt_config::Idle;
use shunt_dpdk::clock::Tsc;

/// Silence in which a worker polls on. Packets that come at 5,000 a second or faster find it awake.
const AWAKE: Duration = Duration::from_micros(200);

/// The share of the silence that a nap takes.
const SHARE: u32 = 8;

/// The longest nap. Receive queues have to hold what comes meanwhile; and naps of this length take
/// an idle worker to some percent of its CPU even on virtual machines, where each may cost 20
/// microseconds.
const LONGEST: Duration = Duration::from_micros(500);

/// Keeps track of the silence on one worker.
pub(crate) struct Rest {
    idle: Idle,
    /// Cycles when the last packet came.
    last: u64,
    cycles_per_micro: u64,
}

impl Rest {
    pub(crate) fn new(idle: Idle) -> Rest {
        Rest { idle, last: Tsc::now(), cycles_per_micro: (Tsc::hz() / 1_000_000).max(1) }
    }

    /// Rests a little after a turn of the loop in which so many packets came, if it is time.
    #[inline]
    pub(crate) fn after(&mut self, received: usize) {
        if self.idle == Idle::Spin {
            return;
        }
        let now = Tsc::now();
        if received > 0 {
            self.last = now;
            return;
        }
        let silence = now.wrapping_sub(self.last) / self.cycles_per_micro;
        if let Some(nap) = nap(Duration::from_micros(silence)) {
            sleep(nap);
        }
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

    #[test]
    fn naps_grow_with_the_silence_and_are_bounded() {
        assert_eq!(nap(micros(0)), None);
        assert_eq!(nap(micros(199)), None);
        assert_eq!(nap(micros(200)), Some(micros(25)));
        assert_eq!(nap(micros(1600)), Some(micros(200)));
        assert_eq!(nap(micros(4000)), Some(LONGEST));
        assert_eq!(nap(Duration::from_secs(3600)), Some(LONGEST));
    }
}
