//! One-packet services: every datagram is scheduled by itself, and no connection is kept.

use etherparse::{Icmpv4Type, icmpv4};
use shunt_nat::{EngineCounters, Reply, ServiceCounters, Traffic};
use shunt_rules::{Protocol, VirtualService};
use shunt_testkit::Packet;

use crate::harness::*;

fn one_packet(service: VirtualService) -> VirtualService {
    VirtualService { one_packet: true, ..over_udp(service) }
}

#[test]
fn each_datagram_is_scheduled() {
    let mut director = Director::new(&[one_packet(rr(VIP, &[RS1, RS2]))], &[]);
    for real in [RS1, RS2, RS1, RS2, RS1] {
        director
            .outside(udp(CLIENT, VIP).payload("query"))
            .leaves_as(udp(CLIENT, real).payload("query"));
    }
    assert_eq!(director.connections().len(), 0);
    assert_eq!(director.counters(), EngineCounters::default());
    assert_eq!((director.server(0).connections, director.server(1).connections), (3, 2));
    assert_eq!(director.current(), [0, 0]);
}

#[test]
fn replies_leave_from_the_vip() {
    let (first, second) = ("192.168.2.210:5353", "192.168.2.220:5354");
    let mut director = Director::new(&[one_packet(rr(VIP, &[first, second]))], &[]);
    director.outside(udp(CLIENT, VIP)).leaves_as(udp(CLIENT, first));
    for real in [first, second] {
        director
            .inside(udp(real, CLIENT).payload("answer!"))
            .leaves_as(udp(VIP, CLIENT).payload("answer!"));
    }
    director.inside(udp(first, CLIENT).unchecksummed()).leaves_as(udp(VIP, CLIENT).unchecksummed());
    let expected = ServiceCounters {
        connections: 1,
        traffic: Traffic { in_packets: 1, in_bytes: 28, out_packets: 3, out_bytes: 35 + 35 + 28 },
        refused: 0,
    };
    assert_eq!(director.service(0), expected);
}

#[test]
fn a_server_without_a_port_has_the_vport() {
    let mut service = one_packet(rr(VIP, &[RS1]));
    service.servers[0].port = None;
    let mut director = Director::new(&[service], &[]);
    director.outside(udp(CLIENT, VIP)).leaves_as(udp(CLIENT, RS1));
    director.inside(udp(RS1, CLIENT)).leaves_as(udp(VIP, CLIENT));
}

#[test]
fn what_else_a_server_sends_is_its_own() {
    let mut director = Director::new(&[one_packet(rr(VIP, &[RS1]))], &[snat(1024..=65_535)]);
    director.inside(udp("192.168.2.210:5000", REMOTE)).leaves_as(udp("192.168.1.100:5000", REMOTE));
    director.inside(tcp(RS1, REMOTE).syn()).leaves_as(tcp("192.168.1.100:1024", REMOTE).syn());
    director.inside(udp(RS1, HOST)).is_punted();
    director.inside(udp(RS1, "192.168.2.200:53")).is_punted();
    assert_eq!(director.service(0), ServiceCounters::default());
}

#[test]
fn a_hop_too_many() {
    let mut director = Director::new(&[one_packet(rr(VIP, &[RS1]))], &[]);
    director.outside(udp(CLIENT, VIP).ttl(1)).is_answered_by(Reply::TimeExceeded);
    director.inside(udp(RS1, CLIENT).ttl(1)).is_answered_by(Reply::TimeExceeded);
    assert_eq!(director.service(0), ServiceCounters::default());
    assert_eq!(director.server(0).connections, 0);
}

#[test]
fn errors_about_datagrams_to_a_server_reach_the_client() {
    let mut director = Director::new(&[one_packet(rr(VIP, &[RS1]))], &[]);
    let quote = udp(CLIENT, VIP).payload("query").ttl(9);
    let left = director.outside(quote.clone()).translated();
    let unreachable = Icmpv4Type::DestinationUnreachable(icmpv4::DestUnreachableHeader::Port);
    let error = |src: &str, dst: &str, quote: Vec<u8>| {
        Packet::icmp(src, dst, unreachable.clone()).payload(quote)
    };
    let told = error(host(VIP), host(CLIENT), quote.bytes());
    director.inside(error(host(RS1), host(CLIENT), left.clone())).is_passed_on_as(told);
    director
        .inside(error(host(RS1), host(CLIENT), left.clone()).ttl(1))
        .is_answered_by(Reply::TimeExceeded);
    director.outside(error(host(RS1), host(CLIENT), left)).is_punted();
    let inside = udp("192.168.2.50:40000", RS1).bytes();
    director.inside(error(host(RS1), "192.168.2.50", inside)).is_punted();
    let another = udp(CLIENT, RS2).bytes();
    director.inside(error(host(RS2), host(CLIENT), another)).is_punted();
    let expected = EngineCounters { icmp_errors: 1, ..EngineCounters::default() };
    assert_eq!(director.counters(), expected);
}

#[test]
fn without_servers_datagrams_are_refused() {
    let mut director = Director::new(&[one_packet(wrr(VIP, &[(RS1, 0)]))], &[]);
    director.outside(udp(CLIENT, VIP)).is_answered_by(Reply::PortUnreachable);
    assert_eq!(director.service(0), ServiceCounters { refused: 1, ..Default::default() });
}

#[test]
fn tcp_has_connections_all_the_same() {
    let protocols = vec![Protocol::Tcp, Protocol::Udp];
    let service = VirtualService { protocols, ..one_packet(rr(VIP, &[RS1, RS2])) };
    let mut director = Director::with_rules(&rules_of(&[service], &[]));
    director.handshake(CLIENT, VIP, RS1);
    director.outside(udp(CLIENT, VIP)).leaves_as(udp(CLIENT, RS2));
    director.outside(udp(CLIENT, VIP)).leaves_as(udp(CLIENT, RS1));
    assert_eq!(director.connections().len(), 1);
}

#[test]
fn a_full_table_does_not_matter() {
    let services = [one_packet(rr(VIP, &[RS1])), rr(VIP, &[RS1])];
    let mut director = Director::with_capacity(1, &services, &[]);
    director.handshake(CLIENT, VIP, RS1);
    director.outside(udp(CLIENT, VIP)).leaves_as(udp(CLIENT, RS1));
}
