//! Outbound SNAT: inside hosts share an outside address.

use std::time::Duration;

use shunt_nat::{
    ConnectionKind, ConnectionState, DropReason, EngineCounters, PoolUsage, Reply, Side,
};
use shunt_rules::SnatRule;
use shunt_testkit::Packet;

use crate::harness::*;

#[test]
fn the_own_port_is_kept() {
    let mut director = Director::new(&[], &[snat(1024..=65_535)]);
    let behind = "192.168.1.100:50000";
    director
        .inside(udp(HOST, REMOTE).payload("query"))
        .leaves_as(udp(behind, REMOTE).payload("query"));
    director
        .outside(udp(REMOTE, behind).payload("answer"))
        .leaves_as(udp(REMOTE, HOST).payload("answer"));
    assert_eq!(director.connections()[0].kind(), ConnectionKind::Snat);
    assert_eq!(director.counters(), EngineCounters { opened: 1, ..Default::default() });
}

#[test]
fn a_port_outside_the_range_is_replaced() {
    let mut director = Director::new(&[], &[snat(60_000..=60_001)]);
    for (host, behind) in
        [("192.168.2.50:999", "192.168.1.100:60000"), ("192.168.2.51:999", "192.168.1.100:60001")]
    {
        director.inside(tcp(host, REMOTE).syn()).leaves_as(tcp(behind, REMOTE).syn());
        director.outside(tcp(REMOTE, behind).ack(9)).leaves_as(tcp(REMOTE, host).ack(9));
    }
}

#[test]
fn hosts_with_one_source_port_are_told_apart() {
    let mut director = Director::new(&[], &[snat(50_000..=50_001)]);
    let (first, second) = ("192.168.2.50:50000", "192.168.2.51:50000");
    director.inside(tcp(first, REMOTE).syn()).leaves_as(tcp("192.168.1.100:50000", REMOTE).syn());
    director.inside(tcp(second, REMOTE).syn()).leaves_as(tcp("192.168.1.100:50001", REMOTE).syn());
    director
        .outside(tcp(REMOTE, "192.168.1.100:50000").syn().ack(1))
        .leaves_as(tcp(REMOTE, first).syn().ack(1));
    director
        .outside(tcp(REMOTE, "192.168.1.100:50001").syn().ack(1))
        .leaves_as(tcp(REMOTE, second).syn().ack(1));
}

#[test]
fn one_port_serves_many_destinations() {
    let mut director = Director::new(&[], &[snat(60_000..=60_000)]);
    let behind = "192.168.1.100:60000";
    for remote in ["203.0.113.7:443", "203.0.113.7:80", "203.0.113.8:443"] {
        director.inside(tcp(HOST, remote).syn()).leaves_as(tcp(behind, remote).syn());
        director.outside(tcp(remote, behind).ack(1)).leaves_as(tcp(remote, HOST).ack(1));
    }
    // Protocols do not share ports either.
    director.inside(udp(HOST, REMOTE)).leaves_as(udp(behind, REMOTE));
    assert_eq!(director.connections().len(), 4);
}

#[test]
fn no_port_left_for_a_destination() {
    let mut director = Director::new(&[], &[snat(60_000..=60_002)]);
    for port in 1..=3 {
        let _ = director.inside(udp(&format!("192.168.2.50:{port}"), REMOTE)).translated();
    }
    let late = "192.168.2.51:4";
    director.inside(udp(late, REMOTE)).is_dropped_for(DropReason::SnatPortsExhausted);
    assert_eq!(director.counters(), EngineCounters { opened: 3, ..Default::default() });

    director.wait(Duration::from_secs(300) + SLACK);
    let _ = director.inside(udp(late, REMOTE)).translated();
    assert_eq!(director.counters(), EngineCounters { opened: 4, expired: 3, ..Default::default() });
}

#[test]
fn a_run_of_taken_ports_does_not_hide_the_free_ones() {
    let mut director = Director::with_capacity(4096, &[], &[snat(10_000..=10_999)]);
    let dial = |director: &mut Director, at: u32, remote: &str| {
        let host = format!("192.168.2.{}:{}", 1 + at / 1000, 1 + at % 1000);
        let _ = director.inside(udp(&host, remote)).translated();
    };
    // One remote holds half of the ports; another's connections bring the pool round to them.
    (0..500).for_each(|at| dial(&mut director, at, REMOTE));
    (500..1000).for_each(|at| dial(&mut director, at, "203.0.113.8:443"));
    (1000..1400).for_each(|at| dial(&mut director, at, REMOTE));
    assert_eq!(director.connections().len(), 1400);
}

