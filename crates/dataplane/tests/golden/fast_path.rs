//! The fast path of packets whose connection remembers where they go: what still has to be noticed.

use shunt_dataplane::{DropReason, PipelineCounters};
use shunt_nat::Side;
use shunt_testkit::{Packet, mac};

use crate::{
    case::Case,
    network::{CLIENT, GATEWAY, Host, RS1, director_asks},
};

const CLIENT_PORT: &str = "192.168.1.200:4000";
const REMOTE_PORT: &str = "203.0.113.9:4000";
const DNS: &str = "192.168.1.100:53";
const SERVER: &str = "192.168.2.210:5353";

fn question(payload: &str) -> Packet {
    Packet::udp(CLIENT_PORT, DNS).id(7).dont_fragment(false).payload(payload)
}

fn passed_on(payload: &str) -> Packet {
    Packet::udp(CLIENT_PORT, SERVER).id(7).dont_fragment(false).payload(payload).ttl(63)
}

#[test]
fn a_neighbour_with_a_new_card() {
    let replaced = Host { mac: mac(77), ..RS1 };
    Case::new("a connection follows its server to another MAC address at once")
        .arrives(CLIENT.sends(question("1")))
        .arrives(CLIENT.sends(question("2")))
        .leaves(RS1.gets(passed_on("1")))
        .leaves(RS1.gets(passed_on("2")))
        .arrives(replaced.asks_for("192.168.2.200"))
        .leaves(replaced.is_told_of("192.168.2.200"))
        .arrives(CLIENT.sends(question("3")))
        .arrives(CLIENT.sends(question("4")))
        .leaves(replaced.gets(passed_on("3")))
        .leaves(replaced.gets(passed_on("4")))
        .opens(1)
        .pipeline(PipelineCounters { arp_replies: 1, ..PipelineCounters::default() })
        .run();
}

#[test]
fn a_neighbour_that_was_forgotten() {
    const LONG: &str = r#"
        [[service]]
        vip = "192.168.1.100:53"
        protocol = "udp"
        scheduler = "rr"
        timeouts = { udp = 1000 }
        server = [{ address = "192.168.2.210:5353" }]
    "#;
    let answer = |payload| RS1.sends(Packet::udp(SERVER, CLIENT_PORT).payload(payload));
    let heard = |payload| CLIENT.gets(Packet::udp(DNS, CLIENT_PORT).payload(payload).ttl(63));
    Case::new("a connection may outlive what is known of its client's address")
        .rules(LONG)
        .alone()
        .arrives(CLIENT.sends(question("?")))
        .leaves(RS1.gets(passed_on("?")))
        .arrives(answer("1"))
        .arrives(answer("2"))
        .leaves(heard("1"))
        .leaves(heard("2"))
        .after_millis(200)
        .after_millis(601_000)
        .leaves(RS1.is_asked())
        .after_millis(50)
        .arrives(answer("3"))
        .leaves(director_asks(Side::Outside, CLIENT.address))
        .held(1)
        .opens(1)
        .pipeline(PipelineCounters { arp_requests: 2, ..PipelineCounters::default() })
        .run();
}

#[test]
fn many_clients_behind_one_gateway() {
    Case::new("what a connection remembers is its gateway, not its client")
        .arrives(GATEWAY.sends(Packet::udp(REMOTE_PORT, DNS).payload("?")))
        .leaves(RS1.gets(Packet::udp(REMOTE_PORT, SERVER).payload("?").ttl(63)))
        .arrives(RS1.sends(Packet::udp(SERVER, REMOTE_PORT).payload("1")))
        .arrives(RS1.sends(Packet::udp(SERVER, REMOTE_PORT).payload("2")))
        .leaves(GATEWAY.gets(Packet::udp(DNS, REMOTE_PORT).payload("1").ttl(63)))
        .leaves(GATEWAY.gets(Packet::udp(DNS, REMOTE_PORT).payload("2").ttl(63)))
        .opens(1)
        .run();
}

