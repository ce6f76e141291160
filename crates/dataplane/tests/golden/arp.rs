//! ARP: who is answered, who is asked, and what waits meanwhile.

use shunt_dataplane::{DropReason, PipelineCounters};
use shunt_nat::Side;
use shunt_testkit::{Packet, arp_reply, arp_request, mac};

use crate::{
    case::Case,
    icmp_errors::host_unreachable,
    network::{
        CLIENT, DIP, Frame, GATEWAY, Host, OTHER_VIP, OUTSIDE_MAC, ROUTER, RS1, RS2, SNAT_ADDRESS,
        VIP, director_announces, director_asks,
    },
};

const NEWCOMER: Host = Host { side: Side::Inside, mac: mac(50), address: "192.168.2.50" };

fn requests(arp_requests: u64) -> PipelineCounters {
    PipelineCounters { arp_requests, ..PipelineCounters::default() }
}

fn ping(seq: u16) -> Packet {
    Packet::echo_request(CLIENT.address, NEWCOMER.address, 7, seq)
}

#[test]
fn the_start() {
    let announce = |mut case: Case| {
        for address in [VIP, OTHER_VIP, SNAT_ADDRESS] {
            case = case.leaves(director_announces(Side::Outside, address));
        }
        case.leaves(director_announces(Side::Inside, DIP)).in_any_order()
    };
    let ask = |mut case: Case| {
        for host in [&GATEWAY, &RS1, &RS2, &ROUTER] {
            case = case.leaves(director_asks(host.side, host.address));
        }
        case.in_any_order()
    };
    let case = Case::new(
        "addresses are announced twice; gateways and servers asked for, ever more seldom",
    );
    let case = ask(announce(case.cold()));
    let case = ask(case.after_millis(1000));
    let case = ask(announce(case.after_millis(1000)));
    let case = case.after_millis(1000);
    let case = ask(case.after_millis(4000));
    let case = case.after_millis(9900);
    let case = ask(case.after_millis(100));
    case.pipeline(requests(2 * 4 + 5 * 4)).run();
}

#[test]
fn who_is_answered() {
    Case::new("a port answers for its own address; the outside for VIPs and SNAT addresses too")
        .arrives(CLIENT.asks_for(VIP))
        .arrives(CLIENT.asks_for(OTHER_VIP))
        .arrives(CLIENT.asks_for(SNAT_ADDRESS))
        .arrives(RS1.asks_for(DIP))
        .leaves(CLIENT.is_told_of(VIP))
        .leaves(CLIENT.is_told_of(OTHER_VIP))
        .leaves(CLIENT.is_told_of(SNAT_ADDRESS))
        .leaves(RS1.is_told_of(DIP))
        .pipeline(PipelineCounters { arp_replies: 4, ..PipelineCounters::default() })
        .run();
}

#[test]
fn who_is_not_answered() {
    let stranger = Host { address: "192.0.2.7", ..CLIENT };
    let group = Host { mac: [3, 0, 0, 0, 0, 9], address: "192.168.1.66", ..CLIENT };
    Case::new("addresses of the other side and of others; askers that can't be neighbours")
        .arrives(CLIENT.asks_for(DIP))
        .arrives(CLIENT.asks_for("192.168.1.77"))
        .arrives(stranger.asks_for(VIP))
        .arrives(group.asks_for(VIP))
        .arrives(RS1.asks_for(VIP))
        .arrives(RS1.asks_for(OTHER_VIP))
        .arrives(RS1.asks_for(SNAT_ADDRESS))
        .drops(DropReason::ArpNotForUs, 7)
        .run();
}

#[test]
fn a_request_to_us_alone() {
    Case::new("a neighbour makes sure that we are still there")
        .arrives(CLIENT.asks_for(VIP).with(|bytes| bytes[..6].copy_from_slice(&OUTSIDE_MAC)))
        .leaves(CLIENT.is_told_of(VIP))
        .pipeline(PipelineCounters { arp_replies: 1, ..PipelineCounters::default() })
        .run();
}

