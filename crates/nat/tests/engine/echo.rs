//! ICMP echo: through SNAT by identifier, and untouched where nothing is translated.

use std::time::Duration;

use etherparse::{Icmpv4Type, icmpv4};
use shunt_nat::{ConnectionKind, ConnectionState, DropReason, EngineCounters, Reply};
use shunt_testkit::Packet;

use crate::harness::*;

const HOST_ADDRESS: &str = "192.168.2.50";
const OTHER_HOST: &str = "192.168.2.51";
const REMOTE_ADDRESS: &str = "203.0.113.7";
const CLIENT_ADDRESS: &str = "192.168.1.200";

fn ping(src: &str, dst: &str, identifier: u16) -> Packet {
    Packet::echo_request(src, dst, identifier, 7).payload("0123456789abc")
}

fn pong(src: &str, dst: &str, identifier: u16) -> Packet {
    Packet::echo_reply(src, dst, identifier, 7).payload("0123456789abc")
}

fn director() -> Director {
    Director::new(&[rr(VIP, &[RS1])], &[snat(1000..=1002)])
}

/// A host pings the remote, as which identifier, and gets its reply.
#[track_caller]
fn pings(director: &mut Director, host: &str, identifier: u16, seen_as: u16) {
    director.inside(ping(host, REMOTE_ADDRESS, identifier)).leaves_as(ping(
        OUTSIDE_ADDRESS,
        REMOTE_ADDRESS,
        seen_as,
    ));
    director.outside(pong(REMOTE_ADDRESS, OUTSIDE_ADDRESS, seen_as)).leaves_as(pong(
        REMOTE_ADDRESS,
        host,
        identifier,
    ));
}

#[test]
fn a_host_keeps_its_identifier() {
    let mut director = director();
    pings(&mut director, HOST_ADDRESS, 1001, 1001);
    pings(&mut director, HOST_ADDRESS, 1001, 1001);
    assert_eq!(director.connections()[0].kind(), ConnectionKind::Snat);
    assert_eq!(director.counters(), EngineCounters { opened: 1, ..Default::default() });
}

#[test]
fn an_identifier_outside_the_range_is_replaced() {
    pings(&mut director(), HOST_ADDRESS, 7, 1000);
}

#[test]
fn hosts_with_one_identifier_are_told_apart() {
    let mut director = director();
    pings(&mut director, HOST_ADDRESS, 1000, 1000);
    pings(&mut director, OTHER_HOST, 1000, 1001);
    pings(&mut director, "192.168.2.52", 1000, 1002);
    director
        .inside(ping("192.168.2.53", REMOTE_ADDRESS, 1000))
        .is_dropped_for(DropReason::SnatPortsExhausted);
    // Towards another remote, all identifiers are free.
    director.inside(ping("192.168.2.53", "203.0.113.8", 1000)).leaves_as(ping(
        OUTSIDE_ADDRESS,
        "203.0.113.8",
        1000,
    ));
    pings(&mut director, HOST_ADDRESS, 1000, 1000);
}

#[test]
fn identifiers_are_no_ports() {
    let mut director = director();
    director
        .inside(udp("192.168.2.50:1000", "203.0.113.7:0"))
        .leaves_as(udp("192.168.1.100:1000", "203.0.113.7:0"));
    pings(&mut director, OTHER_HOST, 1000, 1000);
}

#[test]
fn echoes_are_remembered_for_half_a_minute() {
    let mut director = director();
    pings(&mut director, HOST_ADDRESS, 1000, 1000);
    assert_eq!((director.state(), director.remaining().as_secs()), (ConnectionState::Icmp, 30));
    director.wait_seconds(29);
    pings(&mut director, HOST_ADDRESS, 1000, 1000);
    assert_eq!(director.remaining().as_secs(), 30);
    director.wait(Duration::from_secs(30) + SLACK);
    assert_eq!(director.counters(), EngineCounters { opened: 1, expired: 1, ..Default::default() });
    director.outside(pong(REMOTE_ADDRESS, OUTSIDE_ADDRESS, 1000)).is_punted();
}

#[test]
fn a_hop_too_many() {
    let mut director = director();
    let request = ping(HOST_ADDRESS, REMOTE_ADDRESS, 1000);
    director.inside(request.clone().ttl(1)).is_answered_by(Reply::TimeExceeded);
    assert_eq!(director.counters(), EngineCounters::default());
    let _ = director.inside(request.clone()).translated();
    director.inside(request.ttl(1)).is_answered_by(Reply::TimeExceeded);
}

#[test]
fn replies_that_nobody_asked_for_stay_where_they_are() {
    let mut director = director();
    pings(&mut director, HOST_ADDRESS, 1000, 1000);
    for (src, identifier) in [(REMOTE_ADDRESS, 1001), ("203.0.113.8", 1000)] {
        director.outside(pong(src, OUTSIDE_ADDRESS, identifier)).is_punted();
    }
    director
        .inside(pong(HOST_ADDRESS, REMOTE_ADDRESS, 1000))
        .is_dropped_for(DropReason::UnknownConnection);
}

