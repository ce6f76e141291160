//! How long a worker's turns take while its rules change.
//!
//! Workers are polled on an lcore of their own while the main lcore changes what they run, in a process of
//! its own: EAL starts once per process. Before and after, a loop that does nothing is measured on the
//! same lcore: what that sees, too, is the machine's.

use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::{Context, ensure};
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};
use shunt_config::Config;
use shunt_dataplane::{DirectorParts, Worker};
use shunt_dpdk::{Eal, LcoreId, clock::Tsc, launch};
use shunt_nat::Instant;
use shunt_rules::Change;

use crate::service_file::ServiceFile;

/// Turns are interrupted for longer than that, if at all.
const INTERRUPTION_US: u64 = 20;

/// Between two changes: a worker has its turns of expiry, neighbours and all else.
const PAUSE: Duration = Duration::from_millis(50);

/// What was measured of the turns of a loop, in microseconds.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Turns {
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    pub(crate) longest_us: f64,
    /// The longest during which the kernel ran nothing else on the CPU.
    pub(crate) longest_uninterrupted_us: f64,
}

/// What a process of its own has found.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Measurement {
    /// A loop that does nothing.
    pub(crate) idle: Turns,
    /// Workers whose rules stay.
    pub(crate) steady: Turns,
    /// Workers whose rules change.
    pub(crate) changing: Turns,
    /// Milliseconds that each change of one weight took, until all workers ran it, and those of them that
    /// the main lcore was on its CPU.
    pub(crate) weight_ms: Vec<(f64, f64)>,
    /// The same, of a change of many services.
    pub(crate) many_ms: Vec<(f64, f64)>,
}

/// What the lcore is doing.
const IDLE: u32 = 0;
const STEADY: u32 = 1;
const CHANGING: u32 = 2;
const END: u32 = 3;

/// Applies so many changes of one weight each, and then of `many` services at once, while workers are
/// polled.
pub(crate) fn measure(
    services: usize,
    workers: usize,
    many: usize,
    changes: usize,
) -> anyhow::Result<Measurement> {
    let file = ServiceFile::new(services, workers);
    let mut config = parse(&file)?;
    let prefix = format!("shunt-scale-{}", std::process::id());
    let eal = Eal::init(&config.eal_args(&prefix)).context("EAL did not start")?;
    let mut director = DirectorParts::open(&eal, &config)?;
    let clock = Clock::start();
    let phase = Arc::new(AtomicU32::new(IDLE));
    let taken = std::mem::take(director.workers());
    let polled = {
        let phase = Arc::clone(&phase);
        launch(LcoreId(1), move || poll(taken, clock, &phase)).context("no lcore for workers")?
    };
    thread::sleep(Duration::from_secs(2));
    phase.store(STEADY, Ordering::Relaxed);
    thread::sleep(Duration::from_secs(2));
    phase.store(CHANGING, Ordering::Relaxed);
    let mut weight_ms = Vec::new();
    for number in 0..changes {
        // One of a service with `wlc`, one of a service with `mh`, and so on.
        let service =
            &config.rules.services[number * (services - 1) / changes / 2 * 2 + number % 2];
        let server = shunt_rules::RealServer { weight: 7, ..service.servers[0] };
        let change = Change::EditServer { service: service.name.clone(), server };
        let (start, cpu) = (Tsc::now(), cpu_millis());
        let mut new = config.clone();
        new.rules.apply([change])?;
        new.rules.check(&new.network()).map_err(|problems| anyhow::anyhow!("{problems:?}"))?;
        director.apply(clock.now(), &new)?;
        weight_ms.push((clock.micros(Tsc::now() - start) / 1000.0, cpu_millis() - cpu));
        config = new;
        thread::sleep(PAUSE);
    }
    let mut many_ms = Vec::new();
    for _ in 0..3 {
        let mut other = file.clone();
        other.change_servers(many);
        for file in [&other, &file] {
            let new = parse(file)?;
            let (start, cpu) = (Tsc::now(), cpu_millis());
            director.apply(clock.now(), &new)?;
            many_ms.push((clock.micros(Tsc::now() - start) / 1000.0, cpu_millis() - cpu));
            config = new;
            thread::sleep(PAUSE);
        }
    }
    phase.store(END, Ordering::Relaxed);
    let (workers, [idle, steady, changing]) = polled.join();
    *director.workers() = workers;
    let report = director.close(&config);
    ensure!(report.mbufs.missing() == 0, "{} mbufs are missing", report.mbufs.missing());
    Ok(Measurement { idle, steady, changing, weight_ms, many_ms })
}

