//! Packets that go the short way: the long way makes the same of them, and notes the same.

use std::{net::Ipv4Addr, time::Duration};

use shunt_nat::{
    ConnectionState,
    Direction::{Inbound, Outbound},
    EgressId, Engine, FlowKey, Instant, Prepared, ServiceCounters, Side, Topology,
};
use shunt_packet::{ipv4::Ipv4Packet, plain::PlainPacket};

use crate::{checks, endpoints::Surroundings};

/// A packet that went the short way.
pub(crate) struct ShortWay {
    left: Vec<u8>,
    egress: EgressId,
    key: FlowKey,
    /// What is known of its connection after that.
    noted: Option<Noted>,
    before: Vec<ServiceCounters>,
    after: Vec<ServiceCounters>,
}

/// What a packet can change of its connection.
#[derive(Debug, PartialEq)]
struct Noted {
    state: ConnectionState,
    remaining: Duration,
    expected: [Option<u32>; 2],
}

/// One way out for each side.
pub(crate) fn egress_to(destination: Ipv4Addr) -> EgressId {
    match Surroundings.side_of(destination) {
        Some(Side::Inside) => EgressId::FIRST,
        _ => EgressId::LAST,
    }
}

/// The first of the steps that a burst's packets take.
pub(crate) fn begin(engine: &Engine, packet: &[u8]) -> Prepared {
    PlainPacket::parse(&mut packet.to_vec())
        .map_or_else(Prepared::default, |packet| engine.begin(&packet))
}

impl ShortWay {
    /// Takes a packet the short way, if it can go there.
    pub(crate) fn go(
        engine: &mut Engine,
        now: Instant,
        side: Side,
        arrived: &[u8],
        prepared: &Prepared,
    ) -> Option<ShortWay> {
        let mut left = arrived.to_vec();
        let before = engine.service_counters().collect();
        let packet = PlainPacket::parse(&mut left)?;
        let egress = engine.forward(now, side, packet, prepared, |_| true, |_| true)?;
        let (key, _) = checks::keys(arrived)?;
        let noted = Noted::of(engine, now, &key);
        let after = engine.service_counters().collect();
        Some(ShortWay { left, egress, key, noted, before, after })
    }

    /// Compares what it has done with what the long way did after it: `left` is what that made of the
    /// packet, but for the TTL, which is the caller's to lower there.
    pub(crate) fn check(self, engine: &Engine, now: Instant, left: &[u8]) -> Result<(), String> {
        let mut expected = left.to_vec();
        let packet = Ipv4Packet::parse(&mut expected).map_err(|error| error.to_string())?;
        packet.header.decrement_ttl();
        let egress = egress_to(packet.header.dst());
        if self.left != expected {
            return Err(format!("on the short way it became {:02x?}", self.left));
        }
        if self.egress != egress {
            return Err(format!("the short way led to {:?}", self.egress));
        }
        let noted = Noted::of(engine, now, &self.key);
        if noted.is_none() || self.noted != noted {
            return Err(format!("the short way noted {:?}, the long way {noted:?}", self.noted));
        }
        let counted = |(before, after): (&ServiceCounters, &ServiceCounters)| {
            let bytes = (after.traffic.in_bytes - before.traffic.in_bytes, after.traffic.out_bytes - before.traffic.out_bytes);
            (after.traffic.in_packets - before.traffic.in_packets, after.traffic.out_packets - before.traffic.out_packets, bytes)
        };
        let by_short: Vec<_> = self.before.iter().zip(&self.after).map(counted).collect();
        let now: Vec<_> = engine.service_counters().collect();
        let by_long: Vec<_> = self.after.iter().zip(&now).map(counted).collect();
        if by_short != by_long {
            return Err(format!("the short way counted {by_short:?}, the long way {by_long:?}"));
        }
        Ok(())
    }
}

impl Noted {
    fn of(engine: &Engine, now: Instant, key: &FlowKey) -> Option<Noted> {
        let (id, _) = engine.table().lookup(key)?;
        let connection = engine.table().get(id);
        Some(Noted {
            state: connection.state(),
            remaining: connection.remaining(now),
            expected: [Inbound, Outbound].map(|direction| connection.expected(direction)),
        })
    }
}
