//! Virtual services: DNAT and back.

use shunt_dataplane::{DropReason, PipelineCounters};
use shunt_nat::{ServiceCounters, Traffic};
use shunt_testkit::Packet;

use crate::{
    case::Case,
    network::{CLIENT, OTHER_VIP, RS1, RS2},
};

const CLIENT_PORT: &str = "192.168.1.200:4000";
const HTTP: &str = "192.168.1.100:80";
const RS1_HTTP: &str = "192.168.2.210:80";

fn syn(src: &str, dst: &str) -> Packet {
    Packet::tcp(src, dst).seq(100).syn()
}

#[test]
fn a_tcp_connection_from_syn_to_fin() {
    let request = "GET / HTTP/1.1\r\n\r\n";
    let to_vip = || Packet::tcp(CLIENT_PORT, HTTP);
    let to_server = || Packet::tcp(CLIENT_PORT, RS1_HTTP).ttl(63);
    let from_server = || Packet::tcp(RS1_HTTP, CLIENT_PORT);
    let from_vip = || Packet::tcp(HTTP, CLIENT_PORT).ttl(63);
    Case::new("both directions are translated, and nothing else of a packet is touched")
        .arrives(CLIENT.sends(to_vip().seq(100).syn().id(1)))
        .leaves(RS1.gets(to_server().seq(100).syn().id(1)))
        .arrives(RS1.sends(from_server().seq(900).syn().ack(101)))
        .leaves(CLIENT.gets(from_vip().seq(900).syn().ack(101)))
        .arrives(CLIENT.sends(to_vip().seq(101).ack(901)))
        .arrives(CLIENT.sends(to_vip().seq(101).ack(901).payload(request)))
        .leaves(RS1.gets(to_server().seq(101).ack(901)))
        .leaves(RS1.gets(to_server().seq(101).ack(901).payload(request)))
        .arrives(RS1.sends(from_server().seq(901).ack(119).payload("odd")))
        .leaves(CLIENT.gets(from_vip().seq(901).ack(119).payload("odd")))
        .arrives(CLIENT.sends(to_vip().seq(119).ack(904).fin()))
        .leaves(RS1.gets(to_server().seq(119).ack(904).fin()))
        .arrives(RS1.sends(from_server().seq(904).ack(120).fin()))
        .leaves(CLIENT.gets(from_vip().seq(904).ack(120).fin()))
        .arrives(CLIENT.sends(to_vip().seq(120).ack(905)))
        .leaves(RS1.gets(to_server().seq(120).ack(905)))
        .opens(1)
        .services(&[ServiceCounters {
            connections: 1,
            traffic: Traffic {
                in_packets: 5,
                in_bytes: 5 * 40 + 18,
                out_packets: 3,
                out_bytes: 3 * 40 + 3,
            },
            refused: 0,
        }])
        .run();
}

#[test]
fn udp_both_ways() {
    let (dns, server) = ("192.168.1.100:53", "192.168.2.210:5353");
    Case::new("UDP is translated both ways, port mapping included; no checksum stays none")
        .arrives(CLIENT.sends(Packet::udp(CLIENT_PORT, dns).payload("a question")))
        .leaves(RS1.gets(Packet::udp(CLIENT_PORT, server).payload("a question").ttl(63)))
        .arrives(RS1.sends(Packet::udp(server, CLIENT_PORT).payload("an answer")))
        .leaves(CLIENT.gets(Packet::udp(dns, CLIENT_PORT).payload("an answer").ttl(63)))
        .arrives(CLIENT.sends(Packet::udp(CLIENT_PORT, dns).unchecksummed().payload("?")))
        .leaves(RS1.gets(Packet::udp(CLIENT_PORT, server).unchecksummed().payload("?").ttl(63)))
        .arrives(RS1.sends(Packet::udp(server, CLIENT_PORT).unchecksummed()))
        .leaves(CLIENT.gets(Packet::udp(dns, CLIENT_PORT).unchecksummed().ttl(63)))
        .opens(1)
        .services(&[
            ServiceCounters::default(),
            ServiceCounters::default(),
            ServiceCounters {
                connections: 1,
                traffic: Traffic {
                    in_packets: 2,
                    in_bytes: 38 + 29,
                    out_packets: 2,
                    out_bytes: 37 + 28,
                },
                refused: 0,
            },
        ])
        .run();
}

#[test]
fn port_mapping() {
    let vip = "192.168.1.100:8080";
    Case::new("VIP:8080 is served by port 80 of the server, and answers from VIP:8080")
        .arrives(CLIENT.sends(syn(CLIENT_PORT, vip)))
        .leaves(RS1.gets(syn(CLIENT_PORT, RS1_HTTP).ttl(63)))
        .arrives(RS1.sends(Packet::tcp(RS1_HTTP, CLIENT_PORT).syn().ack(101)))
        .leaves(CLIENT.gets(Packet::tcp(vip, CLIENT_PORT).syn().ack(101).ttl(63)))
        .opens(1)
        .run();
}

