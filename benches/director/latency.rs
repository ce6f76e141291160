//! How long a packet takes through the director, when there are few of them and at half of what it
//! can do, and what it costs when there are none.
//!
//! A director runs as it does in operation, in a process of its own. It is joined to a generator by
//! two pairs of memif devices (shared memory). The generator writes the time into each datagram, sends
//! it to the service, and reads it when the datagram comes out on the servers' side. Both devices, and
//! the generator's turn, are part of what is measured.

use std::{
    fmt, fs,
    path::Path,
    process::Command,
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use serde::{Deserialize, Serialize};
use shunt_config::Idle;
use shunt_dpdk::{Eal, Mempool, MempoolConfig};

use crate::{
    case::{Case, Load, Mode, Protocol},
    generator::{Generator, Times},
    process::Running,
    service_file::{self, Wanted},
    traffic,
    worker_layout::WorkerLayout,
};

/// What latency is measured with.
pub(crate) const CASE: Case =
    Case { protocol: Protocol::Udp, mode: Mode::Nat, load: Load::Forward, flows: 1 << 10 };

/// MiB that the generator takes beside the director.
pub(crate) const GENERATOR_MIB: u32 = 128;

/// Packets per second when there are few: the next one finds an adaptive worker asleep.
const FEW: f64 = 1000.0;

/// The share of what goes through at most that is sent when there are many.
const LOAD: f64 = 0.5;

/// How long the generator tries what goes through at most.
const TRIAL: Duration = Duration::from_secs(1);

/// What a process is to measure.
#[derive(Serialize, Deserialize)]
pub(crate) struct Order {
    pub(crate) no_huge: bool,
    pub(crate) length: Duration,
}

/// What it found of one idle mode.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Latency {
    /// What the service file said.
    pub(crate) idle: String,
    /// The share of a CPU that the director took when no packet came.
    pub(crate) idle_cpu: f64,
    pub(crate) few: Times,
    /// What went through at most, in millions of packets per second.
    pub(crate) capacity: f64,
    pub(crate) many: Times,
}

impl Latency {
    /// Whether a worker without packets slept.
    pub(crate) fn is_adaptive(&self) -> bool {
        self.idle == Idle::Adaptive.to_string()
    }
}

impl fmt::Display for Latency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Latency { idle, idle_cpu, few, capacity, many } = self;
        write!(
            f,
            "idle = \"{idle}\": {:.1} % of a CPU without packets\n  a packet a millisecond: {few}\n  \
             {:.2} of at most {capacity:.2} Mpps: {many}",
            100.0 * idle_cpu,
            many.mpps,
        )
    }
}

/// Measures a director of each idle mode. Files and sockets go to `directory`.
pub(crate) fn measure(order: &Order, directory: &Path) -> anyhow::Result<Vec<Latency>> {
    let memory: &[&str] =
        if order.no_huge { &["--no-huge", "--no-shconf"] } else { &["--in-memory"] };
    let (mib, prefix) = (GENERATOR_MIB.to_string(), format!("generator-{}", std::process::id()));
    let own = ["--lcores", "0", "--no-pci", "--no-telemetry", "-m", &mib, "--file-prefix", &prefix];
    let args = [own.as_slice(), memory].concat();
    let eal = Eal::init(&args).context("EAL did not start")?;
    let pool = Mempool::new(&eal, &MempoolConfig::new("generator", 16_383))?;
    let modes = [Idle::Spin, Idle::Adaptive];
    modes.into_iter().map(|idle| measure_one(order, idle, directory, &eal, &pool)).collect()
}

fn measure_one(
    order: &Order,
    idle: Idle,
    directory: &Path,
    eal: &Eal,
    pool: &Mempool,
) -> anyhow::Result<Latency> {
    let device = |role: &str, number: usize, more: &str| {
        let socket = directory.join(format!("{idle}.sock"));
        let (id, socket) = (number % 2, socket.display());
        format!("net_memif{number},role={role},id={id},socket={socket},socket-abstract=no{more}")
    };
    let mac = |port: usize| {
        let bytes = traffic::MACS[port].map(|byte| format!("{byte:02x}"));
        format!(",mac={}", bytes.join(":"))
    };
    let devices = [0, 1].map(|port| device("server", port, &mac(port)));
    let wanted =
        Wanted { case: CASE, layout: WorkerLayout::Alone, devices, no_huge: order.no_huge };
    let file = directory.join(format!("{idle}.toml"));
    fs::write(&file, service_file::text(&wanted, idle))?;
    let mut director = Command::new(env!("CARGO_BIN_EXE_shunt"));
    let mut director = Running::start(director.args(["run", "--config"]).arg(&file))?;
    director.wait_for("director ready").context("the director did not start")?;
    // Devices of this process have names that were not taken before.
    let first = 2 * (1 + idle as usize);
    let ends = [first, first + 1].map(|number| device("client", number, ""));
    let mut generator = Generator::start(eal, pool, &ends)?;
    let (idle_cpu, few, capacity, many) = observe(&mut generator, &director, order.length)?;
    Ok(Latency { idle: idle.to_string(), idle_cpu, few, capacity, many })
}

fn observe(
    generator: &mut Generator,
    director: &Running,
    length: Duration,
) -> anyhow::Result<(f64, Times, f64, Times)> {
    generator.announce_neighbours()?;
    // Opens all connections.
    generator.run(FEW * 100.0, TRIAL / 4)?;
    let idle_cpu = cpu_share(director, length)?;
    let few = generator.run(FEW, length)?;
    // What is in the rings comes first.
    generator.run(f64::INFINITY, TRIAL / 4)?;
    let capacity = generator.run(f64::INFINITY, TRIAL)?.received_mpps();
    generator.run(capacity * 1e6 * LOAD, TRIAL / 4)?;
    let many = generator.run(capacity * 1e6 * LOAD, length)?;
    ensure!(few.received > 0 && many.received > 0, "no packet came through");
    Ok((idle_cpu, few, capacity, many))
}

/// The share of a CPU that a process takes.
fn cpu_share(process: &Running, length: Duration) -> anyhow::Result<f64> {
    let (before, start) = (process.cpu_time()?, Instant::now());
    sleep(length);
    let taken = process.cpu_time()?.saturating_sub(before);
    Ok(taken.as_secs_f64() / start.elapsed().as_secs_f64())
}
