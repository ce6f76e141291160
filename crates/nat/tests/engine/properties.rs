//! What holds for all traffic.

use proptest::prelude::*;
use shunt_nat::{Side, Verdict};
use shunt_packet::ipv4::Ipv4Packet;
use shunt_testkit::Packet;

use crate::harness::*;

/// A small director that does everything, so that random traffic soon meets itself.
pub(crate) fn director() -> Director {
    let services = [
        rr(VIP, &[RS1, RS2]),
        wrr("192.168.1.100:8080", &[(RS1, 3), ("192.168.2.220:8080", 1)]),
        over_udp(rr(VIP, &[RS1, RS2])),
    ];
    Director::with_capacity(12, &services, &[snat(80..=82)])
}

/// A sound packet between hosts that have something to say to each other, and where it arrives.
pub(crate) fn packet() -> impl Strategy<Value = (Side, Vec<u8>)> {
    let outside =
        prop::sample::select(vec!["192.168.1.200:80", "192.168.1.200:81", "203.0.113.7:80"]);
    let inside = prop::sample::select(vec![RS1, RS2, "192.168.2.220:8080", "192.168.2.50:81"]);
    let own = prop::sample::select(vec![VIP, "192.168.1.100:8080", "192.168.1.100:81"]);
    let arrival = prop_oneof![
        3 => (outside.clone(), own.clone()).prop_map(|(src, dst)| (Side::Outside, src, dst)),
        3 => (inside.clone(), outside.clone()).prop_map(|(src, dst)| (Side::Inside, src, dst)),
        1 => (outside.clone(), inside).prop_map(|(src, dst)| (Side::Outside, src, dst)),
    ];
    let shape = (any::<bool>(), any::<u8>(), 0u8..16, prop::collection::vec(any::<u8>(), 0..20));
    let error = prop::option::weighted(0.15, 20usize..64);
    (arrival, shape, error).prop_map(|((side, src, dst), (is_tcp, ttl, flags, payload), error)| {
        let built = transport(src, dst, is_tcp, flags).payload(payload).ttl(ttl);
        match error {
            None => (side, built.bytes()),
            // An error about that packet, from its destination to its source.
            Some(length) => {
                let quote = &built.bytes()[..length.min(built.bytes().len())];
                let kind = etherparse::Icmpv4Type::DestinationUnreachable(
                    etherparse::icmpv4::DestUnreachableHeader::Port,
                );
                let error = Packet::icmp(host(dst), host(src), kind).payload(quote);
                (opposite(side), error.bytes())
            }
        }
    })
}

fn transport(src: &str, dst: &str, is_tcp: bool, flags: u8) -> Packet {
    if !is_tcp {
        let packet = udp(src, dst);
        return if flags == 0 { packet.unchecksummed() } else { packet };
    }
    // SYNs are frequent, resets are not.
    match flags {
        0..4 => tcp(src, dst).syn(),
        4..6 => tcp(src, dst).syn().ack(1),
        6..8 => tcp(src, dst).fin().ack(1),
        8 => tcp(src, dst).rst(),
        9 => tcp(src, dst),
        _ => tcp(src, dst).ack(1),
    }
}

fn opposite(side: Side) -> Side {
    match side {
        Side::Outside => Side::Inside,
        Side::Inside => Side::Outside,
    }
}

/// The packet with source and destination exchanged; its checksums cover the same words still.
fn turned_round(packet: &[u8]) -> Vec<u8> {
    let mut bytes = packet.to_vec();
    let (src, dst) = (packet[12..16].to_vec(), packet[16..20].to_vec());
    bytes[12..20].copy_from_slice(&[dst, src].concat());
    let (src_port, dst_port) = (packet[20..22].to_vec(), packet[22..24].to_vec());
    bytes[20..24].copy_from_slice(&[dst_port, src_port].concat());
    bytes
}

#[derive(Clone, Debug)]
enum Event {
    Packet(Side, Vec<u8>),
    Pause(u64),
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let event = prop_oneof![
        9 => packet().prop_map(|(side, bytes)| Event::Packet(side, bytes)),
        1 => (1u64..200).prop_map(Event::Pause),
    ];
    prop::collection::vec(event, 1..60)
}

proptest! {
    /// Checksums are right, the inside stays hidden, and the way back is the inverse of the way
    /// there, whatever happened before.
    #[test]
    fn translations_are_sound_hide_the_inside_and_have_inverses(events in events()) {
        let mut director = director();
        for event in events {
            let (side, arrived) = match event {
                Event::Packet(side, bytes) => (side, bytes),
                Event::Pause(seconds) => {
                    director.wait_seconds(seconds);
                    continue;
                }
            };
            let outcome = director.receive(side, arrived.clone());
            let (verdict, left) = (outcome.verdict, outcome.bytes().to_vec());
            prop_assert_eq!(verify(&left), Ok(()));
            if !matches!(verdict, Verdict::Translate(_)) {
                continue;
            }
            prop_assert_eq!(left[8], arrived[8], "the TTL is the router's");

            let way_back = director.receive(opposite(side), turned_round(&left));
            prop_assert!(matches!(way_back.verdict, Verdict::Translate(_)));
            prop_assert_eq!(turned_round(way_back.bytes()), arrived);
        }
    }

    /// An inside host that no outside host has dialled is never seen outside.
    #[test]
    fn a_private_source_never_leaks(events in events()) {
        let mut director = director();
        for event in events {
            match event {
                Event::Pause(seconds) => director.wait_seconds(seconds),
                Event::Packet(Side::Outside, mut bytes) => {
                    let dst = Ipv4Packet::parse(&mut bytes).unwrap().header.dst();
                    if dst.octets()[2] != 2 {
                        let _ = director.outside(bytes);
                    }
                }
                Event::Packet(Side::Inside, bytes) => {
                    let is_icmp = bytes[9] == 1;
                    let outcome = director.inside(bytes);
                    let goes_out = match outcome.verdict {
                        Verdict::Translate(_) | Verdict::Forward => true,
                        // Errors about unknown packets are the router's to judge.
                        Verdict::Punt => !is_icmp,
                        Verdict::Reply(_) | Verdict::Drop(_) => false,
                    };
                    let src = &outcome.bytes()[12..16];
                    prop_assert!(!goes_out || src == [192, 168, 1, 100], "{:?} leaks", src);
                }
            }
        }
    }
}
