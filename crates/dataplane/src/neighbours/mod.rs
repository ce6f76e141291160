//! ARP's table: which neighbour has which MAC address, and the packets that wait for an answer.
//!
//! # The life of a neighbour
//!
//! ```text
//!              asked for                answered
//!   (nobody) ────────────> resolving ─────────────> known ──┐ not confirmed for a while, in use:
//!                             │ ▲                     ▲     │ asked directly, three times
//!              three requests │ │ a packet for it,    └─────┤
//!              in vain        ▼ │ or its retry is due       │ in vain
//!                           failed <────────────────────────┘
//! ```
//!
//! While one is being resolved, a few packets are held for it, and given back when nobody answers.
//! Next hops towards servers and gateways are *pinned*: they are asked for ahead of time, in use or
//! not, and stay in the table when they fail; all others are forgotten then.
//!
//! # What the wire can't do
//!
//! Whoever sends from, or to, many addresses of a network that the director is in makes neighbours.
//! - Pinned ones have room of their own, which nobody else takes.
//! - When the room for all others is full, one that nothing was ever sent to gives way, the oldest
//!   first; only then one that is in use, the one that was used least recently of some.
//! - Requests for the sake of packets from one source are limited in their rate, so that one that
//!   scans a network, or the answers to one whose sources are spoofed, leave the others theirs.
//! - Packets are held in a fixed number of places, of which those for pinned neighbours have a share
//!   for themselves; when they are taken, the oldest packet gives way.
//!
//! # What it costs
//!
//! An entry takes a cache line. Room for all is reserved at the start (the system backs it with memory
//! when it is used), so that nothing is moved while packets flow. What time brings is done a few
//! entries at a time, and says so itself: see [`Neighbours::due`].

mod held;
mod list;
mod wheel;

use std::{
    hash::{BuildHasher, RandomState},
    net::Ipv4Addr,
    time::Duration,
};

use arrayvec::ArrayVec;
use shunt_nat::{EgressId, Instant, Side};
use shunt_packet::ethernet::MacAddr;

use crate::{egress::EgressTable, local_network::WantedNeighbours, rate_limit::RateLimit};
use held::{HeldPackets, Queue};
use list::{Links, List, NIL};
use wheel::{HORIZON, Slot, Wheel};

/// Time between two requests (RFC 1122, section 2.3.2.1, allows one a second).
const RETRY: Duration = Duration::from_secs(1);

/// Requests without an answer before a neighbour counts as unreachable.
const ATTEMPTS: u8 = 3;

/// Time until a pinned neighbour that is unreachable is asked for again: doubled each time.
const FIRST_BACKOFF: Duration = Duration::from_secs(5);
const LAST_BACKOFF: Duration = Duration::from_secs(60);
const _: () = assert!(LAST_BACKOFF.as_millis() < HORIZON.as_millis());

/// How long an answer is good for without being confirmed (RFC 4861's REACHABLE_TIME).
const REACHABLE: Duration = Duration::from_secs(30);

/// Pinned neighbours that are confirmed in a second although nothing uses them: half of what
/// [`Budget`] allows for, so that those in use don't have to wait. With very many of them it takes
/// longer than [`REACHABLE`] until one's turn comes.
const IDLE_CONFIRMED_PER_SECOND: u64 = 800;

/// How long a neighbour that nobody uses is remembered.
const UNUSED: Duration = Duration::from_secs(600);

/// Entries for pinned neighbours, and for all others.
pub(crate) const MAX_PINNED: usize = 131_072;
const MAX_UNPINNED: usize = 16_384;

/// Packets that wait for one neighbour, in all, and for those that aren't pinned.
const MAX_HELD: usize = 16;
const MAX_HELD_IN_ALL: u16 = 256;
const MAX_HELD_UNPINNED: usize = 192;

/// Classes of packets that are held: by whom they are for.
const UNPINNED: usize = 0;
const PINNED: usize = 1;

