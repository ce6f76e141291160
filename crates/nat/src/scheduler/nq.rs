use super::{Request, Schedule, WorkerState, sed, usable};
use crate::server::Server;

/// Never queue: a server without active connections if there is one, instead of waiting for a
/// fast one; else, and among several such, the [shortest expected delay](super::sed).
#[derive(Debug)]
pub(super) struct NeverQueue;

impl Schedule for NeverQueue {
    fn pick(&self, _: &mut WorkerState, servers: &[Server], _: &Request) -> Option<usize> {
        pick(servers)
    }
}

fn pick(servers: &[Server]) -> Option<usize> {
    let idle = usable(servers).filter(|(_, server)| server.active() == 0);
    let fastest_idle = idle.rev().max_by_key(|(_, server)| server.weight());
    fastest_idle.map(|(index, _)| index).or_else(|| sed::pick(servers))
}

#[cfg(test)]
mod tests {
    use super::{super::testing::*, pick};

    #[test]
    fn the_idle_one_before_the_fast_one() {
        let servers = [loaded(1, 1, 0, 9), loaded(2, 3, 1, 0), loaded(3, 0, 0, 0)];
        assert_eq!(pick(&servers), Some(0));
    }

    #[test]
    fn the_fastest_of_the_idle() {
        assert_eq!(pick(&servers(&[1, 2, 2, 0])), Some(1));
    }

    #[test]
    fn everyone_once_then_as_sed() {
        let mut servers = servers(&[1, 2, 5]);
        assert_eq!(fill(pick, &mut servers, 6), [2, 1, 0, 2, 2, 2]);
    }
}
