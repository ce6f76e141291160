//! What ports with RSS are told, on net_null: it has a key and a redirection table, and puts them to
//! no use.

use std::fs;

use shunt_config::Config;
use shunt_dataplane::{DirectorParts, Owners, WorkerId, open_pool, rss_key};
use shunt_dpdk::{DEFAULT_KEY_LEN, Eal, PortId};
use shunt_nat::Side;

const ENTRIES: u16 = 128;

fn config(workers: usize, queues: &str) -> Config {
    let lcores: Vec<_> = (1..=workers).collect();
    let text = format!(
        r#"
        [dpdk]
        no-huge = true
        worker-lcores = {lcores:?}

        [[port]]
        name = "outside"
        role = "outside"
        device = "net_null0"
        addresses = ["192.168.1.100/24"]
        queues = {queues}
        rx-descriptors = 64
        tx-descriptors = 64

        [[port]]
        name = "inside"
        role = "inside"
        device = "net_null1"
        addresses = ["192.168.2.200/24"]
        queues = {queues}
        rx-descriptors = 64
        tx-descriptors = 64

        [nat]
        connections = 1024
        "#
    );
    Config::parse("rss.toml", &text).unwrap_or_else(|errors| panic!("{errors}"))
}

/// One EAL per process, and so one test. 48 workers are the most that there can be.
#[test]
fn ports_are_told_who_owns_what() {
    let eal = eal();
    let pool = open_pool(&eal, &config(1, "1")).expect("a pool");
    for (workers, queues, table_queues) in
        [(2, "\"auto\"", 2), (3, "\"auto\"", 3), (4, "2", 2), (2, "1", 0), (48, "\"auto\"", 48)]
    {
        for name in ["net_null0", "net_null1"] {
            eal.attach_vdev(name).expect("a device");
        }
        let config = config(workers, queues);
        let mut director =
            DirectorParts::open_with(&eal, &config, pool.clone()).expect("a director");
        // A worker polls as many packets as it has queues for, and they are all dropped.
        director.poll(shunt_nat::Instant::default());
        for (side, name) in [(Side::Outside, "net_null0"), (Side::Inside, "net_null1")] {
            let port = PortId::by_name(name).expect("a port");
            let owners = Owners::new(ENTRIES.into(), workers);
            let key = rss_key(side, owners.index_bits(), DEFAULT_KEY_LEN);
            let has_key = port.rss(DEFAULT_KEY_LEN as u8).is_ok_and(|rss| rss.key == Some(key));
            assert_eq!(has_key, table_queues > 0, "{workers} workers, queues = {queues}");
            if table_queues > 0 {
                let queue = |WorkerId(owner)| u16::from(owner) % table_queues;
                let table = owners.redirection(ENTRIES.into(), queue);
                assert_eq!(port.redirection(ENTRIES).expect("a table"), table);
            }
        }
        let report = director.close(&config);
        let queues: u64 = if table_queues > 0 { table_queues.into() } else { 1 };
        let received = report.ports.iter().map(|port| port.counters.rx_packets);
        assert_eq!(received.collect::<Vec<_>>(), [queues * 32; 2]);
        assert_eq!(report.mbufs.missing(), 0, "{report}");
        for name in ["net_null0", "net_null1"] {
            eal.detach_vdev(name).expect("a device that nobody uses");
        }
    }
}

fn eal() -> Eal {
    let status = fs::read_to_string("/proc/self/status").expect("procfs");
    let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    let first = list.and_then(|list| list.trim().split([',', '-']).next());
    let cpu = format!("--lcores=0@{}", first.expect("a CPU to run on"));
    let args = [
        "--no-huge",
        "--no-pci",
        "--no-shconf",
        "--no-telemetry",
        "--file-prefix=shunt-rss",
        "-m",
        "256",
        &cpu,
    ];
    Eal::init(&args).expect("EAL starts without root and huge pages")
}
