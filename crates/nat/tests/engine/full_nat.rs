//! Full-NAT: the server sees one of the director's own addresses.

use std::time::Duration;

use etherparse::{Icmpv4Type, icmpv4};
use shunt_nat::{DropReason, EngineCounters, PoolUsage, Side};
use shunt_rules::{ForwardingMode, LocalAddress, Rules, VirtualService};
use shunt_testkit::Packet;

use crate::harness::*;

const SEEN_AS: &str = "192.168.2.200:60000";
const OTHER_CLIENT: &str = "192.168.1.201:40000";

fn full_nat(service: VirtualService) -> VirtualService {
    VirtualService { mode: ForwardingMode::FullNat, ..service }
}

fn director(services: &[VirtualService], ports: std::ops::RangeInclusive<u16>) -> Director {
    let services: Vec<_> = services.iter().cloned().map(full_nat).collect();
    let local_addresses = vec![local(INSIDE_ADDRESS, ports)];
    Director::with_rules(&Rules { local_addresses, ..rules_of(&services, &[]) })
}

fn usage(director: &Director) -> PoolUsage {
    director.engine().rules().local_usage()
}

#[test]
fn the_server_sees_a_local_address_and_the_client_the_vip() {
    let mut director = director(&[rr(VIP, &[RS1])], 60_000..=60_009);
    let request = |src, dst| tcp(src, dst).ack(2).payload("GET /");
    let response = |src, dst| tcp(src, dst).ack(3).payload("odd");
    director.outside(tcp(CLIENT, VIP).syn()).leaves_as(tcp(SEEN_AS, RS1).syn());
    director.inside(tcp(RS1, SEEN_AS).syn().ack(1)).leaves_as(tcp(VIP, CLIENT).syn().ack(1));
    director.outside(request(CLIENT, VIP)).leaves_as(request(SEEN_AS, RS1));
    director.inside(response(RS1, SEEN_AS)).leaves_as(response(VIP, CLIENT));
    assert!(director.connections()[0].is_full_nat());
    assert_eq!(director.server(0).active, 1);
    assert_eq!(
        (director.service(0).traffic.in_packets, director.service(0).traffic.out_packets),
        (2, 2)
    );
    assert_eq!(usage(&director), PoolUsage { endpoints: 10, in_use: 1, ..Default::default() });
}

#[test]
fn a_client_keeps_its_port_if_it_can() {
    let mut director = director(&[rr(VIP, &[RS1])], 39_000..=41_000);
    let seen_as = "192.168.2.200:40000";
    director.outside(tcp(CLIENT, VIP).syn()).leaves_as(tcp(seen_as, RS1).syn());
    let other = director.outside(tcp(OTHER_CLIENT, VIP).syn()).translated();
    assert_eq!(other[12..16], [192, 168, 2, 200]);
    assert_ne!(other[20..22], 40_000u16.to_be_bytes());
}

#[test]
fn datagrams_too() {
    let mut director = director(&[over_udp(rr(VIP, &[RS1]))], 60_000..=60_009);
    director.outside(udp(CLIENT, VIP).payload("?")).leaves_as(udp(SEEN_AS, RS1).payload("?"));
    director.inside(udp(RS1, SEEN_AS).payload("!")).leaves_as(udp(VIP, CLIENT).payload("!"));
}

#[test]
fn servers_may_be_anywhere() {
    let far = "203.0.113.50:8080";
    let mut director = director(&[rr(VIP, &[far])], 60_000..=60_009);
    director.outside(tcp(CLIENT, VIP).syn()).leaves_as(tcp(SEEN_AS, far).syn());
    director.outside(tcp(far, SEEN_AS).syn().ack(1)).leaves_as(tcp(VIP, CLIENT).syn().ack(1));
}

#[test]
fn inside_clients_are_served_without_a_hairpin_pool() {
    let mut director = director(&[rr(VIP, &[RS1])], 60_000..=60_009);
    director.inside(tcp(HOST, VIP).syn()).leaves_as(tcp(SEEN_AS, RS1).syn());
    director.inside(tcp(RS1, SEEN_AS).syn().ack(1)).leaves_as(tcp(VIP, HOST).syn().ack(1));
    assert_eq!(usage(&director).in_use, 1);
}

#[test]
fn one_port_serves_many_servers() {
    let services = [rr(VIP, &[RS1, RS2, "192.168.2.210:8080"])];
    let mut director = director(&services, 60_000..=60_000);
    for (port, real) in (1..).zip([RS1, RS2, "192.168.2.210:8080"]) {
        let client = format!("192.168.1.200:{port}");
        director.outside(tcp(&client, VIP).syn()).leaves_as(tcp(SEEN_AS, real).syn());
        director.inside(tcp(real, SEEN_AS).syn().ack(1)).leaves_as(tcp(VIP, &client).syn().ack(1));
    }
    assert_eq!(usage(&director), PoolUsage { endpoints: 1, in_use: 3, ..Default::default() });
}

