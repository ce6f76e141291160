//! A director under load, in a process of its own: EAL starts once per process.

use std::time::Duration;

use anyhow::{Context, ensure};
use serde::{Deserialize, Serialize};
use shunt_dataplane::{Assembly, Worker};
use shunt_dpdk::{Eal, LcoreId, clock::Tsc, launch};
use shunt_nat::{ConnectionState, Direction, Instant, Side};

use crate::{
    case::{CHURN_SPEED, Case, Load},
    service_file::{self, WORKER},
    traffic::{self, MACS},
};

const SIDES: [Side; 2] = [Side::Outside, Side::Inside];

/// Answers to ARP are repeated this often, in the time that the director sees.
const ARP_INTERVAL: Duration = Duration::from_secs(10);

/// What a process is to measure.
#[derive(Serialize, Deserialize)]
pub(crate) struct Order {
    pub(crate) case: Case,
    pub(crate) devices: [String; 2],
    pub(crate) no_huge: bool,
    pub(crate) windows: u32,
    pub(crate) window: Duration,
}

/// What it found.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Measurement {
    pub(crate) windows: Vec<Window>,
    /// The longest time between two readings of the clock while nothing else was done: what this
    /// machine and its kernel add to the longest polls, in microseconds.
    pub(crate) idle_pause_us: f64,
}

/// A stretch of time.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Window {
    pub(crate) seconds: f64,
    /// Packets that came from the devices.
    pub(crate) packets: u64,
    /// Packets that left.
    pub(crate) sent: u64,
    /// Packets dropped, by reason.
    pub(crate) drops: Vec<(String, u64)>,
    /// Connections that were opened.
    pub(crate) opened: u64,
    /// Connections in the table at the end.
    pub(crate) connections: usize,
    /// The longest time from one poll to the next, in microseconds.
    pub(crate) longest_poll_us: f64,
}

impl Window {
    /// Millions of packets per second.
    pub(crate) fn mpps(&self) -> f64 {
        self.packets as f64 / self.seconds / 1e6
    }

    /// Millions of new connections per second.
    pub(crate) fn opens(&self) -> f64 {
        self.opened as f64 / self.seconds / 1e6
    }
}

/// Starts a director, brings it into the state that the case is about, and measures.
pub(crate) fn measure(order: Order) -> anyhow::Result<Measurement> {
    let config = service_file::config(order.case, &order.devices, order.no_huge)?;
    let prefix = format!("shunt-bench-{}", std::process::id());
    let eal = Eal::init(&config.eal_args(&prefix)).context("EAL did not start")?;
    let mut director = Assembly::open(&eal, &config)?;
    let macs = director.workers()[0].macs().map(|mac| mac.0);
    ensure!(macs == MACS, "the devices are {macs:02x?}, and frames are for {MACS:02x?}");

    let work = launch(LcoreId(WORKER.into()), move || {
        let measurement = run(&mut director.workers()[0], &order);
        (director, measurement)
    });
    let (director, measurement) = work.context("the worker's lcore did not start")?.join();
    let report = director.close(&config);
    ensure!(report.mbufs.missing() == 0, "mbufs are missing:\n{report}");
    measurement
}

fn run(worker: &mut Worker, order: &Order) -> anyhow::Result<Measurement> {
    let mut bench = Bench::new(worker, order.case);
    let idle_pause_us = bench.clock.longest_pause(order.window / 2);
    bench.meet_neighbours()?;
    if order.case.is_established() {
        bench.establish()?;
    }
    // Caches and branch predictors see each flow once, a full table is full, and under churn as many
    // connections end as begin.
    bench.window(order.window.max(Duration::from_millis(500)))?;
    let windows = (0..order.windows).map(|_| bench.window(order.window));
    let windows = windows.collect::<anyhow::Result<Vec<_>>>()?;
    Ok(Measurement { windows, idle_pause_us })
}

/// A director that is driven by hand.
pub(crate) struct Bench<'a> {
    worker: &'a mut Worker,
    case: Case,
    pub(crate) clock: Clock,
}

