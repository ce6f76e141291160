//! Scheduling for a whole burst, and connections opened on the fast path: the same as for packets one by
//! one.

use proptest::prelude::*;
use shunt_nat::{
    BurstPacket, EgressId, EgressSet, Engine, Instant, MAX_BURST, Reply, Ruleset, ServerCounters,
    Side, SlowPath, Verdict,
};
use shunt_packet::{ipv4::Ipv4Packet, plain::PlainPacket};
use shunt_rules::{Persistence, RealServer, Scheduler, VirtualService};
use shunt_testkit::Packet;
use std::{net::Ipv4Addr, time::Duration};

use crate::harness::*;

const UDP_VIP: &str = "192.168.1.100:53";
const RS3: &str = "192.168.2.230:80";
const NOW: Instant = Instant::from_millis(5000);

/// A service over TCP and one over UDP, by this scheduler; weights differ.
fn services(scheduler: Scheduler) -> Vec<VirtualService> {
    let of = |vip| {
        let service = wrr(vip, &[(RS1, 3), (RS2, 1), (RS3, 2)]);
        VirtualService { scheduler, ..service }
    };
    vec![of(VIP), over_udp(of(UDP_VIP))]
}

fn engine(services: &[VirtualService]) -> Engine {
    let rules = rules_of(services, &[]);
    Engine::new(&Director::config(128), Ruleset::new(&rules, 7).unwrap()).unwrap()
}

/// What becomes of a packet on the slow path.
fn slow(slow_path: SlowPath<'_>, arrived: &[u8]) -> Result<Vec<u8>, Verdict> {
    let mut bytes = arrived.to_vec();
    let mut packet = Ipv4Packet::parse(&mut bytes).unwrap();
    let (verdict, mut processed) = slow_path.process(&mut packet, &Lab);
    match verdict {
        Verdict::Translate(translation) => {
            translation.apply(&mut packet);
            packet.header.decrement_ttl();
            processed.note_egress(EgressId::FIRST);
            Ok(bytes)
        }
        verdict => Err(verdict),
    }
}

/// What becomes of a packet of a burst, and whether the fast path did it. This client may not open
/// connections there.
fn pass(packet: BurstPacket<'_>, arrived: &[u8]) -> (Result<Vec<u8>, Verdict>, bool) {
    let mut bytes = arrived.to_vec();
    let view = PlainPacket::view(&mut bytes).unwrap();
    let may_open = |source: Ipv4Addr| source.octets()[3] != 203;
    match packet.fast_path(view, |_| true, may_open) {
        Ok(egress) => {
            assert_eq!(egress, EgressId::FIRST);
            (Ok(bytes), true)
        }
        Err(slow_path) => {
            assert_eq!(bytes, arrived, "the fast path leaves it as it came");
            (slow(slow_path, arrived), false)
        }
    }
}

