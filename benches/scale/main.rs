//! Very many services: how long it takes to check, start and change a director that has them, how much memory
//! that takes, and what workers notice of it. Needs no root, and no huge pages:
//!
//!     cargo bench --bench scale -- run
//!
//! Ports are net_null devices that receive nothing: what is measured is the control plane, and the turns of
//! workers besides packets.

#[path = "../director/machine.rs"]
mod machine;
mod process;
mod service_file;
mod turns;

use std::{fs, path::PathBuf, process::Command};

use anyhow::{Context, ensure};
use clap::{Parser, Subcommand};
use serde::Serialize;

use machine::Machine;
use process::{Running, Took};
use service_file::ServiceFile;
use turns::{Measurement, Turns};

/// Very many services
#[derive(Parser)]
struct Args {
    #[command(subcommand)]
    command: Option<Task>,
    /// What `cargo bench` says to every bench
    #[arg(long, hide = true, global = true)]
    bench: bool,
}

#[derive(Subcommand)]
enum Task {
    /// Measure, print a table, and keep the figures
    Run {
        /// How many services, of ten servers each
        #[arg(long, default_value_t = 10_000)]
        services: usize,
        /// Times that each figure is measured
        #[arg(long, default_value_t = 5)]
        rounds: usize,
        /// Where the figures go
        #[arg(long, value_name = "FILE")]
        json: Option<PathBuf>,
        /// Fail where a time is more than so many times its target, or anything else is more than it; but
        /// for the longest turn, which a busy machine makes longer by any number of times
        #[arg(long, value_name = "TIMES")]
        tolerance: Option<f64>,
    },
    /// Measure the turns of workers, for another process of this program
    #[command(hide = true)]
    Turns { services: usize, workers: usize, many: usize, changes: usize },
}

fn main() -> anyhow::Result<()> {
    match Args::parse().command {
        Some(Task::Run { services, rounds, json, tolerance }) => {
            let report = measure(services, rounds)?;
            report.print();
            if let Some(json) = json {
                fs::write(&json, serde_json::to_string_pretty(&report)?)?;
            }
            report.ensure_within(tolerance)
        }
        Some(Task::Turns { services, workers, many, changes }) => {
            let measurement = turns::measure(services, workers, many, changes)?;
            println!("{MARK}{}", serde_json::to_string(&measurement)?);
            Ok(())
        }
        // So that `cargo bench` is about the parts alone.
        None => {
            println!("Scale is measured by another command: cargo bench --bench scale -- run");
            Ok(())
        }
    }
}

/// What comes before a measurement: DPDK prints lines of its own.
const MARK: &str = "measurement: ";

/// What was found with one number of workers.
#[derive(Serialize)]
struct Report {
    machine: Machine,
    services: usize,
    rounds: usize,
    rows: Vec<Row>,
    turns: Vec<(usize, Measurement)>,
}

#[derive(Serialize)]
struct Row {
    work: &'static str,
    at_most: f64,
    unit: &'static str,
    workers: usize,
    /// The median of all rounds, where there were several.
    median: f64,
    worst: f64,
    /// Of that, or besides, milliseconds on CPUs, by the median: what a machine with nothing else to do
    /// would take at most.
    cpu: Option<f64>,
}

fn measure(services: usize, rounds: usize) -> anyhow::Result<Report> {
    ensure!(services >= 10 && rounds > 0, "there is nothing to measure");
    let machine = Machine::here(true);
    println!("{machine}");
    let (mut rows, mut turns) = (Vec::new(), Vec::new());
    for workers in [1, 2] {
        rows.extend(of_processes(services, workers, rounds)?);
        let measurement = of_turns(services, workers, rounds)?;
        rows.extend(of_measurement(&measurement, workers));
        turns.push((workers, measurement));
    }
    rows.sort_by_key(|row| WORK.iter().position(|work| *work == row.work));
    Ok(Report { machine, services, rounds, rows, turns })
}

