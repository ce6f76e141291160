//! What `lblc` and `lblcr` remember of destinations.

use std::{net::Ipv4Addr, time::Duration};

use hashbrown::HashMap;

use super::usable;
use crate::{
    server::{Observation, Server},
    time::Instant,
};

/// A destination that nobody asked for in this time is forgotten, and a set of servers that did
/// not change in this time shrinks: IPVS's default for both, a day.
pub(super) const EXPIRY: Duration = Duration::from_secs(24 * 60 * 60);

/// As many destinations are remembered; beyond that, the one that was asked for longest ago is
/// forgotten. They are virtual addresses, so clients can't make up more than are configured. It
/// takes about 25 KiB.
const CAPACITY: usize = 256;

/// Something about each of a bounded number of destinations.
#[derive(Debug)]
pub(super) struct Destinations<T> {
    by_address: HashMap<Ipv4Addr, Remembered<T>>,
}

#[derive(Debug)]
struct Remembered<T> {
    what: T,
    last_asked: Instant,
}

impl<T> Destinations<T> {
    pub(super) fn new() -> Destinations<T> {
        // Twice as many, so that the map finds room by clearing up and never has to grow.
        Destinations { by_address: HashMap::with_capacity(2 * CAPACITY) }
    }

    /// What is remembered of a destination, which is asked for now.
    pub(super) fn ask(&mut self, address: Ipv4Addr, now: Instant) -> Option<&mut T> {
        let remembered = self.by_address.get_mut(&address)?;
        let idle = now.since(remembered.last_asked);
        remembered.last_asked = now;
        (idle <= EXPIRY).then_some(&mut remembered.what)
    }

    pub(super) fn remember(&mut self, address: Ipv4Addr, what: T, now: Instant) {
        if self.by_address.len() == CAPACITY && !self.by_address.contains_key(&address) {
            self.forget_one();
        }
        self.by_address.insert(address, Remembered { what, last_asked: now });
    }

    fn forget_one(&mut self) {
        let oldest = self.by_address.iter().min_by_key(|(_, remembered)| remembered.last_asked);
        if let Some(address) = oldest.map(|(address, _)| *address) {
            self.by_address.remove(&address);
        }
    }
}

/// Whether a server has more active connections than weight while another has less than half as
/// many as weight: then a destination moves or spreads (Zhang: Job Scheduling Algorithms in Linux
/// Virtual Server).
pub(super) fn is_overloaded(server: &Server, servers: &[Server]) -> bool {
    let server = server.shared.observe();
    let has_half_its_load =
        |other: Observation| u64::from(other.active()) * 2 < u64::from(other.weight());
    server.active() > u32::from(server.weight())
        && usable(servers).any(|(_, other)| has_half_its_load(other))
}

#[cfg(test)]
mod tests {
    use super::{super::testing::*, *};

    fn at(seconds: u64) -> Instant {
        Instant::from_millis(seconds * 1000)
    }

    fn address(n: usize) -> Ipv4Addr {
        Ipv4Addr::from_bits(n as u32)
    }

    #[test]
    fn remembers_for_a_day_after_the_last_time() {
        let mut destinations = Destinations::new();
        destinations.remember(address(1), 'a', at(0));
        assert_eq!(destinations.ask(address(1), at(86_400)), Some(&mut 'a'));
        assert_eq!(destinations.ask(address(1), at(172_800)), Some(&mut 'a'));
        assert_eq!(destinations.ask(address(1), at(259_201)), None);
        assert_eq!(destinations.ask(address(2), at(0)), None);
    }

    #[test]
    fn forgets_the_longest_unasked_when_full_and_never_grows() {
        let mut destinations = Destinations::new();
        let allocated = destinations.by_address.allocation_size();
        for n in 0..CAPACITY {
            destinations.remember(address(n), n, at(n as u64));
        }
        destinations.ask(address(0), at(5000));
        destinations.remember(address(1), 0, at(1));
        destinations.remember(address(CAPACITY), CAPACITY, at(5001));
        assert_eq!(destinations.ask(address(1), at(5002)), None);
        assert_eq!(destinations.ask(address(0), at(5002)), Some(&mut 0));
        assert_eq!(destinations.ask(address(CAPACITY), at(5002)).copied(), Some(CAPACITY));
        for n in 0..80 * CAPACITY {
            destinations.remember(address(n), n, at(6000));
        }
        assert_eq!(destinations.by_address.len(), CAPACITY);
        assert_eq!(destinations.by_address.allocation_size(), allocated);
    }

    #[test]
    fn overloaded_is_above_weight_while_another_is_below_half() {
        let full = loaded(1, 10, 11, 0);
        let overloaded = |other| is_overloaded(&full, &[full.clone(), other]);
        assert!(overloaded(loaded(2, 10, 4, 1000)));
        assert!(!overloaded(loaded(2, 10, 5, 0)), "half is not below half");
        assert!(!overloaded(loaded(2, 0, 0, 0)), "that one may not be picked");
        let at_weight = loaded(1, 10, 10, 0);
        assert!(!is_overloaded(&at_weight, &[at_weight.clone(), loaded(2, 10, 0, 0)]));
    }
}
