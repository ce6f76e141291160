//! The configuration changes in mid-stream: servers, services and routes come and go, and what is
//! under way goes on.

use shunt_config::Config;
use shunt_dataplane::{DirectorParts, DropReason, PipelineCounters};
use shunt_nat::{EngineCounters, Instant, Side};
use shunt_testkit::{Packet, mac};

use crate::{
    case::Case,
    expiry::{handshake, reset, resets},
    icmp_errors::net_unreachable,
    network::{
        CLIENT, GATEWAY, Host, OTHER_VIP, ROUTER, RS1, RS2, director_announces, director_asks,
    },
    stage::eal,
};

const CLIENT_PORT: &str = "192.168.1.200:4000";
const HTTP: &str = "192.168.1.100:80";
const SERVER: &str = "192.168.2.210:8080";
const OTHER_SERVER: &str = "192.168.2.220:8080";

/// A service of these servers, each with its weight.
fn service(servers: &[(&str, u16)]) -> String {
    service_at(HTTP, servers)
}

fn service_at(vip: &str, servers: &[(&str, u16)]) -> String {
    let server = |(address, weight): &(&str, u16)| {
        format!("{{ address = \"{address}\", weight = {weight} }}")
    };
    let servers: Vec<_> = servers.iter().map(server).collect();
    format!(
        "[[service]]\nvip = \"{vip}\"\nscheduler = \"rr\"\ndrain-timeout = 5\nserver = [{}]\n",
        servers.join(", ")
    )
}

/// A client's connection to the first server.
fn connected(case: Case) -> Case {
    handshake(case, (&CLIENT, [CLIENT_PORT, HTTP]), (&RS1, [CLIENT_PORT, SERVER]))
}

/// That connection goes on: a segment each way.
fn goes_on(case: Case) -> Case {
    let request = |dst| Packet::tcp(CLIENT_PORT, dst).seq(101).ack(901);
    let answer = |src| Packet::tcp(src, CLIENT_PORT).seq(901).ack(101);
    case.arrives(CLIENT.sends(request(HTTP)))
        .arrives(RS1.sends(answer(SERVER)))
        .leaves(RS1.gets(request(SERVER).ttl(63)))
        .leaves(CLIENT.gets(answer(HTTP).ttl(63)))
}

/// A new connection, from a client port of its own, reaches this server.
fn opens(case: Case, client: &str, server: &Host, rport: &str) -> Case {
    case.arrives(CLIENT.sends(Packet::tcp(client, HTTP).syn()))
        .leaves(server.gets(Packet::tcp(client, rport).syn().ttl(63)))
}

#[test]
fn a_server_is_drained() {
    let case = Case::new("its connection lives on, new ones go elsewhere; then both ends are told")
        .rules(service(&[(SERVER, 1), (OTHER_SERVER, 1)]));
    let case = connected(case).changes_to(service(&[(SERVER, 0), (OTHER_SERVER, 1)]));
    let case = goes_on(case);
    let case = opens(case, "192.168.1.200:4001", &RS2, OTHER_SERVER);
    let case = opens(case, "192.168.1.200:4002", &RS2, OTHER_SERVER);
    let case = goes_on(case.after_millis(4900));
    case.after_millis(200)
        .leaves(RS1.gets(reset(CLIENT_PORT, SERVER, 101)))
        .leaves(CLIENT.gets(reset(HTTP, CLIENT_PORT, 901)))
        .arrives(CLIENT.sends(Packet::tcp(CLIENT_PORT, HTTP).seq(101).ack(901)))
        .leaves(CLIENT.gets(reset(HTTP, CLIENT_PORT, 901)))
        .drops(DropReason::Refused, 1)
        .pipeline(resets(3))
        .engine(EngineCounters { opened: 3, drained: 1, ..EngineCounters::default() })
        .run();
}

#[test]
fn a_server_is_removed() {
    let case = Case::new("as if it were drained").rules(service(&[(SERVER, 1), (OTHER_SERVER, 1)]));
    let case = connected(case).changes_to(service(&[(OTHER_SERVER, 1)]));
    let case = opens(goes_on(case), "192.168.1.200:4001", &RS2, OTHER_SERVER);
    case.after_millis(5100)
        .leaves(RS1.gets(reset(CLIENT_PORT, SERVER, 101)))
        .leaves(CLIENT.gets(reset(HTTP, CLIENT_PORT, 901)))
        .pipeline(resets(2))
        .engine(EngineCounters { opened: 2, drained: 1, ..EngineCounters::default() })
        .run();
}

