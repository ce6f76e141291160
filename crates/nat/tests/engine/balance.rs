//! What servers take: weights that change, thresholds, and a fallback where nobody else is left.

use std::time::Duration;

use shunt_nat::{DropReason, Reply, ServiceCounters};
use shunt_rules::{RealServer, VirtualService};

use crate::harness::*;

const FALLBACK: &str = "192.168.2.230:8080";

fn client(number: u16) -> String {
    format!("192.168.1.200:{number}")
}

fn with_fallback(service: VirtualService) -> VirtualService {
    VirtualService { fallback: Some(real(FALLBACK, 1)), ..service }
}

/// A service with one server that takes connections within these thresholds.
fn limited(upper_threshold: u32, lower_threshold: u32) -> VirtualService {
    let server = RealServer { upper_threshold, lower_threshold, ..real(RS1, 1) };
    VirtualService { servers: vec![server], ..rr(VIP, &[]) }
}

/// Ends a connection of RS1's and waits until it is forgotten.
#[track_caller]
fn end(director: &mut Director, client: &str) {
    director.inside(tcp(RS1, client).rst().seq(1)).leaves_as(tcp(VIP, client).rst().seq(1));
    director.wait(Duration::from_secs(10) + SLACK);
}

#[test]
fn active_connections_are_the_established_ones() {
    let mut director = Director::new(&[rr(VIP, &[RS1])], &[]);
    let counts = |director: &Director| (director.server(0).active, director.server(0).inactive);
    director.outside(tcp(CLIENT, VIP).syn()).leaves_as(tcp(CLIENT, RS1).syn());
    assert_eq!(counts(&director), (0, 1));
    director.inside(tcp(RS1, CLIENT).syn().ack(1)).leaves_as(tcp(VIP, CLIENT).syn().ack(1));
    assert_eq!(counts(&director), (0, 1));
    director.outside(tcp(CLIENT, VIP).ack(1)).leaves_as(tcp(CLIENT, RS1).ack(1));
    assert_eq!(counts(&director), (1, 0));
    director.outside(tcp(CLIENT, VIP).ack(2)).leaves_as(tcp(CLIENT, RS1).ack(2));
    assert_eq!(counts(&director), (1, 0));
    director.inside(tcp(RS1, CLIENT).fin().ack(1)).leaves_as(tcp(VIP, CLIENT).fin().ack(1));
    assert_eq!(counts(&director), (0, 1));
    director.outside(tcp(CLIENT, VIP).fin().ack(1)).leaves_as(tcp(CLIENT, RS1).fin().ack(1));
    assert_eq!(counts(&director), (0, 1));
    director.wait(Duration::from_secs(120) + SLACK);
    let server = director.server(0);
    assert_eq!((server.connections, server.active, server.inactive), (1, 0, 0));
}

#[test]
fn datagrams_are_never_active() {
    let mut director = Director::new(&[over_udp(rr(VIP, &[RS1]))], &[]);
    director.outside(udp(CLIENT, VIP)).leaves_as(udp(CLIENT, RS1));
    director.inside(udp(RS1, CLIENT)).leaves_as(udp(VIP, CLIENT));
    assert_eq!((director.server(0).active, director.server(0).inactive), (0, 1));
}

#[test]
fn a_full_server_takes_no_more_until_it_is_well_below() {
    let mut director = Director::new(&[limited(4, 2)], &[]);
    (1..=4).for_each(|at| director.handshake(&client(at), VIP, RS1));
    director.outside(tcp(&client(5), VIP).syn()).is_answered_by(Reply::Reset);
    for (ended, is_open) in [(1, false), (2, false), (3, true)] {
        end(&mut director, &client(ended));
        let verdict = director.outside(tcp(&client(5), VIP).syn()).verdict;
        let is_refused = verdict == shunt_nat::Verdict::Reply(Reply::Reset);
        assert_eq!(is_refused, !is_open, "after {ended} have ended");
    }
    assert_eq!((director.current(), director.service(0).refused), (vec![2], 3));
    // It takes connections until it is full again, not until it passes the lower threshold.
    (6..=7).for_each(|at| director.handshake(&client(at), VIP, RS1));
    director.outside(tcp(&client(8), VIP).syn()).is_answered_by(Reply::Reset);
}

