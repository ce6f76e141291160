use super::{Request, Schedule, WorkerState, usable};
use crate::server::Server;

/// Weighted failover: the usable server of highest weight takes all.
#[derive(Debug)]
pub(super) struct Failover;

impl Schedule for Failover {
    fn pick(&self, _: &mut WorkerState, servers: &[Server], _: &Request) -> Option<usize> {
        pick(servers)
    }
}

fn pick(servers: &[Server]) -> Option<usize> {
    usable(servers).rev().max_by_key(|(_, server)| server.weight()).map(|(index, _)| index)
}

#[cfg(test)]
mod tests {
    use super::{super::testing::*, pick};

    #[test]
    fn the_highest_weight_that_can() {
        let servers = servers(&[1, 65535, 65534, 65535]);
        assert_eq!(pick(&servers), Some(1));
        servers[1].set_overloaded(true);
        assert_eq!(pick(&servers), Some(3));
        servers[3].shared.set_weight(0);
        assert_eq!(pick(&servers), Some(2));
        servers[1].set_overloaded(false);
        assert_eq!(pick(&servers), Some(1), "back as soon as it can");
    }
}
