//! Real servers, and who of them gets a connection.

use std::cmp::Reverse;

use shunt_nat::Traffic;
use shunt_rules::{RealServer, Scheduler as SchedulerKind};

#[derive(Clone, Debug)]
pub(crate) struct Server {
    /// Of a removed server, the last that was said, but weight 0.
    pub(crate) real: RealServer,
    pub(crate) is_removed: bool,
    /// Connections that it was given.
    pub(crate) given: u64,
    pub(crate) traffic: Traffic,
    /// Established TCP connections.
    pub(crate) active: u32,
    /// All others.
    pub(crate) inactive: u32,
    pub(crate) overloaded: bool,
    /// Since when its weight is 0, or it was removed.
    pub(crate) drained_since: Option<u64>,
}

impl Server {
    pub(crate) fn new(real: RealServer) -> Server {
        let (given, active, inactive) = (0, 0, 0);
        let (overloaded, is_removed) = (false, false);
        let traffic = Traffic::default();
        Server {
            real,
            is_removed,
            given,
            traffic,
            active,
            inactive,
            overloaded,
            drained_since: None,
        }
    }

    pub(crate) fn is_usable(&self) -> bool {
        self.real.weight > 0 && !self.overloaded && !self.is_removed
    }

    /// It gets nothing any more, unless it comes back.
    pub(crate) fn remove(&mut self) {
        self.is_removed = true;
        (self.real.weight, self.real.upper_threshold) = (0, 0);
    }

    /// Its connections changed: at the upper threshold it is overloaded, and stays so until it is
    /// below the lower one, which is three quarters of the upper one unless said otherwise.
    pub(crate) fn set_connections(&mut self, active: u32, inactive: u32) {
        (self.active, self.inactive) = (active, inactive);
        let connections = f64::from(active + inactive);
        let upper = f64::from(self.real.upper_threshold);
        let lower = match self.real.lower_threshold {
            0 => upper * 0.75,
            lower => f64::from(lower),
        };
        if upper > 0.0 && connections >= upper {
            self.overloaded = true;
        } else if upper == 0.0 || connections < lower {
            self.overloaded = false;
        }
    }

    /// An active connection costs as much as 256 others.
    fn load(&self) -> u64 {
        u64::from(self.active) * 256 + u64::from(self.inactive)
    }
}

/// The state of a service's scheduler.
#[derive(Clone, Debug)]
pub(crate) struct Scheduler {
    kind: SchedulerKind,
    falls_back: bool,
    /// `rr`: whose turn it is.
    turn: usize,
    /// `wrr`, by worker.
    credits: Vec<Credits>,
}

/// What a worker owes each server, and the total of the weights that this relates to.
#[derive(Clone, Debug, Default)]
struct Credits {
    owed: Vec<i64>,
    total: i64,
}

/// The servers that a scheduler may pick, by their place in the service.
pub(crate) struct Picks {
    pub(crate) servers: Vec<usize>,
    /// It may also refuse the connection.
    pub(crate) nobody: bool,
}

impl Scheduler {
    pub(crate) fn new(kind: SchedulerKind, workers: usize) -> Scheduler {
        Scheduler { kind, falls_back: false, turn: 0, credits: vec![Credits::default(); workers] }
    }

    /// Its servers changed from `before` to `after`. Who stays is owed what it was owed; the turn
    /// stays with whose turn it is or, if that one left, passes to the next that stays.
    pub(crate) fn change(
        &mut self,
        kind: SchedulerKind,
        falls_back: bool,
        before: &[usize],
        after: &[usize],
    ) {
        let before = if kind == self.kind { before } else { &[] };
        if kind != self.kind {
            *self = Scheduler::new(kind, self.credits.len());
        }
        self.falls_back = falls_back;
        let in_turn = before.iter().cycle().skip(self.turn).take(before.len());
        let heir = in_turn.filter_map(|server| after.iter().position(|s| s == server)).next();
        self.turn = heir.unwrap_or(0);
        for credits in &mut self.credits {
            let owed = |server| before.iter().position(|s| s == server).map(|at| credits.owed[at]);
            credits.owed = after.iter().map(|server| owed(server).unwrap_or(0)).collect();
        }
    }

