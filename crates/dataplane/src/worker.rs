use std::sync::atomic::{AtomicBool, Ordering};

use shunt_config::Idle;
use shunt_dpdk::{Burst, RxQueue};
use shunt_nat::{Engine, Instant, Side};
use shunt_packet::ethernet::MacAddr;

use crate::{
    clock::Clock,
    control::Inbox,
    counters::{PipelineCounters, PortCounters},
    drop_reason::DropCounters,
    idle::IdleBackoff,
    local_network::SIDES,
    pipeline::Pipeline,
    steering::{Steering, SteeringCounters},
};

/// Milliseconds between two looks at what is due for neighbours, and at what the main lcore wants.
const TICK: u64 = 10;

/// An lcore's own: its queues, its connections, its counters. Of other workers it knows only the
/// rings between them.
///
/// It leads packets from one part to the next: [`Steering`] says which are its own, and [`Pipeline`]
/// passes these on, with the [`Engine`]'s help.
pub struct Worker {
    /// By side; `None` where the port has fewer queues than there are workers.
    rx: [Option<RxQueue>; 2],
    burst: Burst,
    engine: Engine,
    pipeline: Pipeline,
    /// `None` where there is no other worker.
    steering: Option<Steering>,
    inbox: Inbox,
    next_tick: u64,
}

impl Worker {
    pub(crate) fn new(
        rx: [Option<RxQueue>; 2],
        engine: Engine,
        pipeline: Pipeline,
        steering: Option<Steering>,
        inbox: Inbox,
    ) -> Worker {
        Worker { rx, burst: Burst::new(), engine, pipeline, steering, inbox, next_tick: 0 }
    }

    /// One turn of the loop: takes a burst from each port and each other worker, does what time
    /// brings, and sends what is to leave. Returns how many packets came.
    pub fn poll(&mut self, now: Instant) -> usize {
        self.pipeline.poll_neighbour_events(now);
        let mut received = 0;
        for side in SIDES {
            received += self.receive(now, side);
        }
        received += self.receive_from_workers(now);
        self.pipeline.expire(&mut self.engine, now);
        if now.as_millis() >= self.next_tick {
            self.next_tick = now.as_millis() + TICK;
            self.read_inbox(now);
            self.tick(now);
        }
        if let Some(steering) = &mut self.steering {
            steering.flush();
        }
        self.pipeline.flush();
        received
    }

    /// Takes a burst from a port.
    fn receive(&mut self, now: Instant, side: Side) -> usize {
        let Some(queue) = &mut self.rx[side as usize] else { return 0 };
        let received = queue.receive(&mut self.burst);
        self.burst.iter().for_each(shunt_dpdk::Mbuf::prefetch);
        self.pipeline.interfaces[side as usize].count_received(&self.burst);
        if let Some(steering) = &mut self.steering {
            let Worker { burst, pipeline, engine, .. } = self;
            steering.sort(now, side, burst, |mbuf| pipeline.tracks_fragment(engine, side, mbuf));
        }
        self.pipeline.receive(&mut self.engine, now, side, &mut self.burst);
        self.receive_fragments(now, side);
        received
    }

    /// Takes a burst from each other worker.
    fn receive_from_workers(&mut self, now: Instant) -> usize {
        let Some(steering) = &mut self.steering else { return 0 };
        let mut received = 0;
        for inbox in 0..steering.inboxes() {
            let Some(steering) = &mut self.steering else { continue };
            let mut mine = SIDES.map(|_| Burst::new());
            received += steering.receive(now, inbox, &mut mine);
            for (side, burst) in SIDES.into_iter().zip(&mut mine) {
                self.pipeline.receive(&mut self.engine, now, side, burst);
                self.receive_fragments(now, side);
            }
        }
        received
    }

    /// Takes in fragments that are known to be this worker's by now.
    #[inline]
    fn receive_fragments(&mut self, now: Instant, side: Side) {
        let Some(steering) = &mut self.steering else { return };
        loop {
            steering.take_fragments(side, &mut self.burst);
            if self.burst.is_empty() {
                break;
            }
            self.pipeline.receive(&mut self.engine, now, side, &mut self.burst);
        }
    }

    fn tick(&mut self, now: Instant) {
        self.pipeline.tick(&mut self.engine, now);
        if let Some(steering) = &mut self.steering {
            steering.tick(now);
        }
    }

    /// Takes over what the main lcore has sent, if anything.
    pub(crate) fn read_inbox(&mut self, now: Instant) {
        let Worker { inbox, pipeline, engine, .. } = self;
        inbox.look(|snapshot| pipeline.replace(engine, now, snapshot));
    }

    /// Takes in a copy of a frame, as if it had arrived on `side`; `false` when no mbuf is free.
    /// Brings a director that is driven by hand into a state: neighbours known, connections open.
    pub fn inject(&mut self, now: Instant, side: Side, frame: &[u8]) -> bool {
        let Some(copy) = self.pipeline.copy(&[frame]) else { return false };
        // There is room: the burst is empty between two turns.
        let _ = self.burst.push(copy);
        self.pipeline.receive(&mut self.engine, now, side, &mut self.burst);
        true
    }

    /// Polls until it is told to stop.
    pub(crate) fn run(mut self, clock: Clock, stop: &AtomicBool, idle: Idle) -> Worker {
        let mut idle = IdleBackoff::new(idle);
        while !stop.load(Ordering::Relaxed) {
            idle.on_poll(self.poll(clock.now()));
        }
        self
    }

    /// The NAT engine, with its connections and counters.
    #[must_use]
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Ethernet addresses of the ports, outside first.
    #[must_use]
    pub fn macs(&self) -> [MacAddr; 2] {
        SIDES.map(|side| self.pipeline.interfaces[side as usize].mac)
    }

    /// Packets and bytes per port, outside first.
    #[must_use]
    pub fn port_counters(&self) -> [PortCounters; 2] {
        SIDES.map(|side| {
            let counters = self.pipeline.interfaces[side as usize].counters;
            let steering = self.steering.as_ref().map(|steering| steering.counters(side));
            let SteeringCounters { handed_over, misplaced } = steering.unwrap_or_default();
            PortCounters { handed_over, misplaced, ..counters }
        })
    }

    /// What was done besides passing packets on.
    #[must_use]
    pub fn counters(&self) -> &PipelineCounters {
        &self.pipeline.counters
    }

    /// What was dropped, and why.
    #[must_use]
    pub fn drops(&self) -> DropCounters {
        let mut drops = self.pipeline.drops.clone();
        if let Some(steering) = &self.steering {
            drops += steering.drops();
        }
        drops
    }

    /// Packets that wait: for a neighbour's answer, or for the first fragment of their packet.
    #[must_use]
    pub fn held(&self) -> usize {
        self.pipeline.held() + self.steering.as_ref().map_or(0, Steering::held)
    }
}