const WORK: [&str; 13] = [
    CHECK,
    PRINTED,
    START,
    MEMORY,
    MEMORY_CHANGED,
    MEMORY_PEAK,
    WEIGHT,
    WEIGHT_RELOAD,
    NOTHING,
    MANY,
    MANY_APPLIED,
    LINE,
    TURN,
];
const CHECK: &str = "shunt check";
const PRINTED: &str = "lines that shunt check prints";
const START: &str = "start to \"director ready\"";
const MEMORY: &str = "memory besides connection table and mbufs, started";
const MEMORY_CHANGED: &str = "the same, after all changes";
const MEMORY_PEAK: &str = "the same, at most: while a file is read";
const WEIGHT: &str = "one weight changed, until all workers run it";
const WEIGHT_RELOAD: &str = "one weight changed in the file, from SIGHUP";
const NOTHING: &str = "reload that changes nothing";
const MANY: &str = "reload that changes a tenth of the services";
const MANY_APPLIED: &str = "a tenth changed, without reading the file";
const LINE: &str = "longest line of the log";
const TURN: &str = "longest worker turn beyond an idle loop's";

/// The real director, started and changed by its file.
fn of_processes(services: usize, workers: usize, rounds: usize) -> anyhow::Result<Vec<Row>> {
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("scale.toml");
    let file = ServiceFile::new(services, workers);
    let mut figures = Figures { workers, rows: Vec::new() };
    for _ in 0..rounds {
        fs::write(&path, file.text())?;
        let (took, printed) = process::check(&path)?;
        figures.note_time(CHECK, 1000.0, took);
        figures.note(PRINTED, 100.0, "lines", printed.lines().count() as f64);
        let (mut director, took) = Running::start(&path)?;
        figures.note_time(START, 3000.0, took);
        let besides = director.table_mib + mbufs_mib();
        let (started, _) = director.memory()?;
        figures.note(MEMORY, 400.0, "MB", started - besides);

        let (took, line) = director.reload()?;
        ensure!(line.contains("says nothing new"), "{line}");
        figures.note_time(NOTHING, 500.0, took);
        for service in [0, services / 2 + 1] {
            let mut other = file.clone();
            other.set_weight(service, 7);
            fs::write(&path, other.text())?;
            let (took, line) = director.reload()?;
            ensure!(line.contains("weight 7"), "{line}");
            figures.note_time(WEIGHT_RELOAD, 600.0, took);
        }
        for is_changed in [true, false] {
            let mut other = file.clone();
            if is_changed {
                other.change_servers(services / 10);
            }
            fs::write(&path, other.text())?;
            let (took, line) = director.reload()?;
            ensure!(line.contains("runs now"), "{line}");
            figures.note_time(MANY, 2000.0, took);
        }
        let (changed, most) = director.memory()?;
        figures.note(MEMORY_CHANGED, 400.0, "MB", changed - besides);
        figures.note(MEMORY_PEAK, 400.0, "MB", most - besides);
        figures.note(LINE, 1500.0, "characters", director.longest_line() as f64);
    }
    Ok(figures.rows())
}

/// What mbufs take, in MiB: the least that they can, a header and what a frame of 1,500 bytes needs.
fn mbufs_mib() -> f64 {
    const HEADER_AND_HEADROOM: u32 = 128 + 128;
    f64::from(ServiceFile::MBUFS * (HEADER_AND_HEADROOM + 1536)) / f64::from(1 << 20)
}

/// The turns of workers, measured by another process of this program.
fn of_turns(services: usize, workers: usize, rounds: usize) -> anyhow::Result<Measurement> {
    let words = [services, workers, services / 10, 10 * rounds].map(|number| number.to_string());
    let output = Command::new(std::env::current_exe()?).arg("turns").args(words).output()?;
    let printed = String::from_utf8_lossy(&output.stdout);
    let measurement = printed.lines().find_map(|line| line.strip_prefix(MARK));
    let measurement = measurement
        .with_context(|| format!("not measured: {}", String::from_utf8_lossy(&output.stderr)))?;
    Ok(serde_json::from_str(measurement)?)
}

