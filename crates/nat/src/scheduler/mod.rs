//! Choosing a server for a new connection.

mod rr;
mod wrr;

use rr::RoundRobin;
use wrr::WeightedRoundRobin;

/// How a service spreads its connections, by IPVS's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SchedulerKind {
    /// `rr`: each server in turn; a weight only says whether a server takes part.
    RoundRobin,
    /// `wrr`: in proportion to the weights, as evenly as they allow.
    WeightedRoundRobin,
}

/// The state of one service's scheduler.
#[derive(Debug)]
pub(crate) enum Scheduler {
    RoundRobin(RoundRobin),
    WeightedRoundRobin(WeightedRoundRobin),
}

impl Scheduler {
    /// A scheduler for servers with these weights.
    pub(crate) fn new(kind: SchedulerKind, weights: &[u16]) -> Scheduler {
        match kind {
            SchedulerKind::RoundRobin => Scheduler::RoundRobin(RoundRobin::default()),
            SchedulerKind::WeightedRoundRobin => {
                Scheduler::WeightedRoundRobin(WeightedRoundRobin::new(weights.len()))
            }
        }
    }

    /// The index of the server for the next connection; a weight of 0 takes none. `None` when no
    /// server takes any.
    pub(crate) fn pick(&mut self, weights: &[u16]) -> Option<usize> {
        match self {
            Scheduler::RoundRobin(scheduler) => scheduler.pick(weights),
            Scheduler::WeightedRoundRobin(scheduler) => scheduler.pick(weights),
        }
    }
}
