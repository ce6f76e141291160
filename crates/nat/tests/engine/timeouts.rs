//! How long connections may be silent: datagrams, and what services and the director say.

use std::time::Duration;

use shunt_nat::{
    ConnectionState::{Udp, UdpOneWay},
    EngineCounters,
};
use shunt_rules::{Defaults, Rules, Timeouts, VirtualService};

use crate::harness::*;

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn dns() -> Director {
    Director::new(&[over_udp(rr(VIP, &[RS1]))], &[])
}

#[test]
fn datagrams_without_an_answer_are_soon_forgotten() {
    let mut director = dns();
    director.outside(udp(CLIENT, VIP)).leaves_as(udp(CLIENT, RS1));
    assert_eq!((director.state(), director.remaining()), (UdpOneWay, seconds(30)));
    director.wait_seconds(29);
    director.outside(udp(CLIENT, VIP)).leaves_as(udp(CLIENT, RS1));
    assert_eq!((director.state(), director.remaining()), (UdpOneWay, seconds(30)));
    director.wait(seconds(30) - Duration::from_millis(1));
    assert_eq!(director.state(), UdpOneWay, "not before its time");
    director.wait(SLACK);
    assert_eq!(director.counters(), EngineCounters { opened: 1, expired: 1, ..Default::default() });
}

#[test]
fn an_answer_makes_them_last() {
    let mut director = dns();
    director.outside(udp(CLIENT, VIP)).leaves_as(udp(CLIENT, RS1));
    director.wait_seconds(29);
    director.inside(udp(RS1, CLIENT)).leaves_as(udp(VIP, CLIENT));
    assert_eq!((director.state(), director.remaining()), (Udp, seconds(300)));
    director.wait_seconds(299);
    director.outside(udp(CLIENT, VIP)).leaves_as(udp(CLIENT, RS1));
    assert_eq!((director.state(), director.remaining()), (Udp, seconds(300)));
    director.wait(seconds(300) + SLACK);
    assert_eq!(director.counters(), EngineCounters { opened: 1, expired: 1, ..Default::default() });
}

#[test]
fn the_answer_counts_for_outbound_and_untranslated_datagrams_too() {
    let mut director = Director::new(&[], &[snat(1024..=65_535)]);
    let behind = "192.168.1.100:50000";
    director.inside(udp(HOST, REMOTE)).leaves_as(udp(behind, REMOTE));
    assert_eq!(director.remaining(), seconds(30));
    director.outside(udp(REMOTE, behind)).leaves_as(udp(REMOTE, HOST));
    assert_eq!(director.remaining(), seconds(300));

    let mut director = Director::new(&[], &[snat(1024..=65_535)]);
    director.outside(udp(CLIENT, HOST)).leaves_as(udp(CLIENT, HOST));
    assert_eq!(director.remaining(), seconds(30));
    director.inside(udp(HOST, CLIENT)).leaves_as(udp(HOST, CLIENT));
    assert_eq!(director.remaining(), seconds(300));
}

/// Timeouts that are all unlike the defaults.
fn hasty() -> Timeouts {
    Timeouts {
        established: seconds(9),
        syn_sent: seconds(5),
        syn_recv: seconds(4),
        udp_one_way: seconds(2),
        udp: seconds(3),
        icmp: seconds(1),
        ..Timeouts::default()
    }
}

#[test]
fn each_service_has_its_own() {
    let other = "192.168.1.100:8080";
    let quick = VirtualService { timeouts: hasty().into(), ..rr(VIP, &[RS1]) };
    let mut director = Director::new(&[quick.clone(), rr(other, &[RS2])], &[]);
    director.outside(tcp(CLIENT, VIP).syn()).leaves_as(tcp(CLIENT, RS1).syn());
    assert_eq!(director.remaining(), seconds(4));
    director.handshake(CLIENT, VIP, RS1);
    assert_eq!(director.remaining(), seconds(9));
    director.handshake(CLIENT, other, RS2);
    director.wait(seconds(9) + SLACK);
    assert_eq!(director.current(), [0, 1]);

    let mut director = Director::new(&[over_udp(quick)], &[]);
    director.outside(udp(CLIENT, VIP)).leaves_as(udp(CLIENT, RS1));
    assert_eq!(director.remaining(), seconds(2));
    director.inside(udp(RS1, CLIENT)).leaves_as(udp(VIP, CLIENT));
    assert_eq!(director.remaining(), seconds(3));
}

#[test]
fn the_defaults_are_for_connections_that_no_service_says_more_of() {
    let other = "192.168.1.100:8080";
    let rules = Rules {
        defaults: Defaults { timeouts: hasty(), ..Defaults::default() },
        services: services(&[
            rr(VIP, &[RS1]),
            VirtualService { timeouts: Timeouts::default().into(), ..rr(other, &[RS2]) },
        ]),
        snat: vec![snat(1024..=65_535)],
        ..Rules::default()
    };
    let after = |first: fn(&mut Director)| {
        let mut director = Director::with_rules(&rules);
        first(&mut director);
        director.remaining()
    };
    assert_eq!(
        after(|director| drop(director.inside(tcp(HOST, REMOTE).syn()).translated())),
        seconds(5),
    );
    assert_eq!(after(|director| drop(director.inside(udp(HOST, REMOTE)).translated())), seconds(2));
    let untranslated =
        |director: &mut Director| drop(director.outside(tcp(CLIENT, HOST).syn()).translated());
    assert_eq!(after(untranslated), seconds(4));
    assert_eq!(after(|director| director.handshake(CLIENT, VIP, RS1)), seconds(9));
    let its_own = after(|director| director.handshake(CLIENT, "192.168.1.100:8080", RS2));
    assert_eq!(its_own, seconds(900));
}
