use std::{collections::VecDeque, net::Ipv4Addr, sync::Arc, time::Duration};

use shunt_nat::{
    Direction::{Inbound, Outbound},
    EgressId, EgressSet, Engine, EngineConfig, Instant, RulesetBuilder, Side, Topology, Verdict,
};
use shunt_packet::{
    ethernet::{EtherType, EthernetHeader},
    ipv4::Ipv4Packet,
};
use shunt_rules::{RealServer, Rules};
use shunt_testkit::{describe, ethernet, mac, verify_checksums};

use crate::{
    checks,
    endpoints::{TestNetwork, rules},
    fast_path::{Noted, Passed, pass, process_slowly},
    invariants, scenes,
    steps::{Change, Step, Steps, Wait},
};

/// How late the table may notice that a connection's time is up: two ticks of its wheel.
const SLACK: Duration = Duration::from_millis(2048);

/// Packets that can be answered, reported or replayed.
const REMEMBERED: usize = 8;

const LONGEST_BURST: usize = 8;

/// An engine that does everything, with little room, under constant supervision.
pub struct Director {
    engine: Engine,
    builder: RulesetBuilder,
    rules: Rules,
    now: Instant,
    /// The newest first, as they arrived and as they left; IPv4.
    arrived: VecDeque<Vec<u8>>,
    left: VecDeque<Vec<u8>>,
    last_side: Side,
    /// IPv4 packets that have come of a burst, and how many it will have.
    burst: Vec<(Side, Vec<u8>)>,
    burst_len: usize,
    /// Whether packets are checked, and after each the invariants: that takes most of the time.
    is_supervised: bool,
}

impl Default for Director {
    fn default() -> Director {
        Director::new()
    }
}

impl Director {
    /// A director that has seen nothing.
    #[must_use]
    pub fn new() -> Director {
        let rules = rules();
        let config = EngineConfig { capacity: 12, secret: [11, 22, 33, 44] };
        let mut builder = RulesetBuilder::new(7, 1);
        let ruleset =
            builder.build(&rules, Instant::default(), |_| 0).expect("IPv4").rulesets.remove(0);
        Director {
            engine: Engine::new(&config, ruleset).expect("memory"),
            builder,
            rules,
            now: Instant::from_millis(987_654_321),
            arrived: VecDeque::new(),
            left: VecDeque::new(),
            last_side: Side::Outside,
            burst: Vec::new(),
            burst_len: 1,
            is_supervised: true,
        }
    }

    /// A director that has seen all sorts of traffic, and in whose table it still is.
    #[must_use]
    pub fn experienced() -> Director {
        let mut director = Director { is_supervised: false, ..Director::new() };
        for (_, Steps(steps)) in scenes().iter().take_while(|(name, _)| *name != "silence") {
            steps.iter().for_each(|step| director.step(step));
        }
        director.end_burst();
        director.is_supervised = true;
        director
    }

    /// Does one step.
    ///
    /// # Panics
    /// When something does not hold that must.
    pub fn step(&mut self, step: &Step) {
        if matches!(step, Step::Wait(_) | Step::Burst(_) | Step::Change(_)) {
            self.end_burst();
        }
        match step {
            Step::Built(built) => {
                let (packet, on_wrong_side) = built.packet();
                self.arrive(&packet, on_wrong_side);
            }
            Step::Answer(answer) => {
                if let Some(left) = remembered(&self.left, answer.to) {
                    let packet = answer.packet(left);
                    self.arrive(&packet, false);
                }
            }
            Step::Error(error) => {
                let left = remembered(&self.left, error.about);
                if let Some(packet) = left.and_then(|left| error.packet(left)) {
                    let dst = address(left.map_or(&[], Vec::as_slice), 16);
                    self.receive(side_of(dst), &framed(&packet));
                }
            }
            Step::Replay(replay) => {
                if let Some(arrived) = remembered(&self.arrived, replay.which) {
                    let packet = replay.packet(arrived);
                    self.arrive(&packet, replay.how & 2 != 0);
                }
            }
            Step::Raw(raw) => {
                let side = if raw.how & 2 == 0 { Side::Outside } else { Side::Inside };
                self.receive(side, &framed(&raw.packet()));
            }
            Step::Wait(wait) => self.wait(wait),
            Step::Burst(burst) => self.begin_burst(usize::from(burst.count) % LONGEST_BURST + 1),
            Step::Change(change) => self.change(*change),
        }
    }

