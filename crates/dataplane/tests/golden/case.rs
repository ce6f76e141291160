//! A case reads as a table: what it shows, then what arrives and what must leave, poll by poll, then
//! what must be counted. What isn't named must not leave and must not be counted.

use std::time::Duration;

use shunt_dataplane::{DropReason, PipelineCounters};
use shunt_nat::{EngineCounters, PoolUsage, ServiceCounters};
use shunt_testkit::{describe, verify_checksums};

use crate::{
    layout::{WorkerLayout, flow, shows_owner},
    network::{ACQUAINTED, Frame, RULES, VIP, own},
    stage::{self, Change, Outcome, Script, Setup},
};

/// How long a case goes on before it begins: the director's start, its second announcement among it.
pub(crate) const PRELUDE: Duration = Duration::from_secs(2);

/// Some polls at one time.
#[derive(Clone, Debug, Default)]
pub(crate) struct Step {
    /// Time since the step before.
    pub(crate) wait: Duration,
    /// What the director is to run from here on.
    pub(crate) change: Option<Change>,
    pub(crate) arrivals: Vec<Frame>,
    departures: Vec<Frame>,
    any_order: bool,
    anything: bool,
}

/// What a case must have counted, besides what the harness counts itself.
#[derive(Debug, Default)]
struct Counts {
    drops: Vec<(DropReason, u64)>,
    pipeline: PipelineCounters,
    engine: EngineCounters,
    services: Vec<ServiceCounters>,
    pools: Vec<(&'static str, PoolUsage)>,
    held: usize,
    lost_by_device: u64,
}

/// See the module.
#[must_use = "run it"]
pub(crate) struct Case {
    description: String,
    setup: Setup,
    is_cold: bool,
    checks_checksums: bool,
    is_alone: bool,
    steps: Vec<Step>,
    expected: Counts,
}

impl Case {
    /// A case for a director that knows all of its neighbours.
    pub(crate) fn new(description: impl Into<String>) -> Case {
        Case {
            description: description.into(),
            setup: Setup::new(RULES),
            is_cold: false,
            checks_checksums: true,
            is_alone: false,
            steps: vec![Step::default()],
            expected: Counts::default(),
        }
    }

    /// The director has just been started, and knows nobody.
    pub(crate) fn cold(mut self) -> Case {
        self.is_cold = true;
        self
    }

    /// More keys in the tables of both ports.
    pub(crate) fn port_keys(mut self, keys: &'static str) -> Case {
        self.setup.port_keys = keys;
        self
    }

    /// Other MTUs than 1500 outside and 1400 inside.
    pub(crate) fn mtus(mut self, outside: u16, inside: u16) -> Case {
        self.setup.mtus = [outside, inside];
        self
    }

    /// More keys in the table `[nat]`.
    pub(crate) fn nat_keys(mut self, keys: &'static str) -> Case {
        self.setup.nat_keys = keys;
        self
    }

    /// Other routes, services and SNAT rules.
    pub(crate) fn rules(mut self, rules: impl Into<String>) -> Case {
        self.setup.rules = rules.into();
        self
    }

    /// More mbufs than 256.
    pub(crate) fn mbufs(mut self, mbufs: u32) -> Case {
        self.setup.mbufs = mbufs;
        self
    }

    /// What leaves has wrong checksums, and must have.
    pub(crate) fn wrong_checksums(mut self) -> Case {
        self.checks_checksums = false;
        self
    }

    /// One worker alone can play it: it is about limits or source ports, of which several have a share
    /// each.
    pub(crate) fn alone(mut self) -> Case {
        self.is_alone = true;
        self
    }

    /// A frame arrives; in a poll of its own when something is to leave before. One poll takes from
    /// the outside first.
    pub(crate) fn arrives(mut self, frame: Frame) -> Case {
        if !self.last().departures.is_empty() {
            self.steps.push(Step::default());
        }
        self.last().arrivals.push(frame);
        self
    }

    /// A frame must leave in the same poll, behind those named before.
    pub(crate) fn leaves(mut self, frame: Frame) -> Case {
        self.last().departures.push(frame);
        self
    }

    /// What leaves in this poll may do so in any order.
    pub(crate) fn in_any_order(mut self) -> Case {
        self.last().any_order = true;
        self
    }

    /// What leaves in this poll is not compared, but for its checksums.
    pub(crate) fn leaves_anything(mut self) -> Case {
        self.last().anything = true;
        self
    }

    /// Time passes. What comes next is in a poll of its own, which takes it in before it looks at what
    /// is due: with `after_millis(0)` in between, that is done first.
    pub(crate) fn after_millis(mut self, millis: u64) -> Case {
        self.steps.push(Step { wait: Duration::from_millis(millis), ..Step::default() });
        self
    }

