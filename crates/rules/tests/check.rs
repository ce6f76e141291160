//! What rules are refused for: each wrong value by its place, with words and advice.

use std::{sync::Arc, time::Duration};

use shunt_rules::{
    ForwardingMode, LocalAddress, Network, OnUnknown, Persistence, Problem, Protocol, RealServer,
    Route, Rules, Scheduler, SchedulerFlags, Side, SnatRule, VirtualEndpoint, VirtualService,
};

fn network() -> Network {
    Network {
        addresses: vec![
            (Side::Outside, "192.0.2.1/24".parse().unwrap()),
            (Side::Inside, "10.0.0.1/24".parse().unwrap()),
        ],
        routes: vec![Route {
            destination: "0.0.0.0/0".parse().unwrap(),
            via: "192.0.2.254".parse().unwrap(),
        }],
    }
}

fn endpoint(address: &str, ports: std::ops::RangeInclusive<u16>) -> VirtualEndpoint {
    VirtualEndpoint { address: address.parse().unwrap(), ports }
}

fn server(address: &str) -> RealServer {
    RealServer::new(address.parse::<std::net::SocketAddr>().unwrap(), 1)
}

fn service(vip: &str) -> VirtualService {
    let vip: std::net::SocketAddr = vip.parse().unwrap();
    let servers = vec![server("10.0.0.10:80"), server("10.0.0.11:80")];
    VirtualService::new(Protocol::Tcp, vip, Scheduler::WeightedRoundRobin, servers)
}

/// Nothing is wrong with these.
fn rules() -> Rules {
    let local = |address: &str, ports| LocalAddress { address: address.parse().unwrap(), ports };
    Rules {
        services: vec![Arc::new(service("192.0.2.1:80")), Arc::new(service("192.0.2.9:80"))],
        snat: vec![SnatRule {
            from: "10.0.0.0/24".parse().unwrap(),
            to: vec!["192.0.2.1".parse().unwrap()],
            ports: SnatRule::DEFAULT_PORTS,
        }],
        local_addresses: vec![local("10.0.0.2", 1024..=65535)],
        hairpin: Some(local("10.0.0.1", 32768..=60999)),
        ..Rules::default()
    }
}

fn problems(rules: &Rules) -> Vec<Problem> {
    let problems = rules.check(&network()).err().unwrap_or_default();
    for problem in &problems {
        assert!(!problem.help().is_empty(), "{problem}");
    }
    problems
}

/// What is wrong with the rules, once the second service is another: where, and why.
#[track_caller]
fn wrong_service(change: impl FnOnce(&mut VirtualService), expected: &[(&str, &str)]) {
    wrong(|rules| change(Arc::make_mut(&mut rules.services[1])), expected);
}

#[track_caller]
fn wrong(change: impl FnOnce(&mut Rules), expected: &[(&str, &str)]) {
    let mut rules = rules();
    change(&mut rules);
    let problems = problems(&rules);
    let found: Vec<_> = problems
        .iter()
        .map(|problem| (problem.location.pointer(), problem.reason.to_string()))
        .collect();
    let is_expected = found.len() == expected.len()
        && found
            .iter()
            .zip(expected)
            .all(|((pointer, reason), (place, part))| pointer == place && reason.contains(part));
    assert!(is_expected, "expected {expected:#?}, found {found:#?}");
}

#[test]
fn right_rules_pass() {
    assert_eq!(problems(&rules()), []);
    assert_eq!(rules().check_values(), Ok(()));
    assert_eq!(problems(&Rules::default()), []);
}

#[test]
fn names() {
    for name in ["a", "web-1", "0.a_b:c", &"x".repeat(63), "tcp-2001:db8::1-any"] {
        wrong_service(|service| service.name = name.to_owned(), &[]);
    }
    for name in ["", "-a", ".a", "a b", "a/b", "ä", &"x".repeat(64)] {
        let expected = [("/services/1/name", "is no name for a service")];
        wrong_service(|service| service.name = name.to_owned(), &expected);
    }
    let taken = "tcp-192.0.2.1-80";
    let expected = [("/services/1/name", "another service is called `tcp-192.0.2.1-80`")];
    wrong_service(|service| service.name = taken.to_owned(), &expected);
}

