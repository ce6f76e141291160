//! How long commands of the main lcore's hold up a worker that passes packets on: listing, counting and
//! killing connections of a full table, and replacing the rules.
//!
//! There are two services with half a million TCP connections each. Packets come for those of the one;
//! those of the other are killed in the end. The worker takes the turns that it takes in operation, the
//! main lcore asks as it does there, and each turn is timed.
//!
//! Where other programs get at the worker's core, the kernel tells for how long it had to wait. That is
//! taken from a turn; what interrupts and a hypervisor take is not, and an idle loop shows how much.

use std::{
    fmt, fs,
    sync::{
        Arc, Barrier,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use serde::{Deserialize, Serialize};
use shunt_config::{Config, Idle};
use shunt_dataplane::{ConnectionWalk, DirectorParts, Worker};
use shunt_dpdk::{Eal, LcoreId, clock::Tsc, launch};
use shunt_nat::{ConnectionFilter, Direction, Side};

use crate::{
    case::{Case, Load, Mode, Protocol},
    clock::Clock,
    pauses::{LONG_US, Pauses, Turns},
    service_file::{self, Wanted},
    setup,
    stats::median,
    traffic,
    worker_layout::WorkerLayout,
};

/// The traffic: that of half of the connections.
pub(crate) const CASE: Case =
    Case { protocol: Protocol::Tcp, mode: Mode::Nat, load: Load::Forward, flows: 1 << 19 };

/// The port of the service whose connections are killed.
const OTHER_PORT: u16 = 443;

/// How often rules are replaced.
const CHANGES: u32 = 50;

/// Turns that take so long, in microseconds, are looked at more closely.
const SUSPICIOUS_US: f64 = 30.0;

/// What a process is to measure.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Order {
    pub(crate) wanted: Wanted,
    /// How often idling, passing packets on, and being asked meanwhile are measured, in turns.
    pub(crate) rounds: u32,
    pub(crate) window: Duration,
}

/// What the worker's core does for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Work {
    /// Nothing but reading the clock.
    Idle,
    /// Passes packets on, and nobody asks.
    Alone,
    /// Is asked for all connections meanwhile, over and over.
    Listed,
    /// Is asked how many there are.
    Counted,
    /// Gets other rules.
    Replaced,
    /// Ends half of the connections.
    Killed,
}

impl Work {
    /// As it is printed.
    fn name(self) -> &'static str {
        match self {
            Work::Idle => "idle loop",
            Work::Alone => "packets alone",
            Work::Listed => "listed",
            Work::Counted => "counted",
            Work::Replaced => "rules replaced",
            Work::Killed => "killed",
        }
    }
}

/// A stretch of time on the worker's core.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Stretch {
    work: Work,
    /// Millions of packets sent per second that the worker had its core.
    mpps: f64,
    /// All turns.
    turns: Pauses,
    /// How many commands were obeyed.
    commands: u64,
    /// The turns in which one was.
    obeying: Pauses,
}

/// What was found.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Commands {
    stretches: Vec<Stretch>,
    connections: u64,
    /// Seconds from asking for the first page to having the last.
    walks: Vec<f64>,
    /// Seconds that counting all connections took, each time.
    counts: Vec<f64>,
    killed: u64,
    /// Seconds that killing took.
    killing: f64,
}

impl Commands {
    fn of(&self, work: Work) -> impl Iterator<Item = &Stretch> {
        self.stretches.iter().filter(move |stretch| stretch.work == work)
    }

    fn commands(&self) -> impl Iterator<Item = &Stretch> {
        self.stretches.iter().filter(|stretch| stretch.commands > 0)
    }

    fn mpps(&self, work: Work) -> Option<f64> {
        median(self.of(work).map(|stretch| stretch.mpps))
    }

    /// By how much the longest turn with a command exceeded the longest of an idle loop.
    pub(crate) fn beyond_idle_us(&self) -> f64 {
        let longest = self.commands().map(|stretch| stretch.obeying.longest_us).fold(0.0, f64::max);
        let idle = self.of(Work::Idle).map(|stretch| stretch.turns.longest_us).fold(0.0, f64::max);
        (longest - idle).max(0.0)
    }

