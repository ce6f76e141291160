//! Ways out of the director, by number: a port and the neighbour behind it.
//!
//! The NAT engine remembers such a number for each direction of a connection, and for each server, so
//! only the first packet has to be routed and its neighbour looked up. What the neighbour's MAC address
//! is stands here, in one place for all connections that go there.
//!
//! # Taking numbers back
//!
//! There are 4,095 of them, and neighbours come and go. A number that is given up is *retired*: nothing
//! leaves by it, so that packets of connections which remember it take the slow path and get another
//! one. When numbers run short the engine *searches* its connections and servers for those that are
//! retired, and forgets them. Only then are they free to mean other neighbours.
//!
//! ```text
//!    free ──────> live ──────> retired ──────> searched for ──────> free
//!         noted        unused,         numbers              nobody
//!                      gone, or        run short            remembers it
//!                      routes changed
//! ```
//!
//! When all of them are in use, neighbours beyond these do without: their packets are routed one by one.

use std::{net::Ipv4Addr, time::Duration};

use shunt_nat::{EgressId, EgressSet, Engine, Instant, Side};
use shunt_packet::ethernet::{EthernetHeader, MacAddr};

use crate::neighbours::{NeighbourId, Neighbours};

/// Ways out that are compared with the neighbours in one go.
const CHECKED_AT_ONCE: usize = 128;

/// Numbers that should be free, so that new neighbours get one at once: one in so many.
const RESERVE: usize = 4;

/// How long a way out goes unused before it is given up where numbers are short.
const UNUSED: Duration = Duration::from_secs(60);

/// The frames that go to a neighbour.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Frames {
    /// What they begin with.
    pub(crate) ethernet: EthernetHeader,
    /// Bytes of the largest one.
    pub(crate) max_len: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Free,
    /// It leads to a neighbour.
    Live,
    /// It led to a neighbour, and connections may remember it.
    Retired,
    /// So it did, and the engine has connections forget it.
    Searched,
}

/// A way out.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Egress {
    pub(crate) side: Side,
    pub(crate) frames: Frames,
    /// Whether the neighbour is known; never unless it is live.
    is_open: bool,
    /// Whether anything went there since that was last asked.
    is_used: bool,
    state: State,
    neighbour: NeighbourId,
    address: Ipv4Addr,
    used: Instant,
}

/// The ways out that connections may remember.
#[derive(Debug)]
pub(crate) struct EgressTable {
    /// How many numbers there are.
    numbers: usize,
    /// By number, which starts at 1.
    egresses: Vec<Egress>,
    free: Vec<EgressId>,
    /// How many are retired, and whether the engine searches for some.
    retired: usize,
    is_searching: bool,
    /// Which is to be checked next.
    next: usize,
}

/// What ways out hold on to; the engine, but for tests.
pub(crate) trait Remembers {
    /// See [`Engine::release_egresses`].
    fn release_egresses(&mut self, released: &EgressSet);
    /// See [`Engine::releases_egresses`].
    fn releases_egresses(&self) -> bool;
}

impl Remembers for Engine {
    fn release_egresses(&mut self, released: &EgressSet) {
        Engine::release_egresses(self, released);
    }

    fn releases_egresses(&self) -> bool {
        Engine::releases_egresses(self)
    }
}

impl Default for EgressTable {
    fn default() -> EgressTable {
        EgressTable::with_numbers(EgressId::LAST.get())
    }
}

impl EgressTable {
    /// A table of so many ways out at most.
    fn with_numbers(numbers: u16) -> EgressTable {
        EgressTable {
            numbers: usize::from(numbers),
            egresses: Vec::with_capacity(numbers.into()),
            free: Vec::with_capacity(numbers.into()),
            retired: 0,
            is_searching: false,
            next: 0,
        }
    }

