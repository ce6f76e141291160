//! When which neighbour is to be looked at: slots of a tenth of a second, each with a list.

use std::time::Duration;

use shunt_nat::Instant;

use super::list::{Links, List};

/// Milliseconds that a slot stands for.
const SLOT: u64 = 100;

const SLOTS: usize = 1024;

/// How far ahead something may be due to be looked at then, and not before.
pub(super) const HORIZON: Duration = Duration::from_millis(SLOT * (SLOTS as u64 - 2));

/// A slot, as an entry remembers which one it is in.
pub(super) type Slot = u16;

#[derive(Debug)]
pub(super) struct Wheel {
    slots: Box<[List]>,
    /// The slot, counted from time 0, that is being worked off. All before it are empty.
    current: u64,
}

impl Wheel {
    pub(super) fn new() -> Wheel {
        Wheel { slots: vec![List::default(); SLOTS].into(), current: 0 }
    }

    /// Puts an entry in: it is due at that time, or up to a slot later. What is due when all slots have
    /// passed is due before: in the last of them.
    pub(super) fn insert<T>(
        &mut self,
        entries: &mut [T],
        links: fn(&mut T) -> &mut Links,
        id: u32,
        due: Instant,
    ) -> Slot {
        let last = self.current + SLOTS as u64 - 1;
        let slot = due.as_millis().div_ceil(SLOT).clamp(self.current, last);
        let slot = (slot % SLOTS as u64) as usize;
        self.slots[slot].push(entries, links, id);
        slot as Slot
    }

    /// Takes an entry out of its slot.
    pub(super) fn remove<T>(
        &mut self,
        entries: &mut [T],
        links: fn(&mut T) -> &mut Links,
        id: u32,
        slot: Slot,
    ) {
        self.slots[usize::from(slot)].remove(entries, links, id);
    }

    /// The entry that has been due for the longest time.
    pub(super) fn due(&mut self, now: Instant) -> Option<u32> {
        let now = now.as_millis() / SLOT;
        // After a long silence each slot is looked at once.
        self.current = self.current.max((now + 1).saturating_sub(SLOTS as u64));
        loop {
            if let Some(id) = self.slots[(self.current % SLOTS as u64) as usize].first() {
                return (self.current <= now).then_some(id);
            }
            if self.current >= now {
                return None;
            }
            self.current += 1;
        }
    }
}
