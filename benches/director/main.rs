//! The whole director against testpmd, and two workers against one, on net_pcap.
//!
//! Two net_pcap devices hold frames in memory and hand them out over and over (`infinite_rx=1`);
//! what is sent is discarded. On the same devices, in turns, run testpmd, which only passes packets
//! on, and a director with all that belongs to it: the difference is what a load balancer costs.
//! Frames are of 60 bytes, in an order that has nothing to do with that of the connections in memory.
//!
//! | module | what is in it |
//! | --- | --- |
//! | `case` | what is measured |
//! | `worker_layout` | how many workers there are, and how packets come to them |
//! | `traffic`, `memory`, `service_file` | what testpmd and the director are given |
//! | `runner`, `process` | whose turn it is |
//! | `testpmd` | running testpmd, and reading its figures |
//! | `throughput`, `setup`, `window`, `pauses`, `clock` | the director, in another process of this program: EAL starts once per process |
//! | `commands` | how long commands of the main lcore's hold up a worker that passes packets on |
//! | `latency`, `generator` | the director as it is in operation, and a generator beside it |
//! | `outcome`, `scaling`, `stats` | what follows from the figures |
//! | `targets` | what is to be reached |
//! | `report`, `plot`, `machine` | what is printed and kept |
//!
//! `scripts/bench` prepares the machine and starts it.

mod case;
mod clock;
mod commands;
mod generator;
mod latency;
mod machine;
mod memory;
mod outcome;
mod pauses;
mod plot;
mod process;
mod report;
mod runner;
mod scaling;
mod service_file;
mod setup;
mod stats;
mod targets;
mod testpmd;
mod throughput;
mod traffic;
mod window;
mod worker_layout;

use std::{fmt, path::PathBuf, process::ExitCode, time::Duration};

use clap::Parser;
use indicatif::{ProgressBar, ProgressStyle};

use case::Case;
use machine::Machine;
use memory::Memory;
use report::Report;
use runner::Plan;
use scaling::ScalingRun;

/// The whole director, on frames that are replayed from memory, against testpmd
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
    let mut jobs = Job::all(args.quick && args.only.is_empty());
    jobs.retain(|job| job.to_string().contains(&args.only));
    anyhow::ensure!(!jobs.is_empty(), "no case has \"{}\" in its name", args.only);
    if args.list {
        jobs.iter().for_each(|job| println!("{job}"));
        println!("{}", Memory::most(jobs.iter().filter_map(|job| job.case())));
        return Ok(());
    }
    let Some(out) = &args.out else {
        println!("The whole director is measured by another command: sudo scripts/bench");
        return Ok(());
    };
    anyhow::ensure!(testpmd::is_installed(), "there is no dpdk-testpmd (Debian: dpdk-dev)");
    std::fs::create_dir_all(out)?;
    let report = run_all(args, &jobs)?;
    report.print();
    report.save(out)?;
    println!("\nkept in {}", out.display());
    Ok(())
}

/// What there is to do.
#[derive(Clone, Copy)]
enum Job {
    /// One worker beside testpmd.
    Case(Case),
    /// Two workers against one.
    Scaling(Case),
    /// A worker that is asked and told while it passes packets on.
    Commands,
    Latency,
}

impl Job {
    fn all(quick: bool) -> Vec<Job> {
        let cases = Case::all(quick).into_iter().map(Job::Case);
        cases
            .chain(Case::of_two_workers().map(Job::Scaling))
            .chain([Job::Commands, Job::Latency])
            .collect()
    }

    fn case(self) -> Option<Case> {
        match self {
            Job::Case(case) | Job::Scaling(case) => Some(case),
            Job::Commands => Some(commands::CASE),
            Job::Latency => None,
        }
    }

    fn steps(self, plan: Plan) -> u64 {
        match self {
            Job::Case(case) => plan.steps_of_case(case),
            Job::Scaling(_) => plan.steps_of_scaling(),
            Job::Commands | Job::Latency => 1,
        }
    }
}

impl fmt::Display for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Job::Case(case) => case.fmt(f),
            Job::Scaling(case) => write!(f, "two workers, {case}"),
            Job::Commands => f.write_str("commands, 1 M connections"),
            Job::Latency => f.write_str("latency"),
        }
    }
}

fn run_all(args: &Args, jobs: &[Job]) -> anyhow::Result<Report> {
    let plan = Plan::new(args.quick, args.no_huge);
    let progress = ProgressBar::new(jobs.iter().map(|job| job.steps(plan)).sum());
    let style = "{elapsed_precise} [{bar:30}] {percent:>3}%, {eta} to go  {msg}";
    progress.set_style(ProgressStyle::with_template(style)?.progress_chars("=> "));
    progress.enable_steady_tick(Duration::from_millis(500));
    let machine = Machine::here(args.no_huge);
    println!("{machine}\n");
    let (mut outcomes, mut scaling_runs, mut latencies) = (Vec::new(), Vec::new(), Vec::new());
    let mut commands = None;
    for job in jobs {
        match job {
            Job::Case(case) => {
                let outcome = plan.case(*case, &progress)?;
                let header = outcomes.is_empty().then(report::header);
                progress.suspend(|| print_row(header, &report::row(&outcome)));
                outcomes.push(outcome);
            }
            Job::Scaling(case) => {
                let scaling_run = plan.scaling_run(*case, &progress)?;
                let header = scaling_runs.is_empty().then(|| format!("\n{}", ScalingRun::header()));
                progress.suspend(|| print_row(header, &scaling_run.to_string()));
                scaling_runs.push(scaling_run);
            }
            Job::Commands => commands = Some(plan.commands(&progress)?),
            Job::Latency => latencies = plan.latency(&progress)?,
        }
    }
    progress.finish_and_clear();
    let criterion = args.criterion.as_deref();
    let targets =
        targets::targets(&outcomes, &scaling_runs, commands.as_ref(), &latencies, criterion);
    Ok(Report {
        machine,
        command: args.command.clone(),
        outcomes,
        scaling_runs,
        commands,
        latencies,
        targets,
    })
}

fn print_row(header: Option<String>, row: &str) {
    if let Some(header) = header {
        println!("{header}");
    }
    println!("{row}");
}
