//! Opening the ports, and dealing out queues and rings to the workers.

use std::sync::{Arc, Once};

use shunt_config::{Config, Side};
use shunt_dpdk::{Eal, Mempool, Port, RingConsumer, RingProducer, RxQueue, ring};

use super::{StartError, secrets};
use crate::{
    interface::{Interface, Outlet},
    local_network::SIDES,
    neighbour_sync::NeighbourSync,
    pipeline::WorkerContext,
    ports::{Candidate, OpenPort},
    steering::{Arrival, Owners, RssExpectation, Steering, WorkerId, rss::queue_of},
};

/// Packets that a ring between workers holds, at least and at most.
const RING_SLOTS: std::ops::RangeInclusive<u32> = 64..=1024;

/// Both ports, outside first, with the names of their drivers.
pub(super) type DrivenPorts = [(Port, String); 2];

/// The workers to be.
pub(super) struct WorkerSetup<'a> {
    pub(super) eal: &'a Eal,
    pub(super) pool: &'a Mempool,
    pub(super) workers: usize,
}

/// What one worker gets.
pub(super) struct WorkerIo {
    pub(super) rx: [Option<RxQueue>; 2],
    pub(super) interfaces: [Interface; 2],
    pub(super) steering: Option<Steering>,
    pub(super) context: WorkerContext,
}

/// A worker's share of a port.
struct PortShare {
    rx: Option<RxQueue>,
    interface: Interface,
    arrival: Arrival,
}

/// A worker's rings: to each other one, by number, and from them.
type Rings = (Vec<Option<RingProducer>>, Vec<RingConsumer>);

