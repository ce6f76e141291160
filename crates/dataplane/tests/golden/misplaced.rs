//! Cards with RSS that bring packets to other workers than they were told to, played by net_null: it
//! takes a key and a table, and then delivers by each queue what is in the mbufs already. The inside
//! port has one queue, so it claims nothing.

use std::{
    fmt::Debug,
    sync::{Arc, Mutex},
};

use shunt_config::Config;
use shunt_dataplane::{
    DirectorParts, DropReason, Owners, PortCounters, Report, WorkerId, open_pool,
};
use shunt_dpdk::Mempool;
use shunt_nat::Instant;
use shunt_testkit::{Packet, ethernet, mac};
use tracing::{
    Event, Level, Metadata, Subscriber,
    field::{Field, Visit},
    span,
};

use crate::stage::eal;

/// Frames of a burst, and bytes of each of net_null's.
const BURST: u64 = 32;
const FRAME: usize = 64;
/// Entries of net_null's redirection table.
const ENTRIES: usize = 128;

#[test]
fn what_rss_misplaces_goes_to_its_owner_and_is_counted() {
    let mut stage = Stage::new("placed", 2, 2);
    let complaints = complaints_about(|| {
        stage.poll(1, 0);
        assert_eq!(stage.handed_over(1), [(0, 0); 2], "what comes to its owner");
        stage.poll(0, 0);
        assert_eq!(stage.handed_over(0), [(BURST, BURST), (BURST, 0)]);
        stage.poll(0, 200);
        assert_eq!(stage.handed_over(0), [(2 * BURST, 2 * BURST), (2 * BURST, 0)]);
        // It takes a burst at a time from the other one, and has its own queue as well.
        (0..4).for_each(|_| stage.poll(1, 200));
        assert_eq!(stage.handed_over(1), [(0, 0); 2]);
    });
    assert_eq!(stage.dropped_by_owner(), [0, (1 + 4 + 4) * BURST], "the owner got all of it");
    assert_eq!(complaints.len(), 1, "{complaints:?}");
    assert!(complaints[0].contains("port outside: its RSS brings packets"), "{complaints:?}");
    stage.close();
}

#[test]
fn a_port_is_complained_of_once() {
    let mut stage = Stage::new("once", 3, 3);
    let complaints = complaints_about(|| {
        for (worker, millis) in [(0, 0), (1, 0), (0, 200), (1, 200)] {
            stage.poll(worker, millis);
        }
    });
    assert!(stage.handed_over(0)[0].1 > 0 && stage.handed_over(1)[0].1 > 0, "both noticed");
    assert_eq!(complaints.len(), 1, "{complaints:?}");
    stage.end();
}

#[test]
fn what_is_for_a_worker_without_a_queue_is_not_misplaced() {
    // Packets of the third worker are to come by the first queue.
    let mut stage = Stage::new("few", 3, 2);
    let complaints = complaints_about(|| {
        stage.poll(0, 0);
        assert_eq!(stage.handed_over(0), [(BURST, 0), (0, 0)]);
    });
    assert!(complaints.is_empty(), "{complaints:?}");
    stage.poll(1, 0);
    assert_eq!(stage.handed_over(1), [(BURST, BURST), (0, 0)]);
    // The inside port's queue is the owner's.
    stage.poll(2, 0);
    assert_eq!(stage.handed_over(2), [(0, 0); 2]);
    assert_eq!(stage.dropped_by_owner(), [0, 0, 3 * BURST], "the owner got all of it");
    stage.close();
}

/// A director that gets a frame over and over, by all of its queues.
struct Stage {
    devices: [String; 2],
    config: Config,
    pool: Mempool,
    director: DirectorParts,
    frame: Vec<u8>,
}

impl Stage {
    /// The frame is the last worker's, from wherever it comes.
    fn new(name: &str, workers: usize, outside_queues: usize) -> Stage {
        let devices = [0, 1].map(|number| format!("net_null_{name}{number}"));
        for device in &devices {
            eal().attach_vdev(device).expect("a device");
        }
        let config = Config::parse("misplaced.toml", &file(&devices, workers, outside_queues))
            .unwrap_or_else(|errors| panic!("{errors}"));
        let pool = open_pool(eal(), &config).expect("a pool");
        let director = DirectorParts::open_with(eal(), &config, pool.clone()).expect("a director");
        Stage { devices, config, pool, director, frame: frame_of_last(workers) }
    }

