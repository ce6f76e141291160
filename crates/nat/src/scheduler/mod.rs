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
mod kind;
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

pub use kind::{SchedulerKind, UnknownScheduler};
pub use mh::Disruption;

use dh::DestinationHash;
use lblc::LocalityLeastConnection;
use lblcr::LocalityLeastConnectionReplicated;
use mh::Maglev;
use rr::RoundRobin;
use sh::SourceHash;
use twos::PowerOfTwo;
use wrr::WeightedRoundRobin;

use crate::{server::Server, time::Instant};

/// How the hashing schedulers `sh`, `dh` and `mh` go about it; the others don't look. ipvsadm's
/// `-b`, which knows them for `sh` and `mh` only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SchedulerFlags {
    /// `sh-fallback`, `mh-fallback`: a request whose server is beyond its upper threshold goes to
    /// another one, rather than being refused.
    pub fallback: bool,
    /// `sh-port`, `mh-port`: the port counts too, not the address alone.
    pub port: bool,
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
                Scheduler::LocalityLeastConnectionReplicated(
                    LocalityLeastConnectionReplicated::new(),
                )
            }
            SchedulerKind::Failover => Scheduler::Failover,
            SchedulerKind::Overflow => Scheduler::Overflow,
            SchedulerKind::PowerOfTwo => Scheduler::PowerOfTwo(PowerOfTwo::new(seed)),
        }
    }

    /// The index of the server for a new connection.
    ///
    /// `None` refuses it. That is when no server is usable, and besides: with `sh`, `dh` and `mh`
    /// when the client's server is not usable and there is no `fallback`; with `ovf` when every
    /// server is full.
    ///
    /// The servers are those of `new` or the last [`servers_changed`](Scheduler::servers_changed),
    /// in that order; their connections and overload may have changed since.
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

    /// Notes that weights changed, or that servers came, went or changed places. A server is who
    /// it was if its endpoint is.
    ///
    /// It may allocate, and `mh` may take milliseconds to fill its table anew.
    pub(crate) fn servers_changed(&mut self, servers: &[Server]) {
        match self {
            Scheduler::RoundRobin(scheduler) => scheduler.servers_changed(servers),
            Scheduler::WeightedRoundRobin(scheduler) => scheduler.servers_changed(servers),
            Scheduler::SourceHash(scheduler) => scheduler.servers_changed(servers),
            Scheduler::DestinationHash(scheduler) => scheduler.servers_changed(servers),
            Scheduler::Maglev(scheduler) => scheduler.servers_changed(servers),
            Scheduler::LocalityLeastConnectionReplicated(scheduler) => {
                scheduler.servers_changed(servers);
            }
            Scheduler::LeastConnection
            | Scheduler::WeightedLeastConnection
            | Scheduler::ShortestExpectedDelay
            | Scheduler::NeverQueue
            | Scheduler::LocalityLeastConnection(_)
            | Scheduler::Failover
            | Scheduler::Overflow
            | Scheduler::PowerOfTwo(_) => {}
        }
    }

    /// What the last change of the servers did to the table of `mh`; `None` before the first one,
    /// and for all other schedulers.
    pub(crate) fn last_disruption(&self) -> Option<Disruption> {
        match self {
            Scheduler::Maglev(scheduler) => scheduler.last_disruption(),
            _ => None,
        }
    }
}

/// The servers that may be picked, with their indexes.
fn usable(
    servers: &[Server],
) -> impl DoubleEndedIterator<Item = (usize, &Server)> + Clone + use<'_> {
    servers.iter().enumerate().filter(|(_, server)| server.is_usable())
}
