//! A director under load, in a process of its own: EAL starts once per process.

use std::{
    sync::{Arc, Barrier},
    time::Duration,
};

use anyhow::{Context, ensure};
use serde::{Deserialize, Serialize};
use shunt_dataplane::{DirectorParts, DropReason, Worker};
use shunt_dpdk::{Eal, LcoreHandle, LcoreId, launch};

use crate::{
    case::{CHURN_SHARE, CHURN_TIMEOUT, Case, Load},
    clock::Clock,
    pauses::{LONG_US, Pauses},
    service_file::{self, Wanted},
    setup,
    traffic::MACS,
    window::Window,
    worker_layout::WorkerLayout,
};

/// What a process is to measure.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Order {
    pub(crate) wanted: Wanted,
    pub(crate) windows: u32,
    pub(crate) window: Duration,
}

/// What it found.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Measurement {
    pub(crate) windows: Vec<Window>,
    /// From one reading of the clock to the next while nothing else was done: long is what the median
    /// poll leaves of the time that one may take.
    pub(crate) nothing: Pauses,
}

impl Measurement {
    /// What two workers did at the same time.
    fn merge(self, other: Measurement) -> Measurement {
        let windows = self.windows.into_iter().zip(other.windows);
        Measurement {
            windows: windows.map(|(a, b)| a.merge(b)).collect(),
            nothing: self.nothing.merge(other.nothing),
        }
    }
}

/// Starts a director, brings it into the state that the case is about, and measures.
pub(crate) fn measure(order: &Order) -> anyhow::Result<Measurement> {
    let Wanted { case, layout, .. } = order.wanted;
    let config = service_file::config(&order.wanted)?;
    let prefix = format!("shunt-bench-{}", std::process::id());
    let eal = Eal::init(&config.eal_args(&prefix)).context("EAL did not start")?;
    let mut director = DirectorParts::open(&eal, &config)?;
    let macs = director.workers()[0].macs().map(|mac| mac.0);
    ensure!(macs == MACS, "the devices are {macs:02x?}, and frames are for {MACS:02x?}");

    let clock = Clock::start();
    setup::set_up(director.workers(), case, layout, clock)?;
    let start = Arc::new(Barrier::new(layout.cpus().len()));
    let mut running = Vec::new();
    // EAL's lcore 0 is the main one, and the workers' follow.
    for (lcore, mut worker) in (1..).map(LcoreId).zip(director.workers().drain(..)) {
        let (order, start) = (order.clone(), Arc::clone(&start));
        let work = move || {
            let measurement = work(&mut worker, &order, clock, &start);
            (worker, measurement)
        };
        let handle = launch(lcore, work);
        running.push(handle.context("a worker's lcore did not start")?);
    }
    let (workers, measurements): (_, Vec<_>) = running.into_iter().map(LcoreHandle::join).unzip();
    *director.workers() = workers;
    let report = director.close(&config);
    ensure!(report.mbufs.missing() == 0, "mbufs are missing:\n{report}");
    let measurements = measurements.into_iter().collect::<anyhow::Result<Vec<_>>>()?;
    let all = measurements.into_iter().reduce(Measurement::merge).context("no worker")?;
    all.windows.iter().try_for_each(|window| examine(case, layout, window))?;
    Ok(all)
}

/// Polls one worker through all windows, which begin when all workers have come to `start`.
fn work(
    worker: &mut Worker,
    order: &Order,
    mut clock: Clock,
    start: &Barrier,
) -> anyhow::Result<Measurement> {
    start.wait();
    // Caches and branch predictors see each flow once, a full table is full, and under churn as many
    // connections end as begin.
    let warm_up = order.window.max(Duration::from_millis(500));
    let mut warm_up = |clock| Window::run(worker, clock, warm_up);
    let mut rate = warm_up(clock)?.mpps();
    if order.wanted.case.load == Load::Churn {
        // The first time, packets of connections that live on are among them.
        for _ in 0..2 {
            clock.speed_up(churn_speed(order.wanted.case, rate));
            rate = warm_up(clock)?.mpps();
        }
    }
    let windows = (0..order.windows).map(|_| Window::run(worker, clock, order.window));
    let windows = windows.collect::<anyhow::Result<Vec<_>>>()?;
    let median_us = windows.iter().map(|window| window.polls.median_us).fold(0.0, f64::max);
    let nothing = Pauses::of_nothing(clock, order.window, LONG_US - median_us);
    Ok(Measurement { windows, nothing })
}

/// How many times as fast the director's time has to go where each of so many millions of packets per
/// second opens a connection.
fn churn_speed(case: Case, mpps: f64) -> f64 {
    let life = CHURN_SHARE * f64::from(case.flows) / (mpps * 1e6);
    CHURN_TIMEOUT.as_secs_f64() / life
}

/// A director that drops packets is fast, and not what is to be measured.
fn examine(case: Case, layout: WorkerLayout, window: &Window) -> anyhow::Result<()> {
    let Window { packets, sent, drops, opened, handed_over, .. } = window;
    ensure!(*packets > 0, "no packet came");
    // A source that never pauses fills the ring to the slower of two workers.
    let is_expected = |reason: &str| {
        layout == WorkerLayout::OneQueue && reason == DropReason::WorkerRingFull.as_str()
    };
    let unexpected: Vec<_> = drops.iter().filter(|(reason, _)| !is_expected(reason)).collect();
    ensure!(unexpected.is_empty(), "packets were dropped: {unexpected:?}");
    let steers = layout == WorkerLayout::OneQueue;
    ensure!(steers || sent >= packets, "{packets} packets came, and {sent} left");
    ensure!(steers == (*handed_over > 0), "{layout}: {handed_over} packets were handed over");
    if case.is_established() {
        ensure!(*opened == 0, "{opened} connections were opened where all were there");
    }
    Ok(())
}