/// Entries that are looked at for one that can give way.
const EVICTION_LOOKS: usize = 8;

/// Neighbours per second, and at once, that are asked for because of packets from one source. Sources
/// share these by their hash.
const ASKED_PER_SECOND: u64 = 64;
const ASKED_AT_ONCE: u64 = 64;
const ASKERS: usize = 64;

/// An entry of the table. It means the same neighbour as long as that one is remembered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NeighbourId(u32);

/// Low bits of the clock, in milliseconds: unambiguous for spans below 24 days. All that depends on
/// one is looked at far more often.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp(u32);

impl Stamp {
    fn new(now: Instant) -> Stamp {
        Stamp(now.as_millis() as u32)
    }

    /// How long ago it was; zero if it lies ahead.
    fn age(self, now: Instant) -> Duration {
        let age = (now.as_millis() as u32).wrapping_sub(self.0) as i32;
        Duration::from_millis(age.max(0) as u64)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Not in use.
    Free,
    /// Asked for, and not answered yet.
    Resolving,
    /// Its MAC address is known.
    Known,
    /// Nobody has answered.
    Failed,
}

#[derive(Clone, Debug)]
struct Neighbour {
    address: Ipv4Addr,
    mac: MacAddr,
    state: State,
    /// Requests since the last answer; of a failed one, those that were too many.
    attempts: u8,
    is_pinned: bool,
    /// Whether anything was ever sent to it.
    is_proven: bool,
    /// The number of the way to it, if it has one; the other table has to agree.
    egress: Option<EgressId>,
    /// Where in the wheel it stands.
    slot: Slot,
    confirmed: Stamp,
    used: Stamp,
    asked: Stamp,
    /// The next one of its bucket.
    next: u32,
    due: Links,
    /// In the order in which those that aren't pinned give way.
    order: Links,
    held: Queue,
}

const _: () = assert!(size_of::<Neighbour>() <= 64);

/// What became of a packet that has to wait.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Hold<T> {
    /// It is held. If `ask`, the neighbour is now to be asked for; `displaced` is an older packet that
    /// made room.
    Held {
        /// Whether the neighbour is to be asked for now.
        ask: bool,
        /// A packet to drop.
        displaced: Option<T>,
    },
    /// There is no room for it.
    Refused(T),
}

/// What is due for a neighbour.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Due<T> {
    /// Ask for it: everybody, or the one who had it.
    Ask(Ipv4Addr, Option<MacAddr>),
    /// It can't be reached: these packets won't be delivered.
    GiveUp(Released<T>),
}

/// The packets that waited for a neighbour.
pub(crate) type Released<T> = ArrayVec<T, MAX_HELD>;

/// How much may be done at once.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Budget {
    /// Entries to look at.
    pub(crate) looks: usize,
    /// Requests to send.
    pub(crate) requests: usize,
}

/// The neighbours on one port; `T` is a packet that waits.
#[derive(Debug)]
pub(crate) struct Neighbours<T> {
    side: Side,
    /// By number, which starts at 1. Never more than there is room for.
    entries: Vec<Neighbour>,
    /// The first one that is free; the others follow.
    free: u32,
    /// The first entry of each bucket.
    buckets: Box<[u32]>,
    hasher: RandomState,
    pinned: usize,
    unpinned: usize,
    /// Those that aren't pinned, the oldest first: without and with proof of their use.
    orders: [List; 2],
    wheel: Wheel,
    held: HeldPackets<T, NeighbourId>,
    askers: Box<[RateLimit]>,
    /// Which of the wanted neighbours is to be pinned next, and how many are left.
    next_wanted: usize,
    wanted_left: usize,
    is_wanted_s_turn: bool,
}

