//! Full-NAT: servers see an address of the director's, and answer to it.

use shunt_dataplane::{DropReason, PipelineCounters};
use shunt_nat::{EngineCounters, PoolUsage, Side};
use shunt_testkit::Packet;

use crate::{
    case::Case,
    icmp_errors::host_unreachable,
    network::{CLIENT, DIP, GATEWAY, ROUTER, RS1, RS2, VIP, director_announces, director_asks},
};

const RULES: &str = r#"
    [[route]]
    to = "default"
    via = "192.168.1.1"

    [[nat.local-address]]
    address = "192.168.2.201"
    ports = "10000-10001"

    [[service]]
    vip = "192.168.1.100:80"
    scheduler = "rr"
    mode = "full-nat"
    server = [{ address = "192.168.2.210:8080" }, { address = "192.168.2.220:8080" }]

    [[service]]
    protocol = "udp"
    vip = "192.168.1.100:53"
    scheduler = "rr"
    mode = "full-nat"
    server = [{ address = "192.168.2.210:53" }]
"#;

const LOCAL: &str = "192.168.2.201";
const HTTP: &str = "192.168.1.100:80";
const DNS: &str = "192.168.1.100:53";
const RS1_HTTP: &str = "192.168.2.210:8080";
const CLIENT_PORT: &str = "192.168.1.200:4000";

fn case(description: &str) -> Case {
    Case::new(description).rules(RULES)
}

