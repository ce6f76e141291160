//! Fragments: only a packet's first one has the port that says who owns it.
//!
//! All fragments of a packet go to one worker, by their address alone. It remembers the owner that
//! the first one names, keeps those that came before it, and passes all of them on, the first one
//! first. To the owner's engine they are in order.

use shunt_dpdk::Mbuf;
use shunt_nat::{
    Instant, Side,
    fragments::{
        FragmentError, FragmentKey, FragmentRange, FragmentTracker, HoldLimits, HoldQueue,
        TrackerLimits,
    },
};

use super::{
    owners::{Owners, WorkerId},
    peer::Peer,
};
use crate::{
    drop_reason::{DropReason, LiveDropCounters},
    frame::packet_in,
};

/// What a worker knows of the packets whose fragments it passes on.
pub(super) struct FragmentDispatcher {
    packets: FragmentTracker<WorkerId>,
    /// Those that came before their packet's first one.
    held: HoldQueue<Mbuf>,
}

/// A fragment on its way to its owner.
pub(super) struct Delivery {
    pub(super) owner: WorkerId,
    pub(super) mbuf: Mbuf,
    /// Of which packet it is the first one: those that waited for it follow ([`FragmentDispatcher::pop`]).
    pub(super) first_of: Option<FragmentKey>,
}

impl FragmentDispatcher {
    /// A dispatcher that knows no packets, hashing under a secret of this boot.
    pub(super) fn new(secret: [u64; 4]) -> FragmentDispatcher {
        FragmentDispatcher {
            packets: FragmentTracker::new(TrackerLimits::default(), secret),
            held: HoldQueue::new(HoldLimits::default(), secret),
        }
    }

    /// Takes in a fragment, and says whom it goes to, unless it has to wait or is dropped. A first
    /// fragment that names no owner is left to `me`.
    pub(super) fn receive(
        &mut self,
        now: Instant,
        side: Side,
        mut mbuf: Mbuf,
        (owners, me): (&Owners, WorkerId),
        drops: &LiveDropCounters,
    ) -> Option<Delivery> {
        let Ok(mut packet) = packet_in(&mut mbuf) else {
            return Some(Delivery { owner: me, mbuf, first_of: None });
        };
        let key = FragmentKey::of(packet.header);
        let admitted = FragmentRange::of(&packet)
            .and_then(|range| Ok((range, self.packets.admit(key, range, now)?)));
        match admitted {
            Ok((_, Some(owner))) => return Some(Delivery { owner, mbuf, first_of: None }),
            Ok((range, None)) if range.is_first() => {
                let owner = match Peer::of_whole(side, &mut packet) {
                    Peer::Endpoint(address, port, _) => owners.owner(address, port),
                    Peer::Nobody | Peer::Fragment(_) => me,
                };
                self.packets.decide(key, owner);
                return Some(Delivery { owner, mbuf, first_of: Some(key) });
            }
            Ok((_, None)) => {
                let bytes = mbuf.len();
                self.held.hold(key, bytes, mbuf, now, |_| {
                    drops.add(DropReason::FragmentQueueFull, 1);
                });
            }
            Err(error) => {
                drops.add(error.into(), 1);
                // Nothing follows a first fragment that is dropped, nor an overlap.
                let (is_overlap, is_later) =
                    (error == FragmentError::Overlap, packet.header.is_later_fragment());
                let reason = if is_overlap { error.into() } else { DropReason::FragmentRefused };
                while (is_overlap || !is_later) && self.held.pop(&key).is_some() {
                    drops.add(reason, 1);
                }
            }
        }
        None
    }

    /// The next one that waited for the first fragment of its packet.
    pub(super) fn pop(&mut self, packet: &FragmentKey) -> Option<Mbuf> {
        self.held.pop(packet)
    }

    /// Drops those that have waited for too long.
    pub(super) fn tick(&mut self, now: Instant, drops: &LiveDropCounters) {
        self.packets.expire(now);
        while self.held.expire(now).is_some() {
            drops.add(DropReason::FragmentTimeout, 1);
        }
    }

    /// Fragments that wait.
    pub(super) fn held(&self) -> usize {
        self.held.len()
    }
}
