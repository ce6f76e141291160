//! ARP's table: which neighbour has which MAC address, and the packets that wait for an answer.
//!
//! An address that is asked for is *incomplete* until its owner answers; a few packets are held
//! meanwhile, and given back when nobody does. A known address that has not been confirmed for a
//! while is confirmed by asking its owner directly, as long as it is in use; unused ones are
//! forgotten. All is bounded: entries, unanswered entries, packets held for one and in all.

use std::{net::Ipv4Addr, time::Duration};

use arrayvec::ArrayVec;
use hashbrown::HashMap;
use shunt_nat::Instant;
use shunt_packet::ethernet::MacAddr;

/// Time between two requests (RFC 1122, section 2.3.2.1, allows one a second).
const RETRY: Duration = Duration::from_secs(1);

/// Requests without an answer before a neighbour counts as unreachable.
const ATTEMPTS: u32 = 3;

/// Time between two requests to a pinned neighbour that is unreachable.
const PINNED_RETRY: Duration = Duration::from_secs(5);

/// How long an answer is good for without being confirmed (RFC 4861's REACHABLE_TIME).
const REACHABLE: Duration = Duration::from_secs(30);

/// How long a neighbour that nobody uses is remembered.
const UNUSED: Duration = Duration::from_secs(600);

const MAX_ENTRIES: usize = 16_384;
const MAX_INCOMPLETE: usize = 1_024;
const MAX_HELD: usize = 16;
const MAX_HELD_IN_ALL: usize = 512;

/// The packets that wait for one neighbour.
pub(crate) type Held<T> = ArrayVec<T, MAX_HELD>;

#[derive(Debug)]
struct Neighbour<T> {
    /// `None` while nobody has answered.
    mac: Option<MacAddr>,
    confirmed: Instant,
    used: Instant,
    /// Requests since the last answer, and when the last one went out.
    attempts: u32,
    asked: Instant,
    /// A server or a gateway: asked for ahead of time, and never forgotten.
    pinned: bool,
    held: Held<T>,
}

/// What became of a packet that has to wait.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Hold<T> {
    /// It is held; if it is the first, the neighbour is now to be asked for.
    Held { ask: bool },
    /// It is held in place of an older one, or could not be held: this one is to be dropped.
    Full(T),
}

/// What is due for a neighbour.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Due<T> {
    /// Ask for it: everybody, or the one who had it.
    Ask(Ipv4Addr, Option<MacAddr>),
    /// It can't be reached: these packets won't be delivered.
    GiveUp(Vec<T>),
}

/// The neighbours on one port; `T` is a packet that waits.
#[derive(Debug)]
pub(crate) struct Neighbours<T> {
    entries: HashMap<Ipv4Addr, Neighbour<T>>,
    incomplete: usize,
    held: usize,
}

impl<T> Default for Neighbours<T> {
    fn default() -> Neighbours<T> {
        Neighbours { entries: HashMap::new(), incomplete: 0, held: 0 }
    }
}

impl<T> Neighbours<T> {
    /// Keeps these addresses, and no others, resolved from now on, used or not.
    pub(crate) fn pin_only(&mut self, addresses: &[Ipv4Addr], now: Instant) {
        self.entries.values_mut().for_each(|neighbour| neighbour.pinned = false);
        addresses.iter().for_each(|address| self.pin(*address, now));
    }

    fn pin(&mut self, address: Ipv4Addr, now: Instant) {
        if !self.entries.contains_key(&address) {
            self.entries.insert(address, Neighbour { attempts: 0, ..incomplete(now) });
            self.incomplete += 1;
        }
        if let Some(neighbour) = self.entries.get_mut(&address) {
            neighbour.pinned = true;
        }
    }

    /// The MAC address of a neighbour, if it is known.
    #[inline]
    pub(crate) fn lookup(&mut self, address: Ipv4Addr, now: Instant) -> Option<MacAddr> {
        let neighbour = self.entries.get_mut(&address)?;
        neighbour.used = now;
        neighbour.mac
    }

    /// The same, for one who only wants to know.
    pub(crate) fn peek(&self, address: Ipv4Addr) -> Option<MacAddr> {
        self.entries.get(&address)?.mac
    }

    /// Holds a packet for a neighbour that isn't known.
    pub(crate) fn hold(&mut self, address: Ipv4Addr, packet: T, now: Instant) -> Hold<T> {
        let is_new = !self.entries.contains_key(&address);
        if self.held >= MAX_HELD_IN_ALL || (is_new && self.is_crowded()) {
            return Hold::Full(packet);
        }
        self.incomplete += usize::from(is_new);
        let neighbour = self.entries.entry(address).or_insert_with(|| incomplete(now));
        // RFC 1122, section 2.3.2.2: the latest packet is the one to keep.
        let oldest = neighbour.held.is_full().then(|| neighbour.held.remove(0));
        neighbour.held.push(packet);
        match oldest {
            Some(oldest) => Hold::Full(oldest),
            None => {
                self.held += 1;
                Hold::Held { ask: is_new }
            }
        }
    }