fn local_addresses(in_use: u64, scarce: u64, exhausted: u64) -> [(&'static str, PoolUsage); 1] {
    [("local addresses", PoolUsage { endpoints: 2, in_use, scarce, exhausted })]
}

#[test]
fn both_ways() {
    let local = "192.168.2.201:10000";
    case("both addresses and ports change, and change back")
        .arrives(CLIENT.sends(Packet::tcp(CLIENT_PORT, HTTP).syn()))
        .leaves(RS1.gets(Packet::tcp(local, RS1_HTTP).syn().ttl(63)))
        .arrives(RS1.sends(Packet::tcp(RS1_HTTP, local).syn().ack(1001)))
        .leaves(CLIENT.gets(Packet::tcp(HTTP, CLIENT_PORT).syn().ack(1001).ttl(63)))
        .arrives(CLIENT.sends(Packet::tcp(CLIENT_PORT, HTTP).ack(1001).payload("odd")))
        .leaves(RS1.gets(Packet::tcp(local, RS1_HTTP).ack(1001).payload("odd").ttl(63)))
        .opens(1)
        .pools(&local_addresses(1, 0, 0))
        .run();
}

#[test]
fn udp_in_fragments() {
    let large = |src, dst| Packet::udp(src, dst).id(7).payload([9; 1000]);
    let local = "192.168.2.201:10000";
    let case = case("fragments from a client, and to the local address")
        .arrives(CLIENT.sends(large(CLIENT_PORT, DNS).part(504..1008)))
        .arrives(CLIENT.sends(large(CLIENT_PORT, DNS).part(0..504)))
        .leaves(RS1.gets(large(local, "192.168.2.210:53").ttl(63).part(0..504)))
        .leaves(RS1.gets(large(local, "192.168.2.210:53").ttl(63).part(504..1008)))
        .arrives(RS1.sends(large("192.168.2.210:53", local).part(504..1008)))
        .arrives(RS1.sends(large("192.168.2.210:53", local).part(0..504)))
        .leaves(CLIENT.gets(large(DNS, CLIENT_PORT).ttl(63).part(0..504)))
        .leaves(CLIENT.gets(large(DNS, CLIENT_PORT).ttl(63).part(504..1008)));
    case.opens(1).run();
}

#[test]
fn a_port_for_each_server_and_client() {
    let client = |n| format!("192.168.1.200:{n}");
    let syn = |n| CLIENT.sends(Packet::tcp(&client(n), HTTP).syn());
    let seen = |local, server| Packet::tcp(local, server).syn().ttl(63);
    let (rs2, first, second) = ("192.168.2.220:8080", "192.168.2.201:10000", "192.168.2.201:10001");
    case("two ports serve two clients of each of two servers, and no more")
        .arrives(syn(1))
        .arrives(syn(2))
        .arrives(syn(3))
        .arrives(syn(10001))
        .arrives(syn(5))
        .leaves(RS1.gets(seen(first, RS1_HTTP)))
        .leaves(RS2.gets(seen(second, rs2)))
        .leaves(RS1.gets(seen(second, RS1_HTTP)))
        .leaves(RS2.gets(seen(first, rs2)))
        .drops(DropReason::LocalPortsExhausted, 1)
        .opens(4)
        .pools(&local_addresses(4, 0, 2))
        .alone()
        .run();
}

#[test]
fn arp() {
    let announce = |mut case: Case| {
        case = case.leaves(director_announces(Side::Outside, VIP));
        case = case.leaves(director_announces(Side::Inside, DIP));
        case.leaves(director_announces(Side::Inside, LOCAL))
    };
    announce(case("a local address is the inside port's, and announced there").cold())
        .leaves(director_asks(Side::Outside, GATEWAY.address))
        .leaves(director_asks(Side::Inside, RS1.address))
        .leaves(director_asks(Side::Inside, RS2.address))
        .in_any_order()
        .pipeline(PipelineCounters { arp_requests: 6, ..PipelineCounters::default() })
        .run();
    case("and answered for there alone")
        .arrives(CLIENT.asks_for(LOCAL))
        .arrives(RS1.asks_for(LOCAL))
        .leaves(RS1.is_told_of(LOCAL))
        .drops(DropReason::ArpNotForUs, 1)
        .pipeline(PipelineCounters { arp_replies: 1, ..PipelineCounters::default() })
        .run();
}

#[test]
fn errors() {
    let local = "192.168.2.201:10000";
    let to_vip = Packet::udp(CLIENT_PORT, DNS).payload("odd");
    let to_server = Packet::udp(local, "192.168.2.210:53").payload("odd").ttl(63);
    let error = |from, to, quote: &Packet| {
        Packet::icmp(from, to, host_unreachable()).payload(quote.bytes())
    };
    case("an error to the local address goes to the client, from the VIP")
        .arrives(CLIENT.sends(to_vip.clone()))
        .leaves(RS1.gets(to_server.clone()))
        .arrives(ROUTER.sends(error(ROUTER.address, LOCAL, &to_server)))
        .leaves(CLIENT.gets(error(VIP, CLIENT.address, &to_vip.ttl(63)).ttl(63)))
        .engine(EngineCounters { opened: 1, icmp_errors: 1, ..EngineCounters::default() })
        .run();
}

#[test]
fn as_a_host() {
    let ping = Packet::echo_request(RS1.address, LOCAL, 7, 1);
    let pong = Packet::echo_reply(LOCAL, RS1.address, 7, 1);
    let (host, dialled) = ("192.168.2.210:9", "192.168.2.201:10000");
    case("a local address answers echoes, and refuses connections that nobody opened")
        .arrives(RS1.sends(ping))
        .arrives(RS1.sends(Packet::tcp(host, dialled).seq(7).syn()))
        .leaves(RS1.gets(pong))
        .leaves(RS1.gets(Packet::tcp(dialled, host).seq(0).rst().ack(8).window(0)))
        .drops(DropReason::Refused, 1)
        .pipeline(PipelineCounters { echo_replies: 1, resets: 1, ..PipelineCounters::default() })
        .run();
}

#[test]
fn from_inside() {
    let (host, local) = ("192.168.2.220:5000", "192.168.2.201:10000");
    case("an inside host is a client like any other")
        .arrives(RS2.sends(Packet::tcp(host, HTTP).syn()))
        .leaves(RS1.gets(Packet::tcp(local, RS1_HTTP).syn().ttl(63)))
        .arrives(RS1.sends(Packet::tcp(RS1_HTTP, local).syn().ack(1001)))
        .leaves(RS2.gets(Packet::tcp(HTTP, host).syn().ack(1001).ttl(63)))
        .opens(1)
        .pools(&local_addresses(1, 0, 0))
        .alone()
        .run();
}
