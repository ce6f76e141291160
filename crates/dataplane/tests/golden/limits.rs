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
        .run();
}

#[test]
fn packets_that_wait_in_all() {
    let hosts = 1..=40;
    let mut case = Case::new("512 packets wait; a neighbour for which none may isn't asked for");
    for host in hosts.clone() {
        for id in 0..16 {
            case = case.arrives(CLIENT.sends(fragment(host, id)));
        }
    }
    let ask_all = |mut case: Case| {
        for host in hosts.clone().take(32) {
            case = case.leaves(asks(host));
        }
        case.in_any_order()
    };
    case = ask_all(case);
    case = ask_all(case.after_millis(1000));
    case = ask_all(case.after_millis(1000));
    case.after_millis(1000)
        .mbufs(1023)
        .drops(DropReason::NeighbourQueueFull, 8 * 16)
        .drops(DropReason::HostUnreachable, 512)
        .pipeline(requests(3 * 32))
        .alone()
        .run();
}

#[test]
fn packets_that_wait_when_it_ends() {
    let mut case = Case::new("what still waits when the director stops goes back to the pool");
    for id in 0..5 {
        case = case.arrives(CLIENT.sends(fragment(50, id)));
    }
    case.leaves(asks(50)).held(5).pipeline(requests(1)).run();
}

#[test]
fn a_pool_that_is_empty() {
    let mut case =
        Case::new("no mbuf to ask with, none to receive into: counted, and all come back");
    // The last burst takes the last of 256 mbufs, so that the two hosts in it aren't asked for.
    for host in 1..=16 {
        for id in 0..16 {
            case = case.arrives(CLIENT.sends(fragment(host, id)));
        }
    }
    for host in 1..=14 {
        case = case.leaves(asks(host));
    }
    case.after_millis(0)
        .arrives(CLIENT.sends(fragment(99, 0)))
        .after_millis(1000)
        .after_millis(1000)
        .after_millis(1000)
        .lost_by_device(1)
        .drops(DropReason::NoMbuf, 2 + 16 + 16)
        .drops(DropReason::HostUnreachable, 256)
        .pipeline(requests(14))
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