    /// Has a worker take a turn, in which each of its queues delivers a burst of the frame.
    fn poll(&mut self, worker: usize, millis: u64) {
        let mbufs: Vec<_> = std::iter::from_fn(|| self.pool.alloc()).collect();
        for mut mbuf in mbufs {
            mbuf.append(FRAME).expect("room").copy_from_slice(&self.frame);
        }
        self.director.workers()[worker].poll(Instant::from_millis(millis));
    }

    /// By side, what a worker has handed over, and how much of that was misplaced.
    fn handed_over(&mut self, worker: usize) -> [(u64, u64); 2] {
        let counters = self.director.workers()[worker].port_counters();
        counters.map(|PortCounters { handed_over, misplaced, .. }| (handed_over, misplaced))
    }

    /// By worker, the frames that went through its pipeline: they are for nobody.
    fn dropped_by_owner(&mut self) -> Vec<u64> {
        let workers = self.director.workers().iter();
        workers.map(|worker| worker.drops().get(DropReason::NotForUs)).collect()
    }

    /// Ends it, and accounts for every frame, none of which is under way.
    fn close(self) {
        let report = self.end();
        let received: u64 = report.ports.iter().map(|port| port.counters.rx_packets).sum();
        assert_eq!(report.drops.get(DropReason::NotForUs), received, "{report}");
    }

    /// Ends it, and accounts for every mbuf.
    fn end(self) -> Report {
        let report = self.director.close(&self.config);
        assert_eq!(report.mbufs.missing(), 0, "{report}");
        for device in &self.devices {
            eal().detach_vdev(device).expect("a device that nobody uses");
        }
        report
    }
}

fn file([outside, inside]: &[String; 2], workers: usize, outside_queues: usize) -> String {
    let lcores: Vec<_> = (1..=workers).collect();
    format!(
        r#"
        [dpdk]
        no-huge = true
        worker-lcores = {lcores:?}
        mbufs = 1024

        [[port]]
        name = "outside"
        role = "outside"
        device = "{outside}"
        addresses = ["192.168.1.100/24"]
        queues = {outside_queues}
        rx-descriptors = 64
        tx-descriptors = 64

        [[port]]
        name = "inside"
        role = "inside"
        device = "{inside}"
        addresses = ["192.168.2.200/24"]
        queues = 1
        rx-descriptors = 64
        tx-descriptors = 64

        [nat]
        connections = 1024
        "#
    )
}

/// A frame to nobody whose source and destination are both the last worker's.
fn frame_of_last(workers: usize) -> Vec<u8> {
    let owners = Owners::new(ENTRIES, workers);
    let last = WorkerId(workers as u8 - 1);
    let endpoint = |address: &str| {
        let is_last = |port: &u16| owners.owner(address.parse().unwrap(), *port) == last;
        let port = (1024..=u16::MAX).find(is_last).expect("a port of each worker's");
        format!("{address}:{port}")
    };
    let packet = Packet::udp(&endpoint("192.168.1.200"), &endpoint("192.168.1.100"));
    let frame = ethernet(mac(0), mac(99), 0x0800, &packet.payload([0; 22]).bytes());
    assert_eq!(frame.len(), FRAME);
    frame
}

/// What is warned of meanwhile.
fn complaints_about(what: impl FnOnce()) -> Vec<String> {
    let warnings = Warnings::default();
    tracing::subscriber::with_default(warnings.clone(), what);
    std::mem::take(&mut *warnings.0.lock().unwrap())
}

/// Collects the text of warnings.
#[derive(Clone, Default)]
struct Warnings(Arc<Mutex<Vec<String>>>);

impl Subscriber for Warnings {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() == Level::WARN
    }

    fn event(&self, event: &Event<'_>) {
        struct Text(String);
        impl Visit for Text {
            fn record_debug(&mut self, _: &Field, value: &dyn Debug) {
                self.0 += &format!("{value:?}");
            }
        }
        let mut text = Text(String::new());
        event.record(&mut text);
        self.0.lock().unwrap().push(text.0);
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
    fn enter(&self, _: &span::Id) {}
    fn exit(&self, _: &span::Id) {}
}