#[test]
fn a_vip_that_is_no_port_address() {
    let (vip, server) = ("192.168.1.150:443", "192.168.2.220:8443");
    Case::new("a VIP needs no port to have it")
        .arrives(CLIENT.sends(syn(CLIENT_PORT, vip)))
        .leaves(RS2.gets(syn(CLIENT_PORT, server).ttl(63)))
        .arrives(RS2.sends(Packet::tcp(server, CLIENT_PORT).syn().ack(101)))
        .leaves(CLIENT.gets(Packet::tcp(vip, CLIENT_PORT).syn().ack(101).ttl(63)))
        .opens(1)
        .run();
}

#[test]
fn round_robin() {
    let client = |n| format!("192.168.1.200:{}", 4000 + n);
    let rs2 = "192.168.2.220:80";
    let mut case = Case::new("new connections alternate, packets of old ones don't count");
    for n in 0..4 {
        let (server, http) = if n % 2 == 0 { (&RS1, RS1_HTTP) } else { (&RS2, rs2) };
        case = case
            .arrives(CLIENT.sends(syn(&client(n), HTTP)))
            .arrives(CLIENT.sends(syn(&client(0), HTTP)))
            .leaves(server.gets(syn(&client(n), http).ttl(63)))
            .leaves(RS1.gets(syn(&client(0), RS1_HTTP).ttl(63)));
    }
    case.opens(4).run();
}

#[test]
fn the_first_packets_of_a_burst() {
    let client = |n| format!("192.168.1.200:{}", 4000 + n);
    let mut case =
        Case::new("forty clients in one poll leave in their order, in more than a burst");
    for n in 0..40 {
        case = case.arrives(CLIENT.sends(syn(&client(n), "192.168.1.100:8080")));
    }
    for n in 0..40 {
        case = case.leaves(RS1.gets(syn(&client(n), RS1_HTTP).ttl(63)));
    }
    case.opens(40).run();
}

#[test]
fn a_service_without_servers() {
    let vip = format!("{OTHER_VIP}:81");
    let datagram = Packet::udp(CLIENT_PORT, &vip).payload("anybody?");
    let unreachable =
        Packet::icmp(OTHER_VIP, CLIENT.address, crate::icmp_errors::port_unreachable())
            .payload(datagram.bytes());
    Case::new("a service that has no server refuses, from the VIP")
        .arrives(CLIENT.sends(syn(CLIENT_PORT, &vip)))
        .arrives(CLIENT.sends(datagram))
        .leaves(CLIENT.gets(Packet::tcp(&vip, CLIENT_PORT).seq(0).rst().ack(101).window(0)))
        .leaves(CLIENT.gets(unreachable))
        .drops(DropReason::Refused, 2)
        .pipeline(PipelineCounters { resets: 1, icmp_errors: 1, ..PipelineCounters::default() })
        .run();
}

#[test]
fn a_wrong_transport_checksum_stays_wrong() {
    let corrupt = |bytes: &mut Vec<u8>| *bytes.last_mut().expect("data") ^= 0x40;
    Case::new("a payload that was corrupted on its way isn't given a checksum that fits")
        .arrives(CLIENT.sends(syn(CLIENT_PORT, HTTP).payload("data")).with(corrupt))
        .leaves(RS1.gets(syn(CLIENT_PORT, RS1_HTTP).payload("data").ttl(63)).with(corrupt))
        .opens(1)
        .wrong_checksums()
        .run();
}

#[test]
fn ip_options_and_padding() {
    let options = [0x94, 4, 0, 0];
    let request = || syn(CLIENT_PORT, HTTP).options(&options);
    Case::new("IP options are passed on, what follows the packet in its frame is cut off")
        .arrives(CLIENT.sends(request()).with(|bytes| bytes.extend([0xaa; 6])))
        .leaves(RS1.gets(syn(CLIENT_PORT, RS1_HTTP).options(&options).ttl(63)))
        .opens(1)
        .run();
}

#[test]
fn the_ttl_of_a_translated_packet() {
    let last = syn(CLIENT_PORT, HTTP).ttl(1);
    let exceeded =
        Packet::icmp("192.168.1.100", CLIENT.address, crate::icmp_errors::ttl_exceeded())
            .payload(last.bytes());
    Case::new("a packet that would end here opens no connection, and its sender is told")
        .arrives(CLIENT.sends(last))
        .leaves(CLIENT.gets(exceeded))
        .drops(DropReason::TtlExpired, 1)
        .pipeline(PipelineCounters { icmp_errors: 1, ..PipelineCounters::default() })
        .run();
}

#[test]
fn resets_of_nothing() {
    Case::new("a reset that belongs to no connection is dropped in silence")
        .arrives(CLIENT.sends(Packet::tcp(CLIENT_PORT, HTTP).rst()))
        .arrives(CLIENT.sends(Packet::tcp(CLIENT_PORT, "192.168.1.100:99").rst()))
        .drops(DropReason::UnknownConnection, 2)
        .run();
}
