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
        let stays = match segment.kind {
            SegmentKind::Udp if record.state() == ConnectionState::UdpOneWay => {
                direction == Direction::Inbound && !self.must_run_out(id)
            }
            _ => stays(record.state(), segment),
        };
        if !stays || !may_leave(egress) {
            return None;
        }
        let acknowledgment = match segment.kind {
            SegmentKind::Tcp { sequence, acknowledgment: number, .. } => {
                Some(Acknowledgment { sequence, number })
            }
            _ => None,
        };
        self.table.note_unchanged(id, direction, acknowledgment, now);
        self.translate(id, direction, packet);
        Some(egress)
    }

    /// Whether a client's datagram does not keep alive a connection that its server has not answered,
    /// since that takes no more.
    #[inline(never)]
    fn must_run_out(&self, id: ConnectionId) -> bool {
        match self.table.get(id).kind() {
            ConnectionKind::Service(service, server) => {
                self.rules.standing(service, server) != Standing::InService
            }
            ConnectionKind::Snat | ConnectionKind::Passthrough => false,
        }
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
        let (src, dst) = (leaves_as.src(), leaves_as.dst());
        match packet.transport {
            PlainTransport::Tcp(tcp) => tcp.rewrite(src.port(), dst.port(), transport_delta),
            PlainTransport::Udp(udp) => udp.rewrite(src.port(), dst.port(), transport_delta),
        }
        packet.header.forward(*src.ip(), *dst.ip(), address_delta);
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

/// Whether a segment leaves its connection in the state that it is in, beyond any doubt. A datagram does
/// so once there was an answer.
#[inline]
fn stays(state: ConnectionState, segment: &Segment) -> bool {
    match segment.kind {
        SegmentKind::Tcp { flags, .. } => {
            state == ConnectionState::Established && flags == TcpFlags::ACK
        }
        SegmentKind::Udp => state == ConnectionState::Udp,
        SegmentKind::Query { .. } | SegmentKind::Other => false,
    }
}
