//! How long a packet takes through the director at half of what it can do.
//!
//! A generator on the main lcore and the director on its own are joined by two pairs of memif devices
//! (shared memory). The generator writes the time into each datagram, sends it to the service, and
//! reads it when the datagram comes out on the servers' side. Both devices, and the generator's turn,
//! are part of what is measured.

use std::{
    fmt,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, ensure};
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};
use shunt_dataplane::Assembly;
use shunt_dpdk::{
    BURST, Burst, Eal, LcoreId, Mempool, MempoolConfig, Port, PortConfig, RxQueue, TxQueue,
    clock::Tsc, launch,
};

use crate::{
    case::{Case, Load, Mode, Protocol},
    service_file::{self, WORKER},
    throughput::Bench,
    traffic::{self, STAMP},
};

/// What latency is measured with.
pub(crate) const CASE: Case =
    Case { protocol: Protocol::Udp, mode: Mode::Nat, load: Load::Forward, flows: 1 << 10 };

/// The share of what goes through at most that is sent.
const LOAD: f64 = 0.5;

/// How long the generator tries what goes through at most.
const TRIAL: Duration = Duration::from_secs(1);

/// What a process is to measure.
#[derive(Serialize, Deserialize)]
pub(crate) struct Order {
    pub(crate) no_huge: bool,
    pub(crate) length: Duration,
}

/// What it found: times in microseconds, rates in millions of packets per second.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Latency {
    /// What went through at most.
    pub(crate) capacity: f64,
    /// What was sent.
    pub(crate) load: f64,
    pub(crate) received: u64,
    pub(crate) lost: u64,
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    pub(crate) p999: f64,
    pub(crate) longest: f64,
}

impl fmt::Display for Latency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Latency { capacity, load, received, lost, p50, p99, p999, longest } = self;
        write!(
            f,
            "latency over memif at {load:.2} of at most {capacity:.2} Mpps: p50 {p50:.1} µs, \
             p99 {p99:.1} µs, p99.9 {p999:.1} µs, longest {longest:.0} µs; {lost} of {} lost",
            received + lost
        )
    }
}

/// Starts a director between two devices, and measures. Sockets go to `directory`.
pub(crate) fn measure(order: &Order, directory: &Path) -> anyhow::Result<Latency> {
    let socket = directory.join("memif.sock");
    let device = |number: usize, role: &str, more: String| {
        let socket = socket.display();
        let id = number % 2;
        format!("net_memif{number},role={role},id={id},socket={socket},socket-abstract=no{more}")
    };
    let mac = |port: usize| {
        let bytes = traffic::MACS[port].map(|byte| format!("{byte:02x}"));
        format!(",mac={}", bytes.join(":"))
    };
    let devices = [0, 1].map(|port| device(port, "server", mac(port)));
    let config = service_file::config(CASE, &devices, order.no_huge)?;
    let prefix = format!("shunt-bench-{}", std::process::id());
    let eal = Eal::init(&config.eal_args(&prefix)).context("EAL did not start")?;
    let mut director = Assembly::open(&eal, &config)?;
    let mut generator =
        Generator::start(&eal, &[2, 3].map(|number| device(number, "client", String::new())))?;

    let mut bench = Bench::new(&mut director.workers()[0], CASE);
    bench.meet_neighbours()?;
    bench.establish()?;
    let clock = bench.clock;
    let stop = Arc::new(AtomicBool::new(false));
    let work = {
        let stop = Arc::clone(&stop);
        launch(LcoreId(WORKER.into()), move || {
            while !stop.load(Ordering::Relaxed) {
                director.workers()[0].poll(clock.at(Tsc::now()));
            }
            director
        })
    };
    let work = work.context("the worker's lcore did not start")?;
    let latency = generator.measure(order.length);
    stop.store(true, Ordering::Relaxed);
    let director = work.join();
    drop(generator);
    drop(director.close(&config));
    latency
}

/// Clients and servers in one.
struct Generator {
    tx: TxQueue,
    rx: RxQueue,
    pool: Mempool,
    frames: Vec<Vec<u8>>,
    next: usize,
    burst: Burst,
    /// They run as long as they live.
    _ports: [Port; 2],
}

/// A stretch of time.
struct Run {
    sent: u64,
    received: u64,
    seconds: f64,
    /// In cycles.
    times: Histogram<u64>,
}

