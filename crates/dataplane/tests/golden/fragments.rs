//! Fragments: only the first of a packet has ports, and all are translated alike, whatever their
//! order.

use std::ops::Range;

use shunt_dataplane::{DropReason, PipelineCounters};
use shunt_testkit::Packet;

use crate::{
    case::Case,
    icmp_errors::{port_unreachable, ttl_exceeded},
    network::{CLIENT, GATEWAY, OTHER_VIP, ROUTER, RS1, RS2, VIP},
};

const CLIENT_PORT: &str = "192.168.1.200:4000";
const DNS: &str = "192.168.1.100:53";
const SERVER: &str = "192.168.2.210:5353";
const REMOTE: &str = "203.0.113.9:123";

/// A datagram of 1008 bytes, all different enough, that may be cut.
fn datagram(src: &str, dst: &str) -> Packet {
    let payload: Vec<_> = (0..1000).map(|n| (n % 251) as u8).collect();
    Packet::udp(src, dst).id(7).dont_fragment(false).payload(payload)
}

const RANGES: [Range<usize>; 3] = [0..400, 400..800, 800..1008];

/// Its three fragments.
fn cut(packet: &Packet) -> [Packet; 3] {
    RANGES.map(|range| packet.part(range))
}

const ORDERS: [[usize; 3]; 6] = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];

/// The order in which fragments leave: none before the first.
fn departure(arrival: [usize; 3]) -> impl Iterator<Item = usize> {
    std::iter::once(0).chain(arrival.into_iter().filter(|place| *place != 0))
}

#[test]
fn both_ways_in_any_order() {
    for order in ORDERS {
        let mut case = Case::new(format!("to the service and back, {order:?}"));
        let (to_vip, to_server) = (datagram(CLIENT_PORT, DNS), datagram(CLIENT_PORT, SERVER));
        for place in order {
            case = case.arrives(CLIENT.sends(cut(&to_vip)[place].clone()));
        }
        for place in departure(order) {
            case = case.leaves(RS1.gets(cut(&to_server)[place].clone().ttl(63)));
        }
        let (from_server, from_vip) = (datagram(SERVER, CLIENT_PORT), datagram(DNS, CLIENT_PORT));
        for place in order {
            case = case.arrives(RS1.sends(cut(&from_server)[place].clone()));
        }
        for place in departure(order) {
            case = case.leaves(CLIENT.gets(cut(&from_vip)[place].clone().ttl(63)));
        }
        case.opens(1).run();
    }
}

/// All that they need to know is in every one of them.
#[test]
fn of_a_tunnel_through_snat() {
    let whole = |src: &str, dst: &str| Packet::raw(src, dst, 50).id(5).payload([3; 64]);
    let outside = "192.168.1.160";
    let mut case = Case::new("an inside host's ESP, and the answer, each fragment by itself");
    for part in [32..64, 0..32] {
        case = case
            .arrives(RS1.sends(whole(RS1.address, CLIENT.address).part(part.clone())))
            .leaves(CLIENT.gets(whole(outside, CLIENT.address).part(part.clone()).ttl(63)))
            .arrives(CLIENT.sends(whole(CLIENT.address, outside).part(part.clone())))
            .leaves(RS1.gets(whole(CLIENT.address, RS1.address).part(part).ttl(63)));
    }
    case.opens(1).run();
}

#[test]
fn a_tcp_segment() {
    let (http, server) = ("192.168.1.100:8080", "192.168.2.210:80");
    let segment = |dst| Packet::tcp(CLIENT_PORT, dst).ack(1).payload([7; 100]).id(3);
    let (to_vip, to_server) = (segment(http), segment(server).ttl(63));
    Case::new("a segment of a connection that is open, its header alone in the first fragment")
        .arrives(CLIENT.sends(Packet::tcp(CLIENT_PORT, http).syn()))
        .leaves(RS1.gets(Packet::tcp(CLIENT_PORT, server).syn().ttl(63)))
        .arrives(CLIENT.sends(to_vip.part(24..120)))
        .arrives(CLIENT.sends(to_vip.part(0..24)))
        .leaves(RS1.gets(to_server.part(0..24)))
        .leaves(RS1.gets(to_server.part(24..120)))
        .opens(1)
        .run();
}

/// Whoever brings fragments together counts those that came before: a spoofed one would be in the way of
/// the real one.
#[test]
fn spoofed_fragments_disturb_nobody() {
    let (from_server, from_vip) = (datagram(SERVER, CLIENT_PORT), datagram(DNS, CLIENT_PORT));
    let mut case = Case::new("somebody outside sends a fragment as if a server had answered")
        .arrives(CLIENT.sends(Packet::udp(CLIENT_PORT, DNS)))
        .leaves(RS1.gets(Packet::udp(CLIENT_PORT, SERVER).ttl(63)))
        .arrives(CLIENT.sends(cut(&from_server)[1].clone()))
        .drops(DropReason::MartianSource, 1);
    for place in [0, 1, 2] {
        case = case
            .arrives(RS1.sends(cut(&from_server)[place].clone()))
            .leaves(CLIENT.gets(cut(&from_vip)[place].clone().ttl(63)));
    }
    case.opens(1).run();
}

