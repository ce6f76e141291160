use super::{Request, Schedule, WorkerState, usable};
use crate::server::Server;

/// Weighted overflow: the server of highest weight until it has as many active connections as
/// weight, then the next. When all are full the connection is refused.
///
/// As ipvsadm(8) says, this does not suit UDP: it has no active connections.
#[derive(Debug)]
pub(super) struct Overflow;

impl Schedule for Overflow {
    fn pick(&self, _: &mut WorkerState, servers: &[Server], _: &Request) -> Option<usize> {
        pick(servers)
    }
}

fn pick(servers: &[Server]) -> Option<usize> {
    usable(servers)
        .filter(|(_, server)| server.active() < u32::from(server.weight()))
        .rev()
        .max_by_key(|(_, server)| server.weight())
        .map(|(index, _)| index)
}

#[cfg(test)]
mod tests {
    use super::{super::testing::*, pick};

    #[test]
    fn spills_into_the_next() {
        let mut servers = servers(&[1, 3, 2, 0]);
        assert_eq!(fill(pick, &mut servers, 6), [1, 1, 1, 2, 2, 0]);
        assert_eq!(pick(&servers), None, "all full");
        servers[2].set_active(servers[2].active() - 1);
        assert_eq!(pick(&servers), Some(2));
        servers[1].set_active(servers[1].active() - 1);
        assert_eq!(pick(&servers), Some(1));
    }

    #[test]
    fn a_new_weight_counts_at_once() {
        let servers = [loaded(1, 5, 5, 0), loaded(2, 4, 0, 0)];
        assert_eq!(pick(&servers), Some(1));
        servers[0].shared.set_weight(6);
        assert_eq!(pick(&servers), Some(0));
        servers[0].set_overloaded(true);
        assert_eq!(pick(&servers), Some(1));
    }

    #[test]
    fn what_is_not_active_does_not_count() {
        assert_eq!(pick(&[loaded(1, 1, 0, 1_000_000)]), Some(0));
    }
}
