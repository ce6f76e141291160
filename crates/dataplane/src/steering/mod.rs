//! Bringing packets to their owners.
//!
//! A connection belongs to the worker that its *peer endpoint* hashes to (`owners`): its address
//! and port outside, which packets of both directions have in them (`peer`). Where a port has RSS
//! and takes our key and table (`key`), packets arrive at their owner. Where it doesn't, a worker
//! that receives a packet which is another's hands it over through a ring, in bursts. So nothing
//! depends on what a port can do but the work that it saves.
//!
//! A ring joins each ordered pair of workers: it has one producer and one consumer. What finds it
//! full is dropped and counted.
//!
//! The kinds of packets:
//!
//! | packet | owner |
//! | --- | --- |
//! | TCP, UDP | that of the peer endpoint |
//! | ICMP echo, other protocols | that of the peer's address with a port of 0 |
//! | ICMP error | that of the quoted packet's peer |
//! | fragment | that of its packet, by way of that of its address (`fragments`) |
//! | anything else | whoever received it |

mod fragments;
mod key;
mod owners;
mod peer;
pub(crate) mod rss;

use std::{
    collections::VecDeque,
    sync::{Arc, Once},
};

use shunt_dpdk::{BURST, Burst, Mbuf, PortId, RingConsumer, RingProducer, RssHashTypes};
use shunt_nat::{Instant, Side, fragments::HoldLimits};
use tracing::warn;

use crate::{
    counters::{LivePortCounters, Shared},
    drop_reason::{DropReason, LiveDropCounters},
    local_network::SIDES,
};
use fragments::{Delivery, FragmentDispatcher};
pub use key::rss_key;
pub use owners::{Owners, WorkerId};
use peer::{Peer, Transport};

/// Fragments that can become this worker's at once: a burst of first ones, and all that waited for
/// them.
const OWN_FRAGMENTS: usize = BURST + HoldLimits::DEFAULT.fragments;

/// What one worker needs to bring packets to their owners.
pub(crate) struct Steering {
    me: WorkerId,
    owners: Owners,
    /// By worker; `None` for myself.
    outboxes: Vec<Option<Outbox>>,
    inboxes: Vec<RingConsumer>,
    fragments: FragmentDispatcher,
    /// By side, fragments of this worker's own that have found their owner, in order.
    own_fragments: [VecDeque<Mbuf>; 2],
    arrivals: [Arrival; 2],
    /// The ports' counters, by side.
    counters: [Shared<LivePortCounters>; 2],
    drops: Shared<LiveDropCounters>,
}

/// How packets come from the port on one side.
pub(crate) struct Arrival {
    /// Its number, which tells the sides of packets in a ring apart.
    pub(crate) port: PortId,
    /// What its RSS is configured to do; `None` if it doesn't know the owners.
    pub(crate) expectation: Option<RssExpectation>,
}

/// What RSS should do for a worker.
pub(crate) struct RssExpectation {
    /// What is hashed.
    pub(crate) hash_types: RssHashTypes,
    /// By worker, whether the packets that it owns come by this worker's queue.
    pub(crate) mine: Vec<bool>,
    /// The port's name.
    pub(crate) port: String,
    /// Whether a worker has warned that it is otherwise: they do so once in all.
    pub(crate) warned: Arc<Once>,
}

/// The way to another worker.
struct Outbox {
    ring: RingProducer,
    /// Packets that go at the end of the loop, or when there is no room for more.
    pending: Burst,
}

impl Steering {
    /// For the worker `me`, with rings to the others (by worker) and from them.
    pub(crate) fn new(
        me: WorkerId,
        owners: Owners,
        to: Vec<Option<RingProducer>>,
        from: Vec<RingConsumer>,
        arrivals: [Arrival; 2],
        counters: [Shared<LivePortCounters>; 2],
        secret: [u64; 4],
    ) -> Steering {
        let outbox = |ring| Outbox { ring, pending: Burst::new() };
        let outboxes = to.into_iter().map(|ring| ring.map(outbox)).collect();
        Steering {
            me,
            owners,
            outboxes,
            inboxes: from,
            fragments: FragmentDispatcher::new(secret),
            own_fragments: SIDES.map(|_| VecDeque::with_capacity(OWN_FRAGMENTS)),
            arrivals,
            counters,
            drops: Shared::default(),
        }
    }

    /// Leaves those packets of a burst from the port on `side` that are this worker's, and brings the
    /// others on their way. Fragments that `must_follow` their packet's first one are given back by
    /// [`take_fragments`](Steering::take_fragments); all others go by themselves.
    pub(crate) fn sort(
        &mut self,
        now: Instant,
        side: Side,
        burst: &mut Burst,
        must_follow: impl Fn(&mut Mbuf) -> bool,
    ) {
        let mut mine = Burst::new();
        for mut mbuf in burst.drain() {
            let owner = match Peer::of(side, &mut mbuf) {
                Peer::Nobody => self.me,
                Peer::Endpoint(address, port, transport) => {
                    let owner = self.owners.owner(address, port);
                    self.check(side, transport, owner);
                    owner
                }
                Peer::Fragment(_) if !must_follow(&mut mbuf) => self.me,
                Peer::Fragment(address) => match self.owners.owner(address, 0) {
                    me if me == self.me => {
                        self.receive_fragment(now, side, mbuf);
                        continue;
                    }
                    other => other,
                },
            };
            if owner == self.me {
                // No burst has more packets than there is room for.
                let _ = mine.push(mbuf);
            } else {
                self.hand_over(owner, side, mbuf);
            }
        }
        *burst = mine;
    }

