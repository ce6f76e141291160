//! Choosing a server for a new connection.
//!
//! A [`Scheduler`](shunt_rules::Scheduler) names a way to choose, as IPVS's users know it from
//! ipvsadm(8). What all have in common:
//!
//! - Only a usable server is ever picked: enabled, up, of an effective weight above 0, and not beyond
//!   its upper threshold. What changes that takes effect at the next pick, without a new scheduler.
//! - Of servers that are equally good, the first in the service's order is picked.
//! - Picking allocates nothing, but for what `lblc` and `lblcr` remember of a destination.
//! - Everything follows from the servers, the requests and the seed; nothing is left to chance.
//!
//! A service's scheduler is in two parts. A `Schedule` is what its workers share: made by the
//! `SchedulerBuilder` on the main lcore when the rules change, and immutable while packets flow, but
//! for atomics. A `WorkerState` is what one worker remembers from pick to pick; it follows from one
//! schedule to the next by itself, so that a change costs a worker nothing for services that nobody
//! dials.
//!
//! A new scheduler is a file here, a line in `entry`, and a name in `shunt_rules`.

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
#[cfg(test)]
mod properties;
mod roster;
mod rr;
mod sed;
mod sh;
mod slots;
mod table;
#[cfg(test)]
mod testing;
mod turns;
mod twos;
mod wlc;
mod worker;
mod wrr;

use std::{any::Any, fmt::Debug, net::SocketAddrV4, sync::Arc};

pub use mh::Disruption;
pub use shunt_rules::{Scheduler as SchedulerKind, SchedulerFlags};
pub use table::MAX_SLOTS;
pub(crate) use worker::WorkerState;

use roster::Tenure;
use table::Tables;

use crate::{
    server::{Observation, Server},
    time::Instant,
};

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

/// A service's scheduler, as all workers share it.
pub(crate) trait Schedule: Any + Debug + Send + Sync {
    /// The index of the server for a new connection.
    ///
    /// `None` refuses it. That is when no server is usable, and besides: with `sh`, `dh` and `mh`
    /// when the client's server is overloaded and there is no `fallback`; with `ovf` when every server
    /// is full.
    ///
    /// The servers are those that it was built for, in that order; what they share may have changed
    /// since. The state is the calling worker's, of this service.
    fn pick(&self, state: &mut WorkerState, servers: &[Server], request: &Request)
    -> Option<usize>;
}

/// A schedule, and for `mh` what it did to the table if that was filled anew.
pub(crate) type Built = (Arc<dyn Schedule>, Option<Disruption>);

/// What the rules say of a service's scheduler.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SchedulerOptions {
    pub(crate) kind: SchedulerKind,
    pub(crate) flags: SchedulerFlags,
    /// Slots of the table of `mh`; `None` chooses by the number of servers.
    pub(crate) slots: Option<u32>,
    /// What `twos` draws from. Hashing doesn't: a client is to find its server again after a restart,
    /// and on a second director.
    pub(crate) seed: u64,
}

/// Every scheduler: how it is built, and whether it [compares loads](compares_loads).
fn entry(kind: SchedulerKind) -> (fn(&mut Construction) -> Built, bool) {
    match kind {
        SchedulerKind::RoundRobin => (rr::build, false),
        SchedulerKind::WeightedRoundRobin => (wrr::build, false),
        SchedulerKind::LeastConnection => (|it| it.keep_or(lc::LeastConnection), true),
        SchedulerKind::WeightedLeastConnection => {
            (|it| it.keep_or(wlc::WeightedLeastConnection), true)
        }
        SchedulerKind::LocalityLeastConnection => (lblc::build, true),
        SchedulerKind::LocalityLeastConnectionReplicated => (lblcr::build, true),
        SchedulerKind::DestinationHash => (dh::build, false),
        SchedulerKind::SourceHash => (sh::build, false),
        SchedulerKind::ShortestExpectedDelay => (|it| it.keep_or(sed::ShortestExpectedDelay), true),
        SchedulerKind::NeverQueue => (|it| it.keep_or(nq::NeverQueue), true),
        SchedulerKind::Failover => (|it| it.keep_or(fo::Failover), false),
        SchedulerKind::Overflow => (|it| it.keep_or(ovf::Overflow), true),
        SchedulerKind::Maglev => (mh::build, false),
        SchedulerKind::PowerOfTwo => (twos::build, true),
    }
}

/// Whether a connection that opens or ends changes which server is chosen next.
pub(crate) fn compares_loads(kind: SchedulerKind) -> bool {
    entry(kind).1
}

/// Builds the schedules of all services, on the main lcore.
#[derive(Debug)]
pub(crate) struct SchedulerBuilder {
    workers: usize,
    hash_seed: u64,
    /// The last number that was given to a schedule, or to a server's stay in a service.
    last_number: u64,
    tables: Tables,
}

impl SchedulerBuilder {
    /// A builder for so many workers.
    ///
    /// `sh`, `dh` and `mh` send a client to the same server wherever the servers and their configured
    /// weights are the same, in whatever order: on every worker, after a restart, on a second director.
    pub(crate) fn new(workers: usize) -> SchedulerBuilder {
        SchedulerBuilder { workers, hash_seed: 0, last_number: 0, tables: Tables::default() }
    }

    #[cfg(test)]
    fn with_hash_seed(self, hash_seed: u64) -> SchedulerBuilder {
        SchedulerBuilder { hash_seed, ..self }
    }

    /// The schedule for these servers that follows on the one that the service had `before`, and for
    /// `mh` what the change does to its table, if anything. It is the one from before ([`Arc::ptr_eq`])
    /// if nothing changed that it depends on. Servers are matched by their numbers.
    ///
    /// It may take a while: `mh` fills its table anew, in 0.1 to 0.4 ms for ten servers and 1 to 3 ms for a
    /// hundred, less the fewer weights there are (benches/scheduler).
    pub(crate) fn build(
        &mut self,
        options: &SchedulerOptions,
        servers: &[Server],
        before: Option<&Arc<dyn Schedule>>,
    ) -> Built {
        let (build, _) = entry(options.kind);
        build(&mut Construction { builder: self, options, servers, before })
    }
}

/// What a schedule is made from.
struct Construction<'a> {
    builder: &'a mut SchedulerBuilder,
    options: &'a SchedulerOptions,
    servers: &'a [Server],
    before: Option<&'a Arc<dyn Schedule>>,
}

impl<'a> Construction<'a> {
    /// The schedule from before, if it is of the same kind.
    fn before<S: Schedule>(&self) -> Option<&'a S> {
        let before: &dyn Any = &**self.before?;
        before.downcast_ref()
    }

    /// The schedule from before if it is of the same kind and nothing changed that it depends on.
    fn kept<S: Schedule>(&self, is_same: impl FnOnce(&S) -> bool) -> Option<Built> {
        is_same(self.before::<S>()?).then_some((Arc::clone(self.before?), None))
    }

    /// A schedule that depends on nothing.
    fn keep_or<S: Schedule>(&mut self, schedule: S) -> Built {
        self.kept::<S>(|_| true).unwrap_or_else(|| (Arc::new(schedule), None))
    }

    /// A number that no schedule and no server's stay has.
    fn number(&mut self) -> u64 {
        self.builder.last_number += 1;
        self.builder.last_number
    }
}

/// The servers that may be picked, with their indexes. Each is looked at once.
fn usable(
    servers: &[Server],
) -> impl DoubleEndedIterator<Item = (usize, Observation)> + Clone + use<'_> {
    let observed = servers.iter().map(|server| server.shared.observe()).enumerate();
    observed.filter(|(_, server)| server.is_usable())
}
