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
        OnceLock,
        atomic::{AtomicU32, Ordering},
    },
    thread,
};

use shunt_config::Config;
use shunt_dataplane::{Assembly, PipelineCounters, Report};
use shunt_dpdk::{BURST, Eal};
use shunt_nat::{Instant, Side};
use shunt_testkit::{ethernet, mac, pcap};

use crate::{
    case::Step,
    network::{Frame, INSIDE_MAC, OUTSIDE_MAC, VIP},
};

const SIDES: [Side; 2] = [Side::Outside, Side::Inside];
const NOBODY: [u8; 6] = [0x02, 0xff, 0xff, 0xff, 0xff, 0xff];

/// What is in the files, and when to poll.
pub(crate) struct Script {
    files: [Vec<Vec<u8>>; 2],
    padding: u64,
    turns: Vec<Turn>,
    prelude: usize,
}

/// What is done in a step.
struct Turn {
    now: Instant,
    change: Option<Change>,
    polls: usize,
}

/// Another configuration.
#[derive(Clone, Debug)]
pub(crate) struct Change {
    /// The outside port's address.
    pub(crate) outside: &'static str,
    /// All but ports and `[nat]`.
    pub(crate) rules: String,
}

impl Script {
    /// The first `prelude` steps don't count.
    pub(crate) fn new(steps: &[Step], prelude: usize) -> Script {
        let mut script =
            Script { files: Default::default(), padding: 0, turns: Vec::new(), prelude };
        let mut now = 0;
        for (number, step) in steps.iter().enumerate() {
            now += step.wait.as_millis() as u64;
            let on = |step: &Step, side| -> Vec<Vec<u8>> {
                let frames = step.arrivals.iter().filter(|frame| frame.side == side);
                frames.map(|frame| frame.bytes.clone()).collect()
            };
            let longest = SIDES.iter().map(|side| on(step, *side).len()).max().unwrap_or_default();
            let polls = longest.div_ceil(BURST).max(1);
            for side in SIDES {
                let mut frames = on(step, side);
                if steps[number + 1..].iter().any(|later| !on(later, side).is_empty()) {
                    script.padding += (polls * BURST - frames.len()) as u64;
                    frames.resize(polls * BURST, ethernet(mac(0), NOBODY, 0x0800, &[]));
                }
                script.files[side as usize].extend(frames);
            }
            let (now, change) = (Instant::from_millis(now), step.change.clone());
            script.turns.push(Turn { now, change, polls });
        }
        script
    }

    /// Frames that fill up the polls.
    pub(crate) fn padding(&self) -> u64 {
        self.padding
    }

    /// Frames in both files.
    pub(crate) fn frames(&self) -> u64 {
        self.files.iter().flatten().count() as u64
    }

    /// Bytes of these frames.
    pub(crate) fn bytes(&self) -> u64 {
        self.files.iter().flatten().map(|frame| frame.len() as u64).sum()
    }
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
    let file = |side: Side, what: &str| directory.path().join(format!("{what}-{side:?}.pcap"));
    let name = |side: Side| format!("net_pcap_{side:?}_{number}");
    let devargs = SIDES.map(|side| {
        let (rx, tx) = (file(side, "rx"), file(side, "tx"));
        format!("{},rx_pcap={},tx_pcap={}", name(side), rx.display(), tx.display())
    });
    for side in SIDES {
        pcap::write(&file(side, "rx"), &[]);
        eal().attach_vdev(&devargs[side as usize]).expect("a net_pcap device");
    }
    let at_start = Change { outside: VIP, rules: setup.rules.clone() };
    let mut config = Config::parse("golden.toml", &service_file(&devargs, setup, &at_start))
        .unwrap_or_else(|errors| panic!("{errors}"));
    // Fewer than a service file can have: pools live as long as EAL, and there are many cases.
    let mut with_few = config.clone();
    with_few.dpdk.mbufs = setup.mbufs;
    let mut director = Assembly::open(eal(), &with_few).expect("a director");

    // net_pcap has read no more than the header of each file yet.
    let exchange = Exchange { real: director.workers()[0].macs().map(|mac| mac.0) };
    for side in SIDES {
        let frames: Vec<_> =
            script.files[side as usize].iter().map(|frame| exchange.inward(frame)).collect();
        overwrite(&file(side, "rx"), &frames);
    }

    let mut sent = Vec::new();
    let mut before = PipelineCounters::default();
    for (step, Turn { now, change, polls }) in script.turns.iter().enumerate() {
        if step == script.prelude {
            before = *director.workers()[0].counters();
        }
        if let Some(change) = change {
            config = config
                .parse_change("changed.toml", &service_file(&devargs, setup, change))
                .unwrap_or_else(|errors| panic!("{errors}"));
            director.apply(*now, &config);
        }
        for _ in 0..*polls {
            director.poll(*now);
        }
        sent.push(director.workers()[0].port_counters().map(|port| port.tx_packets as usize));
    }
    let held = director.workers()[0].held();
    let report = director.close(&config);
    let mut pipeline = report.pipeline;
    pipeline.arp_requests -= before.arp_requests;
    pipeline.arp_replies -= before.arp_replies;
    for side in SIDES {
        eal().detach_vdev(&name(side)).expect("a device that nobody uses");
    }

    let left = SIDES.map(|side| pcap::read(&file(side, "tx")));
    let mut from = [0, 0];
    let departures = sent.into_iter().map(|to| {
        let range = |side: Side| from[side as usize]..to[side as usize];
        let frames = SIDES.iter().flat_map(|side| {
            let bytes = left[*side as usize][range(*side)].iter();
            bytes.map(|bytes| Frame { side: *side, bytes: exchange.outward(bytes) })
        });
        let frames = frames.collect();
        from = to;
        frames
    });
    Outcome { departures: departures.collect(), pipeline, held, report }
}

/// The fixed addresses of the cases for the devices' own, and back.
struct Exchange {
    real: [[u8; 6]; 2],
}

impl Exchange {
    const FIXED: [[u8; 6]; 2] = [OUTSIDE_MAC, INSIDE_MAC];

    fn inward(&self, frame: &[u8]) -> Vec<u8> {
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

fn service_file([outside, inside]: &[String; 2], setup: &Setup, change: &Change) -> String {
    let Setup { port_keys, mtus: [outside_mtu, inside_mtu], nat_keys, .. } = setup;
    let Change { outside: outside_address, rules } = change;
    format!(
        r#"
        [dpdk]
        no-huge = true

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
fn eal() -> &'static Eal {
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
