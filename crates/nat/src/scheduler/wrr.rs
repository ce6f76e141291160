/// Smooth weighted round robin, after nginx: every pick raises each server's credit by its weight,
/// takes the one with the most, and charges it the total. Weights 5, 1, 1 give a a b a c a a, not
/// a a a a a b c.
#[derive(Debug)]
pub(crate) struct WeightedRoundRobin {
    credits: Vec<i64>,
}

impl WeightedRoundRobin {
    pub(crate) fn new(servers: usize) -> WeightedRoundRobin {
        WeightedRoundRobin { credits: vec![0; servers] }
    }

    pub(crate) fn pick(&mut self, weights: &[u16]) -> Option<usize> {
        self.credits.resize(weights.len(), 0);
        let mut total = 0;
        let mut best: Option<usize> = None;
        for (server, weight) in weights.iter().enumerate().filter(|(_, weight)| **weight > 0) {
            total += i64::from(*weight);
            self.credits[server] += i64::from(*weight);
            if best.is_none_or(|best| self.credits[server] > self.credits[best]) {
                best = Some(server);
            }
        }
        self.credits[best?] -= total;
        best
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn picks(weights: &[u16], count: usize) -> Vec<usize> {
        let mut scheduler = WeightedRoundRobin::new(weights.len());
        (0..count).map(|_| scheduler.pick(weights).unwrap()).collect()
    }

    #[test]
    fn smooth() {
        assert_eq!(picks(&[5, 1, 1], 7), [0, 0, 1, 0, 2, 0, 0]);
    }

    #[test]
    fn weight_zero_takes_no_part() {
        assert_eq!(picks(&[0, 1, 1], 4), [1, 2, 1, 2]);
        assert_eq!(WeightedRoundRobin::new(2).pick(&[0, 0]), None);
        assert_eq!(WeightedRoundRobin::new(0).pick(&[]), None);
    }

    proptest! {
        #[test]
        fn exactly_proportional_over_a_cycle(weights in prop::collection::vec(0u16..50, 1..8)) {
            let cycle = weights.iter().map(|weight| usize::from(*weight)).sum();
            prop_assume!(cycle > 0);
            let picked = picks(&weights, cycle);
            for (server, weight) in weights.iter().enumerate() {
                let count = picked.iter().filter(|pick| **pick == server).count();
                prop_assert_eq!(count, usize::from(*weight));
            }
        }
    }
}
