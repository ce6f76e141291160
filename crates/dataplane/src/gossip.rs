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

/// News that a worker has not heard yet, at most.
const UNHEARD: usize = 256;

/// Something that another worker did or found out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum News {
    /// Somebody has an address; `wanted` if it is to be noted in any case.
    Learned { side: Side, address: Ipv4Addr, mac: MacAddr, wanted: bool },
    /// It asked for an address.
    Asked { side: Side, address: Ipv4Addr },
}

/// A worker's ear, and its way to the others'.
pub(crate) struct Gossip {
    others: Vec<SyncSender<News>>,
    ear: Receiver<News>,
}

impl Gossip {
    /// One for each of the workers.
    pub(crate) fn among(workers: usize) -> Vec<Gossip> {
        let (mouths, ears): (Vec<_>, Vec<_>) = (0..workers).map(|_| sync_channel(UNHEARD)).unzip();
        let others = |me: usize| {
            let mouths = mouths.iter().enumerate();
            mouths.filter(|(worker, _)| *worker != me).map(|(_, mouth)| mouth.clone()).collect()
        };
        ears.into_iter().enumerate().map(|(me, ear)| Gossip { others: others(me), ear }).collect()
    }

    /// Tells all others.
    pub(crate) fn tell(&self, news: News) {
        for other in &self.others {
            // See the module for what is lost when it is full; one that has stopped needs no news.
            let _ = other.try_send(news);
        }
    }

    /// What another one has told.
    #[inline]
    pub(crate) fn hear(&self) -> Option<News> {
        if self.others.is_empty() { None } else { self.ear.try_recv().ok() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(last: u8) -> News {
        News::Asked { side: Side::Inside, address: Ipv4Addr::new(192, 0, 2, last) }
    }

    #[test]
    fn everybody_else_hears_it_once() {
        let workers = Gossip::among(3);
        workers[1].tell(asked(1));
        workers[2].tell(asked(2));
        let heard = |worker: usize| -> Vec<News> {
            std::iter::from_fn(|| workers[worker].hear()).collect()
        };
        assert_eq!(heard(0), [asked(1), asked(2)]);
        assert_eq!((heard(1), heard(2)), (vec![asked(2)], vec![asked(1)]));
        assert_eq!(heard(0), []);
    }

    #[test]
    fn who_does_not_listen_holds_up_nobody() {
        let workers = Gossip::among(2);
        for _ in 0..2 * UNHEARD {
            workers[0].tell(asked(1));
        }
        assert_eq!(std::iter::from_fn(|| workers[1].hear()).count(), UNHEARD);
        assert_eq!(Gossip::among(1)[0].hear(), None);
    }
}
