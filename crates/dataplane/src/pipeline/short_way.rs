//! The way of a burst: in steps over all of its packets, so that these wait for memory together, and
//! short for those whose connection is known and needs no decision, or that open one whose way is.

use arrayvec::ArrayVec;
use shunt_dpdk::{BURST, Burst, ChecksumStatus, Mbuf};
use shunt_nat::{EgressId, Instant, Prepared, Side};
use shunt_packet::{
    ethernet::{EtherType, EthernetHeader, HEADER_LEN},
    plain::PlainPacket,
};

use super::{Pipeline, has_vlan_stripped, header_is_sound, strip_priority_tag};
use crate::interface::Interface;

impl Pipeline {
    /// Takes in all frames of a burst that arrived on `side`.
    #[inline]
    pub(super) fn receive_burst(&mut self, now: Instant, side: Side, burst: &mut Burst) {
        let interface = &self.interfaces[side as usize];
        // Collecting would copy all of it once more.
        let mut prepared = ArrayVec::<Prepared, BURST>::new();
        for mbuf in burst.iter_mut() {
            let mut begun = plain_packet(interface, mbuf).map(|packet| self.engine.begin(&packet));
            // A priority tag is all that may be in the way.
            if begun.is_none() && strip_priority_tag(mbuf) {
                begun = plain_packet(interface, mbuf).map(|packet| self.engine.begin(&packet));
            }
            prepared.push(begun.unwrap_or_default());
        }
        let mut may_open = false;
        for prepared in &mut prepared {
            may_open |= self.engine.proceed(prepared);
        }
        if may_open {
            self.engine.choose_ahead(now, side, &prepared);
        }
        for (mut mbuf, prepared) in burst.drain().zip(&prepared) {
            match self.forward(now, side, &mut mbuf, prepared) {
                Some(egress) => self.leave(egress, mbuf),
                None => self.receive_one(now, side, mbuf, prepared),
            }
        }
        self.engine.settle();
    }

    /// Rewrites a packet that can go the short way, and says where it leads.
    #[inline]
    fn forward(
        &mut self,
        now: Instant,
        side: Side,
        mbuf: &mut Mbuf,
        prepared: &Prepared,
    ) -> Option<EgressId> {
        let (_, payload) = EthernetHeader::split(mbuf.data_mut()).ok()?;
        let packet = PlainPacket::view(payload)?;
        let frame_len = HEADER_LEN + usize::from(packet.header.total_len());
        let may_leave = |egress| self.egresses.may_leave(egress, frame_len);
        let may_open = |source| self.network.may_come_from(side, source);
        let egress = self.engine.forward(now, side, packet, prepared, may_leave, may_open)?;
        mbuf.truncate(frame_len);
        Some(egress)
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
        self.interfaces[egress.side as usize].send(mbuf, &mut self.drops);
    }
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
