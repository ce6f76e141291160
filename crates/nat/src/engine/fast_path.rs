//! The fast path: packets that leave their connection in the state that it is in, and those that open one
//! with a server to which the way is known.

use std::net::Ipv4Addr;

use shunt_packet::{
    plain::{PlainPacket, PlainTransport},
    tcp::{TcpFlags, TcpHeader},
};

use super::{Engine, PendingLookup, preschedule::Choice};
use crate::{
    Side,
    connection::{Connection, ConnectionKind},
    egress::EgressId,
    flow::{Direction, Segment},
    ruleset::{Ruleset, Standing},
    state::ConnectionState,
    table::ConnectionId,
    time::Instant,
};

impl Engine {
    /// See [`BurstPacket::fast_path`](super::BurstPacket::fast_path).
    #[inline]
    pub(super) fn fast_path(
        &mut self,
        now: Instant,
        side: Side,
        packet: PlainPacket<'_>,
        lookup: &PendingLookup,
        may_leave: impl FnOnce(EgressId) -> bool,
        may_open: impl FnOnce(Ipv4Addr) -> bool,
    ) -> Option<EgressId> {
        let PendingLookup(Some((segment, lookup))) = lookup else { return None };
        let Some((id, direction)) = self.table.finish_lookup(*lookup, &segment.key) else {
            let may_open = || may_open(packet.header.src());
            let (id, egress) = self.open_chosen(now, side, segment, may_leave, may_open)?;
            translate(self.table.get(id), &self.rules, Direction::Inbound, packet);
            return Some(egress);
        };
        // The record is looked up once: the rest is between it and the packet.
        let record = self.table.get_mut(id);
        let egress = record.egress(direction, side)?;
        match &packet.transport {
            PlainTransport::Tcp(tcp) => {
                if !stays(record.state(), tcp) || !may_leave(egress) {
                    return None;
                }
                record.note_acknowledgment(direction, tcp.sequence(), tcp.acknowledgment());
            }
            PlainTransport::Udp(_) => {
                let stays = record.state() == ConnectionState::Udp
                    || may_go_unanswered(record, &self.rules, direction);
                if !stays || !may_leave(egress) {
                    return None;
                }
            }
        }
        record.touch(now);
        translate(record, &self.rules, direction, packet);
        Some(egress)
    }

    /// Opens a connection with the server that was prescheduled for a packet. Kept apart, so that the
    /// packets of known connections have the registers to themselves.
    #[inline(never)]
    fn open_chosen(
        &mut self,
        now: Instant,
        side: Side,
        segment: &Segment,
        may_leave: impl FnOnce(EgressId) -> bool,
        may_open: impl FnOnce() -> bool,
    ) -> Option<(ConnectionId, EgressId)> {
        let key = segment.key;
        let Choice { service, server, answers, .. } = *self.choice(side, &key)?;
        let egress = self.rules.egress(server)?;
        // To clamp what a SYN announces, its options have to be read.
        let is_clamped = self.rules.options(service).mss_limit.is_some();
        // A choice may be for a later packet with this key: a SYN after an acknowledgment.
        if !segment.opens() || is_clamped {
            return None;
        }
        // The slow path would search a second time for a connection that can go.
        if self.is_crowded && self.table.is_full() {
            return None;
        }
        if !may_leave(egress) || !may_open() {
            return None;
        }
        let kind = ConnectionKind::Service(service, server);
        let id = self.add(now, key, answers, kind).ok()?;
        self.take_choice(&key);
        self.table.set_egress(id, Direction::Inbound, side, egress);
        Some((id, egress))
    }

    /// See [`Processed::note_egress`](super::Processed::note_egress).
    pub(super) fn note_egress(&mut self, lookup: &PendingLookup, side: Side, egress: EgressId) {
        let PendingLookup(Some((segment, _))) = lookup else { return };
        let Some((id, direction)) = self.table.lookup(&segment.key) else { return };
        self.table.set_egress(id, direction, side, egress);
        if let ConnectionKind::Service(_, server) = self.table.get(id).kind()
            && direction == Direction::Inbound
        {
            self.rules.set_egress(server, egress);
        }
    }
}

/// Makes a packet what its connection makes of it, and counts it.
#[inline(always)]
fn translate(record: &Connection, rules: &Ruleset, direction: Direction, packet: PlainPacket<'_>) {
    let (leaves_as, address_delta, transport_delta) = record.leaves_as(direction);
    match packet.transport {
        PlainTransport::Tcp(tcp) => tcp.rewrite(leaves_as.ports(), transport_delta),
        PlainTransport::Udp(udp) => udp.rewrite(leaves_as.ports(), transport_delta),
    }
    packet.header.forward(leaves_as.addresses(), address_delta);
    if let Some(server) = record.server() {
        rules.count_packet(server, direction, packet.header);
    }
}

/// Whether a segment leaves its connection in the state that it is in, beyond any doubt.
#[inline(always)]
fn stays(state: ConnectionState, tcp: &TcpHeader) -> bool {
    state == ConnectionState::Established && tcp.flags() == TcpFlags::ACK
}

/// Whether a datagram of a connection that has seen no answer leaves it so, and goes to a server that may
/// still give one.
#[inline(never)]
fn may_go_unanswered(record: &Connection, rules: &Ruleset, direction: Direction) -> bool {
    record.state() == ConnectionState::UdpOneWay
        && direction == Direction::Inbound
        && match record.kind() {
            ConnectionKind::Service(service, server) => {
                rules.standing(service, server) == Standing::InService
            }
            ConnectionKind::Snat | ConnectionKind::Passthrough => true,
        }
}