#[test]
fn services_and_protocols_share_the_ports() {
    let other = "192.168.1.100:8080";
    let services = [rr(VIP, &[RS1]), rr(other, &[RS1]), over_udp(rr(VIP, &[RS1]))];
    let mut director = director(&services, 60_000..=60_001);
    director.outside(tcp(CLIENT, VIP).syn()).leaves_as(tcp(SEEN_AS, RS1).syn());
    director.outside(tcp(CLIENT, other).syn()).leaves_as(tcp("192.168.2.200:60001", RS1).syn());
    director.outside(udp(CLIENT, VIP)).leaves_as(udp(SEEN_AS, RS1));
}

#[test]
fn exhaustion_is_counted_and_ends() {
    let mut director = director(&[over_udp(rr(VIP, &[RS1]))], 60_000..=60_001);
    for port in 1..=2 {
        let _ = director.outside(udp(&format!("192.168.1.200:{port}"), VIP)).translated();
    }
    director.outside(udp(CLIENT, VIP)).is_dropped_for(DropReason::LocalPortsExhausted);
    let expected = PoolUsage { endpoints: 2, in_use: 2, scarce: 0, exhausted: 1 };
    assert_eq!(usage(&director), expected);
    assert_eq!(director.counters(), EngineCounters { opened: 2, ..Default::default() });
    assert_eq!((director.service(0).connections, director.service(0).refused), (2, 0));

    director.wait(Duration::from_secs(30) + SLACK);
    assert_eq!(usage(&director).in_use, 0);
    let _ = director.outside(udp(CLIENT, VIP)).translated();
}

#[test]
fn several_local_addresses_are_used_in_turn() {
    let local_addresses: Vec<LocalAddress> =
        ["192.168.2.201", "192.168.2.202"].map(|address| local(address, 60_000..=60_000)).into();
    let services = vec![full_nat(rr(VIP, &[RS1]))];
    let mut director = Director::with_rules(&Rules { local_addresses, ..rules_of(&services, &[]) });
    let mut sources: Vec<_> = (1..=2)
        .map(|port| {
            let client = format!("192.168.1.200:{port}");
            director.outside(tcp(&client, VIP).syn()).translated()[15]
        })
        .collect();
    sources.sort_unstable();
    assert_eq!(sources, [201, 202]);
    director.outside(tcp(CLIENT, VIP).syn()).is_dropped_for(DropReason::LocalPortsExhausted);
    assert_eq!(usage(&director).endpoints, 2);
}

#[test]
fn a_server_towards_which_no_port_is_free_is_passed_over() {
    let mut director = director(&[rr(VIP, &[RS1, RS2])], 60_000..=60_000);
    director.set_weight(1, 0);
    director.outside(tcp("192.168.1.200:1", VIP).syn()).leaves_as(tcp(SEEN_AS, RS1).syn());
    director.set_weight(1, 1);
    director.outside(tcp("192.168.1.200:2", VIP).syn()).leaves_as(tcp(SEEN_AS, RS2).syn());
    director.outside(tcp(CLIENT, VIP).syn()).is_dropped_for(DropReason::LocalPortsExhausted);
    assert_eq!((usage(&director).in_use, usage(&director).exhausted), (2, 2));

    director.change(|rules| {
        let many = (1..=9).map(|host| real(&format!("192.168.2.{host}:80"), 1));
        edit(rules, 0).servers.extend(many);
        rules.local_addresses.clear();
    });
    director.outside(tcp(CLIENT, VIP).syn()).is_dropped_for(DropReason::LocalPortsExhausted);
    assert_eq!(usage(&director).exhausted, 2 + 4, "the search has an end");
}

#[test]
fn a_closed_connections_port_is_taken_again() {
    let mut director = director(&[rr(VIP, &[RS1])], 60_000..=60_000);
    director.outside(tcp(CLIENT, VIP).syn()).leaves_as(tcp(SEEN_AS, RS1).syn());
    director.inside(tcp(RS1, SEEN_AS).rst()).leaves_as(tcp(VIP, CLIENT).rst());
    // The client itself, and another one.
    for client in [CLIENT, OTHER_CLIENT] {
        director.outside(tcp(client, VIP).syn()).leaves_as(tcp(SEEN_AS, RS1).syn());
        director.inside(tcp(RS1, SEEN_AS).rst()).leaves_as(tcp(VIP, client).rst());
    }
    assert_eq!((usage(&director).in_use, director.counters().replaced), (1, 2));
}

