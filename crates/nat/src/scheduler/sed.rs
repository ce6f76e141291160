use super::{Request, Schedule, WorkerState, load::PerWeight, usable};
use crate::server::{Observation, Server};

/// Shortest expected delay: the server with the least (active + 1) / weight, the delay that the
/// new connection would find. Connections that are not active don't count, so UDP goes to the
/// highest weight.
#[derive(Debug)]
pub(super) struct ShortestExpectedDelay;

impl Schedule for ShortestExpectedDelay {
    fn pick(&self, _: &mut WorkerState, servers: &[Server], _: &Request) -> Option<usize> {
        pick(servers)
    }
}

pub(super) fn pick(servers: &[Server]) -> Option<usize> {
    usable(servers).min_by_key(|(_, server)| expected_delay(*server)).map(|(index, _)| index)
}

fn expected_delay(server: Observation) -> PerWeight {
    PerWeight::new(u64::from(server.active()) + 1, server.weight())
}

#[cfg(test)]
mod tests {
    use super::{super::testing::*, pick};

    #[test]
    fn the_fast_one_before_the_idle_one() {
        let servers = [loaded(1, 1, 0, 0), loaded(2, 3, 1, 0), loaded(3, 0, 0, 0)];
        assert_eq!(pick(&servers), Some(1), "2/3 is less than 1/1");
    }

    #[test]
    fn what_is_not_active_does_not_count() {
        assert_eq!(pick(&[loaded(1, 1, 0, 1_000_000), loaded(2, 1, 1, 0)]), Some(0));
    }

    #[test]
    fn fills_up_in_proportion_the_heavy_first() {
        let mut servers = servers(&[1, 2, 3]);
        assert_eq!(fill(pick, &mut servers, 6), [2, 1, 2, 0, 1, 2]);
    }

    #[test]
    fn the_largest_counts_fit() {
        let servers = [loaded(1, 1, u32::MAX, 0), loaded(2, 65535, u32::MAX, 0)];
        assert_eq!(pick(&servers), Some(1));
    }
}
