//! Runs engines and model side by side, and compares what becomes of every packet.

use std::net::SocketAddrV4;

use shunt_nat::{
    BurstPacket,
    Direction::{self, Inbound},
    DropReason, EgressId, Engine, Instant, RulesetBuilder, Side, SlowPath, Topology, Translation,
    Verdict,
    fragments::{FragmentError, FragmentKey, HoldLimits, HoldQueue},
};
use shunt_packet::{ipv4::Ipv4Packet, plain::PlainPacket};
use shunt_rules::Rules;
use shunt_testkit::{describe, ethernet, mac, verify_checksums};

use crate::{
    connection::Connection,
    flow::Flow,
    model::{Arrival, Model},
    outcome::Outcome,
    packet::{Shape, build, icmp_error},
    setup::{Lab, Setup},
    steering::{Steering, owner},
    steps::Step,
    wire::Ip,
    witness::Witness,
};

/// The way out of all packets.
const EGRESS: EgressId = EgressId::FIRST;

/// How late the engine may notice that a connection's time is up, in milliseconds.
const SLACK: u64 = 2048;

/// Does all steps.
pub(crate) fn run(setup: Setup, steps: &[Step]) -> Result<(), String> {
    let mut run = Run::new(setup);
    for (number, step) in steps.iter().enumerate() {
        run.step(step).map_err(|error| format!("step {number}: {error}"))?;
    }
    Ok(())
}

pub(crate) struct Run {
    /// By worker.
    pub(crate) engines: Vec<Engine>,
    steering: Steering,
    pub(crate) model: Model,
    builder: RulesetBuilder,
    pub(crate) rules: Rules,
    first_rules: Rules,
    pub(crate) now: u64,
    /// By worker, fragments that wait for the first one of their packet.
    held: Vec<HoldQueue<Vec<u8>>>,
    /// What became of the packet of the last step, if that was one.
    pub(crate) outcome: Option<Outcome>,
    /// Packets that took the fast path.
    pub(crate) forwarded: u64,
    /// Fragments that waited to be told whose they are.
    pub(crate) steered_late: u64,
    last_left: Option<Vec<u8>>,
    /// Resets that the last step sent.
    pub(crate) resets: usize,
}

impl Run {
    pub(crate) fn new(setup: Setup) -> Run {
        // A clock's start means nothing; an odd one shows who thinks that it does.
        let now = 987_654_321;
        let (workers, config) = (setup.workers, setup.config());
        let mut builder = RulesetBuilder::new(setup.seed, workers);
        let update = builder
            .build(&setup.rules, Instant::from_millis(now), |endpoint| owner(endpoint, workers));
        let update = update.expect("rules that an engine can run");
        let engine = |ruleset| {
            let mut engine = Engine::new(&config, ruleset).expect("memory");
            engine.expire(Instant::from_millis(now), 0, |_| {});
            engine
        };
        let engines = update.rulesets.into_iter().map(engine).collect();
        let queue = || HoldQueue::new(HoldLimits::default(), config.secret);
        let held = std::iter::repeat_with(queue).take(workers).collect();
        let model = Model::new(&setup);
        let (rules, first_rules) = (setup.rules.clone(), setup.rules);
        Run {
            engines,
            steering: Steering::new(workers),
            model,
            builder,
            rules,
            first_rules,
            now,
            held,
            outcome: None,
            forwarded: 0,
            steered_late: 0,
            last_left: None,
            resets: 0,
        }
    }

    /// Does a step, and says what is different then.
    pub(crate) fn step(&mut self, step: &Step) -> Result<(), String> {
        let result = self.act(step).and_then(|()| self.compare());
        result.map_err(|error| format!("{error}\n{step:?}\n{}", self.dump()))
    }

    /// Does a step, and compares no more than what became of it.
    pub(crate) fn act(&mut self, step: &Step) -> Result<(), String> {
        (self.outcome, self.resets) = (None, 0);
        match step {
            Step::Packet { side, flow, is_request, shape } => {
                self.receive(*side, &build(*flow, *is_request, shape))
            }
            Step::Flood { side, flow, shape, count } => (0..*count).try_for_each(|nth| {
                let src_port = flow.src.port().wrapping_add(nth);
                let flow = Flow { src: SocketAddrV4::new(*flow.src.ip(), src_port), ..*flow };
                self.receive(*side, &build(flow, true, shape)).and_then(|()| self.compare())
            }),
            Step::Follow { connection, direction, is_odd, shape } => {
                let Some(connection) = self.pick(*connection) else { return Ok(()) };
                let side = side_of(connection, *direction);
                let packet = follow(connection, *direction, *is_odd, shape);
                self.receive(side, &packet)
            }
            Step::Error { connection, direction, kind, quoted, from, quoted_shape, shape } => {
                let Some(connection) = self.pick(*connection) else { return Ok(()) };
                let left_as = connection.leaves_as(*direction);
                let packet = build(left_as, *direction == Inbound, quoted_shape);
                let quote = &packet[..packet.len().min(*quoted)];
                let src = from.unwrap_or(*left_as.dst.ip());
                let error = icmp_error(src, *left_as.src.ip(), *kind, quote, shape);
                self.receive(side_of(connection, direction.opposite()), &error)
            }
            Step::ErrorAboutLast { kind, from, shape } => {
                let Some(quote) = self.last_left.clone() else { return Ok(()) };
                let (src, dst) = (Ip(&quote).src(), Ip(&quote).dst());
                let error = icmp_error(from.unwrap_or(dst), src, *kind, &quote, shape);
                self.receive(Lab.side_of(dst).unwrap_or(Side::Outside), &error)
            }
            Step::Wait { millis } => {
                self.now += millis;
                Ok(())
            }
            Step::Expire { budget } => self.expire(*budget),
            Step::Change(change) => {
                change.apply(&mut self.rules, &self.first_rules);
                let (now, workers) = (Instant::from_millis(self.now), self.engines.len());
                let update =
                    self.builder.build(&self.rules, now, |endpoint| owner(endpoint, workers));
                let update = update.expect("rules that an engine can run");
                for (engine, ruleset) in self.engines.iter_mut().zip(update.rulesets) {
                    engine.replace_rules(ruleset);
                }
                self.model.change(self.now, &self.rules);
                Ok(())
            }
        }
    }