#[test]
fn what_is_dialled() {
    let protocols = |protocols: &[Protocol]| {
        let protocols = protocols.to_vec();
        move |service: &mut VirtualService| service.protocols = protocols
    };
    let twice = [Protocol::Tcp, Protocol::Tcp];
    wrong_service(protocols(&[]), &[("/services/1/protocols", "no protocol")]);
    wrong_service(protocols(&twice), &[("/services/1/protocols/1", "`tcp` is written twice")]);

    let endpoints = |endpoints: Vec<VirtualEndpoint>| {
        move |service: &mut VirtualService| service.endpoints = endpoints
    };
    let one = |address, ports| endpoints(vec![endpoint(address, ports)]);
    let at = |part| [("/services/1/endpoints/0", part)];
    wrong_service(endpoints(vec![]), &[("/services/1/endpoints", "no endpoint")]);
    wrong_service(one("2001:db8::1", 80..=80), &at("IPv6 is not supported yet"));
    wrong_service(one("192.0.2.255", 80..=80), &at("the broadcast address of 192.0.2.0/24"));
    wrong_service(one("192.0.2.254", 80..=80), &at("the gateway of a route"));
    wrong_service(one("10.0.0.9", 80..=80), &at("in the inside network 10.0.0.0/24"));
    wrong_service(one("192.0.2.9", 0..=80), &at("0-80 is no range of ports"));
    wrong_service(one("192.0.2.9", 1..=65535), &at("needs `persistence`"));
    #[expect(clippy::reversed_empty_ranges, reason = "that is what is wrong")]
    wrong_service(one("192.0.2.9", 90..=80), &at("90-80 is no range of ports"));

    let overlapping = vec![
        endpoint("192.0.2.9", 80..=89),
        endpoint("192.0.2.9", 85..=95),
        endpoint("192.0.2.9", 80..=89),
    ];
    let expected = [
        ("/services/1/endpoints/1", "192.0.2.9:85-95 overlaps 192.0.2.9:80-89 of this service"),
        ("/services/1/endpoints/2", "192.0.2.9:80-89 is in this service already"),
    ];
    wrong_service(endpoints(overlapping), &expected);

    wrong_service(one("192.0.2.1", 1..=100), &[]);
    let second = [("/services/1/endpoints/0", "a second tcp service on 192.0.2.1:80")];
    wrong_service(one("192.0.2.1", 80..=80), &second);
    let rename = |service: &mut VirtualService| {
        service.name = service.default_name();
    };
    let same = |service: &mut VirtualService| {
        service.endpoints = vec![endpoint("192.0.2.1", 80..=80)];
        rename(service);
    };
    wrong_service(same, &second);
}

#[test]
fn services_that_cross_each_other() {
    let mut rules = rules();
    let range = |service: &mut Arc<VirtualService>, ports| {
        Arc::make_mut(service).endpoints = vec![endpoint("192.0.2.9", ports)];
    };
    range(&mut rules.services[0], 80..=89);
    range(&mut rules.services[1], 85..=95);
    let [problem] = &problems(&rules)[..] else { panic!("{:?}", problems(&rules)) };
    assert_eq!(
        problem.to_string(),
        "service tcp-192.0.2.9-80, endpoint: 192.0.2.9:85-95 overlaps 192.0.2.9:80-89 of another tcp service"
    );
    let related = problem.related.as_ref().unwrap();
    assert_eq!(related.pointer(), "/services/0/endpoints/0");
}

