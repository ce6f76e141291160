use super::{Request, Schedule, WorkerState, load::overhead, usable};
use crate::server::Server;

/// Least-connection: the server with the least [`overhead`], whatever the weights.
#[derive(Debug)]
pub(super) struct LeastConnection;

impl Schedule for LeastConnection {
    fn pick(&self, _: &mut WorkerState, servers: &[Server], _: &Request) -> Option<usize> {
        pick(servers)
    }
}

fn pick(servers: &[Server]) -> Option<usize> {
    usable(servers).min_by_key(|(_, server)| overhead(*server)).map(|(index, _)| index)
}

#[cfg(test)]
mod tests {
    use super::{super::testing::*, pick};

    #[test]
    fn fewest_connections_active_ones_first_of_all() {
        let servers = [loaded(1, 1, 3, 0), loaded(2, 1, 2, 255), loaded(3, 1, 2, 256)];
        assert_eq!(pick(&servers), Some(1));
        let servers = [loaded(1, 1, 1, 0), loaded(2, 1, 0, 255)];
        assert_eq!(pick(&servers), Some(1));
    }

    #[test]
    fn weights_do_not_matter_but_zero() {
        let servers = [loaded(1, 0, 0, 0), loaded(2, 65535, 2, 0), loaded(3, 1, 1, 0)];
        assert_eq!(pick(&servers), Some(2));
    }

    #[test]
    fn the_first_of_equals() {
        assert_eq!(pick(&servers(&[0, 1, 1])), Some(1));
    }

    #[test]
    fn fills_up_evenly() {
        let mut servers = servers(&[1, 1, 1]);
        assert_eq!(fill(pick, &mut servers, 6), [0, 1, 2, 0, 1, 2]);
    }
}