impl<T> Neighbours<T> {
    /// No neighbours yet.
    pub(crate) fn new(side: Side) -> Neighbours<T> {
        let capacity = MAX_PINNED + MAX_UNPINNED;
        let mut entries = Vec::with_capacity(1 + capacity);
        entries.push(Neighbour::new(Ipv4Addr::UNSPECIFIED, Instant::default()));
        Neighbours {
            side,
            entries,
            free: NIL,
            buckets: vec![NIL; capacity.next_power_of_two()].into(),
            hasher: RandomState::new(),
            pinned: 0,
            unpinned: 0,
            orders: Default::default(),
            wheel: Wheel::new(),
            held: HeldPackets::with_capacity(MAX_HELD_IN_ALL),
            askers: (0..ASKERS).map(|_| RateLimit::new(ASKED_PER_SECOND, ASKED_AT_ONCE)).collect(),
            next_wanted: 0,
            wanted_left: 0,
            is_wanted_s_turn: false,
        }
    }

    /// Has all wanted neighbours pinned from now on, some each time that [`due`](Neighbours::due) is
    /// called; others cease to be when their turn comes to be looked at.
    pub(crate) fn pin(&mut self, wanted: &WantedNeighbours) {
        self.wanted_left = wanted.len();
    }

    /// A neighbour whose MAC address is known, for a packet to be sent to it.
    #[inline]
    pub(crate) fn lookup(
        &mut self,
        address: Ipv4Addr,
        now: Instant,
    ) -> Option<(NeighbourId, MacAddr)> {
        let id = self.find(address)?;
        let Neighbour { state, mac, .. } = *self.entry(id);
        if state != State::Known {
            return None;
        }
        self.note_used(id, now);
        Some((id, mac))
    }

    /// Notes that packets are sent to a neighbour.
    pub(crate) fn note_used(&mut self, id: NeighbourId, now: Instant) {
        let entry = &mut self.entries[id.0 as usize];
        entry.used = Stamp::new(now);
        if !entry.is_proven {
            self.prove(id);
        }
        // One that was left alone is confirmed now that it is in use again.
        let entry = &self.entries[id.0 as usize];
        if entry.state == State::Known
            && entry.attempts == 0
            && entry.confirmed.age(now) >= REACHABLE
        {
            self.put_off(id, now);
        }
    }

    /// The MAC address of the neighbour with this number, if it is this one and known.
    #[inline]
    pub(crate) fn mac(&self, id: NeighbourId, address: Ipv4Addr) -> Option<MacAddr> {
        let entry = self.entry(id);
        (entry.address == address && entry.state == State::Known).then_some(entry.mac)
    }

    /// The number of the way to a neighbour, as far as this table knows.
    pub(crate) fn egress(&self, id: NeighbourId) -> (Ipv4Addr, Option<EgressId>) {
        let entry = self.entry(id);
        (entry.address, entry.egress)
    }

    /// Notes the number of the way to a neighbour.
    pub(crate) fn set_egress(&mut self, id: NeighbourId, egress: EgressId) {
        self.entries[id.0 as usize].egress = Some(egress);
    }

    /// Holds a packet from `asker` for a neighbour whose MAC address isn't known.
    pub(crate) fn hold(
        &mut self,
        address: Ipv4Addr,
        asker: Ipv4Addr,
        packet: T,
        now: Instant,
        wanted: &WantedNeighbours,
    ) -> Hold<T> {
        let id = match self.find(address) {
            Some(id) => id,
            None => {
                let is_pinned = wanted.contains(address);
                let may_ask = is_pinned || self.may_ask(asker, now);
                match may_ask.then(|| self.create(address, is_pinned, now)).flatten() {
                    Some(id) => id,
                    None => return Hold::Refused(packet),
                }
            }
        };
        let displaced = match self.make_room(id) {
            Some(older) => self.held.pop(&mut self.entries[older.0 as usize].held),
            None if self.held.is_full() => return Hold::Refused(packet),
            None => None,
        };
        let entry = &mut self.entries[id.0 as usize];
        self.held.push(
            &mut entry.held,
            id,
            if entry.is_pinned { PINNED } else { UNPINNED },
            packet,
        );
        let is_asked = entry.state == State::Resolving && entry.attempts > 0;
        let asked_lately = entry.attempts > 0 && entry.asked.age(now) < RETRY;
        if is_asked {
            return Hold::Held { ask: false, displaced };
        }
        // A packet for one that failed has it asked for again, and so does the first one.
        entry.state = State::Resolving;
        entry.attempts = 1;
        if !asked_lately {
            entry.asked = Stamp::new(now);
        }
        self.put_off(id, now + RETRY);
        Hold::Held { ask: !asked_lately, displaced }
    }