impl WorkerSetup<'_> {
    /// Opens both ports, and returns them, who owns what, and the share of each worker.
    pub(super) fn open_ports(
        &self,
        config: &Config,
    ) -> Result<(DrivenPorts, Owners, Vec<WorkerIo>), StartError> {
        let [outside, inside] = Side::BOTH.map(|side| config.ports.get(side));
        let outside = Candidate::examine(outside, self.workers)?;
        let inside = Candidate::examine(inside, self.workers)?;
        let tables = [&outside, &inside].into_iter().filter_map(Candidate::redirection_entries);
        let owners = Owners::among(self.workers, tables);
        let outside = outside.open(self.eal, self.pool, &owners, self.workers)?;
        let inside = inside.open(self.eal, self.pool, &owners, self.workers)?;

        // Where queues are few, the ports' go to different workers.
        let first = match inside.rss {
            Some(_) => first_owner(outside.rx.len(), inside.rx.len(), self.workers),
            None => outside.rx.len(),
        };
        let (outside, outside_shares) =
            self.deal(Side::Outside, &config.ports.outside.name, outside, 0)?;
        let (inside, inside_shares) =
            self.deal(Side::Inside, &config.ports.inside.name, inside, first)?;
        let ios = self.worker_ios(&owners, outside_shares.into_iter().zip(inside_shares))?;
        Ok(([outside, inside], owners, ios))
    }

    /// Deals out the queues of a port, one each as far as they go. The first one goes to the worker
    /// with the number `first`. A worker without a transmit queue gets a ring to one that has one.
    fn deal(
        &self,
        side: Side,
        name: &str,
        OpenPort { port, driver, rx, tx, parts, rss }: OpenPort,
        first: usize,
    ) -> Result<((Port, String), Vec<PortShare>), StartError> {
        let (rx_queues, tx_queues) = (rx.len() as u16, tx.len());
        let rx = rx.into_iter().map(Some).chain(std::iter::repeat_with(|| None));
        let mut senders: Vec<_> = tx.into_iter().map(|queue| (queue, Vec::new())).collect();
        let mut borrowers = Vec::new();
        for borrower in tx_queues..self.workers {
            let (producer, consumer) = self.ring()?;
            senders[borrower % tx_queues].1.push(consumer);
            borrowers.push(Outlet::Ring(producer));
        }
        let senders = senders.into_iter().map(|(queue, rings)| Outlet::Queue(queue, rings));
        let warned = Arc::new(Once::new());
        let share = |(queue, (rx, outlet)): (u16, (Option<RxQueue>, Outlet))| {
            let comes_by = |owner: usize| queue_of(WorkerId(owner as u8), rx_queues) == queue;
            let expectation = rss.map(|hash_types| RssExpectation {
                hash_types,
                mine: (0..self.workers).map(comes_by).collect(),
                port: name.to_owned(),
                warned: Arc::clone(&warned),
            });
            let arrival = Arrival { port: port.id(), expectation };
            PortShare { rx, interface: Interface::new(side, parts, outlet), arrival }
        };
        let mut shares: Vec<_> = (0..).zip(rx.zip(senders.chain(borrowers))).map(share).collect();
        shares.rotate_right(first % self.workers);
        Ok(((port, driver), shares))
    }

    fn worker_ios(
        &self,
        owners: &Owners,
        shares: impl Iterator<Item = (PortShare, PortShare)>,
    ) -> Result<Vec<WorkerIo>, StartError> {
        let parts = shares.zip(self.rings()?).zip(NeighbourSync::among(self.workers)).enumerate();
        let ios = parts.map(|(me, (((outside, inside), (to, from)), neighbour_sync))| {
            let steering = match self.workers {
                1 => None,
                _ => {
                    let counters =
                        [&outside, &inside].map(|port| Arc::clone(&port.interface.counters));
                    let arrivals = [outside.arrival, inside.arrival];
                    let (me, owners) = (WorkerId(me as u8), owners.clone());
                    Some(Steering::new(me, owners, to, from, arrivals, counters, secrets()?))
                }
            };
            Ok(WorkerIo {
                rx: [outside.rx, inside.rx],
                interfaces: [outside.interface, inside.interface],
                steering,
                context: WorkerContext { workers: self.workers, neighbour_sync },
            })
        });
        ios.collect()
    }

    /// A ring for each ordered pair of workers.
    fn rings(&self) -> Result<Vec<Rings>, StartError> {
        let mut all: Vec<Rings> = (0..self.workers).map(|_| Rings::default()).collect();
        for from in 0..self.workers {
            for to in 0..self.workers {
                let mut way = None;
                if from != to {
                    let (producer, consumer) = self.ring()?;
                    all[to].1.push(consumer);
                    way = Some(producer);
                }
                all[from].0.push(way);
            }
        }
        Ok(all)
    }

    /// A ring of such a size that all of them together can't keep all mbufs: there is one for each
    /// pair of workers, and for each port one to each worker without a queue.
    fn ring(&self) -> Result<(RingProducer, RingConsumer), StartError> {
        let workers = self.workers as u32;
        let rings = workers * (workers - 1) + SIDES.len() as u32 * (workers - 1);
        let slots = self.pool.size() / 2 / rings;
        let slots = slots.clamp(*RING_SLOTS.start(), *RING_SLOTS.end());
        ring(self.eal, slots).map_err(StartError::Ring)
    }
}

/// The worker that gets the first queue of a port whose RSS brings packets to their owners, if the
/// first workers are `busy` with the other port: each queue is for a worker that owns what comes by it.
fn first_owner(busy: usize, queues: usize, workers: usize) -> usize {
    let first = busy.next_multiple_of(queues);
    if first + queues <= workers { first } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_rss_brings_is_the_worker_s_own() {
        for (workers, busy) in (1..=16).flat_map(|workers| (1..=workers).map(move |b| (workers, b)))
        {
            for queues in 1..=workers {
                let first = first_owner(busy, queues, workers);
                for queue in 0..queues {
                    let worker = first + queue;
                    assert!(worker < workers);
                    assert_eq!(usize::from(queue_of(WorkerId(worker as u8), queues as u16)), queue);
                }
            }
        }
        assert_eq!(first_owner(1, 4, 4), 0, "all own what comes by their queue");
        assert_eq!(first_owner(1, 1, 4), 1, "the first one has enough to do");
        assert_eq!(first_owner(2, 2, 4), 2, "the first ones have enough to do");
    }
}
