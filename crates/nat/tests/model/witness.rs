use std::{net::SocketAddrV4, ops::AddAssign};

use shunt_nat::{Direction, Engine, PoolUsage};

use crate::{
    connection::{Connection, PoolName},
    flow::Flow,
    outcome::Outcome,
};

/// What the engine did in this step: where several things are right, the model does the same.
#[derive(Clone, Copy)]
pub(crate) struct Witness<'a> {
    /// By worker.
    pub(crate) engines: &'a [Engine],
    /// What became of the packet, if the step was one.
    pub(crate) outcome: &'a Outcome,
}

impl Witness<'_> {
    /// Whether the packet came to this; the fragments that waited for it are none of its concern.
    pub(crate) fn saw(&self, outcome: &Outcome) -> bool {
        match (self.outcome, outcome) {
            (Outcome::Sent(left, _), Outcome::Sent(expected, _)) => left == expected,
            (outcome, expected) => outcome == expected,
        }
    }

    /// Whether its worker has this connection still.
    pub(crate) fn has(&self, connection: &Connection) -> bool {
        let [inbound, outbound] = connection.flows;
        let table = self.engines[connection.worker].table();
        table.lookup(&inbound.key()).is_some_and(|(id, _)| {
            let record = table.get(id);
            record.key(Direction::Inbound) == inbound.key()
                && record.key(Direction::Outbound) == outbound.key()
        })
    }

    /// The endpoint as which the opener of a connection is seen.
    pub(crate) fn seen_as(&self, worker: usize, inbound: Flow) -> Option<SocketAddrV4> {
        let table = self.engines[worker].table();
        let (id, _) = table.lookup(&inbound.key())?;
        Some(table.get(id).key(Direction::Outbound).dst())
    }

    /// Connections that each server was given.
    pub(crate) fn given(&self) -> impl Iterator<Item = u64> {
        total(self.engines, Engine::server_counters).into_iter().map(|server| server.connections)
    }

    pub(crate) fn usage(&self, worker: usize, pool: PoolName) -> PoolUsage {
        let rules = self.engines[worker].rules();
        match pool {
            PoolName::Snat(rule) => rules.snat_usage().nth(rule).expect("a pool for each rule"),
            PoolName::Local => rules.local_usage(),
            PoolName::Hairpin => rules.hairpin_usage(),
        }
    }
}

/// Counters of all engines, added up.
pub(crate) fn total<'a, C, I>(engines: &'a [Engine], counters: impl Fn(&'a Engine) -> I) -> Vec<C>
where
    C: AddAssign,
    I: Iterator<Item = C> + 'a,
{
    let each = engines.iter().map(|engine| counters(engine).collect::<Vec<_>>());
    let add = |mut sum: Vec<C>, more: Vec<C>| {
        sum.iter_mut().zip(more).for_each(|(sum, more)| *sum += more);
        sum
    };
    each.reduce(add).expect("one engine at least")
}