    /// Whose oldest packet has to go for one that is to wait for a neighbour.
    fn make_room(&self, id: NeighbourId) -> Option<NeighbourId> {
        let Neighbour { is_pinned, held, .. } = *self.entry(id);
        if held.len() >= MAX_HELD {
            // RFC 1122, section 2.3.2.2: the latest packet is the one to keep.
            return Some(id);
        }
        let is_full = self.held.is_full();
        let unpinned = || self.held.oldest(UNPINNED);
        if is_pinned {
            return is_full.then(|| unpinned().or_else(|| self.held.oldest(PINNED))).flatten();
        }
        let has_its_share = self.held.count(UNPINNED) >= MAX_HELD_UNPINNED;
        (is_full || has_its_share).then(unpinned).flatten()
    }

    /// Notes who has an address, and returns the packets that waited for it. An address that nobody
    /// asked for is noted only if `create`.
    pub(crate) fn learn(
        &mut self,
        address: Ipv4Addr,
        mac: MacAddr,
        create: bool,
        now: Instant,
        wanted: &WantedNeighbours,
        egresses: &mut EgressTable,
    ) -> Released<T> {
        let id = match self.find(address) {
            Some(id) => Some(id),
            None if create => self.create(address, wanted.contains(address), now),
            None => None,
        };
        let Some(id) = id else { return Released::new() };
        let entry = &mut self.entries[id.0 as usize];
        entry.mac = mac;
        entry.state = State::Known;
        entry.attempts = 0;
        entry.confirmed = Stamp::new(now);
        if let Some(egress) = entry.egress {
            egresses.open(egress, self.side, id, mac);
        }
        self.put_off(id, now + REACHABLE);
        self.release(id)
    }

    /// Notes that another worker has asked for an address: the one who had it, or `everybody`.
    pub(crate) fn note_asked(
        &mut self,
        address: Ipv4Addr,
        everybody: bool,
        now: Instant,
        wanted: &WantedNeighbours,
        egresses: &mut EgressTable,
    ) {
        let found = self.find(address);
        let id = found.or_else(|| self.create(address, wanted.contains(address), now));
        let Some(id) = id else { return };
        let Neighbour { state, attempts, .. } = *self.entry(id);
        if everybody && state == State::Known && attempts >= ATTEMPTS {
            // The other worker has given it up a moment before this one.
            self.lose(id, egresses);
        }
        self.count_request(id, now);
    }

    /// Gives up what is known of a neighbour that doesn't answer: somebody else may have its address.
    fn lose(&mut self, id: NeighbourId, egresses: &mut EgressTable) {
        let entry = &mut self.entries[id.0 as usize];
        entry.state = State::Resolving;
        entry.attempts = 0;
        if let Some(egress) = entry.egress {
            egresses.close(egress, self.side, id);
        }
    }

    /// Does what is due, until that is a request to send or packets to give up, or until the budget is
    /// used up: then there is nothing to do, and what is left is done the next time.
    pub(crate) fn due(
        &mut self,
        now: Instant,
        budget: &mut Budget,
        wanted: &WantedNeighbours,
        egresses: &mut EgressTable,
    ) -> Option<Due<T>> {
        while budget.looks > 0 && budget.requests > 0 {
            // Those to be pinned and those in the table take turns: neither can keep the other waiting.
            self.is_wanted_s_turn = self.wanted_left > 0 && !self.is_wanted_s_turn;
            let due = match self.wheel.due(now) {
                Some(id) if !self.is_wanted_s_turn => {
                    self.visit(NeighbourId(id), now, wanted, egresses)
                }
                _ if self.wanted_left > 0 => self.pin_next(now, wanted),
                _ => return None,
            };
            budget.looks -= 1;
            match &due {
                Some(Due::Ask(..)) => budget.requests -= 1,
                Some(Due::GiveUp(packets)) => {
                    budget.looks = budget.looks.saturating_sub(packets.len());
                }
                None => {}
            }
            if due.is_some() {
                return due;
            }
        }
        None
    }