    /// Notes who has an address, and returns the packets that waited for it. An address that nobody
    /// asked for is noted only if `create`.
    pub(crate) fn learn(
        &mut self,
        address: Ipv4Addr,
        mac: MacAddr,
        create: bool,
        now: Instant,
    ) -> Held<T> {
        if !self.entries.contains_key(&address) {
            if !create || self.entries.len() >= MAX_ENTRIES {
                return Held::new();
            }
            self.entries.insert(address, incomplete(now));
            self.incomplete += 1;
        }
        let Some(neighbour) = self.entries.get_mut(&address) else { return Held::new() };
        if neighbour.mac.replace(mac).is_none() {
            self.incomplete -= 1;
        }
        neighbour.confirmed = now;
        neighbour.attempts = 0;
        let held = std::mem::take(&mut neighbour.held);
        self.held -= held.len();
        held
    }

    /// Notes that another worker has asked for an address.
    pub(crate) fn note_asked(&mut self, address: Ipv4Addr, now: Instant) {
        let is_new = !self.entries.contains_key(&address);
        if is_new && self.is_crowded() {
            return;
        }
        self.incomplete += usize::from(is_new);
        let neighbour = self
            .entries
            .entry(address)
            .or_insert_with(|| Neighbour { attempts: 0, ..incomplete(now) });
        neighbour.attempts = neighbour.attempts.saturating_add(1);
        neighbour.asked = now;
    }

    /// What is due now. To be called a few times a second.
    pub(crate) fn due(&mut self, now: Instant) -> Vec<Due<T>> {
        let mut due = Vec::new();
        self.entries.retain(|address, neighbour| neighbour.is_wanted(*address, now, &mut due));
        self.incomplete = self.entries.values().filter(|entry| entry.mac.is_none()).count();
        self.held = self.entries.values().map(|entry| entry.held.len()).sum();
        due
    }

    /// Whether there is no room for another address that is asked for.
    fn is_crowded(&self) -> bool {
        self.entries.len() >= MAX_ENTRIES || self.incomplete >= MAX_INCOMPLETE
    }

    /// Packets that wait.
    pub(crate) fn held(&self) -> usize {
        self.held
    }
}

/// An entry that has just been asked for.
fn incomplete<T>(now: Instant) -> Neighbour<T> {
    Neighbour {
        mac: None,
        confirmed: now,
        used: now,
        attempts: 1,
        asked: now,
        pinned: false,
        held: Held::new(),
    }
}

impl<T> Neighbour<T> {
    /// Does what is due, and says whether the entry is to be kept.
    fn is_wanted(&mut self, address: Ipv4Addr, now: Instant, due: &mut Vec<Due<T>>) -> bool {
        if self.mac.is_some() {
            if now.since(self.confirmed) < REACHABLE {
                return true;
            }
            let idle = now.since(self.used);
            if !self.pinned && idle >= REACHABLE {
                return idle < UNUSED;
            }
        }
        if self.attempts < ATTEMPTS {
            if self.attempts == 0 || now.since(self.asked) >= RETRY {
                self.ask(address, now, due);
            }
            return true;
        }
        if now.since(self.asked) < RETRY {
            return true;
        }
        self.mac = None;
        if !self.held.is_empty() {
            due.push(Due::GiveUp(self.held.drain(..).collect()));
        }
        if self.pinned && now.since(self.asked) >= PINNED_RETRY {
            self.ask(address, now, due);
        }
        self.pinned
    }

