//! SNAT of what has no ports: queries other than echoes, tunnels, and what can't be translated at all.

use std::time::Duration;

use etherparse::{Icmpv4Type, icmpv4};
use shunt_nat::{ConnectionKind, ConnectionState, DropReason, Reply};
use shunt_rules::SnatRule;
use shunt_testkit::Packet;

use crate::harness::*;

const GRE: u8 = 47;
const ESP: u8 = 50;
const INSIDE_HOST: &str = "192.168.2.50";
const OTHER_HOST: &str = "192.168.2.51";
const PEER: &str = "203.0.113.7";
const OTHER_PEER: &str = "203.0.113.8";

fn director() -> Director {
    Director::new(&[], &[snat(1024..=65_535)])
}

fn packet(protocol: u8, src: &str, dst: &str) -> Packet {
    Packet::raw(src, dst, protocol).payload([1, 2, 3, 4, 5])
}

fn timestamp(src: &str, dst: &str, id: u16, is_request: bool) -> Packet {
    let message = icmpv4::TimestampMessage {
        id,
        seq: 1,
        originate_timestamp: 7,
        receive_timestamp: 8,
        transmit_timestamp: 9,
    };
    let kind = match is_request {
        true => Icmpv4Type::TimestampRequest(message),
        false => Icmpv4Type::TimestampReply(message),
    };
    Packet::icmp(src, dst, kind)
}

#[test]
fn timestamps_are_queries_like_echoes() {
    let mut director = Director::new(&[], &[snat(2000..=2001)]);
    let asks = |src, id| timestamp(src, PEER, id, true);
    let answers = |dst, id| timestamp(PEER, dst, id, false);
    director.inside(asks(INSIDE_HOST, 2000)).leaves_as(asks(OUTSIDE_ADDRESS, 2000));
    director.inside(asks(OTHER_HOST, 2000)).leaves_as(asks(OUTSIDE_ADDRESS, 2001));
    director.outside(answers(OUTSIDE_ADDRESS, 2001)).leaves_as(answers(OTHER_HOST, 2000));
    director.outside(answers(OUTSIDE_ADDRESS, 2000)).leaves_as(answers(INSIDE_HOST, 2000));
    // Nobody asked.
    director
        .inside(timestamp(INSIDE_HOST, OTHER_PEER, 1, false))
        .is_dropped_for(DropReason::UnknownConnection);
}

#[test]
fn every_query_has_a_reply() {
    for (request, reply) in [(8, 0), (13, 14), (15, 16), (17, 18)] {
        let mut director = director();
        let message = |src, dst, type_u8| {
            let kind = Icmpv4Type::Unknown { type_u8, code_u8: 0, bytes5to8: [0x40, 0, 0, 1] };
            Packet::icmp(src, dst, kind).payload([7; 12])
        };
        director.inside(message(INSIDE_HOST, PEER, request)).leaves_as(message(
            OUTSIDE_ADDRESS,
            PEER,
            request,
        ));
        director.outside(message(PEER, OUTSIDE_ADDRESS, reply)).leaves_as(message(
            PEER,
            INSIDE_HOST,
            reply,
        ));
    }
}

#[test]
fn tunnels_go_by_their_addresses() {
    let mut director = director();
    for protocol in [GRE, ESP, 132] {
        let out = |src| packet(protocol, src, PEER);
        let back = |dst| packet(protocol, PEER, dst);
        director.inside(out(INSIDE_HOST)).leaves_as(out(OUTSIDE_ADDRESS));
        assert_eq!(director.remaining(), Duration::from_secs(30), "nobody has answered");
        director.outside(back(OUTSIDE_ADDRESS)).leaves_as(back(INSIDE_HOST));
        assert_eq!(director.connections()[0].kind(), ConnectionKind::Snat);
        assert_eq!(director.state(), ConnectionState::Udp);
        director.inside(out(INSIDE_HOST).ttl(1)).is_answered_by(Reply::TimeExceeded);
        director.wait(Duration::from_secs(300) + SLACK);
        director.outside(back(OUTSIDE_ADDRESS)).is_punted();
    }
}

