//! The short way: packets of connections that stand as they stood before, and those that open one
//! with a server to which the way is known.

use std::net::Ipv4Addr;

use shunt_packet::{
    plain::{PlainPacket, PlainTransport},
    tcp::TcpFlags,
};

use super::{Engine, Prepared, ahead::Choice};
use crate::{
    Side,
    connection::ConnectionKind,
    egress::EgressId,
    flow::{Direction, Segment, SegmentKind},
    state::ConnectionState,
    table::ConnectionId,
    time::Instant,
};

impl Engine {
    /// The short way through the engine, for the bulk of all packets: those of a connection whose way
    /// out is known, and which leave it in the state that it is in, and those that open a connection
    /// with a server that was [chosen ahead](Engine::choose_ahead), and to which the way is known. The
    /// packet is rewritten at once, its TTL included, and the caller has only to send it to the
    /// neighbour that it knows by the number returned.
    ///
    /// The packet must be the one that was [prepared](Engine::begin), unchanged: a
    /// [view](PlainPacket::view) of it will do.
    ///
    /// `may_leave` says whether a packet may take this way out, and `may_open` whether one from this
    /// address may open a connection; neither is asked twice. With `None`, the packet
    /// is as it came, and takes the long way, [`finish`](Engine::finish).
    #[inline]
    #[must_use = "`None` is for the long way"]
    pub fn forward(
        &mut self,
        now: Instant,
        side: Side,
        packet: PlainPacket<'_>,
        prepared: &Prepared,
        may_leave: impl FnOnce(EgressId) -> bool,
        may_open: impl FnOnce(Ipv4Addr) -> bool,
    ) -> Option<EgressId> {
        let Prepared(Some((segment, lookup))) = prepared else { return None };
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
        if let PlainTransport::Tcp(tcp) = &packet.transport {
            self.table.note_acknowledgment(id, direction, tcp.acknowledgment());
        }
        self.table.touch(id, now);
        self.translate(id, direction, packet);
        Some(egress)
    }

    /// Opens a connection with the server that was chosen for a packet.
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
        // The long way would search a second time for a connection that can go.
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

    /// Notes that a packet which was prepared, arrived on `side` and was [translated](crate::Verdict::Translate)
    /// took this way out: those that follow it, and those to the same server, may go the
    /// [short way](Engine::forward).
    pub fn note_egress(&mut self, prepared: &Prepared, side: Side, egress: EgressId) {
        let Prepared(Some((segment, _))) = prepared else { return };
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
