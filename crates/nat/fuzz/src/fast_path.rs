//! Packets that take the fast path: the slow path makes the same of them, and notes the same.

use std::{net::Ipv4Addr, time::Duration};

use shunt_nat::{
    BurstPacket, ConnectionState,
    Direction::{Inbound, Outbound},
    EgressId, Engine, FlowKey, Instant, ServiceCounters, Side, SlowPath, Topology, Verdict,
};
use shunt_packet::{ipv4::Ipv4Packet, plain::PlainPacket};

use crate::{checks, endpoints::TestNetwork};

/// What became of a packet of a burst.
pub(crate) enum Passed {
    Fast(Fast),
    Slow(Verdict, Vec<u8>),
}

/// A packet that took the fast path.
pub(crate) struct Fast {
    left: Vec<u8>,
    egress: EgressId,
}

/// What is known after a packet of what it can change.
pub(crate) struct Noted {
    key: Option<FlowKey>,
    connection: Option<NotedConnection>,
    before: Vec<ServiceCounters>,
    after: Vec<ServiceCounters>,
}

#[derive(Debug, PartialEq)]
struct NotedConnection {
    state: ConnectionState,
    remaining: Duration,
    expected: [Option<u32>; 2],
}

/// One way out for each side.
fn egress_to(destination: Ipv4Addr) -> EgressId {
    match TestNetwork.side_of(destination) {
        Some(Side::Inside) => EgressId::FIRST,
        _ => EgressId::LAST,
    }
}

/// Takes a burst through the engine.
pub(crate) fn pass(
    engine: &mut Engine,
    now: Instant,
    side: Side,
    packets: &[Vec<u8>],
) -> Vec<Passed> {
    let mut copies = packets.to_vec();
    let mut passed = Vec::new();
    let mut burst = engine.burst(now, side);
    burst
        .prefetch(copies.iter_mut().map(|packet| PlainPacket::parse(packet)))
        .for_each(packets, |arrived, packet| passed.push(Passed::of(packet, arrived)));
    passed
}

/// Takes a packet by the slow path, without a burst.
pub(crate) fn process_slowly(
    engine: &mut Engine,
    now: Instant,
    side: Side,
    arrived: &[u8],
) -> (Verdict, Vec<u8>) {
    let mut left = arrived.to_vec();
    let mut packet = Ipv4Packet::parse(&mut left).expect("it was parsed when it arrived");
    let verdict = engine.process(now, side, &mut packet, &TestNetwork);
    apply(&verdict, &mut packet);
    (verdict, left)
}

fn apply(verdict: &Verdict, packet: &mut Ipv4Packet<'_>) {
    if let Verdict::Translate(translation) = verdict {
        translation.apply(packet);
        assert_eq!(packet.header.dst(), translation.destination());
    }
}

impl Passed {
    fn of(packet: BurstPacket<'_>, arrived: &[u8]) -> Passed {
        let mut left = arrived.to_vec();
        let Some(view) = PlainPacket::parse(&mut left) else {
            return Passed::slow(packet.slow_path(), arrived);
        };
        match packet.fast_path(view, |_| true, |_| true) {
            Ok(egress) => Passed::Fast(Fast { left, egress }),
            Err(slow_path) => {
                assert_eq!(left, arrived, "the fast path leaves it as it came");
                Passed::slow(slow_path, arrived)
            }
        }
    }

    fn slow(slow_path: SlowPath<'_>, arrived: &[u8]) -> Passed {
        let mut left = arrived.to_vec();
        let mut packet = Ipv4Packet::parse(&mut left).expect("it was parsed when it arrived");
        let (verdict, mut processed) = slow_path.process(&mut packet, &TestNetwork);
        apply(&verdict, &mut packet);
        if let Verdict::Translate(translation) = verdict {
            processed.note_egress(egress_to(translation.destination()));
        }
        Passed::Slow(verdict, left)
    }
}

impl Fast {
    /// Compares what the fast path made of a packet with what the slow path made of it, but for the TTL,
    /// which is the caller's to lower there.
    pub(crate) fn check(&self, left: &[u8]) -> Result<(), String> {
        let mut expected = left.to_vec();
        let packet = Ipv4Packet::parse(&mut expected).map_err(|error| error.to_string())?;
        packet.header.decrement_ttl();
        let egress = egress_to(packet.header.dst());
        if self.left != expected {
            return Err(format!("on the fast path it became {:02x?}", self.left));
        }
        if self.egress != egress {
            return Err(format!("the fast path led to {:?}", self.egress));
        }
        Ok(())
    }
}

impl Noted {
    /// What is known after a packet; before it, counters were at these.
    pub(crate) fn of(
        engine: &Engine,
        now: Instant,
        arrived: &[u8],
        before: Vec<ServiceCounters>,
    ) -> Noted {
        let key = checks::keys(arrived).map(|(key, _)| key);
        let connection = key.and_then(|key| NotedConnection::of(engine, now, &key));
        Noted { key, connection, before, after: engine.service_counters().collect() }
    }

    /// Compares what the fast path did with what the slow path did after it.
    pub(crate) fn check(&self, engine: &Engine, now: Instant) -> Result<(), String> {
        let connection = self.key.and_then(|key| NotedConnection::of(engine, now, &key));
        if connection.is_none() || self.connection != connection {
            let noted = &self.connection;
            return Err(format!("the fast path noted {noted:?}, the slow path {connection:?}"));
        }
        let counted = |(before, after): (&ServiceCounters, &ServiceCounters)| {
            let (before, after) = (before.traffic, after.traffic);
            let bytes = (after.in_bytes - before.in_bytes, after.out_bytes - before.out_bytes);
            (after.in_packets - before.in_packets, after.out_packets - before.out_packets, bytes)
        };
        let by_fast: Vec<_> = self.before.iter().zip(&self.after).map(counted).collect();
        let now: Vec<_> = engine.service_counters().collect();
        let by_slow: Vec<_> = self.after.iter().zip(&now).map(counted).collect();
        if by_fast != by_slow {
            return Err(format!("the fast path counted {by_fast:?}, the slow path {by_slow:?}"));
        }
        Ok(())
    }
}

impl NotedConnection {
    fn of(engine: &Engine, now: Instant, key: &FlowKey) -> Option<NotedConnection> {
        let (id, _) = engine.table().lookup(key)?;
        let connection = engine.table().get(id);
        Some(NotedConnection {
            state: connection.state(),
            remaining: connection.remaining(now),
            expected: [Inbound, Outbound].map(|direction| connection.expected(direction)),
        })
    }
}