#[test]
fn a_drained_server_comes_back() {
    let both = || service(&[(SERVER, 1), (OTHER_SERVER, 1)]);
    let case = Case::new("in time: its connection is nobody's business, and it gets new ones");
    let case = connected(case.rules(both()));
    let case = case.changes_to(service(&[(SERVER, 0), (OTHER_SERVER, 1)])).after_millis(4000);
    let case = goes_on(case.changes_to(both()).after_millis(4000));
    let case = opens(case, "192.168.1.200:4001", &RS2, OTHER_SERVER);
    let case = opens(case, "192.168.1.200:4002", &RS1, SERVER);
    case.opens(3).run();
}

#[test]
fn a_server_is_added() {
    let case =
        Case::new("it is resolved at once, and takes its turn").rules(service(&[(SERVER, 1)]));
    let case = connected(case).changes_to(service(&[(SERVER, 1), ("192.168.2.230:80", 1)]));
    let newcomer = Host { side: Side::Inside, mac: mac(30), address: "192.168.2.230" };
    let case = case
        .after_millis(100)
        .leaves(director_asks(Side::Inside, newcomer.address))
        .arrives(newcomer.answers());
    // The turn stays with the server that had it.
    let case = opens(goes_on(case), "192.168.1.200:4001", &RS1, SERVER);
    let case = opens(case, "192.168.1.200:4002", &newcomer, "192.168.2.230:80");
    case.pipeline(PipelineCounters {
        arp_requests: 1,
        arp_learned: 1,
        ..PipelineCounters::default()
    })
    .opens(3)
    .run();
}

#[test]
fn a_service_goes_and_comes_back() {
    let refused = "192.168.1.200:4001";
    let case = Case::new("its connection lives on meanwhile; new ones are refused")
        .rules(service(&[(SERVER, 1)]));
    let case = goes_on(connected(case).changes_to(""));
    let case = case
        .arrives(CLIENT.sends(Packet::tcp(refused, HTTP).syn()))
        .leaves(CLIENT.gets(Packet::tcp(HTTP, refused).seq(0).rst().ack(1001).window(0)));
    let case = goes_on(case.after_millis(4000).changes_to(service(&[(SERVER, 1)])));
    let case = opens(case.after_millis(4000), "192.168.1.200:4002", &RS1, SERVER);
    goes_on(case).drops(DropReason::Refused, 1).pipeline(resets(1)).opens(2).run();
}

#[test]
fn a_virtual_address_goes_and_comes_back() {
    let vip = format!("{OTHER_VIP}:80");
    let rules = || service(&[(SERVER, 1)]) + &service_at(&vip, &[(SERVER, 1)]);
    let announced = || director_announces(Side::Outside, OTHER_VIP);
    Case::new("it is answered for as long as it is ours, and announced when it has become ours")
        .rules(rules())
        .arrives(CLIENT.asks_for(OTHER_VIP))
        .leaves(CLIENT.is_told_of(OTHER_VIP))
        .changes_to(service(&[(SERVER, 1)]))
        .after_millis(3000)
        .arrives(CLIENT.asks_for(OTHER_VIP))
        .changes_to(rules())
        .after_millis(100)
        .leaves(announced())
        .arrives(CLIENT.asks_for(OTHER_VIP))
        .leaves(CLIENT.is_told_of(OTHER_VIP))
        .after_millis(1900)
        .after_millis(100)
        .leaves(announced())
        .after_millis(3000)
        .drops(DropReason::ArpNotForUs, 1)
        .pipeline(PipelineCounters {
            arp_requests: 2,
            arp_replies: 2,
            ..PipelineCounters::default()
        })
        .run();
}

#[test]
fn an_address_goes_before_it_is_announced_twice() {
    let vip = format!("{OTHER_VIP}:80");
    let both = service(&[(SERVER, 1)]) + &service_at(&vip, &[(SERVER, 1)]);
    Case::new("it isn't ours to announce any more")
        .rules(service(&[(SERVER, 1)]))
        .changes_to(both)
        .after_millis(100)
        .leaves(director_announces(Side::Outside, OTHER_VIP))
        .changes_to(service(&[(SERVER, 1)]))
        .after_millis(5000)
        .pipeline(PipelineCounters { arp_requests: 1, ..PipelineCounters::default() })
        .run();
}

