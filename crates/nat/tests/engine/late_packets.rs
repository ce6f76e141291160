//! What a service's server sends when its connection is gone: the client does not know it by its own
//! address.

use etherparse::{Icmpv4Type, icmpv4};
use shunt_nat::{ConnectionKind, DropReason, Reply};
use shunt_rules::{LatePackets, OnUnknown, Protocol, RealServer, Rules, SnatRule, VirtualService};
use shunt_testkit::Packet;

use crate::harness::*;

const DNS: &str = "192.168.1.100:53";

/// A web service, and one over UDP whose servers are dialled on the vport.
fn director(late_packets: LatePackets, rules: &[SnatRule]) -> Director {
    let servers = vec![RealServer { port: None, ..real(RS1, 1) }];
    let wide = VirtualService {
        endpoints: vec![endpoint("192.168.1.100", 5000..=5001)],
        ..over_udp(VirtualService { servers: servers.clone(), ..rr(VIP, &[]) })
    };
    let dns = over_udp(VirtualService { servers, ..rr(DNS, &[]) });
    let mut rules = rules_of(&[rr(VIP, &[RS1]), dns, wide], rules);
    rules.defaults.late_packets = late_packets;
    Director::with_rules(&rules)
}

fn plain(late_packets: LatePackets) -> Director {
    director(late_packets, &[])
}

/// Segments that open nothing.
fn segments() -> [Packet; 4] {
    let segment = || tcp(RS1, CLIENT);
    [
        segment().ack(1).payload("late"),
        segment().fin().ack(1),
        segment().syn().ack(1),
        segment().ack(1),
    ]
}

fn datagrams() -> [Packet; 3] {
    [53, 5000, 5001].map(|port| udp(&format!("192.168.2.210:{port}"), CLIENT).payload("late"))
}

/// The server's port is closed, it says.
fn error(quoted: &Packet) -> Packet {
    let unreachable = Icmpv4Type::DestinationUnreachable(icmpv4::DestUnreachableHeader::Port);
    Packet::icmp(host(RS1), host(CLIENT), unreachable).payload(quoted.bytes())
}

#[test]
fn segments_are_answered_as_unknown_ones_are() {
    use LatePackets::{Drop, OnUnknown as AsUnknown, Reset};
    for (late, on_unknown, is_reset) in [
        (AsUnknown, OnUnknown::Reset, true),
        (AsUnknown, OnUnknown::Drop, false),
        (Reset, OnUnknown::Drop, true),
        (Drop, OnUnknown::Reset, false),
    ] {
        let mut director = plain(late);
        director.change(|rules: &mut Rules| edit(rules, 0).on_unknown = Some(on_unknown));
        for segment in segments() {
            match is_reset {
                true => director.inside(segment).is_answered_by(Reply::Reset),
                false => director.inside(segment).is_dropped_for(DropReason::LatePacket),
            }
        }
        director.inside(tcp(RS1, CLIENT).rst()).is_dropped_for(DropReason::LatePacket);
    }
}

#[test]
fn datagrams_and_errors_are_dropped() {
    for late in [LatePackets::OnUnknown, LatePackets::Drop, LatePackets::Reset] {
        let mut director = plain(late);
        for datagram in datagrams() {
            director.inside(datagram).is_dropped_for(DropReason::LatePacket);
        }
        for quoted in [tcp(CLIENT, RS1).ack(1), udp(CLIENT, "192.168.2.210:53")] {
            director.inside(error(&quoted)).is_dropped_for(DropReason::LatePacket);
        }
    }
}

#[test]
fn they_may_be_let_through() {
    let mut director = plain(LatePackets::Forward);
    let errors = [error(&tcp(CLIENT, RS1).ack(1))];
    for packet in segments().into_iter().chain(datagrams()).chain(errors) {
        director.inside(packet).is_punted();
    }
    director.outside(tcp(CLIENT, RS1).syn()).is_punted();
}

