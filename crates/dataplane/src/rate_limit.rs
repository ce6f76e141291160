use shunt_nat::Instant;

/// A token bucket.
#[derive(Debug)]
pub(crate) struct RateLimit {
    per_second: u64,
    burst: u64,
    /// In thousandths, so that a token's parts add up over the milliseconds.
    millitokens: u64,
    filled_at: Instant,
}

impl RateLimit {
    /// A full bucket of `burst` tokens that gains `per_second`.
    pub(crate) fn new(per_second: u64, burst: u64) -> RateLimit {
        let filled_at = Instant::default();
        RateLimit { per_second, burst, millitokens: burst * 1000, filled_at }
    }

    /// Takes a token, if there is one.
    pub(crate) fn take(&mut self, now: Instant) -> bool {
        let millis = now.since(self.filled_at).as_millis() as u64;
        self.filled_at = now;
        let gained = millis.saturating_mul(self.per_second);
        self.millitokens = self.millitokens.saturating_add(gained).min(self.burst * 1000);
        let granted = self.millitokens >= 1000;
        if granted {
            self.millitokens -= 1000;
        }
        granted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(limit: &mut RateLimit, millis: u64, tries: usize) -> usize {
        (0..tries).filter(|_| limit.take(Instant::from_millis(millis))).count()
    }

    #[test]
    fn a_burst_then_the_rate() {
        let mut limit = RateLimit::new(10, 3);
        assert_eq!(taken(&mut limit, 0, 9), 3);
        assert_eq!(taken(&mut limit, 99, 9), 0);
        assert_eq!(taken(&mut limit, 100, 9), 1);
        assert_eq!(taken(&mut limit, 400, 9), 3);
        assert_eq!(taken(&mut limit, 100_000, 9), 3, "no more than the burst");
    }
}
