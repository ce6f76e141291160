//! Who serves whom: persistence, one-packet scheduling, many endpoints, fallback, thresholds.

use shunt_dataplane::{DropReason, PipelineCounters};
use shunt_nat::{EngineCounters, ServiceCounters, Traffic};
use shunt_testkit::Packet;

use crate::{
    case::Case,
    icmp_errors::ttl_exceeded,
    network::{CLIENT, Frame, GATEWAY, Host, OTHER_VIP, RS1, RS2, VIP},
};

/// A service file's services, and the way to remote clients.
fn rules(services: &str) -> String {
    format!("[[route]]\nto = \"default\"\nvia = \"192.168.1.1\"\n{services}")
}

/// What a remote client sends, and what a server gets of it.
fn syn(client: &str, vip: &str) -> Frame {
    GATEWAY.sends(Packet::tcp(client, vip).syn())
}

fn arrived(server: &Host, client: &str, port: u16) -> Frame {
    server.gets(Packet::tcp(client, &format!("{}:{port}", server.address)).syn().ttl(63))
}

/// The reset that answers a SYN.
fn refusal(client: &str, vip: &str) -> Frame {
    GATEWAY.gets(Packet::tcp(vip, client).seq(0).rst().ack(1001).window(0))
}

fn resets(resets: u64) -> PipelineCounters {
    PipelineCounters { resets, ..PipelineCounters::default() }
}

const HTTP: &str = "192.168.1.100:80";

#[test]
fn a_network_keeps_its_server() {
    Case::new("clients of one /24 are one client, and the others take turns")
        .rules(rules(
            r#"
            [[service]]
            vip = "192.168.1.100:80"
            scheduler = "rr"
            persistence = "1m"
            persistence-mask = "255.255.255.0"
            server = [{ address = "192.168.2.210" }, { address = "192.168.2.220" }]
            "#,
        ))
        .arrives(syn("203.0.113.1:4000", HTTP))
        .arrives(syn("203.0.113.254:4000", HTTP))
        .arrives(syn("203.0.112.1:4000", HTTP))
        .arrives(syn("203.0.113.1:4001", HTTP))
        .arrives(syn("203.0.112.9:4000", HTTP))
        .leaves(arrived(&RS1, "203.0.113.1:4000", 80))
        .leaves(arrived(&RS1, "203.0.113.254:4000", 80))
        .leaves(arrived(&RS1, "203.0.113.1:4001", 80))
        .leaves(arrived(&RS2, "203.0.112.1:4000", 80))
        .leaves(arrived(&RS2, "203.0.112.9:4000", 80))
        .in_any_order()
        .opens(5)
        .run();
}

#[test]
fn persistence_ends() {
    let client = |port| format!("203.0.113.1:{port}");
    let from_server = Packet::tcp("192.168.2.210:80", &client(1)).syn().ack(1001);
    let from_vip = Packet::tcp(HTTP, &client(1)).syn().ack(1001).ttl(63);
    let reset = |dst| Packet::tcp(&client(1), dst).seq(1001).ack(1001).rst();
    let ack = |dst| Packet::tcp(&client(1), dst).seq(1001).ack(1001);
    Case::new("five seconds after its last connection a client is given the next server")
        .rules(rules(
            r#"
            [[service]]
            vip = "192.168.1.100:80"
            scheduler = "rr"
            persistence = 5
            timeouts = { close = 1, syn-recv = 1 }
            server = [{ address = "192.168.2.210" }, { address = "192.168.2.220" }]
            "#,
        ))
        .arrives(syn(&client(1), HTTP))
        .leaves(arrived(&RS1, &client(1), 80))
        .arrives(RS1.sends(from_server))
        .leaves(GATEWAY.gets(from_vip))
        .arrives(GATEWAY.sends(ack(HTTP)))
        .leaves(RS1.gets(ack("192.168.2.210:80").ttl(63)))
        .after_millis(10_000)
        .arrives(GATEWAY.sends(reset(HTTP)))
        .leaves(RS1.gets(reset("192.168.2.210:80").ttl(63)))
        .after_millis(3000)
        .after_millis(0)
        .arrives(syn(&client(2), HTTP))
        .leaves(arrived(&RS1, &client(2), 80))
        .after_millis(10_000)
        .after_millis(0)
        .arrives(syn(&client(3), HTTP))
        .leaves(arrived(&RS2, &client(3), 80))
        .engine(EngineCounters { opened: 3, expired: 2, ..EngineCounters::default() })
        .run();
}

