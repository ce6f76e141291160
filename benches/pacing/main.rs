//! What `idle = "adaptive"` costs a request, when requests come at a steady pace: a client, a director and a
//! server in network namespaces of this machine, over AF_PACKET, with the director that spins, the one that
//! sleeps, and Linux's own NAT in turns. Needs root, ip, ethtool and nft:
//!
//!     cargo bench --bench pacing -- run
//!
//! Client and server share a CPU, and so a request takes as long as the kernel needs to run both; what a director
//! adds is the difference.

mod client;
mod network;
mod server;

use std::{env, path::PathBuf, process::Command, time::Duration};

use anyhow::{Context, ensure};
use hdrhistogram::Histogram;

use network::{Director, Lab};

/// Requests per second, of all connections together.
const RATES: [u32; 2] = [1000, 5000];

/// Rounds, in each of which every director is measured at every rate.
const ROUNDS: usize = 5;

/// How long one measurement takes.
const LENGTH: Duration = Duration::from_secs(4);

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        ["serve"] => server::serve(),
        ["ask", rate] => client::ask(rate.parse()?, LENGTH),
        ["measure"] => measure(),
        // cargo adds --bench.
        ["run", ..] => in_own_namespaces(),
        // So that `cargo bench` is about the parts alone.
        _ => {
            println!(
                "A steady pace is measured by another command, as root: cargo bench --bench pacing -- run"
            );
            Ok(())
        }
    }
}

/// Starts this program again where names of network namespaces are its own, and end with it.
fn in_own_namespaces() -> anyhow::Result<()> {
    let status = Command::new("unshare")
        .args(["--mount", "--net", "--pid", "--fork", "--mount-proc", "--kill-child", "--"])
        .arg(env::current_exe()?)
        .arg("measure")
        .status()
        .context("unshare does not start")?;
    ensure!(status.success(), "not measured: {status} (it needs root)");
    Ok(())
}

fn measure() -> anyhow::Result<()> {
    let lab = Lab::set_up()?;
    let directors = [Director::Kernel, Director::Spin, Director::Adaptive];
    let mut results = directors.map(|director| (director, RATES.map(|rate| (rate, Vec::new()))));
    let mut idle_cpu = Vec::new();
    for round in 1..=ROUNDS {
        for (director, rates) in &mut results {
            let running = lab.start(*director)?;
            if *director == Director::Adaptive {
                idle_cpu.push(running.cpu_share(LENGTH)?);
            }
            for (rate, histograms) in rates {
                histograms.push(lab.ask(*rate)?);
            }
            running.stop()?;
            eprintln!("round {round} of {ROUNDS}: {director}");
        }
    }
    idle_cpu.sort_by(f64::total_cmp);
    println!("{:30} {:>10} {:>10} {:>10}", "microseconds a request", "p50", "p90", "p99");
    for (director, rates) in &mut results {
        for (rate, histograms) in rates {
            print_row(&format!("{director}, {rate} a second"), histograms);
        }
    }
    let median = 100.0 * idle_cpu[idle_cpu.len() / 2];
    println!("CPU of an idle adaptive director: {median:.1} % (all lcores together)");
    Ok(())
}

/// Prints the median of the rounds, for each percentile.
fn print_row(name: &str, histograms: &[Histogram<u64>]) {
    let median = |quantile: f64| {
        let mut values: Vec<_> = histograms.iter().map(|h| h.value_at_quantile(quantile)).collect();
        values.sort_unstable();
        values[values.len() / 2] as f64 / 1000.0
    };
    println!("{name:30} {:10.0} {:10.0} {:10.0}", median(0.5), median(0.9), median(0.99));
}

/// The director to measure: this build's, or the one that SHUNT_BINARY names.
fn shunt() -> PathBuf {
    env::var_os("SHUNT_BINARY").map_or_else(|| env!("CARGO_BIN_EXE_shunt").into(), PathBuf::from)
}