    fn pick(&self, connection: usize) -> Option<&Connection> {
        let connections = &self.model.connections;
        connections.get(connection.checked_rem(connections.len())?)
    }

    fn receive(&mut self, side: Side, arrived: &[u8]) -> Result<(), String> {
        let mut bytes = arrived.to_vec();
        let parsed = Ipv4Packet::parse(&mut bytes).is_ok();
        let Some(ip) = Ip::whole(arrived).filter(|_| parsed) else {
            return equal("is a packet", parsed, Ip::whole(arrived).is_some());
        };
        let Some(worker) = self.steering.worker(side, ip) else { return Ok(()) };
        self.receive_at(worker, side, ip)?;
        for (side, follower) in self.steering.followers(ip) {
            self.compare()?;
            self.steered_late += 1;
            self.receive_at(worker, side, Ip(&follower))?;
        }
        Ok(())
    }

    /// A worker receives a packet that is its own.
    fn receive_at(&mut self, worker: usize, side: Side, ip: Ip<'_>) -> Result<(), String> {
        let arrived = ip.0;
        let outcome = self.process(worker, side, arrived)?;
        let witness = Witness { engines: &self.engines, outcome: &outcome };
        let expected = self.model.receive(Arrival { now: self.now, worker, side }, ip, witness);
        if outcome != expected {
            let story = format!("{}\nexpected {}", show(arrived), tell(&expected));
            return Err(format!("{story}\nbut was  {}", tell(&outcome)));
        }
        // What was sound stays so; what was not is the receiver's to find out.
        if let Outcome::Sent(left, _) | Outcome::Forwarded(left) = &outcome
            && verify_checksums(&framed(arrived)).is_ok()
        {
            verify_checksums(&framed(left)).map_err(|error| format!("{error}: {}", show(left)))?;
        }
        if let Outcome::Sent(left, _) = &outcome {
            self.last_left = Some(left.clone());
        }
        self.outcome = Some(outcome);
        Ok(())
    }

    /// Has a worker's engine process a packet, and does as it says.
    fn process(&mut self, worker: usize, side: Side, arrived: &[u8]) -> Result<Outcome, String> {
        let now = Instant::from_millis(self.now);
        let held = &mut self.held[worker];
        let mut result = None;
        let mut copy = arrived.to_vec();
        let mut burst = self.engines[worker].burst(now, side);
        let packets = burst.prefetch([PlainPacket::parse(&mut copy)]);
        packets.for_each([()], |(), packet| {
            result = Some(match fast_path(packet, arrived) {
                Ok(left) => {
                    self.forwarded += 1;
                    Ok(Outcome::Sent(left, Vec::new()))
                }
                Err(slow_path) => process_slowly(slow_path, held, now, arrived),
            });
        });
        result.expect("there was a packet")
    }

    fn expire(&mut self, budget: Option<usize>) -> Result<(), String> {
        let now = Instant::from_millis(self.now);
        let looked_at = budget.unwrap_or(usize::MAX);
        for worker in 0..self.engines.len() {
            let mut resets = Vec::new();
            self.engines[worker].expire(now, looked_at, |reset| resets.push(reset.to_vec()));
            let witness = Witness { engines: &self.engines, outcome: &Outcome::Punted };
            let mut expected = self.model.expire(self.now, worker, looked_at, witness);
            self.resets += resets.len();
            resets.sort();
            expected.sort();
            equal("resets", resets, expected)?;
        }
        let late = |connection: &&Connection| {
            connection.deadline() + SLACK <= self.now || self.model.is_drained(self.now, connection)
        };
        match self.model.connections.iter().find(late) {
            Some(connection) if budget.is_none() => Err(format!("{connection:?} lives too long")),
            _ => Ok(()),
        }
    }

    /// What a failed run's reader wants to know.
    fn dump(&self) -> String {
        let connections = self.model.connections.iter().map(|connection| {
            let left = connection.deadline().saturating_sub(self.now);
            format!("  {connection:?}, {left} ms left\n")
        });
        format!("at {}, the model has\n{}", self.now, connections.collect::<String>())
    }
}