#[test]
fn a_probe() {
    let asker = Host { side: Side::Outside, mac: mac(60), address: "0.0.0.0" };
    Case::new("somebody who has no address yet wants ours (RFC 5227), or another")
        .arrives(asker.asks_for(VIP))
        .arrives(asker.asks_for("192.168.1.77"))
        .leaves(asker.is_told_of(VIP))
        .drops(DropReason::ArpNotForUs, 1)
        .pipeline(PipelineCounters { arp_replies: 1, ..PipelineCounters::default() })
        .run();
}

#[test]
fn a_conflict() {
    let thief = |bytes| Frame { side: Side::Outside, bytes };
    Case::new("another machine claims an address of ours: it is not believed, and counted")
        .arrives(thief(arp_request(mac(66), VIP, VIP)))
        .arrives(thief(arp_request(mac(66), OTHER_VIP, CLIENT.address)))
        .arrives(thief(arp_reply(mac(66), SNAT_ADDRESS, OUTSIDE_MAC, VIP)))
        .drops(DropReason::AddressConflict, 3)
        .run();
}

#[test]
fn a_neighbour_is_resolved() {
    Case::new("packets wait for the answer, and leave in their order; those behind don't wait")
        .arrives(CLIENT.sends(ping(1)))
        .arrives(CLIENT.sends(ping(2)))
        .leaves(director_asks(Side::Inside, NEWCOMER.address))
        .after_millis(900)
        .arrives(CLIENT.sends(ping(3)))
        .after_millis(10)
        .arrives(NEWCOMER.answers())
        .leaves(NEWCOMER.gets(ping(1).ttl(63)))
        .leaves(NEWCOMER.gets(ping(2).ttl(63)))
        .leaves(NEWCOMER.gets(ping(3).ttl(63)))
        .arrives(CLIENT.sends(ping(4)))
        .leaves(NEWCOMER.gets(ping(4).ttl(63)))
        .pipeline(PipelineCounters {
            arp_requests: 1,
            arp_learned: 1,
            ..PipelineCounters::default()
        })
        .opens(1)
        .run();
}

#[test]
fn a_neighbour_that_asks_first() {
    Case::new("whoever asks for us is known, and gets what waited for it")
        .arrives(CLIENT.sends(ping(1)))
        .leaves(director_asks(Side::Inside, NEWCOMER.address))
        .arrives(NEWCOMER.asks_for(DIP))
        .leaves(NEWCOMER.gets(ping(1).ttl(63)))
        .leaves(NEWCOMER.is_told_of(DIP))
        .pipeline(PipelineCounters {
            arp_requests: 1,
            arp_replies: 1,
            ..PipelineCounters::default()
        })
        .opens(1)
        .run();
}

#[test]
fn a_neighbour_that_never_answers() {
    let asks = || director_asks(Side::Inside, NEWCOMER.address);
    let unreachable =
        |seq| Packet::icmp(VIP, CLIENT.address, host_unreachable()).payload(ping(seq).bytes());
    Case::new("three requests a second apart, then the senders are told; the next starts afresh")
        .arrives(CLIENT.sends(ping(1)))
        .arrives(CLIENT.sends(ping(2)))
        .leaves(asks())
        .after_millis(900)
        .after_millis(100)
        .leaves(asks())
        .after_millis(1000)
        .leaves(asks())
        .after_millis(1000)
        .leaves(CLIENT.gets(unreachable(1)))
        .leaves(CLIENT.gets(unreachable(2)))
        .after_millis(1000)
        .arrives(CLIENT.sends(ping(3)))
        .leaves(asks())
        .drops(DropReason::HostUnreachable, 2)
        .pipeline(PipelineCounters {
            arp_requests: 4,
            icmp_errors: 2,
            ..PipelineCounters::default()
        })
        .held(1)
        .opens(1)
        .run();
}

