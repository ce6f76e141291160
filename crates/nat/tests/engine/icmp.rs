//! ICMP errors about translated packets: translated back, quote and all (RFC 5508, section 4.2).

use etherparse::{Icmpv4Type, icmpv4};
use shunt_nat::{ConnectionState, DropReason, EngineCounters, Reply};
use shunt_packet::Malformed;
use shunt_testkit::Packet;

use crate::harness::*;

/// A router between the director and the hosts of that side.
const OUTSIDE_ROUTER: &str = "192.168.1.1";
const INSIDE_ROUTER: &str = "192.168.2.1";
const CLIENT_ADDRESS: &str = "192.168.1.200";
const RS1_ADDRESS: &str = "192.168.2.210";
const HOST_ADDRESS: &str = "192.168.2.50";
const REMOTE_ADDRESS: &str = "203.0.113.7";

fn all_errors() -> [Icmpv4Type; 6] {
    use icmpv4::{DestUnreachableHeader as Unreachable, ParameterProblemHeader, TimeExceededCode};
    [
        Icmpv4Type::DestinationUnreachable(Unreachable::FragmentationNeeded { next_hop_mtu: 1400 }),
        Icmpv4Type::DestinationUnreachable(Unreachable::Port),
        Icmpv4Type::DestinationUnreachable(Unreachable::Host),
        Icmpv4Type::TimeExceeded(TimeExceededCode::TtlExceededInTransit),
        Icmpv4Type::ParameterProblem(ParameterProblemHeader::PointerIndicatesError(1)),
        Icmpv4Type::Unknown { type_u8: 4, code_u8: 0, bytes5to8: [0; 4] },
    ]
}

fn fragmentation_needed(src: &str, dst: &str, quote: impl Into<Vec<u8>>) -> Packet {
    error(&all_errors()[0], src, dst, quote)
}

fn port_unreachable(src: &str, dst: &str, quote: impl Into<Vec<u8>>) -> Packet {
    error(&all_errors()[1], src, dst, quote)
}

fn error(kind: &Icmpv4Type, src: &str, dst: &str, quote: impl Into<Vec<u8>>) -> Packet {
    Packet::icmp(src, dst, kind.clone()).payload(quote)
}

/// [`tcp`] or [`udp`].
type Build = fn(&str, &str) -> Packet;

/// How much of a packet without options an error may quote: ports only, TCP's or UDP's whole
/// header, odd parts of either, all of it.
const QUOTE_LENGTHS: [usize; 7] = [24, 28, 35, 39, 40, 51, usize::MAX];

/// `packet` as far as an error of this length quotes it, a hop after the director.
fn quote(packet: Packet, length: usize) -> Vec<u8> {
    let bytes = packet.ttl(63).bytes();
    bytes[..length.min(bytes.len())].to_vec()
}

const WEB: &str = "192.168.1.100:8080";
const DNS: &str = "192.168.1.100:53";

/// A director that carries a client's TCP connection to WEB and its datagrams to DNS, both on RS1.
fn web() -> Director {
    let services = [rr(WEB, &[RS1]), over_udp(rr(DNS, &[RS1]))];
    let mut director = Director::new(&services, &[]);
    director.handshake(CLIENT, WEB, RS1);
    director.outside(udp(CLIENT, DNS)).leaves_as(udp(CLIENT, RS1));
    director
}

#[test]
fn an_error_about_a_clients_packet_comes_from_the_vip() {
    let mut director = web();
    let before = director.service(0);
    let mut errors = 0;
    for kind in all_errors() {
        for length in QUOTE_LENGTHS {
            for (sender, build, service) in
                [(RS1_ADDRESS, tcp as Build, WEB), (INSIDE_ROUTER, udp, DNS)]
            {
                let data = "an odd request.";
                let arrives = quote(build(CLIENT, RS1).payload(data), length);
                let leaves = quote(build(CLIENT, service).payload(data), length);
                director
                    .inside(error(&kind, sender, CLIENT_ADDRESS, arrives))
                    .is_passed_on_as(error(&kind, OUTSIDE_ADDRESS, CLIENT_ADDRESS, leaves));
                errors += 1;
                assert_eq!(director.counters().icmp_errors, errors);
            }
        }
    }
    assert_eq!(director.service(0), before, "an error is no packet of the connection");
}

#[test]
fn an_error_about_a_servers_packet_goes_to_the_server() {
    let mut director = web();
    for kind in all_errors() {
        for length in QUOTE_LENGTHS {
            for (sender, build, service) in
                [(CLIENT_ADDRESS, udp as Build, DNS), (OUTSIDE_ROUTER, tcp, WEB)]
            {
                let arrives = quote(build(service, CLIENT).payload("a response"), length);
                let leaves = quote(build(RS1, CLIENT).payload("a response"), length);
                director
                    .outside(error(&kind, sender, OUTSIDE_ADDRESS, arrives))
                    .is_passed_on_as(error(&kind, sender, RS1_ADDRESS, leaves));
            }
        }
    }
    assert_eq!(director.counters().icmp_errors, 6 * 7 * 2);
}

