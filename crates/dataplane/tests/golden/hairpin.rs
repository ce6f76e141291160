//! Inside hosts that dial a VIP: their server sees the DIP, so that its answers come back.

use shunt_dataplane::{DropReason, PipelineCounters};
use shunt_nat::{EngineCounters, PoolUsage};
use shunt_testkit::Packet;

use crate::{
    case::Case,
    icmp_errors::port_unreachable,
    network::{CLIENT, DIP, RS1, RS2, VIP},
};

const MAPPED: &str = "192.168.1.100:8080";
const RS1_HTTP: &str = "192.168.2.210:80";

/// The usage of the ports 32768 to 60999.
fn hairpin(in_use: u64) -> [(&'static str, PoolUsage); 1] {
    [("hairpin", PoolUsage { endpoints: 28_232, in_use, ..PoolUsage::default() })]
}

#[test]
fn both_ways() {
    let (host, dip) = ("192.168.2.220:5000", "192.168.2.200:32768");
    Case::new("an inside host reaches a server through the VIP, and hears from the VIP")
        .arrives(RS2.sends(Packet::tcp(host, MAPPED).syn()))
        .leaves(RS1.gets(Packet::tcp(dip, RS1_HTTP).syn().ttl(63)))
        .arrives(RS1.sends(Packet::tcp(RS1_HTTP, dip).syn().ack(1001)))
        .leaves(RS2.gets(Packet::tcp(MAPPED, host).syn().ack(1001).ttl(63)))
        .arrives(RS2.sends(Packet::tcp(host, MAPPED).ack(1001).payload("odd")))
        .leaves(RS1.gets(Packet::tcp(dip, RS1_HTTP).ack(1001).payload("odd").ttl(63)))
        .opens(1)
        .pools(&hairpin(1))
        .alone()
        .run();
}

#[test]
fn a_server_and_itself() {
    let (host, dip) = ("192.168.2.210:40000", "192.168.2.200:40000");
    Case::new("a server that dials its own service reaches itself, and keeps its port if it can")
        .arrives(RS1.sends(Packet::tcp(host, MAPPED).syn()))
        .leaves(RS1.gets(Packet::tcp(dip, RS1_HTTP).syn().ttl(63)))
        .arrives(RS1.sends(Packet::tcp(RS1_HTTP, dip).syn().ack(1001)))
        .leaves(RS1.gets(Packet::tcp(MAPPED, host).syn().ack(1001).ttl(63)))
        .opens(1)
        .pools(&hairpin(1))
        .alone()
        .run();
}

#[test]
fn beside_a_client() {
    let (host, dip, client) = ("192.168.2.220:40000", "192.168.2.200:40000", "192.168.1.200:40000");
    Case::new("clients outside are seen as they are")
        .arrives(CLIENT.sends(Packet::tcp(client, MAPPED).syn()))
        .arrives(RS2.sends(Packet::tcp(host, MAPPED).syn()))
        .leaves(RS1.gets(Packet::tcp(client, RS1_HTTP).syn().ttl(63)))
        .leaves(RS1.gets(Packet::tcp(dip, RS1_HTTP).syn().ttl(63)))
        .opens(2)
        .pools(&hairpin(1))
        .alone()
        .run();
}

#[test]
fn errors() {
    let (host, dip) = ("192.168.2.220:5000", "192.168.2.200:32768");
    let (dns, server) = ("192.168.1.100:53", "192.168.2.210:5353");
    let asked = Packet::udp(host, dns).payload("odd");
    let seen = Packet::udp(dip, server).payload("odd").ttl(63);
    let error =
        |from, to, quote: Packet| Packet::icmp(from, to, port_unreachable()).payload(quote.bytes());
    Case::new("the server's port is closed: the inside host hears it from the VIP")
        .arrives(RS2.sends(asked.clone()))
        .leaves(RS1.gets(seen.clone()))
        .arrives(RS1.sends(error(RS1.address, DIP, seen)))
        .leaves(RS2.gets(error(VIP, RS2.address, asked.ttl(63)).ttl(63)))
        .engine(EngineCounters { opened: 1, icmp_errors: 1, ..EngineCounters::default() })
        .alone()
        .run();
}

#[test]
fn in_mid_stream() {
    let host = "192.168.2.220:5000";
    Case::new("what opens no connection is refused as it is outside")
        .arrives(RS2.sends(Packet::tcp(host, MAPPED).ack(7)))
        .leaves(RS2.gets(Packet::tcp(MAPPED, host).seq(7).rst().window(0)))
        .drops(DropReason::Refused, 1)
        .pipeline(PipelineCounters { resets: 1, ..PipelineCounters::default() })
        .run();
}

#[test]
fn one_packet() {
    let asked = Packet::udp("192.168.2.220:5000", "192.168.1.100:53").payload("odd");
    let refusal = Packet::icmp(VIP, RS2.address, port_unreachable()).payload(asked.bytes());
    Case::new("a one-packet service keeps nothing by which to translate answers: it refuses")
        .rules(
            r#"
            [[service]]
            protocol = "udp"
            vip = "192.168.1.100:53"
            scheduler = "rr"
            one-packet = true
            server = [{ address = "192.168.2.210" }]
            "#,
        )
        .arrives(RS2.sends(asked))
        .leaves(RS2.gets(refusal))
        .drops(DropReason::Refused, 1)
        .pipeline(PipelineCounters { icmp_errors: 1, ..PipelineCounters::default() })
        .run();
}
