//! What is printed and what is kept.

use std::{fs::File, io::BufWriter, path::Path};

use serde::Serialize;

use crate::{
    commands::Commands,
    latency::Latency,
    machine::Machine,
    outcome::Outcome,
    plot,
    scaling::ScalingRun,
    stats::{median, nanoseconds},
    targets::Target,
};

/// A pause of a loop that does nothing, in microseconds, which only another program on its core can
/// explain.
const BUSY: f64 = 1000.0;

/// What stands below the table of cases.
const LEGEND: &str = "\
io, macswap, csum: testpmd's modes on the same devices. All in millions of packets per second,
medians. Own ns: nanoseconds per packet more than testpmd io takes. New/s: millions of
connections opened per second.
";

/// What stands below the table of two workers.
const LEGEND_OF_SCALING: &str = "\
Two workers: what went through, in millions of packets per second, with one receive queue per port,
where workers hand packets to each other, and with a queue for each. Times: against one worker.
Dropped: for lack of room in the ring between them, when one receives more than the other can do.
";

/// All that a run found.
#[derive(Serialize)]
pub(crate) struct Report {
    pub(crate) machine: Machine,
    pub(crate) command: String,
    pub(crate) outcomes: Vec<Outcome>,
    pub(crate) scaling_runs: Vec<ScalingRun>,
    pub(crate) commands: Option<Commands>,
    /// By idle mode.
    pub(crate) latencies: Vec<Latency>,
    pub(crate) targets: Vec<Target>,
}

impl Report {
    /// Prints what has to be said below the table of cases, and the targets.
    pub(crate) fn print(&self) {
        println!();
        if !self.outcomes.is_empty() {
            println!("{LEGEND}");
        }
        if !self.scaling_runs.is_empty() {
            println!("{LEGEND_OF_SCALING}");
        }
        let alone = self.outcomes.iter().flat_map(|outcome| &outcome.director);
        let together =
            self.scaling_runs.iter().flat_map(|scaling_run| &scaling_run.runs).map(|(_, run)| run);
        let pauses = alone.chain(together).map(|run| run.nothing.longest_us);
        let pause = pauses.fold(0.0, f64::max);
        if pause > BUSY {
            println!(
                "This machine was busy: a loop that does nothing was interrupted for {pause:.0} µs. Don't \
                 trust the figures.\n"
            );
        }
        if let Some(commands) = &self.commands {
            println!("{commands}\n");
        }
        if !self.latencies.is_empty() {
            println!("latency over memif");
            self.latencies.iter().for_each(|latency| println!("{latency}"));
            println!();
        }
        for target in &self.targets {
            let measured = match target.measured {
                Some(value) => target.text(value),
                None => "-".to_owned(),
            };
            println!(
                "{:60} {:18} {measured:>12}  {}{}",
                target.work,
                target.wanted.text(target.unit),
                target.verdict(),
                if target.remark.is_empty() {
                    String::new()
                } else {
                    format!(" ({})", target.remark)
                },
            );
        }
    }

    /// Writes `director.json`, `cost.svg` and `opens.svg`.
    pub(crate) fn save(&self, directory: &Path) -> anyhow::Result<()> {
        let file = BufWriter::new(File::create(directory.join("director.json"))?);
        serde_json::to_writer_pretty(file, self)?;
        plot::cost(&self.outcomes, &directory.join("cost.svg"))?;
        plot::opens(&self.outcomes, &directory.join("opens.svg"))
    }
}

/// The head of the table of cases.
pub(crate) fn header() -> String {
    format!(
        "{:34} {:>7} {:>8} {:>7} {:>7} {:>8} {:>7} {:>7} {:>6} {:>9}",
        "", "io", "macswap", "csum", "Shunt", "ns each", "own ns", "of io", "new/s", "stall µs"
    )
}

/// A case's line in it.
pub(crate) fn row(outcome: &Outcome) -> String {
    let number = |value: Option<f64>, digits: usize| {
        value.map_or_else(|| "-".to_owned(), |value| format!("{value:.digits$}"))
    };
    let middle = |rates: &[f64]| number(median(rates.iter().copied()), 1);
    let mpps = outcome.mpps();
    let share = mpps.zip(outcome.io_mpps()).map(|(ours, io)| 100.0 * ours / io);
    let opens = outcome.opens().filter(|_| !outcome.case.is_established());
    format!(
        "{:34} {:>7} {:>8} {:>7} {:>7} {:>8} {:>7} {:>6}% {:>6} {:>9}",
        outcome.case,
        number(outcome.io_mpps(), 1),
        middle(&outcome.macswap),
        middle(&outcome.csum),
        number(mpps, 2),
        number(mpps.map(nanoseconds), 1),
        number(outcome.cost(), 1),
        number(share, 0),
        number(opens, 2),
        number(outcome.polls().map(|polls| polls.longest_us), 0),
    )
}
