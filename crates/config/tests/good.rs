//! Right service files and what they come to.

use std::{fs, net::Ipv4Addr, path::Path};

use shunt_config::{
    Checksum, Config, Device, Dpdk, HugePages, Level, PciAddress, Protocol, RealServer, Role,
    Route, Scheduler, Snat, Vlan,
};

const EVERYTHING: &str = include_str!("good/everything.toml");
const LEAST: &str = include_str!("good/least.toml");

fn parse(text: &str) -> Config {
    Config::parse("shunt.toml", text).unwrap_or_else(|errors| panic!("{errors}"))
}

#[test]
fn what_is_left_out_has_defaults() {
    let config = parse(LEAST);
    assert_eq!(config.dpdk, Dpdk::default());
    assert_eq!(config.dpdk.main_lcore, 0);
    assert_eq!(config.dpdk.worker_lcores, [1]);
    assert_eq!(config.dpdk.memory_mib, 256);
    assert_eq!(config.dpdk.mbufs, 16384);
    assert_eq!(config.dpdk.huge_pages, HugePages::Default);
    assert_eq!(config.log.level, Level::Info);
    for port in config.ports.iter() {
        assert_eq!((port.mtu, port.queues), (1500, 1));
        assert_eq!((port.rx_descriptors, port.tx_descriptors), (1024, 1024));
        assert_eq!((port.checksum, port.vlan), (Checksum::Auto, Vlan::Drop));
    }
    assert!(config.routes.is_empty() && config.services.is_empty() && config.snat.is_empty());
    assert!(config.virtual_addresses().is_empty());
}

#[test]
fn everything_can_be_set() {
    let config = parse(EVERYTHING);

    assert_eq!(
        config.dpdk,
        Dpdk {
            main_lcore: 2,
            worker_lcores: vec![3],
            memory_mib: 1024,
            huge_pages: HugePages::Directory("/dev/hugepages".into()),
            mbufs: 32768,
            eal_args: vec!["--log-level".into(), "pmd.net.af_xdp:debug".into()],
        }
    );

    let outside = config.ports.get(Role::Outside);
    assert_eq!(outside.name, "wan");
    assert_eq!(
        outside.device,
        Device::Pci(PciAddress { domain: 0, bus: 3, device: 0, function: 1 })
    );
    assert_eq!(
        outside.addresses,
        ["192.0.2.2/24".parse().unwrap(), "192.0.2.3/24".parse().unwrap()]
    );
    assert_eq!((outside.mtu, outside.queues), (9000, 1));
    assert_eq!((outside.rx_descriptors, outside.tx_descriptors), (2048, 512));
    assert_eq!((outside.checksum, outside.vlan), (Checksum::Hardware, Vlan::Pass));
    let inside = config.ports.get(Role::Inside);
    assert_eq!(inside.role, Role::Inside);
    assert_eq!(inside.checksum, Checksum::Software);

    let route = |to: &str, via| Route { destination: to.parse().unwrap(), via };
    assert_eq!(
        config.routes,
        [
            route("0.0.0.0/0", Ipv4Addr::new(192, 0, 2, 1)),
            route("10.9.0.0/16", Ipv4Addr::new(10, 0, 0, 254)),
        ]
    );

    let [web, dns, closed] = &config.services[..] else { panic!("{:?}", config.services) };
    assert_eq!((web.protocol, web.scheduler), (Protocol::Tcp, Scheduler::Wrr));
    assert_eq!(web.vip, "198.51.100.7:80".parse().unwrap());
    let server = |address: &str, weight| RealServer { address: address.parse().unwrap(), weight };
    assert_eq!(
        web.servers,
        [server("10.0.0.10:8080", 1), server("10.9.0.11:80", 3), server("10.0.0.10:80", 0)]
    );
    assert_eq!((dns.protocol, dns.scheduler), (Protocol::Udp, Scheduler::Rr));
    assert_eq!(dns.servers, [server("10.0.0.53:53", 1)]);
    assert!(closed.servers.is_empty());

    assert_eq!(
        config.snat,
        [
            Snat {
                from: "10.0.0.0/24".parse().unwrap(),
                to: Ipv4Addr::new(192, 0, 2, 9),
                ports: 1024..=65535
            },
            Snat {
                from: "10.9.0.0/16".parse().unwrap(),
                to: Ipv4Addr::new(192, 0, 2, 2),
                ports: Snat::DEFAULT_PORTS
            },
        ]
    );
    assert_eq!(config.log.level, Level::Debug);
}

#[test]
fn foreign_vips_and_snat_addresses_become_the_directors() {
    let addresses = parse(EVERYTHING).virtual_addresses();
    assert_eq!(addresses, [Ipv4Addr::new(198, 51, 100, 7), Ipv4Addr::new(192, 0, 2, 9)]);
}

#[test]
fn the_example_is_right() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/lvs-nat.toml");
    let config = Config::load(&path).unwrap_or_else(|errors| panic!("{errors}"));
    assert_eq!(config.ports.outside.device.name(), "net_af_packet0");
    assert_eq!(config.services.len(), 1);
    assert_eq!(config.services[0].servers.len(), 2);
    assert_eq!(config.services[0].scheduler, Scheduler::Rr);
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
        "--lcores 0,1 --main-lcore 0 -m 256 --file-prefix shunt-7 --no-telemetry --in-memory --no-pci \
         --vdev net_tap0,iface=outside0 --vdev net_tap1,iface=inside0"
    );
}

#[test]
fn eal_arguments_with_a_huge_page_directory_and_pci() {
    assert_eq!(
        parse(EVERYTHING).eal_args("shunt").join(" "),
        "--lcores 2,3 --main-lcore 2 -m 1024 --file-prefix shunt --no-telemetry \
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
