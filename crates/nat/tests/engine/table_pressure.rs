//! A table without room: the living are served, newcomers wait.

use std::time::Duration;

use shunt_nat::{
    ConnectionState::{Close, Established, SynRecv},
    DropReason, EngineCounters,
};
use shunt_testkit::Packet;

use crate::harness::*;

fn client(number: usize) -> String {
    format!("192.168.1.200:{}", 1000 + number)
}

/// A director with room for four connections, all taken.
fn full() -> Director {
    let services = [rr(VIP, &[RS1]), over_udp(rr(VIP, &[RS1]))];
    let mut director = Director::with_capacity(4, &services, &[snat(1024..=65_535)]);
    (0..4).for_each(|number| director.handshake(&client(number), VIP, RS1));
    director
}

#[test]
fn newcomers_of_every_kind_are_dropped() {
    let mut director = full();
    let reason = DropReason::TableFull;
    director.outside(tcp(&client(4), VIP).syn()).is_dropped_for(reason);
    director.outside(udp(CLIENT, VIP)).is_dropped_for(reason);
    director.inside(udp(HOST, REMOTE)).is_dropped_for(reason);
    director.outside(udp(CLIENT, HOST)).is_dropped_for(reason);
    assert_eq!(director.current(), [4, 0]);
    assert_eq!((director.service(0).connections, director.service(1).refused), (4, 0));
    assert_eq!(director.counters(), EngineCounters { opened: 4, ..Default::default() });
}

#[test]
fn the_living_are_served() {
    let mut director = full();
    for client in (0..4).map(client) {
        director.outside(tcp(&client, VIP).ack(2)).leaves_as(tcp(&client, RS1).ack(2));
        director.inside(tcp(RS1, &client).ack(2)).leaves_as(tcp(VIP, &client).ack(2));
    }
    assert_eq!(director.service(0).traffic.out_packets, 8);
}

/// A flood of SYNs from addresses that answer to nobody.
fn flood(director: &mut Director, syns: usize) {
    for number in 0..syns {
        let stranger = format!("203.0.113.{}:{}", number % 250, 1000 + number / 250);
        director.outside(tcp(&stranger, VIP).syn()).leaves_as(tcp(&stranger, RS1).syn());
    }
}

#[test]
fn a_flood_evicts_itself() {
    let services = [rr(VIP, &[RS1])];
    let mut director = Director::with_capacity(32, &services, &[]);
    (0..24).for_each(|number| director.handshake(&client(number), VIP, RS1));
    flood(&mut director, 1000);
    assert_eq!((director.server(0).active, director.server(0).inactive), (24, 8));
    let expected = EngineCounters { opened: 1024, evicted: 992, ..Default::default() };
    assert_eq!(director.counters(), expected);
    for client in (0..24).map(client) {
        director.outside(tcp(&client, VIP).ack(2)).leaves_as(tcp(&client, RS1).ack(2));
    }
    // Who means it still gets in.
    director.handshake(&client(24), VIP, RS1);
}

#[test]
fn a_flood_that_goes_on_unanswered_evicts_itself_too() {
    type Sends = fn(&mut Director, &str);
    let floods: [Sends; 4] = [
        |director, stranger| {
            let _ = director.outside(tcp(stranger, VIP).syn()).translated();
            let _ = director.outside(tcp(stranger, VIP).ack(1)).translated();
        },
        |director, stranger| {
            let _ = director.outside(tcp(stranger, VIP).syn()).translated();
            let _ = director.outside(tcp(stranger, VIP).fin().ack(1)).translated();
        },
        |director, stranger| drop(director.outside(udp(stranger, VIP)).translated()),
        |director, stranger| {
            let ping = Packet::echo_request(host(stranger), host(HOST), 7, 1);
            let _ = director.outside(ping).translated();
        },
    ];
    for sends in floods {
        let services = [rr(VIP, &[RS1]), over_udp(rr(VIP, &[RS1]))];
        let mut director = Director::with_capacity(8, &services, &[snat(1024..=65_535)]);
        (0..4).for_each(|number| director.handshake(&client(number), VIP, RS1));
        for number in 1..=100 {
            sends(&mut director, &format!("203.0.113.{number}:1000"));
        }
        assert_eq!((director.server(0).active, director.counters().evicted), (4, 96));
    }
}

