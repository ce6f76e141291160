//! Rules that change while connections live.

use std::time::Duration;

use shunt_nat::{
    AdminState, EngineCounters, Health, Reply, ServerId, ServerShared, ServiceId, Side, Verdict,
};
use shunt_rules::{ForwardingMode, Persistence, Scheduler, VirtualService};

use crate::harness::*;

const OTHER_VIP: &str = "192.168.1.100:8080";
const RS3: &str = "192.168.2.230:80";
const DRAIN: Duration = Duration::from_secs(30);

fn client(number: u16) -> String {
    format!("192.168.1.200:{number}")
}

fn draining(service: VirtualService) -> VirtualService {
    VirtualService { drain_timeout: Some(DRAIN), ..service }
}

/// The numbers of the services, and of their servers.
fn numbers(director: &Director) -> Vec<(u32, Vec<u32>)> {
    let services = director.engine().rules().services();
    let servers = |servers: &[shunt_nat::Server]| servers.iter().map(|s| s.id().0).collect();
    services.map(|(id, _, listed)| (id.0, servers(listed))).collect()
}

/// Removes a server of the first service.
fn remove_server(director: &mut Director, place: usize) {
    director.change(|rules| {
        edit(rules, 0).servers.remove(place);
    });
}

/// Both ends of an established connection hear of each other.
#[track_caller]
fn lives(director: &mut Director, client: &str, vip: &str, real: &str) {
    director.outside(tcp(client, vip).ack(2)).leaves_as(tcp(client, real).ack(2));
    director.inside(tcp(real, client).ack(2)).leaves_as(tcp(vip, client).ack(2));
}

#[test]
fn a_removed_server_keeps_its_connections_and_gets_no_others() {
    let mut director = Director::new(&[rr(VIP, &[RS1, RS2])], &[]);
    director.handshake(&client(1), VIP, RS1);
    remove_server(&mut director, 0);
    for at in 2..=4 {
        director.handshake(&client(at), VIP, RS2);
    }
    lives(&mut director, &client(1), VIP, RS1);
    assert_eq!(director.current(), [1, 3]);
    let retired: Vec<_> = director.engine().rules().retired_servers().collect();
    assert!(matches!(retired[..], [(ServiceId(0), server)] if server.id() == ServerId(0)));
}

#[test]
fn a_server_that_comes_back_is_who_it_was() {
    let mut director = Director::new(&[rr(VIP, &[RS1, RS2])], &[]);
    director.handshake(&client(1), VIP, RS1);
    remove_server(&mut director, 0);
    director.change(|rules| edit(rules, 0).servers.push(real(RS1, 1)));
    assert_eq!(numbers(&director), [(0, vec![1, 0])]);
    director.handshake(&client(2), VIP, RS2);
    director.handshake(&client(3), VIP, RS1);
    assert_eq!((director.server(0).connections, director.current()), (2, vec![2, 1]));
}

#[test]
fn a_number_is_given_away_when_its_last_connection_has_ended() {
    let mut director = Director::new(&[rr(VIP, &[RS1, RS2]), rr(OTHER_VIP, &[RS1])], &[]);
    director.handshake(&client(1), OTHER_VIP, RS1);
    director.change(|rules| drop(rules.services.remove(1)));
    director.change(|rules| edit(rules, 0).servers.push(real(RS3, 1)));
    assert_eq!(numbers(&director), [(0, vec![0, 1, 3])], "2 is in use");
    lives(&mut director, &client(1), OTHER_VIP, RS1);

    director.wait(Duration::from_secs(900) + SLACK);
    director.change(|rules| rules.services.push(rr("192.168.1.100:25", &[RS2]).into()));
    assert_eq!(numbers(&director), [(0, vec![0, 1, 3]), (1, vec![2])]);
    assert_eq!(director.service(1).connections, 0, "it counts from the start");
    director.outside(tcp(&client(2), "192.168.1.100:25").syn()).translated();
    assert_eq!(director.current(), [0, 0, 1, 0]);
}