#[test]
fn a_closed_connections_port_is_taken_again() {
    let mut director = Director::new(&[], &[snat(60_000..=60_000)]);
    let behind = "192.168.1.100:60000";
    director.inside(tcp(HOST, REMOTE).syn()).leaves_as(tcp(behind, REMOTE).syn());
    director.outside(tcp(REMOTE, behind).rst()).leaves_as(tcp(REMOTE, HOST).rst());
    let other = "192.168.2.51:7";
    director.inside(tcp(other, REMOTE).syn()).leaves_as(tcp(behind, REMOTE).syn());
    director.outside(tcp(REMOTE, behind).syn().ack(1)).leaves_as(tcp(REMOTE, other).syn().ack(1));
    let expected = EngineCounters { opened: 2, replaced: 1, ..Default::default() };
    assert_eq!(director.counters(), expected);
}

/// The remote host is in TIME-WAIT then, and the last acknowledgment may be on its way.
#[test]
fn another_host_gets_another_port_while_a_connection_closes() {
    let mut director = Director::new(&[], &[snat(60_000..=60_001)]);
    let (first, second) = ("192.168.1.100:60000", "192.168.1.100:60001");
    let (host, other) = ("192.168.2.50:60000", "192.168.2.51:60000");
    director.inside(tcp(host, REMOTE).syn()).leaves_as(tcp(first, REMOTE).syn());
    director.outside(tcp(REMOTE, first).syn().ack(1)).leaves_as(tcp(REMOTE, host).syn().ack(1));
    director.inside(tcp(host, REMOTE).ack(1)).leaves_as(tcp(first, REMOTE).ack(1));
    director.outside(tcp(REMOTE, first).fin().ack(1)).leaves_as(tcp(REMOTE, host).fin().ack(1));
    director.inside(tcp(host, REMOTE).fin().ack(2)).leaves_as(tcp(first, REMOTE).fin().ack(2));
    assert_eq!(director.state(), ConnectionState::TimeWait);

    director.inside(tcp(other, REMOTE).syn()).leaves_as(tcp(second, REMOTE).syn());
    director.outside(tcp(REMOTE, first).ack(2)).leaves_as(tcp(REMOTE, host).ack(2));
    // The host itself knows what it does; and who finds no other port gets that one.
    director.inside(tcp(host, REMOTE).syn()).leaves_as(tcp(first, REMOTE).syn());
    director.inside(tcp(host, REMOTE).rst()).leaves_as(tcp(first, REMOTE).rst());
    let last = "192.168.2.52:60000";
    director.inside(tcp(last, REMOTE).syn()).leaves_as(tcp(first, REMOTE).syn());
    let expected = EngineCounters { opened: 4, replaced: 2, ..Default::default() };
    assert_eq!(director.counters(), expected);
}

#[test]
fn a_host_reopens_its_own_closed_connection() {
    let mut director = Director::new(&[], &[snat(50_000..=60_000)]);
    let behind = "192.168.1.100:50000";
    for opened in 1..=3 {
        director.inside(tcp(HOST, REMOTE).syn()).leaves_as(tcp(behind, REMOTE).syn());
        director.inside(tcp(HOST, REMOTE).rst()).leaves_as(tcp(behind, REMOTE).rst());
        let expected = EngineCounters { opened, replaced: opened - 1, ..Default::default() };
        assert_eq!(director.counters(), expected);
    }
}

#[test]
fn the_first_rule_that_covers_a_host_counts() {
    let one = SnatRule {
        from: "192.168.2.50/32".parse().unwrap(),
        to: vec!["192.168.1.101".parse().unwrap()],
        ports: 1024..=65_535,
    };
    let mut director = Director::new(&[], &[one, snat(1024..=65_535)]);
    director.inside(udp(HOST, REMOTE)).leaves_as(udp("192.168.1.101:50000", REMOTE));
    director
        .inside(udp("192.168.2.51:50000", REMOTE))
        .leaves_as(udp("192.168.1.100:50000", REMOTE));
}