impl Generator {
    fn start(eal: &Eal, devices: &[String; 2]) -> anyhow::Result<Generator> {
        let pool = Mempool::new(eal, &MempoolConfig::new("generator", 16_383))?;
        let open = |device: &String| {
            let id = eal.attach_vdev(device)?;
            Port::start(eal, id, &PortConfig::default(), &pool)
        };
        let (clients, _, tx) = open(&devices[0])?;
        let (servers, rx, _) = open(&devices[1])?;
        let ports = [clients, servers];
        // The devices of a pair find each other through the socket, in the background.
        let deadline = Tsc::now() + 5 * Tsc::hz();
        while !ports.iter().all(|port| port.link().up) {
            ensure!(Tsc::now() < deadline, "the memif devices don't find each other");
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(Generator {
            tx: tx.into_iter().next().context("a transmit queue")?,
            rx: rx.into_iter().next().context("a receive queue")?,
            pool,
            frames: traffic::stamped(CASE),
            next: 0,
            burst: Burst::new(),
            _ports: ports,
        })
    }

    fn measure(&mut self, length: Duration) -> anyhow::Result<Latency> {
        // What setting up has left in the rings comes first.
        self.run(f64::INFINITY, TRIAL / 4)?;
        let trial = self.run(f64::INFINITY, TRIAL)?;
        let capacity = trial.received as f64 / trial.seconds;
        self.run(capacity * LOAD, TRIAL / 4)?;
        let run = self.run(capacity * LOAD, length)?;
        ensure!(run.received > 0, "no packet came through");
        let micros = |cycles: u64| cycles as f64 * 1e6 / Tsc::hz() as f64;
        let quantile = |quantile| micros(run.times.value_at_quantile(quantile));
        Ok(Latency {
            capacity: capacity / 1e6,
            load: run.sent as f64 / run.seconds / 1e6,
            received: run.received,
            lost: run.sent.saturating_sub(run.received),
            p50: quantile(0.5),
            p99: quantile(0.99),
            p999: quantile(0.999),
            longest: micros(run.times.max()),
        })
    }

    /// Sends so many packets per second, evenly, and then waits for those that are on their way.
    fn run(&mut self, rate: f64, length: Duration) -> anyhow::Result<Run> {
        const GRACE: Duration = Duration::from_millis(20);
        let hz = Tsc::hz() as f64;
        let cycles = |time: Duration| (time.as_secs_f64() * hz) as u64;
        // Up to a second, within 0.1 %.
        let mut run = Run {
            sent: 0,
            received: 0,
            seconds: 0.0,
            times: Histogram::new_with_max(Tsc::hz(), 3)?,
        };
        let start = Tsc::now();
        let end = start + cycles(length);
        loop {
            let now = Tsc::now();
            if now < end {
                let due = (now - start) as f64 / hz * rate;
                let count = (due - run.sent as f64).clamp(0.0, BURST as f64) as usize;
                run.sent += self.send(count, now) as u64;
                run.seconds = (now - start) as f64 / hz;
            } else if now > end + cycles(GRACE) {
                return Ok(run);
            }
            self.receive(&mut run);
        }
    }

    /// Sends the next packets with the time in them; how many the device took.
    fn send(&mut self, count: usize, now: u64) -> usize {
        if count == 0 {
            return 0;
        }
        for _ in 0..count {
            let Some(mut mbuf) = self.pool.alloc() else { break };
            let frame = &self.frames[self.next];
            self.next = (self.next + 1) % self.frames.len();
            let Some(bytes) = mbuf.append(frame.len()) else { break };
            bytes.copy_from_slice(frame);
            bytes[STAMP].copy_from_slice(&now.to_ne_bytes());
            if self.burst.push(mbuf).is_err() {
                break;
            }
        }
        let sent = self.tx.send(&mut self.burst);
        self.burst.clear();
        sent
    }

    fn receive(&mut self, run: &mut Run) {
        self.rx.receive(&mut self.burst);
        if self.burst.is_empty() {
            return;
        }
        let now = Tsc::now();
        for mbuf in self.burst.drain() {
            // ARP comes, too, and what setting up has sent.
            let stamp = mbuf.data().get(STAMP).and_then(|bytes| bytes.try_into().ok());
            let stamp = stamp.map_or(0, u64::from_ne_bytes);
            if stamp != 0 && traffic::is_ipv4(mbuf.data()) {
                run.received += 1;
                run.times.saturating_record(now.saturating_sub(stamp));
            }
        }
    }
}
