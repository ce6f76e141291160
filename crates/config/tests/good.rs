//! Right service files and what they come to.

use std::{
    fs,
    net::{IpAddr, SocketAddr},
    ops::RangeInclusive,
    path::Path,
    sync::Arc,
    time::Duration,
};

use shunt_config::{
    Checksum, Config, Device, Dpdk, HugePages, Idle, Level, Nat, PciAddress, Route, Side, Vlan,
};
use shunt_rules::{
    Defaults, ForwardingMode, LatePackets, LocalAddress, OnUnknown, Persistence, Protocol,
    RealServer, Scheduler, SchedulerFlags, SnatRule, SourceRoutes, TimeoutOverrides, Timeouts,
    VirtualEndpoint, VirtualService,
};

const EVERYTHING: &str = include_str!("good/everything.toml");
const LEAST: &str = include_str!("good/least.toml");

fn parse(text: &str) -> Config {
    Config::parse("shunt.toml", text).unwrap_or_else(|errors| panic!("{errors}"))
}

/// A `[[service]]` with these keys.
fn section(keys: &str) -> String {
    format!("\n[[service]]\nscheduler = \"rr\"\n{keys}\n")
}

fn service(keys: &str) -> Arc<VirtualService> {
    parse(&format!("{LEAST}{}", section(keys))).rules.services.remove(0)
}

fn ip(address: &str) -> IpAddr {
    address.parse().unwrap()
}

fn endpoint(address: &str, ports: RangeInclusive<u16>) -> VirtualEndpoint {
    VirtualEndpoint { address: address.parse().unwrap(), ports }
}

fn server(address: &str, port: Option<u16>, weight: u16) -> RealServer {
    let address = address.parse().unwrap();
    RealServer { address, port, weight, upper_threshold: 0, lower_threshold: 0 }
}

#[test]
fn what_is_left_out_has_defaults() {
    let config = parse(LEAST);
    assert_eq!(config.dpdk, Dpdk::default());
    assert_eq!(config.dpdk.main_lcore, 0);
    assert_eq!(config.dpdk.worker_lcores, [1]);
    assert_eq!(config.dpdk.idle, Idle::Adaptive);
    assert_eq!(config.dpdk.memory_mib, 256);
    assert_eq!(config.dpdk.mbufs, 16384);
    assert_eq!(config.dpdk.huge_pages, HugePages::Default);
    assert_eq!(config.log.level, Level::Info);
    for port in config.ports.iter() {
        assert_eq!((port.mtu, port.queues), (1500, None));
        assert_eq!((port.rx_descriptors, port.tx_descriptors), (1024, 1024));
        assert_eq!((port.checksum, port.vlan), (Checksum::Auto, Vlan::Drop));
    }
    assert!(
        config.routes.is_empty()
            && config.rules.services.is_empty()
            && config.rules.snat.is_empty()
    );
    assert!(config.virtual_addresses().is_empty() && config.local_addresses().is_empty());

    assert_eq!(config.nat, Nat::default());
    assert_eq!(config.rules.defaults, Defaults::default());
    assert_eq!(config.nat.connections, 1_048_576);
    assert!(config.rules.local_addresses.is_empty());
    let dip = LocalAddress { address: ip("192.168.2.200"), ports: 32768..=60999 };
    assert_eq!(config.rules.hairpin, Some(dip));
    assert_eq!(config.rules.defaults.timeouts, Timeouts::default());
}

/// The table of IPVS, and what it doesn't have.
#[test]
fn timeouts_are_those_of_ipvs() {
    let timeouts = parse(LEAST).rules.defaults.timeouts;
    let seconds = [
        (timeouts.established, 900),
        (timeouts.syn_sent, 120),
        (timeouts.syn_recv, 60),
        (timeouts.fin_wait, 120),
        (timeouts.time_wait, 120),
        (timeouts.close, 10),
        (timeouts.close_wait, 60),
        (timeouts.last_ack, 30),
        (timeouts.udp, 300),
        (timeouts.udp_one_way, 30),
        (timeouts.icmp, 30),
    ];
    for (duration, seconds) in seconds {
        assert_eq!(duration.as_secs(), seconds, "{timeouts:?}");
    }
}

