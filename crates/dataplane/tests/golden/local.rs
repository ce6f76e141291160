//! The director as a host: echo, and refusals.

use etherparse::Icmpv4Type;
use shunt_dataplane::{DropReason, PipelineCounters};
use shunt_testkit::Packet;

use crate::{
    case::Case,
    icmp_errors::{port_unreachable, protocol_unreachable, reassembly_time_exceeded},
    network::{CLIENT, DIP, GATEWAY, OTHER_VIP, ROUTER, RS1, RS2, SNAT_ADDRESS, VIP},
};

fn resets(resets: u64) -> PipelineCounters {
    PipelineCounters { resets, ..PipelineCounters::default() }
}

fn errors(icmp_errors: u64) -> PipelineCounters {
    PipelineCounters { icmp_errors, ..PipelineCounters::default() }
}

#[test]
fn echo_from_either_side() {
    let mut case =
        Case::new("every address of the director answers, on either side, with a fresh TTL");
    for own in [VIP, DIP, OTHER_VIP, SNAT_ADDRESS] {
        for host in [&CLIENT, &RS1] {
            let ping = Packet::echo_request(host.address, own, 7, 1).payload("odd");
            let pong = Packet::echo_reply(own, host.address, 7, 1).payload("odd");
            case = case.arrives(host.sends(ping.ttl(9).id(4))).leaves(host.gets(pong.id(4)));
        }
    }
    case.pipeline(PipelineCounters { echo_replies: 8, ..PipelineCounters::default() }).run();
}

#[test]
fn echo_from_afar() {
    let remote = "203.0.113.9";
    Case::new("a packet that has one hop left has arrived; the answer takes the way back")
        .arrives(GATEWAY.sends(Packet::echo_request(remote, VIP, 7, 1).ttl(1).payload([3; 1400])))
        .leaves(GATEWAY.gets(Packet::echo_reply(VIP, remote, 7, 1).payload([3; 1400])))
        .pipeline(PipelineCounters { echo_replies: 1, ..PipelineCounters::default() })
        .run();
}

#[test]
fn echo_with_a_wrong_checksum() {
    let corrupt = |bytes: &mut Vec<u8>| *bytes.last_mut().expect("data") ^= 0x40;
    let ping = Packet::echo_request(CLIENT.address, VIP, 7, 1).payload("ping");
    Case::new("a corrupted request is not answered")
        .arrives(CLIENT.sends(ping).with(corrupt))
        .drops(DropReason::IcmpChecksum, 1)
        .run();
}

#[test]
fn icmp_that_is_not_answered() {
    let timestamp = Icmpv4Type::Unknown { type_u8: 13, code_u8: 0, bytes5to8: [0, 7, 0, 1] };
    let routers = Icmpv4Type::Unknown { type_u8: 10, code_u8: 0, bytes5to8: [0; 4] };
    Case::new("an answer that nobody asked for, a timestamp request, a router solicitation")
        .arrives(CLIENT.sends(Packet::echo_reply(CLIENT.address, VIP, 7, 1)))
        .arrives(CLIENT.sends(Packet::icmp(CLIENT.address, VIP, timestamp).payload([0; 12])))
        .arrives(CLIENT.sends(Packet::icmp(CLIENT.address, VIP, routers)))
        .drops(DropReason::NotAnswered, 3)
        .run();
}

/// A ping of so many bytes in all, and its answer.
fn large(host: &str, own: &str, len: usize) -> (Packet, Packet) {
    let payload: Vec<u8> = (0..len - 8).map(|n| (n / 8) as u8).collect();
    let ping = Packet::echo_request(host, own, 7, 1).id(4).payload(payload.clone());
    (ping, Packet::echo_reply(own, host, 7, 1).id(4).dont_fragment(false).payload(payload))
}

#[test]
fn pings_in_fragments() {
    let counters = |echo_replies| PipelineCounters {
        echo_replies,
        fragmented: echo_replies,
        ..PipelineCounters::default()
    };
    let mut case =
        Case::new("a ping that is larger than the MTU is put together and answered likewise");
    for own in [VIP, DIP, OTHER_VIP, SNAT_ADDRESS] {
        let (ping, pong) = large(CLIENT.address, own, 3000);
        case = case
            .arrives(CLIENT.sends(ping.part(0..1480)))
            .arrives(CLIENT.sends(ping.part(1480..2960)))
            .arrives(CLIENT.sends(ping.part(2960..3000)))
            .leaves(CLIENT.gets(pong.part(0..1480)))
            .leaves(CLIENT.gets(pong.part(1480..2960)))
            .leaves(CLIENT.gets(pong.part(2960..3000)));
    }
    case.pipeline(counters(4)).run();

    let (ping, pong) = large(RS1.address, DIP, 65_515);
    let parts = |size: usize| (0..65_515).step_by(size).map(move |at| at..65_515.min(at + size));
    let mut case = Case::new("the largest there is; as many as are held may come before the first");
    let mut arrivals: Vec<_> = parts(1376).collect();
    arrivals[..17].reverse();
    arrivals[17..].reverse();
    for part in arrivals {
        case = case.arrives(RS1.sends(ping.part(part)));
    }
    for part in parts(1376) {
        case = case.leaves(RS1.gets(pong.part(part)));
    }
    case.pipeline(counters(1)).run();
}