    /// The number of the way to a neighbour that is known and in use, for frames like these. `None` when
    /// there is none left.
    pub(crate) fn id<T>(
        &mut self,
        now: Instant,
        side: Side,
        neighbour: NeighbourId,
        frames: Frames,
        neighbours: &mut Neighbours<T>,
    ) -> Option<EgressId> {
        let (address, known) = neighbours.egress(neighbour);
        if let Some(known) = known.filter(|known| self.leads_to(*known, side, neighbour)) {
            self.open(known, side, neighbour, frames.ethernet.destination);
            return Some(known);
        }
        let state = State::Live;
        let (is_open, is_used, used) = (true, false, now);
        let egress = Egress { side, frames, is_open, is_used, state, neighbour, address, used };
        let id = self.take_free(egress)?;
        neighbours.set_egress(neighbour, id);
        Some(id)
    }

    fn take_free(&mut self, egress: Egress) -> Option<EgressId> {
        if let Some(id) = self.free.pop() {
            self.egresses[place(id)] = egress;
            return Some(id);
        }
        let number = self.egresses.len() + 1;
        let id = EgressId::new(u16::try_from(number).ok()?).filter(|_| number <= self.numbers)?;
        self.egresses.push(egress);
        Some(id)
    }

    /// Whether a frame of this length may go there without further ado.
    #[inline]
    pub(crate) fn may_leave(&self, id: EgressId, frame_len: usize) -> bool {
        let egress = self.egresses.get(place(id));
        egress.is_some_and(|egress| egress.is_open && frame_len <= egress.frames.max_len)
    }

    /// The way out with this number, which something is about to take.
    ///
    /// # Panics
    /// When there is none.
    #[inline]
    pub(crate) fn take(&mut self, id: EgressId) -> &Egress {
        let egress = &mut self.egresses[place(id)];
        egress.is_used = true;
        egress
    }

    /// Notes which MAC address a neighbour has, if that is where this way out leads.
    pub(crate) fn open(&mut self, id: EgressId, side: Side, neighbour: NeighbourId, mac: MacAddr) {
        if self.leads_to(id, side, neighbour) {
            let egress = &mut self.egresses[place(id)];
            egress.frames.ethernet.destination = mac;
            egress.is_open = true;
        }
    }

    /// Closes the way to a neighbour that has ceased to answer, if that is where it leads.
    pub(crate) fn close(&mut self, id: EgressId, side: Side, neighbour: NeighbourId) {
        if self.leads_to(id, side, neighbour) {
            self.egresses[place(id)].is_open = false;
        }
    }

    /// Gives up all ways out: routes or ports have changed.
    pub(crate) fn retire_all(&mut self, engine: &mut impl Remembers) {
        for place in 0..self.egresses.len() {
            self.retire(place);
        }
        self.search(engine);
    }

    /// Compares some ways out with the neighbours: these learn who of them is in use, and ways to those
    /// who are gone are closed or given up. To be called often.
    pub(crate) fn check<T>(
        &mut self,
        now: Instant,
        [outside, inside]: [&mut Neighbours<T>; 2],
        engine: &mut impl Remembers,
    ) {
        let is_short = self.spare() < self.numbers / RESERVE;
        let end = (self.next + CHECKED_AT_ONCE).min(self.egresses.len());
        for place in self.next.min(end)..end {
            let egress = &mut self.egresses[place];
            if egress.state != State::Live {
                continue;
            }
            let neighbours = match egress.side {
                Side::Outside => &mut *outside,
                Side::Inside => &mut *inside,
            };
            let (address, _) = neighbours.egress(egress.neighbour);
            if std::mem::take(&mut egress.is_used) && address == egress.address {
                egress.used = now;
                neighbours.note_used(egress.neighbour, now);
            }
            let is_unused = now.since(egress.used) >= UNUSED;
            match neighbours.mac(egress.neighbour, egress.address) {
                Some(mac) => {
                    egress.frames.ethernet.destination = mac;
                    egress.is_open = true;
                }
                None => egress.is_open = false,
            }
            if address != egress.address || (is_short && is_unused) {
                self.retire(place);
            }
        }
        self.next = if end == self.egresses.len() { 0 } else { end };
        self.recycle(engine);
        if is_short && self.retired > 0 && !self.is_searching {
            self.search(engine);
        }
    }

    /// Numbers that new neighbours may get.
    fn spare(&self) -> usize {
        self.free.len() + self.numbers - self.egresses.len()
    }