#[test]
fn a_service_has_defaults() {
    let service = service("vip = \"192.168.1.100:80\"\nserver = [{ address = \"192.168.2.210\" }]");
    assert_eq!(
        *service,
        VirtualService {
            name: "tcp-192.168.1.100-80".to_owned(),
            protocols: vec![Protocol::Tcp],
            endpoints: vec![endpoint("192.168.1.100", 80..=80)],
            scheduler: Scheduler::RoundRobin,
            scheduler_flags: SchedulerFlags { fallback: false, port: false },
            scheduler_slots: None,
            mode: ForwardingMode::Nat,
            servers: vec![server("192.168.2.210", Some(80), 1)],
            fallback: None,
            persistence: None,
            one_packet: false,
            drain_timeout: None,
            mss_limit: None,
            on_unknown: None,
            reset_on_expiry: None,
            timeouts: TimeoutOverrides::default(),
        }
    );
}

#[test]
fn everything_can_be_set() {
    let config = parse(EVERYTHING);

    assert_eq!(
        config.dpdk,
        Dpdk {
            main_lcore: 2,
            worker_lcores: vec![3, 4],
            idle: Idle::Spin,
            memory_mib: 1024,
            huge_pages: HugePages::Directory("/dev/hugepages".into()),
            mbufs: 32768,
            mbuf_size: 9234,
            eal_args: vec!["--log-level".into(), "pmd.net.af_xdp:debug".into()],
        }
    );

    let outside = config.ports.get(Side::Outside);
    assert_eq!(outside.name, "wan");
    assert_eq!(
        outside.device,
        Device::Pci(PciAddress { domain: 0, bus: 3, device: 0, function: 1 })
    );
    assert_eq!(
        outside.addresses,
        ["192.0.2.2/24".parse().unwrap(), "192.0.2.3/24".parse().unwrap()]
    );
    assert_eq!((outside.mtu, outside.queues), (9000, Some(2)));
    assert_eq!((outside.rx_descriptors, outside.tx_descriptors), (2048, 512));
    assert_eq!((outside.checksum, outside.vlan), (Checksum::Hardware, Vlan::Pass));
    let inside = config.ports.get(Side::Inside);
    assert_eq!(inside.side, Side::Inside);
    assert_eq!(inside.checksum, Checksum::Software);

    let route = |to: &str, via| Route { destination: to.parse().unwrap(), via };
    assert_eq!(
        config.routes,
        [route("0.0.0.0/0", ip("192.0.2.1")), route("10.9.0.0/16", ip("10.0.0.254")),]
    );

    assert_eq!(
        config.rules.snat,
        [
            SnatRule {
                from: "10.0.0.0/24".parse().unwrap(),
                to: vec![ip("192.0.2.9"), ip("192.0.2.3")],
                ports: 1024..=65535
            },
            SnatRule {
                from: "10.9.0.0/16".parse().unwrap(),
                to: vec![ip("192.0.2.2")],
                ports: SnatRule::DEFAULT_PORTS
            },
        ]
    );
    assert_eq!(config.log.level, Level::Debug);
}

#[test]
fn the_network_is_that_of_ports_and_routes() {
    let config = parse(EVERYTHING);
    let network = config.network();
    assert_eq!(network.owner(ip("192.0.2.3")), Some(Side::Outside));
    assert_eq!(network.connected(ip("10.0.0.9")).map(|(side, _)| side), Some(Side::Inside));
    assert_eq!(network.routes, config.routes);
    assert_eq!(config.rules.check(&network), Ok(()));
}

