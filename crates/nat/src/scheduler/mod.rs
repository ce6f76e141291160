//! Choosing a server for a new connection.
//!
//! A [`SchedulerKind`] names a way to choose, as IPVS's users know it from ipvsadm(8). What all have
//! in common:
//!
//! - Only a usable server is ever picked: its weight is above 0, and it is not
//!   beyond its upper threshold.
//! - Of servers that are equally good, the first in the service's order is picked.
//! - Picking allocates nothing, but for what `lblc` and `lblcr` remember of a destination.
//! - Everything follows from the servers, the requests and the seed; nothing is left to chance.

mod destinations;
mod dh;
mod fo;
mod hash;
mod lblc;
mod lblcr;
mod lc;
mod load;
mod mh;
mod nq;
mod ovf;
mod positions;
#[cfg(test)]
mod properties;
mod rr;
mod sed;
mod sh;
mod slots;
#[cfg(test)]
mod testing;
mod turns;
mod twos;
mod wlc;
mod wrr;

use std::net::SocketAddrV4;

pub use mh::Disruption;
use shunt_rules::{Scheduler as SchedulerKind, SchedulerFlags};

use dh::DestinationHash;
use lblc::LocalityLeastConnection;
use lblcr::LocalityLeastConnectionReplicated;
use mh::Maglev;
use rr::RoundRobin;
use sh::SourceHash;
use twos::PowerOfTwo;
use wrr::WeightedRoundRobin;

use crate::{server::Server, time::Instant};

/// Whether a connection that opens or ends changes which server is chosen next.
pub(crate) fn compares_loads(kind: SchedulerKind) -> bool {
    match kind {
        SchedulerKind::RoundRobin
        | SchedulerKind::WeightedRoundRobin
        | SchedulerKind::SourceHash
        | SchedulerKind::DestinationHash
        | SchedulerKind::Maglev
        | SchedulerKind::Failover => false,
        SchedulerKind::LeastConnection
        | SchedulerKind::WeightedLeastConnection
        | SchedulerKind::ShortestExpectedDelay
        | SchedulerKind::NeverQueue
        | SchedulerKind::LocalityLeastConnection
        | SchedulerKind::LocalityLeastConnectionReplicated
        | SchedulerKind::Overflow
        | SchedulerKind::PowerOfTwo => true,
    }
}

/// What opens a connection, as far as a scheduler cares.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Request {
    /// CIP:cport.
    pub(crate) client: SocketAddrV4,
    /// VIP:vport, as the client dialled it.
    pub(crate) virtual_endpoint: SocketAddrV4,
    /// When.
    pub(crate) now: Instant,
}

/// The state of one service's scheduler.
#[derive(Debug)]
pub(crate) enum Scheduler {
    RoundRobin(RoundRobin),
    WeightedRoundRobin(WeightedRoundRobin),
    LeastConnection,
    WeightedLeastConnection,
    ShortestExpectedDelay,
    NeverQueue,
    SourceHash(SourceHash),
    DestinationHash(DestinationHash),
    Maglev(Maglev),
    LocalityLeastConnection(LocalityLeastConnection),
    LocalityLeastConnectionReplicated(LocalityLeastConnectionReplicated),
    Failover,
    Overflow,
    PowerOfTwo(PowerOfTwo),
}

impl Scheduler {
    /// A scheduler for these servers.
    ///
    /// `sh`, `dh` and `mh` send a client to the same server wherever the seed, the servers and
    /// their weights are the same, in whatever order: on every worker, after a restart, on a
    /// second director. `twos` draws from the seed.
    pub(crate) fn new(
        kind: SchedulerKind,
        flags: SchedulerFlags,
        servers: &[Server],
        seed: u64,
    ) -> Scheduler {
        match kind {
            SchedulerKind::RoundRobin => Scheduler::RoundRobin(RoundRobin::new(servers)),
            SchedulerKind::WeightedRoundRobin => {
                Scheduler::WeightedRoundRobin(WeightedRoundRobin::new(servers))
            }
            SchedulerKind::LeastConnection => Scheduler::LeastConnection,
            SchedulerKind::WeightedLeastConnection => Scheduler::WeightedLeastConnection,
            SchedulerKind::ShortestExpectedDelay => Scheduler::ShortestExpectedDelay,
            SchedulerKind::NeverQueue => Scheduler::NeverQueue,
            SchedulerKind::SourceHash => {
                Scheduler::SourceHash(SourceHash::new(flags, servers, seed))
            }
            SchedulerKind::DestinationHash => {
                Scheduler::DestinationHash(DestinationHash::new(flags, servers, seed))
            }
            SchedulerKind::Maglev => Scheduler::Maglev(Maglev::new(flags, servers, seed)),
            SchedulerKind::LocalityLeastConnection => {
                Scheduler::LocalityLeastConnection(LocalityLeastConnection::new())
            }
            SchedulerKind::LocalityLeastConnectionReplicated => {
                let scheduler = LocalityLeastConnectionReplicated::new(servers);
                Scheduler::LocalityLeastConnectionReplicated(scheduler)
            }
            SchedulerKind::Failover => Scheduler::Failover,
            SchedulerKind::Overflow => Scheduler::Overflow,
            SchedulerKind::PowerOfTwo => Scheduler::PowerOfTwo(PowerOfTwo::new(seed)),
        }
    }

