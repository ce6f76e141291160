//! Runs engine and model side by side, and compares all that can be seen of them.

use std::net::SocketAddrV4;

use shunt_nat::{
    ConnectionKind,
    Direction::{self, Inbound, Outbound},
    DropReason, EgressId, Engine, Instant, Prepared, Rules, RulesetBuilder, ServerCounters,
    ServerId, ServiceCounters, ServiceId, Side, Topology, Translation, Verdict,
    fragments::{FragmentError, FragmentKey, HoldLimits, HoldQueue},
};
use shunt_packet::{ipv4::Ipv4Packet, plain::PlainPacket};
use shunt_testkit::{describe, ethernet, mac, verify_checksums};

use crate::{
    connection::{Connection, Owner},
    flow::Flow,
    model::Model,
    outcome::Outcome,
    packet::{Shape, build, icmp_error},
    rewrite::translated,
    setup::{Lab, Setup},
    steps::Step,
    wire::{ICMP, Ip},
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
    pub(crate) engine: Engine,
    model: Model,
    builder: RulesetBuilder,
    pub(crate) rules: Rules,
    first_rules: Rules,
    pub(crate) now: u64,
    /// Fragments that wait for the first one of their packet.
    held: HoldQueue<Vec<u8>>,
    /// What became of the packet of the last step, if that was one.
    pub(crate) outcome: Option<Outcome>,
    /// Packets that took the short way.
    pub(crate) forwarded: u64,
    last_left: Option<Vec<u8>>,
    /// Resets that the last step sent.
    pub(crate) resets: usize,
}

