//! Several engines under one builder's rules, as the workers of a director.

use std::net::Ipv4Addr;

use shunt_nat::{Engine, Instant, RulesetBuilder, ServerId, Side, Verdict};
use shunt_packet::ipv4::Ipv4Packet;
use shunt_rules::{ForwardingMode, Persistence, RealServer, Rules, VirtualService};
use shunt_testkit::Packet;

use crate::harness::*;

struct Workers {
    engines: Vec<Engine>,
    builder: RulesetBuilder,
    now: Instant,
}

/// Ports go by turns to the workers.
fn owner(endpoint: std::net::SocketAddrV4) -> usize {
    usize::from(endpoint.port()) % 2
}

impl Workers {
    fn new(rules: &Rules) -> Workers {
        let mut builder = RulesetBuilder::new(7, 2);
        let rulesets =
            builder.build(rules, Instant::from_millis(1_000_000), owner).unwrap().rulesets;
        let config = Director::config(64);
        let engines = rulesets
            .into_iter()
            .map(|rules| Engine::new(&config, rules).expect("memory"))
            .collect();
        Workers { engines, builder, now: Instant::from_millis(1_000_000) }
    }

    fn change(&mut self, rules: &Rules) {
        let rulesets = self.builder.build(rules, self.now, owner).unwrap().rulesets;
        for (engine, ruleset) in self.engines.iter_mut().zip(rulesets) {
            engine.replace_rules(ruleset);
        }
    }

    /// A packet arrives at a worker; where it goes from there.
    fn receive(&mut self, worker: usize, side: Side, packet: Packet) -> Option<Ipv4Addr> {
        let mut bytes: Vec<u8> = packet.into();
        let mut packet = Ipv4Packet::parse(&mut bytes).expect("a sound packet");
        match self.engines[worker].process(self.now, side, &mut packet, &Lab) {
            Verdict::Translate(translation) => Some(translation.destination()),
            _ => None,
        }
    }

    /// A client's connection arrives at a worker; the server that it is given.
    fn open(&mut self, worker: usize, client: u16) -> Option<Ipv4Addr> {
        self.receive(worker, Side::Outside, tcp(&format!("192.168.1.200:{client}"), VIP).syn())
    }

    /// The same, and the handshake is finished.
    fn connect(&mut self, worker: usize, client: u16) -> Option<Ipv4Addr> {
        let server = self.open(worker, client)?;
        let client = format!("192.168.1.200:{client}");
        let answer = tcp(&format!("{server}:80"), &client).syn().ack(1);
        self.receive(worker, Side::Inside, answer).expect("a connection");
        self.receive(worker, Side::Outside, tcp(&client, VIP).ack(1))
    }

    fn reset(&mut self, worker: usize, client: u16) {
        let reset = tcp(&format!("192.168.1.200:{client}"), VIP).rst();
        self.receive(worker, Side::Outside, reset).expect("a connection");
        self.now = self.now + std::time::Duration::from_secs(13);
        self.engines[worker].expire(self.now, usize::MAX, |_| ());
    }
}

fn rules(service: VirtualService) -> Rules {
    rules_of(&[service], &[])
}

fn address(endpoint: &str) -> Option<Ipv4Addr> {
    Some(host(endpoint).parse().unwrap())
}

#[test]
fn rr_is_strict_over_all_of_them() {
    let mut rules = rules(rr(VIP, &[RS1, RS2]));
    let mut workers = Workers::new(&rules);
    for (client, worker) in (1..).zip([0, 0, 1, 0, 1, 1, 1, 0]) {
        let expected = if client % 2 == 1 { RS1 } else { RS2 };
        assert_eq!(workers.open(worker, client), address(expected), "{client}");
    }
    edit(&mut rules, 0).servers.reverse();
    workers.change(&rules);
    assert_eq!(workers.open(1, 9), address(RS1));
    assert_eq!(workers.open(0, 10), address(RS2));
}

#[test]
fn the_first_to_change_takes_the_turn_along() {
    let mut rules = rules(rr(VIP, &[RS1, RS2]));
    let mut workers = Workers::new(&rules);
    edit(&mut rules, 0).servers.rotate_left(1);
    let mut rulesets = workers.builder.build(&rules, workers.now, owner).unwrap().rulesets;
    assert_eq!(workers.open(0, 1), address(RS1), "both run the old rules still");
    for (worker, client) in [(1, 2), (0, 3)] {
        let ruleset = rulesets.pop().unwrap();
        workers.engines[worker].replace_rules(ruleset);
        let expected = if worker == 1 { RS2 } else { RS1 };
        assert_eq!(workers.open(worker, client), address(expected));
    }
}