#[test]
fn another_client_gets_another_port_while_a_connection_closes() {
    let mut director = director(&[rr(VIP, &[RS1])], 60_000..=60_001);
    director.outside(tcp(CLIENT, VIP).syn()).leaves_as(tcp(SEEN_AS, RS1).syn());
    director.inside(tcp(RS1, SEEN_AS).rst()).leaves_as(tcp(VIP, CLIENT).rst());
    // Even if it would like that one.
    let (other, second) = ("192.168.1.201:60000", "192.168.2.200:60001");
    director.outside(tcp(other, VIP).syn()).leaves_as(tcp(second, RS1).syn());
    director.inside(tcp(RS1, SEEN_AS).rst()).leaves_as(tcp(VIP, CLIENT).rst());
}

#[test]
fn an_evicted_connections_port_is_free() {
    let rules = Rules {
        services: services(&[full_nat(rr(VIP, &[RS1]))]),
        local_addresses: vec![local(INSIDE_ADDRESS, 60_000..=60_009)],
        ..Rules::default()
    };
    let mut director = Director::with_config(&Director::config(2), &rules);
    for port in 1..=8 {
        let _ = director.outside(tcp(&format!("192.168.1.200:{port}"), VIP).syn()).translated();
    }
    assert_eq!((usage(&director).in_use, director.counters().evicted), (2, 6));
}

#[test]
fn a_full_table_keeps_no_port() {
    let rules = Rules {
        services: services(&[full_nat(rr(VIP, &[RS1]))]),
        local_addresses: vec![local(INSIDE_ADDRESS, 60_000..=60_009)],
        ..Rules::default()
    };
    let mut director = Director::with_config(&Director::config(1), &rules);
    director.outside(tcp(CLIENT, VIP).syn()).leaves_as(tcp(SEEN_AS, RS1).syn());
    director.inside(tcp(RS1, SEEN_AS).syn().ack(1)).leaves_as(tcp(VIP, CLIENT).syn().ack(1));
    director.outside(tcp(CLIENT, VIP).ack(1)).leaves_as(tcp(SEEN_AS, RS1).ack(1));
    director.outside(tcp(OTHER_CLIENT, VIP).syn()).is_dropped_for(DropReason::TableFull);
    assert_eq!(usage(&director).in_use, 1);
}

#[test]
fn who_poses_as_the_director_takes_no_port_for_ever() {
    let mut director = director(&[over_udp(rr(VIP, &[RS1]))], 60_000..=60_009);
    let _ = director.outside(udp("192.168.2.200:60003", VIP)).translated();
    assert_eq!(usage(&director).in_use, 1);
    director.wait(Duration::from_secs(30) + SLACK);
    assert_eq!(usage(&director).in_use, 0);
}

#[test]
fn strangers_do_not_reach_clients_through_local_ports() {
    let mut director = director(&[rr(VIP, &[RS1])], 60_000..=60_009);
    director.outside(tcp(CLIENT, VIP).syn()).leaves_as(tcp(SEEN_AS, RS1).syn());
    for (side, stranger) in [(Side::Inside, RS2), (Side::Inside, HOST), (Side::Outside, REMOTE)] {
        director.receive(side, tcp(stranger, SEEN_AS).ack(1).into()).is_punted();
    }
}

#[test]
fn errors_are_translated_both_ways() {
    let mut director = director(&[over_udp(rr(VIP, &[RS1]))], 60_000..=60_009);
    director.outside(udp(CLIENT, VIP)).leaves_as(udp(SEEN_AS, RS1));
    let error = |src, dst, about: Packet| {
        let kind = Icmpv4Type::DestinationUnreachable(icmpv4::DestUnreachableHeader::Port);
        Packet::icmp(src, dst, kind).payload(about.payload("data").ttl(63).bytes())
    };
    for sender in [host(RS1), "192.168.2.1"] {
        director.inside(error(sender, INSIDE_ADDRESS, udp(SEEN_AS, RS1))).is_passed_on_as(error(
            host(VIP),
            host(CLIENT),
            udp(CLIENT, VIP),
        ));
    }
    for sender in [host(CLIENT), "192.168.1.1"] {
        director.outside(error(sender, host(VIP), udp(VIP, CLIENT))).is_passed_on_as(error(
            INSIDE_ADDRESS,
            host(RS1),
            udp(RS1, SEEN_AS),
        ));
    }
}
