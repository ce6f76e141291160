//! The short way: packets of connections that stand as they stood before.

use shunt_packet::{
    plain::{PlainPacket, PlainTransport},
    tcp::TcpFlags,
};

use super::{Engine, Prepared, Side};
use crate::{
    connection::EgressId,
    flow::{Direction, Segment, SegmentKind},
    state::ConnectionState,
    time::Instant,
};

impl Engine {
    /// The short way through the engine, for the bulk of all packets: those of a connection whose way
    /// out is known, and which leave it in the state that it is in. The packet is rewritten at once,
    /// its TTL included, and the caller has only to send it to the neighbour that it knows by the
    /// number returned.
    ///
    /// The packet must be the one that was [prepared](Engine::begin), unchanged: a
    /// [view](PlainPacket::view) of it will do.
    ///
    /// `may_leave` says whether a packet may take this way out; it is not asked twice. With `None`,
    /// nothing has happened: the packet takes the long way, [`finish`](Engine::finish).
    #[inline]
    #[must_use = "`None` is for the long way"]
    pub fn forward(
        &mut self,
        now: Instant,
        side: Side,
        packet: PlainPacket<'_>,
        prepared: &Prepared,
        may_leave: impl FnOnce(EgressId) -> bool,
    ) -> Option<EgressId> {
        let Prepared(Some((segment, lookup))) = prepared else { return None };
        if self.table.has_stale_egress() {
            return None;
        }
        let (id, direction) = self.table.finish_lookup(*lookup, &segment.key)?;
        let record = self.table.get(id);
        let egress = record.egress(direction, side)?;
        if packet.header.ttl() <= 1 || !stays(record.state(), segment, direction) {
            return None;
        }
        let (leaves_as, address_delta, transport_delta) = record.leaves_as(direction);
        let kind = record.kind();
        if !may_leave(egress) {
            return None;
        }
        let (src, dst) = (leaves_as.src(), leaves_as.dst());
        match packet.transport {
            PlainTransport::Tcp(tcp) => {
                tcp.rewrite(src.port(), dst.port(), transport_delta);
                self.table.note_acknowledgment(id, direction, tcp.acknowledgment());
            }
            PlainTransport::Udp(udp) => udp.rewrite(src.port(), dst.port(), transport_delta),
        }
        packet.header.forward(*src.ip(), *dst.ip(), address_delta);
        self.table.touch(id, now);
        self.count(kind, direction, packet.header);
        Some(egress)
    }

    /// Notes that a packet which was prepared, arrived on `side` and was [translated](crate::Verdict::Translate)
    /// took this way out: those that follow it may go the [short way](Engine::forward).
    pub fn note_egress(&mut self, prepared: &Prepared, side: Side, egress: EgressId) {
        if let Prepared(Some((segment, _))) = prepared
            && let Some((id, direction)) = self.table.lookup(&segment.key)
        {
            self.table.set_egress(id, direction, side, egress);
        }
    }

    /// Has all connections forget their ways out: routes have changed, or the numbers mean something
    /// else now. Until [`expire`](Engine::expire) has been called often enough to look at all of them,
    /// every packet goes the long way.
    pub fn forget_egress(&mut self) {
        self.table.forget_egress();
    }
}

/// Whether a segment leaves its connection in the state that it is in, beyond any doubt.
#[inline]
fn stays(state: ConnectionState, segment: &Segment, direction: Direction) -> bool {
    match segment.kind {
        SegmentKind::Tcp { flags, .. } => {
            const ALL: u8 = TcpFlags::SYN.0 | TcpFlags::FIN.0 | TcpFlags::RST.0 | TcpFlags::ACK.0;
            state == ConnectionState::Established && flags.0 & ALL == TcpFlags::ACK.0
        }
        SegmentKind::Udp => state.after_datagram(direction) == state,
        SegmentKind::Echo { .. } => false,
    }
}