/// Has a packet take the fast path, if it can; the TTL is set back, as on the slow path that is the
/// caller's to lower.
fn fast_path<'e>(packet: BurstPacket<'e>, arrived: &[u8]) -> Result<Vec<u8>, SlowPath<'e>> {
    let mut bytes = arrived.to_vec();
    let Some(view) = PlainPacket::parse(&mut bytes) else { return Err(packet.slow_path()) };
    let egress = packet.fast_path(view, |_| true, |_| true)?;
    assert_eq!(egress, EGRESS);
    let packet = Ipv4Packet::parse(&mut bytes).expect("a packet that was parsed");
    packet.header.set_ttl(packet.header.ttl() + 1);
    Ok(bytes)
}

/// Has a packet take the slow path, and does as the engine says.
fn process_slowly(
    slow_path: SlowPath<'_>,
    queue: &mut HoldQueue<Vec<u8>>,
    now: Instant,
    arrived: &[u8],
) -> Result<Outcome, String> {
    let mut bytes = arrived.to_vec();
    let mut packet = Ipv4Packet::parse(&mut bytes).map_err(|error| error.to_string())?;
    let key = FragmentKey::of(packet.header);
    let is_first = packet.header.is_fragment() && !packet.header.is_later_fragment();
    let (verdict, mut processed) = slow_path.process(&mut packet, &Lab);
    let ends_waiting = match verdict {
        Verdict::Drop(DropReason::Fragment(error)) => error == FragmentError::Overlap,
        _ => is_first,
    };
    let waiting = if ends_waiting { take_held(queue, &key, now) } else { Vec::new() };
    let outcome = match verdict {
        Verdict::Translate(translation) => {
            let left = apply(translation, arrived);
            equal("destination", translation.destination(), Ip(&left).dst())?;
            processed.note_egress(EGRESS);
            let followers = waiting.into_iter().map(|mut held| {
                let mut packet = Ipv4Packet::parse(&mut held).expect("a packet that was parsed");
                processed.count_late(&translation, packet.header);
                translation.apply(&mut packet);
                held
            });
            return Ok(Outcome::Sent(left, followers.collect()));
        }
        Verdict::Forward => return Ok(Outcome::Forwarded(bytes)),
        Verdict::Reply(reply) => Outcome::Answered(reply),
        Verdict::Hold(held) => {
            equal("key of a fragment", held, key)?;
            queue.hold(key, arrived.len(), arrived.to_vec(), now, drop);
            Outcome::Held
        }
        Verdict::Punt => Outcome::Punted,
        Verdict::Drop(reason) => Outcome::Dropped(reason),
    };
    equal("a packet that does not leave", &bytes[..], arrived)?;
    Ok(outcome)
}

fn take_held(held: &mut HoldQueue<Vec<u8>>, key: &FragmentKey, now: Instant) -> Vec<Vec<u8>> {
    while held.expire(now).is_some() {}
    std::iter::from_fn(|| held.pop(key)).collect()
}

/// A packet of a connection, as it arrives.
fn follow(connection: &Connection, direction: Direction, is_odd: bool, shape: &Shape) -> Vec<u8> {
    let expected = |direction: Direction| connection.expected[direction as usize].unwrap_or(0);
    let shape = Shape {
        sequence: shape.sequence.wrapping_add(expected(direction)),
        acknowledgment: shape.acknowledgment.wrapping_add(expected(direction.opposite())),
        ..shape.clone()
    };
    build(connection.flow(direction), (direction == Inbound) != is_odd, &shape)
}

/// On which side a packet of this direction arrives.
pub(crate) fn side_of(connection: &Connection, direction: Direction) -> Side {
    Lab.side_of(*connection.flow(direction).src.ip()).unwrap_or(Side::Outside)
}

pub(crate) fn apply(translation: Translation, packet: &[u8]) -> Vec<u8> {
    let mut bytes = packet.to_vec();
    if let Ok(mut packet) = Ipv4Packet::parse(&mut bytes) {
        translation.apply(&mut packet);
    }
    bytes
}

#[expect(clippy::needless_pass_by_value, reason = "what is compared is mostly made for that")]
pub(crate) fn equal<T: PartialEq + std::fmt::Debug>(
    what: &str,
    is: T,
    expected: T,
) -> Result<(), String> {
    if is == expected { Ok(()) } else { Err(format!("{what}: {is:?}, expected {expected:?}")) }
}

fn tell(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Sent(left, followers) => {
            let followers: String = followers.iter().map(|left| show(left)).collect();
            format!("sent {} {followers}", show(left))
        }
        Outcome::Forwarded(left) => format!("forwarded {}", show(left)),
        other => format!("{other:?}"),
    }
}

fn show(packet: &[u8]) -> String {
    format!("{}\n    {packet:02x?}", describe(&framed(packet)))
}

fn framed(packet: &[u8]) -> Vec<u8> {
    ethernet(mac(1), mac(2), 0x0800, packet)
}
