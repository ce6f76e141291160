//! Where a case is played: one EAL for all, and for each case two net_pcap devices of its own, a
//! director on them, and a clock.
//!
//! net_pcap hands out as many frames per poll as are asked for: 32, and more when the file has more.
//! So each poll's share is filled up to 32 frames with padding: frames to nobody, which the director
//! counts as `not-for-us`. Behind the last frame of a side's script there is none.
//!
//! The devices get their Ethernet addresses from DPDK, in the order in which they are made. Cases
//! name fixed ones, which are exchanged for the real ones on the way in and back on the way out.

use std::{
    fs,
    path::Path,
    sync::{
        Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    thread,
};

use shunt_config::Config;
use shunt_dataplane::{DirectorParts, PipelineCounters, Report, Worker, open_pool};
use shunt_dpdk::{BURST, Eal, Mempool};
use shunt_nat::{Instant, Side};
use shunt_testkit::{ethernet, mac, pcap};

use crate::{
    case::Step,
    layout::WorkerLayout,
    network::{Frame, INSIDE_MAC, OUTSIDE_MAC, VIP},
};

const SIDES: [Side; 2] = [Side::Outside, Side::Inside];
/// Turns in which a frame gets through all workers: from the one that receives it to that of its
/// address, to its owner, to the one that sends it.
const HOPS: usize = 4;

const NOBODY: [u8; 6] = [0x02, 0xff, 0xff, 0xff, 0xff, 0xff];

/// A stretch of a script in which the director is polled at one time.
struct Moment {
    /// The step that it is a part of.
    step: usize,
    now: Instant,
    /// What the director is told before.
    change: Option<Change>,
    polls: usize,
    /// With the queues that they come by.
    arrivals: Vec<(usize, Frame)>,
}

/// Another configuration.
#[derive(Clone, Debug)]
pub(crate) struct Change {
    /// The outside port's address.
    pub(crate) outside: &'static str,
    /// More keys in the table `[nat]`.
    pub(crate) nat_keys: &'static str,
    /// All but ports and `[nat]`.
    pub(crate) rules: String,
}

/// What is in the files, and when to poll.
pub(crate) struct Script {
    layout: WorkerLayout,
    /// By side and queue.
    files: [Vec<Vec<Vec<u8>>>; 2],
    padding: u64,
    moments: Vec<Moment>,
    prelude: usize,
}

impl Script {
    /// The first `prelude` steps don't count.
    pub(crate) fn new(steps: &[Step], prelude: usize, layout: WorkerLayout) -> Script {
        let moments = moments(steps, layout);
        let mut script = Script { layout, files: Default::default(), padding: 0, moments, prelude };
        for side in SIDES {
            for queue in 0..layout.queues {
                let (file, padding) = file(&script.moments, side, queue);
                script.files[side as usize].push(file);
                script.padding += padding;
            }
        }
        script
    }

    /// Frames that fill up the polls.
    pub(crate) fn padding(&self) -> u64 {
        self.padding
    }

    /// Frames in all files.
    pub(crate) fn frames(&self) -> u64 {
        self.files.iter().flatten().flatten().count() as u64
    }

    /// Bytes of these frames.
    pub(crate) fn bytes(&self) -> u64 {
        self.files.iter().flatten().flatten().map(|frame| frame.len() as u64).sum()
    }
}

/// When to poll, and what arrives meanwhile. What arrives in one step may do so in one poll; but where
/// there are several workers, each frame has time to get through all of them before the next.
fn moments(steps: &[Step], layout: WorkerLayout) -> Vec<Moment> {
    let mut moments = Vec::new();
    let mut now = Instant::default();
    let card = layout.card();
    for (step, Step { wait, arrivals, change, .. }) in steps.iter().enumerate() {
        now = Instant::from_millis(now.as_millis() + wait.as_millis() as u64);
        let arrivals = arrivals.iter().map(|frame| (card.queue(frame), frame.clone()));
        let mut moment = Moment { step, now, change: change.clone(), polls: 1, arrivals: vec![] };
        if layout.workers == 1 {
            moment.arrivals = arrivals.collect();
            let on = |side| moment.arrivals.iter().filter(|(_, frame)| frame.side == side).count();
            moment.polls = on(Side::Outside).max(on(Side::Inside)).div_ceil(BURST).max(1);
            moments.push(moment);
            continue;
        }
        moment.polls = HOPS;
        let mut arrivals: Vec<_> = arrivals.collect();
        arrivals.sort_by_key(|(_, frame)| frame.side as usize);
        let mut arrivals = arrivals.into_iter();
        moment.arrivals.extend(arrivals.next());
        moments.push(moment);
        moments.extend(arrivals.map(|arrival| Moment {
            step,
            now,
            change: None,
            polls: HOPS,
            arrivals: vec![arrival],
        }));
    }
    moments
}

/// The content of one queue's file, and how much of it is padding.
fn file(moments: &[Moment], side: Side, queue: usize) -> (Vec<Vec<u8>>, u64) {
    let (mut frames, mut padding) = (Vec::new(), 0);
    let here = |moment: &Moment| -> Vec<Vec<u8>> {
        let arrivals = moment.arrivals.iter();
        let here = arrivals.filter(|(by, frame)| frame.side == side && *by == queue);
        here.map(|(_, frame)| frame.bytes.clone()).collect()
    };
    let last = moments.iter().rposition(|moment| !here(moment).is_empty());
    for (number, moment) in moments.iter().enumerate() {
        let arrivals = here(moment);
        let missing = moment.polls * BURST - arrivals.len();
        frames.extend(arrivals);
        if last.is_some_and(|last| number < last) {
            frames.extend(std::iter::repeat_n(ethernet(mac(0), NOBODY, 0x0800, &[]), missing));
            padding += missing as u64;
        }
    }
    (frames, padding)
}

/// What a director is set up with.
#[derive(Debug)]
pub(crate) struct Setup {
    /// More keys in the tables of both ports.
    pub(crate) port_keys: &'static str,
    /// By side.
    pub(crate) mtus: [u16; 2],
    /// More keys in the table `[nat]`.
    pub(crate) nat_keys: &'static str,
    /// The rest of the service file.
    pub(crate) rules: String,
    pub(crate) mbufs: u32,
}

impl Setup {
    pub(crate) fn new(rules: &str) -> Setup {
        Setup {
            port_keys: "",
            mtus: [1500, 1400],
            nat_keys: "",
            rules: rules.to_owned(),
            mbufs: 256,
        }
    }
}

/// What became of a script.
pub(crate) struct Outcome {
    /// What left, by step.
    pub(crate) departures: Vec<Vec<Frame>>,
    /// What the pipeline counted after the prelude.
    pub(crate) pipeline: PipelineCounters,
    /// Packets that waited for a neighbour at the end.
    pub(crate) held: usize,
    pub(crate) report: Report,
}

impl Outcome {
    pub(crate) fn frames_left(&self) -> u64 {
        self.departures.iter().flatten().count() as u64
    }

    pub(crate) fn bytes_left(&self) -> u64 {
        self.departures.iter().flatten().map(|frame| frame.bytes.len() as u64).sum()
    }
}

/// Runs a director through a script.
pub(crate) fn play(script: &Script, setup: &Setup) -> Outcome {
    static DEVICES: AtomicU32 = AtomicU32::new(0);
    let number = DEVICES.fetch_add(1, Ordering::Relaxed);
    let directory = tempfile::tempdir().expect("a temporary directory");
    let layout = script.layout;
    let file = |side: Side, what: &str, queue: usize| {
        directory.path().join(format!("{what}-{side:?}-{queue}.pcap"))
    };
    let name = |side: Side| format!("net_pcap_{side:?}_{number}");
    let devargs = SIDES.map(|side| {
        let queue = |queue| {
            let (rx, tx) = (file(side, "rx", queue), file(side, "tx", queue));
            format!(",rx_pcap={},tx_pcap={}", rx.display(), tx.display())
        };
        name(side) + &(0..layout.queues).map(queue).collect::<String>()
    });
    for side in SIDES {
        (0..layout.queues).for_each(|queue| pcap::write(&file(side, "rx", queue), &[]));
        eal().attach_vdev(&devargs[side as usize]).expect("a net_pcap device");
    }
    let nat_keys = setup.nat_keys;
    let at_start = Change { outside: VIP, nat_keys, rules: setup.rules.clone() };
    let service_file = |change: &Change| service_file(&devargs, setup, change, layout);
    let mut config = Config::parse("golden.toml", &service_file(&at_start))
        .unwrap_or_else(|errors| panic!("{errors}"));
    // Fewer than a service file can have: pools live as long as EAL, and there are many cases.
    let mut with_few = config.clone();
    with_few.dpdk.mbufs = setup.mbufs;
    let pool = Spares::take(&with_few);
    let mut director =
        DirectorParts::open_with(eal(), &with_few, pool.clone()).expect("a director");

    // net_pcap has read no more than the header of each file yet.
    let exchange = Exchange { real: director.workers()[0].macs().map(|mac| mac.0) };
    for side in SIDES {
        for (queue, frames) in script.files[side as usize].iter().enumerate() {
            let frames: Vec<_> = frames.iter().map(|frame| exchange.inward(frame)).collect();
            overwrite(&file(side, "rx", queue), &frames);
        }
    }

    let mut sent = Vec::new();
    let mut before = None;
    for moment in &script.moments {
        if moment.step == script.prelude {
            before.get_or_insert_with(|| counters(director.workers()));
        }
        if let Some(change) = &moment.change {
            config = config
                .parse_change("changed.toml", &service_file(change))
                .unwrap_or_else(|errors| panic!("{errors}"));
            director.apply(moment.now, &config).expect("rules that an engine can run");
        }
        for _ in 0..moment.polls {
            director.poll(moment.now);
        }
        sent.push(director.workers().iter().map(tx_packets).collect::<Vec<_>>());
    }
    let held = director.workers().iter().map(Worker::held).sum();
    let report = director.close(&config);
    Spares::put_back(&with_few, pool);
    let mut pipeline = report.pipeline;
    let before = before.unwrap_or_default();
    pipeline.arp_requests -= before.arp_requests;
    pipeline.arp_replies -= before.arp_replies;
    for side in SIDES {
        eal().detach_vdev(&name(side)).expect("a device that nobody uses");
    }

    let left = SIDES.map(|side| -> Vec<_> {
        (0..layout.queues).map(|queue| pcap::read(&file(side, "tx", queue))).collect()
    });
    let mut departures: Vec<Vec<Frame>> = Vec::new();
    let mut from = vec![[0, 0]; layout.workers];
    for (moment, to) in script.moments.iter().zip(sent) {
        departures.resize_with(moment.step + 1, Vec::new);
        for side in SIDES {
            for (queue, left) in left[side as usize].iter().enumerate() {
                let worker = layout.worker_at(side, queue);
                let range = from[worker][side as usize]..to[worker][side as usize];
                departures[moment.step].extend(
                    left[range].iter().map(|bytes| Frame { side, bytes: exchange.outward(bytes) }),
                );
            }
        }
        from = to;
    }
    Outcome { departures, pipeline, held, report }
}

/// Pools that no director uses. They live as long as EAL, which has no room for one for each case.
struct Spares;

/// A pool, and what it was made for: mbufs, and the ports' MTUs.
type Spare = ((u32, [u16; 2]), Mempool);

impl Spares {
    fn list() -> MutexGuard<'static, Vec<Spare>> {
        static SPARES: Mutex<Vec<Spare>> = Mutex::new(Vec::new());
        SPARES.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn purpose(config: &Config) -> (u32, [u16; 2]) {
        (config.dpdk.mbufs, [config.ports.outside.mtu, config.ports.inside.mtu])
    }

    fn take(config: &Config) -> Mempool {
        let mut spares = Spares::list();
        let fitting = spares.iter().position(|(made_for, _)| *made_for == Spares::purpose(config));
        match fitting {
            Some(place) => spares.swap_remove(place).1,
            None => open_pool(eal(), config).expect("a pool"),
        }
    }

    /// One that has lost mbufs is of no use to others.
    fn put_back(config: &Config, pool: Mempool) {
        if pool.in_use() == 0 {
            Spares::list().push((Spares::purpose(config), pool));
        }
    }
}

/// What all pipelines have counted.
fn counters(workers: &[Worker]) -> PipelineCounters {
    let mut sum = PipelineCounters::default();
    workers.iter().for_each(|worker| sum += worker.counters());
    sum
}

/// Frames that a worker has sent, by side.
fn tx_packets(worker: &Worker) -> [usize; 2] {
    worker.port_counters().map(|port| port.tx_packets as usize)
}
/// The fixed addresses of the cases for the devices' own, and back.
struct Exchange {
    real: [[u8; 6]; 2],
}

impl Exchange {
    const FIXED: [[u8; 6]; 2] = [OUTSIDE_MAC, INSIDE_MAC];

    fn inward(&self, frame: &[u8]) -> Vec<u8> {
        // Padding has none of these addresses, and there is a lot of it.
        if frame.starts_with(&NOBODY) {
            return frame.to_vec();
        }
        replace(frame, &Exchange::FIXED, &self.real)
    }

    fn outward(&self, frame: &[u8]) -> Vec<u8> {
        replace(frame, &self.real, &Exchange::FIXED)
    }
}

/// Puts one address in place of the other, wherever it is in the frame.
fn replace(frame: &[u8], from: &[[u8; 6]; 2], to: &[[u8; 6]; 2]) -> Vec<u8> {
    let mut frame = frame.to_vec();
    for at in 0..frame.len().saturating_sub(5) {
        if let Some(which) = from.iter().position(|mac| *mac == frame[at..at + 6]) {
            frame[at..at + 6].copy_from_slice(&to[which]);
        }
    }
    frame
}

/// Puts frames into a file that net_pcap has open.
fn overwrite(path: &Path, frames: &[Vec<u8>]) {
    let other = path.with_extension("new");
    pcap::write(&other, frames);
    fs::write(path, fs::read(&other).expect("the file just written")).expect("a pcap file");
}

fn service_file(
    [outside, inside]: &[String; 2],
    setup: &Setup,
    change: &Change,
    layout: WorkerLayout,
) -> String {
    let Setup { port_keys, mtus: [outside_mtu, inside_mtu], .. } = setup;
    let Change { outside: outside_address, nat_keys, rules } = change;
    let lcores: Vec<_> = (1..=layout.workers).collect();
    format!(
        r#"
        [dpdk]
        no-huge = true
        worker-lcores = {lcores:?}

        [[port]]
        name = "outside"
        role = "outside"
        device = "{outside}"
        addresses = ["{outside_address}/24"]
        mtu = {outside_mtu}
        rx-descriptors = 64
        tx-descriptors = 64
        {port_keys}

        [[port]]
        name = "inside"
        role = "inside"
        device = "{inside}"
        addresses = ["192.168.2.200/24"]
        mtu = {inside_mtu}
        rx-descriptors = 64
        tx-descriptors = 64
        {port_keys}

        [nat]
        connections = 1024
        {nat_keys}

        {rules}
        "#
    )
}

/// The EAL that all cases share: no root, no huge pages, no devices yet.
pub(crate) fn eal() -> &'static Eal {
    static EAL: OnceLock<Eal> = OnceLock::new();
    EAL.get_or_init(|| {
        let args = [
            "--no-huge",
            "--no-pci",
            "--no-shconf",
            "--no-telemetry",
            "--file-prefix=shunt-golden",
            "-m",
            "512",
        ];
        let cpu = format!("--lcores=0@{}", first_cpu());
        let args: Vec<String> = args.map(str::to_owned).into_iter().chain([cpu]).collect();
        // EAL pins the thread that starts it to a CPU: not one that runs cases.
        let start = move || Eal::init(&args).expect("EAL starts without root and huge pages");
        thread::spawn(start).join().expect("EAL starts")
    })
}

/// The first CPU that this process may use.
fn first_cpu() -> u32 {
    let status = fs::read_to_string("/proc/self/status").expect("procfs");
    let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    let first = list.and_then(|list| list.trim().split([',', '-']).next());
    first.and_then(|cpu| cpu.parse().ok()).expect("a CPU to run on")
}
