//! The fast path through the engine: what may take it, and that it does as the slow path.

use std::sync::Arc;

use proptest::prelude::*;
use shunt_nat::{
    AdminState, BurstPacket, EgressId, EgressSet, Engine, Instant, Ruleset, RulesetBuilder, Side,
    Verdict,
};
use shunt_packet::{ipv4::Ipv4Packet, plain::PlainPacket};
use shunt_testkit::Packet;

use crate::harness::*;

const INSIDE: EgressId = EgressId::FIRST;
const OUTSIDE: EgressId = EgressId::LAST;

/// An engine whose packets are sent on by hand.
struct Paths {
    engine: Engine,
    now: Instant,
}

impl Paths {
    fn new() -> Paths {
        let services = vec![rr(VIP, &[RS1]), over_udp(rr(VIP, &[RS1]))];
        let rules = rules_of(&services, &[]);
        Paths {
            engine: Engine::new(&Director::config(64), Ruleset::new(&rules, 7).unwrap()).unwrap(),
            now: Instant::from_millis(5000),
        }
    }

    /// Looks a packet up and processes it.
    fn process<T>(
        &mut self,
        side: Side,
        packet: &[u8],
        process: impl Fn(BurstPacket<'_>) -> T,
    ) -> T {
        let mut bytes = packet.to_vec();
        let mut result = None;
        let mut burst = self.engine.burst(self.now, side);
        let packets = burst.prefetch([PlainPacket::parse(&mut bytes)]);
        packets.for_each([()], |(), packet| result = Some(process(packet)));
        result.expect("there was a packet")
    }

    /// Sends a packet by the slow path, and notes which way out it took.
    #[track_caller]
    fn slow(&mut self, side: Side, packet: &Packet) -> Vec<u8> {
        let arrived: Vec<u8> = packet.clone().into();
        self.process(side, &arrived, |packet| {
            let mut bytes = arrived.clone();
            let mut view = Ipv4Packet::parse(&mut bytes).unwrap();
            let (verdict, mut processed) = packet.slow_path().process(&mut view, &Lab);
            let Verdict::Translate(translation) = verdict else { panic!("{verdict:?}") };
            translation.apply(&mut view);
            view.header.decrement_ttl();
            processed.note_egress(if side == Side::Outside { INSIDE } else { OUTSIDE });
            bytes
        })
    }

    /// Sends a packet by the fast path, if it can take it.
    fn fast(
        &mut self,
        side: Side,
        packet: &Packet,
        may_leave: bool,
    ) -> Option<(EgressId, Vec<u8>)> {
        let arrived: Vec<u8> = packet.clone().into();
        self.process(side, &arrived, |packet| {
            let mut bytes = arrived.clone();
            let view = PlainPacket::parse(&mut bytes)?;
            match packet.fast_path(view, |_| may_leave, |_| false) {
                Ok(egress) => Some((egress, bytes)),
                Err(_) => {
                    assert_eq!(bytes, arrived, "nothing has happened");
                    None
                }
            }
        })
    }

    /// The way out that a packet of a connection would take.
    fn asks(&mut self, packet: &Packet) -> Option<EgressId> {
        let arrived: Vec<u8> = packet.clone().into();
        self.process(Side::Outside, &arrived, |packet| {
            let mut bytes = arrived.clone();
            let view = PlainPacket::parse(&mut bytes)?;
            let mut asked = None;
            let may_leave = |egress| {
                asked = Some(egress);
                false
            };
            assert!(packet.fast_path(view, may_leave, |_| false).is_err());
            asked
        })
    }

    fn establish(&mut self) {
        self.slow(Side::Outside, &tcp(CLIENT, VIP).syn());
        self.slow(Side::Inside, &tcp(RS1, CLIENT).syn().ack(1));
        self.slow(Side::Outside, &tcp(CLIENT, VIP).ack(1));
    }
}

#[test]
fn established_segments_and_datagrams_take_it() {
    let mut paths = Paths::new();
    paths.establish();
    paths.slow(Side::Outside, &udp(CLIENT, VIP));
    paths.slow(Side::Inside, &udp(RS1, CLIENT));
    for (side, egress, packet) in [
        (Side::Outside, INSIDE, tcp(CLIENT, VIP).ack(77).payload("request")),
        (Side::Inside, OUTSIDE, tcp(RS1, CLIENT).ack(78).payload("answer")),
        (Side::Outside, INSIDE, udp(CLIENT, VIP).payload("question")),
        (Side::Inside, OUTSIDE, udp(RS1, CLIENT).unchecksummed().payload("answer")),
    ] {
        let taken = paths.fast(side, &packet, true);
        assert_eq!(taken, Some((egress, paths.slow(side, &packet))), "{packet:?}");
    }
    let counters: Vec<_> = paths.engine.service_counters().collect();
    let packets = |service: usize| {
        (counters[service].traffic.in_packets, counters[service].traffic.out_packets)
    };
    assert_eq!((packets(0), packets(1)), ((4, 3), (3, 3)), "both paths count");
}

#[test]
fn it_keeps_a_connection_alive() {
    let mut paths = Paths::new();
    paths.establish();
    for seconds in [800, 1600, 2400] {
        paths.now = Instant::from_millis(5000 + seconds * 1000);
        assert!(paths.fast(Side::Outside, &tcp(CLIENT, VIP).ack(1), true).is_some());
        paths.engine.expire(paths.now, usize::MAX, |_| {});
        assert_eq!(paths.engine.table().len(), 1, "after {seconds} s");
    }
}

#[test]
fn what_may_change_a_connection_does_not_take_it() {
    let mut paths = Paths::new();
    paths.establish();
    let segment = || tcp(CLIENT, VIP);
    for packet in [
        segment().syn(),
        segment().syn().ack(1),
        segment().fin().ack(1),
        segment().rst(),
        segment(),
        segment().ack(1).ttl(1),
        segment().ack(1).payload([0; 64]).part(0..32),
    ] {
        assert_eq!(paths.fast(Side::Outside, &packet, true), None, "{packet:?}");
    }
    assert!(paths.fast(Side::Outside, &segment().ack(1), true).is_some());
}

#[test]
fn it_is_closed_until_the_way_out_is_known() {
    let mut paths = Paths::new();
    assert_eq!(paths.fast(Side::Outside, &udp(CLIENT, VIP), true), None, "no connection");
    paths.slow(Side::Outside, &udp(CLIENT, VIP));
    assert!(paths.fast(Side::Outside, &udp(CLIENT, VIP), true).is_some());
    assert_eq!(paths.fast(Side::Inside, &udp(RS1, CLIENT), true), None, "of the answers");
}

/// Such a connection must run out, which the fast path would keep it from.
#[test]
fn it_is_closed_to_datagrams_that_a_draining_server_has_not_answered() {
    let mut paths = Paths::new();
    paths.slow(Side::Outside, &udp(CLIENT, VIP));
    assert!(paths.fast(Side::Outside, &udp(CLIENT, VIP), true).is_some());
    let (_, _, servers) = paths.engine.rules().services().nth(1).unwrap();
    let server = Arc::clone(servers[0].shared());
    server.set_admin(AdminState::Draining);
    assert_eq!(paths.fast(Side::Outside, &udp(CLIENT, VIP), true), None);
    paths.slow(Side::Inside, &udp(RS1, CLIENT));
    assert!(paths.fast(Side::Outside, &udp(CLIENT, VIP), true).is_some(), "it has answered");
}

#[test]
fn it_is_closed_to_packets_that_come_from_the_wrong_side() {
    let mut paths = Paths::new();
    paths.establish();
    assert_eq!(paths.fast(Side::Inside, &tcp(CLIENT, VIP).ack(1), true), None);
    assert_eq!(paths.fast(Side::Outside, &tcp(RS1, CLIENT).ack(1), true), None);
}

#[test]
fn the_caller_may_close_it() {
    let mut paths = Paths::new();
    paths.establish();
    let before: Vec<_> = paths.engine.service_counters().collect();
    assert_eq!(paths.fast(Side::Outside, &tcp(CLIENT, VIP).ack(1), false), None);
    assert!(paths.engine.service_counters().eq(before));
}

#[test]
fn a_new_connection_with_the_endpoints_of_an_old_one_starts_anew() {
    let mut paths = Paths::new();
    paths.establish();
    paths.engine.expire(Instant::from_millis(2_000_000), usize::MAX, |_| {});
    paths.now = Instant::from_millis(2_000_000);
    assert!(paths.engine.table().is_empty());
    paths.slow(Side::Outside, &udp(CLIENT, VIP));
    assert_eq!(paths.fast(Side::Inside, &udp(RS1, CLIENT), true), None);
}

#[test]
fn numbers_are_given_up_in_steps() {
    let mut paths = Paths::new();
    let client = |n: u16| format!("192.168.1.200:{}", 1000 + n);
    for n in 0..10 {
        paths.slow(Side::Outside, &udp(&client(n), VIP));
        paths.slow(Side::Inside, &udp(RS1, &client(n)));
    }
    let fast = |paths: &mut Paths, n| {
        let there = paths.fast(Side::Outside, &udp(&client(n), VIP), true).is_some();
        (there, paths.fast(Side::Inside, &udp(RS1, &client(n)), true).is_some())
    };
    paths.engine.release_egresses(&EgressSet::from_iter([INSIDE]));
    for looks in 1..=3 {
        assert!(
            paths.engine.releases_egresses(),
            "records 4, 8, 10; then a server for each service"
        );
        paths.engine.expire(paths.now, 1, |_| {});
        let forgotten = (0..10).filter(|n| fast(&mut paths, *n) == (false, true)).count();
        assert_eq!(forgotten, 10.min(4 * looks), "in one direction; the other stays as it is");
    }
    assert!(!paths.engine.releases_egresses());
    paths.slow(Side::Outside, &udp(&client(9), VIP));
    assert!(fast(&mut paths, 9).0 && !fast(&mut paths, 8).0);
}

#[derive(Clone, Debug)]
enum Step {
    /// A client's packet takes the slow path, and leaves by the first of these ways that is open.
    Send {
        client: u16,
        ways: [u16; 2],
    },
    Release(Vec<u16>),
    Expire {
        looks: usize,
    },
    Reload,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..40u16, [1..6u16, 1..6u16]).prop_map(|(client, ways)| Step::Send { client, ways }),
        1 => prop::collection::vec(1..6u16, 1..3).prop_map(Step::Release),
        4 => (0..4usize).prop_map(|looks| Step::Expire { looks }),
        1 => Just(Step::Reload),
    ]
}

