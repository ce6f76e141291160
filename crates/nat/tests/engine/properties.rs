//! What holds for all traffic.

use std::time::Duration;

use proptest::prelude::*;
use shunt_nat::{Side, Verdict};
use shunt_packet::{
    checksum::Sum,
    ipv4::{Ipv4Packet, protocol},
};
use shunt_rules::{
    ForwardingMode, Persistence, Protocol, RealServer, Rules, SnatRule, VirtualService,
};
use shunt_testkit::Packet;

use crate::harness::*;

const FULL_NAT: &str = "192.168.1.100:8081";
const PERSISTENT: &str = "192.168.1.100:9000";
const ONE_PACKET: &str = "192.168.1.100:53";
const ONE_PACKET_SERVER: &str = "192.168.2.210:53";

/// A small director that does everything, so that random traffic soon meets itself.
pub(crate) fn director() -> Director {
    let limited = RealServer { upper_threshold: 3, ..real(RS1, 1) };
    let all = [
        rr(VIP, &[RS1, RS2]),
        wrr("192.168.1.100:8080", &[(RS1, 3), ("192.168.2.220:8080", 1)]),
        over_udp(rr(VIP, &[RS1, RS2])),
        VirtualService {
            protocols: vec![Protocol::Tcp, Protocol::Udp],
            mode: ForwardingMode::FullNat,
            reset_on_expiry: Some(true),
            ..rr(FULL_NAT, &[RS1, RS2])
        },
        VirtualService {
            endpoints: vec![endpoint("192.168.1.100", 9000..=9001)],
            servers: vec![limited, RealServer { port: None, ..real(RS2, 1) }],
            fallback: Some(real("192.168.2.230:80", 1)),
            persistence: Some(Persistence { timeout: Duration::from_secs(90), prefix_len: 32 }),
            mss_limit: Some(1400),
            ..rr(PERSISTENT, &[])
        },
        VirtualService { one_packet: true, ..over_udp(rr(ONE_PACKET, &[ONE_PACKET_SERVER])) },
    ];
    let to = vec![OUTSIDE_ADDRESS.parse().unwrap(), "192.168.1.101".parse().unwrap()];
    Director::with_config(
        &Director::config(12),
        &Rules {
            services: services(&all),
            snat: vec![SnatRule { to, ..snat(80..=82) }],
            local_addresses: vec![local(INSIDE_ADDRESS, 60_000..=60_002)],
            hairpin: Some(local(INSIDE_ADDRESS, 60_002..=60_003)),
            ..Rules::default()
        },
    )
}

