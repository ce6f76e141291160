//! Packets of one service, and an engine that passes them on as a worker does: in bursts of 32.
//!
//! Packets are 46 bytes of IPv4 (a minimal Ethernet frame's), copied from templates in an order of
//! their own, as a card's memory would bring them.

use std::{hint::black_box, net::Ipv4Addr, sync::Arc};

use shunt_nat::{
    ConnectionState, EgressId, Engine, EngineConfig, Instant, Ruleset, Side, SlowPath, Verdict,
};
use shunt_packet::{ipv4::Ipv4Packet, plain::PlainPacket};
use shunt_rules::{
    ForwardingMode, LocalAddress, Protocol, RealServer, Rules, Scheduler, VirtualService,
};
use shunt_testkit::Packet;

use super::{BURST, TestNetwork, VIP, client, server, shuffled};

/// Bytes of IPv4 in a minimal Ethernet frame.
pub(crate) const PACKET_LEN: usize = 46;

pub(crate) type Template = [u8; PACKET_LEN];

/// What a service does.
#[derive(Clone, Copy)]
pub(crate) struct Kind {
    pub(crate) name: &'static str,
    protocol: Protocol,
    mode: ForwardingMode,
}

pub(crate) const KINDS: [Kind; 3] = [
    Kind { name: "udp", protocol: Protocol::Udp, mode: ForwardingMode::Nat },
    Kind { name: "tcp", protocol: Protocol::Tcp, mode: ForwardingMode::Nat },
    Kind { name: "udp-full-nat", protocol: Protocol::Udp, mode: ForwardingMode::FullNat },
];

impl Kind {
    pub(crate) fn engine(self, flows: usize) -> Engine {
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

    pub(crate) fn opener(self, number: usize) -> Template {
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

/// When connections open.
pub(crate) const NOW: Instant = Instant::from_millis(1_000);

/// Passes packets through the engine, as a worker does: as a burst, by the fast path if they can. They are
/// changed where they are: who moved them afterwards would measure how long a wide load waits for narrow
/// stores.
#[inline(never)]
fn pass(engine: &mut Engine, now: Instant, side: Side, frames: &mut [Template]) {
    let mut burst = engine.burst(now, side);
    let packets = burst.prefetch(frames.iter_mut().map(|bytes| PlainPacket::parse(bytes)));
    packets.for_each(frames, |bytes, packet| {
        let view = PlainPacket::view(bytes).expect("a plain packet");
        if let Err(slow_path) = packet.fast_path(view, |_| true, |_| true) {
            pass_by_slow_path(bytes, slow_path);
        }
    });
}

fn pass_by_slow_path(bytes: &mut Template, slow_path: SlowPath<'_>) {
    let mut packet = Ipv4Packet::parse(bytes).expect("a sound packet");
    let (verdict, mut processed) = slow_path.process(&mut packet, &TestNetwork);
    match verdict {
        Verdict::Translate(translation) => {
            translation.apply(&mut packet);
            packet.header.decrement_ttl();
            processed.note_egress(EgressId::FIRST);
        }
        verdict => panic!("{verdict:?}"),
    }
}

/// Passes copies of packets.
pub(crate) fn pass_all(engine: &mut Engine, now: Instant, side: Side, templates: &[Template]) {
    let mut copies = [[0; PACKET_LEN]; BURST];
    for templates in templates.chunks(BURST) {
        let copies = &mut copies[..templates.len()];
        copies.copy_from_slice(templates);
        pass(engine, now, side, copies);
        black_box(&copies);
    }
}

/// An engine with connections, and a packet of each for either direction.
pub(crate) struct Established {
    pub(crate) engine: Engine,
    pub(crate) forward: Vec<Template>,
    pub(crate) reverse: Vec<Template>,
}

impl Established {
    pub(crate) fn new(kind: Kind, flows: usize) -> Established {
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