#[test]
fn everything_of_the_nat_engine_can_be_set() {
    let config = parse(EVERYTHING);
    let local = |address: &str, ports| LocalAddress { address: address.parse().unwrap(), ports };
    assert_eq!(config.nat, Nat { connections: 65536 });
    let defaults = config.rules.defaults;
    assert_eq!((defaults.on_unknown, defaults.reset_on_expiry), (OnUnknown::Drop, true));
    assert_eq!(
        (defaults.late_packets, defaults.source_routes),
        (LatePackets::Reset, SourceRoutes::Forward)
    );
    assert_eq!(
        config.rules.local_addresses,
        [
            local("10.0.0.1", LocalAddress::DEFAULT_PORTS),
            local("10.0.0.2", 2000..=2999),
            local("10.0.0.2", 3000..=3999),
        ]
    );
    assert_eq!(
        config.rules.defaults.timeouts,
        Timeouts {
            established: Duration::from_secs(3600),
            syn_sent: Duration::from_secs(100),
            syn_recv: Duration::from_secs(50),
            fin_wait: Duration::from_secs(120),
            time_wait: Duration::from_secs(60),
            close: Duration::from_secs(5),
            close_wait: Duration::from_secs(40),
            last_ack: Duration::from_secs(20),
            udp: Duration::from_secs(86_400),
            udp_one_way: Duration::from_secs(1),
            icmp: Duration::from_secs(604_800),
        }
    );
}

#[test]
fn everything_of_a_service_can_be_set() {
    let config = parse(EVERYTHING);
    let [web, dns, closed, group, narrow] = &config.rules.services[..] else {
        panic!("{:?}", config.rules.services)
    };

    assert_eq!(
        (&web.protocols[..], web.scheduler),
        (&[Protocol::Tcp][..], Scheduler::WeightedRoundRobin)
    );
    let names = [web, dns, closed, group, narrow].map(|service| service.name.as_str());
    assert_eq!(
        names,
        [
            "web",
            "udp-192.0.2.2-53",
            "udp-198.51.100.7-80",
            "tcp-198.51.100.8-any",
            "tcp-198.51.100.8-443"
        ]
    );
    assert_eq!(web.endpoints, [endpoint("198.51.100.7", 80..=80)]);
    assert_eq!(
        web.servers,
        [
            RealServer {
                upper_threshold: 1000,
                lower_threshold: 800,
                ..server("10.0.0.10", Some(8080), 1)
            },
            server("10.9.0.11", Some(80), 3),
            server("10.0.0.10", Some(80), 0),
        ]
    );
    let sorry = server("10.0.0.250", Some(8080), 1);
    assert_eq!(web.fallback, Some(sorry));
    assert_eq!(web.drain_timeout, Some(Duration::from_secs(90)));
    assert_eq!((web.mss_limit, web.one_packet), (Some(1400), false));
    assert_eq!((web.on_unknown, web.reset_on_expiry), (Some(OnUnknown::Reset), Some(false)));
    assert_eq!(
        web.timeouts,
        TimeoutOverrides {
            established: Some(Duration::from_secs(7200)),
            udp: Some(Duration::from_secs(10)),
            ..TimeoutOverrides::default()
        }
    );

    assert_eq!((&dns.protocols[..], dns.scheduler), (&[Protocol::Udp][..], Scheduler::SourceHash));
    assert_eq!(dns.scheduler_flags, SchedulerFlags { fallback: true, port: true });
    assert_eq!(dns.servers, [server("10.0.0.53", Some(53), 1)]);
    assert!(dns.one_packet);
    assert!(closed.servers.is_empty());

    assert_eq!(group.protocols, [Protocol::Tcp, Protocol::Udp]);
    assert_eq!(
        group.endpoints,
        [endpoint("198.51.100.8", 1..=65535), endpoint("198.51.100.9", 5000..=5999)]
    );
    assert_eq!(group.scheduler_flags, SchedulerFlags { fallback: false, port: true });
    assert_eq!((web.scheduler_slots, group.scheduler_slots), (None, Some(509)));
    assert_eq!(group.mode, ForwardingMode::FullNat);
    let persistence = Persistence { timeout: Duration::from_secs(600), prefix_len: 24 };
    assert_eq!(group.persistence, Some(persistence));
    assert_eq!(group.fallback, Some(server("10.0.0.250", None, 1)));
    assert_eq!(group.servers, [server("10.0.0.20", None, 1), server("10.0.0.20", Some(7000), 1)]);

    assert_eq!(
        narrow.persistence,
        Some(Persistence { timeout: Duration::from_secs(360), prefix_len: 32 })
    );
}