#[test]
fn interleaved() {
    // Two datagrams of one client with their own identifications, and one of another client's that
    // has the same.
    let other_client = "203.0.113.9:4000";
    let to = |dst| {
        [
            cut(&datagram(CLIENT_PORT, dst)),
            cut(&datagram(CLIENT_PORT, dst).id(8)),
            cut(&datagram(other_client, dst)),
        ]
    };
    let (to_vip, to_server) = (to(DNS), to(SERVER));
    let arrivals = [(0, 2), (1, 0), (2, 1), (0, 0), (2, 0), (1, 1), (0, 1), (2, 2), (1, 2)];
    let departures = [(1, 0), (0, 0), (0, 2), (2, 0), (2, 1), (1, 1), (0, 1), (2, 2), (1, 2)];
    let mut case = Case::new("fragments of three packets between each other");
    for (packet, place) in arrivals {
        let from = if packet == 2 { &GATEWAY } else { &CLIENT };
        case = case.arrives(from.sends(to_vip[packet][place].clone()));
    }
    for (packet, place) in departures {
        case = case.leaves(RS1.gets(to_server[packet][place].clone().ttl(63)));
    }
    case.opens(2).run();
}

#[test]
fn through_snat() {
    let (host, outside) = ("192.168.2.210:5000", "192.168.1.160:40000");
    for order in ORDERS {
        let mut case = Case::new(format!("an inside host's datagram and the answer, {order:?}"));
        for place in order {
            case = case.arrives(RS1.sends(cut(&datagram(host, REMOTE))[place].clone()));
        }
        for place in departure(order) {
            let translated = datagram(outside, REMOTE).ttl(63);
            case = case.leaves(GATEWAY.gets(cut(&translated)[place].clone()));
        }
        for place in order {
            case = case.arrives(GATEWAY.sends(cut(&datagram(REMOTE, outside))[place].clone()));
        }
        for place in departure(order) {
            let translated = datagram(REMOTE, host).ttl(63);
            case = case.leaves(RS1.gets(cut(&translated)[place].clone()));
        }
        case.opens(1).run();
    }
}

#[test]
fn a_large_ping_through_snat() {
    let (remote, outside) = ("203.0.113.9", "192.168.1.160");
    let ping = |src, id| Packet::echo_request(src, remote, id, 1).payload([5; 1000]);
    let pong = |dst, id| Packet::echo_reply(remote, dst, id, 1).payload([5; 1000]);
    let mut case = Case::new("an echo's identifier is in its first fragment");
    for place in [1, 0, 2] {
        case = case.arrives(RS1.sends(cut(&ping(RS1.address, 77))[place].clone()));
    }
    for place in [0, 1, 2] {
        case = case.leaves(GATEWAY.gets(cut(&ping(outside, 40000))[place].clone().ttl(63)));
    }
    for place in [2, 1, 0] {
        case = case.arrives(GATEWAY.sends(cut(&pong(outside, 40000))[place].clone()));
    }
    for place in [0, 2, 1] {
        case = case.leaves(RS1.gets(cut(&pong(RS1.address, 77))[place].clone().ttl(63)));
    }
    case.opens(1).run();
}

#[test]
fn that_are_routed() {
    let far = datagram("203.0.113.9:9", "10.9.1.2:9");
    let near = datagram("203.0.113.9:9", "192.168.2.210:9");
    let back = datagram("192.168.2.210:9", "203.0.113.9:9");
    let mut case = Case::new(
        "what concerns no rule isn't tracked; what might waits for its first fragment, and passes",
    );
    for place in [2, 0, 1] {
        case = case
            .arrives(GATEWAY.sends(cut(&far)[place].clone()))
            .leaves(ROUTER.gets(cut(&far)[place].clone().ttl(63)));
    }
    for (packet, from, to) in [(&near, &GATEWAY, &RS1), (&back, &RS1, &GATEWAY)] {
        for place in [2, 1, 0] {
            case = case.arrives(from.sends(cut(packet)[place].clone()));
        }
        for place in [0, 2, 1] {
            case = case.leaves(to.gets(cut(packet)[place].clone().ttl(63)));
        }
    }
    case.opens(1).run();
}

