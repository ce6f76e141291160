//! The director as a plain router.

use shunt_dataplane::{DropReason, PipelineCounters};
use shunt_testkit::Packet;

use crate::{
    case::Case,
    icmp_errors::{net_unreachable, ttl_exceeded},
    network::{CLIENT, DIP, GATEWAY, ROUTER, RS1, VIP},
};

fn one_error() -> PipelineCounters {
    PipelineCounters { icmp_errors: 1, ..PipelineCounters::default() }
}

/// A host behind the inside's router, which no SNAT rule covers.
const FAR: &str = "10.9.1.2";

#[test]
fn both_ways() {
    let ping = || Packet::echo_request(CLIENT.address, RS1.address, 7, 1).payload("ping!");
    let pong = || Packet::echo_reply(RS1.address, CLIENT.address, 7, 1).payload("ping!");
    Case::new("a client pings a server through the director: one hop less to live, both ways")
        .arrives(CLIENT.sends(ping()))
        .leaves(RS1.gets(ping().ttl(63)))
        .arrives(RS1.sends(pong()))
        .leaves(CLIENT.gets(pong().ttl(63)))
        .opens(1)
        .run();
}

#[test]
fn through_gateways() {
    let far = "10.9.1.2:80";
    let remote = "203.0.113.9:5000";
    Case::new("static route inside, default route outside; TCP that concerns no rule")
        .arrives(GATEWAY.sends(Packet::tcp(remote, far).syn()))
        .leaves(ROUTER.gets(Packet::tcp(remote, far).syn().ttl(63)))
        .arrives(ROUTER.sends(Packet::tcp(far, remote).syn().ack(1001).ttl(60)))
        .leaves(GATEWAY.gets(Packet::tcp(far, remote).syn().ack(1001).ttl(59)))
        .arrives(ROUTER.sends(Packet::udp("10.9.1.2:53", "203.0.113.9:53").payload("odd")))
        .leaves(GATEWAY.gets(Packet::udp("10.9.1.2:53", "203.0.113.9:53").payload("odd").ttl(63)))
        .run();
}

#[test]
fn out_of_the_port_it_came_in() {
    Case::new("a client that takes the director for its gateway is passed on to the real one")
        .arrives(CLIENT.sends(Packet::udp("192.168.1.200:9", "203.0.113.9:9")))
        .leaves(GATEWAY.gets(Packet::udp("192.168.1.200:9", "203.0.113.9:9").ttl(63)))
        .run();
}

#[test]
fn any_protocol_options_and_fragments() {
    let gre = || Packet::raw(CLIENT.address, FAR, 47).payload("anything");
    let options = || gre().options(&[0x94, 4, 0, 0, 1, 1, 1, 0]);
    let later = || Packet::raw(CLIENT.address, FAR, 17).payload([1; 24]).fragment(185, false);
    Case::new("a router looks at the IPv4 header alone")
        .arrives(CLIENT.sends(gre()))
        .arrives(CLIENT.sends(options()))
        .arrives(CLIENT.sends(later()))
        .leaves(ROUTER.gets(gre().ttl(63)))
        .leaves(ROUTER.gets(options().ttl(63)))
        .leaves(ROUTER.gets(later().ttl(63)))
        .run();
}

#[test]
fn a_wrong_transport_checksum_is_not_a_routers_business() {
    let corrupt = |bytes: &mut Vec<u8>| *bytes.last_mut().expect("data") ^= 0x40;
    let udp = || Packet::udp("192.168.1.200:9", "10.9.1.2:9").payload("data");
    Case::new("the ends find it out")
        .arrives(CLIENT.sends(udp()).with(corrupt))
        .leaves(ROUTER.gets(udp().ttl(63)).with(corrupt))
        .wrong_checksums()
        .run();
}

#[test]
fn padding_is_cut() {
    let tiny = || Packet::udp("192.168.1.200:9", "10.9.1.2:9").payload("x");
    Case::new("a short packet arrives padded to Ethernet's least and leaves without it")
        .arrives(CLIENT.sends(tiny()).with(|bytes| bytes.resize(60, 0xee)))
        .leaves(ROUTER.gets(tiny().ttl(63)))
        .run();
}

#[test]
fn the_last_hop() {
    for ttl in [0, 1] {
        let tired = Packet::echo_request(CLIENT.address, FAR, 7, 1).ttl(ttl).payload("ping");
        let exceeded = Packet::icmp(VIP, CLIENT.address, ttl_exceeded()).payload(tired.bytes());
        Case::new("a routed packet whose TTL runs out here; traceroute sees the director")
            .arrives(CLIENT.sends(tired))
            .leaves(CLIENT.gets(exceeded))
            .drops(DropReason::TtlExpired, 1)
            .pipeline(one_error())
            .run();
    }
    let tired = Packet::udp("192.168.2.210:9", "203.0.113.9:33434").ttl(1);
    let exceeded = Packet::icmp(DIP, RS1.address, ttl_exceeded()).payload(tired.bytes());
    Case::new("on the inside, the director is its inside address")
        .arrives(RS1.sends(tired))
        .leaves(RS1.gets(exceeded))
        .drops(DropReason::TtlExpired, 1)
        .pipeline(one_error())
        .run();
}

#[test]
fn nowhere_to_go() {
    let lost = Packet::udp("192.168.1.200:9", "203.0.113.9:9").payload([7; 600]);
    let unreachable =
        Packet::icmp(VIP, CLIENT.address, net_unreachable()).payload(lost.bytes()[..548].to_vec());
    Case::new("no default route; an error is 576 bytes at most")
        .rules("")
        .arrives(CLIENT.sends(lost))
        .leaves(CLIENT.gets(unreachable))
        .drops(DropReason::NoRoute, 1)
        .pipeline(one_error())
        .run();
    Case::new("nor a way back: the error about the packet is dropped as well")
        .rules("")
        .arrives(GATEWAY.sends(Packet::udp("203.0.113.9:9", "203.0.113.10:9")))
        .drops(DropReason::NoRoute, 2)
        .pipeline(one_error())
        .run();
}
