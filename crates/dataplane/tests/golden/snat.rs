//! Outbound SNAT, and what must not be taken for it.

use shunt_dataplane::{DropReason, PipelineCounters};
use shunt_nat::{EngineCounters, PoolUsage};
use shunt_testkit::Packet;

use crate::{
    case::Case,
    icmp_errors::ttl_exceeded,
    network::{CLIENT, DIP, GATEWAY, ROUTER, RS1, RS2, SNAT_ADDRESS},
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
fn echoes() {
    let remote = "203.0.113.9";
    let ping = |src, id| Packet::echo_request(src, remote, id, 1).payload("ping!");
    let pong = |dst, id| Packet::echo_reply(remote, dst, id, 1).payload("ping!");
    Case::new("pings of two hosts, told apart by the identifiers that they leave with")
        .arrives(RS1.sends(ping(RS1.address, 7)))
        .arrives(RS2.sends(ping(RS2.address, 40001)))
        .leaves(GATEWAY.gets(ping(SNAT_ADDRESS, 40000).ttl(63)))
        .leaves(GATEWAY.gets(ping(SNAT_ADDRESS, 40001).ttl(63)))
        .arrives(GATEWAY.sends(pong(SNAT_ADDRESS, 40001)))
        .arrives(GATEWAY.sends(pong(SNAT_ADDRESS, 40000)))
        .leaves(RS2.gets(pong(RS2.address, 40001).ttl(63)))
        .leaves(RS1.gets(pong(RS1.address, 7).ttl(63)))
        .opens(2)
        .pools(&[(
            "snat 192.168.2.0/24",
            PoolUsage { endpoints: 2, in_use: 2, ..PoolUsage::default() },
        )])
        .run();
}

#[test]
fn an_echo_that_nobody_asked_for() {
    Case::new("an answer from outside, and one from inside")
        .arrives(GATEWAY.sends(Packet::echo_reply("203.0.113.9", SNAT_ADDRESS, 40000, 1)))
        .arrives(RS1.sends(Packet::echo_reply(RS1.address, "203.0.113.9", 7, 1)))
        .drops(DropReason::NotAnswered, 1)
        .drops(DropReason::UnknownConnection, 1)
        .run();
}

#[test]
fn traceroute() {
    let remote = "203.0.113.9";
    let ping = |src, id| Packet::echo_request(src, remote, id, 1).payload("ping!");
    let exceeded = |from, to, quote: Packet| {
        Packet::icmp(from, to, ttl_exceeded()).payload(quote.ttl(1).bytes())
    };
    let ours = ping(RS1.address, 7).ttl(1);
    let from_us = Packet::icmp(DIP, RS1.address, ttl_exceeded()).payload(ours.bytes());
    Case::new("the first hop is the director; the second one's answer quotes what the host sent")
        .arrives(RS1.sends(ours))
        .leaves(RS1.gets(from_us))
        .arrives(RS1.sends(ping(RS1.address, 7).ttl(2)))
        .leaves(GATEWAY.gets(ping(SNAT_ADDRESS, 40000).ttl(1)))
        .arrives(GATEWAY.sends(exceeded(GATEWAY.address, SNAT_ADDRESS, ping(SNAT_ADDRESS, 40000))))
        .leaves(RS1.gets(exceeded(GATEWAY.address, RS1.address, ping(RS1.address, 7)).ttl(63)))
        .drops(DropReason::TtlExpired, 1)
        .pipeline(PipelineCounters { icmp_errors: 1, ..PipelineCounters::default() })
        .engine(EngineCounters { opened: 1, icmp_errors: 1, ..EngineCounters::default() })
        .run();
}

/// Two addresses with one port each, for hosts behind the inside's router.
const TWO_ADDRESSES: &str = r#"
    [[route]]
    to = "default"
    via = "192.168.1.1"

    [[route]]
    to = "10.9.0.0/16"
    via = "192.168.2.254"

    [[snat]]
    from = "10.9.0.0/16"
    to = ["192.168.1.160", "192.168.1.161"]
    ports = "40000-40000"
"#;

#[test]
fn two_addresses() {
    let remote = "203.0.113.9:123";
    let (first, second) = ("192.168.1.160:40000", "192.168.1.161:40000");
    let sends = |host| ROUTER.sends(Packet::udp(host, remote));
    let seen = |outside| GATEWAY.gets(Packet::udp(outside, remote).ttl(63));
    let answer = |dst| Packet::udp(remote, dst).payload("odd");
    let usage = PoolUsage { endpoints: 2, in_use: 3, scarce: 0, exhausted: 1 };
    Case::new("hosts are spread over both; the other one helps out; then there is none")
        .rules(TWO_ADDRESSES)
        .arrives(sends("10.9.1.2:5000"))
        .arrives(sends("10.9.1.2:5001"))
        .arrives(sends("10.9.1.3:5000"))
        .arrives(ROUTER.sends(Packet::udp("10.9.1.3:5000", "203.0.113.10:123")))
        .leaves(seen(first))
        .leaves(seen(second))
        .leaves(GATEWAY.gets(Packet::udp(second, "203.0.113.10:123").ttl(63)))
        .arrives(GATEWAY.sends(answer(second)))
        .arrives(GATEWAY.sends(answer(first)))
        .leaves(ROUTER.gets(answer("10.9.1.2:5001").ttl(63)))
        .leaves(ROUTER.gets(answer("10.9.1.2:5000").ttl(63)))
        .drops(DropReason::SnatPortsExhausted, 1)
        .opens(3)
        .pools(&[("snat 10.9.0.0/16", usage)])
        .run();
}

#[test]
fn arp_for_two_addresses() {
    let other = "192.168.1.161";
    Case::new("the outside port answers for both")
        .rules(TWO_ADDRESSES)
        .arrives(CLIENT.asks_for(SNAT_ADDRESS))
        .arrives(CLIENT.asks_for(other))
        .arrives(RS1.asks_for(other))
        .leaves(CLIENT.is_told_of(SNAT_ADDRESS))
        .leaves(CLIENT.is_told_of(other))
        .drops(DropReason::ArpNotForUs, 1)
        .pipeline(PipelineCounters { arp_replies: 2, ..PipelineCounters::default() })
        .run();
}
