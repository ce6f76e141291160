use shunt_config::Vlan;
use shunt_dpdk::{Burst, Mbuf, TxQueue};
use shunt_packet::ethernet::{HEADER_LEN, MacAddr};

use crate::{
    counters::PortCounters,
    drop_reason::{DropCounters, DropReason},
    neighbours::Neighbours,
    offload::Offloads,
    pipeline::Outgoing,
};

/// Bytes of an 802.1Q tag, which a frame may have on top of its MTU.
const VLAN_TAG: usize = 4;

/// A port as its worker sees it, but for its receive queue.
pub(crate) struct Interface {
    pub(crate) mac: MacAddr,
    /// Bytes of the largest IPv4 packet.
    pub(crate) mtu: u16,
    pub(crate) vlan: Vlan,
    pub(crate) offloads: Offloads,
    pub(crate) neighbours: Neighbours<Outgoing>,
    pub(crate) counters: PortCounters,
    tx: TxQueue,
    /// Packets that leave at the end of the loop, or when there is no room for more.
    pending: Burst,
}

/// What an [`Interface`] is made of.
pub(crate) struct InterfaceParts {
    pub(crate) mac: MacAddr,
    pub(crate) mtu: u16,
    pub(crate) vlan: Vlan,
    pub(crate) offloads: Offloads,
    pub(crate) tx: TxQueue,
}

impl Interface {
    pub(crate) fn new(parts: InterfaceParts) -> Interface {
        let InterfaceParts { mac, mtu, vlan, offloads, tx } = parts;
        Interface {
            mac,
            mtu,
            vlan,
            offloads,
            neighbours: Neighbours::default(),
            counters: PortCounters::default(),
            tx,
            pending: Burst::new(),
        }
    }

    /// Bytes of the largest frame that the port may receive.
    pub(crate) fn max_frame(&self) -> usize {
        HEADER_LEN + VLAN_TAG + usize::from(self.mtu)
    }

    /// Whether an IPv4 frame's packet is larger than the port's MTU.
    pub(crate) fn is_too_big(&self, mbuf: &Mbuf) -> bool {
        mbuf.len() > HEADER_LEN + usize::from(self.mtu)
    }

    /// Sends a frame, soon.
    pub(crate) fn send(&mut self, mbuf: Mbuf, drops: &mut DropCounters) {
        if self.pending.is_full() {
            self.flush(drops);
        }
        // There is room now: a flush leaves nothing.
        if self.pending.push(mbuf).is_err() {
            drops.add(DropReason::TxQueueFull, 1);
        }
    }

    /// Hands all pending frames to the device, and drops what it refuses.
    pub(crate) fn flush(&mut self, drops: &mut DropCounters) {
        if self.pending.is_empty() {
            return;
        }
        let bytes = |burst: &Burst| burst.iter().map(|mbuf| mbuf.len() as u64).sum::<u64>();
        let offered = bytes(&self.pending);
        self.counters.tx_packets += self.tx.send(&mut self.pending) as u64;
        let refused = self.pending.len();
        self.counters.tx_bytes += offered - bytes(&self.pending);
        drops.add(DropReason::TxQueueFull, refused);
        self.pending.clear();
    }
}
