//! Virtual services: translation both ways, scheduling, and refusals.

use shunt_nat::{DropReason, EngineCounters, Reply, ServiceCounters, Side, Traffic, Verdict};
use shunt_rules::VirtualService;
use shunt_testkit::Packet;

use crate::harness::*;

#[test]
fn the_client_sees_the_vip_and_the_server_sees_the_client() {
    let mut director = Director::new(&[rr(VIP, &[RS1])], &[]);
    let request = |src, dst| tcp(src, dst).ack(2).payload("GET / HTTP/1.1\r\n\r\n");
    let response = |src, dst| tcp(src, dst).ack(3).payload("odd");

    director.handshake(CLIENT, VIP, RS1);
    director.outside(request(CLIENT, VIP)).leaves_as(request(CLIENT, RS1));
    director.inside(response(RS1, CLIENT)).leaves_as(response(VIP, CLIENT));

    let expected = ServiceCounters {
        connections: 1,
        traffic: Traffic {
            in_packets: 3,
            in_bytes: 40 + 40 + 58,
            out_packets: 2,
            out_bytes: 40 + 43,
        },
        refused: 0,
    };
    assert_eq!(director.service(0), expected);
    let server = director.server(0);
    assert_eq!((server.connections, server.active, server.inactive), (1, 1, 0));
    assert_eq!(server.traffic, expected.traffic, "all of it is its only server's");
    assert_eq!(director.counters(), EngineCounters { opened: 1, ..Default::default() });
}

#[test]
fn ports_are_mapped() {
    let mut director = Director::new(&[rr("192.168.1.100:8080", &[RS1])], &[]);
    director.handshake(CLIENT, "192.168.1.100:8080", RS1);
    assert_eq!(director.current(), [1]);
}

#[test]
fn datagrams_go_both_ways() {
    let vip = "192.168.1.100:53";
    let real = "192.168.2.210:5353";
    let mut director = Director::new(&[over_udp(rr(vip, &[real]))], &[]);
    director
        .outside(udp(CLIENT, vip).payload("question"))
        .leaves_as(udp(CLIENT, real).payload("question"));
    director
        .inside(udp(real, CLIENT).payload("answer!"))
        .leaves_as(udp(vip, CLIENT).payload("answer!"));
    assert_eq!(
        (director.service(0).traffic.in_bytes, director.service(0).traffic.out_bytes),
        (36, 35)
    );
}

#[test]
fn services_of_two_protocols_share_an_endpoint() {
    let services = [rr(VIP, &[RS1]), over_udp(rr(VIP, &[RS2]))];
    let mut director = Director::new(&services, &[]);
    director.outside(tcp(CLIENT, VIP).syn()).leaves_as(tcp(CLIENT, RS1).syn());
    director.outside(udp(CLIENT, VIP)).leaves_as(udp(CLIENT, RS2));
    assert_eq!(director.current(), [1, 1]);
}

#[test]
fn no_udp_checksum_stays_none() {
    let mut director = Director::new(&[over_udp(rr(VIP, &[RS1]))], &[]);
    director
        .outside(udp(CLIENT, VIP).unchecksummed().payload("x"))
        .leaves_as(udp(CLIENT, RS1).unchecksummed().payload("x"));
    director.inside(udp(RS1, CLIENT).unchecksummed()).leaves_as(udp(VIP, CLIENT).unchecksummed());
}

#[test]
fn a_udp_checksum_that_becomes_zero_is_sent_as_ones() {
    let mut director = Director::new(&[over_udp(rr(VIP, &[RS1]))], &[]);
    // With its own complement in the payload, a sum becomes all ones and its checksum zero.
    let checksum = |packet: &[u8]| [packet[26], packet[27]];
    let payload = checksum(&udp(CLIENT, RS1).payload([0, 0]).bytes());
    let translated = udp(CLIENT, RS1).payload(payload);
    assert_eq!(checksum(&translated.bytes()), [0xff, 0xff]);
    director.outside(udp(CLIENT, VIP).payload(payload)).leaves_as(translated);
}

