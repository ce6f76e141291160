//! Persistence: a client keeps the server that it was given.

use std::time::Duration;

use shunt_nat::{Reply, ServerId};
use shunt_rules::{Persistence, Protocol, RealServer, VirtualService};

use crate::harness::*;

const OTHER_CLIENT: &str = "192.168.1.77:40000";

fn persistent(service: VirtualService, prefix_len: u8) -> VirtualService {
    let timeout = Duration::from_secs(300);
    VirtualService { persistence: Some(Persistence { timeout, prefix_len }), ..service }
}

fn director(prefix_len: u8) -> Director {
    Director::new(&[persistent(rr(VIP, &[RS1, RS2]), prefix_len)], &[])
}

/// A connection of this client's with the server `real`, over in a moment and forgotten.
#[track_caller]
fn visit(director: &mut Director, client: &str, real: &str) {
    director.handshake(client, VIP, real);
    director.outside(tcp(client, VIP).rst().seq(1)).leaves_as(tcp(client, real).rst().seq(1));
    director.wait(Duration::from_secs(10) + SLACK);
}

fn port(client: &str, port: u16) -> String {
    format!("{}:{port}", host(client))
}

#[test]
fn a_client_keeps_its_server() {
    let mut director = director(32);
    for at in 1..=4 {
        director.handshake(&port(CLIENT, at), VIP, RS1);
        director.handshake(&port(OTHER_CLIENT, at), VIP, RS2);
    }
    assert_eq!(director.current(), [4, 4]);
    assert_eq!(director.engine().rules().persistent_clients(), 2);
}

#[test]
fn clients_of_one_network_count_as_one() {
    let mut director = director(24);
    director.handshake(CLIENT, VIP, RS1);
    director.handshake(OTHER_CLIENT, VIP, RS1);
    director.handshake("192.168.3.1:1", VIP, RS2);
    director.handshake("192.168.3.2:1", VIP, RS2);
    director.handshake(&port(CLIENT, 1), VIP, RS1);
    let kept: Vec<_> = director.engine().rules().kept_servers(director.now()).collect();
    assert_eq!(kept.len(), 2);
    assert!(kept.iter().any(|(_, client, server)| {
        (client.octets(), *server) == ([192, 168, 1, 0], ServerId(0))
    }));
}

#[test]
fn a_client_is_forgotten_some_time_after_its_last_connection() {
    let mut director = director(32);
    director.handshake(CLIENT, VIP, RS1);
    // It lives for an hour; so does what binds its client.
    for _ in 0..4 {
        director.wait_seconds(880);
        director.outside(tcp(CLIENT, VIP).ack(1)).leaves_as(tcp(CLIENT, RS1).ack(1));
    }
    visit(&mut director, &port(CLIENT, 1), RS1);
    director.wait_seconds(880);
    director.outside(tcp(CLIENT, VIP).rst().seq(1)).leaves_as(tcp(CLIENT, RS1).rst().seq(1));
    director.wait(Duration::from_secs(10) + SLACK);
    director.wait_seconds(290);
    visit(&mut director, &port(CLIENT, 2), RS1);
    director.wait_seconds(290);
    visit(&mut director, &port(CLIENT, 3), RS1);
    director.wait_seconds(301);
    visit(&mut director, &port(CLIENT, 4), RS2);
}

#[test]
fn an_unfinished_handshake_binds_nobody_beyond_its_end() {
    let mut director = director(32);
    director.outside(tcp(CLIENT, VIP).syn()).leaves_as(tcp(CLIENT, RS1).syn());
    let again = port(CLIENT, 1);
    director.outside(tcp(&again, VIP).syn()).leaves_as(tcp(&again, RS1).syn());
    director.wait(Duration::from_secs(60) + SLACK);
    visit(&mut director, CLIENT, RS2);
    visit(&mut director, CLIENT, RS2);
}

#[test]
fn a_server_that_takes_no_more_is_left() {
    let mut director = director(32);
    director.handshake(CLIENT, VIP, RS1);
    director.set_weight(0, 0);
    director.handshake(&port(CLIENT, 1), VIP, RS2);
    director.set_weight(0, 1);
    director.handshake(&port(CLIENT, 2), VIP, RS2);
    assert_eq!(director.current(), [1, 2], "what it had it keeps");
    // The end of the old connection binds nobody to the old server.
    director.inside(tcp(RS1, CLIENT).rst().seq(1)).leaves_as(tcp(VIP, CLIENT).rst().seq(1));
    director.wait(Duration::from_secs(10) + SLACK);
    director.handshake(&port(CLIENT, 3), VIP, RS2);
}

#[test]
fn a_full_server_is_left() {
    let first = RealServer { upper_threshold: 1, ..real(RS1, 1) };
    let servers = vec![first, real(RS2, 1)];
    let service = persistent(VirtualService { servers, ..rr(VIP, &[]) }, 32);
    let mut director = Director::new(&[service], &[]);
    director.handshake(CLIENT, VIP, RS1);
    director.handshake(&port(CLIENT, 1), VIP, RS2);
}