    /// So many packets that come next do so at once.
    pub fn begin_burst(&mut self, packets: usize) {
        self.burst_len = packets;
    }

    /// A packet arrives on the side on which its source lives, or on the other one.
    fn arrive(&mut self, packet: &[u8], on_wrong_side: bool) {
        let home = side_of(address(packet, 12));
        let side = match (home, on_wrong_side) {
            (Side::Outside, false) | (Side::Inside, true) => Side::Outside,
            _ => Side::Inside,
        };
        self.receive(side, &framed(packet));
    }

    /// A frame arrives, and is handled as a worker does, with the others of its burst: what has no sound
    /// IPv4 header goes no further.
    ///
    /// # Panics
    /// When something does not hold that must.
    pub fn receive(&mut self, side: Side, frame: &[u8]) {
        let mut frame = frame.to_vec();
        let Ok((header, payload)) = EthernetHeader::split(&mut frame) else { return };
        let arrived = payload.to_vec();
        let is_sound = Ipv4Packet::parse(payload).is_ok_and(|packet| packet.checksum_is_sound());
        if header.ethertype != EtherType::IPV4 || !is_sound {
            return;
        }
        self.burst.push((side, arrived));
        if self.burst.len() >= self.burst_len {
            self.end_burst();
        }
    }

    /// Takes a burst through the engine: packets of one side after the other.
    fn end_burst(&mut self) {
        self.burst_len = 1;
        let burst = std::mem::take(&mut self.burst);
        for packets in burst.chunk_by(|(side, _), (other, _)| side == other) {
            let arrived: Vec<_> = packets.iter().map(|(_, arrived)| arrived.clone()).collect();
            self.process(packets[0].0, &arrived);
        }
        if self.is_supervised
            && let Err(error) = self.check()
        {
            panic!("{error}\nafter a burst\n{}", self.dump());
        }
    }

    /// Packets take the fast path, if they can, and the slow path at any rate: that makes the same of
    /// them.
    fn process(&mut self, side: Side, packets: &[Vec<u8>]) {
        let is_alone = packets.len() == 1;
        let opened = self.engine.counters().opened;
        let before = self.engine.service_counters().collect();
        let passed = pass(&mut self.engine, self.now, side, packets);
        let is_opened = is_alone && self.engine.counters().opened != opened;
        let are_all_fast = passed.iter().all(|passed| matches!(passed, Passed::Fast(_)));
        let noted = Noted::of(&self.engine, self.now, &packets[0], before);

        for (arrived, passed) in packets.iter().zip(passed) {
            let (verdict, left, fast) = match passed {
                Passed::Slow(verdict, left) => (verdict, left, None),
                Passed::Fast(fast) => {
                    let (verdict, left) = process_slowly(&mut self.engine, self.now, side, arrived);
                    (verdict, left, Some(fast))
                }
            };
            if self.is_supervised
                && let Err(error) = checks::check(arrived, &left, &verdict)
                    .and_then(|()| match is_alone {
                        true => self.check_packet(arrived, &left, &verdict, is_opened),
                        false => Ok(()),
                    })
                    // Another one may have changed what the slow path makes of it.
                    .and_then(|()| match &fast {
                        Some(fast) if are_all_fast => fast.check(&left),
                        _ => Ok(()),
                    })
                    .and_then(|()| match &fast {
                        Some(_) if is_alone => noted.check(&self.engine, self.now),
                        _ => Ok(()),
                    })
            {
                panic!(
                    "{error}\n{side:?}: {verdict:?}\n{}\n{}\n{arrived:02x?}\n{left:02x?}\n{}",
                    describe(&framed(arrived)),
                    describe(&framed(&left)),
                    self.dump(),
                );
            }
            if matches!(verdict, Verdict::Translate(_) | Verdict::Forward) {
                remember(&mut self.left, left);
            }
            remember(&mut self.arrived, arrived.clone());
        }
        self.last_side = side;
    }

