//! What a worker counts. Each counter has one writer, the worker, and can be read while packets flow.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use crossbeam_utils::CachePadded;
use shunt_nat::{
    ConnectionState, Counter, EngineCounters, LiveEngineCounters, Occupancy, live_counters,
};

use crate::drop_reason::{DropCounters, LiveDropCounters};

/// Counters of their own cache lines, which no other core writes.
pub(crate) type Shared<T> = Arc<CachePadded<T>>;

live_counters! {
    /// Packets and bytes of one port, as its worker saw them. Bytes count whole Ethernet frames.
    pub struct PortCounters, live LivePortCounters {
        /// Frames received.
        rx_packets,
        /// Bytes received.
        rx_bytes,
        /// Frames that the device took for transmission.
        tx_packets,
        /// Bytes that the device took for transmission.
        tx_bytes,
        /// Frames received that were handed to other workers, their owners.
        handed_over,
        /// Of these, the ones that the port claims to bring to their owners by itself.
        misplaced,
    }
}

live_counters! {
    /// What a worker did besides passing packets on.
    pub struct PipelineCounters, live LivePipelineCounters {
        /// ARP requests of ours, announcements included.
        arp_requests,
        /// ARP replies of ours.
        arp_replies,
        /// ARP packets that told us of a neighbour.
        arp_learned,
        /// Echo requests to us that were answered.
        echo_replies,
        /// TCP resets sent.
        resets,
        /// ICMP errors sent.
        icmp_errors,
        /// ICMP errors not sent, for their rate.
        icmp_errors_suppressed,
        /// Packets sent in fragments, being larger than the egress port's MTU.
        fragmented,
        /// Frames with an 802.1Q tag passed on untouched.
        vlan_passed,
    }
}

/// A worker's loop.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LoopCounters {
    /// Turns of the loop.
    pub polls: u64,
    /// Turns in which packets came.
    pub busy_polls: u64,
    /// Packets that came, those from other workers included.
    pub packets: u64,
    /// Cycles of the time stamp counter that turns with packets, or commands, took.
    pub busy_cycles: u64,
    /// Cycles that all others took, and the naps between them.
    pub idle_cycles: u64,
    /// Cycles of the longest turn since the start.
    pub longest_poll: u64,
    /// Cycles a second.
    pub hz: u64,
}

/// Live [`LoopCounters`].
#[derive(Debug, Default)]
pub(crate) struct LiveLoopCounters {
    polls: Counter,
    busy_polls: Counter,
    packets: Counter,
    busy_cycles: Counter,
    idle_cycles: Counter,
    longest_poll: AtomicU64,
}

impl LiveLoopCounters {
    /// Notes a turn in which so many packets came, and whether it did something besides.
    #[inline]
    pub(crate) fn note_poll(&self, packets: usize, is_busy: bool, cycles: u64) {
        self.polls.add(1);
        if is_busy {
            self.busy_polls.add(1);
            self.packets.add(packets as u64);
            self.busy_cycles.add(cycles);
        } else {
            self.idle_cycles.add(cycles);
        }
        if cycles > self.longest_poll.load(Relaxed) {
            self.longest_poll.store(cycles, Relaxed);
        }
    }

    /// Notes a nap between two turns.
    pub(crate) fn note_nap(&self, cycles: u64) {
        self.idle_cycles.add(cycles);
    }

    fn get(&self, hz: u64) -> LoopCounters {
        LoopCounters {
            polls: self.polls.get(),
            busy_polls: self.busy_polls.get(),
            packets: self.packets.get(),
            busy_cycles: self.busy_cycles.get(),
            idle_cycles: self.idle_cycles.get(),
            longest_poll: self.longest_poll.load(Relaxed),
            hz,
        }
    }
}

/// A worker's counters, for whoever is to read them while it works.
#[derive(Clone, Debug)]
pub struct WorkerMonitor {
    pub(crate) polls: Shared<LiveLoopCounters>,
    /// By side.
    pub(crate) ports: [Shared<LivePortCounters>; 2],
    pub(crate) pipeline: Shared<LivePipelineCounters>,
    /// Of the pipeline, and of steering if there is one.
    pub(crate) drops: Vec<Shared<LiveDropCounters>>,
    pub(crate) engine: Shared<LiveEngineCounters>,
    pub(crate) occupancy: Shared<Occupancy>,
    /// Connections that there is room for.
    pub(crate) capacity: usize,
    pub(crate) hz: u64,
}

/// What a worker had counted at some moment.
#[derive(Clone, Debug)]
pub struct WorkerStatus {
    /// Its loop.
    pub polls: LoopCounters,
    /// Its share of the ports' packets, outside first.
    pub ports: [PortCounters; 2],
    /// What it did besides passing packets on.
    pub pipeline: PipelineCounters,
    /// What it dropped.
    pub drops: DropCounters,
    /// Its engine.
    pub engine: EngineCounters,
    /// How many of its connections are in which state.
    pub states: Vec<(ConnectionState, u64)>,
    /// How many connections its table has room for.
    pub capacity: usize,
}

impl WorkerMonitor {
    /// What was counted up to now.
    #[must_use]
    pub fn status(&self) -> WorkerStatus {
        let mut drops = DropCounters::default();
        self.drops.iter().for_each(|live| drops += &live.get());
        WorkerStatus {
            polls: self.polls.get(self.hz),
            ports: [&self.ports[0], &self.ports[1]].map(|port| port.get()),
            pipeline: self.pipeline.get(),
            drops,
            engine: self.engine.get(),
            states: self
                .occupancy
                .iter()
                .filter(|(state, _)| *state != ConnectionState::None)
                .collect(),
            capacity: self.capacity,
        }
    }
}

impl WorkerStatus {
    /// Connections that the worker has.
    #[must_use]
    pub fn connections(&self) -> u64 {
        self.states.iter().map(|(_, count)| count).sum()
    }
}