#[test]
fn schedulers() {
    let with = |scheduler, slots, flags: bool| {
        move |service: &mut VirtualService| {
            service.scheduler = scheduler;
            service.scheduler_slots = slots;
            service.scheduler_flags = SchedulerFlags { fallback: flags, port: false };
        }
    };
    let slots = |part| [("/services/1/scheduler_slots", part)];
    wrong_service(with(Scheduler::Maglev, Some(251), true), &[]);
    wrong_service(with(Scheduler::Maglev, Some(131_071), false), &[]);
    for wrong in [0, 241, 255, 65_536, 131_101] {
        wrong_service(with(Scheduler::Maglev, Some(wrong), false), &slots("it can be a prime"));
    }
    wrong_service(with(Scheduler::SourceHash, Some(251), false), &slots("is for scheduler `mh`"));
    let flags = [("/services/1/scheduler_flags", "scheduler `rr` has no flags")];
    wrong_service(with(Scheduler::RoundRobin, None, true), &flags);
    let many = |service: &mut VirtualService| {
        with(Scheduler::Maglev, Some(251), false)(service);
        let host = |n: u16| format!("10.0.0.10:{}", 1000 + n);
        service.servers = (0..252).map(|n| server(&host(n))).collect();
    };
    wrong_service(many, &slots("251 slots are fewer than the 252 servers"));
}

#[test]
fn servers() {
    let servers = |addresses: &[&str]| {
        let servers: Vec<_> = addresses.iter().map(|address| server(address)).collect();
        move |service: &mut VirtualService| service.servers = servers
    };
    let first = |part| [("/services/1/servers/0/address", part)];
    wrong_service(
        servers(&["192.0.2.7:80"]),
        &first("reached through the outside port (192.0.2.0/24)"),
    );
    wrong_service(servers(&["203.0.113.7:80"]), &first("(the default route)"));
    wrong_service(servers(&["10.0.0.1:80"]), &first("an address of the director itself"));
    wrong_service(servers(&["192.0.2.9:80"]), &first("an address of the director itself"));
    wrong_service(servers(&["10.0.0.0:80"]), &first("the network address"));
    wrong_service(servers(&["10.0.0.10:0"]), &first("port 0"));
    wrong_service(servers(&["[2001:db8::1]:80"]), &first("IPv6 is not supported yet"));
    let second = [("/services/1/servers/1/address", "10.0.0.10:80 is in this service already")];
    wrong_service(servers(&["10.0.0.10:80", "10.0.0.10:80"]), &second);
    // What one leaves to the dialled port, another has written.
    let dialled = |service: &mut VirtualService| {
        service.servers =
            vec![RealServer { port: None, ..server("10.0.0.10:1") }, server("10.0.0.10:80")];
    };
    wrong_service(dialled, &second);

    let fallback = |address: &str| {
        let fallback = Some(server(address));
        move |service: &mut VirtualService| service.fallback = fallback
    };
    let at = |part| [("/services/1/fallback/address", part)];
    wrong_service(fallback("10.0.0.250:80"), &[]);
    wrong_service(
        fallback("10.0.0.10:80"),
        &at("fallback 10.0.0.10:80 is a server of this service"),
    );
    wrong_service(fallback("192.0.2.7:80"), &at("through the outside port"));

    let thresholds = |upper_threshold, lower_threshold| {
        move |service: &mut VirtualService| {
            let server = RealServer { upper_threshold, lower_threshold, ..server("10.0.0.10:80") };
            service.servers = vec![server];
        }
    };
    let lower = |part| [("/services/1/servers/0/lower_threshold", part)];
    wrong_service(thresholds(10, 10), &[]);
    wrong_service(thresholds(10, 11), &lower("`lower` is 11, above `upper`, which is 10"));
    wrong_service(thresholds(0, 5), &lower("`lower` is 5 without an `upper`"));
}

#[test]
fn no_network_no_talk_of_reach() {
    let mut rules = rules();
    Arc::make_mut(&mut rules.services[1]).servers = vec![server("203.0.113.7:80")];
    assert_eq!(rules.check_values(), Ok(()));
    Arc::make_mut(&mut rules.services[1]).servers = vec![server("224.0.0.1:80")];
    let problems = rules.check_values().unwrap_err();
    assert_eq!(problems[0].reason.to_string(), "224.0.0.1 is a multicast address");
}