#[test]
fn ip_options_and_header_fields_survive() {
    let mut director = Director::new(&[rr(VIP, &[RS1])], &[]);
    let with_options = |src, dst| {
        let record_route = [7, 7, 4, 0, 0, 0, 0, 0];
        tcp(src, dst).syn().options(&record_route).ttl(3).id(0xbeef).dont_fragment(false)
    };
    director.outside(with_options(CLIENT, VIP)).leaves_as(with_options(CLIENT, RS1));
    assert_eq!(director.service(0).traffic.in_bytes, 48);
}

#[test]
fn a_payload_corrupted_on_the_way_stays_corrupt() {
    let mut director = Director::new(&[rr(VIP, &[RS1])], &[]);
    director.handshake(CLIENT, VIP, RS1);
    let mut packet = tcp(CLIENT, VIP).ack(2).payload("data").bytes();
    *packet.last_mut().unwrap() ^= 1;
    assert!(verify(director.outside(packet).bytes()).is_err());
}

#[test]
fn round_robin_alternates() {
    let mut director = Director::new(&[rr(VIP, &[RS1, RS2])], &[]);
    for (client, real) in
        [("192.168.1.200:1", RS1), ("192.168.1.201:1", RS2), ("192.168.1.200:2", RS1)]
    {
        director.handshake(client, VIP, real);
    }
    assert_eq!(director.current(), [2, 1]);
}

#[test]
fn a_connection_keeps_its_server() {
    let mut director = Director::new(&[rr(VIP, &[RS1, RS2])], &[]);
    director.outside(tcp(CLIENT, VIP).syn()).leaves_as(tcp(CLIENT, RS1).syn());
    director.outside(tcp(CLIENT, VIP).syn()).leaves_as(tcp(CLIENT, RS1).syn());
    assert_eq!((director.current(), director.service(0).connections), (vec![1, 0], 1));
}

#[test]
fn weights_are_kept_and_spread() {
    let mut director = Director::new(&[wrr(VIP, &[(RS1, 3), (RS2, 1)])], &[]);
    let servers = [RS1, RS1, RS2, RS1, RS1, RS1, RS2, RS1];
    for (at, real) in servers.into_iter().enumerate() {
        director.handshake(&format!("192.168.1.200:{}", 1000 + at), VIP, real);
    }
    assert_eq!(director.current(), [6, 2]);
}

#[test]
fn weight_zero_gets_nothing_new_and_finishes_what_it_has() {
    for service in [wrr(VIP, &[(RS1, 0), (RS2, 1)]), without_weight(rr(VIP, &[RS1, RS2]))] {
        let mut director = Director::new(&[service], &[]);
        for port in 1..=3 {
            director.handshake(&format!("192.168.1.200:{port}"), VIP, RS2);
        }
        assert_eq!(director.current(), [0, 3]);
    }
}

fn without_weight(mut service: VirtualService) -> VirtualService {
    service.servers[0].weight = 0;
    service
}

#[test]
fn a_service_without_servers_refuses() {
    for service in [rr(VIP, &[]), wrr(VIP, &[(RS1, 0)])] {
        let mut director = Director::new(&[service.clone(), over_udp(service)], &[]);
        director.outside(tcp(CLIENT, VIP).syn()).is_answered_by(Reply::Reset);
        director.outside(udp(CLIENT, VIP)).is_answered_by(Reply::PortUnreachable);
        assert_eq!((director.service(0).refused, director.service(1).refused), (1, 1));
        assert_eq!(director.counters(), EngineCounters::default());
    }
}

#[test]
fn tcp_begins_with_a_syn() {
    let mut director = Director::new(&[rr(VIP, &[RS1])], &[]);
    for stray in [
        tcp(CLIENT, VIP).ack(1),
        tcp(CLIENT, VIP).fin().ack(1),
        tcp(CLIENT, VIP).syn().ack(1),
        tcp(CLIENT, VIP).syn().fin(),
        tcp(CLIENT, VIP),
    ] {
        director.outside(stray).is_answered_by(Reply::Reset);
    }
    for stray in
        [tcp(CLIENT, VIP).rst(), tcp(CLIENT, VIP).rst().ack(1), tcp(CLIENT, VIP).syn().rst()]
    {
        director.outside(stray).is_dropped_for(DropReason::UnknownConnection);
    }
    assert_eq!(director.service(0), ServiceCounters::default());
}

