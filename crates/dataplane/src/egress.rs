//! Ways out of the director, by number: a port and the neighbour behind it.
//!
//! The NAT engine remembers such a number for each direction of a connection, and for each server, so
//! only the first packet has to be routed and its neighbour looked up. What the neighbour's MAC address is stands
//! here, in one place for all connections that go there.

use std::net::Ipv4Addr;

use hashbrown::HashMap;
use shunt_nat::{EgressId, Instant, Side};
use shunt_packet::ethernet::{EthernetHeader, HEADER_LEN, MacAddr};

use crate::interface::Interface;

/// Ways out that are compared with the table of neighbours in one go.
const REFRESHED_AT_ONCE: usize = 1024;

/// A way out.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Egress {
    pub(crate) side: Side,
    /// What frames that go there begin with.
    pub(crate) ethernet: EthernetHeader,
    /// Bytes of the largest frame that may go there as it is.
    max_frame: u32,
    /// Whether the neighbour is known.
    is_open: bool,
    /// Whether anything went there since the neighbours were last told.
    is_used: bool,
    neighbour: Ipv4Addr,
}

/// The ways out that connections may remember.
#[derive(Debug, Default)]
pub(crate) struct EgressTable {
    /// By number, which starts at 1.
    egresses: Vec<Egress>,
    /// By side.
    by_neighbour: [HashMap<Ipv4Addr, EgressId>; 2],
    /// Which is to be compared with the neighbours next.
    next: usize,
}

impl EgressTable {
    /// The number of the way to a neighbour, whose MAC address this is. `None` when there are more
    /// neighbours than numbers.
    pub(crate) fn id(
        &mut self,
        side: Side,
        neighbour: Ipv4Addr,
        mac: MacAddr,
        interface: &Interface,
    ) -> Option<EgressId> {
        if let Some(known) = self.by_neighbour[side as usize].get(&neighbour) {
            let id = *known;
            self.egress(id).open(mac);
            return Some(id);
        }
        let id = EgressId::new(u16::try_from(self.egresses.len() + 1).ok()?)?;
        self.egresses.push(Egress {
            side,
            ethernet: interface.ipv4_to(mac),
            max_frame: (HEADER_LEN + usize::from(interface.mtu)) as u32,
            is_open: true,
            is_used: true,
            neighbour,
        });
        self.by_neighbour[side as usize].insert(neighbour, id);
        Some(id)
    }

    /// Forgets all ways out. The engine must forget their numbers, too.
    pub(crate) fn clear(&mut self) {
        self.egresses.clear();
        self.by_neighbour.iter_mut().for_each(HashMap::clear);
    }

    /// Whether a frame of this length may go there without further ado.
    #[inline]
    pub(crate) fn may_leave(&self, id: EgressId, frame_len: usize) -> bool {
        let egress = self.egresses.get(place(id));
        egress.is_some_and(|egress| egress.is_open && frame_len <= egress.max_frame as usize)
    }

    /// The way out with this number, which something is about to take.
    ///
    /// # Panics
    /// When there is none.
    #[inline]
    pub(crate) fn take(&mut self, id: EgressId) -> &Egress {
        let egress = self.egress(id);
        egress.is_used = true;
        egress
    }

    /// Notes who has a neighbour's address now.
    pub(crate) fn learn(&mut self, side: Side, neighbour: Ipv4Addr, mac: MacAddr) {
        if let Some(id) = self.by_neighbour[side as usize].get(&neighbour) {
            let id = *id;
            self.egress(id).open(mac);
        }
    }

    /// Tells the neighbours who of them is in use, and closes the ways to those who are gone, in use or
    /// not. To be called a few times a second.
    pub(crate) fn refresh(&mut self, interfaces: &mut [Interface; 2], now: Instant) {
        let end = (self.next + REFRESHED_AT_ONCE).min(self.egresses.len());
        for egress in &mut self.egresses[self.next.min(end)..end] {
            let neighbours = &mut interfaces[egress.side as usize].neighbours;
            let mac = match std::mem::take(&mut egress.is_used) {
                true => neighbours.lookup(egress.neighbour, now),
                false => neighbours.peek(egress.neighbour),
            };
            match mac {
                Some(mac) => egress.open(mac),
                None => egress.is_open = false,
            }
        }
        self.next = if end == self.egresses.len() { 0 } else { end };
    }

    fn egress(&mut self, id: EgressId) -> &mut Egress {
        &mut self.egresses[place(id)]
    }
}

impl Egress {
    fn open(&mut self, mac: MacAddr) {
        self.ethernet.destination = mac;
        self.is_open = true;
    }
}

#[inline]
fn place(id: EgressId) -> usize {
    usize::from(id.get()) - 1
}