#[test]
fn options() {
    let second = Duration::from_secs(1);
    let udp = |service: &mut VirtualService| {
        service.protocols = vec![Protocol::Udp];
        service.one_packet = true;
    };
    wrong_service(udp, &[]);
    let at = |part| [("/services/1/one_packet", part)];
    wrong_service(|service| service.one_packet = true, &at("for UDP alone"));
    let range = |service: &mut VirtualService| {
        udp(service);
        service.endpoints = vec![endpoint("192.0.2.9", 80..=81)];
    };
    wrong_service(range, &at("one address and one port"));
    let full_nat = |service: &mut VirtualService| {
        udp(service);
        service.mode = ForwardingMode::FullNat;
    };
    wrong_service(full_nat, &at("no reply finds its way"));
    let drained = |service: &mut VirtualService| {
        udp(service);
        service.drain_timeout = Some(second);
    };
    wrong_service(drained, &[("/services/1/drain_timeout", "none to drain")]);

    let mss = |limit| move |service: &mut VirtualService| service.mss_limit = Some(limit);
    wrong_service(mss(536), &[]);
    for limit in [535, 9177] {
        wrong_service(mss(limit), &[("/services/1/mss_limit", "it can be 536 to 9176")]);
    }
    let udp_mss = |service: &mut VirtualService| {
        service.protocols = vec![Protocol::Udp];
        service.mss_limit = Some(1400);
    };
    wrong_service(udp_mss, &[("/services/1/mss_limit", "is for TCP")]);

    let persistence = |seconds, prefix_len| {
        let timeout = Duration::from_secs(seconds);
        move |service: &mut VirtualService| {
            service.persistence = Some(Persistence { timeout, prefix_len });
        }
    };
    wrong_service(persistence(360, 32), &[]);
    wrong_service(persistence(360, 33), &[("/services/1/persistence/prefix_len", "1 to 32")]);
    wrong_service(persistence(360, 0), &[("/services/1/persistence/prefix_len", "1 to 32")]);
    wrong_service(persistence(0, 32), &[("/services/1/persistence/timeout", "1s to 7d")]);
    let timeout = |service: &mut VirtualService| {
        service.timeouts.syn_recv = Some(Duration::from_secs(7 * 86_400 + 1));
        service.on_unknown = Some(OnUnknown::Drop);
    };
    wrong_service(timeout, &[("/services/1/timeouts/syn_recv", "1s to 7d")]);
    let zero = |rules: &mut Rules| rules.defaults.timeouts.udp_one_way = Duration::ZERO;
    wrong(zero, &[("/defaults/timeouts/udp_one_way", "1s to 7d")]);
}

#[test]
fn snat() {
    let from = |from: &str| {
        let from = from.parse().unwrap();
        move |rules: &mut Rules| rules.snat[0].from = from
    };
    let at = |part| [("/snat/0/from", part)];
    wrong(from("10.0.0.7/24"), &at("is a host in a network"));
    wrong(from("192.0.0.0/16"), &at("overlaps the outside network 192.0.2.0/24"));
    wrong(from("2001:db8::/32"), &at("IPv6 is not supported yet"));

    let to = |addresses: &[&str]| {
        let to: Vec<_> = addresses.iter().map(|address| address.parse().unwrap()).collect();
        move |rules: &mut Rules| rules.snat[0].to = to
    };
    wrong(to(&[]), &[("/snat/0/to", "no address for the outside")]);
    wrong(to(&["192.0.2.3", "192.0.2.3"]), &[("/snat/0/to/1", "in this rule already")]);
    wrong(to(&["10.0.0.1"]), &[("/snat/0/to/0", "an address of the inside port")]);
    wrong(to(&["192.0.2.254"]), &[("/snat/0/to/0", "the gateway of a route")]);
    let routed = |rules: &mut Rules| {
        // Reached inside by a route, and so no neighbour there.
        Arc::make_mut(&mut rules.services[1]).servers = vec![server("203.0.113.7:80")];
        to(&["203.0.113.7"])(rules);
    };
    let outside = "through the outside port";
    wrong(routed, &[("/services/1/servers/0/address", outside), ("/snat/0/to/0", "a real server")]);

    let ports = |ports| move |rules: &mut Rules| rules.snat[0].ports = ports;
    let clash = "source ports 1-100 include port 80 of the service on 192.0.2.1:80";
    wrong(ports(1..=100), &[("/snat/0/ports", clash)]);
    wrong(ports(0..=10), &[("/snat/0/ports", "no range of ports")]);

    let others = |froms: &[&str]| {
        let froms: Vec<_> = froms.iter().map(|from| from.parse().unwrap()).collect();
        move |rules: &mut Rules| {
            let rule = rules.snat[0].clone();
            rules.snat.extend(froms.into_iter().map(|from| SnatRule { from, ..rule.clone() }));
        }
    };
    wrong(others(&["10.0.1.0/24", "10.0.2.0/23", "10.0.4.1/32"]), &[]);
    let overlaps = |other| [("/snat/2/from", other)];
    for inner in ["10.0.0.0/24", "10.0.0.128/25", "10.0.0.255/32"] {
        wrong(others(&["10.0.1.0/24", inner]), &overlaps("overlaps 10.0.0.0/24 of another rule"));
    }
    wrong(others(&["10.0.1.0/24", "10.0.0.0/8"]), &overlaps("of another rule"));
}

