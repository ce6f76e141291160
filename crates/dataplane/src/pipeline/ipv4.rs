//! IPv4: checks, the NAT engine's verdict, and the way out.

use std::net::Ipv4Addr;

use shunt_dpdk::{ChecksumStatus, Mbuf, RxChecksum};
use shunt_nat::{
    DropReason as NatDrop, Instant, Processed, Reply, Side, SlowPath, Topology, Verdict,
    fragments::{FragmentError, FragmentKey},
};
use shunt_packet::{
    Malformed,
    ethernet::{self, EthernetHeader, MacAddr},
    fragment,
    icmp::IcmpError,
    ipv4::{self, Ipv4Packet},
    options::Ipv4Options,
};
use zerocopy::IntoBytes;

use super::Pipeline;
use crate::{
    drop_reason::DropReason,
    egress::Frames,
    frame::{header_is_sound, packet_in},
    neighbours::{Hold, NeighbourId},
    offload::Offloads,
    outgoing::{Outgoing, Rewrite},
};

/// What the checks and the engine found out about a packet.
#[derive(Clone, Copy)]
struct Examined {
    verdict: Verdict,
    destination: Ipv4Addr,
    ttl: u8,
    /// If it is a fragment, what it has in common with the others of its packet.
    fragment: Option<FragmentKey>,
    is_later_fragment: bool,
}

/// The way that a packet took: by which port, and to whom.
#[derive(Clone, Copy)]
pub(super) struct Way {
    side: Side,
    neighbour: NeighbourId,
    mac: MacAddr,
}

impl Pipeline {
    pub(super) fn receive_ipv4(
        &mut self,
        now: Instant,
        side: Side,
        mut mbuf: Mbuf,
        slow_path: SlowPath<'_>,
    ) {
        let (examined, mut processed) = match self.examine(side, &mut mbuf, slow_path) {
            Ok(examined) => examined,
            Err(reason) => return self.drop(mbuf, reason),
        };
        if let Some(way) = self.carry_out(now, examined, mbuf) {
            self.note_egress(now, &mut processed, way);
        }
        if let Some(key) = examined.fragment {
            let Examined { is_later_fragment, verdict, .. } = examined;
            self.after_fragment(now, &mut processed, &key, is_later_fragment, verdict);
        }
    }

    /// Has a connection remember where its packet went.
    fn note_egress(&mut self, now: Instant, processed: &mut Processed<'_>, way: Way) {
        let Way { side: to, neighbour, mac } = way;
        let interface = &mut self.interfaces[to as usize];
        let frames =
            Frames { ethernet: interface.ipv4_to(mac), max_len: interface.max_ipv4_frame() };
        let neighbours = &mut interface.neighbours;
        if let Some(egress) = self.egresses.id(now, to, neighbour, frames, neighbours) {
            processed.note_egress(egress);
        }
    }

    /// Does what the engine says of a fragment that waited for the first one of its packet.
    pub(super) fn carry_out_late(
        &mut self,
        now: Instant,
        first: &mut Processed<'_>,
        verdict: Verdict,
        mut mbuf: Mbuf,
    ) {
        let header = match packet_in(&mut mbuf) {
            Ok(packet) => packet.header,
            Err(malformed) => return self.drop(mbuf, malformed.into()),
        };
        let (destination, ttl) = (header.dst(), header.ttl());
        let verdict = match verdict {
            Verdict::Translate(_) if ttl <= 1 => Verdict::Reply(Reply::TimeExceeded),
            Verdict::Translate(translation) => {
                first.count_late(&translation, header);
                verdict
            }
            Verdict::Punt => verdict,
            Verdict::Drop(NatDrop::Fragment(FragmentError::Overlap)) => verdict,
            _ => Verdict::Drop(NatDrop::FragmentRefused),
        };
        let examined =
            Examined { verdict, destination, ttl, fragment: None, is_later_fragment: true };
        self.carry_out(now, examined, mbuf);
    }

