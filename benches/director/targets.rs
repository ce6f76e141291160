//! What is to be reached, and whether it was.

use std::{fs, path::Path};

use serde::Serialize;
use shunt_dataplane::connection_memory;

use crate::{
    case::{Case, Load, Mode, Protocol},
    commands::Commands,
    latency::Latency,
    outcome::Outcome,
    pauses::LONG_US,
    scaling::ScalingRun,
    worker_layout::WorkerLayout,
};

/// A target, and what was measured.
#[derive(Debug, Serialize)]
pub(crate) struct Target {
    pub(crate) work: &'static str,
    /// The least, or the most, that will do.
    pub(crate) wanted: Bound,
    /// `None` where this run could not measure it.
    pub(crate) measured: Option<f64>,
    pub(crate) unit: &'static str,
    /// What there is to say about it.
    pub(crate) remark: String,
}

/// Which side of a number is the right one.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Bound {
    AtMost(f64),
    AtLeast(f64),
}

impl Bound {
    fn holds(self, value: f64) -> bool {
        match self {
            Bound::AtMost(limit) => value <= limit,
            Bound::AtLeast(limit) => value >= limit,
        }
    }

    fn limit(self) -> f64 {
        match self {
            Bound::AtMost(limit) | Bound::AtLeast(limit) => limit,
        }
    }

    pub(crate) fn text(self, unit: &str) -> String {
        match self {
            Bound::AtMost(limit) => format!("at most {limit} {unit}"),
            Bound::AtLeast(limit) => format!("at least {limit} {unit}"),
        }
    }
}

impl Target {
    /// "met", "missed by 12 ns", or that it was not measured.
    pub(crate) fn verdict(&self) -> String {
        match self.measured {
            None => "not measured".to_owned(),
            Some(value) if self.wanted.holds(value) => "met".to_owned(),
            Some(value) => {
                format!("missed by {}", self.text((value - self.wanted.limit()).abs()))
            }
        }
    }

    /// A value with its unit, as exact as it is of use.
    pub(crate) fn text(&self, value: f64) -> String {
        let digits = if self.unit == "times" { 2 } else { 1 };
        format!("{value:.digits$} {}", self.unit)
    }
}

/// All targets, in the light of what was measured and of what `cargo bench` left in `criterion`.
pub(crate) fn targets(
    outcomes: &[Outcome],
    scaling_runs: &[ScalingRun],
    commands: Option<&Commands>,
    latencies: &[Latency],
    criterion: Option<&Path>,
) -> Vec<Target> {
    let mut targets = engine(criterion);
    targets.extend(table(criterion));
    targets.extend(whole(outcomes));
    targets.extend(opening(outcomes, criterion));
    targets.push(memory());
    targets.push(stall(outcomes));
    targets.extend(two_workers(scaling_runs));
    targets.extend(obeying(commands));
    targets.push(idle(latencies));
    targets
}

fn whole(outcomes: &[Outcome]) -> [Target; 3] {
    [
        ("whole director over testpmd io, UDP, 1 k flows", 1 << 10, 30.0),
        ("whole director over testpmd io, UDP, 64 k flows", 1 << 16, 45.0),
        ("whole director over testpmd io, UDP, 1 M flows", 1 << 20, 60.0),
    ]
    .map(|(work, flows, limit)| Target {
        work,
        wanted: Bound::AtMost(limit),
        measured: udp(outcomes, Load::Forward, flows).and_then(Outcome::cost),
        unit: "ns",
        remark: String::new(),
    })
}

fn memory() -> Target {
    const CONNECTIONS: u32 = 1 << 20;
    Target {
        work: "memory per connection, all included",
        wanted: Bound::AtMost(100.0),
        measured: Some(connection_memory(CONNECTIONS) as f64 / f64::from(CONNECTIONS)),
        unit: "bytes",
        remark: "of a table for 1 M".to_owned(),
    }
}

fn two_workers(scaling_runs: &[ScalingRun]) -> [Target; 4] {
    use {Load::*, WorkerLayout::*};
    [
        ("two workers against one, one queue, steered in software", OneQueue, Forward, 1.2),
        ("the same, both ways", OneQueue, Both, 1.2),
        ("two workers against one, two queues with correct RSS", TwoQueues, Forward, 1.9),
        ("the same, both ways", TwoQueues, Both, 1.9),
    ]
    .map(|(work, layout, load, limit)| {
        let scaling_run = scaling_runs.iter().find(|scaling_run| scaling_run.case.load == load);
        let loss =
            scaling_run.and_then(|scaling_run| scaling_run.loss(layout)).filter(|loss| *loss > 0.0);
        Target {
            work,
            wanted: Bound::AtLeast(limit),
            measured: scaling_run.and_then(|scaling_run| scaling_run.times(layout)),
            unit: "times",
            remark: loss
                .map(|loss| format!("rings had no room for {:.1} % of the packets", 100.0 * loss))
                .unwrap_or_default(),
        }
    })
}

fn obeying(commands: Option<&Commands>) -> [Target; 2] {
    [
        Target {
            work: "longest turn with a command, 1 M connections, beyond idle",
            wanted: Bound::AtMost(LONG_US),
            measured: commands.map(Commands::beyond_idle_us),
            unit: "µs",
            remark: "listed, counted and killed, and rules replaced, while packets flow".to_owned(),
        },
        Target {
            work: "throughput while 1 M connections are listed",
            wanted: Bound::AtLeast(98.0),
            measured: commands.and_then(Commands::share_while_listed).map(|share| 100.0 * share),
            unit: "%",
            remark: String::new(),
        },
    ]
}