#[test]
fn every_packet_by_itself() {
    let (client, dns) = ("203.0.113.1:4000", "192.168.1.100:53");
    let (rs1, rs2) = ("192.168.2.210:5353", "192.168.2.220:5353");
    let question = |dst, id| Packet::udp(client, dst).payload("odd").id(id);
    let answer = |src| Packet::udp(src, client).payload("answer");
    let tired = question(dns, 5).ttl(1);
    let exceeded = Packet::icmp(VIP, "203.0.113.1", ttl_exceeded()).payload(tired.bytes());
    Case::new("one client's packets go to both servers; all answers come from the VIP")
        .rules(rules(
            r#"
            [[service]]
            protocol = "udp"
            vip = "192.168.1.100:53"
            scheduler = "rr"
            one-packet = true
            server = [{ address = "192.168.2.210:5353" }, { address = "192.168.2.220:5353" }]
            "#,
        ))
        .arrives(GATEWAY.sends(question(dns, 1)))
        .arrives(GATEWAY.sends(question(dns, 2)))
        .arrives(GATEWAY.sends(question(dns, 3)))
        .arrives(GATEWAY.sends(tired))
        .leaves(RS1.gets(question(rs1, 1).ttl(63)))
        .leaves(RS2.gets(question(rs2, 2).ttl(63)))
        .leaves(RS1.gets(question(rs1, 3).ttl(63)))
        .leaves(GATEWAY.gets(exceeded))
        .arrives(RS2.sends(answer(rs2)))
        .arrives(RS1.sends(answer(rs1)))
        .leaves(GATEWAY.gets(answer(dns).ttl(63)))
        .leaves(GATEWAY.gets(answer(dns).ttl(63)))
        .drops(DropReason::TtlExpired, 1)
        .pipeline(PipelineCounters { icmp_errors: 1, ..PipelineCounters::default() })
        .services(&[ServiceCounters {
            connections: 3,
            traffic: Traffic { in_packets: 3, in_bytes: 3 * 31, out_packets: 2, out_bytes: 2 * 34 },
            refused: 0,
        }])
        .run();
}

#[test]
fn a_range_of_ports() {
    let client = "203.0.113.1:4000";
    let vip = |port| format!("192.168.1.100:{port}");
    let answer = |src: &str| Packet::tcp(src, client).syn().ack(1001);
    Case::new("a server is dialled on the vport; a narrower service wins; the ends are within")
        .rules(rules(
            r#"
            [[service]]
            vip = "192.168.1.100:8000-8999"
            scheduler = "rr"
            server = [{ address = "192.168.2.210" }]

            [[service]]
            vip = "192.168.1.100:8080"
            scheduler = "rr"
            server = [{ address = "192.168.2.220:80" }]
            "#,
        ))
        .arrives(syn(client, &vip(7999)))
        .arrives(syn(client, &vip(8000)))
        .arrives(syn(client, &vip(8999)))
        .arrives(syn(client, &vip(9000)))
        .arrives(syn(client, &vip(8080)))
        .leaves(refusal(client, &vip(7999)))
        .leaves(refusal(client, &vip(9000)))
        .leaves(arrived(&RS1, client, 8000))
        .leaves(arrived(&RS1, client, 8999))
        .leaves(arrived(&RS2, client, 80))
        .arrives(RS1.sends(answer("192.168.2.210:8999")))
        .arrives(RS2.sends(answer("192.168.2.220:80")))
        .leaves(GATEWAY.gets(answer(&vip(8999)).ttl(63)))
        .leaves(GATEWAY.gets(answer(&vip(8080)).ttl(63)))
        .drops(DropReason::Refused, 2)
        .pipeline(resets(2))
        .opens(3)
        .run();
}

#[test]
fn any_port() {
    let (one, other) = ("203.0.113.1:4000", "203.0.113.2:4000");
    let vip = |port| format!("192.168.1.100:{port}");
    Case::new("a client has one server for all ports, but for the one that another service has")
        .rules(rules(
            r#"
            [[service]]
            vip = "192.168.1.100:*"
            scheduler = "rr"
            persistence = true
            server = [{ address = "192.168.2.210" }, { address = "192.168.2.220" }]

            [[service]]
            vip = "192.168.1.100:22"
            scheduler = "rr"
            server = [{ address = "192.168.2.220:2222" }]
            "#,
        ))
        .arrives(syn(one, &vip(1)))
        .arrives(syn(other, &vip(80)))
        .arrives(syn(one, &vip(65535)))
        .arrives(syn(other, &vip(443)))
        .arrives(syn(one, &vip(22)))
        .leaves(arrived(&RS1, one, 1))
        .leaves(arrived(&RS2, other, 80))
        .leaves(arrived(&RS1, one, 65535))
        .leaves(arrived(&RS2, other, 443))
        .leaves(arrived(&RS2, one, 2222))
        .opens(5)
        .run();
}

