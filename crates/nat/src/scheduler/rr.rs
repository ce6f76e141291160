/// Each server in turn.
#[derive(Debug, Default)]
pub(crate) struct RoundRobin {
    next: usize,
}

impl RoundRobin {
    pub(crate) fn pick(&mut self, weights: &[u16]) -> Option<usize> {
        let mut turn = (self.next..weights.len()).chain(0..self.next.min(weights.len()));
        let picked = turn.find(|server| weights[*server] > 0)?;
        self.next = (picked + 1) % weights.len();
        Some(picked)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picks(scheduler: &mut RoundRobin, weights: &[u16], count: usize) -> Vec<usize> {
        (0..count).map(|_| scheduler.pick(weights).unwrap()).collect()
    }

    #[test]
    fn strictly_in_turn_whatever_the_weights() {
        assert_eq!(picks(&mut RoundRobin::default(), &[1, 9, 1], 7), [0, 1, 2, 0, 1, 2, 0]);
    }

    #[test]
    fn weight_zero_takes_no_part() {
        assert_eq!(picks(&mut RoundRobin::default(), &[1, 0, 1], 4), [0, 2, 0, 2]);
        assert_eq!(RoundRobin::default().pick(&[0, 0]), None);
        assert_eq!(RoundRobin::default().pick(&[]), None);
    }

    #[test]
    fn servers_may_leave_between_picks() {
        let mut scheduler = RoundRobin::default();
        assert_eq!(picks(&mut scheduler, &[1, 1, 1], 2), [0, 1]);
        assert_eq!(picks(&mut scheduler, &[1], 2), [0, 0]);
    }
}