/// A sound packet between hosts that have something to say to each other, and where it arrives.
pub(crate) fn packet() -> impl Strategy<Value = (Side, Vec<u8>)> {
    let outside =
        prop::sample::select(vec!["192.168.1.200:80", "192.168.1.200:81", "203.0.113.7:80"]);
    let inside = prop::sample::select(vec![
        RS1,
        RS2,
        "192.168.2.220:8080",
        "192.168.2.50:81",
        ONE_PACKET_SERVER,
    ]);
    let own = prop::sample::select(vec![
        VIP,
        "192.168.1.100:8080",
        "192.168.1.100:81",
        "192.168.1.101:82",
        FULL_NAT,
        PERSISTENT,
        "192.168.1.100:9001",
        ONE_PACKET,
    ]);
    let local = prop::sample::select(vec!["192.168.2.200:60000", "192.168.2.200:60002"]);
    let arrival = prop_oneof![
        4 => (outside.clone(), own.clone()).prop_map(|(src, dst)| (Side::Outside, src, dst)),
        4 => (inside.clone(), outside.clone()).prop_map(|(src, dst)| (Side::Inside, src, dst)),
        1 => (inside.clone(), own).prop_map(|(src, dst)| (Side::Inside, src, dst)),
        1 => (inside.clone(), local).prop_map(|(src, dst)| (Side::Inside, src, dst)),
        1 => (outside.clone(), inside).prop_map(|(src, dst)| (Side::Outside, src, dst)),
    ];
    let shape = (0u8..5, any::<u8>(), 0u8..16, prop::collection::vec(any::<u8>(), 0..20));
    let error = prop::option::weighted(0.15, 20usize..64);
    (arrival, shape, error).prop_map(|((side, src, dst), (kind, ttl, flags, payload), error)| {
        let built = transport(src, dst, kind, flags).payload(payload).ttl(ttl);
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

fn transport(src: &str, dst: &str, kind: u8, flags: u8) -> Packet {
    match kind {
        0 => echo(src, dst, flags),
        1..3 if flags == 0 => udp(src, dst).unchecksummed(),
        1..3 => udp(src, dst),
        // SYNs are frequent, resets are not.
        _ => match flags {
            0..4 => tcp(src, dst).syn(),
            4..6 => tcp(src, dst).syn().ack(1),
            6..8 => tcp(src, dst).fin().ack(1),
            8 => tcp(src, dst).rst(),
            9 => tcp(src, dst),
            _ => tcp(src, dst).ack(1),
        },
    }
}

/// An echo request whose identifier is the sender's port or 0, or a reply to such.
fn echo(src: &str, dst: &str, flags: u8) -> Packet {
    let port = |endpoint: &str| endpoint.split_once(':').unwrap().1.parse().unwrap();
    let identifier = |endpoint| if flags.is_multiple_of(4) { 0 } else { port(endpoint) };
    match flags % 8 {
        0..6 => Packet::echo_request(host(src), host(dst), identifier(src), 7),
        _ => Packet::echo_reply(host(src), host(dst), identifier(dst), 7),
    }
}

fn opposite(side: Side) -> Side {
    match side {
        Side::Outside => Side::Inside,
        Side::Inside => Side::Outside,
    }
}

/// The packet with source and destination exchanged, an echo request made a reply and the other way
/// round. The checksums of TCP and UDP cover the same words still.
fn turned_round(packet: &[u8]) -> Vec<u8> {
    let mut bytes = packet.to_vec();
    let (src, dst) = (packet[12..16].to_vec(), packet[16..20].to_vec());
    bytes[12..20].copy_from_slice(&[dst, src].concat());
    if packet[9] == protocol::ICMP {
        bytes[20] = 8 - packet[20];
        bytes[22..24].fill(0);
        let checksum = Sum::ZERO.bytes(&bytes[20..]).checksum();
        bytes[22..24].copy_from_slice(&checksum.to_be_bytes());
    } else {
        let (src_port, dst_port) = (packet[20..22].to_vec(), packet[22..24].to_vec());
        bytes[20..24].copy_from_slice(&[dst_port, src_port].concat());
    }
    bytes
}

/// Whether a datagram belongs to the one-packet service. No connection keeps its way back from
/// meeting another one's: a client may well have dialled the server directly, too.
fn is_one_packet(arrived: &[u8], left: &[u8]) -> bool {
    let vip = [192, 168, 1, 100];
    arrived[9] == protocol::UDP
        && ((arrived[16..20] == vip && arrived[22..24] == [0, 53])
            || (left[12..16] == vip && left[20..22] == [0, 53]))
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
            if !matches!(verdict, Verdict::Translate(_)) || is_one_packet(&arrived, &left) {
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
                    let is_echo = bytes[9] == protocol::ICMP && bytes[20] % 8 == 0;
                    let outcome = director.inside(bytes);
                    let sent_on = match outcome.verdict {
                        Verdict::Translate(_) | Verdict::Forward => true,
                        // Errors about unknown packets are the router's to judge.
                        Verdict::Punt => outcome.bytes()[9] != protocol::ICMP || is_echo,
                        Verdict::Reply(_) | Verdict::Hold(_) | Verdict::Drop(_) => false,
                    };
                    let (src, dst) = (&outcome.bytes()[12..16], &outcome.bytes()[16..20]);
                    let stays = dst[..3] == [192, 168, 2] || dst == [192, 168, 1, 100]
                        || dst == [192, 168, 1, 101];
                    let goes_out = sent_on && !stays;
                    let is_ours = src == [192, 168, 1, 100] || src == [192, 168, 1, 101];
                    prop_assert!(!goes_out || is_ours, "{:?} leaks", src);
                }
            }
        }
    }
}
