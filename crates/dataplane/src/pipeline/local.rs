//! The director as a host: it answers echo requests, and refuses all else.

use std::net::Ipv4Addr;

use shunt_dpdk::Mbuf;
use shunt_nat::{Instant, Side};
use shunt_packet::{
    ethernet::{self, EthernetHeader},
    fragment,
    icmp::{self, ERROR_PREFIX_LEN, ERROR_QUOTE_LEN, IcmpError, IcmpHeader},
    ipv4::{self, Ipv4Packet, protocol},
    tcp::{self, TcpFlags, TcpHeader},
};

use zerocopy::IntoBytes;

use super::{
    Pipeline, copy,
    reassembly::{Abandoned, Reassembly},
};
use crate::{
    drop_reason::DropReason,
    frame::packet_in,
    outgoing::{Outgoing, Rewrite},
};

impl Pipeline {
    /// A packet to one of our own addresses that belongs to no connection.
    pub(super) fn receive_local(&mut self, now: Instant, mut mbuf: Mbuf) {
        let packet = match packet_in(&mut mbuf) {
            Ok(packet) => packet,
            Err(malformed) => return self.drop(mbuf, malformed.into()),
        };
        if packet.header.is_fragment() {
            return match packet.header.protocol() {
                protocol::ICMP => self.reassemble(now, mbuf),
                _ => self.drop(mbuf, DropReason::FragmentToUs),
            };
        }
        match packet.header.protocol() {
            protocol::ICMP => self.receive_icmp(now, mbuf),
            protocol::TCP => self.reset(now, mbuf),
            protocol::UDP => self.refuse_port(now, mbuf),
            _ => {
                self.drops.add(DropReason::Refused, 1);
                let own = packet.header.dst();
                self.send_error(now, mbuf, IcmpError::ProtocolUnreachable, Some(own));
            }
        }
    }

    /// Takes in a fragment of an ICMP message to us, and answers the message if that completes it.
    fn reassemble(&mut self, now: Instant, mut mbuf: Mbuf) {
        let packet = match packet_in(&mut mbuf) {
            Ok(packet) => packet,
            Err(malformed) => return self.drop(mbuf, malformed.into()),
        };
        let whole = match self.reassembler.add(now, &packet) {
            Err(error) => return self.drop(mbuf, error.into()),
            Ok(Reassembly::Partial { displaced }) => {
                return self.drops.add(DropReason::FragmentQueueFull, displaced);
            }
            Ok(Reassembly::Complete(whole)) => whole,
        };
        let mut parts = std::mem::take(&mut self.reply_parts);
        match answer_echo_in(whole) {
            Ok(reply) => {
                let next = self.network.next_hop(reply.header.dst());
                let side = next.map_or(Side::Outside, |hop| hop.side);
                let mtu = usize::from(self.interfaces[side as usize].mtu);
                fragment::split(&reply, mtu, |header, payload| {
                    match copy(&self.pool, &[&[0; ethernet::HEADER_LEN], header, payload]) {
                        Some(part) => parts.push(part),
                        None => self.drops.add(DropReason::NoMbuf, 1),
                    }
                });
                self.counters.echo_replies.add(1);
                self.counters.fragmented.add(u64::from(parts.len() > 1));
            }
            Err(reason) => self.drops.add(reason, 1),
        }
        parts.drain(..).for_each(|part| self.originate(now, part));
        // The vector goes back for the next ones.
        self.reply_parts = parts;
    }

    /// Gives up packets to us of which fragments are missing for too long.
    pub(super) fn tick_reassembly(&mut self, now: Instant) {
        while let Some(Abandoned { fragments, first }) = self.reassembler.expire(now) {
            self.drops.add(DropReason::FragmentTimeout, fragments);
            // Options aren't kept, so that a packet with some can't be quoted.
            let quotable = first.filter(|(header, _)| header.header_len() == ipv4::HEADER_LEN);
            let Some((header, payload)) = quotable else { continue };
            let frame = [&[0; ethernet::HEADER_LEN], header.as_bytes(), payload];
            match copy(&self.pool, &frame) {
                Some(mbuf) => {
                    let error = IcmpError::ReassemblyTimeExceeded;
                    self.send_error(now, mbuf, error, Some(header.dst()));
                }
                None => self.drops.add(DropReason::NoMbuf, 1),
            }
        }
    }

    fn receive_icmp(&mut self, now: Instant, mut mbuf: Mbuf) {
        match answer_echo(&mut mbuf) {
            Ok(()) => {
                self.counters.echo_replies.add(1);
                self.originate(now, mbuf);
            }
            Err(reason) => self.drop(mbuf, reason),
        }
    }

