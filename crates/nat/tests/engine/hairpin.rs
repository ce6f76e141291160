//! Hairpins: inside hosts that dial a virtual service.

use etherparse::{Icmpv4Type, icmpv4};
use shunt_nat::{DropReason, PoolUsage, Side};
use shunt_rules::{Rules, VirtualService};
use shunt_testkit::Packet;

use crate::harness::*;

const SEEN_AS: &str = "192.168.2.200:60000";

fn director(services: &[VirtualService]) -> Director {
    Director::with_rules(&Rules {
        services: crate::harness::services(services),
        snat: vec![snat(1024..=65_535)],
        hairpin: Some(local(INSIDE_ADDRESS, 60_000..=60_001)),
        ..Rules::default()
    })
}

fn usage(director: &Director) -> PoolUsage {
    director.engine().rules().hairpin_usage()
}

#[test]
fn an_inside_host_reaches_a_server_and_gets_its_reply() {
    let mut director = director(&[rr(VIP, &[RS1])]);
    director.inside(tcp(HOST, VIP).syn()).leaves_as(tcp(SEEN_AS, RS1).syn());
    director.inside(tcp(RS1, SEEN_AS).syn().ack(1)).leaves_as(tcp(VIP, HOST).syn().ack(1));
    director.inside(tcp(HOST, VIP).ack(1)).leaves_as(tcp(SEEN_AS, RS1).ack(1));
    assert_eq!(director.server(0).active, 1);
    assert_eq!(usage(&director), PoolUsage { endpoints: 2, in_use: 1, ..Default::default() });
}

#[test]
fn another_host_gets_another_port_while_a_connection_closes() {
    let mut director = director(&[rr(VIP, &[RS1])]);
    director.inside(tcp(HOST, VIP).syn()).leaves_as(tcp(SEEN_AS, RS1).syn());
    director.inside(tcp(RS1, SEEN_AS).rst()).leaves_as(tcp(VIP, HOST).rst());
    let (other, second) = ("192.168.2.51:60000", "192.168.2.200:60001");
    director.inside(tcp(other, VIP).syn()).leaves_as(tcp(second, RS1).syn());
    director.inside(tcp(RS1, SEEN_AS).rst()).leaves_as(tcp(VIP, HOST).rst());
}

#[test]
fn a_server_reaches_itself() {
    let itself = "192.168.2.210:5555";
    let mut director = director(&[rr(VIP, &[RS1])]);
    director.inside(tcp(itself, VIP).syn()).leaves_as(tcp(SEEN_AS, RS1).syn());
    director.inside(tcp(RS1, SEEN_AS).syn().ack(1)).leaves_as(tcp(VIP, itself).syn().ack(1));
    // Even from the port that it serves on.
    director.inside(tcp(RS1, VIP).syn()).leaves_as(tcp("192.168.2.200:60001", RS1).syn());
    director
        .inside(tcp(RS1, "192.168.2.200:60001").syn().ack(1))
        .leaves_as(tcp(VIP, RS1).syn().ack(1));
}

#[test]
fn clients_outside_are_seen_as_themselves() {
    let mut director = director(&[rr(VIP, &[RS1])]);
    director.handshake(CLIENT, VIP, RS1);
    assert!(!director.connections()[0].is_full_nat());
    assert_eq!(usage(&director).in_use, 0);
}

#[test]
fn without_a_source_for_them_inside_hosts_are_refused() {
    let mut director = Director::new(&[rr(VIP, &[RS1])], &[snat(1024..=65_535)]);
    director.inside(tcp(HOST, VIP).syn()).is_punted();
    director.inside(tcp("192.168.2.210:5555", VIP).syn()).is_punted();
}

#[test]
fn datagrams_that_are_scheduled_one_by_one_are_for_the_outside() {
    let dns = VirtualService { one_packet: true, ..over_udp(rr(VIP, &[RS1])) };
    director(&[dns]).inside(udp(HOST, VIP)).is_punted();
}

#[test]
fn ports_run_out_and_come_back() {
    let mut director = director(&[over_udp(rr(VIP, &[RS1]))]);
    for port in 1..=2 {
        let _ = director.inside(udp(&format!("192.168.2.50:{port}"), VIP)).translated();
    }
    director.inside(udp(HOST, VIP)).is_dropped_for(DropReason::LocalPortsExhausted);
    assert_eq!((usage(&director).in_use, usage(&director).exhausted), (2, 1));
    director.wait_seconds(33);
    assert_eq!(usage(&director).in_use, 0);
    let _ = director.inside(udp(HOST, VIP)).translated();
}

#[test]
fn errors_come_back() {
    let mut director = director(&[over_udp(rr(VIP, &[RS1]))]);
    director.inside(udp(HOST, VIP)).leaves_as(udp(SEEN_AS, RS1));
    let error = |src, dst, about: Packet| {
        let kind = Icmpv4Type::DestinationUnreachable(icmpv4::DestUnreachableHeader::Port);
        Packet::icmp(src, dst, kind).payload(about.bytes())
    };
    director
        .receive(Side::Inside, error(host(RS1), INSIDE_ADDRESS, udp(SEEN_AS, RS1)).into())
        .is_passed_on_as(error(host(VIP), host(HOST), udp(HOST, VIP)));
    director
        .receive(Side::Inside, error(host(HOST), host(VIP), udp(VIP, HOST)).into())
        .is_passed_on_as(error(INSIDE_ADDRESS, host(RS1), udp(RS1, SEEN_AS)));
}
