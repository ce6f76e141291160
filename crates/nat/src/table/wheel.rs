//! The timing wheel (Varghese & Lauck, SOSP 1987) that ends silent connections.
//!
//! A record is linked into the slot of the tick in which it may run out. Packets never touch the
//! wheel: they write the time into the record, and when the wheel comes by, a record that was heard
//! of since is put forward to its new deadline. A timeout longer than one turn is no special case:
//! the record is simply looked at once a turn.

use crate::{
    connection::{Connection, Links},
    time::Instant,
};

/// Milliseconds of a tick, as a shift: 1,024.
const TICK_SHIFT: u32 = 10;

/// Ticks of a turn: 17 minutes, more than the longest default timeout.
const SLOTS: usize = 1024;

/// The end of a list.
pub(super) const NIL: u32 = u32::MAX;

/// In `previous` of a list's first record: the rest is the number of the slot.
const SLOT: u32 = 1 << 31;

pub(super) struct Wheel {
    /// The first record of each slot, or [`NIL`].
    slots: Box<[u32; SLOTS]>,
    /// The tick whose slot is to be looked at next.
    tick: u64,
}

impl Wheel {
    pub(super) fn new() -> Wheel {
        Wheel { slots: Box::new([NIL; SLOTS]), tick: 0 }
    }

    /// Links a record into the slot of `deadline`.
    pub(super) fn link(&mut self, records: &mut [Connection], id: u32, deadline: Instant) {
        // The first tick that lies wholly behind the deadline; within the turn, not in the past.
        let due = (deadline.as_millis() >> TICK_SHIFT) + 1;
        let due = due.clamp(self.tick + 1, self.tick + SLOTS as u64 - 1);
        let slot = due as usize % SLOTS;
        let next = self.slots[slot];
        records[id as usize].links = Links { next, previous: SLOT | slot as u32 };
        if next != NIL {
            records[next as usize].links.previous = id;
        }
        self.slots[slot] = id;
    }

    /// Takes a record out of its slot.
    pub(super) fn unlink(&mut self, records: &mut [Connection], id: u32) {
        let Links { next, previous } = records[id as usize].links;
        if previous & SLOT == 0 {
            records[previous as usize].links.next = next;
        } else {
            self.slots[(previous & !SLOT) as usize] = next;
        }
        if next != NIL {
            records[next as usize].links.previous = previous;
        }
    }

    /// The next record whose slot has come by `now`, unlinked; `None` when all have been looked at.
    pub(super) fn next_due(&mut self, records: &mut [Connection], now: Instant) -> Option<u32> {
        let end = now.as_millis() >> TICK_SHIFT;
        // After a pause of more than a turn, each slot needs to be looked at only once.
        self.tick = self.tick.max(end.saturating_sub(SLOTS as u64));
        while self.tick <= end {
            let first = self.slots[self.tick as usize % SLOTS];
            if first != NIL {
                self.unlink(records, first);
                return Some(first);
            }
            if self.tick == end {
                break;
            }
            self.tick += 1;
        }
        None
    }
}