#[test]
fn the_address_of_a_port_changes() {
    let own = "192.168.1.99";
    let lost = Packet::echo_request(CLIENT.address, "10.9.1.2", 7, 1);
    let error = Packet::icmp(own, CLIENT.address, net_unreachable()).payload(lost.bytes());
    let case = Case::new("the old one is still that of a service, whose connection lives on");
    let case = connected(case.rules(service(&[(SERVER, 1)])))
        .changes_addresses_to(own, service(&[(SERVER, 1)]))
        .after_millis(100)
        .leaves(director_announces(Side::Outside, own))
        .arrives(CLIENT.asks_for(own))
        .arrives(CLIENT.asks_for("192.168.1.100"))
        .arrives(CLIENT.sends(lost))
        .leaves(CLIENT.is_told_of(own))
        .leaves(CLIENT.is_told_of("192.168.1.100"))
        .leaves(CLIENT.gets(error));
    goes_on(case)
        .drops(DropReason::NoRoute, 1)
        .pipeline(PipelineCounters {
            arp_requests: 1,
            arp_replies: 2,
            icmp_errors: 1,
            ..PipelineCounters::default()
        })
        .opens(1)
        .run();
}

#[test]
fn the_options_of_a_service_change() {
    let rules = |more: &str| format!("{}{more}\n", service(&[(SERVER, 1)]));
    let timeouts = "timeouts = { established = 5 }\nreset-on-expiry = true";
    let later = ["192.168.1.200:4001", HTTP];
    let case = Case::new("timeouts hold for states that are reached from now on, others at once");
    let case = connected(case.rules(rules(""))).changes_to(rules(timeouts));
    let case = handshake(case, (&CLIENT, later), (&RS1, [later[0], SERVER]));
    goes_on(case.after_millis(4900))
        .after_millis(2000)
        .leaves(RS1.gets(reset(later[0], SERVER, 101)))
        .leaves(CLIENT.gets(reset(HTTP, later[0], 901)))
        .after_millis(899_000)
        .leaves_anything() // resets; and after so long, client and server are asked for again
        .pipeline(PipelineCounters { arp_requests: 2, ..resets(4) })
        .engine(EngineCounters { opened: 2, expired: 2, ..EngineCounters::default() })
        .run();
}

#[test]
fn a_route_changes() {
    let route = |via| format!("[[route]]\nto = \"10.9.0.0/16\"\nvia = \"{via}\"\n");
    let ping = |seq| Packet::echo_request(CLIENT.address, "10.9.1.2", 7, seq);
    let newcomer = Host { side: Side::Inside, mac: mac(40), address: "192.168.2.40" };
    Case::new("a packet waits for the new gateway's address, and is not lost")
        .rules(route(ROUTER.address))
        .arrives(CLIENT.sends(ping(1)))
        .leaves(ROUTER.gets(ping(1).ttl(63)))
        .changes_to(route(newcomer.address))
        .arrives(CLIENT.sends(ping(2)))
        .leaves(director_asks(Side::Inside, newcomer.address))
        .after_millis(100)
        .arrives(newcomer.answers())
        .leaves(newcomer.gets(ping(2).ttl(63)))
        .changes_to("")
        .arrives(CLIENT.sends(ping(3)))
        .leaves(
            CLIENT.gets(
                Packet::icmp(
                    "192.168.1.100",
                    CLIENT.address,
                    crate::icmp_errors::net_unreachable(),
                )
                .payload(ping(3).bytes()),
            ),
        )
        .drops(DropReason::NoRoute, 1)
        .pipeline(PipelineCounters {
            arp_requests: 1,
            arp_learned: 1,
            icmp_errors: 1,
            ..PipelineCounters::default()
        })
        .run();
}

#[test]
fn a_connection_takes_the_new_route() {
    let rules = |gateway: &Host| {
        let route = format!("[[route]]\nto = \"default\"\nvia = \"{}\"\n", gateway.address);
        route + &service(&[(SERVER, 1)])
    };
    let far = "203.0.113.9:4000";
    let answer = |src| Packet::tcp(src, far).seq(901).ack(101);
    let case = Case::new("from its next packet on, however long it has gone the other way");
    let mut case =
        handshake(case.rules(rules(&GATEWAY)), (&GATEWAY, [far, HTTP]), (&RS1, [far, SERVER]));
    for gateway in [&GATEWAY, &CLIENT, &GATEWAY] {
        case = case.changes_to(rules(gateway));
        for _ in 0..3 {
            case =
                case.arrives(RS1.sends(answer(SERVER))).leaves(gateway.gets(answer(HTTP).ttl(63)));
        }
    }
    case.opens(1).run();
}