impl Bench<'_> {
    pub(crate) fn new(worker: &mut Worker, case: Case) -> Bench<'_> {
        Bench { worker, case, clock: Clock::start(case) }
    }

    fn inject(&mut self, side: Side, frame: &[u8]) -> anyhow::Result<()> {
        let now = self.clock.at(Tsc::now());
        ensure!(self.worker.inject(now, side, frame), "no mbuf is free");
        Ok(())
    }

    /// Has the gateway and the servers answer ARP.
    pub(crate) fn meet_neighbours(&mut self) -> anyhow::Result<()> {
        for (side, frames) in SIDES.into_iter().zip(traffic::neighbours()) {
            frames.iter().try_for_each(|frame| self.inject(side, frame))?;
        }
        Ok(())
    }

    /// Opens a connection for each flow, has the server answer, and the client confirm.
    pub(crate) fn establish(&mut self) -> anyhow::Result<()> {
        let case = self.case;
        traffic::openers(case).try_for_each(|opener| self.inject(Side::Outside, &opener))?;
        let connections = || self.worker.engine().table().iter();
        let keys: Vec<_> = connections()
            .map(|connection| [Direction::Inbound, Direction::Outbound].map(|d| connection.key(d)))
            .collect();
        let are_foreseen = (0..)
            .zip(connections())
            .all(|(number, connection)| traffic::is_foreseen(case, number, |d| connection.key(d)));
        ensure!(are_foreseen, "connections went to other servers than the frames are from");
        for keys in keys {
            let [confirmation, answer] = traffic::exchange(case, keys);
            self.inject(Side::Inside, &answer)?;
            self.inject(Side::Outside, &confirmation)?;
        }
        let is_established =
            |state| matches!(state, ConnectionState::Udp | ConnectionState::Established);
        let states = self.worker.engine().table().iter().map(|connection| connection.state());
        let established = states.filter(|state| is_established(*state)).count();
        ensure!(
            established == case.flows as usize,
            "{established} of {} connections are established: {:?}",
            case.flows,
            self.drops(),
        );
        Ok(())
    }

    /// Polls for that long, as [`Worker`]'s own loop does, and a little more: it notes how long each
    /// turn took.
    fn window(&mut self, length: Duration) -> anyhow::Result<Window> {
        let (drops, sent, opened) = (self.drops(), self.sent(), self.opened());
        let length = self.clock.cycles(length);
        let arp_interval = self.clock.cycles(ARP_INTERVAL) / self.clock.speed;
        let (mut packets, mut longest) = (0, 0);
        let start = Tsc::now();
        let (mut last, mut next_arp) = (start, start);
        while last - start < length {
            if last >= next_arp {
                next_arp += arp_interval;
                self.meet_neighbours()?;
                last = Tsc::now();
            }
            packets += self.worker.poll(self.clock.at(last)) as u64;
            let now = Tsc::now();
            longest = longest.max(now - last);
            last = now;
        }
        let window = Window {
            seconds: self.clock.seconds(last - start),
            packets,
            sent: self.sent() - sent,
            drops: difference(self.drops(), &drops),
            opened: self.opened() - opened,
            connections: self.worker.engine().table().len(),
            longest_poll_us: self.clock.seconds(longest) * 1e6,
        };
        self.examine(&window)?;
        Ok(window)
    }

    /// A director that drops packets is fast, and not what is to be measured.
    fn examine(&self, window: &Window) -> anyhow::Result<()> {
        let Window { packets, sent, drops, opened, .. } = window;
        ensure!(*packets > 0, "no packet came");
        ensure!(drops.is_empty(), "packets were dropped: {drops:?}");
        ensure!(sent >= packets, "{packets} packets came, and {sent} left");
        if self.case.is_established() {
            ensure!(*opened == 0, "{opened} connections were opened where all were there");
        }
        Ok(())
    }

    fn sent(&self) -> u64 {
        self.worker.port_counters().iter().map(|port| port.tx_packets).sum()
    }

    fn opened(&self) -> u64 {
        self.worker.engine().server_counters().map(|server| server.connections).sum()
    }

    fn drops(&self) -> Vec<(String, u64)> {
        let drops = self.worker.drops().iter();
        drops.map(|(reason, count)| (reason.as_str().to_owned(), count)).collect()
    }
}

/// What was added, where something was.
fn difference(after: Vec<(String, u64)>, before: &[(String, u64)]) -> Vec<(String, u64)> {
    let earlier = |name: &str| before.iter().find(|(other, _)| other == name).map_or(0, |d| d.1);
    let added = after.into_iter().map(|(name, count)| {
        let added = count - earlier(&name);
        (name, added)
    });
    added.filter(|(_, count)| *count > 0).collect()
}

/// The time stamp counter, and the time that it stands for.
#[derive(Clone, Copy)]
pub(crate) struct Clock {
    start: u64,
    cycles_per_milli: u64,
    speed: u64,
}

impl Clock {
    fn start(case: Case) -> Clock {
        let speed = if case.load == Load::Churn { CHURN_SPEED } else { 1 };
        Clock { start: Tsc::now(), cycles_per_milli: (Tsc::hz() / 1000).max(1), speed }
    }

    /// The time that the director is told.
    #[inline]
    pub(crate) fn at(self, tsc: u64) -> Instant {
        Instant::from_millis((tsc - self.start) * self.speed / self.cycles_per_milli)
    }

    fn cycles(self, time: Duration) -> u64 {
        time.as_millis() as u64 * self.cycles_per_milli
    }

    fn seconds(self, cycles: u64) -> f64 {
        cycles as f64 / (self.cycles_per_milli * 1000) as f64
    }

    /// The longest time between two readings within `length`, in microseconds.
    fn longest_pause(self, length: Duration) -> f64 {
        let (start, length) = (Tsc::now(), self.cycles(length));
        let (mut last, mut longest) = (start, 0);
        while last - start < length {
            let now = Tsc::now();
            longest = longest.max(now - last);
            last = now;
        }
        self.seconds(longest) * 1e6
    }
}