#[test]
fn one_host_has_a_peer_for_itself() {
    let mut director = director();
    let out = |protocol, src, dst| packet(protocol, src, dst);
    director.inside(out(GRE, INSIDE_HOST, PEER)).leaves_as(out(GRE, OUTSIDE_ADDRESS, PEER));
    director.inside(out(GRE, OTHER_HOST, PEER)).is_dropped_for(DropReason::SnatPortsExhausted);
    director.inside(out(GRE, OTHER_HOST, OTHER_PEER)).leaves_as(out(
        GRE,
        OUTSIDE_ADDRESS,
        OTHER_PEER,
    ));
    director.inside(out(ESP, OTHER_HOST, PEER)).leaves_as(out(ESP, OUTSIDE_ADDRESS, PEER));

    let to = ["192.168.1.100", "192.168.1.101"].map(|to| to.parse().unwrap());
    let rule = SnatRule { to: to.to_vec(), ..snat(1024..=65_535) };
    let mut roomy = Director::new(&[], &[rule]);
    let first = roomy.inside(out(GRE, INSIDE_HOST, PEER)).translated();
    let second = roomy.inside(out(GRE, OTHER_HOST, PEER)).translated();
    assert_ne!(first[12..16], second[12..16]);
    roomy.inside(out(GRE, "192.168.2.52", PEER)).is_dropped_for(DropReason::SnatPortsExhausted);
    assert_eq!(roomy.engine().rules().snat_usage().next().unwrap().in_use, 2);
}

#[test]
fn their_fragments_need_no_order() {
    let mut director = director();
    let whole = |src, dst| Packet::raw(src, dst, ESP).payload([9; 64]);
    for part in [32..64, 0..32] {
        director
            .inside(whole(INSIDE_HOST, PEER).part(part.clone()))
            .leaves_as(whole(OUTSIDE_ADDRESS, PEER).part(part.clone()));
        director
            .outside(whole(PEER, OUTSIDE_ADDRESS).part(part.clone()))
            .leaves_as(whole(PEER, INSIDE_HOST).part(part));
    }
}

#[test]
fn errors_about_them_go_to_the_host() {
    let mut director = director();
    let too_big = icmpv4::DestUnreachableHeader::FragmentationNeeded { next_hop_mtu: 1400 };
    let error = |dst, quoted: Packet| {
        let kind = Icmpv4Type::DestinationUnreachable(too_big.clone());
        Packet::icmp("198.51.100.9", dst, kind).payload(quoted.bytes())
    };
    let out = |src| packet(ESP, src, PEER);
    director.inside(out(INSIDE_HOST)).leaves_as(out(OUTSIDE_ADDRESS));
    director
        .outside(error(OUTSIDE_ADDRESS, out(OUTSIDE_ADDRESS)))
        .is_passed_on_as(error(INSIDE_HOST, out(INSIDE_HOST)));
}

/// Their checksums or signatures cover the addresses.
#[test]
fn what_would_be_wrong_under_another_address_does_not_leave() {
    let mut director = director();
    for protocol in [33, 51, 136] {
        director
            .inside(packet(protocol, INSIDE_HOST, PEER))
            .is_dropped_for(DropReason::Untranslatable);
    }
    // An ICMP message that is neither query nor reply nor error, and errors about nothing known.
    let solicitation = Icmpv4Type::Unknown { type_u8: 10, code_u8: 0, bytes5to8: [0; 4] };
    director
        .inside(Packet::icmp(INSIDE_HOST, PEER, solicitation.clone()))
        .is_dropped_for(DropReason::Untranslatable);
    let unreachable = || Icmpv4Type::DestinationUnreachable(icmpv4::DestUnreachableHeader::Port);
    for quote in [udp(REMOTE, HOST).bytes(), vec![0; 3]] {
        director
            .inside(Packet::icmp(INSIDE_HOST, PEER, unreachable()).payload(quote))
            .is_dropped_for(DropReason::Untranslatable);
    }
    // From a host that need not hide, and to whom it need not hide from.
    director.inside(packet(51, "10.0.0.1", PEER)).is_punted();
    director.inside(packet(51, INSIDE_HOST, OTHER_HOST)).is_punted();
    director.inside(packet(51, INSIDE_HOST, INSIDE_ADDRESS)).is_punted();
    director.inside(Packet::icmp("10.0.0.1", PEER, solicitation)).is_punted();
}

#[test]
fn answers_to_who_came_from_outside_are_not_hidden() {
    let mut director = director();
    let there = packet(GRE, PEER, INSIDE_HOST);
    let back = packet(GRE, INSIDE_HOST, PEER);
    director.outside(there.clone()).leaves_as(there);
    director.inside(back.clone()).leaves_as(back);
    assert_eq!(director.connections()[0].kind(), ConnectionKind::Passthrough);
}

#[test]
fn nobody_hides_without_a_rule() {
    let mut director = Director::new(&[rr(VIP, &[RS1])], &[]);
    for protocol in [GRE, ESP, 51] {
        director.inside(packet(protocol, INSIDE_HOST, PEER)).is_punted();
        director.outside(packet(protocol, PEER, INSIDE_HOST)).is_punted();
        director.outside(packet(protocol, PEER, OUTSIDE_ADDRESS)).is_punted();
    }
}