#[test]
fn a_group() {
    let client = "203.0.113.1:4000";
    let other = format!("{OTHER_VIP}:5070");
    let sip = "192.168.1.100:5060";
    let to = |server: &Host, port| format!("{}:{port}", server.address);
    let answer = |src: &str| Packet::udp(src, client).payload("odd");
    Case::new("several VIPs, ports and protocols are scheduled as one, and answer as dialled")
        .rules(rules(
            r#"
            [[service]]
            protocol = ["tcp", "udp"]
            vip = ["192.168.1.100:5060", "192.168.1.150:5070"]
            scheduler = "rr"
            server = [{ address = "192.168.2.210" }, { address = "192.168.2.220" }]
            "#,
        ))
        .arrives(syn(client, sip))
        .arrives(GATEWAY.sends(Packet::udp(client, sip)))
        .arrives(syn(client, &other))
        .arrives(GATEWAY.sends(Packet::udp(client, &other)))
        .leaves(arrived(&RS1, client, 5060))
        .leaves(RS2.gets(Packet::udp(client, &to(&RS2, 5060)).ttl(63)))
        .leaves(arrived(&RS1, client, 5070))
        .leaves(RS2.gets(Packet::udp(client, &to(&RS2, 5070)).ttl(63)))
        .arrives(RS2.sends(answer(&to(&RS2, 5070))))
        .arrives(RS2.sends(answer(&to(&RS2, 5060))))
        .leaves(GATEWAY.gets(answer(&other).ttl(63)))
        .leaves(GATEWAY.gets(answer(sip).ttl(63)))
        .opens(4)
        .run();
}

#[test]
fn a_fallback() {
    let client = |port| format!("203.0.113.1:{port}");
    let answer = |src: &str| Packet::tcp(src, &client(2)).syn().ack(1001);
    Case::new("the fallback gets what no server takes, and no more")
        .rules(rules(
            r#"
            [[service]]
            vip = "192.168.1.100:80"
            scheduler = "rr"
            fallback = "192.168.2.220:8080"
            server = [{ address = "192.168.2.210", upper = 1 }]

            [[service]]
            vip = "192.168.1.100:81"
            scheduler = "rr"
            fallback = "192.168.2.220"
            server = [{ address = "192.168.2.210", weight = 0 }]
            "#,
        ))
        .arrives(syn(&client(1), HTTP))
        .arrives(syn(&client(2), HTTP))
        .arrives(syn(&client(3), "192.168.1.100:81"))
        .leaves(arrived(&RS1, &client(1), 80))
        .leaves(arrived(&RS2, &client(2), 8080))
        .leaves(arrived(&RS2, &client(3), 81))
        .arrives(RS2.sends(answer("192.168.2.220:8080")))
        .leaves(GATEWAY.gets(answer(HTTP).ttl(63)))
        .opens(3)
        .run();
}

#[test]
fn thresholds() {
    let client = |port| format!("203.0.113.1:{port}");
    let reset = |dst| Packet::tcp(&client(1), dst).rst();
    Case::new("a full server gets nothing until it has fewer connections than its lower threshold")
        .rules(rules(
            r#"
            [[service]]
            vip = "192.168.1.100:80"
            scheduler = "rr"
            timeouts = { close = 1 }
            server = [
                { address = "192.168.2.210", upper = 2, lower = 2 },
                { address = "192.168.2.220", upper = 1 },
            ]
            "#,
        ))
        .arrives(syn(&client(1), HTTP))
        .arrives(syn(&client(2), HTTP))
        .arrives(syn(&client(3), HTTP))
        .arrives(syn(&client(4), HTTP))
        .leaves(arrived(&RS1, &client(1), 80))
        .leaves(arrived(&RS2, &client(2), 80))
        .leaves(arrived(&RS1, &client(3), 80))
        .leaves(refusal(&client(4), HTTP))
        .arrives(GATEWAY.sends(reset(HTTP)))
        .leaves(RS1.gets(reset("192.168.2.210:80").ttl(63)))
        .after_millis(3000)
        .after_millis(0)
        .arrives(syn(&client(5), HTTP))
        .arrives(syn(&client(6), HTTP))
        .leaves(arrived(&RS1, &client(5), 80))
        .leaves(refusal(&client(6), HTTP))
        .drops(DropReason::Refused, 2)
        .pipeline(resets(2))
        .engine(EngineCounters { opened: 4, expired: 1, ..EngineCounters::default() })
        .services(&[ServiceCounters {
            connections: 4,
            traffic: Traffic { in_packets: 5, in_bytes: 5 * 40, out_packets: 0, out_bytes: 0 },
            refused: 2,
        }])
        .run();
}

#[test]
fn a_client_at_both_ends() {
    let client = "192.168.1.200:4000";
    Case::new("a server that has this client endpoint already gives way to the next")
        .rules(rules(
            r#"
            [[service]]
            vip = "192.168.1.100:80"
            scheduler = "fo"
            server = [{ address = "192.168.2.210:80" }, { address = "192.168.2.220:80" }]

            [[service]]
            vip = "192.168.1.100:81"
            scheduler = "fo"
            server = [{ address = "192.168.2.210:80" }, { address = "192.168.2.220:80" }]
            "#,
        ))
        .arrives(CLIENT.sends(Packet::tcp(client, HTTP).syn()))
        .arrives(CLIENT.sends(Packet::tcp(client, "192.168.1.100:81").syn()))
        .leaves(arrived(&RS1, client, 80))
        .leaves(arrived(&RS2, client, 80))
        .opens(2)
        .run();
}