#[test]
fn the_fallback_is_nobodys() {
    let fallback = "192.168.2.230:80";
    let service = VirtualService {
        fallback: Some(real(fallback, 1)),
        ..persistent(wrr(VIP, &[(RS1, 0)]), 32)
    };
    let mut director = Director::new(&[service], &[]);
    visit(&mut director, CLIENT, fallback);
    assert_eq!(director.engine().rules().kept_servers(director.now()).count(), 0);
    director.set_weight(0, 1);
    visit(&mut director, CLIENT, RS1);
    assert_eq!(director.engine().rules().kept_servers(director.now()).count(), 1);
}

#[test]
fn services_bind_their_clients_each_for_itself() {
    let other = "192.168.1.100:8080";
    let services = [persistent(rr(VIP, &[RS1, RS2]), 32), persistent(rr(other, &[RS2, RS1]), 32)];
    let mut director = Director::new(&services, &[]);
    for at in 1..=3 {
        director.handshake(&port(CLIENT, at), VIP, RS1);
        director.handshake(&port(CLIENT, at), other, RS2);
    }
    assert_eq!(director.current(), [3, 0, 3, 0]);
}

#[test]
fn all_ports_of_a_service_lead_to_one_server() {
    let service = rr(VIP, &[RS1, RS2]);
    let mut servers = service.servers.clone();
    servers.iter_mut().for_each(|server| server.port = None);
    let endpoints = vec![endpoint("192.168.1.100", 1..=65_535)];
    let service = persistent(VirtualService { servers, endpoints, ..service }, 32);
    let rules = rules_of(&[service], &[]);
    let mut director = Director::with_rules(&rules);
    for vport in [21, 80, 443, 50_000] {
        let (vip, real) = (format!("192.168.1.100:{vport}"), format!("192.168.2.210:{vport}"));
        director.handshake(CLIENT, &vip, &real);
    }
    assert_eq!(director.current(), [4, 0]);
}

#[test]
fn datagrams_bind_too() {
    let mut director = Director::new(&[persistent(over_udp(rr(VIP, &[RS1, RS2])), 32)], &[]);
    director.outside(udp(CLIENT, VIP)).leaves_as(udp(CLIENT, RS1));
    director.inside(udp(RS1, CLIENT)).leaves_as(udp(VIP, CLIENT));
    director.wait(Duration::from_secs(300) + SLACK);
    assert_eq!(director.connections().len(), 0);
    director.wait_seconds(290);
    director.outside(udp(CLIENT, VIP)).leaves_as(udp(CLIENT, RS1));
}

/// Anybody can send in the name of anybody.
#[test]
fn who_gets_no_answer_is_not_remembered() {
    let services = [rr(VIP, &[RS1, RS2]), over_udp(rr(VIP, &[RS1, RS2]))];
    let services = services.map(|service| persistent(service, 32));
    let mut director = Director::with_capacity(1024, &services, &[]);
    for number in 0..250 {
        let client = format!("192.168.3.{number}:4000");
        let _ = director.outside(tcp(&client, VIP).syn()).translated();
        let _ = director.outside(udp(&client, VIP)).translated();
    }
    // A handshake that the server refuses is none.
    director.outside(tcp(CLIENT, VIP).syn()).leaves_as(tcp(CLIENT, RS1).syn());
    director.inside(tcp(RS1, CLIENT).rst().ack(1001)).leaves_as(tcp(VIP, CLIENT).rst().ack(1001));
    assert_eq!(director.engine().rules().persistent_clients(), 0);
    director.handshake(OTHER_CLIENT, VIP, RS2);
    assert_eq!(director.engine().rules().persistent_clients(), 1);
}

#[test]
fn connections_that_begin_at_once_go_to_one_server() {
    for service in [rr(VIP, &[RS1, RS2]), over_udp(rr(VIP, &[RS1, RS2]))] {
        let is_udp = service.protocols[0] == Protocol::Udp;
        let mut director = Director::new(&[persistent(service, 32)], &[]);
        for at in 1..=6 {
            let client = port(CLIENT, at);
            let opener = |dst| if is_udp { udp(&client, dst) } else { tcp(&client, dst).syn() };
            director.outside(opener(VIP)).leaves_as(opener(RS1));
        }
        // Not for long, unless the server answers.
        director.wait_seconds(6);
        let client = port(CLIENT, 7);
        let opener = |dst| if is_udp { udp(&client, dst) } else { tcp(&client, dst).syn() };
        director.outside(opener(VIP)).leaves_as(opener(RS2));
    }
}

#[test]
fn whoever_keeps_a_server_that_takes_no_more_is_refused_like_others() {
    let fallback = "192.168.2.230:80";
    let alone = persistent(rr(VIP, &[RS1]), 32);
    let mut director = Director::new(std::slice::from_ref(&alone), &[]);
    director.handshake(CLIENT, VIP, RS1);
    director.set_weight(0, 0);
    director.outside(tcp(&port(CLIENT, 1), VIP).syn()).is_answered_by(Reply::Reset);
    assert_eq!(director.service(0).refused, 1);

    let service = VirtualService { fallback: Some(real(fallback, 1)), ..alone };
    let mut director = Director::new(&[service], &[]);
    director.handshake(CLIENT, VIP, RS1);
    director.set_weight(0, 0);
    director.handshake(&port(CLIENT, 1), VIP, fallback);
    director.set_weight(0, 1);
    director.handshake(&port(CLIENT, 2), VIP, RS1);
}
