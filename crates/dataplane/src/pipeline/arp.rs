//! ARP: answering for our addresses, resolving neighbours, announcing ourselves.

use std::{collections::VecDeque, net::Ipv4Addr, time::Duration};

use shunt_dpdk::Mbuf;
use shunt_nat::{Instant, Side};
use shunt_packet::{
    arp::{ArpFrame, ArpOperation, ArpPacket},
    ethernet::{EthernetHeader, MacAddr},
    icmp::IcmpError,
};
use zerocopy::IntoBytes;

use super::Pipeline;
use crate::{
    drop_reason::DropReason,
    local_network::{LocalNetwork, SIDES},
    neighbour_sync::NeighbourEvent,
    neighbours::{Budget, Due},
    outgoing::Outgoing,
};

/// Events of other workers that are taken in at once, so that they can't keep a worker from its work.
const EVENTS_AT_ONCE: usize = 32;

/// Announcements of an address that has become ours, and the time between them (RFC 5227:
/// ANNOUNCE_NUM and ANNOUNCE_INTERVAL).
const ANNOUNCEMENTS: u32 = 2;
const ANNOUNCEMENT_INTERVAL: Duration = Duration::from_secs(2);

/// What a tick does at most, on each side: 1,600 requests a second, so that switches and hosts, which
/// have each of them to look at, aren't flooded.
const BUDGET: Budget = Budget { looks: 64, requests: 16 };

/// Announcements in a tick, of both sides together.
const ANNOUNCED_AT_ONCE: usize = 8;

/// Says which of our addresses are to be announced, and when.
#[derive(Debug, Default)]
pub(super) struct Announcer {
    rounds: VecDeque<Round>,
}

/// Addresses that are announced one after the other, and then once more.
#[derive(Debug)]
struct Round {
    side: Side,
    addresses: Vec<Ipv4Addr>,
    next: usize,
    /// Rounds to be made, this one included.
    left: u32,
    begins: Instant,
}

impl Announcer {
    /// Has these be announced, by side, from now on.
    pub(super) fn add(&mut self, now: Instant, addresses: [Vec<Ipv4Addr>; 2]) {
        for (side, addresses) in SIDES.into_iter().zip(addresses) {
            if !addresses.is_empty() {
                let left = ANNOUNCEMENTS;
                self.rounds.push_back(Round { side, addresses, next: 0, left, begins: now });
            }
        }
    }

    /// The next address to announce now. Those that are ours no longer are left out.
    fn next(&mut self, now: Instant, network: &LocalNetwork) -> Option<(Side, Ipv4Addr)> {
        loop {
            let at = self.rounds.iter().position(|round| round.begins <= now)?;
            let round = &mut self.rounds[at];
            let Some(address) = round.addresses.get(round.next).copied() else {
                self.end(at);
                continue;
            };
            if round.next == 0 {
                round.begins = now;
            }
            round.next += 1;
            let side = round.side;
            if round.next == round.addresses.len() {
                self.end(at);
            }
            if network.answers(side, address) {
                return Some((side, address));
            }
        }
    }

    /// Has a round be made once more, as long after it began as is due, or ends it.
    fn end(&mut self, at: usize) {
        let Some(mut round) = self.rounds.remove(at) else { return };
        round.left -= 1;
        round.next = 0;
        round.begins = round.begins + ANNOUNCEMENT_INTERVAL;
        if round.left > 0 {
            self.rounds.push_back(round);
        }
    }
}