    /// Packets that wait.
    pub(crate) fn held(&self) -> usize {
        self.held.len()
    }

    /// Pins the next one of the wanted neighbours.
    fn pin_next(&mut self, now: Instant, wanted: &WantedNeighbours) -> Option<Due<T>> {
        self.wanted_left -= 1;
        let address = match wanted.nth(self.next_wanted) {
            Some(address) => address,
            // The list is shorter than the last one was.
            None => {
                self.next_wanted = 0;
                wanted.nth(0)?
            }
        };
        self.next_wanted += 1;
        match self.find(address) {
            Some(id) => {
                self.set_pinned(id, true);
                let entry = self.entry(id);
                let is_new = entry.state == State::Resolving && entry.attempts == 0;
                is_new.then(|| self.ask(id, now))
            }
            None => {
                let id = self.create(address, true, now)?;
                Some(self.ask(id, now))
            }
        }
    }

    /// Does what is due for one neighbour.
    fn visit(
        &mut self,
        id: NeighbourId,
        now: Instant,
        wanted: &WantedNeighbours,
        egresses: &mut EgressTable,
    ) -> Option<Due<T>> {
        let is_pinned = self.set_pinned(id, wanted.contains(self.entry(id).address));
        let idle_interval = self.idle_interval();
        let Neighbour { state, attempts, confirmed, used, asked, held, .. } = *self.entry(id);
        match state {
            State::Free => unreachable!("what is free is not in the wheel"),
            State::Known if attempts == 0 && confirmed.age(now) < REACHABLE => {
                self.put_off(id, now + (REACHABLE - confirmed.age(now)));
                None
            }
            State::Known if attempts == 0 => {
                let (age, idle) = (confirmed.age(now), used.age(now));
                let is_unused = idle >= REACHABLE;
                if is_unused && !is_pinned && idle >= UNUSED {
                    self.forget(id);
                } else if is_unused && (!is_pinned || age < idle_interval) {
                    let until = if is_pinned { idle_interval - age } else { UNUSED - idle };
                    self.put_off(id, now + until);
                } else {
                    return Some(self.ask(id, now));
                }
                None
            }
            _ if attempts < ATTEMPTS => {
                if attempts > 0 && asked.age(now) < RETRY {
                    self.put_off(id, now + (RETRY - asked.age(now)));
                    return None;
                }
                if state == State::Resolving && !is_pinned && held.is_empty() {
                    // Another worker's, or one whose packets had to go.
                    self.forget(id);
                    return None;
                }
                Some(self.ask(id, now))
            }
            State::Known => {
                self.lose(id, egresses);
                if !is_pinned {
                    self.forget(id);
                    return None;
                }
                Some(self.ask(id, now))
            }
            State::Resolving => {
                let released = self.release(id);
                if is_pinned {
                    let entry = &mut self.entries[id.0 as usize];
                    entry.state = State::Failed;
                    let since = asked.age(now);
                    self.put_off(id, now + FIRST_BACKOFF.saturating_sub(since));
                } else {
                    self.forget(id);
                }
                (!released.is_empty()).then_some(Due::GiveUp(released))
            }
            State::Failed if !is_pinned => {
                self.forget(id);
                None
            }
            State::Failed => Some(self.ask(id, now)),
        }
    }

    /// How long pinned neighbours that nobody uses go without being confirmed.
    fn idle_interval(&self) -> Duration {
        let all = Duration::from_millis(self.pinned as u64 * 1000 / IDLE_CONFIRMED_PER_SECOND);
        all.max(REACHABLE)
    }