    fn leads_to(&self, id: EgressId, side: Side, neighbour: NeighbourId) -> bool {
        self.egresses.get(place(id)).is_some_and(|egress| {
            egress.state == State::Live && egress.side == side && egress.neighbour == neighbour
        })
    }

    fn retire(&mut self, place: usize) {
        let egress = &mut self.egresses[place];
        if egress.state == State::Live {
            egress.state = State::Retired;
            egress.is_open = false;
            self.retired += 1;
        }
    }

    /// Has the engine search for all that are retired.
    fn search(&mut self, engine: &mut impl Remembers) {
        let mut released = EgressSet::default();
        for (number, egress) in (1..).zip(&mut self.egresses) {
            if egress.state == State::Retired {
                egress.state = State::Searched;
                EgressId::new(number).into_iter().for_each(|id| released.insert(id));
            }
        }
        self.retired = 0;
        self.is_searching = true;
        engine.release_egresses(&released);
    }

    /// Frees the numbers that were searched for, when that is done.
    fn recycle(&mut self, engine: &impl Remembers) {
        if !self.is_searching || engine.releases_egresses() {
            return;
        }
        self.is_searching = false;
        for (number, egress) in (1..).zip(&mut self.egresses) {
            if egress.state == State::Searched {
                egress.state = State::Free;
                self.free.extend(EgressId::new(number));
            }
        }
    }
}

