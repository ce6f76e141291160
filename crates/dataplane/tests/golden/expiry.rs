//! Connections that end: timeouts, the resets that say so, and what comes too late.

use shunt_dataplane::{DropReason, PipelineCounters};
use shunt_nat::EngineCounters;
use shunt_testkit::Packet;

use crate::{
    case::Case,
    network::{CLIENT, GATEWAY, Host, RS1, RS2},
};

const CLIENT_PORT: &str = "192.168.1.200:4000";
const HTTP: &str = "192.168.1.100:80";
const SERVER: &str = "192.168.2.210:8080";

/// The handshake of one who asks and one who answers, on either side of a translation: each end's
/// host, and what it and its peer are known as there.
pub(crate) fn handshake(
    case: Case,
    (asker, [asker_port, dialled]): (&Host, [&str; 2]),
    (answerer, [seen, answerer_port]): (&Host, [&str; 2]),
) -> Case {
    let syn = |src, dst| Packet::tcp(src, dst).seq(100).syn();
    let answer = |src, dst| Packet::tcp(src, dst).seq(900).syn().ack(101);
    let ack = |src, dst| Packet::tcp(src, dst).seq(101).ack(901);
    case.arrives(asker.sends(syn(asker_port, dialled)))
        .leaves(answerer.gets(syn(seen, answerer_port).ttl(63)))
        .arrives(answerer.sends(answer(answerer_port, seen)))
        .leaves(asker.gets(answer(dialled, asker_port).ttl(63)))
        .arrives(asker.sends(ack(asker_port, dialled)))
        .leaves(answerer.gets(ack(seen, answerer_port).ttl(63)))
}

/// A reset with the sequence number that the receiver expects.
pub(crate) fn reset(src: &str, dst: &str, sequence: u32) -> Packet {
    Packet::tcp(src, dst).seq(sequence).rst().window(0)
}

pub(crate) fn resets(resets: u64) -> PipelineCounters {
    PipelineCounters { resets, ..PipelineCounters::default() }
}

fn expired(expired: u64) -> EngineCounters {
    EngineCounters { opened: expired, expired, ..EngineCounters::default() }
}

const TOLD: &str = r#"
    [[service]]
    vip = "192.168.1.100:80"
    scheduler = "rr"
    reset-on-expiry = true
    timeouts = { established = 5, syn-recv = 5 }
    server = [{ address = "192.168.2.210:8080" }]
"#;

#[test]
fn both_ends_are_told() {
    let client = (&CLIENT, [CLIENT_PORT, HTTP]);
    let server = (&RS1, [CLIENT_PORT, SERVER]);
    let case = Case::new("a connection that was silent for too long is reset at both ends");
    handshake(case.rules(TOLD), client, server)
        .arrives(CLIENT.sends(Packet::tcp(CLIENT_PORT, HTTP).seq(101).ack(901).payload("odd")))
        .leaves(RS1.gets(Packet::tcp(CLIENT_PORT, SERVER).seq(101).ack(901).payload("odd").ttl(63)))
        .arrives(RS1.sends(Packet::tcp(SERVER, CLIENT_PORT).seq(901).ack(104)))
        .leaves(CLIENT.gets(Packet::tcp(HTTP, CLIENT_PORT).seq(901).ack(104).ttl(63)))
        .after_millis(4900)
        .after_millis(2000)
        .leaves(RS1.gets(reset(CLIENT_PORT, SERVER, 104)))
        .leaves(CLIENT.gets(reset(HTTP, CLIENT_PORT, 901)))
        .pipeline(resets(2))
        .engine(expired(1))
        .run();
}

#[test]
fn a_handshake_is_forgotten_in_silence() {
    Case::new("only who is established is told")
        .rules(TOLD)
        .arrives(CLIENT.sends(Packet::tcp(CLIENT_PORT, HTTP).syn()))
        .leaves(RS1.gets(Packet::tcp(CLIENT_PORT, SERVER).syn().ttl(63)))
        .after_millis(8000)
        .engine(expired(1))
        .run();
}

#[test]
fn nobody_is_told() {
    let client = (&CLIENT, [CLIENT_PORT, HTTP]);
    let server = (&RS1, [CLIENT_PORT, SERVER]);
    let case = Case::new("a service may have it otherwise than all others")
        .nat_keys("reset-on-expiry = true")
        .rules(TOLD.replace("reset-on-expiry = true", "reset-on-expiry = false"));
    handshake(case, client, server).after_millis(8000).engine(expired(1)).run();
}

#[test]
fn an_inside_host_and_its_peer_are_told() {
    let (host, outside, remote) = ("192.168.2.210:5000", "192.168.1.160:40000", "203.0.113.9:80");
    let case = Case::new("SNAT, by the keys that are for all").nat_keys("reset-on-expiry = true");
    let case = case.rules(
        r#"
        [timeouts]
        established = 5

        [[route]]
        to = "default"
        via = "192.168.1.1"

        [[snat]]
        from = "192.168.2.0/24"
        to = "192.168.1.160"
        ports = "40000-40001"
        "#,
    );
    handshake(case, (&RS1, [host, remote]), (&GATEWAY, [outside, remote]))
        .after_millis(8000)
        .leaves(GATEWAY.gets(reset(outside, remote, 101)))
        .leaves(RS1.gets(reset(remote, host, 901)))
        .pipeline(resets(2))
        .engine(expired(1))
        .run();
}