    /// Asks for a neighbour once more.
    fn ask(&mut self, id: NeighbourId, now: Instant) -> Due<T> {
        self.count_request(id, now);
        let Neighbour { address, state, mac, .. } = *self.entry(id);
        Due::Ask(address, (state == State::Known).then_some(mac))
    }

    /// Notes that a neighbour is asked for, and puts off when it will be again.
    fn count_request(&mut self, id: NeighbourId, now: Instant) {
        let entry = &mut self.entries[id.0 as usize];
        entry.attempts = entry.attempts.saturating_add(1);
        entry.asked = Stamp::new(now);
        let wait = match entry.state {
            State::Failed => backoff(entry.attempts - ATTEMPTS),
            State::Free | State::Resolving | State::Known => RETRY,
        };
        self.put_off(id, now + wait);
    }

    /// Whether a neighbour may be asked for because of a packet from this source.
    fn may_ask(&mut self, asker: Ipv4Addr, now: Instant) -> bool {
        let share = self.hasher.hash_one(asker) as usize % self.askers.len();
        self.askers[share].take(now)
    }

    /// Takes all packets that wait for a neighbour.
    fn release(&mut self, id: NeighbourId) -> Released<T> {
        let queue = &mut self.entries[id.0 as usize].held;
        std::iter::from_fn(|| self.held.pop(queue)).collect()
    }

    fn entry(&self, id: NeighbourId) -> &Neighbour {
        &self.entries[id.0 as usize]
    }

    #[inline]
    fn find(&self, address: Ipv4Addr) -> Option<NeighbourId> {
        let mut id = self.buckets[self.bucket(address)];
        while id != NIL {
            let entry = &self.entries[id as usize];
            if entry.address == address {
                return Some(NeighbourId(id));
            }
            id = entry.next;
        }
        None
    }

    fn bucket(&self, address: Ipv4Addr) -> usize {
        // There is a power of two of them.
        self.hasher.hash_one(address) as usize & (self.buckets.len() - 1)
    }

    /// Makes an entry for an address that has none: to be resolved, and looked at in a while. `None` if
    /// there is no room.
    fn create(&mut self, address: Ipv4Addr, is_pinned: bool, now: Instant) -> Option<NeighbourId> {
        let is_pinned = is_pinned && self.pinned < MAX_PINNED;
        let is_table_full = self.free == NIL && self.entries.len() == self.entries.capacity();
        if (is_table_full || (!is_pinned && self.unpinned >= MAX_UNPINNED)) && !self.evict(now) {
            return None;
        }
        let new = Neighbour { is_pinned, ..Neighbour::new(address, now) };
        let id = match self.free {
            NIL => {
                self.entries.push(new);
                (self.entries.len() - 1) as u32
            }
            id => {
                self.free = self.entries[id as usize].next;
                self.entries[id as usize] = new;
                id
            }
        };
        let bucket = self.bucket(address);
        self.entries[id as usize].next = std::mem::replace(&mut self.buckets[bucket], id);
        self.join(id);
        let slot = self.wheel.insert(&mut self.entries, due_links, id, now + RETRY);
        self.entries[id as usize].slot = slot;
        Some(NeighbourId(id))
    }

    /// Counts an entry by its state.
    fn join(&mut self, id: u32) {
        let Neighbour { is_pinned, is_proven, .. } = self.entries[id as usize];
        if is_pinned {
            self.pinned += 1;
        } else {
            self.unpinned += 1;
            self.orders[usize::from(is_proven)].push(&mut self.entries, order_links, id);
        }
    }

    fn part(&mut self, id: u32) {
        let Neighbour { is_pinned, is_proven, .. } = self.entries[id as usize];
        if is_pinned {
            self.pinned -= 1;
        } else {
            self.unpinned -= 1;
            self.orders[usize::from(is_proven)].remove(&mut self.entries, order_links, id);
        }
    }