#[test]
fn a_removed_service_answers_nobody_but_those_it_has() {
    let mut director = Director::new(&[rr(VIP, &[RS1]), rr(OTHER_VIP, &[RS2])], &[]);
    director.handshake(&client(1), VIP, RS1);
    director.change(|rules| drop(rules.services.remove(0)));
    director.outside(tcp(&client(2), VIP).syn()).is_punted();
    lives(&mut director, &client(1), VIP, RS1);

    director.change(|rules| rules.services.push(rr(VIP, &[RS1, RS2]).into()));
    assert_eq!(numbers(&director), [(1, vec![1]), (0, vec![0, 2])]);
    director.handshake(&client(3), VIP, RS1);
    assert_eq!(director.service(0).connections, 2, "it counts on");
}

#[test]
fn the_turn_goes_on_over_a_change() {
    let mut director = Director::new(&[rr(VIP, &[RS1, RS2, RS3])], &[]);
    director.handshake(&client(1), VIP, RS1);
    director.change(|rules| edit(rules, 0).servers.reverse());
    director.handshake(&client(2), VIP, RS2);
    director.handshake(&client(3), VIP, RS1);
    remove_server(&mut director, 0);
    director.handshake(&client(4), VIP, RS2);
}

#[test]
fn duplicates_stay_apart() {
    let mut director = Director::new(&[rr(VIP, &[RS1, RS1]), rr(VIP, &[RS2])], &[]);
    director.handshake(&client(1), VIP, RS2);
    director.change(|rules| rules.services.push(rr(OTHER_VIP, &[]).into()));
    assert_eq!(numbers(&director), [(0, vec![0, 1]), (1, vec![2]), (2, vec![])]);
    remove_server(&mut director, 0);
    assert_eq!(numbers(&director), [(0, vec![0]), (1, vec![2]), (2, vec![])]);
    director.handshake(&client(2), VIP, RS2);
}

#[test]
fn without_a_drain_timeout_connections_end_by_themselves() {
    let mut director = Director::new(&[rr(VIP, &[RS1, RS2])], &[]);
    director.handshake(&client(1), VIP, RS1);
    director.set_weight(0, 0);
    director.wait(Duration::from_secs(899));
    lives(&mut director, &client(1), VIP, RS1);
    assert_eq!(director.counters().drained, 0);
}

#[test]
fn a_drained_servers_connections_are_reset_at_both_ends() {
    let mut director = Director::new(&[draining(rr(VIP, &[RS1, RS2]))], &[]);
    director.handshake(&client(1), VIP, RS1);
    director.handshake(&client(2), VIP, RS2);
    director.set_weight(0, 0);
    director.wait(DRAIN - Duration::from_millis(1));
    lives(&mut director, &client(1), VIP, RS1);
    director.wait(Duration::from_millis(1));
    let mut reset: Vec<_> = director.sent.iter().map(|packet| packet[16..20].to_vec()).collect();
    reset.sort();
    assert_eq!(reset, [[192, 168, 1, 200], [192, 168, 2, 210]]);
    assert_eq!((director.counters().drained, director.current()), (1, vec![0, 1]));
    director.outside(tcp(&client(1), VIP).ack(3)).is_answered_by(Reply::Reset);
    lives(&mut director, &client(2), VIP, RS2);
}

#[test]
fn a_restored_weight_cancels_the_draining_and_time_counts_from_the_last_one() {
    let mut director = Director::new(&[draining(rr(VIP, &[RS1, RS2]))], &[]);
    director.handshake(&client(1), VIP, RS1);
    director.set_weight(0, 0);
    director.wait(DRAIN / 2);
    director.set_weight(0, 1);
    director.wait(DRAIN);
    lives(&mut director, &client(1), VIP, RS1);
    director.set_weight(0, 0);
    director.wait(DRAIN / 2);
    director.set_weight(1, 7);
    director.wait(DRAIN / 2 - Duration::from_millis(1));
    assert_eq!(director.counters().drained, 0);
    director.wait(Duration::from_millis(1));
    assert_eq!(director.counters().drained, 1);
}