#[test]
fn an_snat_rule_goes() {
    let host = "192.168.2.210:5000";
    let rules =
        |rule| format!("[[route]]\nto = \"default\"\nvia = \"{}\"\n{rule}", GATEWAY.address);
    let snat =
        "[[snat]]\nfrom = \"192.168.2.0/24\"\nto = \"192.168.1.100\"\nports = \"40000-40001\"";
    let (remote, outside) = ("203.0.113.9:53", "192.168.1.100:40000");
    let asks = |src: &str, payload: &str| Packet::udp(src, remote).payload(payload);
    Case::new("who is behind an address stays behind it; others no longer hide")
        .rules(rules(snat))
        .arrives(RS1.sends(asks(host, "odd")))
        .leaves(GATEWAY.gets(asks(outside, "odd").ttl(63)))
        .changes_to(rules(""))
        .arrives(RS1.sends(asks(host, "even")))
        .arrives(GATEWAY.sends(Packet::udp(remote, outside).payload("odd")))
        .arrives(RS2.sends(asks("192.168.2.220:5000", "odd")))
        .leaves(RS1.gets(Packet::udp(remote, host).payload("odd").ttl(63)))
        .leaves(GATEWAY.gets(asks(outside, "even").ttl(63)))
        .leaves(GATEWAY.gets(asks("192.168.2.220:5000", "odd").ttl(63)))
        .opens(1)
        .run();
}

/// A stream, and a change between any two of its packets.
#[test]
fn nothing_is_lost() {
    let rules = |round: u16| {
        let weight = 1 + round % 3;
        let more = service_at(&format!("{OTHER_VIP}:{}", 1000 + round), &[(SERVER, weight)]);
        service(&[(SERVER, weight), (OTHER_SERVER, round % 2)]) + &more
    };
    let mut case = connected(Case::new("40 changes in a stream").rules(rules(0)));
    for round in 1..=40_u32 {
        let segment = |dst| Packet::tcp(CLIENT_PORT, dst).seq(100 + round).ack(900 + round);
        let answer = |src| Packet::tcp(src, CLIENT_PORT).seq(900 + round).ack(101 + round);
        case = case
            .changes_to(rules(round as u16))
            .arrives(CLIENT.sends(segment(HTTP).payload("x")))
            .arrives(RS1.sends(answer(SERVER).payload("y")))
            .leaves(RS1.gets(segment(SERVER).payload("x").ttl(63)))
            .leaves(CLIENT.gets(answer(HTTP).payload("y").ttl(63)));
    }
    case.opens(1).run();
}

#[test]
fn what_changes_ways_out() {
    const DEVICES: [&str; 2] = ["net_null_ways0", "net_null_ways1"];
    for name in DEVICES {
        eal().attach_vdev(name).expect("a device");
    }
    let text = |more: &str| {
        format!(
            r#"
            [dpdk]
            no-huge = true
            mbufs = 4096

            [[port]]
            name = "outside"
            role = "outside"
            device = "net_null_ways0"
            addresses = ["192.168.1.100/24"]

            [[port]]
            name = "inside"
            role = "inside"
            device = "net_null_ways1"
            addresses = ["192.168.2.200/24"]

            [nat]
            connections = 1024
            {more}
            "#
        )
    };
    let server = |last: u8| format!("192.168.2.{last}:80");
    let two = service(&[(&server(1), 1), (&server(2), 1)]);
    let other_vip = two.clone() + &service_at("192.168.1.150:80", &[(&server(3), 1)]);
    let route = other_vip.clone() + "[[route]]\nto = \"10.9.0.0/16\"\nvia = \"192.168.2.254\"\n";
    let mut config = Config::parse("ways.toml", &text(&service(&[(&server(1), 1)])))
        .unwrap_or_else(|errors| panic!("{errors}"));
    let mut director = DirectorParts::open(eal(), &config).expect("a director");
    for (what, rules, forgets) in [
        ("another server", two, false),
        ("another service, with a VIP of its own", other_vip, false),
        ("a route", route, true),
    ] {
        config = config
            .parse_change("changed.toml", &text(&rules))
            .unwrap_or_else(|errors| panic!("{errors}"));
        director.apply(Instant::default(), &config).expect("rules that can be built");
        let engine = director.workers()[0].engine();
        assert_eq!(engine.releases_egresses(), forgets, "{what}");
    }
    assert_eq!(director.close(&config).mbufs.missing(), 0);
    for name in DEVICES {
        eal().detach_vdev(name).expect("a device that nobody uses");
    }
}
