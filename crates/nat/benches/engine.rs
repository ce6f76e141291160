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
    net::Ipv4Addr,
    sync::Arc,
    time::{Duration, Instant as WallClock},
};

use criterion::{BenchmarkId, Criterion, Throughput};
use shunt_nat::{
    ConnectionState, EgressId, Engine, EngineConfig, Instant, Prepared, Ruleset, Side, Verdict,
};
use shunt_packet::{ipv4::Ipv4Packet, plain::PlainPacket};
use shunt_rules::{
    ForwardingMode, LocalAddress, Protocol, RealServer, Rules, Scheduler, VirtualService,
};
use shunt_testkit::Packet;

use common::{BURST, Surroundings, VIP, client, in_rounds, server, shuffled, sizes};

/// Bytes of IPv4 in a minimal Ethernet frame.
const PACKET_LEN: usize = 46;

type Template = [u8; PACKET_LEN];

/// What a service does.
#[derive(Clone, Copy)]
struct Kind {
    name: &'static str,
    protocol: Protocol,
    mode: ForwardingMode,
}

const KINDS: [Kind; 3] = [
    Kind { name: "udp", protocol: Protocol::Udp, mode: ForwardingMode::Nat },
    Kind { name: "tcp", protocol: Protocol::Tcp, mode: ForwardingMode::Nat },
    Kind { name: "udp-full-nat", protocol: Protocol::Udp, mode: ForwardingMode::FullNat },
];

impl Kind {
    fn engine(self, flows: usize) -> Engine {
        let servers = (0..4).map(|number| RealServer::new(server(number), 1)).collect();
        let service = VirtualService::new(self.protocol, VIP, Scheduler::RoundRobin, servers);
        // A local endpoint can be used towards each server, but 64 k of them would be short.
        let local = |last| LocalAddress {
            address: Ipv4Addr::new(192, 168, 3, last).into(),
            ports: LocalAddress::DEFAULT_PORTS,
        };
        let rules = Rules {
            services: vec![Arc::new(VirtualService { mode: self.mode, ..service })],
            local_addresses: (1..=64).map(local).collect(),
            ..Rules::default()
        };
        let config = EngineConfig { capacity: flows as u32, secret: [1, 2, 3, 4] };
        Engine::new(&config, Ruleset::new(&rules, 7).expect("IPv4")).expect("memory")
    }

    fn packet(self, src: &str, dst: &str) -> Packet {
        match self.protocol {
            Protocol::Tcp => Packet::tcp(src, dst).payload([0; 6]),
            Protocol::Udp => Packet::udp(src, dst).payload([0; 18]),
        }
    }

    fn opener(self, number: usize) -> Template {
        let packet = self.packet(&client(number).to_string(), &VIP.to_string());
        template(&if self.protocol == Protocol::Tcp { packet.syn() } else { packet })
    }

    fn forward(self, number: usize) -> Template {
        let packet = self.packet(&client(number).to_string(), &VIP.to_string());
        template(&if self.protocol == Protocol::Tcp { packet.ack(1001) } else { packet })
    }

    /// What a server answers to an opener, as it leaves.
    fn answer(self, opener: &mut Template) -> Template {
        let packet = Ipv4Packet::parse(opener).expect("a sound packet");
        let (client, server) = (packet.header.src(), packet.header.dst());
        let port = |at| u16::from_be_bytes([packet.payload[at], packet.payload[at + 1]]);
        let from = format!("{server}:{}", port(2));
        let packet = self.packet(&from, &format!("{client}:{}", port(0)));
        template(&if self.protocol == Protocol::Tcp { packet.ack(1001) } else { packet })
    }
}

fn template(packet: &Packet) -> Template {
    packet.bytes().try_into().expect("a minimal frame's worth")
}

const NOW: Instant = Instant::from_millis(1_000);

/// Passes packets through the engine, as a worker does: in steps over a burst, the short way if they
/// can. They are changed where they are: who moved them afterwards would measure how long a wide load
/// waits for narrow stores.
#[inline(never)]
fn pass(engine: &mut Engine, now: Instant, side: Side, burst: &mut [Template]) {
    let mut prepared = [Prepared::default(); BURST];
    for (bytes, prepared) in burst.iter_mut().zip(&mut prepared) {
        *prepared = engine.begin(&PlainPacket::parse(bytes).expect("a plain packet"));
    }
    let prepared = &mut prepared[..burst.len()];
    let mut may_open = false;
    for prepared in &mut *prepared {
        may_open |= engine.proceed(prepared);
    }
    if may_open {
        engine.choose_ahead(now, side, &*prepared);
    }
    for (bytes, prepared) in burst.iter_mut().zip(&*prepared) {
        let packet = PlainPacket::view(bytes).expect("a plain packet");
        if engine.forward(now, side, packet, prepared, |_| true, |_| true).is_none() {
            pass_the_long_way(engine, now, side, bytes, prepared);
        }
    }
    engine.settle();
}

fn pass_the_long_way(
    engine: &mut Engine,
    now: Instant,
    side: Side,
    bytes: &mut Template,
    prepared: &Prepared,
) {
    let mut packet = Ipv4Packet::parse(bytes).expect("a sound packet");
    match engine.finish(now, side, &mut packet, prepared, &Surroundings) {
        Verdict::Translate(translation) => {
            translation.apply(&mut packet);
            packet.header.decrement_ttl();
            engine.note_egress(prepared, side, EgressId::FIRST);
        }
        verdict => panic!("{verdict:?}"),
    }
}

/// Passes copies of packets.
fn pass_all(engine: &mut Engine, now: Instant, side: Side, templates: &[Template]) {
    let mut copies = [[0; PACKET_LEN]; BURST];
    for templates in templates.chunks(BURST) {
        let copies = &mut copies[..templates.len()];
        copies.copy_from_slice(templates);
        pass(engine, now, side, copies);
        black_box(&copies);
    }
}

/// An engine with connections, and a packet of each for either direction.
struct Established {
    engine: Engine,
    forward: Vec<Template>,
    reverse: Vec<Template>,
}

impl Established {
    fn new(kind: Kind, flows: usize) -> Established {
        let mut engine = kind.engine(flows);
        let mut reverse = Vec::with_capacity(flows);
        let mut forward = Vec::with_capacity(flows);
        // Records lie in the order of opening; packets come in another.
        for number in 0..flows {
            let mut opener = [kind.opener(number)];
            pass(&mut engine, NOW, Side::Outside, &mut opener);
            reverse.push(kind.answer(&mut opener[0]));
            forward.push(kind.forward(number));
        }
        let order = shuffled(flows);
        let arrange = |templates: &[Template]| order.iter().map(|at| templates[*at]).collect();
        let (forward, reverse): (Vec<_>, Vec<_>) = (arrange(&forward), arrange(&reverse));
        pass_all(&mut engine, NOW, Side::Inside, &reverse);
        pass_all(&mut engine, NOW, Side::Outside, &forward);
        let is_established =
            |state| matches!(state, ConnectionState::Udp | ConnectionState::Established);
        assert!(engine.table().iter().all(|connection| is_established(connection.state())));
        assert_eq!(engine.table().len(), flows);
        Established { engine, forward, reverse }
    }
}

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
