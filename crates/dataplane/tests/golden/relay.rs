//! Two workers and one queue for each port: the worker that has it sends for the other one, too.

use shunt_config::Config;
use shunt_dataplane::{DirectorParts, Worker, open_pool};
use shunt_nat::{Instant, Side};
use shunt_testkit::{ethernet, mac};

use crate::stage::eal;

const SERVICE_FILE: &str = r#"
    [dpdk]
    no-huge = true
    worker-lcores = [1, 2]
    mbufs = 8192

    [[port]]
    name = "outside"
    role = "outside"
    device = "net_null_relay0"
    addresses = ["192.168.1.100/24"]
    vlan = "pass"
    queues = 1

    [[port]]
    name = "inside"
    role = "inside"
    device = "net_null_relay1"
    addresses = ["192.168.2.200/24"]
    vlan = "pass"
    queues = 1

    [nat]
    connections = 1024
"#;

/// Frames that wait for the outside port's worker: less than a ring holds.
const FRAMES: u64 = 800;

#[test]
fn nobody_is_kept_from_its_own_work_by_what_others_send() {
    const DEVICES: [&str; 2] = ["net_null_relay0", "net_null_relay1"];
    for name in DEVICES {
        eal().attach_vdev(name).expect("a device");
    }
    let config = Config::parse("relay.toml", SERVICE_FILE).unwrap_or_else(|e| panic!("{e}"));
    let pool = open_pool(eal(), &config).expect("a pool");
    let mut director = DirectorParts::open_with(eal(), &config, pool).expect("a director");

    let now = Instant::default();
    let tagged = ethernet(mac(1), mac(2), 0x8100, &[1; 50]);
    let [outside, inside] = director.workers().as_mut_slice() else { panic!("two workers") };
    let mut sends = || {
        let sent = |outside: &Worker| outside.port_counters()[Side::Outside as usize].tx_packets;
        let before = sent(outside);
        outside.poll(now);
        sent(outside) - before
    };
    assert_eq!(sends(), 1, "an announcement");
    for _ in 0..FRAMES {
        assert!(inside.inject(now, Side::Inside, &tagged));
    }
    inside.poll(now);
    assert_eq!([sends(), sends(), sends(), sends()], [256, 256, 256, FRAMES - 3 * 256]);

    let report = director.close(&config);
    assert_eq!(report.mbufs.missing(), 0, "{report}");
    for name in DEVICES {
        eal().detach_vdev(name).expect("a device that nobody uses");
    }
}