    /// The server that it picks. Where that is up to hashing or chance, all who can be picked.
    pub(crate) fn pick(&mut self, worker: usize, servers: &[Server]) -> Picks {
        use SchedulerKind::*;
        let usable: Vec<usize> =
            (0..servers.len()).filter(|server| servers[*server].is_usable()).collect();
        let picked = match self.kind {
            RoundRobin => self.round_robin(&usable, servers.len()),
            WeightedRoundRobin => self.credits[worker].pick(&usable, servers),
            LeastConnection => least(&usable, |server| (servers[server].load(), 1)),
            WeightedLeastConnection => {
                least(&usable, |server| (servers[server].load(), servers[server].real.weight))
            }
            ShortestExpectedDelay => shortest_delay(&usable, servers),
            NeverQueue => {
                let idle = retain(&usable, |server| servers[server].active == 0);
                heaviest(&idle, servers).or_else(|| shortest_delay(&usable, servers))
            }
            Failover => heaviest(&usable, servers),
            Overflow => {
                let has_room =
                    |server: usize| servers[server].active < u32::from(servers[server].real.weight);
                heaviest(&retain(&usable, has_room), servers)
            }
            LocalityLeastConnection | LocalityLeastConnectionReplicated | PowerOfTwo => {
                return Picks { nobody: usable.is_empty(), servers: usable };
            }
            // A client whose server is overloaded is refused, or goes to another one.
            SourceHash | DestinationHash | Maglev => {
                let is_overloaded = |server: &Server| server.real.weight > 0 && server.overloaded;
                let may_refuse = servers.iter().any(is_overloaded) && !self.falls_back;
                return Picks { nobody: usable.is_empty() || may_refuse, servers: usable };
            }
        };
        Picks { servers: picked.into_iter().collect(), nobody: picked.is_none() }
    }

    fn round_robin(&mut self, usable: &[usize], count: usize) -> Option<usize> {
        let picked = usable.iter().find(|server| **server >= self.turn).or(usable.first());
        let picked = *picked?;
        self.turn = (picked + 1) % count;
        Some(picked)
    }
}

impl Credits {
    /// Smooth, after nginx: everybody is owed its weight more; who is owed most is picked and pays
    /// the total. When the total changes, so does in proportion what is owed.
    fn pick(&mut self, usable: &[usize], servers: &[Server]) -> Option<usize> {
        let weight = |server: usize| i64::from(servers[server].real.weight);
        let total: i64 = usable.iter().map(|server| weight(*server)).sum();
        if self.total != 0 && total != 0 {
            self.owed.iter_mut().for_each(|credit| *credit = *credit * total / self.total);
        }
        self.total = if total == 0 { self.total } else { total };
        usable.iter().for_each(|server| self.owed[*server] += weight(*server));
        let picked = usable.iter().rev().copied().max_by_key(|server| self.owed[*server])?;
        self.owed[picked] -= total;
        Some(picked)
    }
}

fn shortest_delay(usable: &[usize], servers: &[Server]) -> Option<usize> {
    least(usable, |server| (u64::from(servers[server].active) + 1, servers[server].real.weight))
}

/// The first with the least load for its weight.
fn least(usable: &[usize], load: impl Fn(usize) -> (u64, u16)) -> Option<usize> {
    usable.iter().copied().min_by(|a, b| {
        let ((load_a, weight_a), (load_b, weight_b)) = (load(*a), load(*b));
        (load_a * u64::from(weight_b)).cmp(&(load_b * u64::from(weight_a)))
    })
}

/// The first with the highest weight.
fn heaviest(usable: &[usize], servers: &[Server]) -> Option<usize> {
    usable.iter().copied().min_by_key(|server| Reverse(servers[*server].real.weight))
}

fn retain(usable: &[usize], is_kept: impl Fn(usize) -> bool) -> Vec<usize> {
    usable.iter().copied().filter(|server| is_kept(*server)).collect()
}