#[test]
fn of_a_server_to_nobody_in_particular() {
    // RS2 has no SNAT rule here, but serves, so its fragments may be answers.
    let rules = r#"
        [[route]]
        to = "default"
        via = "192.168.1.1"

        [[service]]
        protocol = "udp"
        vip = "192.168.1.100:53"
        scheduler = "rr"
        server = [{ address = "192.168.2.220" }]
    "#;
    let packet = datagram("192.168.2.220:9", REMOTE);
    let mut case =
        Case::new("a server's own datagram is routed in the order of its first fragment")
            .rules(rules);
    for place in [1, 0, 2] {
        case = case.arrives(RS2.sends(cut(&packet)[place].clone()));
    }
    for fragment in cut(&packet.ttl(63)) {
        case = case.leaves(GATEWAY.gets(fragment));
    }
    case.run();
}

#[test]
fn that_overlap() {
    let (to_vip, to_server) = (datagram(CLIENT_PORT, DNS), datagram(CLIENT_PORT, SERVER).ttl(63));
    Case::new("nothing of a packet passes any more once its fragments overlap (RFC 5722)")
        .arrives(CLIENT.sends(to_vip.part(0..400)))
        .arrives(CLIENT.sends(to_vip.part(392..800)))
        .arrives(CLIENT.sends(to_vip.part(800..1008)))
        .leaves(RS1.gets(to_server.part(0..400)))
        .drops(DropReason::FragmentOverlap, 2)
        .opens(1)
        .run();
    Case::new("nor what waits for its first fragment")
        .arrives(CLIENT.sends(to_vip.part(400..800)))
        .arrives(CLIENT.sends(to_vip.part(792..1008)))
        .arrives(CLIENT.sends(to_vip.part(0..400)))
        .drops(DropReason::FragmentOverlap, 3)
        .run();
    Case::new("nor when it is the first one that overlaps")
        .arrives(CLIENT.sends(to_vip.part(400..800)))
        .arrives(CLIENT.sends(to_vip.part(0..408)))
        .drops(DropReason::FragmentOverlap, 2)
        .run();
}

#[test]
fn that_come_twice() {
    let (to_vip, to_server) = (datagram(CLIENT_PORT, DNS), datagram(CLIENT_PORT, SERVER).ttl(63));
    Case::new("the network doubled every fragment: the second copies are dropped")
        .arrives(CLIENT.sends(to_vip.part(400..800)))
        .arrives(CLIENT.sends(to_vip.part(400..800)))
        .arrives(CLIENT.sends(to_vip.part(0..400)))
        .arrives(CLIENT.sends(to_vip.part(0..400)))
        .arrives(CLIENT.sends(to_vip.part(800..1008)))
        .leaves(RS1.gets(to_server.part(0..400)))
        .leaves(RS1.gets(to_server.part(400..800)))
        .leaves(RS1.gets(to_server.part(800..1008)))
        .drops(DropReason::FragmentDuplicate, 2)
        .opens(1)
        .run();
}

#[test]
fn that_no_honest_sender_makes() {
    let segment = Packet::tcp(CLIENT_PORT, "192.168.1.100:80").syn().payload([7; 100]);
    let raw = || Packet::raw(CLIENT.address, VIP, 17).id(9);
    Case::new("transport headers in pieces, odd lengths, none, and beyond the longest packet")
        .arrives(CLIENT.sends(segment.part(0..8)))
        .arrives(CLIENT.sends(segment.part(0..16)))
        .arrives(CLIENT.sends(segment.part(8..120)))
        .arrives(CLIENT.sends(segment.part(16..120)))
        .arrives(CLIENT.sends(raw().payload([7; 12]).fragment(4, true)))
        .arrives(CLIENT.sends(raw().fragment(4, false)))
        .arrives(CLIENT.sends(raw().payload([7; 8]).fragment(8191, false)))
        .drops(DropReason::FragmentTiny, 4)
        .drops(DropReason::FragmentLength, 2)
        .drops(DropReason::FragmentTooLong, 1)
        .run();
}

#[test]
fn whose_first_one_is_too_small() {
    let segment = Packet::tcp(CLIENT_PORT, "192.168.1.100:80").syn().payload([7; 100]);
    Case::new("what waited for a first fragment that is dropped is dropped with it")
        .arrives(CLIENT.sends(segment.part(24..64)))
        .arrives(CLIENT.sends(segment.part(64..120)))
        .arrives(CLIENT.sends(segment.part(0..16)))
        .drops(DropReason::FragmentTiny, 1)
        .drops(DropReason::FragmentRefused, 2)
        .run();
}

#[test]
fn whose_first_one_never_comes() {
    let to_vip = datagram(CLIENT_PORT, DNS);
    Case::new("a second of waiting, then they are dropped")
        .arrives(CLIENT.sends(to_vip.part(400..800)))
        .after_millis(500)
        .arrives(CLIENT.sends(to_vip.part(800..1008)))
        .after_millis(500)
        .after_millis(499)
        .held(1)
        .drops(DropReason::FragmentTimeout, 1)
        .run();
    Case::new("all of them")
        .arrives(CLIENT.sends(to_vip.part(400..800)))
        .arrives(CLIENT.sends(to_vip.part(800..1008)))
        .after_millis(1000)
        .drops(DropReason::FragmentTimeout, 2)
        .run();
}