#[test]
fn local_addresses() {
    let local = |address: &str, ports| {
        let local = LocalAddress { address: address.parse().unwrap(), ports };
        move |rules: &mut Rules| rules.local_addresses.push(local)
    };
    let at = |part| [("/local_addresses/1/address", part)];
    wrong(local("10.0.0.3", 1024..=65535), &[]);
    wrong(local("192.0.2.1", 1024..=2000), &at("in the outside network 192.0.2.0/24"));
    wrong(local("10.9.0.1", 1024..=2000), &at("in no network that the inside port"));
    wrong(local("10.0.0.255", 1024..=2000), &at("the broadcast address"));
    wrong(local("10.0.0.10", 1024..=2000), &at("the address of a real server"));
    wrong(local("fd00::1", 1024..=2000), &at("IPv6 is not supported yet"));
    let overlap = "10.0.0.2:2000-3000 overlaps 10.0.0.2:1024-65535";
    wrong(local("10.0.0.2", 2000..=3000), &[("/local_addresses/1/ports", overlap)]);
    let no_local = |rules: &mut Rules| {
        rules.local_addresses.clear();
        Arc::make_mut(&mut rules.services[1]).mode = ForwardingMode::FullNat;
    };
    wrong(no_local, &[("/services/1/mode", "needs an address for the servers to see")]);
    let hairpin = |rules: &mut Rules| {
        rules.hairpin = Some(LocalAddress { address: "192.0.2.3".parse().unwrap(), ports: 1..=9 });
    };
    wrong(hairpin, &[("/hairpin/address", "in the outside network")]);
}

#[test]
fn many_services_are_checked_in_no_time() {
    let vip = |n: u32| std::net::Ipv4Addr::from(0xc612_0000 + n / 4);
    let services = (0..10_000).map(|n: u32| {
        let servers = (0..3).map(|k| server(&format!("10.0.0.{}:{}", 10 + k, 1 + n)));
        let endpoint = (vip(n), 80 + (n % 4) as u16);
        let service = VirtualService::new(
            Protocol::Tcp,
            std::net::SocketAddr::from(endpoint),
            Scheduler::RoundRobin,
            servers.collect(),
        );
        Arc::new(service)
    });
    let mut rules = Rules { services: services.collect(), ..rules() };
    assert_eq!(problems(&rules), []);
    // All of them at one address, as narrow ranges in a wider one, and one that crosses.
    for (n, service) in rules.services.iter_mut().enumerate() {
        let service = Arc::make_mut(service);
        service.endpoints = vec![endpoint("192.0.2.9", 2 + n as u16..=2 + n as u16)];
    }
    Arc::make_mut(&mut rules.services[9999]).endpoints = vec![endpoint("192.0.2.9", 1..=20_000)];
    assert_eq!(problems(&rules), []);
    Arc::make_mut(&mut rules.services[0]).endpoints = vec![endpoint("192.0.2.9", 9999..=30_000)];
    let pointers: Vec<_> =
        problems(&rules).iter().map(|problem| problem.location.pointer()).collect();
    assert_eq!(pointers, ["/services/9999/endpoints/0"]);
}
