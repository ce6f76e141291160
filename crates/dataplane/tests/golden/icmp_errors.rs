//! ICMP errors: those of others about translated packets, and how many of its own the director sends.

use etherparse::{
    Icmpv4Type::{self, DestinationUnreachable, Redirect, TimeExceeded},
    icmpv4::{DestUnreachableHeader, RedirectCode, RedirectHeader, TimeExceededCode},
};
use shunt_dataplane::{DropReason, PipelineCounters};
use shunt_nat::EngineCounters;
use shunt_testkit::Packet;

use crate::{
    case::Case,
    network::{CLIENT, GATEWAY, ROUTER, RS1, SNAT_ADDRESS, VIP, director_asks},
};

pub(crate) fn net_unreachable() -> Icmpv4Type {
    DestinationUnreachable(DestUnreachableHeader::Network)
}

pub(crate) fn host_unreachable() -> Icmpv4Type {
    DestinationUnreachable(DestUnreachableHeader::Host)
}

pub(crate) fn protocol_unreachable() -> Icmpv4Type {
    DestinationUnreachable(DestUnreachableHeader::Protocol)
}

pub(crate) fn port_unreachable() -> Icmpv4Type {
    DestinationUnreachable(DestUnreachableHeader::Port)
}

pub(crate) fn fragmentation_needed(next_hop_mtu: u16) -> Icmpv4Type {
    DestinationUnreachable(DestUnreachableHeader::FragmentationNeeded { next_hop_mtu })
}

pub(crate) fn reassembly_time_exceeded() -> Icmpv4Type {
    TimeExceeded(TimeExceededCode::FragmentReassemblyTimeExceeded)
}

pub(crate) fn ttl_exceeded() -> Icmpv4Type {
    TimeExceeded(TimeExceededCode::TtlExceededInTransit)
}

/// The counters of a case that opens a connection and translates an error about it.
fn translated(icmp_errors: u64) -> EngineCounters {
    EngineCounters { opened: 1, icmp_errors, ..EngineCounters::default() }
}

const CLIENT_PORT: &str = "192.168.1.200:4000";
const MAPPED: &str = "192.168.1.100:8080";
const RS1_HTTP: &str = "192.168.2.210:80";

/// A client's connection to VIP:8080, which RS1:80 serves.
fn connected(description: &'static str) -> Case {
    Case::new(description)
        .arrives(CLIENT.sends(Packet::tcp(CLIENT_PORT, MAPPED).syn()))
        .leaves(RS1.gets(Packet::tcp(CLIENT_PORT, RS1_HTTP).syn().ttl(63)))
}

#[test]
fn from_outside_to_the_server() {
    let sent = Packet::tcp(RS1_HTTP, CLIENT_PORT).ack(1).payload([7; 100]).ttl(63);
    let seen = Packet::tcp(MAPPED, CLIENT_PORT).ack(1).payload([7; 100]).ttl(63);
    // The least that an error quotes (RFC 792), a TCP header, and all.
    for len in [28, 40, 140] {
        let error = |from, to, quote: &Packet| {
            Packet::icmp(from, to, fragmentation_needed(1300)).payload(&quote.bytes()[..len])
        };
        connected("a router outside finds an answer too large: the server must hear of it")
            .arrives(GATEWAY.sends(error(GATEWAY.address, VIP, &seen)))
            .leaves(RS1.gets(error(GATEWAY.address, RS1.address, &sent).ttl(63)))
            .engine(translated(1))
            .run();
    }
}

#[test]
fn from_inside_to_the_client() {
    let sent = Packet::tcp(CLIENT_PORT, MAPPED).syn().ttl(63);
    let seen = Packet::tcp(CLIENT_PORT, RS1_HTTP).syn().ttl(63);
    for len in [28, 40] {
        let error = |from, quote: &Packet| {
            Packet::icmp(from, CLIENT.address, host_unreachable()).payload(&quote.bytes()[..len])
        };
        connected("a router inside can't reach the server: the client hears it from the VIP")
            .arrives(ROUTER.sends(error(ROUTER.address, &seen)))
            .leaves(CLIENT.gets(error(VIP, &sent).ttl(63)))
            .engine(translated(1))
            .run();
    }
}

#[test]
fn about_udp() {
    let (dns, server) = ("192.168.1.100:53", "192.168.2.210:5353");
    for unchecksummed in [false, true] {
        let datagram = |dst| {
            let datagram = Packet::udp(CLIENT_PORT, dst).payload("odd");
            if unchecksummed { datagram.unchecksummed() } else { datagram }
        };
        let error = |from, quote: Packet| {
            Packet::icmp(from, CLIENT.address, port_unreachable()).payload(quote.ttl(63).bytes())
        };
        Case::new("the server's port is closed; the quote's UDP checksum is set back, or none")
            .arrives(CLIENT.sends(datagram(dns)))
            .leaves(RS1.gets(datagram(server).ttl(63)))
            .arrives(RS1.sends(error(RS1.address, datagram(server))))
            .leaves(CLIENT.gets(error(VIP, datagram(dns)).ttl(63)))
            .engine(translated(1))
            .run();
    }
}

