use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering::Relaxed},
};

use hashbrown::HashMap;

use shunt_rules::ServerId;

use super::{Built, Construction, Request, Schedule, WorkerState};
use crate::server::Server;

/// Round robin: each usable server in turn, whatever its weight. All workers share one turn.
#[derive(Debug)]
struct RoundRobin {
    order: Box<[ServerId]>,
    /// Whose turn it is: an index into `order`. Written by every worker that picks.
    turn: Arc<AtomicU32>,
    predecessor: Option<Predecessor>,
}

/// The turn in another order of the servers, and by place in that order the place in this one.
#[derive(Debug)]
struct Predecessor {
    turn: Arc<AtomicU32>,
    successors: Box<[u32]>,
}

/// A turn that has not begun: who first picks in a new order fills in who has it.
const NOT_BEGUN: u32 = u32::MAX;

pub(super) fn build(construction: &mut Construction) -> Built {
    let servers = construction.servers;
    let is_same = |before: &RoundRobin| before.is_of(servers);
    construction.kept(is_same).unwrap_or_else(|| {
        let schedule = match construction.before() {
            Some(before) => RoundRobin::after(before, servers),
            None => RoundRobin::new(servers),
        };
        (Arc::new(schedule), None)
    })
}

impl RoundRobin {
    fn new(servers: &[Server]) -> RoundRobin {
        RoundRobin { order: order_of(servers), turn: Arc::default(), predecessor: None }
    }

    fn is_of(&self, servers: &[Server]) -> bool {
        servers.iter().map(|server| server.id).eq(self.order.iter().copied())
    }

    /// The turn stays with the server that has it or, if that left, passes to the next that stays.
    fn after(before: &RoundRobin, servers: &[Server]) -> RoundRobin {
        // Whoever picks in the order before may go on with its turn; but it has to have begun, so that
        // this one need not look further back.
        before.begun_turn();
        let order = order_of(servers);
        let places: HashMap<ServerId, u32> = order.iter().copied().zip(0..).collect();
        let successor = |place: usize| {
            let (earlier, later) = before.order.split_at(place);
            let successor = later.iter().chain(earlier).find_map(|server| places.get(server));
            successor.copied().unwrap_or(0)
        };
        let successors = (0..before.order.len()).map(successor).collect();
        let predecessor = Predecessor { turn: Arc::clone(&before.turn), successors };
        let turn = Arc::new(AtomicU32::new(NOT_BEGUN));
        RoundRobin { order, turn, predecessor: Some(predecessor) }
    }

    /// Whose turn it is: in a new order, whoever has it in the order before.
    fn begun_turn(&self) -> u32 {
        let turn = self.turn.load(Relaxed);
        if turn == NOT_BEGUN { self.begin() } else { turn }
    }

    #[cold]
    fn begin(&self) -> u32 {
        let first = self.predecessor.as_ref().and_then(|Predecessor { turn, successors }| {
            successors.get(turn.load(Relaxed) as usize).copied()
        });
        let first = first.unwrap_or(0);
        match self.turn.compare_exchange(NOT_BEGUN, first, Relaxed, Relaxed) {
            Ok(_) => first,
            Err(begun) => begun,
        }
    }

    /// Usually one step; as many more as there are unusable servers in a row, and all of them again
    /// for every other worker that picks at this moment.
    fn pick(&self, servers: &[Server]) -> Option<usize> {
        let mut turn = self.begun_turn();
        loop {
            let first = (turn as usize).min(servers.len());
            let mut in_turn = (first..servers.len()).chain(0..first);
            let picked = in_turn.find(|server| servers[*server].is_usable())?;
            let next = ((picked + 1) % servers.len()) as u32;
            match self.turn.compare_exchange_weak(turn, next, Relaxed, Relaxed) {
                Ok(_) => return Some(picked),
                Err(now) => turn = now,
            }
        }
    }
}

impl Schedule for RoundRobin {
    fn pick(&self, _: &mut WorkerState, servers: &[Server], _: &Request) -> Option<usize> {
        self.pick(servers)
    }
}

fn order_of(servers: &[Server]) -> Box<[ServerId]> {
    servers.iter().map(|server| server.id).collect()
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
        let servers = servers(&[1, 0, 1, 1]);
        let mut scheduler = scheduler(RoundRobin, &servers);
        assert_eq!(scheduler.picks(&servers, 4), [0, 2, 3, 0]);
        servers[2].set_overloaded(true);
        assert_eq!(scheduler.picks(&servers, 3), [3, 0, 3]);
        servers[2].set_overloaded(false);
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
    fn the_turn_survives_changes_that_nobody_picks_between() {
        let [a, b, c, d] = [1, 2, 3, 4].map(|host| server(host, 1));
        let before = [a.clone(), b.clone(), c.clone()];
        let mut scheduler = scheduler(RoundRobin, &before);
        assert_eq!(scheduler.picks(&before, 4), [0, 1, 2, 0]);
        scheduler.servers_changed(&[d.clone(), a.clone(), b.clone(), c.clone()]);
        scheduler.servers_changed(&[c.clone(), d.clone(), a.clone()]);
        let after = [d, c, a];
        scheduler.servers_changed(&after);
        assert_eq!(scheduler.picks(&after, 3), [1, 2, 0], "c is next after b, which left");
    }

    /// The worker that goes over last begins no second turn.
    #[test]
    fn a_turn_begins_once() {
        let servers = servers(&[1, 1, 1]);
        let before = super::RoundRobin::new(&servers);
        before.pick(&servers);
        let after = super::RoundRobin::after(&before, &servers[1..]);
        assert_eq!(after.pick(&servers[1..]), Some(0));
        before.pick(&servers);
        assert_eq!([after.pick(&servers[1..]), after.pick(&servers[1..])], [Some(1), Some(0)]);
    }

    #[test]
    fn workers_share_the_turn() {
        const PICKS: usize = 3000;
        let servers = servers(&[1, 1, 1]);
        let scheduler = super::RoundRobin::new(&servers);
        let picked = std::thread::scope(|scope| {
            let work = || (0..PICKS).map(|_| scheduler.pick(&servers).unwrap()).collect::<Vec<_>>();
            let workers = [scope.spawn(work), scope.spawn(work)];
            workers.map(|worker| worker.join().unwrap()).concat()
        });
        assert_eq!(counts(&picked, 3), [2 * PICKS / 3; 3]);
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
