//! Outside hosts dial covered inside hosts directly: nothing is translated, in either direction.

use std::time::Duration;

use shunt_nat::{ConnectionKind, ConnectionState, EngineCounters, Reply};

use crate::harness::*;

#[test]
fn replies_of_a_covered_host_are_not_hidden() {
    let mut director = Director::new(&[], &[snat(1024..=65_535)]);
    director.outside(tcp(CLIENT, HOST).syn()).leaves_as(tcp(CLIENT, HOST).syn());
    director.inside(tcp(HOST, CLIENT).syn().ack(1)).leaves_as(tcp(HOST, CLIENT).syn().ack(1));
    director.outside(tcp(CLIENT, HOST).ack(1)).leaves_as(tcp(CLIENT, HOST).ack(1));
    assert_eq!(director.connections()[0].kind(), ConnectionKind::Passthrough);
    assert_eq!(director.state(), ConnectionState::Established);
    assert_eq!(director.counters(), EngineCounters { opened: 1, ..Default::default() });
}

#[test]
fn datagrams_too() {
    let mut director = Director::new(&[], &[snat(1024..=65_535)]);
    let question = udp(CLIENT, HOST).unchecksummed().payload("?");
    director.outside(question.clone()).leaves_as(question);
    let answer = udp(HOST, CLIENT).payload("!");
    director.inside(answer.clone()).leaves_as(answer);
}

#[test]
fn a_host_that_is_not_covered_is_plainly_routed() {
    let mut director = Director::new(&[rr(VIP, &[RS1])], &[]);
    director.outside(tcp(CLIENT, HOST).syn()).is_punted();
    director.inside(tcp(HOST, CLIENT).syn().ack(1)).is_punted();
    assert_eq!(director.counters(), EngineCounters::default());
}

#[test]
fn only_first_packets_open_a_connection() {
    let mut director = Director::new(&[], &[snat(1024..=65_535)]);
    for stray in [
        tcp(CLIENT, HOST).ack(1),
        tcp(CLIENT, HOST).rst(),
        tcp(CLIENT, HOST).syn().ttl(1),
        udp(CLIENT, HOST).ttl(1),
    ] {
        director.outside(stray).is_punted();
    }
    assert_eq!(director.counters(), EngineCounters::default());
}

#[test]
fn a_hop_too_many_on_a_known_connection() {
    let mut director = Director::new(&[], &[snat(1024..=65_535)]);
    director.outside(udp(CLIENT, HOST)).leaves_as(udp(CLIENT, HOST));
    director.inside(udp(HOST, CLIENT).ttl(1)).is_answered_by(Reply::TimeExceeded);
}

#[test]
fn the_host_dials_back_from_a_closed_connections_port_and_is_hidden() {
    let mut director = Director::new(&[], &[snat(1024..=65_535)]);
    director.outside(tcp(CLIENT, HOST).syn()).leaves_as(tcp(CLIENT, HOST).syn());
    director.inside(tcp(HOST, CLIENT).rst()).leaves_as(tcp(HOST, CLIENT).rst());
    director.inside(tcp(HOST, CLIENT).syn()).leaves_as(tcp("192.168.1.100:50000", CLIENT).syn());
    let expected = EngineCounters { opened: 2, replaced: 1, ..Default::default() };
    assert_eq!(director.counters(), expected);
}

#[test]
fn a_packet_from_itself_to_itself_does_no_harm() {
    let mut director = Director::new(&[], &[snat(1024..=65_535)]);
    director.outside(udp(HOST, HOST)).leaves_as(udp(HOST, HOST));
    director.wait(Duration::from_secs(300) + SLACK);
    assert_eq!(director.counters(), EngineCounters { opened: 1, expired: 1, ..Default::default() });
}