#[test]
fn no_private_source_gets_out() {
    let mut director = Director::new(&[], &[snat(1024..=65_535)]);
    for stray in [
        tcp(HOST, REMOTE).ack(1),
        tcp(HOST, REMOTE).fin().ack(1),
        tcp(HOST, REMOTE).syn().ack(1),
        tcp(HOST, REMOTE),
    ] {
        director.inside(stray).is_answered_by(Reply::Reset);
    }
    director.inside(tcp(HOST, REMOTE).rst()).is_dropped_for(DropReason::UnknownConnection);
    director.inside(tcp(HOST, REMOTE).syn().ttl(1)).is_answered_by(Reply::TimeExceeded);
    director.inside(udp(HOST, REMOTE).ttl(1)).is_answered_by(Reply::TimeExceeded);
    assert_eq!(director.counters(), EngineCounters::default());
}

#[test]
fn fragments_follow_the_first_one() {
    let mut director = Director::new(&[], &[snat(1024..=65_535)]);
    let behind = "192.168.1.100:50000";
    let fragments = |src, dst| {
        let last = Packet::raw(host(src), host(dst), 17).payload("the rest").fragment(1, false);
        [udp(src, dst).fragment(0, true), last]
    };
    for (arrives, leaves) in fragments(HOST, REMOTE).into_iter().zip(fragments(behind, REMOTE)) {
        director.inside(arrives).leaves_as(leaves);
    }
    for (arrives, leaves) in fragments(REMOTE, behind).into_iter().zip(fragments(REMOTE, HOST)) {
        director.outside(arrives).leaves_as(leaves);
    }
}

#[test]
fn what_stays_inside_or_is_for_the_director_is_not_translated() {
    let mut director = Director::new(&[], &[snat(1024..=65_535)]);
    director.inside(tcp(HOST, RS1).syn()).is_punted();
    director.inside(udp(HOST, "192.168.2.200:53")).is_punted();
    director.inside(udp(HOST, "192.168.1.100:53")).is_punted();
    // Not covered, hence plainly routed.
    director.inside(udp("10.0.0.1:5", REMOTE)).is_punted();
    assert_eq!(director.counters(), EngineCounters::default());
}

#[test]
fn nobody_outside_reaches_a_port_that_no_host_opened() {
    let mut director = Director::new(&[], &[snat(1024..=65_535)]);
    director.inside(udp(HOST, REMOTE)).leaves_as(udp("192.168.1.100:50000", REMOTE));
    for stranger in ["203.0.113.7:444", "203.0.113.8:443"] {
        director.outside(udp(stranger, "192.168.1.100:50000")).is_punted();
    }
    director.outside(tcp(REMOTE, "192.168.1.100:50000").syn()).is_punted();
}

#[test]
fn nobody_outside_reopens_a_closed_connection() {
    let mut director = Director::new(&[], &[snat(1024..=65_535)]);
    let behind = "192.168.1.100:50000";
    director.inside(tcp(HOST, REMOTE).syn()).leaves_as(tcp(behind, REMOTE).syn());
    director.outside(tcp(REMOTE, behind).rst()).leaves_as(tcp(REMOTE, HOST).rst());
    director.outside(tcp(REMOTE, behind).syn()).is_punted();
}

#[test]
fn a_servers_replies_are_the_services_not_snats() {
    let mut director = Director::new(&[rr(VIP, &[RS1])], &[snat(1024..=65_535)]);
    director.handshake(CLIENT, VIP, RS1);
    // The same server dials out on its own account.
    let own = "192.168.2.210:50000";
    director
        .receive(Side::Inside, tcp(own, CLIENT).syn().into())
        .leaves_as(tcp("192.168.1.100:50000", CLIENT).syn());
    assert_eq!((director.current(), director.connections().len()), (vec![1], 2));
}

#[test]
fn an_outbound_connection_and_a_service_share_no_tuple() {
    let mut director = Director::new(&[rr(VIP, &[RS1, RS2])], &[snat(1024..=65_535)]);
    // RS1 has dialled the client's very endpoint from its service port.
    director.inside(tcp(RS1, CLIENT).syn()).leaves_as(tcp("192.168.1.100:1024", CLIENT).syn());
    director.handshake(CLIENT, VIP, RS2);
    assert_eq!(director.current(), [0, 1]);
}

const ADDRESSES: [&str; 3] = ["192.168.1.101", "192.168.1.102", "192.168.1.103"];

/// A director that hides the inside behind three addresses.
fn several(ports: std::ops::RangeInclusive<u16>) -> Director {
    let to = ADDRESSES.map(|address| address.parse().unwrap()).into();
    Director::new(&[], &[SnatRule { to, ..snat(ports) }])
}