#[test]
fn about_snat() {
    let (host, remote) = ("192.168.2.210:5000", "203.0.113.9:123");
    let outside = "192.168.1.160:40000";
    let error =
        |from, to, kind, quote: Packet| Packet::icmp(from, to, kind).payload(quote.ttl(63).bytes());
    Case::new("errors about an inside host's packets, and about the answers to it")
        .arrives(RS1.sends(Packet::udp(host, remote)))
        .leaves(GATEWAY.gets(Packet::udp(outside, remote).ttl(63)))
        .arrives(GATEWAY.sends(error(
            GATEWAY.address,
            SNAT_ADDRESS,
            ttl_exceeded(),
            Packet::udp(outside, remote),
        )))
        .leaves(RS1.gets(
            error(GATEWAY.address, RS1.address, ttl_exceeded(), Packet::udp(host, remote)).ttl(63),
        ))
        .arrives(RS1.sends(error(
            RS1.address,
            "203.0.113.9",
            port_unreachable(),
            Packet::udp(remote, host),
        )))
        .leaves(
            GATEWAY.gets(
                error(
                    SNAT_ADDRESS,
                    "203.0.113.9",
                    port_unreachable(),
                    Packet::udp(remote, outside),
                )
                .ttl(63),
            ),
        )
        .engine(translated(2))
        .run();
}

#[test]
fn of_which_nothing_is_known() {
    let quote = Packet::tcp(MAPPED, CLIENT_PORT).ack(1).bytes();
    let error = |to| Packet::icmp(GATEWAY.address, to, host_unreachable()).payload(&*quote);
    let routed = Packet::icmp(GATEWAY.address, "10.9.1.2", host_unreachable())
        .payload(Packet::udp("10.9.1.2:9", "203.0.113.9:9").bytes());
    Case::new("no connection; an error to another than the sender that it quotes; one passing by")
        .arrives(GATEWAY.sends(error(VIP)))
        .arrives(GATEWAY.sends(error(RS1.address)))
        .arrives(GATEWAY.sends(routed.clone()))
        .leaves(RS1.gets(error(RS1.address).ttl(63)))
        .leaves(ROUTER.gets(routed.ttl(63)))
        .drops(DropReason::NotAnswered, 1)
        .run();
}

#[test]
fn forged() {
    let quote = Packet::tcp(CLIENT_PORT, MAPPED).ack(1).bytes();
    connected("an error about a connection that doesn't go to the sender of what it quotes")
        .arrives(
            GATEWAY.sends(Packet::icmp(GATEWAY.address, VIP, host_unreachable()).payload(quote)),
        )
        .drops(DropReason::NotAnswered, 1)
        .opens(1)
        .run();
}

#[test]
fn redirects() {
    let redirect = Redirect(RedirectHeader {
        code: RedirectCode::RedirectForHost,
        gateway_internet_address: [192, 168, 1, 66],
    });
    let quote = Packet::tcp(MAPPED, CLIENT_PORT).ack(1).bytes();
    connected("a redirect names addresses of the wrong side")
        .arrives(GATEWAY.sends(Packet::icmp(GATEWAY.address, VIP, redirect).payload(quote)))
        .drops(DropReason::IcmpRedirect, 1)
        .opens(1)
        .run();
}

#[test]
fn the_last_hop_of_an_error() {
    let quote = Packet::tcp(MAPPED, CLIENT_PORT).ack(1).bytes();
    let error = |to| Packet::icmp(GATEWAY.address, to, host_unreachable()).ttl(1).payload(&*quote);
    connected("an error whose TTL runs out, translated or not, is no reason for another error")
        .arrives(GATEWAY.sends(error(VIP)))
        .arrives(GATEWAY.sends(error("10.9.1.2")))
        .drops(DropReason::TtlExpired, 2)
        .opens(1)
        .run();
}

#[test]
fn a_server_that_is_gone() {
    let request = || Packet::tcp(CLIENT_PORT, "192.168.1.100:80").syn();
    let unreachable =
        Packet::icmp(VIP, CLIENT.address, host_unreachable()).payload(request().bytes());
    let errors =
        PipelineCounters { arp_requests: 1, icmp_errors: 1, ..PipelineCounters::default() };
    Case::new("the error quotes what the client sent, not what the server would have got")
        .rules(
            r#"
            [[service]]
            protocol = "tcp"
            vip = "192.168.1.100:80"
            scheduler = "rr"
            server = [{ address = "192.168.2.230:8080" }]
            "#,
        )
        // It has been asked for at the start, and once again.
        .arrives(CLIENT.sends(request()))
        .after_millis(1000)
        .leaves(director_asks(RS1.side, "192.168.2.230"))
        .after_millis(1000)
        .leaves(CLIENT.gets(unreachable))
        .drops(DropReason::HostUnreachable, 1)
        .pipeline(errors)
        .opens(1)
        .run();
}

#[test]
fn errors_are_rationed() {
    let tired = |id| Packet::udp("192.168.1.200:9", "10.9.1.2:9").ttl(1).id(id);
    let exceeded =
        |id| Packet::icmp(VIP, CLIENT.address, ttl_exceeded()).payload(tired(id).bytes());
    let mut case = Case::new("a hundred errors at once, then one a millisecond");
    for id in 0..130 {
        case = case.arrives(CLIENT.sends(tired(id)));
    }
    for id in 0..100 {
        case = case.leaves(CLIENT.gets(exceeded(id)));
    }
    case = case.after_millis(10);
    for id in 200..215 {
        case = case.arrives(CLIENT.sends(tired(id)));
    }
    for id in 200..210 {
        case = case.leaves(CLIENT.gets(exceeded(id)));
    }
    case.drops(DropReason::TtlExpired, 145)
        .pipeline(PipelineCounters {
            icmp_errors: 110,
            icmp_errors_suppressed: 35,
            ..PipelineCounters::default()
        })
        .alone()
        .run();
}
