//! Outbound SNAT, and what must not be taken for it.

use shunt_dataplane::{DropReason, PipelineCounters};
use shunt_testkit::Packet;

use crate::{
    case::Case,
    network::{CLIENT, GATEWAY, RS1, RS2, SNAT_ADDRESS},
};

#[test]
fn tcp_both_ways() {
    let (host, remote) = ("192.168.2.210:5000", "192.168.1.200:80");
    let outside = "192.168.1.160:40000";
    Case::new("an inside host is seen as the SNAT address, and gets its answers")
        .arrives(RS1.sends(Packet::tcp(host, remote).syn()))
        .leaves(CLIENT.gets(Packet::tcp(outside, remote).syn().ttl(63)))
        .arrives(CLIENT.sends(Packet::tcp(remote, outside).syn().ack(1001)))
        .leaves(RS1.gets(Packet::tcp(remote, host).syn().ack(1001).ttl(63)))
        .arrives(RS1.sends(Packet::tcp(host, remote).ack(1).payload("odd")))
        .leaves(CLIENT.gets(Packet::tcp(outside, remote).ack(1).payload("odd").ttl(63)))
        .opens(1)
        .run();
}

#[test]
fn udp_through_the_gateway() {
    let (host, remote) = ("192.168.2.210:40001", "203.0.113.9:123");
    let outside = "192.168.1.160:40001";
    Case::new("a source port that the rule has is kept; the way out is the default route")
        .arrives(RS1.sends(Packet::udp(host, remote).payload("time?")))
        .leaves(GATEWAY.gets(Packet::udp(outside, remote).payload("time?").ttl(63)))
        .arrives(GATEWAY.sends(Packet::udp(remote, outside).unchecksummed().payload("now")))
        .leaves(RS1.gets(Packet::udp(remote, host).unchecksummed().payload("now").ttl(63)))
        .opens(1)
        .run();
}

#[test]
fn ports_run_out() {
    let (remote, other) = ("203.0.113.9:123", "203.0.113.10:123");
    let host = |port| format!("192.168.2.220:{port}");
    Case::new("the rule has two ports: a third conversation with one remote endpoint has none")
        .arrives(RS2.sends(Packet::udp(&host(1), remote)))
        .arrives(RS2.sends(Packet::udp(&host(2), remote)))
        .arrives(RS2.sends(Packet::udp(&host(3), remote)))
        .arrives(RS2.sends(Packet::udp(&host(40000), other)))
        .leaves(GATEWAY.gets(Packet::udp("192.168.1.160:40000", remote).ttl(63)))
        .leaves(GATEWAY.gets(Packet::udp("192.168.1.160:40001", remote).ttl(63)))
        .leaves(GATEWAY.gets(Packet::udp("192.168.1.160:40000", other).ttl(63)))
        .drops(DropReason::SnatPortsExhausted, 1)
        .opens(3)
        .run();
}

#[test]
fn the_outside_dials_an_inside_host() {
    let (client, host) = ("192.168.1.200:4000", "192.168.2.210:22");
    Case::new("what the outside opens is not translated, nor are the answers to it")
        .arrives(CLIENT.sends(Packet::tcp(client, host).syn()))
        .leaves(RS1.gets(Packet::tcp(client, host).syn().ttl(63)))
        .arrives(RS1.sends(Packet::tcp(host, client).syn().ack(1001)))
        .leaves(CLIENT.gets(Packet::tcp(host, client).syn().ack(1001).ttl(63)))
        .opens(1)
        .run();
}

#[test]
fn the_outside_dials_the_snat_address() {
    let (client, nobody) = ("192.168.1.200:4000", "192.168.1.160:40000");
    Case::new("nobody listens behind the SNAT address")
        .arrives(CLIENT.sends(Packet::tcp(client, nobody).seq(7).syn()))
        .leaves(CLIENT.gets(Packet::tcp(nobody, client).seq(0).rst().ack(8).window(0)))
        .drops(DropReason::Refused, 1)
        .pipeline(PipelineCounters { resets: 1, ..PipelineCounters::default() })
        .run();
}

#[test]
fn fragments_from_an_inside_host() {
    let fragment = Packet::raw(RS1.address, CLIENT.address, 17).payload([1; 16]).fragment(8, false);
    let to_snat = Packet::raw(CLIENT.address, SNAT_ADDRESS, 17).payload([1; 16]).fragment(8, false);
    Case::new("a fragment that would have to be translated can't be")
        .arrives(RS1.sends(fragment))
        .arrives(CLIENT.sends(to_snat))
        .drops(DropReason::Fragment, 2)
        .run();
}