    fn check_packet(
        &self,
        arrived: &[u8],
        left: &[u8],
        verdict: &Verdict,
        is_opened: bool,
    ) -> Result<(), String> {
        match verdict {
            Verdict::Translate(_) => self.answer_belongs_to_it(arrived, left)?,
            _ if is_opened => return Err("a connection was opened".to_owned()),
            _ => {}
        }
        Ok(())
    }

    /// If the packet belongs to a connection, an answer to it does, too.
    fn answer_belongs_to_it(&self, arrived: &[u8], left: &[u8]) -> Result<(), String> {
        let (Some((key, _)), Some((_, answer))) = (checks::keys(arrived), checks::keys(left))
        else {
            return Ok(());
        };
        let table = self.engine.table();
        match (table.lookup(&key), table.lookup(&answer)) {
            (Some((id, _)), Some((found, _))) if id == found => Ok(()),
            (None, _) => Ok(()),
            _ => Err(format!("{answer:?} is not of the connection of {key:?}")),
        }
    }

    /// The last frame that arrived, and where.
    #[must_use]
    pub fn last_frame(&self) -> Option<(Side, Vec<u8>)> {
        self.arrived.front().map(|packet| (self.last_side, framed(packet)))
    }

    fn wait(&mut self, wait: &Wait) {
        const UNITS: [u64; 4] = [10, 1000, 10_000, 60_000];
        let millis = u64::from(wait.count) * UNITS[usize::from(wait.unit) % UNITS.len()];
        let budget = match wait.budget {
            u8::MAX => usize::MAX,
            budget => usize::from(budget),
        };
        self.pass(Duration::from_millis(millis), budget);
    }

    /// Connections whose time is up end, and no others but those of drained servers, unless that is
    /// more than the budget allows.
    fn pass(&mut self, time: Duration, budget: usize) {
        let before = self.now;
        let drained = self.engine.counters().drained;
        self.now = before + time;
        let deadlines: Vec<_> = (self.engine.table().iter())
            .map(|connection| (connection.key(Inbound), before + connection.remaining(before)))
            .collect();
        self.engine.expire(self.now, budget, |reset| {
            verify_checksums(&framed(reset)).expect("a sound reset");
        });
        let mut drained = self.engine.counters().drained - drained;
        for (key, deadline) in deadlines {
            let is_there = self.engine.table().lookup(&key).is_some();
            let is_overdue = deadline + SLACK <= self.now && budget == usize::MAX;
            let is_early = !is_there && deadline > self.now;
            // A drained server's connection may end before its time.
            let is_explained = is_early && drained > 0;
            drained -= u64::from(is_explained);
            if (is_there && is_overdue) || (is_early && !is_explained) {
                panic!("{key:?} until {deadline:?}, now {:?}\n{}", self.now, self.dump());
            }
        }
        if let Err(error) = self.check() {
            panic!("{error}\nafter {time:?}\n{}", self.dump());
        }
    }