fn parse(file: &ServiceFile) -> anyhow::Result<Config> {
    Config::parse("scale.toml", &file.text()).map_err(|errors| anyhow::anyhow!("{errors}"))
}

/// Has workers take turns, and notes how long they take, by phase.
fn poll(mut workers: Vec<Worker>, clock: Clock, phase: &AtomicU32) -> (Vec<Worker>, [Turns; 3]) {
    let mut notes = [(); 3].map(|()| Notes::new(clock));
    loop {
        let phase = phase.load(Ordering::Relaxed);
        let Some(notes) = notes.get_mut(phase as usize) else { break };
        if phase == IDLE {
            let start = Tsc::now();
            notes.note(Tsc::now() - start);
            continue;
        }
        for worker in &mut workers {
            let start = Tsc::now();
            let now = clock.at(start);
            worker.poll(now);
            worker.read_mailbox(now);
            notes.note(Tsc::now() - start);
        }
    }
    (workers, notes.map(Notes::turns))
}

/// Takes note of turns.
struct Notes {
    clock: Clock,
    /// In nanoseconds.
    turns: Histogram<u64>,
    longest_uninterrupted: u64,
    switches: u64,
}

impl Notes {
    fn new(clock: Clock) -> Notes {
        // Up to ten seconds, with three digits.
        let turns = Histogram::new_with_bounds(1, 10_000_000_000, 3).expect("sound bounds");
        Notes { clock, turns, longest_uninterrupted: 0, switches: switches() }
    }

    fn note(&mut self, cycles: u64) {
        let nanos = (self.clock.micros(cycles) * 1000.0) as u64;
        self.turns.saturating_record(nanos.max(1));
        // An interrupted turn is a long one, so that only those need to be looked at.
        if nanos > INTERRUPTION_US * 1000 {
            let switches = switches();
            if std::mem::replace(&mut self.switches, switches) == switches {
                self.longest_uninterrupted = self.longest_uninterrupted.max(nanos);
            }
        }
    }

    fn turns(self) -> Turns {
        let micros = |nanos: u64| nanos as f64 / 1000.0;
        let quantile = |quantile| micros(self.turns.value_at_quantile(quantile));
        Turns {
            p50_us: quantile(0.5),
            p99_us: quantile(0.99),
            longest_us: micros(self.turns.max()),
            longest_uninterrupted_us: micros(self.longest_uninterrupted),
        }
    }
}

/// How long this thread has been on a CPU.
fn cpu_millis() -> f64 {
    let statistics = fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanos = statistics.split_whitespace().next().and_then(|nanos| nanos.parse().ok());
    nanos.unwrap_or(0.0) / 1e6
}

/// How often this thread was taken off its CPU so far.
fn switches() -> u64 {
    let status = fs::read_to_string("/proc/thread-self/status").unwrap_or_default();
    let counts = status.lines().filter(|line| line.contains("ctxt_switches"));
    counts.filter_map(|line| line.split_whitespace().last()?.parse::<u64>().ok()).sum()
}

/// Time by the time stamp counter.
#[derive(Clone, Copy)]
struct Clock {
    start: u64,
    cycles_per_second: u64,
}

impl Clock {
    /// EAL has to run.
    fn start() -> Clock {
        Clock { start: Tsc::now(), cycles_per_second: Tsc::hz().max(1) }
    }

    fn micros(self, cycles: u64) -> f64 {
        cycles as f64 * 1e6 / self.cycles_per_second as f64
    }

    fn now(self) -> Instant {
        self.at(Tsc::now())
    }

    fn at(self, tsc: u64) -> Instant {
        Instant::from_millis((tsc - self.start) / (self.cycles_per_second / 1000).max(1))
    }
}
