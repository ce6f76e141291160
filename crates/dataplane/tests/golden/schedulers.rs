//! Every scheduler, as a service file names it.

use std::collections::HashMap;

use shunt_dataplane::{DropReason, PipelineCounters};
use shunt_nat::Side;
use shunt_testkit::Packet;

use crate::{
    case::Case,
    network::{Frame, GATEWAY, RS1, RS2},
    stage::Outcome,
};

const HTTP: &str = "192.168.1.100:80";

fn case(scheduler: &str, [first, second]: [u16; 2]) -> Case {
    let servers = [format!("weight = {first}"), format!("weight = {second}")];
    with_flags(scheduler, &[], servers.each_ref().map(String::as_str))
}

fn with_flags(scheduler: &str, flags: &[&str], [first, second]: [&str; 2]) -> Case {
    Case::new(format!("{scheduler} {flags:?}")).rules(format!(
        r#"
        [[route]]
        to = "default"
        via = "192.168.1.1"

        [[service]]
        vip = "192.168.1.100:80"
        scheduler = "{scheduler}"
        scheduler-flags = {flags:?}
        server = [
            {{ address = "192.168.2.210", {first} }},
            {{ address = "192.168.2.220", {second} }},
        ]
        "#
    ))
}

/// The connections that both servers were given.
fn spread(outcome: &Outcome) -> [u64; 2] {
    let servers = &outcome.report.services[0].servers;
    [servers[0].1.connections, servers[1].1.connections]
}

#[test]
fn twelve_clients_that_stay() {
    // Schedulers, weights, and the connections that each server has in the end.
    let table: [(&[&str], _, &[[u64; 2]]); 8] = [
        (&["rr", "lc"], [1, 2], &[[6, 6]]),
        (&["wrr", "wlc", "sed", "nq"], [1, 2], &[[4, 8]]),
        (&["rr", "wrr", "lc", "wlc", "sed", "nq", "twos"], [1, 1], &[[6, 6]]),
        // As heavy as its connections, so that none has too many.
        (&["lblc", "lblcr"], [20, 20], &[[12, 0]]),
        (&["fo"], [1, 2], &[[0, 12]]),
        (&["ovf"], [4, 9], &[[3, 9]]),
        // There is but one virtual address.
        (&["dh"], [1, 1], &[[12, 0], [0, 12]]),
        (&["rr", "dh", "sh", "mh", "twos"], [1, 0], &[[12, 0]]),
    ];
    for (schedulers, weights, expected) in table {
        for scheduler in schedulers {
            let found = spread(&twelve_handshakes(case(scheduler, weights)).opens(12).run());
            assert!(expected.contains(&found), "{scheduler} {weights:?}: {found:?}");
        }
    }
}

/// Clients connect one after the other. Both servers answer each, and the one that has no connection with
/// the client is told so.
fn twelve_handshakes(mut case: Case) -> Case {
    for n in 1..=12 {
        let client = format!("203.0.113.{n}:4000");
        let answer = |server| Packet::tcp(server, &client).syn().ack(1001);
        case = case
            .after_millis(0)
            .arrives(GATEWAY.sends(Packet::tcp(&client, HTTP).syn()))
            .leaves_anything()
            .after_millis(0)
            .arrives(RS1.sends(answer("192.168.2.210:80")))
            .arrives(RS2.sends(answer("192.168.2.220:80")))
            .leaves_anything()
            .after_millis(0)
            .arrives(GATEWAY.sends(Packet::tcp(&client, HTTP).seq(1001).ack(1001)))
            .leaves_anything();
    }
    case.drops(DropReason::Refused, 12)
        .pipeline(PipelineCounters { resets: 12, ..PipelineCounters::default() })
}

#[test]
fn a_client_hashes_to_one_server() {
    for scheduler in ["sh", "mh"] {
        let mut case = case(scheduler, [1, 1]);
        for port in [4000, 4001] {
            for n in 0..60 {
                let client = format!("203.0.113.{n}:{port}");
                case = case.arrives(GATEWAY.sends(Packet::tcp(&client, HTTP).syn()));
            }
        }
        let outcome = case.leaves_anything().opens(120).run();

        let syns: Vec<_> = outcome.departures.iter().flatten().filter_map(endpoints).collect();
        assert_eq!(syns.len(), 120, "{scheduler}");
        let mut servers = HashMap::new();
        for (client, server) in syns {
            assert_eq!(*servers.entry(client).or_insert(server), server, "{scheduler}: {client:?}");
        }
        // All 60 on one side of a fair coin: once in 10^17 times.
        assert!(spread(&outcome).iter().all(|connections| *connections > 0), "{scheduler}");
    }
}

#[test]
fn the_flag_port() {
    for (scheduler, flag) in [("sh", "sh-port"), ("mh", "mh-port")] {
        let mut case = with_flags(scheduler, &[flag], ["weight = 1", "weight = 1"]);
        for port in 4000..4060 {
            let client = format!("203.0.113.1:{port}");
            case = case.arrives(GATEWAY.sends(Packet::tcp(&client, HTTP).syn()));
        }
        let found = spread(&case.leaves_anything().opens(60).run());
        assert!(found.iter().all(|connections| *connections > 0), "{flag}: {found:?}");
    }
}

#[test]
fn the_flag_fallback() {
    for (scheduler, flag, expected) in [
        ("sh", Some("sh-fallback"), &[[1, 1]][..]),
        ("mh", Some("mh-fallback"), &[[1, 1]]),
        ("sh", None, &[[1, 0], [0, 1]]),
        ("mh", None, &[[1, 0], [0, 1]]),
    ] {
        let opened = if flag.is_some() { 2 } else { 1 };
        let mut case = with_flags(scheduler, flag.as_slice(), ["upper = 1", "upper = 1"]);
        for port in 4000..4003 {
            let client = format!("203.0.113.1:{port}");
            case = case.arrives(GATEWAY.sends(Packet::tcp(&client, HTTP).syn()));
        }
        let refused = 3 - opened;
        let outcome = case
            .leaves_anything()
            .drops(DropReason::Refused, refused)
            .pipeline(PipelineCounters { resets: refused, ..PipelineCounters::default() })
            .opens(opened)
            .run();
        let found = spread(&outcome);
        assert!(expected.contains(&found), "{scheduler} {flag:?}: {found:?}");
    }
}

/// Source and destination address of an IPv4 packet to the inside.
fn endpoints(frame: &Frame) -> Option<([u8; 4], [u8; 4])> {
    let is_ipv4 = frame.bytes[12..14] == [8, 0];
    (frame.side == Side::Inside && is_ipv4).then(|| {
        let address = |at: usize| frame.bytes[at..at + 4].try_into().expect("four bytes");
        (address(26), address(30))
    })
}
