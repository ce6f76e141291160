//! The short way of packets through the engine: what may take it, and that it does as the long way.

use shunt_nat::{EgressId, Engine, Instant, Prepared, Ruleset, Side, Verdict};
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
            engine: Engine::new(&Director::config(64), Ruleset::new(&rules, 7).unwrap()),
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
fn all_ways_can_be_forgotten_in_steps() {
    let mut ways = Ways::new();
    let client = |n: u16| format!("192.168.1.200:{}", 1000 + n);
    let short =
        |ways: &mut Ways, n| ways.short(Side::Outside, &udp(&client(n), VIP), true).is_some();
    for n in 0..10 {
        ways.long(Side::Outside, &udp(&client(n), VIP));
    }
    ways.engine.forget_egress();
    ways.engine.expire(ways.now, 1, |_| {});
    ways.long(Side::Outside, &udp(&client(9), VIP));
    assert!((0..10).all(|n| !short(&mut ways, n)), "while any may be wrong");
    (0..2).for_each(|_| ways.engine.expire(ways.now, 1, |_| {}));
    assert!((0..10).all(|n| !short(&mut ways, n)), "forgotten");
    ways.long(Side::Outside, &udp(&client(9), VIP));
    assert!(short(&mut ways, 9) && !short(&mut ways, 8));
}