#[test]
fn the_lower_threshold_is_three_quarters_unless_said() {
    let mut director = Director::new(&[limited(4, 0)], &[]);
    (1..=4).for_each(|at| director.handshake(&client(at), VIP, RS1));
    end(&mut director, &client(1));
    director.outside(tcp(&client(5), VIP).syn()).is_answered_by(Reply::Reset);
    end(&mut director, &client(2));
    director.handshake(&client(5), VIP, RS1);
}

#[test]
fn what_evictions_and_replacements_free_counts() {
    let mut director = Director::new(&[limited(1, 1)], &[]);
    director.handshake(CLIENT, VIP, RS1);
    director.inside(tcp(RS1, CLIENT).rst().seq(1)).leaves_as(tcp(VIP, CLIENT).rst().seq(1));
    // Its closed connection counts until it is gone.
    director.outside(tcp(CLIENT, VIP).syn()).is_answered_by(Reply::Reset);
    director.wait(Duration::from_secs(10) + SLACK);
    director.handshake(CLIENT, VIP, RS1);
}

#[test]
fn a_drained_server_keeps_what_it_has() {
    let mut director = Director::new(&[rr(VIP, &[RS1, RS2])], &[]);
    director.handshake(&client(1), VIP, RS1);
    director.set_weight(0, 0);
    (2..=4).for_each(|at| director.handshake(&client(at), VIP, RS2));
    director.outside(tcp(&client(1), VIP).ack(2)).leaves_as(tcp(&client(1), RS1).ack(2));
    director.set_weight(0, 1);
    director.handshake(&client(5), VIP, RS1);
}

#[test]
fn the_fallback_serves_only_when_no_other_can() {
    let mut director = Director::new(&[with_fallback(rr(VIP, &[RS1, RS2]))], &[]);
    for (at, real) in (1..).zip([RS1, RS2, RS1, RS2]) {
        director.handshake(&client(at), VIP, real);
    }
    director.set_weight(0, 0);
    director.handshake(&client(5), VIP, RS2);
    director.set_weight(1, 0);
    director.handshake(&client(6), VIP, FALLBACK);
    director.handshake(&client(7), VIP, FALLBACK);
    director.set_weight(0, 1);
    director.handshake(&client(8), VIP, RS1);
    assert_eq!((director.current(), director.service(0).refused), (vec![3, 3, 2], 0));
}

#[test]
fn the_fallback_serves_when_all_are_full() {
    let mut director = Director::new(&[with_fallback(limited(1, 1))], &[]);
    director.handshake(&client(1), VIP, RS1);
    director.handshake(&client(2), VIP, FALLBACK);
    end(&mut director, &client(1));
    director.handshake(&client(3), VIP, RS1);
}

#[test]
fn a_fallback_that_takes_nothing_is_none() {
    let fallback = Some(RealServer { upper_threshold: 1, ..real(FALLBACK, 1) });
    let service = VirtualService { fallback, ..wrr(VIP, &[(RS1, 0)]) };
    let mut director = Director::new(&[service.clone(), over_udp(service)], &[]);
    director.handshake(&client(1), VIP, FALLBACK);
    director.outside(tcp(&client(2), VIP).syn()).is_answered_by(Reply::Reset);
    director.outside(udp(&client(1), VIP)).leaves_as(udp(&client(1), FALLBACK));
    director.outside(udp(&client(2), VIP)).is_answered_by(Reply::PortUnreachable);
    assert_eq!((director.service(0).refused, director.service(1).refused), (1, 1));
}

#[test]
fn the_fallback_is_no_substitute_for_a_server_whose_tuple_is_taken() {
    let other = "192.168.1.100:8080";
    let mut director = Director::new(&[rr(VIP, &[RS1]), with_fallback(rr(other, &[RS1]))], &[]);
    director.handshake(CLIENT, VIP, RS1);
    director.outside(tcp(CLIENT, other).syn()).is_dropped_for(DropReason::TupleInUse);
    assert_eq!(director.service(1), ServiceCounters::default());
}
