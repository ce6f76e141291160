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

use std::sync::{Arc, Once};

use shunt_dpdk::{Burst, Mbuf, PortId, RingConsumer, RingProducer, RssHashTypes};
use shunt_nat::{Instant, Prepared, Side};
use tracing::warn;

use crate::{
    drop_reason::{DropCounters, DropReason},
    local_network::SIDES,
    pipeline::Pipeline,
};
use fragments::{Delivery, FragmentDesk};
pub use key::rss_key;
pub use owners::{Owners, WorkerId};
use peer::{Peer, Transport};

/// What one worker needs to bring packets to their owners.
pub(crate) struct Steering {
    me: WorkerId,
    owners: Owners,
    /// By worker; `None` for myself.
    outboxes: Vec<Option<Outbox>>,
    inboxes: Vec<RingConsumer>,
    fragments: FragmentDesk,
    arrivals: [Arrival; 2],
}

/// How packets come from the port on one side.
pub(crate) struct Arrival {
    /// Its number, which tells the sides of packets in a ring apart.
    pub(crate) port: PortId,
    /// What it claims to bring to the owners by itself; `None` if it doesn't know them.
    pub(crate) claim: Option<Claim>,
}

/// What RSS should do for a worker.
pub(crate) struct Claim {
    /// What is hashed.
    pub(crate) hash_types: RssHashTypes,
    /// By worker, whether the packets that it owns come by this worker's queue.
    pub(crate) mine: Vec<bool>,
    /// The port's name.
    pub(crate) port: String,
    /// All workers together complain of it no more than once.
    pub(crate) complaint: Arc<Once>,
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
        secret: [u64; 4],
    ) -> Steering {
        let outbox = |ring| Outbox { ring, pending: Burst::new() };
        let outboxes = to.into_iter().map(|ring| ring.map(outbox)).collect();
        let fragments = FragmentDesk::new(secret);
        Steering { me, owners, outboxes, inboxes: from, fragments, arrivals }
    }

    /// Leaves those packets of a burst from the port on `side` that are this worker's, and brings the
    /// others on their way.
    pub(crate) fn sort(
        &mut self,
        now: Instant,
        side: Side,
        burst: &mut Burst,
        pipeline: &mut Pipeline,
    ) {
        let mut mine = Burst::new();
        for mut mbuf in burst.drain() {
            let owner = match Peer::of(side, &mut mbuf) {
                Peer::Nobody => self.me,
                Peer::Endpoint(address, port, transport) => {
                    let owner = self.owners.owner(address, port);
                    self.check(side, transport, owner, pipeline);
                    owner
                }
                // One that nothing is translated in goes by itself.
                Peer::Fragment(_) if !pipeline.tracks_fragment(&mut mbuf) => self.me,
                Peer::Fragment(address) => match self.owners.owner(address, 0) {
                    me if me == self.me => {
                        self.receive_fragment(now, side, mbuf, pipeline);
                        continue;
                    }
                    other => other,
                },
            };
            if owner == self.me {
                // No burst has more packets than there is room for.
                let _ = mine.push(mbuf);
            } else {
                self.hand_over(owner, side, mbuf, pipeline);
            }
        }
        *burst = mine;
    }

    /// Takes in what other workers have handed over, and returns how much that was.
    pub(crate) fn receive(&mut self, now: Instant, pipeline: &mut Pipeline) -> usize {
        let mut received = 0;
        for inbox in 0..self.inboxes.len() {
            let mut burst = Burst::new();
            received += self.inboxes[inbox].dequeue(&mut burst);
            // All of it is still in the other core's cache.
            burst.iter().for_each(Mbuf::prefetch_header);
            burst.iter().for_each(Mbuf::prefetch);
            let mut mine = SIDES.map(|_| Burst::new());
            for mut mbuf in burst.drain() {
                let side = self.side_of(&mbuf);
                if self.comes_for_its_address(side, &mut mbuf) {
                    self.receive_fragment(now, side, mbuf, pipeline);
                } else {
                    let _ = mine[side as usize].push(mbuf);
                }
            }
            for side in SIDES {
                pipeline.receive(now, side, &mut mine[side as usize]);
            }
        }
        received
    }

    /// Sends off what is to be handed over.
    pub(crate) fn flush(&mut self, drops: &mut DropCounters) {
        self.outboxes.iter_mut().flatten().for_each(|outbox| outbox.flush(drops));
    }

    /// Does what time brings, a few times a second.
    pub(crate) fn tick(&mut self, now: Instant, pipeline: &mut Pipeline) {
        self.fragments.tick(now, &mut pipeline.drops);
        for side in SIDES {
            if let Some(Claim { port, complaint, .. }) = &self.arrivals[side as usize].claim
                && pipeline.interfaces[side as usize].counters.misplaced > 0
            {
                complaint.call_once(|| {
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

    /// Counts a packet that RSS should have brought elsewhere.
    fn check(&self, side: Side, transport: Transport, owner: WorkerId, pipeline: &mut Pipeline) {
        let Some(claim) = &self.arrivals[side as usize].claim else { return };
        let is_claimed = match transport {
            Transport::Tcp => claim.hash_types.contains(RssHashTypes::IPV4_TCP),
            Transport::Udp => claim.hash_types.contains(RssHashTypes::IPV4_UDP),
            Transport::Other => false,
        };
        if is_claimed && !claim.mine[usize::from(owner.0)] {
            pipeline.interfaces[side as usize].counters.misplaced += 1;
        }
    }

    fn hand_over(&mut self, to: WorkerId, side: Side, mut mbuf: Mbuf, pipeline: &mut Pipeline) {
        pipeline.interfaces[side as usize].counters.handed_over += 1;
        let Some(outbox) = &mut self.outboxes[usize::from(to.0)] else { return };
        // Not all drivers say by which port a packet came.
        mbuf.set_port(self.arrivals[side as usize].port);
        outbox.send(mbuf, &mut pipeline.drops);
    }

    /// Takes in a fragment that came by its address.
    fn receive_fragment(&mut self, now: Instant, side: Side, mbuf: Mbuf, pipeline: &mut Pipeline) {
        let known = (&self.owners, self.me);
        let delivery = self.fragments.receive(now, side, mbuf, known, &mut pipeline.drops);
        let Some(Delivery { owner, mbuf, first_of }) = delivery else { return };
        self.deliver(now, owner, side, mbuf, pipeline);
        while let Some(held) = first_of.and_then(|packet| self.fragments.pop(&packet)) {
            self.deliver(now, owner, side, held, pipeline);
        }
    }

    fn deliver(
        &mut self,
        now: Instant,
        to: WorkerId,
        side: Side,
        mbuf: Mbuf,
        pipeline: &mut Pipeline,
    ) {
        if to == self.me {
            pipeline.receive_one(now, side, mbuf, &Prepared::default());
        } else {
            self.hand_over(to, side, mbuf, pipeline);
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
    fn send(&mut self, mbuf: Mbuf, drops: &mut DropCounters) {
        if self.pending.is_full() {
            self.flush(drops);
        }
        // There is room now: a flush leaves nothing.
        let _ = self.pending.push(mbuf);
    }

    fn flush(&mut self, drops: &mut DropCounters) {
        if self.pending.is_empty() {
            return;
        }
        self.ring.enqueue(&mut self.pending);
        drops.add(DropReason::WorkerRingFull, self.pending.len());
        self.pending.clear();
    }
}
