//! What is bounded: packets that wait, and mbufs.

use shunt_dataplane::{DropReason, PipelineCounters};
use shunt_nat::{EngineCounters, Side};
use shunt_testkit::{Packet, mac};

use crate::{
    case::Case,
    network::{CLIENT, Frame, Host, director_asks},
};

fn inside_host(n: u8) -> String {
    format!("192.168.2.{n}")
}

/// A fragment to an inside host. No ICMP error is sent about it (RFC 1122), as it isn't the first.
fn fragment(host: u8, id: u16) -> Packet {
    Packet::raw(CLIENT.address, &inside_host(host), 47).payload([7; 8]).fragment(9, false).id(id)
}

fn asks(host: u8) -> Frame {
    director_asks(Side::Inside, &inside_host(host))
}

fn requests(arp_requests: u64) -> PipelineCounters {
    PipelineCounters { arp_requests, ..PipelineCounters::default() }
}

#[test]
fn packets_that_wait_for_one_neighbour() {
    let late = Host { side: Side::Inside, mac: mac(50), address: "192.168.2.50" };
    let mut case = Case::new("sixteen packets wait; the oldest give way to the latest");
    for id in 0..19 {
        case = case.arrives(CLIENT.sends(fragment(50, id)));
    }
    case = case.leaves(asks(50)).arrives(late.answers());
    for id in 3..19 {
        case = case.leaves(late.gets(fragment(50, id).ttl(63)));
    }
    case.drops(DropReason::NeighbourQueueFull, 3)
        .pipeline(PipelineCounters { arp_learned: 1, ..requests(1) })
        .opens(1)
        .run();
}

#[test]
fn packets_that_wait_in_all() {
    let hosts = 1..=40;
    let mut case = Case::new("192 packets wait for hosts like any other; the oldest give way");
    for host in hosts.clone() {
        for id in 0..16 {
            case = case.arrives(CLIENT.sends(fragment(host, id)));
        }
    }
    let ask = |mut case: Case, hosts: std::ops::RangeInclusive<u8>| {
        for host in hosts {
            case = case.leaves(asks(host));
        }
        case.in_any_order()
    };
    case = ask(case, hosts);
    // Nobody waits for the others any more.
    case = ask(case.after_millis(1000), 29..=40);
    case = ask(case.after_millis(1000), 29..=40);
    case.after_millis(1000)
        .after_millis(10)
        .after_millis(10)
        .mbufs(1023)
        .drops(DropReason::NeighbourQueueFull, (40 - 12) * 16)
        .drops(DropReason::HostUnreachable, 12 * 16)
        .pipeline(requests(40 + 2 * 12))
        .opens(40)
        .alone()
        .run();
}

#[test]
fn a_scan_of_a_network() {
    let mut case =
        Case::new("64 neighbours are asked for at the bidding of one host, and 64 a second");
    for host in 1..=120 {
        case = case.arrives(CLIENT.sends(fragment(host, 0)));
    }
    for host in 1..=64 {
        case = case.leaves(asks(host));
    }
    let other =
        Packet::raw("192.168.1.201", &inside_host(130), 47).payload([7; 8]).fragment(9, false);
    case.after_millis(250)
        .arrives(Host { address: "192.168.1.201", ..CLIENT }.sends(other))
        .leaves(asks(130))
        .after_millis(250)
        .arrives(CLIENT.sends(fragment(131, 0)))
        .leaves(asks(131))
        .drops(DropReason::NeighbourQueueFull, 120 - 64)
        .pipeline(requests(64 + 2))
        .opens(120 + 2)
        .held(64 + 2)
        .alone()
        .run();
}

#[test]
fn packets_that_wait_when_it_ends() {
    let mut case = Case::new("what still waits when the director stops goes back to the pool");
    for id in 0..5 {
        case = case.arrives(CLIENT.sends(fragment(50, id)));
    }
    case.leaves(asks(50)).held(5).pipeline(requests(1)).opens(1).run();
}

#[test]
fn a_pool_that_is_empty() {
    let mut case =
        Case::new("no mbuf to ask with, none to receive into: counted, and all come back");
    // The last burst takes the last of 128 mbufs, so that the two hosts in it aren't asked for.
    for host in 1..=8 {
        for id in 0..16 {
            case = case.arrives(CLIENT.sends(fragment(host, id)));
        }
    }
    for host in 1..=6 {
        case = case.leaves(asks(host));
    }
    case.after_millis(0)
        .arrives(CLIENT.sends(fragment(99, 0)))
        .after_millis(1000)
        .after_millis(1000)
        .after_millis(1000)
        .after_millis(10)
        .mbufs(128)
        .lost_by_device(1)
        .opens(8)
        .drops(DropReason::NoMbuf, 2 + 8 + 8)
        .drops(DropReason::HostUnreachable, 128)
        .pipeline(requests(6))
        .alone()
        .run();
}

#[test]
fn a_table_that_is_full() {
    let mut case = Case::new("1024 connections; half-open ones make room for new ones");
    for port in 0..1100 {
        let client = format!("192.168.1.200:{}", 4000 + port);
        case = case.arrives(CLIENT.sends(Packet::tcp(&client, "192.168.1.100:80").syn()));
    }
    let engine = EngineCounters { opened: 1100, evicted: 1100 - 1024, ..EngineCounters::default() };
    let outcome = case.leaves_anything().engine(engine).run();
    assert_eq!(outcome.report.connections, 1024);
}
