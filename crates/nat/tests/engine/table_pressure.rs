//! A table without room: the living are served, newcomers wait.

use std::time::Duration;

use shunt_nat::{DropReason, EngineCounters};

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
    assert_eq!(director.service(0).out_packets, 8);
}

#[test]
fn expiry_makes_room() {
    let mut director = full();
    director.inside(tcp(RS1, &client(2)).rst()).leaves_as(tcp(VIP, &client(2)).rst());
    director.outside(tcp(&client(4), VIP).syn()).is_dropped_for(DropReason::TableFull);
    director.wait(Duration::from_secs(10) + SLACK);
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
            let _ = director.outside(udp(&client(200 * generation + number), VIP)).translated();
        }
        director.outside(udp(CLIENT, VIP)).is_dropped_for(DropReason::TableFull);
        assert_eq!(director.current(), [100, 100]);
        director.wait(Duration::from_secs(300) + SLACK);
        assert_eq!(director.current(), [0, 0]);
    }
    assert_eq!(director.counters().expired, 4000);
}