    /// The scheduler that follows on `before` when servers or their weights change, and for `mh` what
    /// that does to its table, if anything. A server is who it was if its endpoint is.
    ///
    /// It may take milliseconds: `mh` fills its table anew.
    pub(crate) fn after(
        before: &Scheduler,
        kind: SchedulerKind,
        flags: SchedulerFlags,
        servers: &[Server],
        seed: u64,
    ) -> (Scheduler, Option<Disruption>) {
        match (kind, before) {
            (SchedulerKind::RoundRobin, Scheduler::RoundRobin(before)) => {
                (Scheduler::RoundRobin(RoundRobin::after(before, servers)), None)
            }
            (SchedulerKind::Maglev, Scheduler::Maglev(before)) => {
                let (maglev, disruption) = Maglev::after(before, flags, servers, seed);
                (Scheduler::Maglev(maglev), disruption)
            }
            _ => (Scheduler::new(kind, flags, servers, seed), None),
        }
    }

    /// A worker's own: what the workers have in common is shared, the rest is as new.
    pub(crate) fn of_worker(&self, worker: usize) -> Scheduler {
        match self {
            Scheduler::RoundRobin(scheduler) => Scheduler::RoundRobin(scheduler.clone()),
            Scheduler::WeightedRoundRobin(scheduler) => {
                Scheduler::WeightedRoundRobin(scheduler.clone())
            }
            Scheduler::LeastConnection => Scheduler::LeastConnection,
            Scheduler::WeightedLeastConnection => Scheduler::WeightedLeastConnection,
            Scheduler::ShortestExpectedDelay => Scheduler::ShortestExpectedDelay,
            Scheduler::NeverQueue => Scheduler::NeverQueue,
            Scheduler::SourceHash(scheduler) => Scheduler::SourceHash(scheduler.clone()),
            Scheduler::DestinationHash(scheduler) => Scheduler::DestinationHash(scheduler.clone()),
            Scheduler::Maglev(scheduler) => Scheduler::Maglev(scheduler.clone()),
            Scheduler::LocalityLeastConnection(_) => {
                Scheduler::LocalityLeastConnection(LocalityLeastConnection::new())
            }
            Scheduler::LocalityLeastConnectionReplicated(scheduler) => {
                Scheduler::LocalityLeastConnectionReplicated(scheduler.of_worker())
            }
            Scheduler::Failover => Scheduler::Failover,
            Scheduler::Overflow => Scheduler::Overflow,
            Scheduler::PowerOfTwo(scheduler) => Scheduler::PowerOfTwo(scheduler.of_worker(worker)),
        }
    }

    /// The index of the server for a new connection.
    ///
    /// `None` refuses it. That is when no server is usable, and besides: with `sh`, `dh` and `mh`
    /// when the client's server is not usable and there is no `fallback`; with `ovf` when every
    /// server is full.
    ///
    /// The servers are those of `new` or `after`, in that order; their connections and overload may
    /// have changed since.
    pub(crate) fn pick(&mut self, servers: &[Server], request: &Request) -> Option<usize> {
        match self {
            Scheduler::RoundRobin(scheduler) => scheduler.pick(servers),
            Scheduler::WeightedRoundRobin(scheduler) => scheduler.pick(servers),
            Scheduler::LeastConnection => lc::pick(servers),
            Scheduler::WeightedLeastConnection => wlc::pick(servers),
            Scheduler::ShortestExpectedDelay => sed::pick(servers),
            Scheduler::NeverQueue => nq::pick(servers),
            Scheduler::SourceHash(scheduler) => scheduler.pick(servers, request),
            Scheduler::DestinationHash(scheduler) => scheduler.pick(servers, request),
            Scheduler::Maglev(scheduler) => scheduler.pick(servers, request),
            Scheduler::LocalityLeastConnection(scheduler) => scheduler.pick(servers, request),
            Scheduler::LocalityLeastConnectionReplicated(scheduler) => {
                scheduler.pick(servers, request)
            }
            Scheduler::Failover => fo::pick(servers),
            Scheduler::Overflow => ovf::pick(servers),
            Scheduler::PowerOfTwo(scheduler) => scheduler.pick(servers),
        }
    }

    /// Goes on where the scheduler of the same service left off on this worker, before the rules
    /// changed. `was_at` is the place that a server had then. Allocates nothing.
    pub(crate) fn take_over(
        &mut self,
        before: &mut Scheduler,
        was_at: impl Fn(usize) -> Option<usize>,
    ) {
        match (self, before) {
            (Scheduler::RoundRobin(after), Scheduler::RoundRobin(_)) => after.begin(),
            (Scheduler::WeightedRoundRobin(after), Scheduler::WeightedRoundRobin(before)) => {
                after.take_over(before, was_at);
            }
            (
                Scheduler::LocalityLeastConnection(after),
                Scheduler::LocalityLeastConnection(before),
            ) => after.take_over(before),
            (
                Scheduler::LocalityLeastConnectionReplicated(after),
                Scheduler::LocalityLeastConnectionReplicated(before),
            ) => after.take_over(before),
            (Scheduler::PowerOfTwo(after), Scheduler::PowerOfTwo(before)) => {
                *after = before.clone();
            }
            // The others remember nothing, or are what the builder made of them.
            _ => {}
        }
    }
}

/// The servers that may be picked, with their indexes.
fn usable(
    servers: &[Server],
) -> impl DoubleEndedIterator<Item = (usize, &Server)> + Clone + use<'_> {
    servers.iter().enumerate().filter(|(_, server)| server.is_usable())
}
