//! The director as a host: it answers echo requests, and refuses all else.

use std::net::Ipv4Addr;

use shunt_dpdk::Mbuf;
use shunt_nat::{Instant, Side};
use shunt_packet::{
    ethernet,
    icmp::{self, ERROR_PREFIX_LEN, ERROR_QUOTE_LEN, IcmpError, IcmpHeader},
    ipv4::protocol,
    tcp::{self, TcpFlags, TcpHeader},
};

use super::Pipeline;
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
            return self.drop(mbuf, DropReason::FragmentToUs);
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

    fn receive_icmp(&mut self, now: Instant, mut mbuf: Mbuf) {
        match answer_echo(&mut mbuf) {
            Ok(()) => {
                self.counters.echo_replies += 1;
                self.originate(now, mbuf);
            }
            Err(reason) => self.drop(mbuf, reason),
        }
    }

    /// Refuses a TCP segment.
    pub(super) fn reset(&mut self, now: Instant, mut mbuf: Mbuf) {
        let reset = match packet_in(&mut mbuf) {
            Ok(mut packet) => match TcpHeader::parse(packet.payload) {
                Ok(segment) if segment.flags().has(TcpFlags::RST) => {
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
            self.counters.resets += 1;
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
            self.counters.icmp_errors_suppressed += 1;
            return;
        }
        let source = own.unwrap_or_else(|| {
            let side = self.surroundings.next_hop(sender).map_or(Side::Outside, |hop| hop.side);
            self.surroundings.source(side, sender)
        });
        if quote(&mut mbuf, error, source, sender).is_some() {
            self.counters.icmp_errors += 1;
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
                    self.counters.resets += 1;
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

/// Turns an echo request into its reply.
fn answer_echo(mbuf: &mut Mbuf) -> Result<(), DropReason> {
    let mut packet = packet_in(mbuf)?;
    if !icmp::checksum_is_sound(packet.payload) {
        return Err(DropReason::IcmpChecksum);
    }
    let (header, _) = IcmpHeader::split(packet.payload)?;
    if !header.is_echo_request() {
        return Err(DropReason::NotAnswered);
    }
    icmp::answer_echo(&mut packet);
    Ok(())
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