impl Pipeline {
    pub(super) fn receive_arp(&mut self, now: Instant, side: Side, mut mbuf: Mbuf) {
        let arp = match parse(&mut mbuf) {
            Ok(arp) => arp,
            Err(reason) => return self.drop(mbuf, reason),
        };
        let (sender, sender_mac) = (arp.sender_ip(), arp.sender_mac());
        let asks_us = self.network.answers(side, arp.target_ip());
        // A probe has no sender address yet (RFC 5227, section 2.1.1).
        let is_probe = sender.is_unspecified();
        if self.network.answers(side, sender) {
            return self.drop(mbuf, DropReason::AddressConflict);
        }
        let is_neighbour = self.network.is_neighbour(side, sender) && !sender_mac.is_group();
        if !is_neighbour && !is_probe {
            return self.drop(mbuf, DropReason::ArpNotForUs);
        }
        if is_neighbour {
            self.learn(now, side, sender, sender_mac, asks_us);
            self.neighbour_sync.publish(NeighbourEvent::Learned {
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
                self.counters.arp_replies.add(1);
                self.send_arp(side, mbuf, &reply);
            }
            ArpOperation::Reply if asks_us => self.counters.arp_learned.add(1),
            _ => self.drop(mbuf, DropReason::ArpNotForUs),
        }
    }

    /// Notes a neighbour, and sends what waited for it.
    fn learn(&mut self, now: Instant, side: Side, address: Ipv4Addr, mac: MacAddr, create: bool) {
        let neighbours = &mut self.interfaces[side as usize].neighbours;
        let wanted = self.network.wanted_neighbours(side);
        for outgoing in neighbours.learn(address, mac, create, now, wanted, &mut self.egresses) {
            self.transmit(side, mac, outgoing);
        }
    }

    /// Takes in what other workers have learned, and whom they have asked for.
    pub(crate) fn poll_neighbour_events(&mut self, now: Instant) {
        for _ in 0..EVENTS_AT_ONCE {
            let Some(event) = self.neighbour_sync.poll() else { return };
            match event {
                NeighbourEvent::Learned { side, address, mac, wanted } => {
                    self.learn(now, side, address, mac, wanted);
                }
                NeighbourEvent::Asked { side, address, everybody } => {
                    let wanted = self.network.wanted_neighbours(side);
                    let neighbours = &mut self.interfaces[side as usize].neighbours;
                    neighbours.note_asked(address, everybody, now, wanted, &mut self.egresses);
                }
            }
        }
    }

    /// Does what is due: announcements, requests, and giving up; some of it, if it is a lot.
    pub(super) fn tick_arp(&mut self, now: Instant) {
        for _ in 0..ANNOUNCED_AT_ONCE {
            let Some((side, address)) = self.announcer.next(now, &self.network) else { break };
            let mac = self.interfaces[side as usize].mac;
            self.request(side, &ArpFrame::announcement(mac, address));
        }
        for side in SIDES {
            let mut budget = BUDGET;
            while let Some(due) = self.due(now, side, &mut budget) {
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

    fn due(&mut self, now: Instant, side: Side, budget: &mut Budget) -> Option<Due<Outgoing>> {
        let wanted = self.network.wanted_neighbours(side);
        let neighbours = &mut self.interfaces[side as usize].neighbours;
        neighbours.due(now, budget, wanted, &mut self.egresses)
    }

    /// Asks for a neighbour: everybody, or the one who had the address.
    pub(super) fn ask(&mut self, side: Side, neighbour: Ipv4Addr, known: Option<MacAddr>) {
        let mac = self.interfaces[side as usize].mac;
        let source = self.network.source(side, neighbour);
        let everybody = known.is_none();
        self.neighbour_sync.publish(NeighbourEvent::Asked { side, address: neighbour, everybody });
        self.request(side, &ArpFrame::request(mac, source, neighbour, known));
    }

    fn request(&mut self, side: Side, frame: &ArpFrame) {
        match self.copy(&[frame.as_bytes()]) {
            Some(mbuf) => {
                self.counters.arp_requests.add(1);
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

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Instant {
        Instant::from_millis(millis)
    }

    fn addresses(count: u32) -> Vec<Ipv4Addr> {
        (1..=count).map(|n| Ipv4Addr::from_bits(0xc0a8_0000 + n)).collect()
    }

    /// A network in which these are VIPs.
    fn network(vips: &[Ipv4Addr]) -> LocalNetwork {
        let endpoint = |vip| format!("{{ vip = \"{vip}:80\", scheduler = \"rr\" }}");
        let services: Vec<_> = vips.iter().map(endpoint).collect();
        let text = format!(
            r#"
            service = [{}]
            [[port]]
            name = "outside"
            role = "outside"
            device = "net_null0"
            addresses = ["192.168.255.1/16"]
            [[port]]
            name = "inside"
            role = "inside"
            device = "net_null1"
            addresses = ["10.0.0.1/24"]
            "#,
            services.join(", ")
        );
        let config = shunt_config::Config::parse("arp.toml", &text);
        LocalNetwork::new(&config.unwrap_or_else(|errors| panic!("{errors}")))
    }

    #[test]
    fn addresses_are_announced_twice_one_after_the_other() {
        let vips = addresses(1000);
        let network = network(&vips[..999]);
        let mut announcer = Announcer::default();
        announcer.add(at(0), [vips.clone(), Vec::new()]);
        let mut announced: Vec<Vec<u64>> = vec![Vec::new(); 1000];
        for tick in 0..500 {
            let now = at(10 * tick);
            for _ in 0..ANNOUNCED_AT_ONCE {
                let Some((Side::Outside, address)) = announcer.next(now, &network) else { break };
                let at = vips.iter().position(|vip| *vip == address).unwrap();
                announced[at].push(now.as_millis());
            }
        }
        for (at, times) in announced[..999].iter().enumerate() {
            let first = 10 * (at as u64 / ANNOUNCED_AT_ONCE as u64);
            assert_eq!(times[..], [first, first + 2000], "VIP {at}");
        }
        assert_eq!(announced[999], [0; 0], "it is no longer ours");
        assert!(announcer.rounds.is_empty());
    }

    #[test]
    fn new_addresses_do_not_wait_for_old_ones() {
        let vips = addresses(20);
        let network = network(&vips);
        let mut announcer = Announcer::default();
        announcer.add(at(0), [vips[..2].to_vec(), Vec::new()]);
        let drain = |announcer: &mut Announcer, now| -> Vec<_> {
            std::iter::from_fn(|| announcer.next(now, &network)).map(|(_, vip)| vip).collect()
        };
        assert_eq!(drain(&mut announcer, at(0)), vips[..2]);
        announcer.add(at(1000), [vec![vips[5]], Vec::new()]);
        assert_eq!(drain(&mut announcer, at(1000)), [vips[5]]);
        assert_eq!(drain(&mut announcer, at(2000)), vips[..2]);
        assert_eq!(drain(&mut announcer, at(3000)), [vips[5]]);
        assert_eq!(drain(&mut announcer, at(9000)), [] as [Ipv4Addr; 0]);
    }
}