    fn ask(&mut self, address: Ipv4Addr, now: Instant, due: &mut Vec<Due<T>>) {
        self.attempts = self.attempts.saturating_add(1);
        self.asked = now;
        due.push(Due::Ask(address, self.mac));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOST: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 7);
    const MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 7]);

    fn at(seconds: u64) -> Instant {
        Instant::from_millis(seconds * 1000)
    }

    #[test]
    fn an_answer_releases_what_waited() {
        let mut neighbours = Neighbours::default();
        assert_eq!(neighbours.lookup(HOST, at(0)), None);
        assert_eq!(neighbours.hold(HOST, 'a', at(0)), Hold::Held { ask: true });
        assert_eq!(neighbours.hold(HOST, 'b', at(0)), Hold::Held { ask: false });
        assert_eq!(neighbours.learn(HOST, MAC, false, at(1)).as_slice(), ['a', 'b']);
        assert_eq!(neighbours.lookup(HOST, at(1)), Some(MAC));
        assert_eq!((neighbours.held, neighbours.incomplete), (0, 0));
    }

    #[test]
    fn silence_gives_up_after_three_requests() {
        let mut neighbours = Neighbours::default();
        neighbours.hold(HOST, 'a', at(0));
        assert_eq!(neighbours.due(at(0)), []);
        assert_eq!(neighbours.due(at(1)), [Due::Ask(HOST, None)]);
        assert_eq!(neighbours.due(at(2)), [Due::Ask(HOST, None)]);
        assert_eq!(neighbours.due(at(3)), [Due::GiveUp(vec!['a'])]);
        assert_eq!((neighbours.entries.len(), neighbours.held, neighbours.incomplete), (0, 0, 0));
        assert_eq!(neighbours.hold(HOST, 'b', at(4)), Hold::Held { ask: true }, "starts afresh");
    }

    #[test]
    fn a_used_neighbour_is_confirmed_and_lost_when_silent() {
        let mut neighbours = Neighbours::<char>::default();
        neighbours.learn(HOST, MAC, true, at(0));
        assert_eq!(neighbours.due(at(29)), []);
        neighbours.lookup(HOST, at(29));
        assert_eq!(neighbours.due(at(30)), [Due::Ask(HOST, Some(MAC))]);
        neighbours.learn(HOST, MAC, false, at(31));
        assert_eq!(neighbours.due(at(32)), [], "confirmed");
        neighbours.lookup(HOST, at(60));
        for second in 61..64 {
            assert_eq!(neighbours.due(at(second)), [Due::Ask(HOST, Some(MAC))]);
        }
        assert_eq!(neighbours.lookup(HOST, at(63)), Some(MAC), "used until it is given up");
        assert_eq!(neighbours.due(at(64)), []);
        assert_eq!(neighbours.lookup(HOST, at(64)), None);
    }

    #[test]
    fn an_unused_neighbour_is_forgotten_in_silence() {
        let mut neighbours = Neighbours::<char>::default();
        neighbours.learn(HOST, MAC, true, at(0));
        assert_eq!(neighbours.due(at(599)), []);
        assert_eq!(neighbours.entries.len(), 1);
        assert_eq!(neighbours.due(at(600)), []);
        assert_eq!(neighbours.entries.len(), 0);
    }

    #[test]
    fn a_pinned_neighbour_is_asked_for_at_once_and_for_ever() {
        let mut neighbours = Neighbours::<char>::default();
        neighbours.pin_only(&[HOST], at(0));
        let asked = (0..30).filter(|second| !neighbours.due(at(*second)).is_empty()).count();
        assert_eq!(asked, 3 + 5, "three requests a second apart, then one in five seconds");
        neighbours.learn(HOST, MAC, false, at(30));
        assert_eq!(neighbours.due(at(59)), []);
        assert_eq!(neighbours.due(at(60)), [Due::Ask(HOST, Some(MAC))], "used or not");
    }

    #[test]
    fn what_another_worker_asks_for_need_not_be_asked_for() {
        let mut neighbours = Neighbours::default();
        neighbours.note_asked(HOST, at(0));
        assert_eq!(neighbours.hold(HOST, 'a', at(0)), Hold::Held { ask: false });
        assert_eq!(neighbours.due(at(0)), []);
        neighbours.note_asked(HOST, at(1));
        assert_eq!(neighbours.due(at(1)), []);
        assert_eq!(neighbours.due(at(2)), [Due::Ask(HOST, None)], "the other one forgot");
        assert_eq!(neighbours.due(at(3)), [Due::GiveUp(vec!['a'])]);
        assert_eq!((neighbours.entries.len(), neighbours.incomplete), (0, 0));
    }

    #[test]
    fn a_neighbour_that_is_no_longer_pinned_is_forgotten() {
        let other = Ipv4Addr::new(192, 0, 2, 8);
        let mut neighbours = Neighbours::<char>::default();
        neighbours.pin_only(&[HOST, other], at(0));
        neighbours.learn(HOST, MAC, false, at(0));
        neighbours.pin_only(&[other], at(10));
        let asked: Vec<_> = (10..599).flat_map(|second| neighbours.due(at(second))).collect();
        assert!(asked.iter().all(|due| *due == Due::Ask(other, None)), "{asked:?}");
        assert_eq!(neighbours.entries.len(), 2, "it is remembered as others are");
        neighbours.due(at(600));
        assert_eq!(neighbours.entries.len(), 1, "the one that is still pinned");
    }

    #[test]
    fn strangers_are_not_noted() {
        let mut neighbours = Neighbours::<char>::default();
        neighbours.learn(HOST, MAC, false, at(0));
        assert_eq!(neighbours.lookup(HOST, at(0)), None);
    }

    #[test]
    fn everything_is_bounded() {
        let mut neighbours = Neighbours::default();
        for packet in 0..MAX_HELD {
            assert_eq!(neighbours.hold(HOST, packet, at(0)), Hold::Held { ask: packet == 0 });
        }
        assert_eq!(neighbours.hold(HOST, 99, at(0)), Hold::Full(0), "the oldest gives way");
        let host = |n: usize| Ipv4Addr::from_bits(0x0a00_0000 + n as u32);
        let refused = (0..MAX_INCOMPLETE)
            .filter(|n| matches!(neighbours.hold(host(*n), *n, at(0)), Hold::Full(_)))
            .count();
        assert_eq!(refused, MAX_INCOMPLETE + MAX_HELD - MAX_HELD_IN_ALL);
        assert_eq!(neighbours.held, MAX_HELD_IN_ALL);
        for second in 1..4 {
            neighbours.due(at(second));
        }
        assert_eq!((neighbours.held, neighbours.entries.len()), (0, 0));
        for n in 0..=MAX_ENTRIES {
            neighbours.learn(host(n), MAC, true, at(4));
        }
        assert_eq!(neighbours.entries.len(), MAX_ENTRIES);
    }
}
