//! The way of a burst: lookups for all of its packets first, so that these wait for memory together; then
//! the fast path for packets whose connection is known and needs no decision, or that open one whose way
//! out is known, and the slow path for the others.

use shunt_dpdk::{Burst, ChecksumStatus, Mbuf};
use shunt_nat::{BurstPacket, EgressId, Engine, Instant, Side, SlowPath};
use shunt_packet::{
    ethernet::{EtherType, EthernetHeader, HEADER_LEN},
    plain::PlainPacket,
};

use super::{Pipeline, has_vlan_stripped, strip_priority_tag};
use crate::{frame::header_is_sound, interface::Interface};

impl Pipeline {
    /// Takes in all frames of a burst that arrived on `side`.
    #[inline]
    pub(crate) fn receive(
        &mut self,
        engine: &mut Engine,
        now: Instant,
        side: Side,
        frames: &mut Burst,
    ) {
        if frames.is_empty() {
            return;
        }
        let interface = &self.interfaces[side as usize];
        let mut burst = engine.burst(now, side);
        let packets = burst.prefetch(frames.iter_mut().map(|mbuf| {
            // A priority tag is all that may be in the way.
            if has_vlan_tag(mbuf) {
                strip_priority_tag(mbuf);
            }
            plain_packet(interface, mbuf)
        }));
        packets.for_each(frames.drain(), |mut mbuf, packet| {
            match self.fast_path(side, &mut mbuf, packet) {
                Ok(egress) => self.leave(egress, mbuf),
                Err(slow_path) => self.receive_slowly(now, side, mbuf, slow_path),
            }
        });
    }

    /// Rewrites a packet that can take the fast path, and says where it leads.
    #[inline]
    fn fast_path<'e>(
        &mut self,
        side: Side,
        mbuf: &mut Mbuf,
        packet: BurstPacket<'e>,
    ) -> Result<EgressId, SlowPath<'e>> {
        let view = EthernetHeader::split(mbuf.data_mut())
            .ok()
            .and_then(|(_, payload)| PlainPacket::view(payload));
        let Some(view) = view else { return Err(packet.slow_path()) };
        let frame_len = HEADER_LEN + usize::from(view.header.total_len());
        let may_leave = |egress| self.egresses.may_leave(egress, frame_len);
        let may_open = |source| self.network.may_come_from(side, source);
        let egress = packet.fast_path(view, may_leave, may_open)?;
        mbuf.truncate(frame_len);
        Ok(egress)
    }

    /// Sends a packet that was rewritten. Its checksums are right: adding to them what a connection
    /// changes costs less than asking a port to compute them.
    #[inline]
    fn leave(&mut self, egress: EgressId, mut mbuf: Mbuf) {
        let egress = self.egresses.take(egress);
        if let Ok((header, _)) = EthernetHeader::split(mbuf.data_mut()) {
            *header = egress.frames.ethernet;
        }
        mbuf.clear_offload();
        self.interfaces[egress.side as usize].send(mbuf, &self.drops);
    }
}

/// Whether a frame has an 802.1Q tag.
#[inline]
fn has_vlan_tag(mbuf: &mut Mbuf) -> bool {
    EthernetHeader::split(mbuf.data_mut()).is_ok_and(|(header, _)| header.ethertype.is_vlan())
}

/// The packet in a frame in which nothing calls for a closer look: IPv4, for us, in one piece, its
/// checksums there, and sound as far as that is known.
#[inline]
fn plain_packet<'a>(interface: &Interface, mbuf: &'a mut Mbuf) -> Option<PlainPacket<'a>> {
    let received = mbuf.rx_checksum();
    let is_plain = mbuf.segments() == 1
        && mbuf.len() <= interface.max_frame()
        && !has_vlan_stripped(mbuf)
        && [received.ip, received.l4]
            .iter()
            .all(|status| matches!(status, ChecksumStatus::Good | ChecksumStatus::Unknown));
    let (header, payload) = EthernetHeader::split(mbuf.data_mut()).ok()?;
    if !is_plain || header.destination != interface.mac || header.ethertype != EtherType::IPV4 {
        return None;
    }
    let packet = PlainPacket::parse(payload)?;
    let is_sound = header_is_sound(received, || packet.checksum_is_sound());
    is_sound.then_some(packet)
}