#[test]
fn so_are_those_of_a_connection_that_ran_out() {
    let mut director = plain(LatePackets::default());
    let (client, server) = ("192.168.1.200:4000", "192.168.2.210:53");
    director.outside(udp(client, DNS)).leaves_as(udp(client, server));
    director.wait_seconds(60);
    director.inside(udp(server, client)).is_dropped_for(DropReason::LatePacket);
    // And of a server that was removed, while it has connections.
    director.handshake(CLIENT, VIP, RS1);
    director.change(|rules| edit(rules, 0).servers.clear());
    director.inside(tcp(RS1, REMOTE).ack(1)).is_answered_by(Reply::Reset);
}

#[test]
fn with_snat_a_datagram_may_be_a_question() {
    let mut director = director(LatePackets::default(), &[snat(1024..=65_535)]);
    let [datagram, ..] = datagrams();
    let left = director.inside(datagram).translated();
    assert_eq!(left[12..16], [192, 168, 1, 100]);
    director.inside(tcp(RS1, CLIENT).ack(1)).is_answered_by(Reply::Reset);
    director
        .inside(error(&tcp("192.168.1.200:40001", RS1).ack(1)))
        .is_dropped_for(DropReason::LatePacket);
}

#[test]
fn what_a_server_begins_is_not_late() {
    let mut routed = plain(LatePackets::default());
    // From where it serves, and from elsewhere.
    routed.inside(tcp(RS1, REMOTE).syn()).is_punted();
    routed.inside(tcp("192.168.2.210:81", REMOTE).ack(1)).is_punted();
    routed.inside(udp("192.168.2.210:80", REMOTE)).is_punted();
    // To the inside, and to the director.
    routed.inside(tcp(RS1, HOST).ack(1)).is_punted();
    routed.inside(udp("192.168.2.210:53", "192.168.2.200:53")).is_punted();
    let mut hidden = director(LatePackets::default(), &[snat(1024..=65_535)]);
    let left = hidden.inside(tcp("192.168.2.210:80", REMOTE).syn()).translated();
    assert_eq!(left[12..16], [192, 168, 1, 100]);
}

/// Who dials a server directly knows it by its own address.
#[test]
fn answers_to_who_dialled_the_server_itself_pass() {
    let mut director = plain(LatePackets::default());
    director.outside(tcp(CLIENT, RS1).syn()).leaves_as(tcp(CLIENT, RS1).syn());
    director.inside(tcp(RS1, CLIENT).syn().ack(1)).leaves_as(tcp(RS1, CLIENT).syn().ack(1));
    assert_eq!(director.connections()[0].kind(), ConnectionKind::Passthrough);
    let server = "192.168.2.210:53";
    let question = udp(CLIENT, server).payload([0; 64]);
    for part in [question.part(0..32), question.part(32..72)] {
        director.outside(part.clone()).leaves_as(part);
    }
    let answer = udp(server, CLIENT);
    director.inside(answer.clone()).leaves_as(answer);
}

#[test]
fn fragments_share_their_packets_fate() {
    let mut director = plain(LatePackets::default());
    let answer = udp("192.168.2.210:53", CLIENT).payload([0; 64]);
    director.inside(answer.part(0..32)).is_dropped_for(DropReason::LatePacket);
    director.inside(answer.part(32..72)).is_dropped_for(DropReason::FragmentRefused);
}

#[test]
fn other_protocols_endpoints_are_not_the_services() {
    let mut director = plain(LatePackets::default());
    assert_eq!(director.engine().rules().services().count(), 3);
    director.inside(tcp("192.168.2.210:53", CLIENT).ack(1)).is_punted();
    director.change(|rules| edit(rules, 1).protocols = vec![Protocol::Udp, Protocol::Tcp]);
    director.inside(tcp("192.168.2.210:53", CLIENT).ack(1)).is_answered_by(Reply::Reset);
}
