//! The whole director against testpmd, one worker, on net_pcap.
//!
//! Two net_pcap devices hold frames in memory and hand them out over and over (`infinite_rx=1`);
//! what is sent is discarded. On the same devices, in turns, run testpmd, which only passes packets
//! on, and a director with all that belongs to it: the difference is what a load balancer costs.
//! Frames are of 60 bytes, in an order that has nothing to do with that of the connections in memory.
//!
//! | module | what is in it |
//! | --- | --- |
//! | `case` | what is measured |
//! | `traffic`, `memory`, `service_file` | what testpmd and the director are given |
//! | `runner` | whose turn it is |
//! | `testpmd` | running testpmd, and reading its figures |
//! | `throughput`, `latency` | the director, in another process of this program: EAL starts once per process |
//! | `outcome`, `stats` | what follows from the figures |
//! | `targets` | what is to be reached |
//! | `report`, `plot`, `machine` | what is printed and kept |
//!
//! `scripts/bench` prepares the machine and starts it.

mod case;
mod latency;
mod machine;
mod memory;
mod outcome;
mod plot;
mod report;
mod runner;
mod service_file;
mod stats;
mod targets;
mod testpmd;
mod throughput;
mod traffic;

use std::{path::PathBuf, process::ExitCode, time::Duration};

use clap::Parser;
use indicatif::{ProgressBar, ProgressStyle};

use case::Case;
use machine::Machine;
use memory::Memory;
use report::Report;
use runner::Plan;

/// The whole director against testpmd, on frames that are replayed from memory
#[derive(Parser)]
struct Args {
    /// Where results go: director.json, cost.svg, opens.svg
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Few cases unless --only says which, one turn each
    #[arg(long)]
    quick: bool,
    /// Only cases whose names contain this
    #[arg(long, value_name = "TEXT", default_value = "")]
    only: String,
    /// Memory of ordinary pages
    #[arg(long)]
    no_huge: bool,
    /// Where criterion has left the estimates of the other benches
    #[arg(long, value_name = "DIR")]
    criterion: Option<PathBuf>,
    /// The command that is kept with the results
    #[arg(long, value_name = "TEXT", default_value = "cargo bench")]
    command: String,
    /// Print the cases, and MiB of huge pages that the largest takes
    #[arg(long)]
    list: bool,
    /// Carry out an order of another process of this program
    #[arg(long, num_args = 2, value_names = ["ORDER", "MEASUREMENT"], hide = true)]
    measure: Option<Vec<PathBuf>>,
    /// What `cargo bench` says to every bench
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> ExitCode {
    match execute(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn execute(args: &Args) -> anyhow::Result<()> {
    if let Some([order, measurement]) = args.measure.as_deref() {
        return runner::carry_out(order, measurement);
    }
    let mut cases = Case::all(args.quick && args.only.is_empty());
    cases.retain(|case| case.to_string().contains(&args.only));
    let with_latency = LATENCY.contains(&args.only);
    let is_any = with_latency || !cases.is_empty();
    anyhow::ensure!(is_any, "no case has \"{}\" in its name", args.only);
    if args.list {
        cases.iter().for_each(|case| println!("{case}"));
        println!("{LATENCY}\n{}", Memory::most(&cases));
        return Ok(());
    }
    let Some(out) = &args.out else {
        println!("The whole director is measured by another command: sudo scripts/bench");
        return Ok(());
    };
    anyhow::ensure!(testpmd::is_installed(), "there is no dpdk-testpmd (Debian: dpdk-dev)");
    std::fs::create_dir_all(out)?;
    let report = run_all(args, &cases, with_latency)?;
    report.print();
    report.save(out)?;
    println!("\nkept in {}", out.display());
    Ok(())
}

/// The name of what is no case.
const LATENCY: &str = "latency";

fn run_all(args: &Args, cases: &[Case], with_latency: bool) -> anyhow::Result<Report> {
    let plan = Plan::new(args.quick, args.no_huge);
    let progress = ProgressBar::new(plan.steps() * cases.len() as u64 + 1);
    let style = "{elapsed_precise} [{bar:30}] {percent:>3}%, {eta} to go  {msg}";
    progress.set_style(ProgressStyle::with_template(style)?.progress_chars("=> "));
    progress.enable_steady_tick(Duration::from_millis(500));
    let machine = Machine::here(args.no_huge);
    println!("{machine}\n\n{}", report::header());
    let mut outcomes = Vec::new();
    for case in cases {
        let outcome = plan.run(*case, &progress)?;
        progress.suspend(|| println!("{}", report::row(&outcome)));
        outcomes.push(outcome);
    }
    let latency = with_latency.then(|| plan.latency(&progress)).transpose()?;
    progress.finish_and_clear();
    let targets = targets::targets(&outcomes, args.criterion.as_deref());
    Ok(Report { machine, command: args.command.clone(), outcomes, latency, targets })
}
