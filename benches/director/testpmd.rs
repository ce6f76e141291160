//! testpmd on the same devices: what the replay itself costs, and what little a forwarder can do.

use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::Command,
};

use anyhow::ensure;

use crate::{
    case::Case,
    memory::{DATA_ROOM, Memory},
    process::Running,
    worker_layout::WORKER,
};

/// A forwarding mode of testpmd's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ForwardMode {
    /// Packets are passed on untouched: the limit.
    Io,
    /// Source and destination MAC are exchanged.
    MacSwap,
    /// IPv4 and transport checksums are computed anew, in software.
    Csum,
}

impl ForwardMode {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            ForwardMode::Io => "io",
            ForwardMode::MacSwap => "macswap",
            ForwardMode::Csum => "csum",
        }
    }
}

/// Reports of a second each in which testpmd may still be starting.
const WARM_UP: usize = 1;

/// Runs testpmd, and returns what it received in each of some seconds, in millions of packets.
pub(crate) fn run(
    case: Case,
    devices: &[String; 2],
    mode: ForwardMode,
    seconds: usize,
    no_huge: bool,
) -> anyhow::Result<Vec<f64>> {
    let mut testpmd = Running::start(&mut command(case, devices, mode, no_huge))?;
    let lines = BufReader::new(testpmd.output()?).lines().map_while(Result::ok);
    let rates = rates(lines, devices.len());
    let rates: Vec<f64> = rates.skip(WARM_UP).take(seconds).map(|rate| rate as f64 / 1e6).collect();
    let is_sound = rates.len() == seconds && rates.iter().all(|rate| *rate > 0.0);
    ensure!(
        is_sound,
        "testpmd --forward-mode={} ended early, or received nothing: {}",
        mode.as_str(),
        testpmd.last_words()
    );
    Ok(rates)
}

fn command(case: Case, devices: &[String; 2], mode: ForwardMode, no_huge: bool) -> Command {
    let Memory { mbufs, mib } = Memory::of(case);
    let mut command = Command::new("dpdk-testpmd");
    command
        .args(["--lcores", &format!("0,{WORKER}"), "--main-lcore", "0"])
        .args(["-m", &mib.to_string(), "--no-pci", "--no-telemetry"])
        .arg(format!("--file-prefix=testpmd-{}", std::process::id()))
        .args(if no_huge { ["--no-huge", "--no-shconf"].as_slice() } else { &["--in-memory"] })
        .args(devices.iter().flat_map(|device| ["--vdev", device]))
        .args(["--", "--nb-cores=1", "--burst=32", "--stats-period=1"])
        .arg(format!("--forward-mode={}", mode.as_str()))
        .arg(format!("--mbuf-size={DATA_ROOM}"))
        .arg(format!("--total-num-mbufs={mbufs}"));
    command
}

/// Whether testpmd is there.
pub(crate) fn is_installed() -> bool {
    let directories = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&directories)
        .any(|directory| Path::new(&directory).join("dpdk-testpmd").exists())
}

/// The packets per second that all ports received, report by report.
fn rates(lines: impl Iterator<Item = String>, ports: usize) -> impl Iterator<Item = u64> {
    let mut of_ports = lines.filter_map(|line| received(&line));
    std::iter::from_fn(move || {
        let rates: Vec<u64> = of_ports.by_ref().take(ports).collect();
        (rates.len() == ports).then(|| rates.iter().sum())
    })
}

/// The number in `  Rx-pps:     41975511          Rx-bps:  20148245632`.
fn received(line: &str) -> Option<u64> {
    line.trim_start().strip_prefix("Rx-pps:")?.split_whitespace().next()?.parse().ok()
}