    /// How many other workers hand packets over.
    pub(crate) fn inboxes(&self) -> usize {
        self.inboxes.len()
    }

    /// Takes in a burst from another worker, which is put into `mine` by side, and returns how much it
    /// was.
    pub(crate) fn receive(&mut self, now: Instant, inbox: usize, mine: &mut [Burst; 2]) -> usize {
        let mut burst = Burst::new();
        let received = self.inboxes[inbox].dequeue(&mut burst);
        // All of it is still in the other core's cache.
        burst.iter().for_each(Mbuf::prefetch_header);
        burst.iter().for_each(Mbuf::prefetch);
        for mut mbuf in burst.drain() {
            let side = self.side_of(&mbuf);
            if self.comes_for_its_address(side, &mut mbuf) {
                self.receive_fragment(now, side, mbuf);
            } else {
                let _ = mine[side as usize].push(mbuf);
            }
        }
        received
    }

    /// Fills an empty burst with fragments that arrived on `side` and are this worker's, in order, or
    /// leaves it empty when there are none.
    #[inline]
    pub(crate) fn take_fragments(&mut self, side: Side, burst: &mut Burst) {
        let own = &mut self.own_fragments[side as usize];
        while !burst.is_full()
            && let Some(mbuf) = own.pop_front()
        {
            let _ = burst.push(mbuf);
        }
    }

    /// Sends off what is to be handed over.
    pub(crate) fn flush(&mut self) {
        let drops = &self.drops;
        self.outboxes.iter_mut().flatten().for_each(|outbox| outbox.flush(drops));
    }

    /// Does what time brings, a few times a second.
    pub(crate) fn tick(&mut self, now: Instant) {
        self.fragments.tick(now, &self.drops);
        for (arrival, counters) in self.arrivals.iter().zip(&self.counters) {
            if let Some(RssExpectation { port, warned, .. }) = &arrival.expectation
                && counters.misplaced.get() > 0
            {
                warned.call_once(|| {
                    warn!(
                        "port {port}: its RSS brings packets to other workers than it was told to; \
                         they are handed over in software"
                    );
                });
            }
        }
    }

    /// Fragments that wait for their packets' first ones.
    pub(crate) fn held(&self) -> usize {
        self.fragments.held()
    }

    /// What was dropped, and why.
    pub(crate) fn drops(&self) -> &Shared<LiveDropCounters> {
        &self.drops
    }

    /// Counts a packet that RSS should have brought elsewhere.
    fn check(&mut self, side: Side, transport: Transport, owner: WorkerId) {
        let Some(expectation) = &self.arrivals[side as usize].expectation else { return };
        let is_expected = match transport {
            Transport::Tcp => expectation.hash_types.contains(RssHashTypes::IPV4_TCP),
            Transport::Udp => expectation.hash_types.contains(RssHashTypes::IPV4_UDP),
            Transport::Other => false,
        };
        if is_expected && !expectation.mine[usize::from(owner.0)] {
            self.counters[side as usize].misplaced.add(1);
        }
    }

    fn hand_over(&mut self, to: WorkerId, side: Side, mut mbuf: Mbuf) {
        self.counters[side as usize].handed_over.add(1);
        let Some(outbox) = &mut self.outboxes[usize::from(to.0)] else { return };
        // Not all drivers say by which port a packet came.
        mbuf.set_port(self.arrivals[side as usize].port);
        outbox.send(mbuf, &self.drops);
    }

    /// Takes in a fragment that came by its address.
    fn receive_fragment(&mut self, now: Instant, side: Side, mbuf: Mbuf) {
        let known = (&self.owners, self.me);
        let delivery = self.fragments.receive(now, side, mbuf, known, &self.drops);
        let Some(Delivery { owner, mbuf, first_of }) = delivery else { return };
        self.deliver(owner, side, mbuf);
        while let Some(held) = first_of.and_then(|packet| self.fragments.pop(&packet)) {
            self.deliver(owner, side, held);
        }
    }

    fn deliver(&mut self, to: WorkerId, side: Side, mbuf: Mbuf) {
        if to == self.me {
            self.own_fragments[side as usize].push_back(mbuf);
        } else {
            self.hand_over(to, side, mbuf);
        }
    }

    /// Whether a packet from another worker is a fragment that this one is to find the owner of.
    /// From the one that has done so, it comes to an owner that is not that of its address.
    fn comes_for_its_address(&self, side: Side, mbuf: &mut Mbuf) -> bool {
        match Peer::of(side, mbuf) {
            Peer::Fragment(address) => self.owners.owner(address, 0) == self.me,
            Peer::Nobody | Peer::Endpoint(..) => false,
        }
    }

    fn side_of(&self, mbuf: &Mbuf) -> Side {
        let [outside, _] = &self.arrivals;
        if mbuf.port() == outside.port { Side::Outside } else { Side::Inside }
    }
}

impl Outbox {
    fn send(&mut self, mbuf: Mbuf, drops: &LiveDropCounters) {
        if self.pending.is_full() {
            self.flush(drops);
        }
        // There is room now: a flush leaves nothing.
        let _ = self.pending.push(mbuf);
    }

    fn flush(&mut self, drops: &LiveDropCounters) {
        if self.pending.is_empty() {
            return;
        }
        self.ring.enqueue(&mut self.pending);
        drops.add(DropReason::WorkerRingFull, self.pending.len());
        self.pending.clear();
    }
}