#[test]
fn fragments_that_are_not_answered() {
    let (ping, _) = large(CLIENT.address, VIP, 72);
    let (other, _) = large(RS1.address, DIP, 72);
    let corrupt = |bytes: &mut Vec<u8>| *bytes.last_mut().expect("data") ^= 0x40;
    let timestamp = Icmpv4Type::Unknown { type_u8: 13, code_u8: 0, bytes5to8: [0, 7, 0, 1] };
    let asked = Packet::icmp(CLIENT.address, VIP, timestamp).id(9).payload([0; 64]);
    let datagram = Packet::udp("192.168.2.210:4000", "192.168.2.200:99").payload([7; 64]);
    Case::new("corrupted ones, overlapping ones, other messages, and what is no ICMP")
        .arrives(CLIENT.sends(ping.part(0..32)))
        .arrives(CLIENT.sends(ping.part(32..72)).with(corrupt))
        .arrives(RS1.sends(other.part(0..32)))
        .arrives(RS1.sends(other.part(24..56)))
        .arrives(RS1.sends(other.part(32..72)))
        .arrives(CLIENT.sends(asked.part(0..32)))
        .arrives(CLIENT.sends(asked.part(32..72)))
        .arrives(RS1.sends(datagram.part(0..32)))
        .arrives(RS1.sends(datagram.part(32..72)))
        .drops(DropReason::IcmpChecksum, 1)
        .drops(DropReason::FragmentOverlap, 2)
        .drops(DropReason::NotAnswered, 1)
        .drops(DropReason::FragmentToUs, 2)
        .run();
}

#[test]
fn a_ping_that_is_never_complete() {
    let (ping, _) = large(CLIENT.address, DIP, 1000);
    let first = ping.part(0..600);
    let quoted = first.bytes()[..548].to_vec();
    let error = Packet::icmp(DIP, CLIENT.address, reassembly_time_exceeded()).payload(quoted);
    Case::new("after 30 s its sender is told (RFC 1122, section 3.3.2)")
        .arrives(CLIENT.sends(first))
        .after_millis(29_000)
        .arrives(CLIENT.answers())
        .arrives(GATEWAY.answers())
        .arrives(RS1.answers())
        .arrives(RS2.answers())
        .arrives(ROUTER.answers())
        .after_millis(1000)
        .leaves(CLIENT.gets(error))
        .drops(DropReason::FragmentTimeout, 1)
        .pipeline(PipelineCounters { arp_learned: 5, ..errors(1) })
        .run();
}

#[test]
fn a_port_without_a_service() {
    let (client, vip) = ("192.168.1.200:4000", "192.168.1.100:99");
    let (host, dip) = ("192.168.2.210:4000", "192.168.2.200:22");
    Case::new("TCP is reset: a SYN with what it has to be acknowledged")
        .arrives(CLIENT.sends(Packet::tcp(client, vip).seq(7).syn()))
        .arrives(CLIENT.sends(Packet::tcp(client, vip).seq(7).syn().payload("early")))
        .arrives(RS1.sends(Packet::tcp(host, dip).seq(u32::MAX).syn()))
        .leaves(CLIENT.gets(Packet::tcp(vip, client).seq(0).rst().ack(8).window(0)))
        .leaves(CLIENT.gets(Packet::tcp(vip, client).seq(0).rst().ack(13).window(0)))
        .leaves(RS1.gets(Packet::tcp(dip, host).seq(0).rst().ack(0).window(0)))
        .drops(DropReason::Refused, 3)
        .pipeline(resets(3))
        .run();
}

#[test]
fn in_mid_stream() {
    let (client, http) = ("192.168.1.200:4000", "192.168.1.100:80");
    let data = || Packet::tcp(client, http).seq(70).payload("GET");
    Case::new(
        "a segment of no connection is reset: it tells the sequence number itself, if it acks",
    )
    .arrives(CLIENT.sends(data().ack(500)))
    .arrives(CLIENT.sends(data().ack(501).fin()))
    .arrives(CLIENT.sends(data()))
    .arrives(CLIENT.sends(Packet::tcp(client, http).seq(70).syn().ack(500)))
    .leaves(CLIENT.gets(Packet::tcp(http, client).seq(500).rst().window(0)))
    .leaves(CLIENT.gets(Packet::tcp(http, client).seq(501).rst().window(0)))
    .leaves(CLIENT.gets(Packet::tcp(http, client).seq(0).rst().ack(73).window(0)))
    .leaves(CLIENT.gets(Packet::tcp(http, client).seq(500).rst().window(0)))
    .drops(DropReason::Refused, 4)
    .pipeline(resets(4))
    .run();
}

#[test]
fn udp_is_told_that_nobody_listens() {
    let mut case = Case::new("the error comes from the address that was asked");
    for own in [VIP, OTHER_VIP, SNAT_ADDRESS, DIP] {
        let datagram = Packet::udp("192.168.1.200:4000", &format!("{own}:99")).payload("?");
        let error = Packet::icmp(own, CLIENT.address, port_unreachable()).payload(datagram.bytes());
        case = case.arrives(CLIENT.sends(datagram)).leaves(CLIENT.gets(error));
    }
    case.drops(DropReason::Refused, 4).pipeline(errors(4)).run();
}

#[test]
fn other_protocols() {
    let sctp = Packet::raw(CLIENT.address, OTHER_VIP, 132).payload([9; 700]);
    let error = Packet::icmp(OTHER_VIP, CLIENT.address, protocol_unreachable())
        .payload(&sctp.bytes()[..548]);
    Case::new("a protocol that the director doesn't speak")
        .arrives(CLIENT.sends(sctp))
        .leaves(CLIENT.gets(error))
        .drops(DropReason::Refused, 1)
        .pipeline(errors(1))
        .run();
}
