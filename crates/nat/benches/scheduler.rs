//! Each scheduler, with few servers and with many.
//!
//! A unit is a datagram of a one-packet service: it is parsed, belongs to no connection, and is given
//! a server anew. What the schedulers differ in is what scheduling takes; `fo` with four servers does
//! next to nothing beyond the rest.
//!
//! `table` is what it takes to add a service by `mh` and to remove it: nearly all of that is filling its
//! table, for servers of one weight and of many.

mod common;

use std::{
    hint::black_box,
    net::{Ipv4Addr, SocketAddrV4},
    sync::Arc,
};

use criterion::{BenchmarkId, Throughput};
use shunt_nat::{Engine, EngineConfig, Instant, Ruleset, RulesetBuilder, Side, Verdict};
use shunt_packet::ipv4::Ipv4Packet;
use shunt_rules::{Protocol, RealServer, Rules, Scheduler, VirtualService};
use shunt_testkit::Packet;

use common::{BURST, TestNetwork, VIP, client};

/// Clients that dial.
const CLIENTS: usize = 1024;

fn main() {
    let mut criterion = common::criterion();
    let datagrams: Vec<_> = (0..CLIENTS)
        .map(|number| Packet::udp(&client(number).to_string(), &VIP.to_string()).bytes())
        .collect();
    for kind in Scheduler::ALL.iter().copied() {
        for servers in [4, 64, 1024] {
            let mut group = criterion.benchmark_group(format!("scheduler/{kind}"));
            group.throughput(Throughput::Elements(BURST as u64));
            let mut engine = engine(kind, servers);
            let mut bursts = datagrams.chunks_exact(BURST).cycle();
            group.bench_function(BenchmarkId::from_parameter(servers), |bencher| {
                bencher.iter(|| {
                    for datagram in bursts.next().expect("an endless sequence") {
                        schedule(&mut engine, datagram);
                    }
                });
            });
            group.finish();
        }
    }
    for (weights, most) in [("even", 1), ("uneven", 8)] {
        let mut group = criterion.benchmark_group(format!("table/{weights}"));
        for servers in [10, 100, 1000] {
            let rules = rules(Scheduler::Maglev, servers, most);
            let mut builder = RulesetBuilder::new(7, 1);
            group.bench_function(BenchmarkId::from_parameter(servers), |bencher| {
                bencher.iter(|| {
                    drop(black_box(builder.build(&rules, Instant::default(), |_| 0)));
                    drop(black_box(builder.build(&Rules::default(), Instant::default(), |_| 0)));
                });
            });
        }
        group.finish();
    }
    criterion.final_summary();
}

/// Servers of different weights, all without connections.
fn engine(kind: Scheduler, servers: u16) -> Engine {
    let config = EngineConfig { capacity: 16, secret: [1, 2, 3, 4] };
    Engine::new(&config, Ruleset::new(&rules(kind, servers, 8), 7).expect("IPv4")).expect("memory")
}

/// A service of so many servers, with weights from 1 to `most`.
fn rules(kind: Scheduler, servers: u16, most: u16) -> Rules {
    let server = |number: u16| {
        let address = Ipv4Addr::from_bits(0xc0a8_0200 + u32::from(number));
        RealServer::new(SocketAddrV4::new(address, 53), 1 + number % most)
    };
    let servers = (1..=servers).map(server).collect();
    let service = VirtualService::new(Protocol::Udp, VIP, kind, servers);
    Rules {
        services: vec![Arc::new(VirtualService { one_packet: true, ..service })],
        ..Rules::default()
    }
}

#[inline]
fn schedule(engine: &mut Engine, datagram: &[u8]) {
    let mut copy = [0; 28];
    copy.copy_from_slice(datagram);
    let mut packet = Ipv4Packet::parse(&mut copy).expect("a sound packet");
    let now = Instant::from_millis(1_000);
    match engine.process(now, Side::Outside, &mut packet, &TestNetwork) {
        Verdict::Translate(translation) => {
            black_box(translation.destination());
        }
        verdict => panic!("{verdict:?}"),
    }
}