    fn change(&mut self, change: Change) {
        let place = usize::from(change.place);
        let (all, rules) = (rules(), &mut self.rules);
        let nth = place % all.services.len();
        let service = |rules: &Rules| {
            rules.services.iter().position(|s| s.endpoints == all.services[nth].endpoints)
        };
        match change.to % 16 {
            weight @ 0..8 => {
                let weight = if weight < 4 { u16::from(weight) } else { u16::MAX };
                if let Some(server) = nth_server(rules, place) {
                    server.weight = weight;
                }
            }
            8..11 => {
                if let Some(service) = service(rules) {
                    let servers = &all.services[nth].servers;
                    let its = &mut Arc::make_mut(&mut rules.services[service]).servers;
                    toggle(its, servers, place / all.services.len(), |a, b| a.address == b.address);
                }
            }
            11..14 => {
                toggle(&mut rules.services, &all.services, place, |a, b| {
                    a.endpoints == b.endpoints
                });
            }
            14 => toggle(&mut rules.snat, &all.snat, place, PartialEq::eq),
            _ => {
                let ways = [EgressId::FIRST, EgressId::LAST];
                self.engine.release_egresses(&EgressSet::from_iter(ways));
            }
        }
        let ruleset =
            self.builder.build(&self.rules, self.now, |_| 0).expect("IPv4").rulesets.remove(0);
        self.engine.replace_rules(ruleset);
        if let Err(error) = self.check() {
            panic!("{error}\nafter {change:?}\n{}", self.dump());
        }
    }

    fn check(&self) -> Result<(), String> {
        invariants::check(&self.engine, &self.rules, self.now)
    }

    /// Waits until every connection has been silent for too long.
    ///
    /// # Panics
    /// When one remains, or anything that it used.
    pub fn end(mut self) {
        self.end_burst();
        self.pass(Duration::from_secs(3600), usize::MAX);
        assert!(self.engine.table().is_empty(), "connections remain\n{}", self.dump());
        assert_eq!(self.engine.incomplete_packets(), 0, "fragments remain");
    }

    fn dump(&self) -> String {
        let connections = self.engine.table().iter().map(|connection| {
            let (kind, state) = (connection.kind(), connection.state());
            let (inbound, outbound) = (connection.key(Inbound), connection.key(Outbound));
            format!("  {kind:?} {state:?}: {inbound:?} | {outbound:?}\n")
        });
        let servers: Vec<_> = self.engine.server_counters().collect();
        format!("{}{:?}\n{servers:?}", connections.collect::<String>(), self.engine.counters())
    }
}

/// Takes one of `all` items out, or puts it back.
fn toggle<T: Clone>(there: &mut Vec<T>, all: &[T], nth: usize, is_same: impl Fn(&T, &T) -> bool) {
    let Some(nth) = nth.checked_rem(all.len()) else { return };
    match there.iter().position(|item| is_same(item, &all[nth])) {
        Some(place) => drop(there.remove(place)),
        None => there.push(all[nth].clone()),
    }
}

fn nth_server(rules: &mut Rules, nth: usize) -> Option<&mut RealServer> {
    let mut servers: Vec<_> = rules
        .services
        .iter_mut()
        .map(Arc::make_mut)
        .flat_map(|service| service.servers.iter_mut().chain(&mut service.fallback))
        .collect();
    let nth = nth.checked_rem(servers.len())?;
    Some(servers.swap_remove(nth))
}

fn remember(packets: &mut VecDeque<Vec<u8>>, packet: Vec<u8>) {
    packets.truncate(REMEMBERED - 1);
    packets.push_front(packet);
}

fn remembered(packets: &VecDeque<Vec<u8>>, place: u8) -> Option<&Vec<u8>> {
    packets.get(usize::from(place) % REMEMBERED)
}

/// The address at an offset; a packet too short for one is refused anyway.
fn address(packet: &[u8], at: usize) -> Ipv4Addr {
    let octets = packet.get(at..at + 4).and_then(|octets| <[u8; 4]>::try_from(octets).ok());
    Ipv4Addr::from(octets.unwrap_or_default())
}

fn side_of(address: Ipv4Addr) -> Side {
    TestNetwork.side_of(address).unwrap_or(Side::Outside)
}

fn framed(packet: &[u8]) -> Vec<u8> {
    ethernet(mac(1), mac(2), 0x0800, packet)
}