fn way(number: u16) -> EgressId {
    EgressId::new(number).unwrap()
}

proptest! {
    /// Whatever happens meanwhile: when numbers have been given up, neither a connection nor a server
    /// leads there, and before that only to what a caller keeps closed.
    #[test]
    fn what_is_given_up_is_remembered_by_nobody(steps in prop::collection::vec(step(), 1..150)) {
        let rules = rules_of(&[over_udp(rr(VIP, &[RS1]))], &[]);
        let mut builder = RulesetBuilder::new(7, 1);
        let mut rulesets = std::iter::repeat_with(|| {
            builder.build(&rules, Instant::default(), |_| 0).unwrap().rulesets.remove(0)
        });
        let engine = Engine::new(&Director::config(64), rulesets.next().unwrap()).unwrap();
        let mut paths = Paths { engine, now: Instant::from_millis(5000) };
        let packet = |client: u16| udp(&format!("192.168.1.200:{}", 1000 + client), VIP);
        // What a way out means now: numbers that are free have another meaning each time.
        let mut closed = EgressSet::default();
        let mut meant = [0; 6];
        // What clients' connections were told, and the server last: openers take its way out.
        let mut noted = [None; 40];
        let mut noted_for_server = None;
        let mut sent = [false; 40];
        for step in steps {
            match step {
                Step::Send { client, ways: numbers } => {
                    let open = numbers.into_iter().find(|n| !closed.contains(way(*n)));
                    let bytes: Vec<u8> = packet(client).into();
                    paths.process(Side::Outside, &bytes, |packet| {
                        let mut bytes = bytes.clone();
                        let mut view = Ipv4Packet::parse(&mut bytes).unwrap();
                        let (_, mut processed) = packet.slow_path().process(&mut view, &Lab);
                        if let Some(number) = open {
                            processed.note_egress(way(number));
                        }
                    });
                    if let Some(number) = open {
                        noted_for_server = Some((number, meant[usize::from(number)]));
                        noted[usize::from(client)] = noted_for_server;
                    }
                    sent[usize::from(client)] = true;
                }
                Step::Release(numbers) => {
                    let released: EgressSet = numbers.iter().map(|n| way(*n)).collect();
                    closed.extend(&released);
                    paths.engine.release_egresses(&released);
                }
                Step::Expire { looks } => paths.engine.expire(paths.now, looks, |_| {}),
                Step::Reload => drop(paths.engine.replace_rules(rulesets.next().unwrap())),
            }
            if !paths.engine.releases_egresses() {
                let was_closed = std::mem::take(&mut closed);
                let free = (1..6).filter(|n| was_closed.contains(way(*n)));
                free.for_each(|n| meant[usize::from(n)] += 1);
            }
            for client in 0..40 {
                let Some(asked) = paths.asks(&packet(client)) else { continue };
                if !closed.contains(asked) {
                    let number = asked.get();
                    let now = Some((number, meant[usize::from(number)]));
                    let is_open = sent[usize::from(client)];
                    let noted = if is_open { noted[usize::from(client)] } else { noted_for_server };
                    prop_assert_eq!(noted, now, "client {}", client);
                }
            }
        }
    }
}