#[test]
fn a_removed_service_drains_under_its_last_options() {
    let mut director = Director::new(&[draining(rr(VIP, &[RS1]))], &[]);
    director.handshake(&client(1), VIP, RS1);
    director.change(|rules| rules.services.clear());
    director.wait(DRAIN);
    assert_eq!((director.counters().drained, director.connections().len()), (1, 0));
}

#[test]
fn draining_looks_at_no_more_records_than_it_may() {
    const CONNECTIONS: u16 = 200;
    let services = [draining(rr(VIP, &[RS1])), draining(rr(OTHER_VIP, &[RS2]))];
    let mut director = Director::with_capacity(512, &services, &[]);
    for at in 0..CONNECTIONS {
        director.handshake(&client(1000 + at), VIP, RS1);
        director.handshake(&client(1000 + at), OTHER_VIP, RS2);
    }
    director.set_weight(0, 0);
    director.wait_with_budget(DRAIN, 50);
    assert!((1..=50).contains(&director.counters().drained));
    // Another one joins while the search is under way.
    director.set_weight(1, 0);
    for _ in 0..20 {
        director.wait_with_budget(Duration::ZERO, 50);
    }
    assert_eq!(director.current(), [0, CONNECTIONS.into()]);
    director.wait(DRAIN);
    assert_eq!(director.counters().drained, u64::from(2 * CONNECTIONS));
}

#[test]
fn those_whose_time_comes_during_a_search_do_not_wait_for_the_next_one() {
    let services = [draining(rr(VIP, &[RS1])), draining(rr(OTHER_VIP, &[RS2]))];
    let mut director = Director::new(&services, &[]);
    director.handshake(&client(1), VIP, RS1);
    director.handshake(&client(2), OTHER_VIP, RS2);
    director.set_weight(1, 0);
    director.wait_seconds(1);
    director.set_weight(0, 0);
    director.wait_with_budget(DRAIN - Duration::from_secs(1), 0);
    // To see that nobody was silent for too long is a look, too.
    (0..2).for_each(|_| director.wait_with_budget(Duration::ZERO, 2));
    assert_eq!(director.current(), [1, 0], "the search has passed the first connection");
    director.wait_seconds(1);
    assert_eq!(director.current(), [0, 0]);
}

#[test]
fn what_is_closing_ends_without_resets() {
    let mut director = Director::new(&[draining(rr(VIP, &[RS1]))], &[]);
    let quick = "192.168.1.100:53";
    director.change(|rules| rules.services.push(draining(over_udp(rr(quick, &[RS2]))).into()));
    director.handshake(&client(1), VIP, RS1);
    director.outside(tcp(&client(1), VIP).fin().ack(1)).translated();
    director.inside(tcp(RS1, &client(1)).fin().ack(1)).translated();
    director.outside(udp(&client(1), quick)).translated();
    director.inside(udp(RS2, &client(1))).translated();
    director.change(|rules| rules.services.clear());
    let before = director.counters();
    director.wait(DRAIN);
    assert_eq!(director.counters().drained + director.counters().expired - before.expired, 2);
    assert_eq!(director.sent, Vec::<Vec<u8>>::new());
}