    /// The director gets other routes, services and SNAT rules, and runs them from here on.
    pub(crate) fn changes_to(self, rules: impl Into<String>) -> Case {
        self.changes_addresses_to(VIP, rules)
    }

    /// The outside port gets another address along with them.
    pub(crate) fn changes_addresses_to(
        mut self,
        outside: &'static str,
        rules: impl Into<String>,
    ) -> Case {
        let change = Change { outside, nat_keys: self.setup.nat_keys, rules: rules.into() };
        self.steps.push(Step { change: Some(change), ..Step::default() });
        self
    }

    /// The table `[nat]` gets other keys, and all else stays as at the start.
    pub(crate) fn changes_nat_keys_to(mut self, nat_keys: &'static str) -> Case {
        let change = Change { outside: VIP, nat_keys, rules: self.setup.rules.clone() };
        self.steps.push(Step { change: Some(change), ..Step::default() });
        self
    }

    /// So many packets must have been dropped for that reason.
    pub(crate) fn drops(mut self, reason: DropReason, packets: u64) -> Case {
        self.expected.drops.push((reason, packets));
        self
    }

    /// What the pipeline must have counted.
    pub(crate) fn pipeline(mut self, counters: PipelineCounters) -> Case {
        self.expected.pipeline = counters;
        self
    }

    /// What the NAT engine must have counted.
    pub(crate) fn engine(mut self, counters: EngineCounters) -> Case {
        self.expected.engine = counters;
        self
    }

    /// So many connections must have been opened, and nothing else happened to any.
    pub(crate) fn opens(self, connections: u64) -> Case {
        self.engine(EngineCounters { opened: connections, ..EngineCounters::default() })
    }

    /// What the first services of the file must have counted.
    pub(crate) fn services(mut self, counters: &[ServiceCounters]) -> Case {
        self.expected.services = counters.to_vec();
        self
    }