#[test]
fn errors_about_outbound_connections() {
    let mut director = Director::new(&[], &[snat(60_000..=60_000)]);
    let behind = "192.168.1.100:60000";
    for (errors, build) in (0..).step_by(28).zip([tcp as Build, udp]) {
        director
            .inside(syn_if_tcp(build(HOST, REMOTE)))
            .leaves_as(syn_if_tcp(build(behind, REMOTE)));
        for sender in [OUTSIDE_ROUTER, REMOTE_ADDRESS] {
            for length in QUOTE_LENGTHS {
                let arrives = quote(build(behind, REMOTE).payload("request"), length);
                let leaves = quote(build(HOST, REMOTE).payload("request"), length);
                director
                    .outside(fragmentation_needed(sender, OUTSIDE_ADDRESS, arrives))
                    .is_passed_on_as(fragmentation_needed(sender, HOST_ADDRESS, leaves));
            }
        }
        // About the remote's packets: the inside is hidden from it.
        for sender in [HOST_ADDRESS, INSIDE_ROUTER] {
            for length in QUOTE_LENGTHS {
                let arrives = quote(build(REMOTE, HOST).payload("response"), length);
                let leaves = quote(build(REMOTE, behind).payload("response"), length);
                director
                    .inside(port_unreachable(sender, REMOTE_ADDRESS, arrives))
                    .is_passed_on_as(port_unreachable(OUTSIDE_ADDRESS, REMOTE_ADDRESS, leaves));
            }
        }
        assert_eq!(director.counters().icmp_errors, errors + 28);
    }
}

fn syn_if_tcp(packet: Packet) -> Packet {
    if packet.bytes()[9] == 6 { packet.syn() } else { packet }
}

#[test]
fn errors_about_what_passes_untranslated_pass_untranslated() {
    let mut director = Director::new(&[], &[snat(1024..=65_535)]);
    director.outside(udp(CLIENT, HOST)).leaves_as(udp(CLIENT, HOST));
    for sender in [HOST_ADDRESS, INSIDE_ROUTER] {
        let error = port_unreachable(sender, CLIENT_ADDRESS, udp(CLIENT, HOST));
        director.inside(error.clone()).is_passed_on_as(error);
    }
}

#[test]
fn quotes_with_ip_options_up_to_the_longest() {
    let mut director = web();
    for options in [4, 40] {
        for beyond in [8, 20, 31] {
            let packet = |src, dst| {
                tcp(src, dst).ack(1).options(&vec![1; options]).payload("some more bytes")
            };
            let length = 20 + options + beyond;
            director
                .inside(fragmentation_needed(
                    RS1_ADDRESS,
                    CLIENT_ADDRESS,
                    quote(packet(CLIENT, RS1), length),
                ))
                .is_passed_on_as(fragmentation_needed(
                    OUTSIDE_ADDRESS,
                    CLIENT_ADDRESS,
                    quote(packet(CLIENT, WEB), length),
                ));
        }
    }
}

#[test]
fn half_a_quoted_checksum_is_left_alone() {
    let mut director = web();
    let half = |src, dst| quote(tcp(src, dst), 37);
    let arrives = half(CLIENT, RS1);
    let mut leaves = half(CLIENT, WEB);
    leaves[36] = arrives[36];
    director
        .inside(fragmentation_needed(RS1_ADDRESS, CLIENT_ADDRESS, arrives))
        .is_passed_on_as(fragmentation_needed(OUTSIDE_ADDRESS, CLIENT_ADDRESS, leaves));
}

#[test]
fn quotes_of_datagrams_without_checksum() {
    let mut director = web();
    director
        .inside(port_unreachable(RS1_ADDRESS, CLIENT_ADDRESS, udp(CLIENT, RS1).unchecksummed()))
        .is_passed_on_as(port_unreachable(
            OUTSIDE_ADDRESS,
            CLIENT_ADDRESS,
            udp(CLIENT, DNS).unchecksummed(),
        ));
}

#[test]
fn a_quoted_first_fragment_is_translated() {
    let mut director = web();
    let first = |src, dst| udp(src, dst).payload([7; 64]).fragment(0, true).bytes();
    director
        .inside(port_unreachable(INSIDE_ROUTER, CLIENT_ADDRESS, first(CLIENT, RS1)))
        .is_passed_on_as(port_unreachable(OUTSIDE_ADDRESS, CLIENT_ADDRESS, first(CLIENT, DNS)));
}