#[test]
fn a_server_without_a_port_has_the_one_that_is_dialled() {
    let of = |vip: &str| {
        let server = "server = [{ address = \"192.168.2.210\" }]";
        service(&format!("vip = {vip}\n{server}\nfallback = \"192.168.2.220\"\npersistence = true"))
    };
    for (vip, port) in [
        (r#""192.168.1.100:80""#, Some(80)),
        (r#""192.168.1.100:80-80""#, Some(80)),
        (r#"["192.168.1.100:80", "192.168.1.101:80"]"#, Some(80)),
        (r#"["192.168.1.100:80", "192.168.1.100:443"]"#, None),
        (r#""192.168.1.100:80-81""#, None),
        (r#""192.168.1.100:*""#, None),
    ] {
        let service = of(vip);
        assert_eq!(service.port(), port, "{vip}");
        assert_eq!(service.servers[0].port, port, "{vip}");
        assert_eq!(service.fallback.unwrap().port, port, "{vip}");
        let rport = port.unwrap_or(7);
        assert_eq!(service.servers[0].endpoint(7), SocketAddr::new(ip("192.168.2.210"), rport));
    }
}

#[test]
fn a_narrower_endpoint_may_lie_in_a_wider_one() {
    let endpoints = ["192.168.1.100:*", "192.168.1.100:80-89", "192.168.1.100:85"];
    let text: String =
        endpoints.map(|vip| section(&format!("vip = \"{vip}\"\npersistence = 9"))).concat();
    let config = parse(&format!("{LEAST}{text}"));
    let [any, range, exact] = &config.rules.services[..] else {
        panic!("{:?}", config.rules.services)
    };
    let (any, range, exact) = (&any.endpoints[0], &range.endpoints[0], &exact.endpoints[0]);
    assert!(any.encloses(range) && any.encloses(exact) && range.encloses(exact));
    assert!(!range.encloses(any) && !exact.encloses(exact));
    assert!(any.overlaps(exact) && exact.overlaps(any));
    assert!(range.contains(ip("192.168.1.100"), 89));
    assert!(!range.contains(ip("192.168.1.100"), 90));
    assert!(!range.contains(ip("192.168.1.101"), 89));
    assert_eq!((exact.port(), range.port(), any.is_any_port()), (Some(85), None, true));
    assert_eq!([any, range, exact].map(ToString::to_string), endpoints);
}

#[test]
fn services_of_different_protocols_may_share_an_endpoint() {
    let of = |protocol| section(&format!("vip = \"192.168.1.100:53\"\nprotocol = {protocol}"));
    let config = parse(&format!("{LEAST}{}{}", of("\"tcp\""), of("\"udp\"")));
    assert_eq!(config.rules.services.len(), 2);
}

#[test]
fn persistence_masks_are_netmasks_or_lengths() {
    for (mask, length) in [("\"255.255.0.0\"", 16), ("16", 16), ("1", 1), ("32", 32)] {
        let keys =
            format!("vip = \"192.168.1.100:80\"\npersistence = 1\npersistence-mask = {mask}");
        assert_eq!(service(&keys).persistence.unwrap().prefix_len, length, "{mask}");
    }
    assert_eq!(service("vip = \"192.168.1.100:80\"\npersistence = false").persistence, None);
}

#[test]
fn every_scheduler_of_ipvs_is_known() {
    let names =
        "rr wrr lc wlc sed nq sh dh mh lblc lblcr fo ovf twos".split(' ').collect::<Vec<_>>();
    for name in names {
        let vip = "[[service]]\nvip = \"192.168.1.100:80\"";
        let config = parse(&format!("{LEAST}\n{vip}\nscheduler = \"{name}\"\n"));
        assert_eq!(config.rules.services[0].scheduler.to_string(), name);
    }
}

#[test]
fn foreign_vips_and_snat_addresses_become_the_directors() {
    let addresses = parse(EVERYTHING).virtual_addresses();
    let outside = |last| IpAddr::from([198, 51, 100, last]);
    assert_eq!(addresses, [outside(7), outside(8), outside(9), ip("192.0.2.9")]);
}

#[test]
fn foreign_local_addresses_become_the_directors() {
    assert_eq!(parse(EVERYTHING).local_addresses(), [ip("10.0.0.2")]);
}

#[test]
fn the_example_is_right() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/lvs-nat.toml");
    let config = Config::load(&path).unwrap_or_else(|errors| panic!("{errors}"));
    assert_eq!(config.ports.outside.device.name(), "net_af_packet0");
    assert_eq!(config.rules.services.len(), 1);
    assert_eq!(config.rules.services[0].servers.len(), 2);
    assert_eq!(config.rules.services[0].scheduler, Scheduler::RoundRobin);
    assert!(config.virtual_addresses().is_empty());
    let lines = fs::read_to_string(&path).unwrap().lines().count();
    assert!(lines < 30, "the example has {lines} lines and should be short");
}

#[test]
fn windows_line_ends_and_a_byte_order_mark_are_taken() {
    let text = format!("\u{feff}{}", EVERYTHING.replace('\n', "\r\n"));
    assert_eq!(parse(&text), parse(EVERYTHING));
}

#[test]
fn eal_arguments_with_huge_pages() {
    assert_eq!(
        parse(LEAST).eal_args("shunt-7").join(" "),
        "--lcores 0@0,1@1 --main-lcore 0 -m 256 --file-prefix shunt-7 --no-telemetry --in-memory --no-pci \
         --vdev net_tap0,iface=outside0 --vdev net_tap1,iface=inside0"
    );
}

#[test]
fn eal_arguments_with_a_huge_page_directory_and_pci() {
    assert_eq!(
        parse(EVERYTHING).eal_args("shunt").join(" "),
        "--lcores 0@2,1@3,2@4 --main-lcore 0 -m 1024 --file-prefix shunt --no-telemetry \
         --huge-dir /dev/hugepages --huge-unlink --no-shconf --allow 0000:03:00.1 \
         --vdev net_af_xdp0,iface=inside0 --log-level pmd.net.af_xdp:debug"
    );
}

#[test]
fn eal_arguments_without_huge_pages() {
    let config = parse(&format!("{LEAST}\n[dpdk]\nno-huge = true\nmemory = \"64M\"\n"));
    assert_eq!(config.dpdk.huge_pages, HugePages::None);
    let args = config.eal_args("shunt").join(" ");
    assert!(args.contains("-m 64 "), "{args}");
    assert!(args.contains("--no-huge --no-shconf"), "{args}");
    assert!(!args.contains("--in-memory"), "{args}");
}

#[test]
fn a_worker_may_share_the_cpu_of_the_control_plane() {
    let config = parse(&format!("{LEAST}[dpdk]\nmain-lcore = 1\nworker-lcores = [0, 1]\n"));
    let args = config.eal_args("shunt").join(" ");
    assert!(args.starts_with("--lcores 0@1,1@0,2@1 --main-lcore 0 "), "{args}");
}