#[test]
fn options_of_a_service_change_under_its_connections() {
    let mut director = Director::new(&[rr(VIP, &[RS1])], &[]);
    director.handshake(&client(1), VIP, RS1);
    director.change(|rules| {
        let service = edit(rules, 0);
        service.mode = ForwardingMode::FullNat;
        service.scheduler = Scheduler::Maglev;
        service.timeouts.fin_wait = Some(Duration::from_secs(3));
        rules.local_addresses = vec![local(INSIDE_ADDRESS, 60_000..=60_009)];
    });
    lives(&mut director, &client(1), VIP, RS1);
    assert_eq!(director.remaining(), Duration::from_secs(900), "it is in the state it was in");
    director.inside(tcp(RS1, &client(1)).fin().ack(2)).translated();
    assert_eq!(director.remaining(), Duration::from_secs(3));
    let seen_as = "192.168.2.200:60000";
    director.outside(tcp(&client(2), VIP).syn()).leaves_as(tcp(seen_as, RS1).syn());

    director.change(|rules| edit(rules, 0).mode = ForwardingMode::Nat);
    director.outside(tcp(&client(3), VIP).syn()).leaves_as(tcp(&client(3), RS1).syn());
    director.inside(tcp(RS1, seen_as).syn().ack(1)).leaves_as(tcp(VIP, &client(2)).syn().ack(1));
    assert_eq!(director.engine().rules().local_usage().in_use, 1);
    director.wait(Duration::from_secs(60) + SLACK);
    assert_eq!(director.engine().rules().local_usage().in_use, 0);
}

#[test]
fn snat_connections_outlive_their_rule_and_its_return() {
    let behind = "192.168.1.100:50000";
    let mut director = Director::new(&[], &[snat(1024..=65_535)]);
    let in_use = |director: &Director| {
        director.engine().rules().snat_usage().map(|usage| usage.in_use).collect::<Vec<_>>()
    };
    director.inside(udp(HOST, REMOTE)).leaves_as(udp(behind, REMOTE));
    director.change(|rules| rules.snat.clear());
    director.inside(udp("192.168.2.51:1", REMOTE)).is_punted();
    director.outside(udp(REMOTE, behind)).leaves_as(udp(REMOTE, HOST));
    director.change(|rules| rules.snat.push(snat(1024..=65_535)));
    assert_eq!(in_use(&director), [1]);
    let elsewhere = vec!["192.168.1.101".parse().unwrap()];
    director.change(|rules| rules.snat[0].to = elsewhere);
    assert_eq!(in_use(&director), [0]);
    director.inside(udp(HOST, REMOTE)).leaves_as(udp(behind, REMOTE));
    director.wait(Duration::from_secs(300) + SLACK);
    director.inside(udp(HOST, REMOTE)).leaves_as(udp("192.168.1.101:50000", REMOTE));
    assert_eq!(in_use(&director), [1]);
}

#[test]
fn fragments_follow_connections_that_no_rule_names() {
    let behind = "192.168.1.100:50000";
    let mut director = Director::new(&[over_udp(rr(VIP, &[RS1]))], &[snat(1024..=65_535)]);
    director.inside(udp(HOST, REMOTE)).leaves_as(udp(behind, REMOTE));
    director.outside(udp(CLIENT, VIP)).leaves_as(udp(CLIENT, RS1));
    director.inside(udp(RS1, CLIENT)).leaves_as(udp(VIP, CLIENT));
    director.change(|rules| {
        rules.services.clear();
        rules.snat.clear();
    });
    for (side, src, dst) in [
        (Side::Inside, HOST, REMOTE),
        (Side::Outside, REMOTE, behind),
        (Side::Outside, CLIENT, VIP),
        (Side::Inside, RS1, CLIENT),
    ] {
        let whole = udp(src, dst).payload([7; 64]);
        for part in [0..40, 40..72] {
            let outcome = director.receive(side, whole.part(part).into());
            assert!(matches!(outcome.verdict, Verdict::Translate(_)), "{src} to {dst}");
        }
    }
}

#[test]
fn fragments_of_a_service_that_is_gone_are_not_counted_for_another_one() {
    // No connection keeps the number of a one-packet service.
    let service = VirtualService { one_packet: true, ..over_udp(rr(VIP, &[RS1])) };
    let mut director = Director::new(&[service], &[]);
    let (arrives, leaves) = (udp(CLIENT, VIP).payload([7; 64]), udp(CLIENT, RS1).payload([7; 64]));
    let in_packets = |director: &Director| director.service(0).traffic.in_packets;
    for (counted, part) in [(1, 0..24), (2, 24..40)] {
        director.outside(arrives.part(part.clone())).leaves_as(leaves.part(part));
        assert_eq!(in_packets(&director), counted);
    }
    director.change(|rules| rules.services.clear());
    director.change(|rules| rules.services.push(over_udp(rr(OTHER_VIP, &[RS1])).into()));
    assert_eq!(numbers(&director)[0].0, 0, "the number is another service's now");
    director.outside(arrives.part(40..72)).leaves_as(leaves.part(40..72));
    assert_eq!(in_packets(&director), 0);
}