#[test]
fn the_half_open_go_before_the_closing_and_these_before_the_living() {
    let mut director = Director::with_capacity(6, &[rr(VIP, &[RS1])], &[]);
    (0..4).for_each(|number| director.handshake(&client(number), VIP, RS1));
    for client in [client(0), client(1)] {
        director.inside(tcp(RS1, &client).rst().seq(1)).leaves_as(tcp(VIP, &client).rst().seq(1));
    }
    flood(&mut director, 2);
    let states = |director: &Director| {
        let count =
            |wanted| director.connections().iter().filter(|found| found.state() == wanted).count();
        (count(Established), count(Close), count(SynRecv))
    };
    assert_eq!(states(&director), (2, 2, 2));
    // Each newcomer takes the place of a half-open one, and once established stays.
    for number in 4..6 {
        director.handshake(&client(number), VIP, RS1);
    }
    assert_eq!(states(&director), (4, 2, 0));
    for number in 6..8 {
        director.handshake(&client(number), VIP, RS1);
    }
    assert_eq!(states(&director), (6, 0, 0));
    director.outside(tcp(&client(8), VIP).syn()).is_dropped_for(DropReason::TableFull);
    let expected = EngineCounters { opened: 10, evicted: 4, ..Default::default() };
    assert_eq!(director.counters(), expected);
    assert_eq!(director.current(), [6]);
}

#[test]
fn who_is_only_half_way_out_is_not_evicted() {
    let mut director = full();
    director
        .outside(tcp(&client(0), VIP).fin().ack(1))
        .leaves_as(tcp(&client(0), RS1).fin().ack(1));
    director.inside(tcp(RS1, &client(1)).fin().ack(1)).leaves_as(tcp(VIP, &client(1)).fin().ack(1));
    director.outside(tcp(&client(4), VIP).syn()).is_dropped_for(DropReason::TableFull);
    assert_eq!(director.counters().evicted, 0);
}

#[test]
fn expiry_makes_room() {
    let mut director = full();
    director.inside(tcp(RS1, &client(2)).fin().ack(1)).leaves_as(tcp(VIP, &client(2)).fin().ack(1));
    director.outside(tcp(&client(4), VIP).syn()).is_dropped_for(DropReason::TableFull);
    director.wait(Duration::from_secs(120) + SLACK);
    director.handshake(&client(4), VIP, RS1);
    assert_eq!(director.current(), [4, 0]);
    assert_eq!(director.counters(), EngineCounters { opened: 5, expired: 1, ..Default::default() });
}

#[test]
fn a_closed_tuple_is_reopened_in_a_full_table() {
    let mut director = full();
    director.inside(tcp(RS1, &client(2)).rst()).leaves_as(tcp(VIP, &client(2)).rst());
    director.handshake(&client(2), VIP, RS1);
    let expected = EngineCounters { opened: 5, replaced: 1, ..Default::default() };
    assert_eq!(director.counters(), expected);
}

#[test]
fn a_budget_spreads_the_work_of_ending_connections() {
    let mut director = full();
    director.wait_with_budget(Duration::from_secs(900) + SLACK, 3);
    assert_eq!(director.current(), [1, 0]);
    director.wait_with_budget(Duration::ZERO, 0);
    assert_eq!(director.current(), [1, 0]);
    director.wait_with_budget(Duration::ZERO, 3);
    assert_eq!(director.counters(), EngineCounters { opened: 4, expired: 4, ..Default::default() });
}

#[test]
fn generations_come_and_go_and_leave_nothing_behind() {
    let services = [over_udp(rr(VIP, &[RS1, RS2]))];
    let mut director = Director::with_capacity(200, &services, &[]);
    for generation in 0..20 {
        for number in 0..200 {
            let client = client(200 * generation + number);
            // The one that finds no room takes its turn all the same.
            let real = if (number + generation) % 2 == 0 { RS1 } else { RS2 };
            director.outside(udp(&client, VIP)).leaves_as(udp(&client, real));
            director.inside(udp(real, &client)).leaves_as(udp(VIP, &client));
        }
        director.outside(udp(CLIENT, VIP)).is_dropped_for(DropReason::TableFull);
        assert_eq!(director.current(), [100, 100]);
        director.wait(Duration::from_secs(300) + SLACK);
        assert_eq!(director.current(), [0, 0]);
    }
    assert_eq!(director.counters().expired, 4000);
}