    /// Pins a neighbour if there is room among those, or lets go of it. Returns whether it is pinned.
    fn set_pinned(&mut self, id: NeighbourId, is_wanted: bool) -> bool {
        let is_pinned = self.entry(id).is_pinned;
        let becomes = is_wanted && (is_pinned || self.pinned < MAX_PINNED);
        if becomes != is_pinned {
            // What waits for it keeps its place in the order that it is in.
            self.part(id.0);
            self.entries[id.0 as usize].is_pinned = becomes;
            self.join(id.0);
        }
        becomes
    }

    /// Notes that something was sent to a neighbour for the first time.
    fn prove(&mut self, id: NeighbourId) {
        self.part(id.0);
        self.entries[id.0 as usize].is_proven = true;
        self.join(id.0);
    }

    /// Forgets a neighbour that isn't pinned and that no packet waits for, to make room. Returns
    /// whether there was one.
    fn evict(&mut self, now: Instant) -> bool {
        for is_proven in [false, true] {
            let mut victim: Option<(Duration, u32)> = None;
            for _ in 0..EVICTION_LOOKS {
                let Some(id) = self.orders[usize::from(is_proven)].first() else { break };
                let Neighbour { used, held, .. } = self.entries[id as usize];
                if held.is_empty() {
                    victim = victim.max(Some((used.age(now), id)));
                    if !is_proven {
                        break;
                    }
                }
                // It has its turn again when all others have had theirs.
                let order = &mut self.orders[usize::from(is_proven)];
                order.remove(&mut self.entries, order_links, id);
                order.push(&mut self.entries, order_links, id);
            }
            if let Some((_, id)) = victim {
                self.forget(NeighbourId(id));
                return true;
            }
        }
        false
    }

    /// Forgets a neighbour that no packet waits for.
    fn forget(&mut self, id: NeighbourId) {
        let NeighbourId(id) = id;
        self.part(id);
        let Neighbour { address, slot, next, .. } = self.entries[id as usize];
        self.wheel.remove(&mut self.entries, due_links, id, slot);
        let bucket = self.bucket(address);
        let mut before = self.buckets[bucket];
        if before == id {
            self.buckets[bucket] = next;
        } else {
            while self.entries[before as usize].next != id {
                before = self.entries[before as usize].next;
            }
            self.entries[before as usize].next = next;
        }
        self.entries[id as usize].state = State::Free;
        self.entries[id as usize].next = std::mem::replace(&mut self.free, id);
    }

    /// Has a neighbour looked at then, or, if that is far off, before.
    fn put_off(&mut self, id: NeighbourId, due: Instant) {
        let NeighbourId(id) = id;
        let slot = self.entries[id as usize].slot;
        self.wheel.remove(&mut self.entries, due_links, id, slot);
        let slot = self.wheel.insert(&mut self.entries, due_links, id, due);
        self.entries[id as usize].slot = slot;
    }
}

impl Neighbour {
    /// One that has not been asked for.
    fn new(address: Ipv4Addr, now: Instant) -> Neighbour {
        let now = Stamp::new(now);
        Neighbour {
            address,
            mac: MacAddr::ZERO,
            state: State::Resolving,
            attempts: 0,
            is_pinned: false,
            is_proven: false,
            egress: None,
            slot: 0,
            confirmed: now,
            used: now,
            asked: now,
            next: NIL,
            due: Links::default(),
            order: Links::default(),
            held: Queue::default(),
        }
    }
}

/// How long a pinned neighbour is left alone that has failed and then been asked for so many times
/// more.
fn backoff(asked: u8) -> Duration {
    let doubled = FIRST_BACKOFF.saturating_mul(1 << asked.min(8));
    doubled.min(LAST_BACKOFF)
}

fn due_links(entry: &mut Neighbour) -> &mut Links {
    &mut entry.due
}

fn order_links(entry: &mut Neighbour) -> &mut Links {
    &mut entry.order
}

#[cfg(test)]
mod tests;