#[test]
fn both_ends_of_full_nat_are_told() {
    let local = "192.168.2.201:10000";
    let service = TOLD.replace("reset-on-expiry", "mode = \"full-nat\"\n    reset-on-expiry");
    let rules = format!(
        r#"
        [[nat.local-address]]
        address = "192.168.2.201"
        ports = "10000-10001"
        {service}
        "#
    );
    let case = Case::new("the server is told by the local address that it knows").rules(rules);
    handshake(case, (&CLIENT, [CLIENT_PORT, HTTP]), (&RS1, [local, SERVER]))
        .after_millis(8000)
        .leaves(RS1.gets(reset(local, SERVER, 101)))
        .leaves(CLIENT.gets(reset(HTTP, CLIENT_PORT, 901)))
        .pipeline(resets(2))
        .engine(expired(1))
        .run();
}

#[test]
fn both_ends_of_a_hairpin_are_told() {
    let (host, dip) = ("192.168.2.220:5000", "192.168.2.200:32768");
    let case = Case::new("both are inside").rules(TOLD);
    handshake(case, (&RS2, [host, HTTP]), (&RS1, [dip, SERVER]))
        .after_millis(8000)
        .leaves(RS1.gets(reset(dip, SERVER, 101)))
        .leaves(RS2.gets(reset(HTTP, host, 901)))
        .pipeline(resets(2))
        .engine(expired(1))
        .alone()
        .run();
}

#[test]
fn unknown_segments_are_dropped() {
    let (host, remote) = ("192.168.2.210:5000", "203.0.113.9:80");
    let (mapped, other) = ("192.168.1.100:8080", "192.168.1.100:99");
    Case::new("by the key for all, for services and SNAT, not by a service that resets")
        .nat_keys("on-unknown = \"drop\"")
        .rules(
            r#"
            [[route]]
            to = "default"
            via = "192.168.1.1"

            [[service]]
            vip = "192.168.1.100:80"
            scheduler = "rr"
            server = [{ address = "192.168.2.210" }]

            [[service]]
            vip = "192.168.1.100:8080"
            scheduler = "rr"
            on-unknown = "reset"
            server = [{ address = "192.168.2.210" }]

            [[snat]]
            from = "192.168.2.0/24"
            to = "192.168.1.160"
            "#,
        )
        .arrives(CLIENT.sends(Packet::tcp(CLIENT_PORT, HTTP).ack(7).payload("odd")))
        .arrives(CLIENT.sends(Packet::tcp(CLIENT_PORT, HTTP).syn().ack(7)))
        .arrives(CLIENT.sends(Packet::tcp(CLIENT_PORT, mapped).ack(7)))
        .arrives(CLIENT.sends(Packet::tcp(CLIENT_PORT, other).ack(7)))
        .arrives(RS1.sends(Packet::tcp(host, remote).ack(7)))
        .leaves(CLIENT.gets(reset(mapped, CLIENT_PORT, 7)))
        .leaves(CLIENT.gets(reset(other, CLIENT_PORT, 7)))
        .drops(DropReason::UnknownConnection, 3)
        .drops(DropReason::Refused, 2)
        .pipeline(resets(2))
        .run();
}

#[test]
fn a_service_drops_unknown_segments() {
    Case::new("a service may drop what all others reset")
        .rules(TOLD.replace("reset-on-expiry = true", "on-unknown = \"drop\""))
        .arrives(CLIENT.sends(Packet::tcp(CLIENT_PORT, HTTP).ack(7)))
        .drops(DropReason::UnknownConnection, 1)
        .run();
}

#[test]
fn timeouts_of_a_service() {
    let rules = r#"
        [timeouts]
        udp-one-way = 20
        udp = 25

        [[service]]
        protocol = "udp"
        vip = "192.168.1.100:53"
        scheduler = "rr"
        timeouts = { udp-one-way = 2 }
        server = [{ address = "192.168.2.210" }, { address = "192.168.2.220" }]

        [[service]]
        protocol = "udp"
        vip = "192.168.1.100:123"
        scheduler = "rr"
        server = [{ address = "192.168.2.210" }, { address = "192.168.2.220" }]
    "#;
    let (dns, ntp) = ("192.168.1.100:53", "192.168.1.100:123");
    let client = |port| format!("192.168.1.200:{port}");
    let ask = |vip, port| CLIENT.sends(Packet::udp(&client(port), vip));
    let asked = |server: &Host, vport: u16, port| {
        let rport = format!("{}:{vport}", server.address);
        server.gets(Packet::udp(&client(port), &rport).ttl(63))
    };
    Case::new("a service's own timeout, the one for all, and that of a service that was answered")
        .rules(rules)
        .arrives(ask(dns, 1))
        .arrives(ask(ntp, 1))
        .arrives(ask(dns, 2))
        .leaves(asked(&RS1, 53, 1))
        .leaves(asked(&RS1, 123, 1))
        .leaves(asked(&RS2, 53, 2))
        .arrives(RS2.sends(Packet::udp("192.168.2.220:53", &client(2))))
        .leaves(CLIENT.gets(Packet::udp(dns, &client(2)).ttl(63)))
        // The first of the DNS clients is forgotten, so the next server gets it.
        .after_millis(5000)
        .after_millis(0)
        .arrives(ask(dns, 3))
        .arrives(ask(dns, 1))
        .arrives(ask(dns, 2))
        .arrives(ask(ntp, 1))
        .leaves(asked(&RS1, 53, 3))
        .leaves(asked(&RS2, 53, 1))
        .leaves(asked(&RS2, 53, 2))
        .leaves(asked(&RS1, 123, 1))
        .in_any_order()
        .engine(EngineCounters { opened: 5, expired: 1, ..EngineCounters::default() })
        .run();
}