fn usage(director: &Director) -> PoolUsage {
    director.engine().rules().snat_usage().next().unwrap()
}

/// A host dials out; the last byte of the address that it is seen as.
fn seen_as(director: &mut Director, host: &str, remote: &str) -> u8 {
    director.inside(udp(host, remote)).translated()[15]
}

#[test]
fn a_host_keeps_its_address_and_hosts_are_spread() {
    let mut director = several(1024..=65_535);
    let mut seen: Vec<_> = (50..=52)
        .map(|number| {
            let host = |port: u16| format!("192.168.2.{number}:{port}");
            let first = seen_as(&mut director, &host(2000), REMOTE);
            for (port, remote) in [(2001, REMOTE), (2002, "203.0.113.8:53"), (9, "192.0.2.1:9")] {
                assert_eq!(seen_as(&mut director, &host(port), remote), first);
            }
            first
        })
        .collect();
    seen.sort_unstable();
    assert_eq!(seen, [101, 102, 103]);
    let expected = PoolUsage { endpoints: 3 * 64_512, in_use: 12, ..Default::default() };
    assert_eq!(usage(&director), expected);
}

#[test]
fn a_host_falls_over_to_the_next_address_and_comes_back() {
    let mut director = several(60_000..=60_001);
    let dial = |director: &mut Director, port: u16| {
        seen_as(director, &format!("192.168.2.50:{port}"), REMOTE)
    };
    let seen: Vec<_> = (1..=6).map(|port| dial(&mut director, port)).collect();
    let home = seen[0];
    assert_eq!(seen[1], home);
    assert_eq!((seen[2], seen[4]), (seen[3], seen[5]));
    let mut used = [seen[0], seen[2], seen[4]];
    used.sort_unstable();
    assert_eq!(used, [101, 102, 103]);
    director.inside(udp("192.168.2.50:7", REMOTE)).is_dropped_for(DropReason::SnatPortsExhausted);
    let expected = PoolUsage { endpoints: 6, in_use: 6, scarce: 0, exhausted: 1 };
    assert_eq!(usage(&director), expected);
    // Towards others there are ports, and where it was at home.
    assert_eq!(seen_as(&mut director, "192.168.2.50:8", "203.0.113.8:443"), home);
    director.wait(Duration::from_secs(30) + SLACK);
    assert_eq!(usage(&director).in_use, 0);
    assert_eq!(dial(&mut director, 9), home);
}

#[test]
fn scarcity_is_told_before_exhaustion() {
    let mut director = Director::new(&[], &[snat(60_000..=60_015)]);
    let dial = |director: &mut Director, port: u16, remote: &str| {
        seen_as(director, &format!("192.168.2.50:{port}"), remote);
        usage(director).scarce
    };
    // Another remote's connections bring the pool round to ports that this one has taken.
    for port in 1..=15 {
        assert_eq!(dial(&mut director, port, REMOTE), 0);
    }
    dial(&mut director, 16, "203.0.113.8:443");
    assert_eq!(dial(&mut director, 17, REMOTE), 1, "the last port, found at the sixteenth attempt");
    let expected = PoolUsage { endpoints: 16, in_use: 17, scarce: 1, exhausted: 0 };
    assert_eq!(usage(&director), expected);
    director.inside(udp("192.168.2.50:18", REMOTE)).is_dropped_for(DropReason::SnatPortsExhausted);
    assert_eq!(usage(&director).exhausted, 1);
}

#[test]
fn each_rule_counts_the_connections_on_its_addresses() {
    let from = |network: &str| network.parse().unwrap();
    let to = vec!["192.168.1.101".parse().unwrap()];
    let elsewhere = SnatRule { from: from("192.168.2.50/32"), to, ..snat(1024..=2047) };
    let shared = SnatRule { from: from("192.168.2.60/32"), ..snat(1024..=1024) };
    let mut director = Director::new(&[], &[elsewhere, shared, snat(4096..=8191)]);
    let _ = director.inside(udp(HOST, REMOTE)).translated();
    for port in 1..=2 {
        let _ = director.inside(udp(&format!("192.168.2.51:{port}"), REMOTE)).translated();
    }
    let usage: Vec<_> = director
        .engine()
        .rules()
        .snat_usage()
        .map(|usage| (usage.endpoints, usage.in_use))
        .collect();
    assert_eq!(usage, [(1024, 1), (1, 2), (4096, 2)]);
}