#[test]
fn a_wrong_checksum_stays_wrong() {
    let mut director = web();
    let mut error = fragmentation_needed(RS1_ADDRESS, CLIENT_ADDRESS, tcp(CLIENT, RS1)).bytes();
    error[22] ^= 1;
    assert!(verify(director.inside(error).bytes()).is_err());
}

#[test]
fn an_error_neither_opens_nor_closes_nor_prolongs() {
    let mut director = Director::new(&[rr(VIP, &[RS1])], &[]);
    director.handshake(CLIENT, VIP, RS1);
    director.wait_seconds(100);
    director
        .inside(port_unreachable(RS1_ADDRESS, CLIENT_ADDRESS, tcp(CLIENT, RS1)))
        .is_passed_on_as(port_unreachable(OUTSIDE_ADDRESS, CLIENT_ADDRESS, tcp(CLIENT, VIP)));
    assert_eq!(director.state(), ConnectionState::Established);
    assert_eq!(director.remaining().as_secs(), 800);
    let expected = EngineCounters { opened: 1, icmp_errors: 1, ..Default::default() };
    assert_eq!(director.counters(), expected);
}

#[test]
fn a_hop_too_many() {
    let mut director = web();
    let error = port_unreachable(RS1_ADDRESS, CLIENT_ADDRESS, udp(CLIENT, RS1));
    director.inside(error.ttl(1)).is_answered_by(Reply::TimeExceeded);
    assert_eq!(director.counters().icmp_errors, 0);
}

#[test]
fn redirects_are_dropped() {
    let mut director = web();
    let redirect = Icmpv4Type::Redirect(icmpv4::RedirectHeader {
        code: icmpv4::RedirectCode::RedirectForHost,
        gateway_internet_address: [192, 168, 2, 1],
    });
    let packet = Packet::icmp(INSIDE_ROUTER, CLIENT_ADDRESS, redirect);
    director
        .inside(packet.payload(tcp(CLIENT, RS1).bytes()))
        .is_dropped_for(DropReason::IcmpRedirect);
    assert_eq!(director.counters().icmp_errors, 0);
}

#[test]
fn what_concerns_no_connection_is_left_to_the_director() {
    let mut director = web();
    let echo = Packet::echo_request(CLIENT_ADDRESS, OUTSIDE_ADDRESS, 1, 1);
    director.outside(echo.clone()).is_punted();
    let unrelated = |quote: Vec<u8>| port_unreachable(RS1_ADDRESS, CLIENT_ADDRESS, quote);
    for quote in [
        tcp("192.168.1.200:40001", RS2).bytes(),
        udp(CLIENT, RS2).bytes(),
        // The reverse of what left here.
        udp(RS1, CLIENT).bytes(),
        // What arrived here, but did not leave so.
        udp(CLIENT, DNS).bytes(),
        echo.bytes(),
        Packet::raw(CLIENT_ADDRESS, RS1_ADDRESS, 47).payload([0; 20]).bytes(),
        udp(CLIENT, RS1).fragment(1, false).bytes(),
        // Too short for ports, for an IPv4 header, for anything.
        udp(CLIENT, RS1).bytes()[..23].to_vec(),
        udp(CLIENT, RS1).bytes()[..19].to_vec(),
        vec![],
        // Not IPv4, and not a header.
        [&[0x65], &udp(CLIENT, RS1).bytes()[1..]].concat(),
        [&[0x44], &udp(CLIENT, RS1).bytes()[1..]].concat(),
        [&[0x4f], &udp(CLIENT, RS1).bytes()[1..]].concat(),
    ] {
        director.inside(unrelated(quote)).is_punted();
    }
    assert_eq!(director.counters().icmp_errors, 0);
}

#[test]
fn an_error_goes_where_the_quoted_packet_came_from_or_nowhere() {
    let mut director = web();
    let quote = udp(DNS, CLIENT).bytes();
    director.outside(port_unreachable(CLIENT_ADDRESS, "192.168.2.50", quote)).is_punted();
    assert_eq!(director.counters().icmp_errors, 0);
}

#[test]
fn an_error_in_fragments_is_dropped_as_a_whole() {
    let mut director = web();
    let quote = udp(DNS, CLIENT).payload([0; 64]).bytes();
    let error = port_unreachable(CLIENT_ADDRESS, host(DNS), quote);
    director.outside(error.part(0..64)).is_dropped_for(DropReason::FragmentRefused);
    director.outside(error.part(64..100)).is_dropped_for(DropReason::FragmentRefused);
    assert_eq!(director.counters().icmp_errors, 0);
}

#[test]
fn truncated_messages_are_malformed() {
    let mut director = web();
    for length in 0..8 {
        let stump = Packet::raw(RS1_ADDRESS, CLIENT_ADDRESS, 1).payload(vec![3; length]);
        let reason = DropReason::Malformed(Malformed::IcmpTruncated);
        director.inside(stump).is_dropped_for(reason);
    }
}
