//! ARP: answering for our addresses, resolving neighbours, announcing ourselves.

use std::{net::Ipv4Addr, time::Duration};

use shunt_dpdk::Mbuf;
use shunt_nat::{Instant, Side};
use shunt_packet::{
    arp::{ArpFrame, ArpOperation, ArpPacket},
    ethernet::{EthernetHeader, MacAddr},
    icmp::IcmpError,
};
use zerocopy::IntoBytes;

use super::Pipeline;
use crate::{drop_reason::DropReason, gossip::News, neighbours::Due, surroundings::SIDES};

/// News from other workers that are taken in at once, so that they can't keep a worker from its work.
const HEARD_AT_ONCE: usize = 32;

/// Announcements of an address that has become ours, and the time between them (RFC 5227:
/// ANNOUNCE_NUM and ANNOUNCE_INTERVAL).
const ANNOUNCEMENTS: u32 = 2;
const ANNOUNCEMENT_INTERVAL: Duration = Duration::from_secs(2);

/// Says which of our addresses are to be announced, and when.
#[derive(Debug, Default)]
pub(super) struct Announcer {
    /// By side.
    addresses: [Vec<Ipv4Addr>; 2],
    /// Announcements still to be made.
    left: u32,
    last: Instant,
}

impl Announcer {
    /// Has these be announced, by side, and those once more with which it isn't done.
    pub(super) fn add(&mut self, addresses: &[Vec<Ipv4Addr>; 2]) {
        for (known, new) in self.addresses.iter_mut().zip(addresses) {
            known.extend(new);
            self.left = if new.is_empty() { self.left } else { ANNOUNCEMENTS };
        }
    }

    /// The addresses to announce now.
    fn due(&mut self, now: Instant) -> Option<[Vec<Ipv4Addr>; 2]> {
        let waited = self.left == ANNOUNCEMENTS || now.since(self.last) >= ANNOUNCEMENT_INTERVAL;
        if self.left == 0 || !waited {
            return None;
        }
        self.left -= 1;
        self.last = now;
        Some(if self.left == 0 {
            std::mem::take(&mut self.addresses)
        } else {
            self.addresses.clone()
        })
    }
}

impl Pipeline {
    pub(super) fn receive_arp(&mut self, now: Instant, side: Side, mut mbuf: Mbuf) {
        let arp = match parse(&mut mbuf) {
            Ok(arp) => arp,
            Err(reason) => return self.drop(mbuf, reason),
        };
        let (sender, sender_mac) = (arp.sender_ip(), arp.sender_mac());
        let asks_us = self.surroundings.answers(side, arp.target_ip());
        // A probe has no sender address yet (RFC 5227, section 2.1.1).
        let is_probe = sender.is_unspecified();
        if self.surroundings.answers(side, sender) {
            return self.drop(mbuf, DropReason::AddressConflict);
        }
        let is_neighbour = self.surroundings.is_neighbour(side, sender) && !sender_mac.is_group();
        if !is_neighbour && !is_probe {
            return self.drop(mbuf, DropReason::ArpNotForUs);
        }
        if is_neighbour {
            self.learn(now, side, sender, sender_mac, asks_us);
            self.gossip.tell(News::Learned {
                side,
                address: sender,
                mac: sender_mac,
                wanted: asks_us,
            });
        }
        match arp.operation() {
            ArpOperation::Request if asks_us => {
                let own = self.interfaces[side as usize].mac;
                let reply = ArpFrame::reply(own, arp.target_ip(), sender_mac, sender);
                self.counters.arp_replies += 1;
                self.send_arp(side, mbuf, &reply);
            }
            ArpOperation::Reply if asks_us => self.counters.arp_learned += 1,
            _ => self.drop(mbuf, DropReason::ArpNotForUs),
        }
    }

    /// Notes a neighbour, and sends what waited for it.
    fn learn(&mut self, now: Instant, side: Side, address: Ipv4Addr, mac: MacAddr, create: bool) {
        self.egresses.learn(side, address, mac);
        let neighbours = &mut self.interfaces[side as usize].neighbours;
        for outgoing in neighbours.learn(address, mac, create, now) {
            self.transmit(side, mac, outgoing);
        }
    }

    /// Takes in what other workers have learnt, and whom they have asked for.
    pub(crate) fn hear(&mut self, now: Instant) {
        for _ in 0..HEARD_AT_ONCE {
            let Some(news) = self.gossip.hear() else { return };
            match news {
                News::Learned { side, address, mac, wanted } => {
                    self.learn(now, side, address, mac, wanted);
                }
                News::Asked { side, address } => {
                    self.interfaces[side as usize].neighbours.note_asked(address, now);
                }
            }
        }
    }

    /// Does what is due: requests, announcements, and giving up.
    pub(super) fn tick_arp(&mut self, now: Instant) {
        for (side, addresses) in SIDES.into_iter().zip(self.announcer.due(now).unwrap_or_default())
        {
            self.announce(side, &addresses);
        }
        for side in SIDES {
            for due in self.interfaces[side as usize].neighbours.due(now) {
                match due {
                    Due::Ask(address, known) => self.ask(side, address, known),
                    Due::GiveUp(held) => held.into_iter().for_each(|outgoing| {
                        let error = IcmpError::HostUnreachable;
                        self.undeliverable(now, outgoing, DropReason::HostUnreachable, error);
                    }),
                }
            }
        }
    }

    fn announce(&mut self, side: Side, addresses: &[Ipv4Addr]) {
        let mac = self.interfaces[side as usize].mac;
        for address in addresses {
            // It may have ceased to be ours since.
            if self.surroundings.answers(side, *address) {
                self.request(side, &ArpFrame::announcement(mac, *address));
            }
        }
    }

    /// Asks for a neighbour: everybody, or the one who had the address.
    pub(super) fn ask(&mut self, side: Side, neighbour: Ipv4Addr, known: Option<MacAddr>) {
        let mac = self.interfaces[side as usize].mac;
        let source = self.surroundings.source(side, neighbour);
        self.gossip.tell(News::Asked { side, address: neighbour });
        self.request(side, &ArpFrame::request(mac, source, neighbour, known));
    }

    fn request(&mut self, side: Side, frame: &ArpFrame) {
        match self.copy(&[frame.as_bytes()]) {
            Some(mbuf) => {
                self.counters.arp_requests += 1;
                self.send(side, mbuf);
            }
            None => self.drops.add(DropReason::NoMbuf, 1),
        }
    }

    /// Sends an ARP frame in a buffer whose content is no longer needed.
    fn send_arp(&mut self, side: Side, mut mbuf: Mbuf, frame: &ArpFrame) {
        mbuf.clear_offload();
        mbuf.truncate(0);
        match mbuf.append(size_of::<ArpFrame>()) {
            Some(bytes) => {
                bytes.copy_from_slice(frame.as_bytes());
                self.send(side, mbuf);
            }
            None => self.drop(mbuf, DropReason::NoMbuf),
        }
    }
}

fn parse(mbuf: &mut Mbuf) -> Result<ArpPacket, DropReason> {
    let (_, payload) = EthernetHeader::split(mbuf.data_mut())?;
    Ok(*ArpPacket::parse(payload)?)
}
