//! Packets that are too large for the port that they have to leave by.

use shunt_dataplane::{DropReason, PipelineCounters};
use shunt_nat::Side;
use shunt_testkit::{Packet, mac};

use crate::{
    case::Case,
    icmp_errors::fragmentation_needed,
    network::{CLIENT, DIP, GATEWAY, Host, ROUTER, RS1, VIP, director_asks},
};

fn one_error() -> PipelineCounters {
    PipelineCounters { icmp_errors: 1, ..PipelineCounters::default() }
}

fn fragmented(fragmented: u64) -> PipelineCounters {
    PipelineCounters { fragmented, ..PipelineCounters::default() }
}

/// A datagram of 1400 bytes that may be cut.
fn datagram(src: &str, dst: &str) -> Packet {
    let payload: Vec<_> = (0..1400 - 28).map(|n| (n % 251) as u8).collect();
    Packet::udp(src, dst).id(7).dont_fragment(false).payload(payload)
}

/// What becomes of it where 600 bytes pass: 576 bytes are the most of which 8 are a divisor.
fn fragments(datagram: &Packet) -> [Packet; 3] {
    [0..576, 576..1152, 1152..1380].map(|range| datagram.part(range))
}

const CLIENT_PORT: &str = "192.168.1.200:4000";

#[test]
fn too_large_for_the_other_port() {
    let fits = || Packet::udp("192.168.1.200:9", "10.9.1.2:9").payload([7; 1400 - 28]);
    let large = Packet::udp("192.168.1.200:9", "10.9.1.2:9").payload([7; 1401 - 28]);
    let quote = large.bytes()[..548].to_vec();
    let needed = Packet::icmp(VIP, CLIENT.address, fragmentation_needed(1400)).payload(quote);
    Case::new("1400 bytes pass; 1401 don't, and the sender is told")
        .arrives(CLIENT.sends(fits()))
        .arrives(CLIENT.sends(large))
        .leaves(ROUTER.gets(fits().ttl(63)))
        .leaves(CLIENT.gets(needed))
        .drops(DropReason::TooBig, 1)
        .pipeline(one_error())
        .run();
}

#[test]
fn too_large_for_a_server() {
    let request = Packet::tcp("192.168.1.200:4000", "192.168.1.100:8080");
    let large = request.clone().ack(1).payload([7; 1401 - 40]);
    let quote = large.bytes()[..548].to_vec();
    let needed = Packet::icmp(VIP, CLIENT.address, fragmentation_needed(1400)).payload(quote);
    Case::new("the error about a translated packet quotes it as its sender knows it")
        .arrives(CLIENT.sends(request.syn()))
        .leaves(RS1.gets(Packet::tcp("192.168.1.200:4000", "192.168.2.210:80").syn().ttl(63)))
        .arrives(CLIENT.sends(large))
        .leaves(CLIENT.gets(needed))
        .drops(DropReason::TooBig, 1)
        .pipeline(one_error())
        .opens(1)
        .run();
}

#[test]
fn routed_in_fragments() {
    let large = datagram("192.168.1.200:9", "10.9.1.2:9");
    let mut case = Case::new("whom nobody forbids it cuts what is too large (RFC 791)")
        .mtus(1500, 600)
        .arrives(CLIENT.sends(large.clone()));
    for fragment in fragments(&large.ttl(63)) {
        case = case.leaves(ROUTER.gets(fragment));
    }
    case.pipeline(fragmented(1)).run();
}

#[test]
fn options_in_fragments() {
    let (record_route, router_alert) = ([7, 7, 4, 0, 0, 0, 0], [0x94, 4, 0, 0]);
    let options = [&record_route[..], &router_alert, &[0]].concat();
    let large = datagram("192.168.1.200:9", "10.9.1.2:9").options(&options);
    let passed = large.clone().ttl(63);
    Case::new("all options are in the first fragment, those marked so in all")
        .mtus(1500, 600)
        .arrives(CLIENT.sends(large))
        .leaves(ROUTER.gets(passed.part(0..568)))
        .leaves(ROUTER.gets(passed.part(568..1144).options(&router_alert)))
        .leaves(ROUTER.gets(passed.part(1144..1380).options(&router_alert)))
        .pipeline(fragmented(1))
        .run();
}

