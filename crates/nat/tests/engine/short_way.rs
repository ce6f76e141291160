//! The short way of packets through the engine: what may take it, and that it does as the long way.

use proptest::prelude::*;
use shunt_nat::{
    EgressId, EgressSet, Engine, Instant, Prepared, Ruleset, RulesetBuilder, Side, Verdict,
};
use shunt_packet::{ipv4::Ipv4Packet, plain::PlainPacket};
use shunt_testkit::Packet;

use crate::harness::*;

const INSIDE: EgressId = EgressId::FIRST;
const OUTSIDE: EgressId = EgressId::LAST;

/// An engine whose packets are sent on by hand.
struct Ways {
    engine: Engine,
    now: Instant,
}

impl Ways {
    fn new() -> Ways {
        let services = vec![rr(VIP, &[RS1]), over_udp(rr(VIP, &[RS1]))];
        let rules = rules_of(&services, &[]);
        Ways {
            engine: Engine::new(&Director::config(64), Ruleset::new(&rules, 7).unwrap()).unwrap(),
            now: Instant::from_millis(5000),
        }
    }

    /// Sends a packet the long way, and notes which way out it took.
    #[track_caller]
    fn long(&mut self, side: Side, packet: &Packet) -> Vec<u8> {
        let arrived: Vec<u8> = packet.clone().into();
        let mut bytes = arrived.clone();
        let mut packet = Ipv4Packet::parse(&mut bytes).unwrap();
        let prepared = self.begin(&arrived);
        let verdict = self.engine.finish(self.now, side, &mut packet, &prepared, &Lab);
        let Verdict::Translate(translation) = verdict else { panic!("{verdict:?}") };
        translation.apply(&mut packet);
        packet.header.decrement_ttl();
        let egress = if side == Side::Outside { INSIDE } else { OUTSIDE };
        self.engine.note_egress(&prepared, side, egress);
        bytes
    }

    fn begin(&self, packet: &[u8]) -> Prepared {
        let mut bytes = packet.to_vec();
        PlainPacket::parse(&mut bytes)
            .map_or_else(Prepared::default, |plain| self.engine.begin(&plain))
    }

    /// Sends a packet the short way, if it can take it.
    fn short(
        &mut self,
        side: Side,
        packet: &Packet,
        may_leave: bool,
    ) -> Option<(EgressId, Vec<u8>)> {
        let mut bytes: Vec<u8> = packet.clone().into();
        let mut prepared = self.begin(&bytes);
        self.engine.proceed(&mut prepared);
        let view = PlainPacket::parse(&mut bytes)?;
        let egress = self.engine.forward(self.now, side, view, &prepared, |_| may_leave, |_| false);
        match egress {
            Some(egress) => Some((egress, bytes)),
            None => {
                assert_eq!(bytes, Vec::from(packet.clone()), "nothing has happened");
                None
            }
        }
    }

    /// The way out that a packet of a connection would take.
    fn asks(&mut self, packet: &Packet) -> Option<EgressId> {
        let mut bytes: Vec<u8> = packet.clone().into();
        let mut prepared = self.begin(&bytes);
        self.engine.proceed(&mut prepared);
        let view = PlainPacket::parse(&mut bytes)?;
        let mut asked = None;
        let may_leave = |egress| {
            asked = Some(egress);
            false
        };
        let left =
            self.engine.forward(self.now, Side::Outside, view, &prepared, may_leave, |_| false);
        assert_eq!(left, None);
        asked
    }

    fn establish(&mut self) {
        self.long(Side::Outside, &tcp(CLIENT, VIP).syn());
        self.long(Side::Inside, &tcp(RS1, CLIENT).syn().ack(1));
        self.long(Side::Outside, &tcp(CLIENT, VIP).ack(1));
    }
}

#[test]
fn established_segments_and_datagrams_take_it() {
    let mut ways = Ways::new();
    ways.establish();
    ways.long(Side::Outside, &udp(CLIENT, VIP));
    ways.long(Side::Inside, &udp(RS1, CLIENT));
    for (side, egress, packet) in [
        (Side::Outside, INSIDE, tcp(CLIENT, VIP).ack(77).payload("request")),
        (Side::Inside, OUTSIDE, tcp(RS1, CLIENT).ack(78).payload("answer")),
        (Side::Outside, INSIDE, udp(CLIENT, VIP).payload("question")),
        (Side::Inside, OUTSIDE, udp(RS1, CLIENT).unchecksummed().payload("answer")),
    ] {
        let taken = ways.short(side, &packet, true);
        assert_eq!(taken, Some((egress, ways.long(side, &packet))), "{packet:?}");
    }
    let counters: Vec<_> = ways.engine.service_counters().collect();
    let packets = |service: usize| {
        (counters[service].traffic.in_packets, counters[service].traffic.out_packets)
    };
    assert_eq!((packets(0), packets(1)), ((4, 3), (3, 3)), "both ways count");
}

#[test]
fn it_keeps_a_connection_alive() {
    let mut ways = Ways::new();
    ways.establish();
    for seconds in [800, 1600, 2400] {
        ways.now = Instant::from_millis(5000 + seconds * 1000);
        assert!(ways.short(Side::Outside, &tcp(CLIENT, VIP).ack(1), true).is_some());
        ways.engine.expire(ways.now, usize::MAX, |_| {});
        assert_eq!(ways.engine.table().len(), 1, "after {seconds} s");
    }
}

