//! The engine per packet: parsing, look-up, state, counters and rewriting, on one core and without
//! DPDK. Packets come in bursts of 32.
//!
//! Packets are 46 bytes of IPv4 (a minimal Ethernet frame's), copied from templates in an order of
//! their own, as a card's memory would bring them; `copy` says what that alone takes.
//!
//! | bench | a unit is |
//! | --- | --- |
//! | `copy` | copying a template |
//! | `forward`, `reverse` | a packet of an established connection, from the client or the server |
//! | `open` | the first packet of a connection: scheduling and insertion |

mod common;

use std::{
    hint::black_box,
    time::{Duration, Instant as WallClock},
};

use criterion::{BenchmarkId, Criterion, Throughput};
use shunt_nat::Side;

use common::{
    BURST, in_rounds, shuffled, sizes,
    traffic::{Established, KINDS, Kind, NOW, PACKET_LEN, pass_all},
};

fn main() {
    let mut criterion = common::criterion();
    for flows in sizes() {
        for kind in KINDS {
            established(&mut criterion, kind, flows);
            open(&mut criterion, kind, flows);
        }
    }
    criterion.final_summary();
}

fn established(criterion: &mut Criterion, kind: Kind, flows: usize) {
    let Kind { name, .. } = kind;
    // Built when the first bench that the filter lets through needs it.
    let mut established = None;
    let mut run = |what: &str, pass: fn(&mut Established, usize)| {
        // Goes on from sample to sample: each flow comes again when all others have been.
        let mut first = 0;
        let mut group = criterion.benchmark_group(format!("engine/{what}/{name}"));
        group.throughput(Throughput::Elements(BURST as u64));
        group.bench_function(BenchmarkId::from_parameter(flows), |bencher| {
            let established = established.get_or_insert_with(|| Established::new(kind, flows));
            bencher.iter(|| {
                pass(established, first);
                first = (first + BURST) % flows;
            });
        });
        group.finish();
    };
    run("copy", |established, first| {
        let mut copies = [[0; PACKET_LEN]; BURST];
        copies.copy_from_slice(&established.forward[first..first + BURST]);
        black_box(&mut copies);
    });
    run("forward", |Established { engine, forward, .. }, first| {
        pass_all(engine, NOW, Side::Outside, &forward[first..first + BURST]);
    });
    run("reverse", |Established { engine, reverse, .. }, first| {
        pass_all(engine, NOW, Side::Inside, &reverse[first..first + BURST]);
    });
}

/// Connections are opened until there is no more room, and off the clock they run out.
fn open(criterion: &mut Criterion, kind: Kind, flows: usize) {
    let mut group = criterion.benchmark_group(format!("engine/open/{}", kind.name));
    group.throughput(Throughput::Elements(1));
    let mut now = NOW;
    let mut setup = None;
    group.bench_function(BenchmarkId::from_parameter(flows), |bencher| {
        let is_new = setup.is_none();
        let (engine, openers) = setup.get_or_insert_with(|| {
            let openers = shuffled(flows).into_iter().map(|flow| kind.opener(flow));
            (kind.engine(flows), openers.collect::<Vec<_>>())
        });
        let mut round = |count: usize| {
            let start = WallClock::now();
            pass_all(engine, now, Side::Outside, &openers[..count]);
            let time = start.elapsed();
            now = now + Duration::from_secs(1000);
            engine.expire(now, usize::MAX, |_| {});
            assert!(engine.table().is_empty());
            time
        };
        if is_new {
            // Touches all memory.
            round(flows);
        }
        bencher.iter_custom(|iterations| in_rounds(iterations, flows, &mut round));
    });
    group.finish();
}