    /// Does as the engine says. Where a translated packet was sent at once, returns the way it took.
    fn carry_out(&mut self, now: Instant, examined: Examined, mbuf: Mbuf) -> Option<Way> {
        let Examined { verdict, destination, ttl, .. } = examined;
        match verdict {
            Verdict::Translate(translation) => {
                let rewrite = Rewrite::Translated(translation);
                return self.route(now, translation.destination(), Outgoing { mbuf, rewrite });
            }
            Verdict::Forward => {
                self.route(now, destination, Outgoing { mbuf, rewrite: Rewrite::Routed });
            }
            Verdict::Punt if self.network.is_local(destination) => {
                self.receive_local(now, mbuf);
            }
            Verdict::Punt if ttl <= 1 => self.expire_ttl(now, mbuf),
            Verdict::Punt => {
                self.route(now, destination, Outgoing { mbuf, rewrite: Rewrite::Routed });
            }
            Verdict::Hold(key) => self.hold_fragment(now, key, mbuf),
            Verdict::Reply(Reply::TimeExceeded) => self.expire_ttl(now, mbuf),
            Verdict::Reply(Reply::Reset) => self.reset(now, mbuf),
            Verdict::Reply(Reply::PortUnreachable) => self.refuse_port(now, mbuf),
            Verdict::Drop(reason) => self.drop(mbuf, reason.into()),
        }
        None
    }

    /// Checks a packet, cuts off what follows it in the frame, and asks the engine.
    fn examine<'e>(
        &mut self,
        side: Side,
        mbuf: &mut Mbuf,
        slow_path: SlowPath<'e>,
    ) -> Result<(Examined, Processed<'e>), DropReason> {
        let received = mbuf.rx_checksum();
        let mut packet = packet_in(mbuf)?;
        self.check(side, received, &packet)?;
        let fragment = packet.header.is_fragment().then(|| FragmentKey::of(packet.header));
        let is_later_fragment = packet.header.is_later_fragment();
        let (verdict, processed) = slow_path.process(&mut packet, &*self.network);
        let ttl = packet.header.ttl();
        // The engine translates ICMP errors in place.
        let destination = packet.header.dst();
        let frame_len = ethernet::HEADER_LEN + usize::from(packet.header.total_len());
        mbuf.truncate(frame_len);
        Ok((Examined { verdict, destination, ttl, fragment, is_later_fragment }, processed))
    }

    /// Checks a packet as a router must (RFC 1812, section 5.2.2).
    pub(super) fn check(
        &self,
        side: Side,
        received: RxChecksum,
        packet: &Ipv4Packet<'_>,
    ) -> Result<(), DropReason> {
        if !header_is_sound(received, || packet.checksum_is_sound()) {
            return Err(DropReason::Ipv4Checksum);
        }
        if received.l4 == ChecksumStatus::Bad {
            return Err(DropReason::TransportChecksum);
        }
        let (source, destination) = (packet.header.src(), packet.header.dst());
        if !self.network.may_come_from(side, source) {
            return Err(DropReason::MartianSource);
        }
        if self.network.is_group(destination) {
            return Err(DropReason::NotUnicast);
        }
        if ipv4::is_martian_destination(destination) {
            return Err(DropReason::MartianDestination);
        }
        check_options(packet.options, self.network.allows_source_routes())
    }

    /// Sends a packet towards `destination`, or tells its sender why not. Returns the way that it took,
    /// if that was known.
    pub(super) fn route(
        &mut self,
        now: Instant,
        destination: Ipv4Addr,
        outgoing: Outgoing,
    ) -> Option<Way> {
        let Some(hop) = self.network.next_hop(destination) else {
            let error = IcmpError::NetUnreachable;
            self.undeliverable(now, outgoing, DropReason::NoRoute, error);
            return None;
        };
        let interface = &mut self.interfaces[hop.side as usize];
        let (mut outgoing, mtu) = (outgoing, interface.mtu);
        if interface.is_too_big(&outgoing.mbuf) && may_not_fragment(&mut outgoing.mbuf) {
            let error = IcmpError::FragmentationNeeded { mtu };
            self.undeliverable(now, outgoing, DropReason::TooBig, error);
            return None;
        }
        let Some((neighbour, mac)) = interface.neighbours.lookup(hop.address, now) else {
            self.hold(now, hop.side, hop.address, outgoing);
            return None;
        };
        self.transmit(hop.side, mac, outgoing);
        Some(Way { side: hop.side, neighbour, mac })
    }

    fn hold(&mut self, now: Instant, side: Side, neighbour: Ipv4Addr, mut outgoing: Outgoing) {
        let asker = match packet_in(&mut outgoing.mbuf) {
            Ok(packet) => packet.header.src(),
            Err(malformed) => return self.drop(outgoing.mbuf, malformed.into()),
        };
        let neighbours = &mut self.interfaces[side as usize].neighbours;
        let wanted = self.network.wanted_neighbours(side);
        let displaced = match neighbours.hold(neighbour, asker, outgoing, now, wanted) {
            Hold::Held { ask, displaced } => {
                if ask {
                    self.ask(side, neighbour, None);
                }
                displaced
            }
            Hold::Refused(outgoing) => Some(outgoing),
        };
        if let Some(Outgoing { mbuf, .. }) = displaced {
            self.drop(mbuf, DropReason::NeighbourQueueFull);
        }
    }

    /// Rewrites a packet and sends it to a neighbour, in fragments if it is too large.
    pub(super) fn transmit(&mut self, side: Side, neighbour: MacAddr, outgoing: Outgoing) {
        let Outgoing { mut mbuf, rewrite } = outgoing;
        let interface = &self.interfaces[side as usize];
        let is_too_big = interface.is_too_big(&mbuf);
        let ethernet = interface.ipv4_to(neighbour);
        // A port fills in the checksum of a whole packet, not of one that is cut afterwards.
        let offloads = if is_too_big { Offloads::NONE } else { interface.offloads };
        if let Err(malformed) = rewrite_to_send(&mut mbuf, rewrite, offloads) {
            return self.drop(mbuf, malformed.into());
        }
        if is_too_big {
            return self.transmit_in_fragments(side, &ethernet, mbuf);
        }
        if let Ok((header, _)) = EthernetHeader::split(mbuf.data_mut()) {
            *header = ethernet;
        }
        self.send(side, mbuf);
    }

    fn transmit_in_fragments(&mut self, side: Side, ethernet: &EthernetHeader, mut whole: Mbuf) {
        let mtu = usize::from(self.interfaces[side as usize].mtu);
        let packet = match packet_in(&mut whole) {
            Ok(packet) => packet,
            Err(malformed) => return self.drop(whole, malformed.into()),
        };
        self.counters.fragmented.add(1);
        fragment::split(&packet, mtu, |header, payload| {
            match self.copy(&[ethernet.as_bytes(), header, payload]) {
                Some(part) => self.send(side, part),
                None => self.drops.add(DropReason::NoMbuf, 1),
            }
        });
    }

    /// Drops a packet and, unless it is our own, tells its sender why.
    pub(super) fn undeliverable(
        &mut self,
        now: Instant,
        outgoing: Outgoing,
        reason: DropReason,
        error: IcmpError,
    ) {
        self.drops.add(reason, 1);
        if !matches!(outgoing.rewrite, Rewrite::Originated) {
            self.send_error(now, outgoing.mbuf, error, None);
        }
    }

    fn expire_ttl(&mut self, now: Instant, mbuf: Mbuf) {
        self.drops.add(DropReason::TtlExpired, 1);
        self.send_error(now, mbuf, IcmpError::TimeExceeded, None);
    }
}