#[test]
fn what_may_change_a_connection_does_not_take_it() {
    let mut ways = Ways::new();
    ways.establish();
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
        assert_eq!(ways.short(Side::Outside, &packet, true), None, "{packet:?}");
    }
    assert!(ways.short(Side::Outside, &segment().ack(1), true).is_some());
}

#[test]
fn it_is_closed_until_the_way_out_is_known() {
    let mut ways = Ways::new();
    assert_eq!(ways.short(Side::Outside, &udp(CLIENT, VIP), true), None, "no connection");
    ways.long(Side::Outside, &udp(CLIENT, VIP));
    assert!(ways.short(Side::Outside, &udp(CLIENT, VIP), true).is_some());
    assert_eq!(ways.short(Side::Inside, &udp(RS1, CLIENT), true), None, "of the answers");
}

#[test]
fn it_is_closed_to_packets_that_come_from_the_wrong_side() {
    let mut ways = Ways::new();
    ways.establish();
    assert_eq!(ways.short(Side::Inside, &tcp(CLIENT, VIP).ack(1), true), None);
    assert_eq!(ways.short(Side::Outside, &tcp(RS1, CLIENT).ack(1), true), None);
}

#[test]
fn the_caller_may_close_it() {
    let mut ways = Ways::new();
    ways.establish();
    let before: Vec<_> = ways.engine.service_counters().collect();
    assert_eq!(ways.short(Side::Outside, &tcp(CLIENT, VIP).ack(1), false), None);
    assert!(ways.engine.service_counters().eq(before));
}

#[test]
fn a_new_connection_with_the_endpoints_of_an_old_one_starts_anew() {
    let mut ways = Ways::new();
    ways.establish();
    ways.engine.expire(Instant::from_millis(2_000_000), usize::MAX, |_| {});
    ways.now = Instant::from_millis(2_000_000);
    assert!(ways.engine.table().is_empty());
    ways.long(Side::Outside, &udp(CLIENT, VIP));
    assert_eq!(ways.short(Side::Inside, &udp(RS1, CLIENT), true), None);
}

#[test]
fn numbers_are_given_up_in_steps() {
    let mut ways = Ways::new();
    let client = |n: u16| format!("192.168.1.200:{}", 1000 + n);
    for n in 0..10 {
        ways.long(Side::Outside, &udp(&client(n), VIP));
        ways.long(Side::Inside, &udp(RS1, &client(n)));
    }
    let short = |ways: &mut Ways, n| {
        let there = ways.short(Side::Outside, &udp(&client(n), VIP), true).is_some();
        (there, ways.short(Side::Inside, &udp(RS1, &client(n)), true).is_some())
    };
    ways.engine.release_egresses(&EgressSet::from_iter([INSIDE]));
    for looks in 1..=3 {
        assert!(
            ways.engine.releases_egresses(),
            "records 4, 8, 10; then a server for each service"
        );
        ways.engine.expire(ways.now, 1, |_| {});
        let forgotten = (0..10).filter(|n| short(&mut ways, *n) == (false, true)).count();
        assert_eq!(forgotten, 10.min(4 * looks), "in one direction; the other stays as it is");
    }
    assert!(!ways.engine.releases_egresses());
    ways.long(Side::Outside, &udp(&client(9), VIP));
    assert!(short(&mut ways, 9).0 && !short(&mut ways, 8).0);
}

#[derive(Clone, Debug)]
enum Step {
    /// A client's packet goes the long way, and leaves by the first of these ways that is open.
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
        let mut ways = Ways { engine, now: Instant::from_millis(5000) };
        let packet = |client: u16| udp(&format!("192.168.1.200:{}", 1000 + client), VIP);
        // What a way out means now: numbers that are free have another meaning each time.
        let mut closed = EgressSet::default();
        let mut meant = [0; 6];
        let mut noted = [None; 40];
        for step in steps {
            match step {
                Step::Send { client, ways: numbers } => {
                    let open = numbers.into_iter().find(|n| !closed.contains(way(*n)));
                    let bytes: Vec<u8> = packet(client).into();
                    let prepared = ways.begin(&bytes);
                    let mut bytes = bytes.clone();
                    let mut packet = Ipv4Packet::parse(&mut bytes).unwrap();
                    let _ = ways.engine.finish(ways.now, Side::Outside, &mut packet, &prepared, &Lab);
                    if let Some(number) = open {
                        ways.engine.note_egress(&prepared, Side::Outside, way(number));
                        noted[usize::from(client)] = Some((number, meant[usize::from(number)]));
                    }
                }
                Step::Release(numbers) => {
                    let released: EgressSet = numbers.iter().map(|n| way(*n)).collect();
                    closed.extend(&released);
                    ways.engine.release_egresses(&released);
                }
                Step::Expire { looks } => ways.engine.expire(ways.now, looks, |_| {}),
                Step::Reload => drop(ways.engine.replace_rules(rulesets.next().unwrap())),
            }
            if !ways.engine.releases_egresses() {
                let was_closed = std::mem::take(&mut closed);
                (1..6).filter(|n| was_closed.contains(way(*n))).for_each(|n| meant[usize::from(n)] += 1);
            }
            for client in 0..40 {
                let Some(asked) = ways.asks(&packet(client)) else { continue };
                if !closed.contains(asked) {
                    let number = asked.get();
                    let now = Some((number, meant[usize::from(number)]));
                    prop_assert_eq!(noted[usize::from(client)], now, "client {}", client);
                }
            }
        }
    }
}