#[test]
fn whose_first_one_comes_late() {
    let (to_vip, to_server) = (datagram(CLIENT_PORT, DNS), datagram(CLIENT_PORT, SERVER).ttl(63));
    Case::new(
        "what was dropped is gone; a fragment that comes after the first follows it for 30 s",
    )
    .arrives(CLIENT.sends(to_vip.part(400..800)))
    .after_millis(1000)
    .after_millis(0)
    .arrives(CLIENT.sends(to_vip.part(0..400)))
    .leaves(RS1.gets(to_server.part(0..400)))
    .after_millis(28_000)
    .arrives(CLIENT.sends(to_vip.part(800..1000)))
    .leaves(RS1.gets(to_server.part(800..1000)))
    .drops(DropReason::FragmentTimeout, 1)
    .opens(1)
    .run();
}

#[test]
fn that_are_too_many() {
    let mut case = Case::new("sixteen fragments of a packet wait, and 256 in all");
    let fragment = |id, offset| {
        Packet::raw(CLIENT.address, VIP, 17).id(id).payload([7; 8]).fragment(offset, true)
    };
    for offset in 1..=18 {
        case = case.arrives(CLIENT.sends(fragment(0, offset)));
    }
    for id in 1..=16 {
        for offset in 1..=16 {
            case = case.arrives(CLIENT.sends(fragment(id, offset)));
        }
    }
    case.mbufs(511).drops(DropReason::FragmentQueueFull, 2 + 16).held(256).run();
}

#[test]
fn of_a_datagram_that_is_refused() {
    let vip = format!("{OTHER_VIP}:81");
    let packet = datagram(CLIENT_PORT, &vip);
    let unreachable = |first: &Packet| {
        let error = Packet::icmp(OTHER_VIP, CLIENT.address, port_unreachable());
        CLIENT.gets(error.payload(first.bytes()))
    };
    Case::new("the sender is told once, by the first fragment; the others are dropped")
        .arrives(CLIENT.sends(packet.part(400..800)))
        .arrives(CLIENT.sends(packet.part(0..400)))
        .arrives(CLIENT.sends(packet.part(800..1008)))
        .leaves(unreachable(&packet.part(0..400)))
        .drops(DropReason::Refused, 1)
        .drops(DropReason::FragmentRefused, 2)
        .pipeline(PipelineCounters { icmp_errors: 1, ..PipelineCounters::default() })
        .run();
}

#[test]
fn of_which_the_ttl_runs_out() {
    let (to_vip, to_server) = (datagram(CLIENT_PORT, DNS), datagram(CLIENT_PORT, SERVER));
    let tired = datagram("192.168.1.200:4001", DNS).ttl(1);
    let exceeded = Packet::icmp(VIP, CLIENT.address, ttl_exceeded());
    Case::new("the sender is told of a first fragment, and of no other (RFC 1122)")
        .arrives(CLIENT.sends(to_vip.part(400..800).ttl(1)))
        .arrives(CLIENT.sends(to_vip.part(0..400)))
        .arrives(CLIENT.sends(to_vip.part(800..1008).ttl(1)))
        .arrives(CLIENT.sends(tired.clone().id(8).part(0..400)))
        .arrives(CLIENT.sends(tired.clone().id(8).part(400..1008)))
        .leaves(RS1.gets(to_server.part(0..400).ttl(63)))
        .leaves(CLIENT.gets(exceeded.payload(tired.id(8).part(0..400).bytes())))
        .drops(DropReason::TtlExpired, 3)
        .drops(DropReason::FragmentRefused, 1)
        .pipeline(PipelineCounters { icmp_errors: 1, ..PipelineCounters::default() })
        .opens(1)
        .run();
}

#[test]
fn for_which_no_port_is_left() {
    let host = |port| format!("192.168.2.210:{port}");
    let small = |port| Packet::udp(&host(port), REMOTE);
    let large = datagram(&host(3), REMOTE);
    Case::new("the first fragment finds no source port: the others don't leave untranslated")
        .arrives(RS1.sends(small(1)))
        .arrives(RS1.sends(small(2)))
        .arrives(RS1.sends(large.part(0..400)))
        .arrives(RS1.sends(large.part(400..1008)))
        .leaves(GATEWAY.gets(Packet::udp("192.168.1.160:40000", REMOTE).ttl(63)))
        .leaves(GATEWAY.gets(Packet::udp("192.168.1.160:40001", REMOTE).ttl(63)))
        .drops(DropReason::SnatPortsExhausted, 1)
        .drops(DropReason::FragmentRefused, 1)
        .opens(2)
        .run();
}