    /// The packets that went through while connections were listed, against those when nobody asked.
    pub(crate) fn share_while_listed(&self) -> Option<f64> {
        Some(self.mpps(Work::Listed)? / self.mpps(Work::Alone)?)
    }
}

impl fmt::Display for Commands {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:16} {:>8} {:>10} {:>7} {:>7} {:>8} {:>14}",
            "turns, µs", "Mpps", "number", "p50", "p99", "longest", "over 100 µs/s"
        )?;
        let line = |f: &mut fmt::Formatter<'_>, stretch: &Stretch, is_obeying: bool| {
            let (pauses, number) = if is_obeying {
                (stretch.obeying, stretch.commands.to_string())
            } else {
                (stretch.turns, "all".to_owned())
            };
            let Pauses { longest_us, long_per_second, median_us, p99_us } = pauses;
            writeln!(
                f,
                "{:16} {:>8.2} {number:>10} {median_us:>7.0} {p99_us:>7.0} {longest_us:>8.0} {long_per_second:>14.1}",
                stretch.work.name(),
                stretch.mpps,
            )
        };
        for stretch in &self.stretches {
            line(f, stretch, stretch.commands > 0)?;
        }
        let milliseconds =
            |seconds: &[f64]| median(seconds.iter().copied()).unwrap_or_default() * 1e3;
        write!(
            f,
            "{} connections listed in {:.0} ms, counted in {:.0} ms; {} killed in {:.0} ms; {:.1} % of the \
             packets went through while they were listed",
            self.connections,
            milliseconds(&self.walks),
            milliseconds(&self.counts),
            self.killed,
            self.killing * 1e3,
            100.0 * self.share_while_listed().unwrap_or_default(),
        )
    }
}

/// Starts a director, opens a million connections, and measures.
pub(crate) fn measure(order: &Order) -> anyhow::Result<Commands> {
    let rules = [1, 2].map(|weight| text(&order.wanted, weight));
    let mut config = service_file::parse(&rules[0])?;
    let prefix = format!("shunt-bench-{}", std::process::id());
    let eal = Eal::init(&config.eal_args(&prefix)).context("EAL did not start")?;
    let mut director = DirectorParts::open(&eal, &config)?;
    let clock = Clock::start();
    setup::set_up(director.workers(), CASE, WorkerLayout::Alone, clock)?;
    let mut worker = director.workers().pop().context("no worker")?;
    establish_others(&mut worker, clock)?;

    let program = Arc::new(Program::default());
    // EAL's lcore 0 is the main one.
    let lcore = {
        let program = Arc::clone(&program);
        launch(LcoreId(1), move || {
            let stretches = program.carry_out(&mut worker, clock);
            (worker, stretches)
        })
    };
    let lcore = lcore.context("the worker's lcore did not start")?;
    let found = conduct(order, &program, &mut director, &mut config, &rules, clock);
    program.end();
    let (worker, stretches) = lcore.join();
    director.workers().push(worker);
    let report = director.close(&config);
    ensure!(report.mbufs.missing() == 0, "mbufs are missing:\n{report}");
    Ok(Commands { stretches: stretches?, ..found? })
}

/// The service file, with the second service's first server of such a weight.
fn text(wanted: &Wanted, weight: u16) -> String {
    let (vip, server) = (traffic::VIP.ip(), traffic::SERVERS[0]);
    let other = traffic::SERVERS[1];
    format!(
        r#"{}
        [[service]]
        protocol = "tcp"
        vip = "{vip}:{OTHER_PORT}"
        scheduler = "rr"
        server = [{{ address = "{server}", weight = {weight} }}, {{ address = "{other}" }}]
        "#,
        service_file::text(wanted, Idle::Spin)
    )
}