#[test]
fn translated_in_fragments() {
    let to_vip = datagram(CLIENT_PORT, "192.168.1.100:53");
    let to_server = datagram(CLIENT_PORT, "192.168.2.210:5353").ttl(63);
    let mut case = Case::new("the first fragment has the checksum of the whole datagram")
        .mtus(1500, 600)
        .arrives(CLIENT.sends(to_vip.clone().unchecksummed()))
        .arrives(CLIENT.sends(to_vip));
    for datagram in [to_server.clone().unchecksummed(), to_server] {
        for fragment in fragments(&datagram) {
            case = case.leaves(RS1.gets(fragment));
        }
    }
    case.pipeline(fragmented(2)).opens(1).run();
}

#[test]
fn from_the_inside_in_fragments() {
    let remote = "203.0.113.9:123";
    let from_host = datagram("192.168.2.210:40000", remote);
    let from_snat = datagram("192.168.1.160:40000", remote).ttl(63);
    let mut case = Case::new("what an inside host sends is cut for the outside")
        .mtus(600, 1400)
        .arrives(RS1.sends(from_host));
    for fragment in fragments(&from_snat) {
        case = case.leaves(GATEWAY.gets(fragment));
    }
    case.pipeline(fragmented(1)).opens(1).run();
}

#[test]
fn fragments_in_fragments() {
    let to_vip = datagram(CLIENT_PORT, "192.168.1.100:53");
    let to_server = datagram(CLIENT_PORT, "192.168.2.210:5353").ttl(63);
    let last = to_server.part(800..1380);
    Case::new("a fragment that is too large is cut like any other packet")
        .mtus(1500, 600)
        .arrives(CLIENT.sends(to_vip.part(0..800)))
        .arrives(CLIENT.sends(to_vip.part(800..1380)))
        .leaves(RS1.gets(to_server.part(0..576)))
        .leaves(RS1.gets(to_server.part(576..800)))
        .leaves(RS1.gets(last))
        .pipeline(fragmented(1))
        .opens(1)
        .run();
}

#[test]
fn fragments_of_what_waited() {
    let late = Host { side: Side::Inside, mac: mac(50), address: "192.168.2.50" };
    let large = datagram("192.168.1.200:9", "192.168.2.50:9");
    let mut case = Case::new("a packet waits for its neighbour in one piece")
        .mtus(1500, 600)
        .arrives(CLIENT.sends(large.clone()))
        .leaves(director_asks(Side::Inside, late.address))
        .arrives(late.answers());
    for fragment in fragments(&large.ttl(63)) {
        case = case.leaves(late.gets(fragment));
    }
    case.pipeline(PipelineCounters { arp_requests: 1, arp_learned: 1, ..fragmented(1) })
        .opens(1)
        .run();
}

#[test]
fn fragmentation_forbidden_inside() {
    let large = datagram("192.168.2.210:9", "203.0.113.9:9").dont_fragment(true);
    let needed =
        Packet::icmp(DIP, RS1.address, fragmentation_needed(600)).payload(&large.bytes()[..548]);
    Case::new("an inside host hears of the outside's MTU, and of its own addresses")
        .mtus(600, 1400)
        .arrives(RS1.sends(large))
        .leaves(RS1.gets(needed))
        .drops(DropReason::TooBig, 1)
        .pipeline(one_error())
        .opens(1)
        .run();
}

#[test]
fn an_answer_in_fragments() {
    let far = "203.0.113.9";
    let ping = Packet::echo_request(far, VIP, 7, 1).dont_fragment(false).id(7).payload([3; 992]);
    let pong = Packet::echo_reply(VIP, far, 7, 1).dont_fragment(false).id(7).payload([3; 992]);
    Case::new("the director's own packets are cut, too: an echo whose way back is narrower")
        .mtus(600, 1400)
        .arrives(RS1.sends(ping))
        .leaves(GATEWAY.gets(pong.part(0..576)))
        .leaves(GATEWAY.gets(pong.part(576..1000)))
        .pipeline(PipelineCounters { echo_replies: 1, ..fragmented(1) })
        .run();
}