/// Looks up the packets of a burst, and processes the first of them.
fn process(
    engine: &mut Engine,
    burst: &[Vec<u8>],
    processed: &[Vec<u8>],
    mut process: impl FnMut(BurstPacket<'_>, &[u8]),
) {
    let mut copies = burst.to_vec();
    let mut stages = engine.burst(NOW, Side::Outside);
    let packets = stages.prefetch(copies.iter_mut().map(|packet| PlainPacket::parse(packet)));
    packets.for_each(processed, |arrived, packet| process(packet, arrived));
}

/// Takes a burst through the engine; what left, and how many packets took the fast path.
fn at_once(engine: &mut Engine, burst: &[Vec<u8>]) -> (Vec<Result<Vec<u8>, Verdict>>, usize) {
    let (mut left, mut fast) = (Vec::new(), 0);
    process(engine, burst, burst, |packet, arrived| {
        let (became, is_fast) = pass(packet, arrived);
        left.push(became);
        fast += usize::from(is_fast);
    });
    (left, fast)
}

fn one_by_one(engine: &mut Engine, burst: &[Vec<u8>]) -> Vec<Result<Vec<u8>, Verdict>> {
    let mut left = Vec::new();
    process(engine, &[], burst, |packet, arrived| left.push(slow(packet.slow_path(), arrived)));
    left
}

fn servers(engine: &Engine) -> Vec<ServerCounters> {
    engine.server_counters().collect()
}

fn opener(port: u16) -> Vec<u8> {
    tcp(&format!("192.168.1.200:{port}"), VIP).syn().into()
}

/// A packet of one of a few clients: openers, repeated ones, and what can't open.
fn packet() -> impl Strategy<Value = Packet> {
    let client =
        (200u8..204, 40_000u16..40_006).prop_map(|(host, port)| format!("192.168.1.{host}:{port}"));
    (client, 0..8).prop_map(|(client, kind)| match kind {
        0..=3 => tcp(&client, VIP).syn(),
        4..=5 => udp(&client, UDP_VIP),
        6 => tcp(&client, VIP).ack(1),
        _ => tcp(&client, "192.168.1.100:81").syn(),
    })
}

proptest! {
    #[test]
    fn chooses_as_one_by_one(
        kind in prop::sample::select(Scheduler::ALL),
        bursts in prop::collection::vec(prop::collection::vec(packet(), 1..40), 1..4),
    ) {
        let mut engines = [engine(&services(kind)), engine(&services(kind))];
        for burst in bursts {
            let burst: Vec<Vec<u8>> = burst.into_iter().map(Vec::from).collect();
            let (left, _) = at_once(&mut engines[0], &burst);
            prop_assert_eq!(left, one_by_one(&mut engines[1], &burst));
            prop_assert_eq!(servers(&engines[0]), servers(&engines[1]));
        }
    }
}

/// One server may take three connections and be overloaded by the next; clients keep their servers.
#[test]
fn what_a_connection_changes_is_not_foreseen() {
    let burst: Vec<_> = (1..=8).map(opener).collect();
    let limited = |endpoint| RealServer { upper_threshold: 3, ..real(endpoint, 1) };
    let persistence = Some(Persistence { timeout: Duration::from_secs(300), prefix_len: 32 });
    for service in [
        VirtualService { servers: vec![limited(RS1), limited(RS2)], ..rr(VIP, &[]) },
        VirtualService { persistence, ..rr(VIP, &[RS1, RS2]) },
    ] {
        let mut engines = [(); 2].map(|()| engine(std::slice::from_ref(&service)));
        let (left, fast) = at_once(&mut engines[0], &burst);
        assert_eq!((left, fast), (one_by_one(&mut engines[1], &burst), 0));
        assert_eq!(servers(&engines[0]), servers(&engines[1]));
    }
}

#[test]
fn servers_of_packets_that_open_nothing_are_released() {
    let mut engine = engine(&services(Scheduler::WeightedLeastConnection));
    let burst: Vec<_> = (1..=8).map(opener).collect();
    let current = |engine: &Engine| servers(engine).iter().map(|s| s.current()).sum::<u64>();
    // One is dropped on the way, and the rest after two that open connections.
    let mut number = 0;
    process(&mut engine, &burst, &burst[..3], |packet, arrived| {
        number += 1;
        if number != 2 {
            pass(packet, arrived).0.unwrap();
        }
    });
    assert_eq!((current(&engine), engine.table().len()), (2, 2));
    process(&mut engine, &burst, &[], |_, _| unreachable!());
    assert_eq!((current(&engine), engine.table().len()), (2, 2));
}

#[test]
fn what_is_beyond_a_burst_is_processed_too() {
    let mut engine = engine(&[rr(VIP, &[RS1])]);
    let burst: Vec<_> = (1..=2 * MAX_BURST as u16).map(opener).collect();
    let (left, fast) = at_once(&mut engine, &burst);
    assert!(left.iter().all(Result::is_ok));
    assert_eq!((fast, engine.table().len()), (MAX_BURST - 1, 2 * MAX_BURST));
}

#[test]
fn connections_open_on_the_fast_path() {
    let mut engine = engine(&[rr(VIP, &[RS1, RS2])]);
    let burst: Vec<_> = (1..=2).map(opener).collect();
    assert_eq!(at_once(&mut engine, &burst).1, 0, "the ways to the servers are not known");
    let burst: Vec<_> = (3..=6).map(opener).collect();
    let (left, fast) = at_once(&mut engine, &burst);
    assert_eq!(fast, 4);
    for (port, (left, server)) in (3..).zip(left.into_iter().zip([RS1, RS2, RS1, RS2])) {
        let expected = tcp(&format!("192.168.1.200:{port}"), server).syn().ttl(63);
        assert_eq!(left, Ok(Vec::from(expected)));
    }
    assert_eq!(engine.service_counters().next().unwrap().traffic.in_packets, 6);
    assert_eq!(engine.counters().opened, 6);
}

#[test]
fn what_must_not_open_there_takes_the_slow_path() {
    let clamped = VirtualService { mss_limit: Some(1000), ..rr(VIP, &[RS1]) };
    let mut clamping = engine(&[clamped]);
    at_once(&mut clamping, &[opener(1)]);
    assert_eq!(at_once(&mut clamping, &[opener(2)]).1, 0, "its options have to be read");

    let mut engine = engine(&[rr(VIP, &[RS1])]);
    at_once(&mut engine, &[opener(1)]);
    let refused: Vec<u8> = tcp("192.168.1.203:2", VIP).syn().into();
    assert_eq!(at_once(&mut engine, &[refused]).1, 0, "the caller says no");
    let late: Vec<u8> = tcp("192.168.1.200:2", VIP).syn().ttl(1).into();
    let (left, fast) = at_once(&mut engine, &[late]);
    assert_eq!((left, fast), (vec![Err(Verdict::Reply(Reply::TimeExceeded))], 0));
    engine.release_egresses(&EgressSet::from_iter([EgressId::FIRST]));
    engine.expire(NOW, usize::MAX, |_| {});
    assert_eq!(at_once(&mut engine, &[opener(3)]).1, 0, "the way was forgotten");
    assert_eq!(at_once(&mut engine, &[opener(4)]).1, 1);
}

#[test]
fn a_full_table_makes_room_on_the_fast_path() {
    let rules = rules_of(&[rr(VIP, &[RS1])], &[]);
    let mut engine = Engine::new(&Director::config(2), Ruleset::new(&rules, 7).unwrap()).unwrap();
    let burst: Vec<_> = (1..=2).map(opener).collect();
    at_once(&mut engine, &burst);
    assert_eq!(at_once(&mut engine, &[opener(3)]).1, 1);
    assert_eq!((engine.counters().evicted, engine.table().len()), (1, 2));
}