impl Run {
    pub(crate) fn new(setup: Setup) -> Run {
        // A clock's start means nothing; an odd one shows who thinks that it does.
        let now = 987_654_321;
        let mut builder = RulesetBuilder::new(setup.seed, 1);
        let ruleset = builder.build(&setup.rules, |_| 0).rulesets.remove(0);
        let mut engine = Engine::new(&setup.config(), ruleset);
        engine.expire(Instant::from_millis(now), 0, |_| {});
        let held = HoldQueue::new(HoldLimits::default(), setup.config().secret);
        let model = Model::new(&setup);
        let (rules, first_rules) = (setup.rules.clone(), setup.rules);
        Run {
            engine,
            model,
            builder,
            rules,
            first_rules,
            now,
            held,
            outcome: None,
            forwarded: 0,
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
                let ruleset = self.builder.build(&self.rules, |_| 0).rulesets.remove(0);
                self.engine.replace_rules(Instant::from_millis(self.now), ruleset);
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
        let outcome = self.process(side, arrived)?;
        let witness = Witness { engine: &self.engine, outcome: &outcome };
        let expected = self.model.receive(self.now, side, ip, witness);
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

    /// Has the engine process a packet, and does as it says.
    fn process(&mut self, side: Side, arrived: &[u8]) -> Result<Outcome, String> {
        let mut bytes = arrived.to_vec();
        let mut packet = Ipv4Packet::parse(&mut bytes).map_err(|error| error.to_string())?;
        let key = FragmentKey::of(packet.header);
        let now = Instant::from_millis(self.now);
        let is_first = packet.header.is_fragment() && !packet.header.is_later_fragment();
        let prepared = PlainPacket::parse(&mut arrived.to_vec())
            .map_or_else(Prepared::default, |plain| self.engine.begin(&plain));
        if let Some(left) = self.forward(side, arrived, &prepared) {
            return Ok(Outcome::Sent(left, Vec::new()));
        }
        let verdict = self.engine.finish(now, side, &mut packet, &prepared, &Lab);
        let ends_waiting = match verdict {
            Verdict::Drop(DropReason::Fragment(error)) => error == FragmentError::Overlap,
            _ => is_first,
        };
        let waiting = if ends_waiting { self.take_held(&key) } else { Vec::new() };
        let outcome = match verdict {
            Verdict::Translate(translation) => {
                let left = apply(translation, arrived);
                equal("destination", translation.destination(), Ip(&left).dst())?;
                self.engine.note_egress(&prepared, side, EGRESS);
                let followers = waiting.iter().map(|held| apply(translation, held));
                return Ok(Outcome::Sent(left, followers.collect()));
            }
            Verdict::Forward => return Ok(Outcome::Forwarded(bytes)),
            Verdict::Reply(reply) => Outcome::Answered(reply),
            Verdict::Hold(held) => {
                equal("key of a fragment", held, key)?;
                self.held.hold(key, arrived.len(), arrived.to_vec(), now, drop);
                Outcome::Held
            }
            Verdict::Punt => Outcome::Punted,
            Verdict::Drop(reason) => Outcome::Dropped(reason),
        };
        equal("a packet that does not leave", &bytes[..], arrived)?;
        Ok(outcome)
    }

    /// Has a packet take the short way, if it can; the TTL is set back, as on the long way that is the
    /// caller's to lower.
    fn forward(&mut self, side: Side, arrived: &[u8], prepared: &Prepared) -> Option<Vec<u8>> {
        let mut bytes = arrived.to_vec();
        let packet = PlainPacket::parse(&mut bytes)?;
        let now = Instant::from_millis(self.now);
        let egress = self.engine.forward(now, side, packet, prepared, |_| true)?;
        assert_eq!(egress, EGRESS);
        let packet = Ipv4Packet::parse(&mut bytes).ok()?;
        packet.header.set_ttl(packet.header.ttl() + 1);
        self.forwarded += 1;
        Some(bytes)
    }

    fn take_held(&mut self, key: &FragmentKey) -> Vec<Vec<u8>> {
        while self.held.expire(Instant::from_millis(self.now)).is_some() {}
        std::iter::from_fn(|| self.held.pop(key)).collect()
    }

    fn expire(&mut self, budget: Option<usize>) -> Result<(), String> {
        let now = Instant::from_millis(self.now);
        let looked_at = budget.unwrap_or(usize::MAX);
        let mut resets = Vec::new();
        self.engine.expire(now, looked_at, |reset| resets.push(reset.to_vec()));
        let witness = Witness { engine: &self.engine, outcome: &Outcome::Punted };
        let mut expected = self.model.expire(self.now, looked_at, witness);
        self.resets = resets.len();
        resets.sort();
        expected.sort();
        equal("resets", resets, expected)?;
        let late = |connection: &&Connection| {
            connection.deadline() + SLACK <= self.now || self.model.is_drained(self.now, connection)
        };
        match self.model.connections.iter().find(late) {
            Some(connection) if budget.is_none() => Err(format!("{connection:?} lives too long")),
            _ => Ok(()),
        }
    }

    /// Everything that can be seen of both is the same.
    fn compare(&self) -> Result<(), String> {
        let (engine, model) = (&self.engine, &self.model);
        equal("counters", *engine.counters(), model.counters)?;
        self.compare_services()?;
        let witness = Witness { engine, outcome: &Outcome::Punted };
        for pool in model.pools() {
            equal("source endpoints", witness.usage(pool), model.usage(pool))?;
        }
        equal("incomplete packets", engine.incomplete_packets(), model.fragments.len())?;
        self.compare_clients()?;
        self.compare_connections()
    }

    fn compare_services(&self) -> Result<(), String> {
        let (engine, model) = (&self.engine, &self.model);
        let expected = model.services.iter().map(|service| {
            service.as_ref().map_or_else(ServiceCounters::default, |service| service.counters)
        });
        equal("services", engine.service_counters().collect(), expected.collect::<Vec<_>>())?;
        for (number, expected) in (0..).map(ServerId).zip(&model.servers) {
            let server = engine.rules().server(number);
            let seen = server.map(|server| {
                let counted = (server.active(), server.inactive(), server.is_overloaded());
                (server.weight(), counted)
            });
            let expected = expected.as_ref().map(|server| {
                (server.real.weight, (server.active, server.inactive, server.overloaded))
            });
            equal("weight, active, inactive, overloaded", seen, expected)?;
        }
        let counters: Vec<_> = engine.server_counters().collect();
        let expected = model.servers.iter().map(|server| {
            server.as_ref().map_or_else(ServerCounters::default, |server| ServerCounters {
                connections: server.given,
                active: server.active,
                inactive: server.inactive,
            })
        });
        equal("servers", counters, expected.collect())
    }

    fn compare_clients(&self) -> Result<(), String> {
        let now = Instant::from_millis(self.now);
        let mut kept: Vec<_> = self.engine.rules().kept_servers(now).collect();
        kept.sort_by_key(|(service, client, _)| (service.0, *client));
        let expected = self.model.clients.iter(self.now).map(|(service, client, server)| {
            (ServiceId(service as u32), client, ServerId(server as u32))
        });
        equal("kept servers", kept, expected.collect())
    }

    fn compare_connections(&self) -> Result<(), String> {
        let (table, connections) = (self.engine.table(), &self.model.connections);
        equal("connections", table.len(), connections.len())?;
        equal("records", table.iter().count(), connections.len())?;
        for connection in connections {
            self.compare_connection(connection)
                .map_err(|error| format!("{error}: {connection:?}"))?;
        }
        Ok(())
    }

    /// The engine finds it by both of its keys, and knows the same of it; packets of both directions
    /// are translated into inverses of each other.
    fn compare_connection(&self, connection: &Connection) -> Result<(), String> {
        let table = self.engine.table();
        let is_ambiguous = connection.flow(Inbound) == connection.flow(Outbound);
        for direction in [Inbound, Outbound] {
            let flow = connection.flow(direction);
            let (id, found) = table.lookup(&flow.key()).ok_or("is lost")?;
            let record = table.get(id);
            if !is_ambiguous {
                equal("direction", found, direction)?;
            }
            equal("inbound", Flow::from(record.key(Inbound)), connection.flow(Inbound))?;
            equal("outbound", Flow::from(record.key(Outbound)), connection.flow(Outbound))?;
            equal("expected", record.expected(direction), connection.expected[direction as usize])?;
        }
        let (id, _) = table.lookup(&connection.flow(Inbound).key()).ok_or("is lost")?;
        let record = table.get(id);
        let kind = match connection.owner {
            Owner::Service(service, server) => {
                ConnectionKind::Service(ServiceId(service as u32), ServerId(server as u32))
            }
            Owner::Snat => ConnectionKind::Snat,
            Owner::Passthrough => ConnectionKind::Passthrough,
        };
        equal("kind", record.kind(), kind)?;
        equal("state", record.state(), connection.state)?;
        let is_hidden = connection.is_hidden && connection.owner != Owner::Snat;
        equal("full NAT", record.is_full_nat(), is_hidden)?;
        let remaining = connection.deadline().saturating_sub(self.now);
        let counted = record.remaining(Instant::from_millis(self.now)).as_millis() as u64;
        equal("remaining", counted, remaining)?;
        for direction in [Inbound, Outbound] {
            let there = sample(connection.flow(direction), direction);
            let left = apply(record.translation(direction), &there);
            let expected = translated(&there, &connection.leaves_as(direction), None);
            equal("translation", left, expected)?;
        }
        Ok(())
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

/// A bare packet; its checksums stand for any.
fn sample(flow: Flow, direction: Direction) -> Vec<u8> {
    let mut bytes = vec![0x45, 0, 0, 40, 0, 0, 0, 0, 64, flow.protocol, 0x12, 0x34];
    let (src, dst): (SocketAddrV4, SocketAddrV4) = (flow.src, flow.dst);
    bytes.extend([src.ip().octets(), dst.ip().octets()].concat());
    if flow.protocol == ICMP {
        let (kind, identifier) =
            if direction == Inbound { (8, src.port()) } else { (0, dst.port()) };
        bytes.extend([kind, 0, 0x12, 0x34]);
        bytes.extend(identifier.to_be_bytes());
    } else {
        bytes.extend([src.port().to_be_bytes(), dst.port().to_be_bytes()].concat());
        bytes.extend([0, 20, 0x12, 0x34, 0, 0, 0, 0, 5 << 4, 0, 0, 0, 0x12, 0x34]);
    }
    bytes.resize(40, 0);
    bytes
}

/// On which side a packet of this direction arrives.
fn side_of(connection: &Connection, direction: Direction) -> Side {
    Lab.side_of(*connection.flow(direction).src.ip()).unwrap_or(Side::Outside)
}

fn apply(translation: Translation, packet: &[u8]) -> Vec<u8> {
    let mut bytes = packet.to_vec();
    if let Ok(mut packet) = Ipv4Packet::parse(&mut bytes) {
        translation.apply(&mut packet);
    }
    bytes
}

#[expect(clippy::needless_pass_by_value, reason = "what is compared is mostly made for that")]
fn equal<T: PartialEq + std::fmt::Debug>(what: &str, is: T, expected: T) -> Result<(), String> {
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