/// Refuses options that nobody could make sense of, and, unless they are allowed, source routes
/// (RFC 7126, sections 4.3 and 4.4: drop them by default).
fn check_options(options: &[u8], allows_source_routes: bool) -> Result<(), DropReason> {
    for option in Ipv4Options::new(options) {
        if option?.is_source_route() && !allows_source_routes {
            return Err(DropReason::SourceRoute);
        }
    }
    Ok(())
}

/// Whether its sender wants to be told rather than have it cut (RFC 1191).
fn may_not_fragment(mbuf: &mut Mbuf) -> bool {
    packet_in(mbuf).is_ok_and(|packet| packet.header.dont_fragment())
}

/// Does to a packet what was put off until it can leave.
fn rewrite_to_send(mbuf: &mut Mbuf, rewrite: Rewrite, offloads: Offloads) -> Result<(), Malformed> {
    let received = mbuf.rx_checksum();
    let translated = match rewrite {
        Rewrite::Originated => {
            mbuf.clear_offload();
            return Ok(());
        }
        Rewrite::Routed => None,
        Rewrite::Translated(translation) => Some(translation),
    };
    let mut packet = packet_in(mbuf)?;
    if let Some(translation) = translated {
        translation.apply(&mut packet);
    }
    packet.header.decrement_ttl();
    let request = offloads.prepare(&mut packet, received, translated.is_some());
    mbuf.clear_offload();
    if let Some(request) = request {
        mbuf.request_tx_checksum(request);
    }
    Ok(())
}