/// Opens as many connections of the second service as there are of the first.
fn establish_others(worker: &mut Worker, clock: Clock) -> anyhow::Result<()> {
    for number in 0..CASE.flows {
        let opener = traffic::opener_at(CASE, number, OTHER_PORT);
        setup::inject(worker, clock, Side::Outside, &opener)?;
    }
    let connections = worker.engine().table().iter();
    let keys = connections
        .map(|connection| [Direction::Inbound, Direction::Outbound].map(|d| connection.key(d)));
    let keys: Vec<_> = keys.filter(|[inbound, _]| inbound.dst().port() == OTHER_PORT).collect();
    ensure!(keys.len() == CASE.flows as usize, "only {} connections were opened", keys.len());
    for keys in keys {
        let [confirmation, answer] = traffic::exchange(CASE, keys);
        setup::inject(worker, clock, Side::Inside, &answer)?;
        setup::inject(worker, clock, Side::Outside, &confirmation)?;
    }
    Ok(())
}

/// What the worker's core is to do, one after the other.
struct Program {
    /// The number of the present work, [`Program::END`] at the end.
    number: AtomicUsize,
    works: [Work; 6],
    /// Whether the present work is to end.
    is_over: AtomicBool,
    /// Where both meet before each, and after it.
    meeting: Barrier,
}

impl Default for Program {
    fn default() -> Program {
        use Work::*;
        Program {
            number: AtomicUsize::new(Program::END),
            works: [Idle, Alone, Listed, Counted, Replaced, Killed],
            is_over: AtomicBool::new(false),
            meeting: Barrier::new(2),
        }
    }
}

impl Program {
    const END: usize = usize::MAX;

    /// Has the worker do that as long as `meanwhile` takes.
    fn during<T>(&self, work: Work, meanwhile: impl FnOnce() -> T) -> T {
        let number = self.works.iter().position(|other| *other == work);
        self.number.store(number.unwrap_or(Program::END), Ordering::Relaxed);
        self.is_over.store(false, Ordering::Relaxed);
        self.meeting.wait();
        let found = meanwhile();
        self.is_over.store(true, Ordering::Relaxed);
        self.meeting.wait();
        found
    }

    /// Has the worker come back.
    fn end(&self) {
        self.number.store(Program::END, Ordering::Relaxed);
        self.meeting.wait();
    }

    /// The worker's side.
    fn carry_out(&self, worker: &mut Worker, clock: Clock) -> anyhow::Result<Vec<Stretch>> {
        let mut stretches = Vec::new();
        let mut outcome = Ok(());
        loop {
            self.meeting.wait();
            let Some(work) = self.works.get(self.number.load(Ordering::Relaxed)) else {
                return outcome.map(|()| stretches);
            };
            // Nobody answers ARP but us, and time goes by.
            outcome = outcome.and(setup::meet_neighbours(worker, clock));
            let is_over = || self.is_over.load(Ordering::Relaxed);
            stretches.push(match work {
                Work::Idle => stretch(*work, clock, is_over, |_| false, || 0),
                _ => run(*work, worker, clock, is_over),
            });
            self.meeting.wait();
        }
    }
}

/// Has a worker take turns.
fn run(work: Work, worker: &mut Worker, clock: Clock, is_over: impl Fn() -> bool) -> Stretch {
    let monitor = worker.monitor();
    let sent = || monitor.status().ports.iter().map(|port| port.tx_packets).sum();
    stretch(work, clock, is_over, |now| worker.poll_and_obey(clock.at(now)).1, sent)
}