#[test]
fn a_hop_too_many_opens_no_connection() {
    let mut director = Director::new(&[rr(VIP, &[RS1]), over_udp(rr(VIP, &[RS1]))], &[]);
    for ttl in [0, 1] {
        director.outside(tcp(CLIENT, VIP).syn().ttl(ttl)).is_answered_by(Reply::TimeExceeded);
        director.outside(udp(CLIENT, VIP).ttl(ttl)).is_answered_by(Reply::TimeExceeded);
    }
    director.outside(tcp(CLIENT, VIP).syn().ttl(2)).leaves_as(tcp(CLIENT, RS1).syn().ttl(2));
    assert_eq!(director.current(), [1, 0]);
}

#[test]
fn a_hop_too_many_changes_no_connection() {
    let mut director = Director::new(&[rr(VIP, &[RS1])], &[]);
    director.handshake(CLIENT, VIP, RS1);
    let (state, counters) = (director.state(), director.service(0));
    director.wait_seconds(5);
    director.inside(tcp(RS1, CLIENT).rst().ttl(1)).is_answered_by(Reply::TimeExceeded);
    director.outside(tcp(CLIENT, VIP).rst().ttl(1)).is_answered_by(Reply::TimeExceeded);
    assert_eq!((director.state(), director.service(0)), (state, counters));
    assert_eq!(director.remaining().as_secs(), 895, "its packet does not count as a sign of life");
}

#[test]
fn what_is_no_service_is_left_to_the_director() {
    let mut director = Director::new(&[rr(VIP, &[RS1])], &[]);
    director.outside(tcp(CLIENT, "192.168.1.100:81").syn()).is_punted();
    director.outside(udp(CLIENT, VIP)).is_punted();
    director.outside(tcp(CLIENT, HOST).syn()).is_punted();
    director.inside(tcp(RS1, REMOTE).syn()).is_punted();
    director.inside(udp(RS1, "192.168.2.200:53")).is_punted();
    director.outside(Packet::raw("192.168.1.200", "192.168.1.100", 47)).is_punted();
    assert_eq!(director.counters(), EngineCounters::default());
}

#[test]
fn services_are_for_the_outside() {
    let mut director = Director::new(&[rr(VIP, &[RS1])], &[]);
    director.inside(tcp(HOST, VIP).syn()).is_punted();
    assert_eq!(director.service(0), ServiceCounters::default());
}

#[test]
fn two_services_share_a_server_but_not_a_tuple() {
    let other = "192.168.1.100:8080";
    let mut director = Director::new(&[rr(VIP, &[RS1]), rr(other, &[RS1, RS2])], &[]);
    director.handshake(CLIENT, VIP, RS1);
    // RS1 could not tell the client's two connections apart: RS2 gets the second.
    director.handshake(CLIENT, other, RS2);
    assert_eq!(director.current(), [1, 0, 1]);
    // Other client endpoints can be told apart; the turns go on as if nothing had been.
    director.handshake("192.168.1.200:40001", other, RS2);
    director.handshake("192.168.1.200:40002", other, RS1);
    assert_eq!(director.current(), [1, 1, 2]);
}

#[test]
fn a_tuple_taken_on_all_servers_is_dropped() {
    let (second, third) = ("192.168.1.100:8080", "192.168.1.100:8081");
    let services = [rr(VIP, &[RS1]), rr(second, &[RS2]), rr(third, &[RS1, RS2])];
    let mut director = Director::new(&services, &[]);
    director.handshake(CLIENT, VIP, RS1);
    director.handshake(CLIENT, second, RS2);
    director.outside(tcp(CLIENT, third).syn()).is_dropped_for(DropReason::TupleInUse);
    assert_eq!(director.service(2), ServiceCounters::default(), "no refusal: a retry may succeed");

    // The tuple is free again once both ends are done with it.
    director.inside(tcp(RS2, CLIENT).rst()).leaves_as(tcp(second, CLIENT).rst());
    director.outside(tcp(CLIENT, third).syn()).leaves_as(tcp(CLIENT, RS2).syn());
    assert_eq!((director.current(), director.counters().replaced), (vec![1, 0, 0, 1], 1));
}