#[test]
fn a_threshold_counts_the_connections_of_all() {
    let server = RealServer { upper_threshold: 2, ..real(RS1, 1) };
    let mut workers =
        Workers::new(&rules(VirtualService { servers: vec![server], ..rr(VIP, &[]) }));
    assert!(workers.open(0, 1).is_some());
    assert!(workers.open(1, 2).is_some());
    assert_eq!((workers.open(0, 3), workers.open(1, 3)), (None, None));
    let shared = |workers: &Workers, worker: usize| {
        workers.engines[worker].rules().server(ServerId(0)).unwrap().connections()
    };
    assert_eq!((shared(&workers, 0), shared(&workers, 1)), (2, 2));
    let own = workers.engines[1].server_counters().next().unwrap();
    assert_eq!((own.current(), own.connections), (1, 1));
    workers.reset(0, 1);
    assert!(workers.open(1, 3).is_some());
}

#[test]
fn a_client_keeps_its_server_on_all_of_them() {
    let timeout = std::time::Duration::from_secs(300);
    let persistence = Some(Persistence { timeout, prefix_len: 32 });
    let rules = rules(VirtualService { persistence, ..rr(VIP, &[RS1, RS2]) });
    let mut workers = Workers::new(&rules);
    for client in 1..=6 {
        assert_eq!(workers.open(usize::from(client) % 2, client), address(RS1));
    }
    workers.change(&rules);
    assert_eq!(workers.open(0, 7), address(RS1));
}

#[test]
fn a_number_is_kept_while_any_of_them_may_use_it() {
    let mut rules = rules(rr(VIP, &[RS1, RS2]));
    let mut workers = Workers::new(&rules);
    edit(&mut rules, 0).servers.remove(0);
    let mut rulesets = workers.builder.build(&rules, workers.now, owner).unwrap().rulesets;
    workers.engines[0].replace_rules(rulesets.remove(0));
    // The second worker has not changed when the rules do again.
    edit(&mut rules, 0).servers.push(real("192.168.2.230:80", 1));
    rulesets.append(&mut workers.builder.build(&rules, workers.now, owner).unwrap().rulesets);
    assert_eq!(
        workers.open(1, 1),
        address(RS2),
        "who was removed gets nothing from it all the same"
    );
    let [first, own, last] = rulesets.try_into().expect("three");
    workers.engines[1].replace_rules(first);
    workers.engines[0].replace_rules(own);
    workers.engines[1].replace_rules(last);
    let listed = |workers: &Workers| -> Vec<_> {
        let mut services = workers.engines[1].rules().services();
        services.next().unwrap().2.iter().map(|server| server.id()).collect()
    };
    assert_eq!(listed(&workers), [ServerId(1), ServerId(2)]);
    edit(&mut rules, 0).servers.push(real("192.168.2.240:80", 1));
    workers.change(&rules);
    assert_eq!(listed(&workers), [ServerId(1), ServerId(2), ServerId(0)]);
}

#[test]
fn local_ports_are_the_owners() {
    let service = VirtualService { mode: ForwardingMode::FullNat, ..rr(VIP, &[RS1]) };
    let local_addresses = vec![local(INSIDE_ADDRESS, 60_000..=60_004)];
    let mut workers = Workers::new(&Rules { local_addresses, ..rules(service) });
    for (client, worker) in (1..).zip([0, 0, 0, 1, 1]) {
        assert!(workers.open(worker, client).is_some(), "{client}");
    }
    assert_eq!((workers.open(0, 6), workers.open(1, 7)), (None, None), "all are taken");
    for (worker, engine) in workers.engines.iter().enumerate() {
        let usage = engine.rules().local_usage();
        assert_eq!((usage.endpoints, usage.in_use), (3 - worker as u64, 3 - worker as u64));
        for connection in engine.table().iter() {
            let seen_as = connection.key(shunt_nat::Direction::Outbound).dst();
            assert_eq!(owner(seen_as), worker);
        }
    }
}

#[test]
fn clients_noted_under_the_rules_from_before_are_forgotten() {
    let persistent = |prefix_len| {
        let timeout = std::time::Duration::from_secs(300);
        let persistence = Some(Persistence { timeout, prefix_len });
        rules(VirtualService { persistence, ..rr(VIP, &[RS1, RS2]) })
    };
    let mut workers = Workers::new(&persistent(32));
    let rulesets = workers.builder.build(&persistent(24), workers.now, owner).unwrap().rulesets;
    assert_eq!(workers.connect(0, 1), address(RS1), "it has not gone over yet");
    for (engine, ruleset) in workers.engines.iter_mut().zip(rulesets) {
        engine.replace_rules(ruleset);
    }
    workers.connect(1, 2);
    let clients = |workers: &Workers| workers.engines[0].rules().persistent_clients();
    assert_eq!(clients(&workers), 2, "the client as it was, and its network");
    workers.builder.settle();
    assert_eq!(clients(&workers), 1);
}
