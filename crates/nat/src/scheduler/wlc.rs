use super::{Request, Schedule, WorkerState, load::PerWeight, usable};
use crate::server::Server;

/// Weighted least-connection: the server with the least
/// [`overhead`](super::load::overhead) / weight.
#[derive(Debug)]
pub(super) struct WeightedLeastConnection;

impl Schedule for WeightedLeastConnection {
    fn pick(&self, _: &mut WorkerState, servers: &[Server], _: &Request) -> Option<usize> {
        pick(servers)
    }
}

pub(super) fn pick(servers: &[Server]) -> Option<usize> {
    usable(servers).min_by_key(|(_, server)| PerWeight::of(*server)).map(|(index, _)| index)
}

#[cfg(test)]
mod tests {
    use super::{super::testing::*, pick};

    #[test]
    fn in_relation_to_the_weight() {
        let servers = [loaded(1, 1, 2, 0), loaded(2, 10, 19, 0), loaded(3, 0, 0, 0)];
        assert_eq!(pick(&servers), Some(1));
        let servers = [loaded(1, 1, 2, 0), loaded(2, 10, 21, 0)];
        assert_eq!(pick(&servers), Some(0));
    }

    #[test]
    fn fills_up_in_proportion() {
        let mut servers = servers(&[3, 1]);
        assert_eq!(fill(pick, &mut servers, 8), [0, 1, 0, 0, 0, 1, 0, 0]);
    }

    #[test]
    fn a_new_weight_counts_at_once() {
        let servers = [loaded(1, 1, 5, 0), loaded(2, 1, 6, 0)];
        assert_eq!(pick(&servers), Some(0));
        servers[1].shared.set_weight(2);
        assert_eq!(pick(&servers), Some(1));
    }
}
