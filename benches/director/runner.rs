//! Runs of testpmd and the director, in turns, each in a process of its own.

use std::{
    fs::{self, File},
    path::Path,
    process::Command,
    time::Duration,
};

use anyhow::Context;
use indicatif::ProgressBar;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{
    case::Case,
    commands::{self, Commands},
    latency::{self, Latency},
    outcome::Outcome,
    scaling::ScalingRun,
    service_file::Wanted,
    testpmd::{self, ForwardMode},
    throughput::{self, Measurement},
    traffic::Files,
    worker_layout::WorkerLayout,
};

/// How often and how long.
#[derive(Clone, Copy)]
pub(crate) struct Plan {
    /// Turns of testpmd `io` and the director.
    pub(crate) rounds: u32,
    /// Windows of each turn.
    pub(crate) windows: u32,
    /// How long the director's are; testpmd's are a second.
    pub(crate) window: Duration,
    pub(crate) no_huge: bool,
}

impl Plan {
    pub(crate) fn new(quick: bool, no_huge: bool) -> Plan {
        let (rounds, windows, millis) = if quick { (1, 2, 500) } else { (2, 3, 1000) };
        Plan { rounds, windows, window: Duration::from_millis(millis), no_huge }
    }

    /// Steps of the progress bar that a case takes.
    pub(crate) fn steps_of_case(self, case: Case) -> u64 {
        let more = if case.has_frames_of_its_own() { 2 } else { 0 };
        1 + 2 * u64::from(self.rounds) + more
    }

    /// Steps that two workers take.
    pub(crate) fn steps_of_scaling(self) -> u64 {
        1 + ScalingRun::LAYOUTS.len() as u64 * u64::from(self.rounds)
    }

    /// Measures a case beside testpmd.
    pub(crate) fn case(self, case: Case, progress: &ProgressBar) -> anyhow::Result<Outcome> {
        let step = |what: &str| {
            progress.inc(1);
            progress.set_message(format!("{case}: {what}"));
        };
        let directory = tempfile::tempdir()?;
        step("making frames");
        let devices = Files::write(case, WorkerLayout::Alone, directory.path()).devices(case);
        let testpmd = |mode: ForwardMode, windows: u32| {
            step(&format!("testpmd {}", mode.as_str()));
            testpmd::run(case, &devices, mode, windows as usize, self.no_huge)
        };
        let mut outcome = Outcome::new(case);
        for round in 1..=self.rounds {
            outcome.io.extend(testpmd(ForwardMode::Io, self.windows)?);
            step(&format!("Shunt, {round} of {}", self.rounds));
            outcome.director.push(self.director(
                case,
                WorkerLayout::Alone,
                &devices,
                directory.path(),
            )?);
        }
        if case.has_frames_of_its_own() {
            outcome.macswap = testpmd(ForwardMode::MacSwap, 1)?;
            outcome.csum = testpmd(ForwardMode::Csum, 1)?;
        }
        Ok(outcome)
    }

    /// Measures two workers against one.
    pub(crate) fn scaling_run(
        self,
        case: Case,
        progress: &ProgressBar,
    ) -> anyhow::Result<ScalingRun> {
        let step = |what: &str| {
            progress.inc(1);
            progress.set_message(format!("{case}: {what}"));
        };
        step("making frames");
        let mut layouts = Vec::new();
        for layout in ScalingRun::LAYOUTS {
            let directory = tempfile::tempdir()?;
            let devices = Files::write(case, layout, directory.path()).devices(case);
            layouts.push((layout, devices, directory));
        }
        let mut scaling_run = ScalingRun { case, runs: vec![] };
        for round in 1..=self.rounds {
            for (layout, devices, directory) in &layouts {
                step(&format!("{layout}, {round} of {}", self.rounds));
                scaling_run
                    .runs
                    .push((*layout, self.director(case, *layout, devices, directory.path())?));
            }
        }
        Ok(scaling_run)
    }

    /// Has another process of this program measure the director.
    fn director(
        self,
        case: Case,
        layout: WorkerLayout,
        devices: &[String; 2],
        directory: &Path,
    ) -> anyhow::Result<Measurement> {
        let wanted = Wanted { case, layout, devices: devices.clone(), no_huge: self.no_huge };
        let order = throughput::Order { wanted, windows: self.windows, window: self.window };
        delegate(&Order::Throughput(order), directory).with_context(|| format!("{case}, {layout}"))
    }

    /// Measures how long commands hold up a worker.
    pub(crate) fn commands(self, progress: &ProgressBar) -> anyhow::Result<Commands> {
        progress.inc(1);
        progress.set_message("commands");
        let directory = tempfile::tempdir()?;
        let case = commands::CASE;
        let devices = Files::write(case, WorkerLayout::Alone, directory.path()).devices(case);
        let wanted = Wanted { case, layout: WorkerLayout::Alone, devices, no_huge: self.no_huge };
        let (rounds, window) = (2 * self.rounds + 1, self.window);
        let order = commands::Order { wanted, rounds, window };
        delegate(&Order::Commands(order), directory.path()).context("commands")
    }

    /// Measures how long packets take, in each idle mode.
    pub(crate) fn latency(self, progress: &ProgressBar) -> anyhow::Result<Vec<Latency>> {
        progress.inc(1);
        progress.set_message("latency");
        let order = latency::Order { no_huge: self.no_huge, length: 3 * self.window };
        let directory = tempfile::tempdir()?;
        delegate(&Order::Latency(order), directory.path()).context("latency")
    }
}

/// What a process of its own is to measure.
#[derive(Serialize, Deserialize)]
enum Order {
    Throughput(throughput::Order),
    Commands(commands::Order),
    Latency(latency::Order),
}

/// Has another process of this program measure something: EAL starts once per process.
fn delegate<T: DeserializeOwned>(order: &Order, directory: &Path) -> anyhow::Result<T> {
    let paths = ["order.json", "measurement.json"].map(|name| directory.join(name));
    serde_json::to_writer(File::create(&paths[0])?, order)?;
    let program = std::env::current_exe().context("this program")?;
    let output = Command::new(program).arg("--measure").args(&paths).output()?;
    let words = String::from_utf8_lossy(&output.stderr);
    anyhow::ensure!(output.status.success(), "{}", words.trim());
    Ok(serde_json::from_reader(File::open(&paths[1])?)?)
}

/// Carries out such an order.
pub(crate) fn carry_out(order: &Path, measurement: &Path) -> anyhow::Result<()> {
    let directory = order.parent().context("a directory")?;
    let found = match serde_json::from_reader(File::open(order)?)? {
        Order::Throughput(order) => serde_json::to_string(&throughput::measure(&order)?)?,
        Order::Commands(order) => serde_json::to_string(&commands::measure(&order)?)?,
        Order::Latency(order) => serde_json::to_string(&latency::measure(&order, directory)?)?,
    };
    Ok(fs::write(measurement, found)?)
}