#[test]
fn a_neighbour_is_confirmed() {
    let gre = |src| Packet::raw(src, CLIENT.address, 47);
    Case::new("after 30 s, those in use and those pinned are asked, each alone")
        .after_millis(29_900)
        .arrives(RS1.sends(gre(RS1.address)))
        .leaves(CLIENT.gets(gre("192.168.1.160").ttl(63)))
        .opens(1)
        .after_millis(100)
        .leaves(CLIENT.is_asked())
        .leaves(GATEWAY.is_asked())
        .leaves(RS1.is_asked())
        .leaves(RS2.is_asked())
        .leaves(ROUTER.is_asked())
        .in_any_order()
        .arrives(CLIENT.answers())
        .arrives(GATEWAY.answers())
        .arrives(RS1.answers())
        .arrives(ROUTER.answers())
        .after_millis(1000)
        .leaves(RS2.is_asked())
        .pipeline(PipelineCounters {
            arp_requests: 6,
            arp_learned: 4,
            ..PipelineCounters::default()
        })
        .run();
}

#[test]
fn an_idle_neighbour_is_left_alone() {
    Case::new("nobody talks to the client: it is not asked; those pinned are")
        .after_millis(30_000)
        .leaves(GATEWAY.is_asked())
        .leaves(RS1.is_asked())
        .leaves(RS2.is_asked())
        .leaves(ROUTER.is_asked())
        .in_any_order()
        .pipeline(requests(4))
        .run();
}

#[test]
fn a_neighbour_that_moves() {
    let moved = Host { mac: mac(99), ..RS1 };
    let ping = || Packet::echo_request(CLIENT.address, RS1.address, 7, 1);
    Case::new("a server's address moves to another machine, which says so to all (gratuitous ARP)")
        .arrives(CLIENT.sends(ping()))
        .leaves(RS1.gets(ping().ttl(63)))
        .arrives(moved.asks_for(RS1.address))
        .after_millis(0)
        .arrives(CLIENT.sends(ping()))
        .leaves(moved.gets(ping().ttl(63)))
        .drops(DropReason::ArpNotForUs, 1)
        .opens(1)
        .run();
}

#[test]
fn a_neighbour_that_moves_in_silence() {
    let moved = Host { mac: mac(99), ..RS1 };
    let others = |case: Case| {
        let pinned = [&GATEWAY, &RS2, &ROUTER];
        let case = pinned.iter().fold(case, |case, host| case.leaves(host.is_asked()));
        pinned.iter().fold(case.in_any_order(), |case, host| case.arrives(host.answers()))
    };
    let ping = |seq| Packet::echo_request(CLIENT.address, RS1.address, 7, seq);
    let case = Case::new(
        "three requests to the machine that had it, then one to all, for which packets wait",
    );
    others(case.after_millis(30_000).leaves(RS1.is_asked()))
        .after_millis(1000)
        .leaves(RS1.is_asked())
        .after_millis(1000)
        .leaves(RS1.is_asked())
        .arrives(CLIENT.sends(ping(1)))
        .leaves(RS1.gets(ping(1).ttl(63)))
        .after_millis(1000)
        .leaves(director_asks(Side::Inside, RS1.address))
        .arrives(CLIENT.sends(ping(2)))
        .arrives(moved.answers())
        .leaves(moved.gets(ping(2).ttl(63)))
        .pipeline(PipelineCounters {
            arp_requests: 7,
            arp_learned: 4,
            ..PipelineCounters::default()
        })
        .opens(1)
        .run();
}

#[test]
fn strangers_are_not_noted() {
    Case::new("what a host tells others is not remembered: it has to be asked for")
        .arrives(NEWCOMER.asks_for(RS1.address))
        .arrives(NEWCOMER.asks_for(NEWCOMER.address))
        .after_millis(0)
        .arrives(CLIENT.sends(ping(1)))
        .leaves(director_asks(Side::Inside, NEWCOMER.address))
        .drops(DropReason::ArpNotForUs, 2)
        .pipeline(requests(1))
        .held(1)
        .opens(1)
        .run();
}