    /// How much of its pools of source endpoints must be in use when it ends.
    pub(crate) fn pools(mut self, pools: &[(&'static str, PoolUsage)]) -> Case {
        self.expected.pools = pools.to_vec();
        self
    }

    /// So many packets must still wait, for a neighbour or for a first fragment, when it ends.
    pub(crate) fn held(mut self, packets: usize) -> Case {
        self.expected.held = packets;
        self
    }

    /// So many frames must have been lost by the devices, for want of mbufs.
    pub(crate) fn lost_by_device(mut self, frames: u64) -> Case {
        self.expected.lost_by_device = frames;
        self
    }

    fn last(&mut self) -> &mut Step {
        self.steps.last_mut().expect("a case has a step from the start")
    }

    /// Plays the case with one worker, and then with several, and panics with what was otherwise than
    /// expected. What is returned is the outcome with one worker, and starts with the prelude.
    #[track_caller]
    pub(crate) fn run(self) -> Outcome {
        let outcome = self.run_by(WorkerLayout::ALONE);
        if !self.is_alone {
            for layout in WorkerLayout::SEVERAL {
                self.run_by(layout);
            }
        }
        outcome
    }

    /// Plays the case with one layout.
    #[track_caller]
    pub(crate) fn run_by(&self, layout: WorkerLayout) -> Outcome {
        let prelude = if self.is_cold { Vec::new() } else { prelude() };
        let steps: Vec<Step> = prelude.iter().chain(&self.steps).cloned().collect();
        let script = Script::new(&steps, prelude.len(), layout);
        let outcome = stage::play(&script, &self.setup);

        let mut complaints = Vec::new();
        let played = outcome.departures.iter().skip(prelude.len());
        for (number, (step, left)) in self.steps.iter().zip(played).enumerate() {
            complaints
                .extend(compare(step, left, layout).map(|what| format!("poll {number}: {what}")));
        }
        if self.checks_checksums {
            for frame in outcome.departures.iter().flatten() {
                let wrong = verify_checksums(&frame.bytes).err();
                complaints
                    .extend(wrong.map(|wrong| format!("{wrong}: {}", describe(&frame.bytes))));
            }
        }
        complaints.extend(self.expected.compare(&script, &outcome));
        let shows_owner = |step: &Step| step.arrivals.iter().all(shows_owner);
        if layout.is_well_served() && self.steps.iter().all(shows_owner) {
            let handed_over = outcome.report.ports.iter().map(|port| port.counters.handed_over);
            let handed_over: u64 = handed_over.sum();
            complaints.extend((handed_over > 0).then(|| format!("{handed_over} handed over")));
        }
        assert!(
            complaints.is_empty(),
            "{}, with {} workers and {} queues:\n{}\n\nThe director says:\n{}",
            self.description,
            layout.workers,
            layout.queues,
            complaints.join("\n"),
            outcome.report
        );
        outcome
    }
}

/// The director starts, and everybody asks for it, so that it learns of everybody.
fn prelude() -> Vec<Step> {
    let arrivals = ACQUAINTED.map(|host| host.asks_for(own(host.side))).to_vec();
    vec![Step::default(), Step { wait: PRELUDE, arrivals, ..Step::default() }]
}

/// What left, if it isn't what a step wants. Workers keep the order of frames within a flow only.
fn compare(step: &Step, left: &[Frame], layout: WorkerLayout) -> Option<String> {
    let sides = |frames: &[Frame]| -> Vec<(usize, Vec<u8>)> {
        let mut frames: Vec<_> =
            frames.iter().map(|frame| (frame.side as usize, frame.bytes.clone())).collect();
        if step.any_order {
            frames.sort();
        } else if layout.workers > 1 {
            frames.sort_by_cached_key(|(side, bytes)| (*side, flow(bytes)));
        } else {
            // Each side's frames are in order; between the sides there is none.
            frames.sort_by_key(|(side, _)| *side);
        }
        frames
    };
    let (expected, left) = (sides(&step.departures), sides(left));
    if step.anything || expected == left {
        return None;
    }
    let list = |frames: &[(usize, Vec<u8>)]| -> String {
        let name = |side| if side == 0 { "outside" } else { "inside" };
        let line = |(side, bytes): &(usize, Vec<u8>)| {
            format!("\n    {} {}\n      {bytes:02x?}", name(*side), describe(bytes))
        };
        if frames.is_empty() { "\n    nothing".into() } else { frames.iter().map(line).collect() }
    };
    Some(format!("\n  must leave:{}\n  left:{}", list(&expected), list(&left)))
}

impl Counts {
    /// What was counted otherwise.
    fn compare(&self, script: &Script, outcome: &Outcome) -> Vec<String> {
        let mut complaints = Vec::new();
        let mut complain = |what: &str, expected: String, found: String| {
            if expected != found {
                complaints.push(format!("{what}\n  must be: {expected}\n  is:      {found}"));
            }
        };
        let report = &outcome.report;
        let drops = |reason: DropReason| {
            let named = self.drops.iter().filter(|(named, _)| *named == reason);
            let padding = if reason == DropReason::NotForUs { script.padding() } else { 0 };
            named.map(|(_, packets)| packets).sum::<u64>() + padding
        };
        for reason in DropReason::ALL {
            let what = format!("dropped {}", reason.as_str());
            complain(&what, drops(*reason).to_string(), report.drops.get(*reason).to_string());
        }
        complain("pipeline", format!("{:?}", self.pipeline), format!("{:?}", outcome.pipeline));
        complain("engine", format!("{:?}", self.engine), format!("{:?}", report.engine));
        for (expected, service) in self.services.iter().zip(&report.services) {
            let what = format!("service {:?}", service.name);
            complain(&what, format!("{expected:?}"), format!("{:?}", service.counters));
        }
        for (name, expected) in &self.pools {
            let usage = report.pools.iter().find(|(pool, _)| pool == name);
            let usage = usage.map(|(_, usage)| *usage);
            complain(name, format!("{:?}", Some(expected)), format!("{usage:?}"));
        }
        complain("held", self.held.to_string(), outcome.held.to_string());

        let sum = |count: fn(&shunt_dataplane::PortReport) -> u64| -> u64 {
            report.ports.iter().map(count).sum()
        };
        let lost = sum(|port| port.device.rx_nombuf);
        complain("lost by devices", self.lost_by_device.to_string(), lost.to_string());
        let arrived = script.frames() - lost;
        let rx = sum(|port| port.counters.rx_packets);
        complain("rx packets", arrived.to_string(), rx.to_string());
        if lost == 0 {
            let rx = sum(|port| port.counters.rx_bytes);
            complain("rx bytes", script.bytes().to_string(), rx.to_string());
        }
        let (left, bytes) = (outcome.frames_left(), outcome.bytes_left());
        let tx = (sum(|port| port.counters.tx_packets), sum(|port| port.counters.tx_bytes));
        complain("tx packets and bytes", format!("{:?}", (left, bytes)), format!("{tx:?}"));
        let errors = sum(|port| port.device.ierrors + port.device.oerrors + port.device.imissed);
        complain("device errors", "0".into(), errors.to_string());
        // net_pcap has no RSS to claim anything by.
        let misplaced = sum(|port| port.counters.misplaced);
        complain("misplaced", "0".into(), misplaced.to_string());
        complain("mbufs", format!("{} of {0}, 0 missing", report.mbufs.size), {
            let mbufs = report.mbufs;
            format!("{} of {}, {} missing", mbufs.available, mbufs.size, mbufs.missing())
        });
        complaints
    }
}
