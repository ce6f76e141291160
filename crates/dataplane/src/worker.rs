use std::sync::atomic::{AtomicBool, Ordering};

use shunt_dpdk::{Burst, RxQueue, clock::Tsc};
use shunt_nat::{Engine, Instant, Side};
use shunt_packet::ethernet::MacAddr;

use crate::{
    counters::{PipelineCounters, PortCounters},
    drop_reason::DropCounters,
    pipeline::Pipeline,
    surroundings::SIDES,
};

/// Milliseconds between two looks at what is due for neighbours.
const TICK: u64 = 100;

/// An lcore's own: its queues, its connections, its counters. It shares nothing.
pub struct Worker {
    rx: [RxQueue; 2],
    burst: Burst,
    pub(crate) pipeline: Pipeline,
    next_tick: u64,
}

impl Worker {
    pub(crate) fn new(rx: [RxQueue; 2], pipeline: Pipeline) -> Worker {
        Worker { rx, burst: Burst::new(), pipeline, next_tick: 0 }
    }

    /// One turn of the loop: takes a burst from each port, does what time brings, and sends what is
    /// to leave. Returns how many packets came.
    pub fn poll(&mut self, now: Instant) -> usize {
        let mut received = 0;
        for side in SIDES {
            self.rx[side as usize].receive(&mut self.burst);
            received += self.burst.len();
            self.burst.iter().for_each(shunt_dpdk::Mbuf::prefetch);
            for mbuf in self.burst.drain() {
                self.pipeline.receive(now, side, mbuf);
            }
        }
        self.pipeline.expire(now);
        if now.as_millis() >= self.next_tick {
            self.next_tick = now.as_millis() + TICK;
            self.pipeline.tick(now);
        }
        self.pipeline.flush();
        received
    }

    /// Takes in a copy of a frame, as if it had arrived on `side`; `false` when no mbuf is free.
    /// Brings a director that is driven by hand into a state: neighbours known, connections open.
    pub fn inject(&mut self, now: Instant, side: Side, frame: &[u8]) -> bool {
        let copy = self.pipeline.copy(&[frame]);
        copy.map(|mbuf| self.pipeline.receive(now, side, mbuf)).is_some()
    }

    /// Polls until it is told to stop.
    pub(crate) fn run(mut self, stop: &AtomicBool) -> Worker {
        let clock = Clock::start();
        while !stop.load(Ordering::Relaxed) {
            self.poll(clock.now());
        }
        self
    }

    /// The NAT engine, with its connections and counters.
    #[must_use]
    pub fn engine(&self) -> &Engine {
        &self.pipeline.engine
    }

    /// Ethernet addresses of the ports, outside first.
    #[must_use]
    pub fn macs(&self) -> [MacAddr; 2] {
        SIDES.map(|side| self.pipeline.interfaces[side as usize].mac)
    }

    /// Packets and bytes per port, outside first.
    #[must_use]
    pub fn port_counters(&self) -> [PortCounters; 2] {
        SIDES.map(|side| self.pipeline.interfaces[side as usize].counters)
    }

    /// What was done besides passing packets on.
    #[must_use]
    pub fn counters(&self) -> &PipelineCounters {
        &self.pipeline.counters
    }

    /// What was dropped, and why.
    #[must_use]
    pub fn drops(&self) -> &DropCounters {
        &self.pipeline.drops
    }

    /// Packets that wait for a neighbour's answer.
    #[must_use]
    pub fn held(&self) -> usize {
        self.pipeline.held()
    }
}

/// The time stamp counter as a clock: reading it costs no call.
struct Clock {
    start: u64,
    cycles_per_milli: u64,
}

impl Clock {
    fn start() -> Clock {
        Clock { start: Tsc::now(), cycles_per_milli: (Tsc::hz() / 1000).max(1) }
    }

    fn now(&self) -> Instant {
        Instant::from_millis(Tsc::now().wrapping_sub(self.start) / self.cycles_per_milli)
    }
}