#[test]
fn the_directors_own_addresses_answer_for_themselves() {
    let mut director = director();
    director.outside(ping(CLIENT_ADDRESS, OUTSIDE_ADDRESS, 1000)).is_punted();
    director.inside(ping(HOST_ADDRESS, INSIDE_ADDRESS, 1000)).is_punted();
    director.inside(ping(HOST_ADDRESS, OUTSIDE_ADDRESS, 1000)).is_punted();
    director.inside(ping(HOST_ADDRESS, OTHER_HOST, 1000)).is_punted();
    assert_eq!(director.counters(), EngineCounters::default());
}

#[test]
fn what_the_outside_asks_passes_untouched_and_so_does_the_reply() {
    let mut director = director();
    let (request, reply) =
        (ping(CLIENT_ADDRESS, HOST_ADDRESS, 55), pong(HOST_ADDRESS, CLIENT_ADDRESS, 55));
    director.outside(request.clone()).leaves_as(request);
    assert_eq!(director.connections()[0].kind(), ConnectionKind::Passthrough);
    director.inside(reply.clone()).leaves_as(reply);
    // The host's own pings to the same client are hidden all the same.
    director.inside(ping(HOST_ADDRESS, CLIENT_ADDRESS, 55)).leaves_as(ping(
        OUTSIDE_ADDRESS,
        CLIENT_ADDRESS,
        1000,
    ));
    director.outside(pong(CLIENT_ADDRESS, OUTSIDE_ADDRESS, 1000)).leaves_as(pong(
        CLIENT_ADDRESS,
        HOST_ADDRESS,
        55,
    ));
    assert_eq!(director.connections().len(), 2);
}

#[test]
fn where_nothing_is_translated_echoes_are_plainly_routed() {
    let mut director = Director::new(&[rr(VIP, &[RS1])], &[]);
    director.outside(ping(CLIENT_ADDRESS, HOST_ADDRESS, 1)).is_punted();
    director.inside(pong(HOST_ADDRESS, CLIENT_ADDRESS, 1)).is_punted();
    director.inside(ping(HOST_ADDRESS, CLIENT_ADDRESS, 1)).is_punted();
}

/// With an identifier of 0, the key of a request looks like that of a reply to the opposite one.
#[test]
fn an_identifier_of_zero_confuses_nobody() {
    let mut director = Director::new(&[], &[snat(0..=2)]);
    pings(&mut director, HOST_ADDRESS, 0, 0);
    director.outside(ping(REMOTE_ADDRESS, OUTSIDE_ADDRESS, 0)).is_punted();
    director
        .inside(pong(HOST_ADDRESS, REMOTE_ADDRESS, 0))
        .is_dropped_for(DropReason::UnknownConnection);

    let request = ping(CLIENT_ADDRESS, HOST_ADDRESS, 0);
    director.outside(request.clone()).leaves_as(request);
    director.inside(ping(HOST_ADDRESS, CLIENT_ADDRESS, 0)).is_dropped_for(DropReason::TupleInUse);
    director.outside(pong(CLIENT_ADDRESS, HOST_ADDRESS, 0)).is_punted();
}

fn unreachable(src: &str, dst: &str, about: Packet) -> Packet {
    let kind = Icmpv4Type::DestinationUnreachable(icmpv4::DestUnreachableHeader::Host);
    Packet::icmp(src, dst, kind).payload(about.ttl(63).bytes())
}

#[test]
fn errors_about_echoes_are_translated_both_ways() {
    let mut director = director();
    pings(&mut director, HOST_ADDRESS, 7, 1000);
    let router = "192.168.1.1";
    director
        .outside(unreachable(router, OUTSIDE_ADDRESS, ping(OUTSIDE_ADDRESS, REMOTE_ADDRESS, 1000)))
        .is_passed_on_as(unreachable(router, HOST_ADDRESS, ping(HOST_ADDRESS, REMOTE_ADDRESS, 7)));
    for sender in ["192.168.2.1", HOST_ADDRESS] {
        director
            .inside(unreachable(sender, REMOTE_ADDRESS, pong(REMOTE_ADDRESS, HOST_ADDRESS, 7)))
            .is_passed_on_as(unreachable(
                OUTSIDE_ADDRESS,
                REMOTE_ADDRESS,
                pong(REMOTE_ADDRESS, OUTSIDE_ADDRESS, 1000),
            ));
    }
    assert_eq!(director.counters().icmp_errors, 3);
    // About an echo that never left.
    let quote = ping(OUTSIDE_ADDRESS, REMOTE_ADDRESS, 1001);
    director.outside(unreachable(router, OUTSIDE_ADDRESS, quote)).is_punted();
}

#[test]
fn errors_about_untranslated_echoes_pass_untranslated() {
    let mut director = director();
    let request = ping(CLIENT_ADDRESS, HOST_ADDRESS, 55);
    director.outside(request.clone()).leaves_as(request.clone());
    let error = unreachable("192.168.2.1", CLIENT_ADDRESS, request);
    director.inside(error.clone()).is_passed_on_as(error);
    let error = unreachable("192.168.1.1", HOST_ADDRESS, pong(HOST_ADDRESS, CLIENT_ADDRESS, 55));
    director.outside(error.clone()).is_passed_on_as(error);
}
