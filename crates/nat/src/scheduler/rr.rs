use std::net::SocketAddrV4;

use super::positions::{Positions, endpoints};
use crate::server::Server;

/// Round robin: each usable server in turn, whatever its weight.
#[derive(Debug)]
pub(crate) struct RoundRobin {
    order: Vec<SocketAddrV4>,
    /// Whose turn it is: an index into `order`.
    next: usize,
}

impl RoundRobin {
    pub(crate) fn new(servers: &[Server]) -> RoundRobin {
        RoundRobin { order: endpoints(servers), next: 0 }
    }

    /// Usually one step; as many more as there are unusable servers in a row.
    pub(crate) fn pick(&mut self, servers: &[Server]) -> Option<usize> {
        let next = self.next.min(servers.len());
        let mut turn = (next..servers.len()).chain(0..next);
        let picked = turn.find(|server| servers[*server].is_usable())?;
        self.next = (picked + 1) % servers.len();
        Some(picked)
    }

    /// The turn stays with the server that has it or, if it left, passes to the next that stays.
    pub(crate) fn servers_changed(&mut self, servers: &[Server]) {
        let positions = Positions::of(servers);
        let (before, from) = self.order.split_at(self.next.min(self.order.len()));
        let mut turn = from.iter().chain(before);
        self.next = turn.find_map(|endpoint| positions.get(endpoint)).unwrap_or(0);
        self.order = endpoints(servers);
    }
}

#[cfg(test)]
mod tests {
    use super::super::{SchedulerKind::RoundRobin, testing::*};

    #[test]
    fn strictly_in_turn_whatever_the_weights() {
        let servers = servers(&[1, 65535, 1]);
        assert_eq!(scheduler(RoundRobin, &servers).picks(&servers, 7), [0, 1, 2, 0, 1, 2, 0]);
    }

    #[test]
    fn what_is_not_usable_loses_its_turn() {
        let mut servers = servers(&[1, 0, 1, 1]);
        let mut scheduler = scheduler(RoundRobin, &servers);
        assert_eq!(scheduler.picks(&servers, 4), [0, 2, 3, 0]);
        servers[2].overloaded = true;
        assert_eq!(scheduler.picks(&servers, 3), [3, 0, 3]);
        servers[2].overloaded = false;
        assert_eq!(scheduler.picks(&servers, 3), [0, 2, 3]);
    }

    #[test]
    fn the_turn_survives_a_change() {
        let [a, b, c, d] = [1, 2, 3, 4].map(|host| server(host, 1));
        let before = [a.clone(), b.clone(), c.clone()];
        let cases = [
            ("nothing changed", vec![a.clone(), b.clone(), c.clone()], [1, 2, 0]),
            ("one came at the end", vec![a.clone(), b.clone(), c.clone(), d.clone()], [1, 2, 3]),
            ("one came at the start", vec![d.clone(), a.clone(), b.clone(), c.clone()], [2, 3, 0]),
            ("reversed", vec![c.clone(), b.clone(), a.clone()], [1, 2, 0]),
            ("the one with the turn left", vec![a.clone(), c.clone()], [1, 0, 1]),
            ("another left", vec![b.clone(), c.clone()], [0, 1, 0]),
            ("the two that come next left", vec![a.clone(), d.clone()], [0, 1, 0]),
            ("all left", vec![d.clone()], [0, 0, 0]),
        ];
        for (what, after, expected) in cases {
            let mut scheduler = scheduler(RoundRobin, &before);
            assert_eq!(scheduler.picks(&before, 4), [0, 1, 2, 0]);
            scheduler.servers_changed(&after);
            assert_eq!(scheduler.picks(&after, 3), expected, "{what}");
        }
    }

    #[test]
    fn all_may_leave_and_come_back() {
        let servers = servers(&[1, 1]);
        let mut scheduler = scheduler(RoundRobin, &servers);
        scheduler.servers_changed(&[]);
        assert_eq!(scheduler.pick(&[], &request(1)), None);
        scheduler.servers_changed(&servers);
        assert_eq!(scheduler.picks(&servers, 3), [0, 1, 0]);
    }
}