    /// Refuses a TCP segment.
    pub(super) fn reset(&mut self, now: Instant, mut mbuf: Mbuf) {
        let reset = match packet_in(&mut mbuf) {
            Ok(mut packet) => match TcpHeader::parse(packet.payload) {
                Ok(segment) if segment.flags().contains(TcpFlags::RST) => {
                    return self.drop(mbuf, DropReason::UnknownConnection);
                }
                Ok(_) => tcp::reset_for(&mut packet),
                Err(malformed) => return self.drop(mbuf, malformed.into()),
            },
            Err(malformed) => return self.drop(mbuf, malformed.into()),
        };
        self.drops.add(DropReason::Refused, 1);
        // A segment is never shorter than the reset that answers it.
        let Some(reset) = reset else { return };
        if mbuf.truncate(ethernet::HEADER_LEN + reset.len()) {
            mbuf.data_mut()[ethernet::HEADER_LEN..].copy_from_slice(&reset);
            self.counters.resets.add(1);
            self.originate(now, mbuf);
        }
    }

    /// Refuses a UDP datagram, as the host that it was sent to.
    pub(super) fn refuse_port(&mut self, now: Instant, mut mbuf: Mbuf) {
        let own = match packet_in(&mut mbuf) {
            Ok(packet) => packet.header.dst(),
            Err(malformed) => return self.drop(mbuf, malformed.into()),
        };
        self.drops.add(DropReason::Refused, 1);
        self.send_error(now, mbuf, IcmpError::PortUnreachable, Some(own));
    }

    /// Turns a packet into the ICMP error about it and sends that to its sender; from `own`, or
    /// from our address on the sender's side.
    pub(super) fn send_error(
        &mut self,
        now: Instant,
        mut mbuf: Mbuf,
        error: IcmpError,
        own: Option<Ipv4Addr>,
    ) {
        let Ok(mut packet) = packet_in(&mut mbuf) else { return };
        if !icmp::may_report(&mut packet) {
            return;
        }
        let sender = packet.header.src();
        if !self.icmp_limit.take(now) {
            self.counters.icmp_errors_suppressed.add(1);
            return;
        }
        let source = own.unwrap_or_else(|| {
            let side = self.network.next_hop(sender).map_or(Side::Outside, |hop| hop.side);
            self.network.source(side, sender)
        });
        if quote(&mut mbuf, error, source, sender).is_some() {
            self.counters.icmp_errors.add(1);
            self.originate(now, mbuf);
        } else {
            self.drops.add(DropReason::NoMbuf, 1);
        }
    }

    /// Sends the resets of connections that ended.
    pub(super) fn send_resets(&mut self, now: Instant) {
        let mut resets = std::mem::take(&mut self.resets);
        for reset in resets.drain(..) {
            match self.copy(&[&[0; ethernet::HEADER_LEN], &reset]) {
                Some(mbuf) => {
                    self.counters.resets.add(1);
                    self.originate(now, mbuf);
                }
                None => self.drops.add(DropReason::NoMbuf, 1),
            }
        }
        // The vector goes back for the next ones.
        self.resets = resets;
    }

    /// Sends a packet of our own; its Ethernet header is filled in on the way.
    fn originate(&mut self, now: Instant, mut mbuf: Mbuf) {
        let Ok(packet) = packet_in(&mut mbuf) else { return };
        let destination = packet.header.dst();
        self.route(now, destination, Outgoing { mbuf, rewrite: Rewrite::Originated });
    }
}

/// Turns an echo request in a frame into its reply.
fn answer_echo(mbuf: &mut Mbuf) -> Result<(), DropReason> {
    let (_, payload) = EthernetHeader::split(mbuf.data_mut())?;
    answer_echo_in(payload).map(drop)
}

/// Turns an echo request into its reply.
fn answer_echo_in(bytes: &mut [u8]) -> Result<Ipv4Packet<'_>, DropReason> {
    let mut packet = Ipv4Packet::parse(bytes)?;
    if !icmp::checksum_is_sound(packet.payload) {
        return Err(DropReason::IcmpChecksum);
    }
    let (header, _) = IcmpHeader::split(packet.payload)?;
    if !header.is_echo_request() {
        return Err(DropReason::NotAnswered);
    }
    icmp::answer_echo(&mut packet);
    Ok(packet)
}

/// Puts an ICMP error in front of the packet that it quotes. `None` when there is no headroom.
fn quote(mbuf: &mut Mbuf, error: IcmpError, source: Ipv4Addr, sender: Ipv4Addr) -> Option<()> {
    mbuf.adjust(ethernet::HEADER_LEN);
    let quoted = mbuf.len().min(ERROR_QUOTE_LEN);
    mbuf.truncate(quoted);
    let prefix = error.prefix(source, sender, mbuf.data());
    let headers = mbuf.prepend(ethernet::HEADER_LEN + ERROR_PREFIX_LEN)?;
    headers[ethernet::HEADER_LEN..].copy_from_slice(&prefix);
    Some(())
}
