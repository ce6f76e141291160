use shunt_config::Vlan;
use shunt_dpdk::{Burst, Mbuf, RingConsumer, RingProducer, TxQueue};
use shunt_nat::Side;
use shunt_packet::ethernet::{EtherType, EthernetHeader, HEADER_LEN, MacAddr};

use crate::{
    counters::{LivePortCounters, Shared},
    drop_reason::{DropReason, LiveDropCounters},
    neighbours::Neighbours,
    offload::Offloads,
    outgoing::Outgoing,
};

/// Bytes of an 802.1Q tag, which a frame may have on top of its MTU.
const VLAN_TAG: usize = 4;

/// Bursts that a worker sends for another one in a turn of its loop: more than that one makes of what
/// it takes in meanwhile, and few enough that a slow port does not keep it from its own work.
const RELAYED_AT_ONCE: usize = 8;

/// A port as its worker sees it, but for its receive queue.
pub(crate) struct Interface {
    pub(crate) mac: MacAddr,
    /// Bytes of the largest IPv4 packet.
    pub(crate) mtu: u16,
    pub(crate) vlan: Vlan,
    pub(crate) offloads: Offloads,
    pub(crate) neighbours: Neighbours<Outgoing>,
    pub(crate) counters: Shared<LivePortCounters>,
    outlet: Outlet,
    /// Packets that leave at the end of the loop, or when there is no room for more.
    pending: Burst,
}

/// What the [`Interface`]s of a port have in common.
#[derive(Clone, Copy)]
pub(crate) struct InterfaceParts {
    pub(crate) mac: MacAddr,
    pub(crate) mtu: u16,
    pub(crate) vlan: Vlan,
    pub(crate) offloads: Offloads,
}

/// How a worker's frames get to the port.
pub(crate) enum Outlet {
    /// By a queue of its own, which also sends what other workers leave in rings.
    Queue(TxQueue, Vec<RingConsumer>),
    /// By a ring, to a worker that has a queue.
    Ring(RingProducer),
}

impl Interface {
    pub(crate) fn new(side: Side, parts: InterfaceParts, outlet: Outlet) -> Interface {
        let InterfaceParts { mac, mtu, vlan, offloads } = parts;
        Interface {
            mac,
            mtu,
            vlan,
            offloads,
            neighbours: Neighbours::new(side),
            counters: Shared::default(),
            outlet,
            pending: Burst::new(),
        }
    }

    /// Bytes of the largest frame that the port may receive.
    pub(crate) fn max_frame(&self) -> usize {
        HEADER_LEN + VLAN_TAG + usize::from(self.mtu)
    }

    /// What frames with IPv4 for a neighbour begin with.
    pub(crate) fn ipv4_to(&self, neighbour: MacAddr) -> EthernetHeader {
        EthernetHeader { destination: neighbour, source: self.mac, ethertype: EtherType::IPV4 }
    }

    /// Bytes of the largest frame with IPv4 that may leave.
    pub(crate) fn max_ipv4_frame(&self) -> usize {
        HEADER_LEN + usize::from(self.mtu)
    }

    /// Whether an IPv4 frame's packet is larger than the port's MTU.
    pub(crate) fn is_too_big(&self, mbuf: &Mbuf) -> bool {
        mbuf.len() > self.max_ipv4_frame()
    }

    /// Sends a frame, soon.
    pub(crate) fn send(&mut self, mbuf: Mbuf, drops: &LiveDropCounters) {
        if self.pending.is_full() {
            self.flush(drops);
        }
        // There is room now: a flush leaves nothing.
        if self.pending.push(mbuf).is_err() {
            drops.add(DropReason::TxQueueFull, 1);
        }
    }

    /// Notes what came in by this worker's receive queue.
    pub(crate) fn count_received(&mut self, burst: &Burst) {
        self.counters.rx_packets.add(burst.len() as u64);
        self.counters.rx_bytes.add(bytes(burst));
    }

    /// Sends all pending frames on their way.
    #[inline]
    pub(crate) fn flush(&mut self, drops: &LiveDropCounters) {
        if self.pending.is_empty() {
            return;
        }
        match &mut self.outlet {
            Outlet::Queue(queue, _) => {
                transmit(queue, &mut self.pending, &self.counters, drops);
            }
            Outlet::Ring(ring) => {
                ring.enqueue(&mut self.pending);
                drops.add(DropReason::WorkerRingFull, self.pending.len());
                self.pending.clear();
            }
        }
    }

    /// Sends what workers without a queue of their own have left here, of each no more than a certain
    /// number of bursts: they may leave more while it does so.
    #[inline]
    pub(crate) fn relay(&mut self, drops: &LiveDropCounters) {
        let Outlet::Queue(queue, rings) = &mut self.outlet else { return };
        for ring in rings {
            let mut burst = Burst::new();
            for _ in 0..RELAYED_AT_ONCE {
                if ring.dequeue(&mut burst) == 0 {
                    break;
                }
                burst.iter().for_each(Mbuf::prefetch_header);
                transmit(queue, &mut burst, &self.counters, drops);
            }
        }
    }
}

/// Hands frames to the device, and drops what it refuses.
fn transmit(
    queue: &mut TxQueue,
    burst: &mut Burst,
    counters: &LivePortCounters,
    drops: &LiveDropCounters,
) {
    let offered = bytes(burst);
    counters.tx_packets.add(queue.send(burst) as u64);
    counters.tx_bytes.add(offered - bytes(burst));
    drops.add(DropReason::TxQueueFull, burst.len());
    burst.clear();
}

fn bytes(burst: &Burst) -> u64 {
    burst.iter().map(|mbuf| mbuf.len() as u64).sum()
}
