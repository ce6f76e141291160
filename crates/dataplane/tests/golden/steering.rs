//! What several workers do otherwise than one: each gives out source ports of its own, those that
//! replies reach it by.

use shunt_nat::EngineCounters;
use shunt_testkit::Packet;

use crate::{
    case::Case,
    icmp_errors::port_unreachable,
    layout::WorkerLayout,
    network::{CLIENT, DIP, RS1, RS2, VIP},
};

/// The ports of an address that the worker which owns a peer endpoint may give out, in turn.
struct Share(Vec<u16>);

impl Share {
    fn of(layout: WorkerLayout, address: &str, first: u16, (peer, port): (&str, u16)) -> Share {
        let owners = layout.owners();
        let owner = |address: &str, port| owners.owner(address.parse().unwrap(), port);
        let ports = first..first + 64;
        Share(ports.filter(|own| owner(address, *own) == owner(peer, port)).collect())
    }
}

#[test]
fn replies_to_local_addresses_come_home() {
    const RULES: &str = r#"
        [[nat.local-address]]
        address = "192.168.2.201"
        ports = "10000-10063"

        [[service]]
        vip = "192.168.1.100:80"
        scheduler = "rr"
        mode = "full-nat"
        server = [{ address = "192.168.2.210:8080" }, { address = "192.168.2.220:8080" }]
    "#;
    for layout in WorkerLayout::all() {
        let mut case = Case::new("eight clients of a full-nat service").rules(RULES).opens(8);
        // How many ports each share has given, by its first port.
        let mut given = std::collections::HashMap::new();
        for (n, server) in (0..8).zip([RS1, RS2].iter().cycle()) {
            let share = Share::of(layout, "192.168.2.201", 10_000, (CLIENT.address, 4000 + n));
            let next = given.entry(share.0[0]).or_insert(0);
            let local = format!("192.168.2.201:{}", share.0[*next]);
            *next += 1;
            let (client, real) =
                (format!("192.168.1.200:{}", 4000 + n), format!("{}:8080", server.address));
            let http = "192.168.1.100:80";
            case = case
                .arrives(CLIENT.sends(Packet::tcp(&client, http).syn()))
                .leaves(server.gets(Packet::tcp(&local, &real).syn().ttl(63)))
                .arrives(server.sends(Packet::tcp(&real, &local).syn().ack(1001)))
                .leaves(CLIENT.gets(Packet::tcp(http, &client).syn().ack(1001).ttl(63)))
                .arrives(CLIENT.sends(Packet::tcp(&client, http).ack(1001).payload("odd")))
                .leaves(server.gets(Packet::tcp(&local, &real).ack(1001).payload("odd").ttl(63)));
        }
        case.run_by(layout);
    }
}

#[test]
fn hairpins_and_errors_about_them_come_home() {
    for layout in WorkerLayout::all() {
        let share = |vport| Share::of(layout, DIP, 32_768, (VIP, vport)).0[0];
        let (host, web, real) = ("192.168.2.220:5000", "192.168.1.100:8080", "192.168.2.210:80");
        let dip = format!("192.168.2.200:{}", share(8080));
        Case::new("an inside host reaches a server through the VIP, and hears from the VIP")
            .arrives(RS2.sends(Packet::tcp(host, web).syn()))
            .leaves(RS1.gets(Packet::tcp(&dip, real).syn().ttl(63)))
            .arrives(RS1.sends(Packet::tcp(real, &dip).syn().ack(1001)))
            .leaves(RS2.gets(Packet::tcp(web, host).syn().ack(1001).ttl(63)))
            .arrives(RS2.sends(Packet::tcp(host, web).ack(1001).payload("odd")))
            .leaves(RS1.gets(Packet::tcp(&dip, real).ack(1001).payload("odd").ttl(63)))
            .opens(1)
            .run_by(layout);

        let (dns, server) = ("192.168.1.100:53", "192.168.2.210:5353");
        let asked = Packet::udp(host, dns).payload("odd");
        let dip = format!("192.168.2.200:{}", share(53));
        let seen = Packet::udp(&dip, server).payload("odd").ttl(63);
        let error = |from, to, quote: Packet| {
            Packet::icmp(from, to, port_unreachable()).payload(quote.bytes())
        };
        Case::new("the server's port is closed: the inside host hears it from the VIP")
            .arrives(RS2.sends(asked.clone()))
            .leaves(RS1.gets(seen.clone()))
            .arrives(RS1.sends(error(RS1.address, DIP, seen)))
            .leaves(RS2.gets(error(VIP, RS2.address, asked.ttl(63)).ttl(63)))
            .engine(EngineCounters { opened: 1, icmp_errors: 1, ..EngineCounters::default() })
            .run_by(layout);
    }
}

#[test]
fn one_queue_for_all_means_handing_over() {
    let syns = || {
        let mut case = Case::new("sixteen connections").opens(16);
        for n in 0..16 {
            let client = format!("192.168.1.200:{}", 4000 + n);
            case = case.arrives(CLIENT.sends(Packet::tcp(&client, "192.168.1.100:80").syn()));
        }
        case.leaves_anything()
    };
    let handed_over = |layout| {
        let report = syns().run_by(layout).report;
        report.ports.iter().map(|port| port.counters.handed_over).sum::<u64>()
    };
    for layout in WorkerLayout::all() {
        match handed_over(layout) {
            0 => assert!(layout.is_well_served(), "{layout:?}: the first worker got all"),
            some => assert!(!layout.is_well_served() && some <= 16, "{layout:?}: {some}"),
        }
    }
}