#[test]
fn clients_keep_their_servers_over_a_change_but_not_over_another_mask() {
    let timeout = Duration::from_secs(300);
    let keeping = |prefix_len| Some(Persistence { timeout, prefix_len });
    let service = VirtualService { persistence: keeping(32), ..rr(VIP, &[RS1, RS2]) };
    let mut director = Director::new(&[service], &[]);
    let kept = |director: &Director| {
        let kept = director.engine().rules().kept_servers(director.now());
        kept.map(|(_, _, server)| server.0).collect::<Vec<_>>()
    };
    director.handshake(&client(1), VIP, RS1);
    director.change(|rules| edit(rules, 0).servers.insert(0, real(RS3, 1)));
    director.handshake(&client(2), VIP, RS1);
    remove_server(&mut director, 1);
    assert_eq!(kept(&director), [0], "it lives, and may come back");
    director.change(|rules| edit(rules, 0).servers.push(real(RS1, 1)));
    director.handshake(&client(3), VIP, RS1);
    director.change(|rules| edit(rules, 0).persistence = keeping(24));
    assert_eq!(kept(&director), [0u32; 0]);
}

#[test]
fn a_client_does_not_keep_who_got_its_servers_number() {
    let timeout = Duration::from_secs(3000);
    let persistence = Some(Persistence { timeout, prefix_len: 32 });
    let service = VirtualService { persistence, ..rr(VIP, &[RS1, RS2]) };
    let mut director = Director::new(&[service], &[]);
    director.handshake(&client(1), VIP, RS1);
    remove_server(&mut director, 0);
    director.wait(Duration::from_secs(900) + SLACK);
    director.change(|rules| edit(rules, 0).servers.push(real(RS3, 1)));
    assert_eq!(numbers(&director), [(0, vec![1, 0])]);
    assert_eq!(director.engine().rules().persistent_clients(), 0);
    director.handshake(&client(2), VIP, RS2);
}

#[test]
fn a_threshold_that_changes_counts_at_once() {
    let mut director = Director::new(&[rr(VIP, &[RS1])], &[]);
    director.handshake(&client(1), VIP, RS1);
    director.handshake(&client(2), VIP, RS1);
    let limit = |director: &mut Director, limit| {
        director.change(|rules| edit(rules, 0).servers[0].upper_threshold = limit);
    };
    limit(&mut director, 2);
    director.outside(tcp(&client(3), VIP).syn()).is_answered_by(Reply::Reset);
    limit(&mut director, 9);
    director.handshake(&client(3), VIP, RS1);
    limit(&mut director, 1);
    limit(&mut director, 0);
    director.handshake(&client(4), VIP, RS1);
}

#[test]
fn what_maglev_hashing_moves_is_told() {
    let service = VirtualService { scheduler: Scheduler::Maglev, ..rr(VIP, &[RS1, RS2, RS3]) };
    let mut director = Director::new(&[service, rr(OTHER_VIP, &[RS1, RS2])], &[]);
    assert_eq!(director.change(|_| ()), []);
    assert_eq!(director.change(|rules| edit(rules, 1).servers.clear()), []);
    let [moved] = director.change(|rules| edit(rules, 0).servers[0].weight = 0)[..] else {
        panic!("one table was filled anew");
    };
    assert!((0.33..0.36).contains(&moved.moved), "{moved:?}");
}

/// Changes what is known of the first service's first server without new rules.
fn first_server(director: &Director) -> &ServerShared {
    let (_, _, servers) = director.engine().rules().services().next().expect("a service");
    servers[0].shared()
}

