//! What workers tell each other about neighbours.
//!
//! An ARP packet reaches one worker, and all of them need what it says. There is little of it, and
//! none per packet: so it goes by a bounded channel, and what finds that full is lost. The worker
//! that misses it asks for the neighbour itself.

use std::{
    net::Ipv4Addr,
    sync::mpsc::{Receiver, SyncSender, sync_channel},
};

use shunt_nat::Side;
use shunt_packet::ethernet::MacAddr;

/// Events that a worker has not polled yet, at most.
const CAPACITY: usize = 256;

/// Something that another worker did or found out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NeighbourEvent {
    /// Somebody has an address; `wanted` if it is to be noted in any case.
    Learned { side: Side, address: Ipv4Addr, mac: MacAddr, wanted: bool },
    /// It asked for an address: the one who had it, or everybody.
    Asked { side: Side, address: Ipv4Addr, everybody: bool },
}

/// A worker's ends of the channels between all of them.
pub(crate) struct NeighbourSync {
    others: Vec<SyncSender<NeighbourEvent>>,
    events: Receiver<NeighbourEvent>,
}

impl NeighbourSync {
    /// One for each of the workers.
    pub(crate) fn among(workers: usize) -> Vec<NeighbourSync> {
        let (senders, receivers): (Vec<_>, Vec<_>) =
            (0..workers).map(|_| sync_channel(CAPACITY)).unzip();
        let others = |me: usize| {
            let senders = senders.iter().enumerate();
            senders.filter(|(worker, _)| *worker != me).map(|(_, sender)| sender.clone()).collect()
        };
        let ends = receivers.into_iter().enumerate();
        ends.map(|(me, events)| NeighbourSync { others: others(me), events }).collect()
    }

    /// Tells all other workers.
    pub(crate) fn publish(&self, event: NeighbourEvent) {
        for other in &self.others {
            // See the module for what is lost when it is full; one that has stopped needs no events.
            let _ = other.try_send(event);
        }
    }

    /// An event that another worker has published.
    #[inline]
    pub(crate) fn poll(&self) -> Option<NeighbourEvent> {
        if self.others.is_empty() { None } else { self.events.try_recv().ok() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(last: u8) -> NeighbourEvent {
        let address = Ipv4Addr::new(192, 0, 2, last);
        NeighbourEvent::Asked { side: Side::Inside, address, everybody: true }
    }

    #[test]
    fn all_others_get_it_once() {
        let workers = NeighbourSync::among(3);
        workers[1].publish(asked(1));
        workers[2].publish(asked(2));
        let polled = |worker: usize| -> Vec<NeighbourEvent> {
            std::iter::from_fn(|| workers[worker].poll()).collect()
        };
        assert_eq!(polled(0), [asked(1), asked(2)]);
        assert_eq!((polled(1), polled(2)), (vec![asked(2)], vec![asked(1)]));
        assert_eq!(polled(0), []);
    }

    #[test]
    fn a_worker_that_does_not_poll_holds_up_nobody() {
        let workers = NeighbourSync::among(2);
        for _ in 0..2 * CAPACITY {
            workers[0].publish(asked(1));
        }
        assert_eq!(std::iter::from_fn(|| workers[1].poll()).count(), CAPACITY);
        assert_eq!(NeighbourSync::among(1)[0].poll(), None);
    }
}
