//! The fast path: packets that leave their connection in the state that it is in, and those that open one
//! with a server to which the way is known.

use std::net::Ipv4Addr;

use shunt_packet::{
    plain::{PlainPacket, PlainTransport},
    tcp::TcpFlags,
};

use super::{Engine, PendingLookup, preschedule::Choice};
use crate::{
    Side,
    connection::ConnectionKind,
    egress::EgressId,
    flow::{Direction, Segment, SegmentKind},
    ruleset::Standing,
    state::ConnectionState,
    table::{Acknowledgment, ConnectionId},
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
            self.translate(id, Direction::Inbound, packet);
            return Some(egress);
        };
        let record = self.table.get(id);
        let egress = record.egress(direction, side)?;
        if !stays(record.state(), segment, direction) || !may_leave(egress) {
            return None;
        }
        if record.state() == ConnectionState::UdpOneWay
            && self.unanswered(id, direction, segment) != Standing::InService
        {
            return None;
        }
        if let PlainTransport::Tcp(tcp) = &packet.transport {
            let (sequence, number) = (tcp.sequence(), tcp.acknowledgment());
            let acknowledgment = Acknowledgment { sequence, number };
            self.table.note_acknowledgment(id, direction, acknowledgment);
        }
        self.table.touch(id, now);
        self.translate(id, direction, packet);
        Some(egress)
    }

    /// Opens a connection with the server that was prescheduled for a packet.
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

    /// Makes a packet what its connection makes of it, and counts it.
    #[inline]
    fn translate(&mut self, id: ConnectionId, direction: Direction, packet: PlainPacket<'_>) {
        let record = self.table.get(id);
        let (leaves_as, address_delta, transport_delta) = record.leaves_as(direction);
        let kind = record.kind();
        match packet.transport {
            PlainTransport::Tcp(tcp) => tcp.rewrite(leaves_as.ports(), transport_delta),
            PlainTransport::Udp(udp) => udp.rewrite(leaves_as.ports(), transport_delta),
        }
        packet.header.forward(leaves_as.addresses(), address_delta);
        self.count(kind, direction, packet.header);
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

/// Whether a segment leaves its connection in the state that it is in, beyond any doubt.
#[inline]
fn stays(state: ConnectionState, segment: &Segment, direction: Direction) -> bool {
    match segment.kind {
        SegmentKind::Tcp { flags, .. } => {
            state == ConnectionState::Established && flags == TcpFlags::ACK
        }
        SegmentKind::Udp => state.after_datagram(direction) == state,
        SegmentKind::Echo { .. } => false,
    }
}
