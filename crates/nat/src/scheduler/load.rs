//! How loaded a server is, in the ways that schedulers compare it.

use std::cmp::Ordering;

use crate::server::Observation;

/// What a server's connections cost it: an active one as much as 256 others (IPVS's ratio).
pub(super) fn overhead(server: Observation) -> u64 {
    u64::from(server.active()) * 256 + u64::from(server.inactive())
}

/// A load in relation to a weight, compared without dividing. Weight 0 counts as 1.
#[derive(Clone, Copy, Debug)]
pub(super) struct PerWeight {
    /// Up to 2^48: the product with any weight fits 64 bits.
    load: u64,
    weight: u64,
}

impl PerWeight {
    pub(super) fn new(load: u64, weight: u16) -> PerWeight {
        debug_assert!(load <= 1 << 48);
        PerWeight { load, weight: u64::from(weight.max(1)) }
    }

    /// A server's [`overhead`] in relation to its weight.
    pub(super) fn of(server: Observation) -> PerWeight {
        PerWeight::new(overhead(server), server.weight())
    }
}

impl Ord for PerWeight {
    fn cmp(&self, other: &PerWeight) -> Ordering {
        (self.load * other.weight).cmp(&(other.load * self.weight))
    }
}

impl PartialOrd for PerWeight {
    fn partial_cmp(&self, other: &PerWeight) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for PerWeight {
    fn eq(&self, other: &PerWeight) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for PerWeight {}

#[cfg(test)]
mod tests {
    use super::{super::testing::*, *};

    #[test]
    fn an_active_connection_costs_256_others() {
        assert_eq!(overhead(loaded(1, 1, 2, 3).shared.observe()), 515);
    }

    #[test]
    fn compares_as_fractions_do() {
        assert!(PerWeight::new(1, 3) < PerWeight::new(1, 2));
        assert_eq!(PerWeight::new(2, 4), PerWeight::new(1, 2));
    }

    #[test]
    fn the_largest_loads_and_weights_fit() {
        let full = loaded(1, 65535, u32::MAX, u32::MAX / 2).shared.observe();
        let nearly = loaded(2, 65535, u32::MAX, u32::MAX / 2 - 1).shared.observe();
        let light = loaded(3, 1, u32::MAX, u32::MAX / 2).shared.observe();
        assert!(PerWeight::of(nearly) < PerWeight::of(full));
        assert!(PerWeight::of(full) < PerWeight::of(light));
    }
}