#[inline]
fn place(id: EgressId) -> usize {
    usize::from(id.get()) - 1
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use shunt_packet::ethernet::EtherType;

    use super::*;
    use crate::local_network::WantedNeighbours;

    const NUMBERS: u16 = 8;
    const RECORDS: usize = 30;

    /// Connections, each with the number that it remembers and what that means to it.
    #[derive(Default)]
    struct Connections {
        records: [Option<(EgressId, Ipv4Addr)>; RECORDS],
        released: EgressSet,
        left: usize,
    }

    impl Remembers for Connections {
        fn release_egresses(&mut self, released: &EgressSet) {
            if self.left == 0 {
                self.released = EgressSet::default();
            }
            self.released.extend(released);
            self.left = RECORDS;
        }

        fn releases_egresses(&self) -> bool {
            self.left > 0
        }
    }

    impl Connections {
        fn search(&mut self, mut budget: usize) {
            while self.left > 0 && budget > 0 {
                self.left -= 1;
                budget -= 1;
                let record = &mut self.records[self.left];
                *record = record.filter(|(id, _)| !self.released.contains(*id));
            }
        }
    }

    struct Director {
        table: EgressTable,
        neighbours: [Neighbours<()>; 2],
        connections: Connections,
        wanted: WantedNeighbours,
        now: u64,
    }

    impl Director {
        fn new(numbers: u16) -> Director {
            Director {
                table: EgressTable::with_numbers(numbers),
                neighbours: [Neighbours::new(Side::Outside), Neighbours::new(Side::Inside)],
                connections: Connections::default(),
                wanted: WantedNeighbours::default(),
                now: 0,
            }
        }

        fn now(&self) -> Instant {
            Instant::from_millis(self.now)
        }

        /// A connection's packet goes to a neighbour of the outside: by the way that it remembers, or
        /// routed.
        fn send(&mut self, record: usize, to: u8) -> Option<EgressId> {
            let (now, address) = (self.now(), address(to));
            let neighbours = &mut self.neighbours[0];
            if let Some((id, _)) = self.connections.records[record].filter(|(_, at)| *at == address)
                && self.table.may_leave(id, 100)
            {
                self.table.take(id);
                return Some(id);
            }
            let learn = |neighbours: &mut Neighbours<()>, table: &mut EgressTable| {
                let wanted = &self.wanted;
                assert!(neighbours.learn(address, mac(to), true, now, wanted, table).is_empty());
            };
            if neighbours.lookup(address, now).is_none() {
                learn(neighbours, &mut self.table);
            }
            let (neighbour, mac) = neighbours.lookup(address, now).expect("it was learned");
            let frames = Frames { ethernet: header(mac), max_len: 100 };
            let id = self.table.id(now, Side::Outside, neighbour, frames, neighbours)?;
            self.connections.records[record] = Some((id, address));
            Some(id)
        }

        fn tick(&mut self, search: usize) {
            let now = self.now();
            let [outside, inside] = &mut self.neighbours;
            let mut budget = crate::neighbours::Budget { looks: 100, requests: 100 };
            while outside.due(now, &mut budget, &self.wanted, &mut self.table).is_some() {}
            self.connections.search(search);
            self.table.check(now, [outside, inside], &mut self.connections);
        }
    }

    fn address(last: u8) -> Ipv4Addr {
        Ipv4Addr::new(192, 0, 2, last)
    }

    fn mac(last: u8) -> MacAddr {
        MacAddr([2, 0, 0, 0, 0, last])
    }

    fn header(destination: MacAddr) -> EthernetHeader {
        EthernetHeader { destination, source: MacAddr::ZERO, ethertype: EtherType::IPV4 }
    }

    #[test]
    fn numbers_of_ways_that_nobody_uses_come_back() {
        let mut director = Director::new(EgressId::LAST.get());
        let mut without = 0;
        // A new neighbour each 50 ms: 1,200 of them are in use within a minute.
        for n in 0..20_000u32 {
            director.now += 50;
            let [outside, _] = &mut director.neighbours;
            let (now, address) = (Instant::from_millis(director.now), Ipv4Addr::from_bits(n + 1));
            outside.learn(address, mac(1), true, now, &director.wanted, &mut director.table);
            let (neighbour, mac) = outside.lookup(address, now).expect("it was learned");
            let frames = Frames { ethernet: header(mac), max_len: 100 };
            let id = director.table.id(now, Side::Outside, neighbour, frames, outside);
            without += usize::from(id.is_none());
            (0..5).for_each(|_| director.tick(10));
        }
        assert_eq!(without, 0, "each of them gets one");
    }

    #[test]
    fn a_change_of_routes_closes_all_ways_for_a_moment() {
        let mut director = Director::new(NUMBERS);
        let before: Vec<_> = (1..=4).map(|n| director.send(n, n as u8).unwrap()).collect();
        director.table.retire_all(&mut director.connections);
        assert!(before.iter().all(|id| !director.table.may_leave(*id, 100)));
        let after: Vec<_> = (1..=5).map(|n| director.send(n, n as u8)).collect();
        assert!(after[..4].iter().all(|id| id.is_some_and(|id| !before.contains(&id))));
        assert_eq!(after[4], None, "all numbers are taken");
        director.tick(RECORDS);
        assert!(director.send(5, 5).is_some_and(|id| before.contains(&id)));
    }

    #[derive(Clone, Debug)]
    enum Step {
        Send { record: usize, to: u8 },
        Tick { millis: u64, search: usize },
        RoutesChange,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            10 => (0..RECORDS, 1..20u8).prop_map(|(record, to)| Step::Send { record, to }),
            5 => (prop_oneof![Just(10), 0..100_000u64], 0..20usize)
                .prop_map(|(millis, search)| Step::Tick { millis, search }),
            1 => Just(Step::RoutesChange),
        ]
    }

    proptest! {
        /// A way that is open leads where each connection that remembers it wants to go.
        #[test]
        fn no_number_means_another_neighbour_to_a_connection(
            steps in prop::collection::vec(step(), 1..300),
        ) {
            let mut director = Director::new(NUMBERS);
            for step in steps {
                match step {
                    Step::Send { record, to } => drop(director.send(record, to)),
                    Step::Tick { millis, search } => {
                        director.now += millis;
                        director.tick(search);
                    }
                    Step::RoutesChange => director.table.retire_all(&mut director.connections),
                }
                for (id, address) in director.connections.records.iter().flatten() {
                    if director.table.may_leave(*id, 100) {
                        let egress = &director.table.egresses[place(*id)];
                        prop_assert_eq!(egress.address, *address);
                        let [.., last] = address.octets();
                        prop_assert_eq!(egress.frames.ethernet.destination, mac(last));
                    }
                }
            }
        }
    }
}
