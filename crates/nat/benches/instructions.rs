//! How many instructions the engine executes for a packet, counted by Valgrind: a number that is the same on
//! a busy machine as on a quiet one, so that a change of a few per cent can be seen.
//!
//! `cargo bench -p shunt-nat --bench instructions [-- FILTER]`
//!
//! The packets are those of the bench `engine`, of a thousand flows. Each workload runs twice, for a
//! different number of rounds, and what the longer run has more is divided by the packets that it has
//! more. Copying a packet from its template is included.
//!
//! | workload | a unit is |
//! | --- | --- |
//! | `forward`, `reverse` | a packet of an established connection, from the client or the server |
//! | `open` | the first packet of a connection, and the connection's end for being silent |

mod common;

use std::{
    env,
    process::{Command, ExitCode, Stdio},
    time::Duration,
};

use shunt_nat::Side;

use common::{
    shuffled,
    traffic::{Established, KINDS, Kind, NOW, pass_all},
};

const FLOWS: usize = 1 << 10;

/// How often each flow's packet comes, in the two runs that are compared.
const ROUNDS: [u64; 2] = [4, 20];

/// The argument with which the program runs a workload instead of counting.
const RUN: &str = "--run";

/// Something that a service of this kind does for so many rounds.
type Workload = fn(Kind, u64);

const WORKLOADS: [(&str, Workload); 3] =
    [("forward", forward), ("reverse", reverse), ("open", open)];

fn main() -> ExitCode {
    let arguments: Vec<_> = env::args().skip(1).collect();
    if let [run, name, rounds] = &arguments[..]
        && run == RUN
    {
        let rounds = rounds.parse().expect("a number of rounds");
        let (_, workload, kind) =
            workloads().find(|(known, ..)| known == name).expect("a known workload");
        workload(kind, rounds);
        return ExitCode::SUCCESS;
    }
    let filter = arguments.iter().find(|argument| !argument.starts_with('-'));
    for (name, ..) in workloads().filter(|(name, ..)| filter.is_none_or(|f| name.contains(f))) {
        match instructions_per_packet(&name) {
            Ok(instructions) => println!("{name:<24} {instructions:>8.1} instructions a packet"),
            Err(error) => {
                eprintln!("{name}: {error}");
                return ExitCode::FAILURE;
            }
        }
    }
    ExitCode::SUCCESS
}

fn workloads() -> impl Iterator<Item = (String, Workload, Kind)> {
    KINDS.into_iter().flat_map(|kind| {
        WORKLOADS.map(|(what, workload)| (format!("{what}/{}", kind.name), workload, kind))
    })
}

fn instructions_per_packet(name: &str) -> Result<f64, String> {
    let [few, many] = ROUNDS.map(|rounds| instructions(name, rounds));
    let packets = (ROUNDS[1] - ROUNDS[0]) * FLOWS as u64;
    Ok((many? - few?) as f64 / packets as f64)
}

/// Instructions of this program when it runs a workload.
fn instructions(name: &str, rounds: u64) -> Result<u64, String> {
    let program = env::current_exe().map_err(|error| error.to_string())?;
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(program)
        .args([RUN, name, &rounds.to_string()])
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("valgrind: {error}"))?;
    let report = String::from_utf8_lossy(&output.stderr);
    let collected = report.lines().find_map(|line| line.split_once("Collected : "));
    match collected.and_then(|(_, count)| count.trim().parse().ok()) {
        Some(count) if output.status.success() => Ok(count),
        _ => Err(format!("valgrind: {report}")),
    }
}

fn forward(kind: Kind, rounds: u64) {
    let Established { mut engine, forward, .. } = Established::new(kind, FLOWS);
    (0..rounds).for_each(|_| pass_all(&mut engine, NOW, Side::Outside, &forward));
}

fn reverse(kind: Kind, rounds: u64) {
    let Established { mut engine, reverse, .. } = Established::new(kind, FLOWS);
    (0..rounds).for_each(|_| pass_all(&mut engine, NOW, Side::Inside, &reverse));
}

fn open(kind: Kind, rounds: u64) {
    let mut engine = kind.engine(FLOWS);
    let openers: Vec<_> = shuffled(FLOWS).into_iter().map(|flow| kind.opener(flow)).collect();
    let mut now = NOW;
    for _ in 0..rounds {
        pass_all(&mut engine, now, Side::Outside, &openers);
        now = now + Duration::from_secs(1000);
        engine.expire(now, usize::MAX, |_| {});
        assert!(engine.table().is_empty());
    }
}
