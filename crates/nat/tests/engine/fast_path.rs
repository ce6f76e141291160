//! The fast path through the engine: what may take it, and that it does as the slow path.

use std::sync::Arc;

use shunt_nat::{AdminState, BurstPacket, EgressId, Engine, Instant, Ruleset, Side, Verdict};
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
            engine: Engine::new(&Director::config(64), Ruleset::new(&rules, 7).unwrap()),
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
    let packets = |service: usize| (counters[service].in_packets, counters[service].out_packets);
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
fn all_ways_out_can_be_forgotten_in_steps() {
    let mut paths = Paths::new();
    let client = |n: u16| format!("192.168.1.200:{}", 1000 + n);
    let fast =
        |paths: &mut Paths, n| paths.fast(Side::Outside, &udp(&client(n), VIP), true).is_some();
    for n in 0..10 {
        paths.slow(Side::Outside, &udp(&client(n), VIP));
    }
    paths.engine.forget_egress();
    paths.engine.expire(paths.now, 1, |_| {});
    paths.slow(Side::Outside, &udp(&client(9), VIP));
    assert!((0..10).all(|n| !fast(&mut paths, n)), "while any may be wrong");
    (0..2).for_each(|_| paths.engine.expire(paths.now, 1, |_| {}));
    assert!((0..10).all(|n| !fast(&mut paths, n)), "forgotten");
    paths.slow(Side::Outside, &udp(&client(9), VIP));
    assert!(fast(&mut paths, 9) && !fast(&mut paths, 8));
}