#[test]
fn a_client_that_gets_no_answer_leaves_a_server_that_is_gone_at_once() {
    let gone: [fn(&mut Director); 3] = [
        |director| {
            director.change(|rules| {
                edit(rules, 0).servers.remove(0);
            });
        },
        |director| first_server(director).set_health(Health::Down),
        |director| first_server(director).set_admin(AdminState::Disabled),
    ];
    for goes in gone {
        let mut web = Director::new(&[rr(VIP, &[RS1, RS2])], &[]);
        web.outside(tcp(CLIENT, VIP).syn()).leaves_as(tcp(CLIENT, RS1).syn());
        goes(&mut web);
        web.outside(tcp(CLIENT, VIP).syn().ttl(1)).is_answered_by(Reply::TimeExceeded);
        web.outside(tcp(CLIENT, VIP).syn()).leaves_as(tcp(CLIENT, RS2).syn());
        let expected = EngineCounters { opened: 2, rescheduled: 1, ..Default::default() };
        assert_eq!((web.counters(), web.connections().len()), (expected, 1));

        let mut log = Director::new(&[over_udp(rr(VIP, &[RS1, RS2]))], &[]);
        log.outside(udp(CLIENT, VIP)).leaves_as(udp(CLIENT, RS1));
        goes(&mut log);
        log.outside(udp(CLIENT, VIP)).leaves_as(udp(CLIENT, RS2));
    }
}

#[test]
fn a_client_that_gets_no_answer_leaves_a_draining_server_after_the_timeout() {
    let draining: [fn(&mut Director); 2] = [
        |director| director.set_weight(0, 0),
        |director| first_server(director).set_admin(AdminState::Draining),
    ];
    for drains in draining {
        let mut web = Director::new(&[rr(VIP, &[RS1, RS2])], &[]);
        let mut log = Director::new(&[over_udp(rr(VIP, &[RS1, RS2]))], &[]);
        web.outside(tcp(CLIENT, VIP).syn()).leaves_as(tcp(CLIENT, RS1).syn());
        log.outside(udp(CLIENT, VIP)).leaves_as(udp(CLIENT, RS1));
        drains(&mut web);
        drains(&mut log);
        for _ in 0..2 {
            web.wait_seconds(25);
            web.outside(tcp(CLIENT, VIP).syn()).leaves_as(tcp(CLIENT, RS1).syn());
            log.wait_seconds(13);
            log.outside(udp(CLIENT, VIP)).leaves_as(udp(CLIENT, RS1));
        }
        web.wait(Duration::from_secs(10) + SLACK);
        web.outside(tcp(CLIENT, VIP).syn()).leaves_as(tcp(CLIENT, RS2).syn());
        log.wait(Duration::from_secs(4) + SLACK);
        log.outside(udp(CLIENT, VIP)).leaves_as(udp(CLIENT, RS2));
    }
}

#[test]
fn a_client_that_was_answered_stays_with_its_server() {
    let mut director = Director::new(&[rr(VIP, &[RS1, RS2]), over_udp(rr(VIP, &[RS1, RS2]))], &[]);
    director.outside(tcp(CLIENT, VIP).syn()).leaves_as(tcp(CLIENT, RS1).syn());
    director.inside(tcp(RS1, CLIENT).syn().ack(1)).leaves_as(tcp(VIP, CLIENT).syn().ack(1));
    director.outside(udp(CLIENT, VIP)).leaves_as(udp(CLIENT, RS1));
    director.inside(udp(RS1, CLIENT)).leaves_as(udp(VIP, CLIENT));
    director.change(|rules| {
        edit(rules, 0).servers.remove(0);
        edit(rules, 1).servers.remove(0);
    });
    for _ in 0..3 {
        director.wait_seconds(50);
        director.outside(tcp(CLIENT, VIP).syn()).leaves_as(tcp(CLIENT, RS1).syn());
        director.outside(udp(CLIENT, VIP)).leaves_as(udp(CLIENT, RS1));
    }
}