fn idle(latencies: &[Latency]) -> Target {
    let adaptive = latencies.iter().find(|latency| latency.is_adaptive());
    Target {
        work: "CPU that an idle director takes, idle = \"adaptive\"",
        wanted: Bound::AtMost(5.0),
        measured: adaptive.map(|latency| 100.0 * latency.idle_cpu),
        unit: "%",
        remark: String::new(),
    }
}

fn udp(outcomes: &[Outcome], load: Load, flows: u32) -> Option<&Outcome> {
    let case = Case { protocol: Protocol::Udp, mode: Mode::Nat, load, flows };
    outcomes.iter().find(|outcome| outcome.case == case)
}

/// Packets of a criterion run that counts whole bursts.
const BURST: f64 = 32.0;

fn engine(criterion: Option<&Path>) -> Vec<Target> {
    [
        ("engine alone, UDP established, 1 k flows", "engine_forward_udp/1024", 20.0),
        ("engine alone, UDP established, 1 M flows", "engine_forward_udp/1048576", 45.0),
    ]
    .map(|(work, name, limit)| Target {
        work,
        wanted: Bound::AtMost(limit),
        measured: estimate(criterion, name).map(|time| time / BURST),
        unit: "ns",
        remark: "copying the packet included".to_owned(),
    })
    .into()
}

fn table(criterion: Option<&Path>) -> [Target; 2] {
    let hit = |contender| {
        let name = format!("table_hit_uniform_{contender}/1048576");
        estimate(criterion, &name).map(|time| BURST * 1e3 / time)
    };
    let (ours, hashbrown) = (hit("shunt"), hit("hashbrown"));
    [
        Target {
            work: "table lookup hit, 1 M flows, batched",
            wanted: Bound::AtLeast(37.0),
            measured: ours,
            unit: "M/s",
            remark: String::new(),
        },
        Target {
            work: "the same against hashbrown",
            wanted: Bound::AtLeast(2.0),
            measured: ours.zip(hashbrown).map(|(ours, theirs)| ours / theirs),
            unit: "times",
            remark: hashbrown.map(|rate| format!("hashbrown: {rate:.1} M/s")).unwrap_or_default(),
        },
    ]
}

fn opening(outcomes: &[Outcome], criterion: Option<&Path>) -> Vec<Target> {
    let engine = |work, name| Target {
        work,
        wanted: Bound::AtLeast(5.0),
        measured: estimate(criterion, name).map(|time| 1e3 / time),
        unit: "M/s",
        remark: "schedule and insert, 1 M connections".to_owned(),
    };
    let director = |work, protocol| {
        let is_it = |outcome: &&Outcome| {
            let case = outcome.case;
            case == Case { protocol, mode: Mode::Nat, load: Load::Churn, flows: 1 << 20 }
        };
        let outcome = outcomes.iter().find(is_it);
        Target {
            work,
            wanted: Bound::AtLeast(5.0),
            measured: outcome.and_then(Outcome::opens),
            unit: "M/s",
            remark: outcome.map(churn).unwrap_or_default(),
        }
    };
    vec![
        engine("new connections, engine, UDP", "engine_open_udp/1048576"),
        engine("new connections, engine, TCP SYN", "engine_open_tcp/1048576"),
        director("new connections, whole director, UDP", Protocol::Udp),
        director("new connections, whole director, TCP SYN", Protocol::Tcp),
    ]
}

/// What goes on under churn.
fn churn(outcome: &Outcome) -> String {
    let share = outcome.opening_share().unwrap_or_default() * 100.0;
    let connections = outcome.connections().unwrap_or_default() / 1e3;
    format!(
        "receiving, ending and sending included; {share:.0} % of packets open, {connections:.0} k at once"
    )
}

fn stall(outcomes: &[Outcome]) -> Target {
    let crowd = outcomes.iter().find(|outcome| outcome.case == Case::CROWD);
    Target {
        work: "longest time between two polls while 1 M connections churn",
        wanted: Bound::AtMost(LONG_US),
        measured: crowd.and_then(Outcome::polls).map(|polls| polls.longest_us),
        unit: "µs",
        remark: crowd.and_then(stalls).unwrap_or_default(),
    }
}

/// What became of the longest times, and how much of it is the machine's own doing.
fn stalls(outcome: &Outcome) -> Option<String> {
    let (polls, nothing) = (outcome.polls()?, outcome.nothing()?);
    Some(format!(
        "{:.1} M at once; median {:.0} µs, 99 % at most {:.0} µs, {:.0} a second above {LONG_US} µs; a loop \
         that does nothing was interrupted {:.0} times a second for longer than a median poll leaves of \
         that, and for {:.0} µs at most",
        outcome.connections()? / 1e6,
        polls.median_us,
        polls.p99_us,
        polls.long_per_second,
        nothing.long_per_second,
        nothing.longest_us,
    ))
}

/// The median time of an iteration that criterion found, in nanoseconds.
fn estimate(criterion: Option<&Path>, name: &str) -> Option<f64> {
    let path = criterion?.join(name).join("new/estimates.json");
    let estimates: serde_json::Value = serde_json::from_slice(&fs::read(path).ok()?).ok()?;
    estimates["median"]["point_estimate"].as_f64()
}
