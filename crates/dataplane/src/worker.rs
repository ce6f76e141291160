use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use shunt_config::Idle;
use shunt_dpdk::{Burst, RxQueue, clock::Tsc};
use shunt_nat::{Engine, Instant, Side};
use shunt_packet::ethernet::MacAddr;

use crate::{
    clock::Clock,
    counters::{LiveLoopCounters, PipelineCounters, PortCounters, Shared, WorkerMonitor},
    drop_reason::DropCounters,
    idle::IdleBackoff,
    local_network::SIDES,
    mailbox::{Answer, Command, Mailbox},
    pipeline::Pipeline,
    steering::Steering,
};

/// Milliseconds between two looks at what is due for neighbours.
const TICK: u64 = 10;

/// Turns after which a worker looks into its mailbox even if there are packets to pass in each.
const MAIL_INTERVAL: u32 = 64;

/// Records that a command looks at: 20 microseconds or so, as they are next to each other.
const LOOKS: usize = 1024;

/// An lcore's own: its queues, its connections, its counters. Of other workers it knows only the
/// rings between them.
///
/// It leads packets from one part to the next: `Steering` says which are its own, and `Pipeline`
/// passes these on, with the [`Engine`]'s help.
pub struct Worker {
    /// By side; `None` where the port has fewer queues than there are workers.
    rx: [Option<RxQueue>; 2],
    burst: Burst,
    engine: Engine,
    pipeline: Pipeline,
    /// `None` where there is no other worker.
    steering: Option<Steering>,
    mailbox: Mailbox,
    next_tick: u64,
    /// Turns until the mailbox is looked at in any case.
    until_mail: u32,
    polls: Shared<LiveLoopCounters>,
}

impl Worker {
    pub(crate) fn new(
        rx: [Option<RxQueue>; 2],
        engine: Engine,
        pipeline: Pipeline,
        steering: Option<Steering>,
        mailbox: Mailbox,
    ) -> Worker {
        Worker {
            rx,
            burst: Burst::new(),
            engine,
            pipeline,
            steering,
            mailbox,
            next_tick: 0,
            until_mail: 0,
            polls: Shared::default(),
        }
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

    /// Obeys a command of the main lcore's, if there is one, and returns whether there was. For whoever
    /// [polls](Worker::poll) a worker by hand, elsewhere than where commands come from.
    pub fn read_mailbox(&mut self, now: Instant) -> bool {
        let Worker { mailbox, pipeline, engine, .. } = self;
        mailbox.read(|command| match command {
            Command::Replace(snapshot) => {
                Answer::Replaced(Box::new(pipeline.replace(engine, now, *snapshot)))
            }
            Command::List { filter, mut cursor, mut page } => {
                let is_over = engine.list(now, &filter, &mut cursor, LOOKS, &mut page);
                Answer::Listed { next: (!is_over).then_some(cursor), page }
            }
            Command::Count { filter, mut cursor } => {
                let mut count = 0;
                let is_over =
                    engine.count_connections(now, &filter, &mut cursor, LOOKS, &mut count);
                Answer::Counted { next: (!is_over).then_some(cursor), count }
            }
            Command::Kill { filter, mut cursor } => {
                let (count, is_over) = pipeline.kill(engine, now, &filter, &mut cursor);
                Answer::Counted { next: (!is_over).then_some(cursor), count }
            }
        })
    }

    /// One turn of a running director's loop: [`Worker::poll`], and a look into the mailbox, which there is
    /// in each turn without packets and in some of the others. Returns how many packets came, and whether
    /// a command was obeyed.
    pub fn poll_and_obey(&mut self, now: Instant) -> (usize, bool) {
        let received = self.poll(now);
        // Looking there costs a fence: what has packets to pass does so less often.
        self.until_mail = self.until_mail.saturating_sub(1);
        let looks = received == 0 || self.until_mail == 0;
        if looks {
            self.until_mail = MAIL_INTERVAL;
        }
        (received, looks && self.read_mailbox(now))
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
        let mut start = Tsc::now();
        while !stop.load(Ordering::Relaxed) {
            let (received, obeyed) = self.poll_and_obey(clock.at(start));
            let end = Tsc::now();
            let is_busy = received > 0 || obeyed;
            self.polls.note_poll(received, is_busy, end.wrapping_sub(start));
            start = end;
            if idle.on_poll(is_busy, end) {
                start = Tsc::now();
                self.polls.note_nap(start.wrapping_sub(end));
            }
        }
        self
    }

    /// What is needed to read the worker's counters while it works.
    #[must_use]
    pub fn monitor(&self) -> WorkerMonitor {
        let drops =
            [&self.pipeline.drops].into_iter().chain(self.steering.as_ref().map(Steering::drops));
        WorkerMonitor {
            polls: Arc::clone(&self.polls),
            ports: SIDES.map(|side| Arc::clone(&self.pipeline.interfaces[side as usize].counters)),
            pipeline: Arc::clone(&self.pipeline.counters),
            drops: drops.map(Arc::clone).collect(),
            engine: Arc::clone(self.engine.live_counters()),
            occupancy: Arc::clone(self.engine.table().occupancy()),
            capacity: self.engine.table().capacity(),
            hz: Tsc::hz(),
        }
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
        SIDES.map(|side| self.pipeline.interfaces[side as usize].counters.get())
    }

    /// What was done besides passing packets on.
    #[must_use]
    pub fn counters(&self) -> PipelineCounters {
        self.pipeline.counters.get()
    }

    /// What was dropped, and why.
    #[must_use]
    pub fn drops(&self) -> DropCounters {
        self.monitor().status().drops
    }

    /// Packets that wait: for a neighbour's answer, or for the first fragment of their packet.
    #[must_use]
    pub fn held(&self) -> usize {
        self.pipeline.held() + self.steering.as_ref().map_or(0, Steering::held)
    }
}