/// Takes turns, which say whether a command was obeyed.
fn stretch(
    work: Work,
    clock: Clock,
    is_over: impl Fn() -> bool,
    mut turn: impl FnMut(u64) -> bool,
    sent: impl Fn() -> u64,
) -> Stretch {
    let (mut turns, mut obeying) = (Turns::new(clock, LONG_US), Turns::new(clock, LONG_US));
    let suspicious = (SUSPICIOUS_US * 1e-6 / clock.seconds(1)) as u64;
    let (mut commands, sent_before) = (0, sent());
    let (on_core_before, mut waited) = schedule();
    let mut total = 0;
    let mut last = Tsc::now();
    while !is_over() {
        let obeyed = turn(last);
        let mut now = Tsc::now();
        let mut length = now - last;
        if length > suspicious {
            let (_, waited_now) = schedule();
            let waited_cycles = ((waited_now - waited) * 1e-9 / clock.seconds(1)) as u64;
            length = length.saturating_sub(waited_cycles);
            (waited, now) = (waited_now, Tsc::now());
        }
        turns.note(length);
        total += length;
        if obeyed {
            obeying.note(length);
            commands += 1;
        }
        last = now;
    }
    let (on_core, _) = schedule();
    let seconds = (on_core - on_core_before) * 1e-9;
    Stretch {
        work,
        mpps: (sent() - sent_before) as f64 / seconds / 1e6,
        turns: turns.pauses(clock, total.max(1)),
        commands,
        obeying: obeying.pauses(clock, total.max(1)),
    }
}

/// Nanoseconds that this thread has had a core, and that it has waited for one although it could run.
fn schedule() -> (f64, f64) {
    let statistics = fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let mut numbers = statistics.split_whitespace().map(|number| number.parse().unwrap_or(0.0));
    (numbers.next().unwrap_or(0.0), numbers.next().unwrap_or(0.0))
}

/// The main lcore's side.
fn conduct(
    order: &Order,
    program: &Program,
    director: &mut DirectorParts,
    config: &mut Config,
    rules: &[String; 2],
    clock: Clock,
) -> anyhow::Result<Commands> {
    let mut found = Commands {
        stretches: vec![],
        connections: 0,
        walks: vec![],
        counts: vec![],
        killed: 0,
        killing: 0.0,
    };
    let all = ConnectionFilter::default();
    let expected = 2 * u64::from(CASE.flows);
    for _ in 0..order.rounds {
        program.during(Work::Idle, || sleep(order.window));
        program.during(Work::Alone, || sleep(order.window));
        program.during(Work::Listed, || {
            let start = Instant::now();
            while start.elapsed() < order.window {
                let (seconds, count) = walk(director)?;
                ensure!(count == expected, "{count} of {expected} connections were listed");
                found.walks.push(seconds);
            }
            Ok(())
        })?;
        program.during(Work::Counted, || {
            let start = Instant::now();
            while start.elapsed() < order.window / 2 {
                let counting = Instant::now();
                found.connections = director.control().count_connections(&all)?;
                found.counts.push(counting.elapsed().as_secs_f64());
            }
            anyhow::Ok(())
        })?;
        ensure!(found.connections == expected, "{} were counted", found.connections);
        program.during(Work::Replaced, || {
            for change in 1..=CHANGES {
                *config = config
                    .parse_change("bench.toml", &rules[change as usize % rules.len()])
                    .map_err(|errors| anyhow::anyhow!("{errors}"))?;
                director.apply(clock.at(Tsc::now()), config)?;
            }
            anyhow::Ok(())
        })?;
    }
    let port = format!(":{OTHER_PORT}");
    let control = director.control();
    let other = control.services().find(|service| service.rules.to_string().ends_with(&port));
    let filter = ConnectionFilter { service: Some(other.context("no service")?.id), ..all };
    program.during(Work::Killed, || {
        let start = Instant::now();
        found.killed = control.kill_connections(&filter)?;
        found.killing = start.elapsed().as_secs_f64();
        anyhow::Ok(())
    })?;
    ensure!(found.killed == u64::from(CASE.flows), "{} were killed", found.killed);
    let left = program.during(Work::Counted, || control.count_connections(&all))?;
    ensure!(left == u64::from(CASE.flows), "{left} are left");
    program.during(Work::Idle, || sleep(order.window));
    Ok(found)
}

/// Seconds from asking for the first page to having the last, and how many connections are on them.
fn walk(director: &DirectorParts) -> anyhow::Result<(f64, u64)> {
    let (start, mut count) = (Instant::now(), 0);
    let mut walk = ConnectionWalk::default();
    while let Some(page) = director.control().next_connections(&mut walk)? {
        count += page.len() as u64;
    }
    Ok((start.elapsed().as_secs_f64(), count))
}