fn of_measurement(measurement: &Measurement, workers: usize) -> Vec<Row> {
    let Measurement { idle, changing, weight_ms, many_ms, .. } = measurement;
    let mut figures = Figures { workers, rows: Vec::new() };
    for (work, at_most, times) in [(WEIGHT, 100.0, weight_ms), (MANY_APPLIED, 2000.0, many_ms)] {
        for (millis, cpu) in times.iter().copied() {
            figures.note_time(work, at_most, Took { millis, cpu });
        }
    }
    let beyond = changing.longest_uninterrupted_us - idle.longest_uninterrupted_us;
    figures.note(TURN, 100.0, "µs", beyond.max(0.0));
    figures.rows()
}

/// Figures of several rounds.
struct Figures {
    workers: usize,
    rows: Vec<(Row, Vec<f64>, Vec<f64>)>,
}

impl Figures {
    fn note_time(&mut self, work: &'static str, at_most: f64, Took { millis, cpu }: Took) {
        self.row(work, at_most, "ms").1.push(millis);
        self.row(work, at_most, "ms").2.push(cpu);
    }

    fn note(&mut self, work: &'static str, at_most: f64, unit: &'static str, figure: f64) {
        self.row(work, at_most, unit).1.push(figure);
    }

    fn row(
        &mut self,
        work: &'static str,
        at_most: f64,
        unit: &'static str,
    ) -> &mut (Row, Vec<f64>, Vec<f64>) {
        let known = self.rows.iter().position(|(row, ..)| row.work == work);
        let index = known.unwrap_or_else(|| {
            let workers = self.workers;
            let row = Row { work, at_most, unit, workers, median: 0.0, worst: 0.0, cpu: None };
            self.rows.push((row, Vec::new(), Vec::new()));
            self.rows.len() - 1
        });
        &mut self.rows[index]
    }

    fn rows(self) -> Vec<Row> {
        let row = |(row, mut figures, mut cpu): (Row, Vec<f64>, Vec<f64>)| {
            figures.sort_by(f64::total_cmp);
            cpu.sort_by(f64::total_cmp);
            Row {
                median: figures[figures.len() / 2],
                worst: figures[figures.len() - 1],
                cpu: cpu.get(cpu.len() / 2).copied(),
                ..row
            }
        };
        self.rows.into_iter().map(row).collect()
    }
}

impl Report {
    fn print(&self) {
        println!("{} services, {} rounds\n", self.services, self.rounds);
        println!("{:50} {:>8} {:>16} {:>10} {:>10}", "", "workers", "at most", "median", "worst");
        for Row { work, at_most, unit, workers, median, worst, cpu } in &self.rows {
            let wanted = format!("{at_most:.0} {unit}");
            let verdict = if worst <= at_most {
                "met"
            } else if median <= at_most {
                "met by the median"
            } else {
                "missed"
            };
            let cpu = cpu.map(|cpu| format!("{cpu:.1}")).unwrap_or_default();
            println!(
                "{work:50} {workers:>8} {wanted:>16} {median:10.1} {worst:10.1} {cpu:>8}  {verdict}"
            );
        }
        println!(
            "\n{:50} {:>8} {:>16} {:>10} {:>10}",
            "turns, in µs", "p50", "p99", "longest", "the same, uninterrupted"
        );
        for (workers, Measurement { idle, steady, changing, .. }) in &self.turns {
            let plural = if *workers == 1 { "worker" } else { "workers" };
            let rows = [
                ("a loop that does nothing".to_owned(), idle),
                (format!("{workers} {plural}, rules stay"), steady),
                (format!("{workers} {plural}, rules change"), changing),
            ];
            for (name, Turns { p50_us, p99_us, longest_us, longest_uninterrupted_us }) in rows {
                println!(
                    "{name:50} {p50_us:8.2} {p99_us:16.2} {longest_us:10.1} {longest_uninterrupted_us:10.1}"
                );
            }
        }
    }

    fn ensure_within(&self, tolerance: Option<f64>) -> anyhow::Result<()> {
        let Some(tolerance) = tolerance else { return Ok(()) };
        let is_missed = |row: &&Row| {
            let times = if row.unit == "ms" { tolerance } else { 1.0 };
            row.work != TURN && row.median > row.at_most * times
        };
        let missed: Vec<_> = self.rows.iter().filter(is_missed).map(|row| row.work).collect();
        ensure!(missed.is_empty(), "more than is wanted, times {tolerance}: {missed:?}");
        Ok(())
    }
}