#[test]
fn a_heavy_server_does_not_keep_the_others_from_being_tried() {
    let other = "192.168.1.100:8080";
    let services = [rr(VIP, &[RS1]), wrr(other, &[(RS1, 100), (RS2, 1)])];
    let mut director = Director::new(&services, &[]);
    director.handshake(CLIENT, VIP, RS1);
    director.handshake(CLIENT, other, RS2);
    assert_eq!(director.current(), [1, 0, 1]);
}

#[test]
fn a_drained_server_is_not_tried_in_anothers_place() {
    let other = "192.168.1.100:8080";
    let services = [rr(VIP, &[RS1]), wrr(other, &[(RS1, 1), (RS2, 0)])];
    let mut director = Director::new(&services, &[]);
    director.handshake(CLIENT, VIP, RS1);
    director.outside(tcp(CLIENT, other).syn()).is_dropped_for(DropReason::TupleInUse);
}

/// The first and the last fragment of a datagram.
fn fragments(src: &str, dst: &str) -> [Packet; 2] {
    let first = udp(src, dst).payload([0; 16]).fragment(0, true);
    [first, Packet::raw(host(src), host(dst), 17).payload("the rest").fragment(3, false)]
}

#[test]
fn fragments_follow_the_first_one() {
    let mut director = Director::new(&[over_udp(rr(VIP, &[RS1]))], &[]);
    for (arrives, leaves) in fragments(CLIENT, VIP).into_iter().zip(fragments(CLIENT, RS1)) {
        director.outside(arrives).leaves_as(leaves);
    }
    for (arrives, leaves) in fragments(RS1, CLIENT).into_iter().zip(fragments(VIP, CLIENT)) {
        director.inside(arrives).leaves_as(leaves);
    }
    assert_eq!(director.counters(), EngineCounters { opened: 1, ..Default::default() });
    let counted = ServiceCounters {
        connections: 1,
        traffic: Traffic { in_packets: 2, in_bytes: 44 + 28, out_packets: 2, out_bytes: 44 + 28 },
        refused: 0,
    };
    assert_eq!(director.service(0), counted);
    assert_eq!(director.engine().incomplete_packets(), 0);
}

#[test]
fn a_fragment_that_comes_before_the_first_one_is_held() {
    let mut director = Director::new(&[over_udp(rr(VIP, &[RS1]))], &[]);
    let [first, last] = fragments(CLIENT, VIP);
    let verdict = director.outside(last).verdict;
    assert!(matches!(verdict, Verdict::Hold(_)), "{verdict:?}");
    director.outside(first).leaves_as(fragments(CLIENT, RS1)[0].clone());
    assert_eq!(director.engine().incomplete_packets(), 0);
}

#[test]
fn a_refused_packets_fragments_are_refused() {
    let mut director = Director::new(&[over_udp(rr(VIP, &[]))], &[]);
    let [first, last] = fragments(CLIENT, VIP);
    director.outside(first).is_answered_by(Reply::PortUnreachable);
    director.outside(last).is_dropped_for(DropReason::FragmentRefused);
}

#[test]
fn fragments_of_what_is_not_translated_are_left_alone() {
    let mut director = Director::new(&[over_udp(rr(VIP, &[RS1]))], &[]);
    for (side, src, dst) in [(Side::Outside, CLIENT, HOST), (Side::Inside, HOST, REMOTE)] {
        for fragment in fragments(src, dst) {
            director.receive(side, fragment.into()).is_punted();
        }
    }
    assert_eq!(director.counters(), EngineCounters::default());
}

#[test]
fn fragments_of_icmp_are_not_the_engines_business() {
    let mut director = Director::new(&[rr(VIP, &[RS1])], &[]);
    let echo = Packet::echo_request("192.168.1.200", "192.168.1.100", 1, 1);
    director.outside(echo.payload([0; 64]).fragment(0, true)).is_punted();
}