#[test]
fn an_answer_from_the_wrong_side() {
    Case::new("who poses as a server outside does not get into its connections")
        .arrives(CLIENT.sends(question("?")))
        .leaves(RS1.gets(passed_on("?")))
        .arrives(RS1.sends(Packet::udp(SERVER, CLIENT_PORT).payload("1")))
        .leaves(CLIENT.gets(Packet::udp(DNS, CLIENT_PORT).payload("1").ttl(63)))
        .arrives(CLIENT.sends(Packet::udp(SERVER, CLIENT_PORT).payload("2")))
        .drops(DropReason::MartianSource, 1)
        .opens(1)
        .run();
}

#[test]
fn bytes_behind_the_packet() {
    let padded = |payload: &str| {
        CLIENT.sends(question(payload)).with(|bytes| bytes.extend_from_slice(b"secret"))
    };
    Case::new("what follows a packet in its frame is cut off")
        .arrives(CLIENT.sends(question("1")))
        .leaves(RS1.gets(passed_on("1")))
        .arrives(padded("2"))
        .leaves(RS1.gets(passed_on("2")))
        .opens(1)
        .run();
}

#[test]
fn damaged_on_the_way() {
    Case::new("a wrong header checksum is noticed in mid-connection, too")
        .arrives(CLIENT.sends(question("1")))
        .leaves(RS1.gets(passed_on("1")))
        .arrives(CLIENT.sends(question("2")).with(|bytes| bytes[24] ^= 1))
        .drops(DropReason::Ipv4Checksum, 1)
        .opens(1)
        .run();
}

#[test]
fn larger_than_the_next_network() {
    let (small, large) = ("x".repeat(600), "y".repeat(900));
    Case::new("a datagram that is too large is cut, however small those before it were")
        .mtus(1500, 800)
        .arrives(CLIENT.sends(question(&small)))
        .arrives(CLIENT.sends(question(&small)))
        .leaves(RS1.gets(passed_on(&small)))
        .leaves(RS1.gets(passed_on(&small)))
        .arrives(CLIENT.sends(question(&large)))
        .leaves(RS1.gets(passed_on(&large).part(0..776)))
        .leaves(RS1.gets(passed_on(&large).part(776..908)))
        .opens(1)
        .pipeline(PipelineCounters { fragmented: 1, ..PipelineCounters::default() })
        .run();
}

#[test]
fn connections_with_a_server_that_is_known() {
    let from = |client: &str| Packet::udp(client, DNS).payload("?");
    let to = |client: &str| RS1.gets(Packet::udp(client, SERVER).payload("?").ttl(63));
    let payload = "y".repeat(900);
    let large = |dst| Packet::udp("192.168.1.200:4009", dst).id(7).payload(payload.as_str());
    Case::new("what opens a connection is looked at, however well the way to its server is known")
        .mtus(1500, 800)
        .arrives(CLIENT.sends(from("192.168.1.200:4001")))
        .leaves(to("192.168.1.200:4001"))
        .arrives(CLIENT.sends(from("192.168.1.200:4002")))
        .leaves(to("192.168.1.200:4002"))
        .arrives(CLIENT.sends(from("192.168.2.210:4003")))
        .arrives(CLIENT.sends(from("192.168.1.100:4003")))
        .arrives(CLIENT.sends(from("127.0.0.1:4003")))
        .drops(DropReason::MartianSource, 3)
        .arrives(CLIENT.sends(from("192.168.1.200:4004")).with(|bytes| bytes[24] ^= 1))
        .drops(DropReason::Ipv4Checksum, 1)
        .arrives(CLIENT.sends(large(DNS).dont_fragment(false)))
        .leaves(RS1.gets(large(SERVER).dont_fragment(false).ttl(63).part(0..776)))
        .leaves(RS1.gets(large(SERVER).dont_fragment(false).ttl(63).part(776..908)))
        .arrives(CLIENT.sends(from("192.168.1.200:4005")))
        .leaves(to("192.168.1.200:4005"))
        .opens(4)
        .pipeline(PipelineCounters { fragmented: 1, ..PipelineCounters::default() })
        .run();
}
