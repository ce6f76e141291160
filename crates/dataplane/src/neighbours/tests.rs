use proptest::prelude::*;

use super::*;

const HOST: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 7);
const OTHER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 8);
const ASKER: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
const MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 7]);

fn at(seconds: u64) -> Instant {
    Instant::from_millis(seconds * 1000)
}

fn host(n: usize) -> Ipv4Addr {
    Ipv4Addr::from_bits(0x0a00_0000 + n as u32)
}

/// A table, and what the pipeline has beside it.
struct Port<T> {
    neighbours: Neighbours<T>,
    wanted: WantedNeighbours,
    egresses: EgressTable,
}

impl<T> Port<T> {
    fn new() -> Port<T> {
        let (wanted, egresses) = (WantedNeighbours::default(), EgressTable::default());
        Port { neighbours: Neighbours::new(Side::Inside), wanted, egresses }
    }

    fn pin_only(&mut self, addresses: impl IntoIterator<Item = Ipv4Addr>) {
        self.wanted = addresses.into_iter().collect();
        self.neighbours.pin(&self.wanted);
    }

    fn pinning(addresses: impl IntoIterator<Item = Ipv4Addr>) -> Port<T> {
        let mut port = Port::new();
        port.pin_only(addresses);
        port
    }

    fn lookup(&mut self, address: Ipv4Addr, now: Instant) -> Option<MacAddr> {
        self.neighbours.lookup(address, now).map(|(_, mac)| mac)
    }

    fn hold(&mut self, address: Ipv4Addr, packet: T, now: Instant) -> Hold<T> {
        self.hold_from(ASKER, address, packet, now)
    }

    fn hold_from(
        &mut self,
        asker: Ipv4Addr,
        address: Ipv4Addr,
        packet: T,
        now: Instant,
    ) -> Hold<T> {
        self.neighbours.hold(address, asker, packet, now, &self.wanted)
    }

    fn learn(&mut self, address: Ipv4Addr, create: bool, now: Instant) -> Released<T> {
        let Port { neighbours, wanted, egresses } = self;
        neighbours.learn(address, MAC, create, now, wanted, egresses)
    }

    fn note_asked(&mut self, address: Ipv4Addr, now: Instant) {
        let Port { neighbours, wanted, egresses } = self;
        neighbours.note_asked(address, true, now, wanted, egresses);
    }

    /// All that is done in a tick.
    fn tick(&mut self, now: Instant, mut budget: Budget) -> Vec<Due<T>> {
        let Port { neighbours, wanted, egresses } = self;
        std::iter::from_fn(|| neighbours.due(now, &mut budget, wanted, egresses)).collect()
    }

    /// All that is due.
    fn due(&mut self, now: Instant) -> Vec<Due<T>> {
        self.tick(now, Budget { looks: usize::MAX, requests: usize::MAX })
    }

    fn len(&self) -> usize {
        self.neighbours.pinned + self.neighbours.unpinned
    }
}

fn held<T>(ask: bool) -> Hold<T> {
    Hold::Held { ask, displaced: None }
}

fn gives_up<T>(packets: impl IntoIterator<Item = T>) -> Due<T> {
    Due::GiveUp(packets.into_iter().collect())
}

#[test]
fn an_answer_releases_what_waited() {
    let mut port = Port::new();
    assert_eq!(port.lookup(HOST, at(0)), None);
    assert_eq!(port.hold(HOST, 'a', at(0)), held(true));
    assert_eq!(port.hold(HOST, 'b', at(0)), held(false));
    assert_eq!(port.learn(HOST, false, at(1)).as_slice(), ['a', 'b']);
    assert_eq!(port.lookup(HOST, at(1)), Some(MAC));
    assert_eq!(port.neighbours.held(), 0);
}

#[test]
fn silence_gives_up_after_three_requests() {
    let mut port = Port::new();
    port.hold(HOST, 'a', at(0));
    assert_eq!(port.due(at(0)), []);
    assert_eq!(port.due(at(1)), [Due::Ask(HOST, None)]);
    assert_eq!(port.due(at(2)), [Due::Ask(HOST, None)]);
    assert_eq!(port.due(at(3)), [gives_up(['a'])]);
    assert_eq!((port.len(), port.neighbours.held()), (0, 0));
    assert_eq!(port.hold(HOST, 'b', at(4)), held(true), "starts afresh");
}

#[test]
fn a_used_neighbour_is_confirmed_and_lost_when_silent() {
    let mut port = Port::<char>::new();
    port.learn(HOST, true, at(0));
    assert_eq!(port.due(at(29)), []);
    port.lookup(HOST, at(29));
    assert_eq!(port.due(at(30)), [Due::Ask(HOST, Some(MAC))]);
    port.learn(HOST, false, at(31));
    assert_eq!(port.due(at(32)), [], "confirmed");
    port.lookup(HOST, at(60));
    for second in 61..64 {
        assert_eq!(port.due(at(second)), [Due::Ask(HOST, Some(MAC))]);
    }
    assert_eq!(port.lookup(HOST, at(63)), Some(MAC), "used until it is given up");
    assert_eq!(port.due(at(64)), []);
    assert_eq!(port.lookup(HOST, at(64)), None);
}

#[test]
fn a_neighbour_that_is_used_again_is_confirmed_at_once() {
    let mut port = Port::<char>::new();
    port.learn(HOST, true, at(0));
    assert_eq!(port.due(at(100)), []);
    assert_eq!(port.lookup(HOST, at(101)), Some(MAC));
    assert_eq!(port.due(at(101)), [Due::Ask(HOST, Some(MAC))]);
}

#[test]
fn an_unused_neighbour_is_forgotten_in_silence() {
    let mut port = Port::<char>::new();
    port.learn(HOST, true, at(0));
    assert_eq!(port.due(at(599)), []);
    assert_eq!(port.len(), 1);
    assert_eq!(port.due(at(600)), []);
    assert_eq!(port.len(), 0);
}

#[test]
fn a_pinned_neighbour_is_asked_for_at_once_and_for_ever() {
    let mut port = Port::<char>::pinning([HOST]);
    let asked: Vec<_> = (0..200).filter(|second| !port.due(at(*second)).is_empty()).collect();
    assert_eq!(asked, [0, 1, 2, 7, 17, 37, 77, 137, 197], "ever more seldom, up to a minute");
    port.learn(HOST, false, at(200));
    assert_eq!(port.due(at(229)), []);
    assert_eq!(port.due(at(230)), [Due::Ask(HOST, Some(MAC))], "used or not");
}

#[test]
fn a_packet_has_a_neighbour_that_failed_asked_for_at_once() {
    let mut port = Port::pinning([HOST]);
    port.due(at(0));
    port.learn(HOST, false, at(0));
    for second in 30..33 {
        assert_eq!(port.due(at(second)), [Due::Ask(HOST, Some(MAC))]);
    }
    assert_eq!(port.due(at(33)), [Due::Ask(HOST, None)], "another machine may have its address");
    assert_eq!(port.hold(HOST, 'a', at(33)), held(false), "it is being asked for");
    assert_eq!(port.due(at(34)), [Due::Ask(HOST, None)]);
    assert_eq!(port.due(at(35)), [Due::Ask(HOST, None)]);
    assert_eq!(port.due(at(36)), [gives_up(['a'])]);
    assert_eq!(port.hold(HOST, 'b', at(37)), held(true));
    assert_eq!(port.hold(HOST, 'c', at(37)), held(false));
    assert_eq!(port.learn(HOST, false, at(38)).as_slice(), ['b', 'c']);
}

#[test]
fn what_another_worker_asks_for_need_not_be_asked_for() {
    let mut port = Port::new();
    port.note_asked(HOST, at(0));
    assert_eq!(port.hold(HOST, 'a', at(0)), held(false));
    assert_eq!(port.due(at(0)), []);
    port.note_asked(HOST, at(1));
    assert_eq!(port.due(at(1)), []);
    assert_eq!(port.due(at(2)), [Due::Ask(HOST, None)], "the other one forgot");
    assert_eq!(port.due(at(3)), [gives_up(['a'])]);
    port.note_asked(OTHER, at(3));
    assert_eq!(port.due(at(4)), [], "nobody here waits for it");
    assert_eq!(port.len(), 0);
}

#[test]
fn a_neighbour_that_is_no_longer_pinned_is_forgotten() {
    let mut port = Port::<char>::pinning([HOST, OTHER]);
    port.due(at(0));
    port.learn(HOST, false, at(0));
    port.pin_only([OTHER]);
    let asked: Vec<_> = (10..599).flat_map(|second| port.due(at(second))).collect();
    assert!(asked.iter().all(|due| *due == Due::Ask(OTHER, None)), "{asked:?}");
    assert_eq!(port.len(), 2, "it is remembered as others are");
    port.due(at(600));
    assert_eq!(port.len(), 1, "the one that is still pinned");
}

#[test]
fn strangers_are_not_noted() {
    let mut port = Port::<char>::new();
    port.learn(HOST, false, at(0));
    assert_eq!(port.lookup(HOST, at(0)), None);
}

#[test]
fn unreachable_servers_are_in_nobody_s_way() {
    let mut port = Port::pinning((0..20_000).map(host));
    assert_eq!(port.due(at(0)).len(), 20_000);
    (1..30).for_each(|second| drop(port.due(at(second))));
    assert_eq!(port.hold(HOST, 0, at(30)), held(true));
    port.learn(OTHER, true, at(30));
    assert_eq!(port.lookup(OTHER, at(30)), Some(MAC));
}

#[test]
fn spoofed_neighbours_give_way_to_those_in_use() {
    let mut port = Port::<usize>::new();
    for n in 0..100 {
        port.learn(host(n), true, at(0));
        port.lookup(host(n), at(0));
    }
    for n in 0..3 * MAX_UNPINNED {
        port.learn(host(1000 + n), true, at(1));
    }
    assert_eq!(port.len(), MAX_UNPINNED);
    assert!((0..100).all(|n| port.lookup(host(n), at(2)).is_some()), "they are in use");
    assert_eq!(port.lookup(host(1000), at(2)), None, "the oldest gave way");
    assert_eq!(port.hold(HOST, 1, at(2)), held(true), "there is always room for one more");
}

#[test]
fn among_those_in_use_one_gives_way_that_was_used_long_ago() {
    let mut port = Port::<usize>::new();
    for n in 0..MAX_UNPINNED {
        port.learn(host(n), true, at(0));
        port.lookup(host(n), at(if n < EVICTION_LOOKS { n as u64 } else { 20 }));
    }
    port.learn(HOST, true, at(21));
    let gone: Vec<_> =
        (0..MAX_UNPINNED).filter(|n| port.neighbours.find(host(*n)).is_none()).collect();
    assert_eq!(gone, [0]);
}

#[test]
fn who_asks_for_many_leaves_others_their_share() {
    let mut port = Port::new();
    let asked = |port: &mut Port<usize>, asker, from: usize| {
        let hold = |n: &usize| port.hold_from(asker, host(*n), *n, at(0)) != Hold::Refused(*n);
        (from..from + 1000).filter(hold).count()
    };
    assert_eq!(asked(&mut port, ASKER, 0), ASKED_AT_ONCE as usize);
    let others = (1..20).map(|n| Ipv4Addr::from_bits(ASKER.to_bits() + n));
    let at_once =
        others.filter(|asker| asked(&mut port, *asker, 1000 * asker.octets()[3] as usize) > 0);
    assert!(at_once.count() > 10, "but for those that share its share");
    assert_eq!(port.neighbours.held(), MAX_HELD_UNPINNED);
}

#[test]
fn packets_have_a_bounded_number_of_places() {
    let mut port = Port::pinning([HOST]);
    for packet in 0..MAX_HELD {
        assert_eq!(port.hold(OTHER, packet, at(0)), held(packet == 0));
    }
    let displaces = |oldest| Hold::Held { ask: false, displaced: Some(oldest) };
    assert_eq!(port.hold(OTHER, 99, at(0)), displaces(0), "its own oldest");
    for n in 0..MAX_HELD_UNPINNED - MAX_HELD {
        assert_eq!(port.hold(host(n % 50), 100 + n, at(0)), held(n < 50), "{n}");
    }
    assert_eq!(port.hold(host(0), 999, at(0)), displaces(1), "the oldest of all");
    for packet in 0..MAX_HELD {
        assert_eq!(port.hold(HOST, packet, at(0)), held(packet == 0), "room for those pinned");
    }
    (1..4).for_each(|second| drop(port.due(at(second))));
    assert_eq!((port.neighbours.held(), port.len()), (0, 1));
}

#[test]
fn no_tick_does_more_than_its_budget() {
    const SERVERS: usize = 100_000;
    const BUDGET: Budget = Budget { looks: 64, requests: 16 };
    let mut port = Port::<char>::pinning((0..SERVERS).map(host));
    let capacity = port.neighbours.entries.capacity();
    let mut asked = vec![0; SERVERS];
    // Every other one answers. In so many ticks there are requests for all of them, and three more for
    // those who don't.
    for tick in 0..(SERVERS + 3 * SERVERS / 2) / BUDGET.requests {
        let now = Instant::from_millis(10 * tick as u64);
        let due = port.tick(now, BUDGET);
        assert!(due.len() <= BUDGET.requests);
        for due in due {
            let Due::Ask(address, _) = due else { panic!("{due:?}") };
            let n = (address.to_bits() - host(0).to_bits()) as usize;
            asked[n] += 1;
            if n.is_multiple_of(2) {
                port.learn(address, false, now);
            }
        }
    }
    assert_eq!(asked.iter().filter(|asked| **asked == 0).count(), 0);
    assert_eq!(port.neighbours.entries.capacity(), capacity, "nothing was moved");
}

#[derive(Clone, Debug)]
enum Step {
    Pin(Vec<u8>),
    Hold(u8),
    Learn(u8, bool),
    Asked(u8),
    Use(u8),
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let host = 0..12u8;
    prop_oneof![
        1 => prop::collection::vec(host.clone(), 0..8).prop_map(Step::Pin),
        5 => host.clone().prop_map(Step::Hold),
        3 => (host.clone(), any::<bool>()).prop_map(|(host, create)| Step::Learn(host, create)),
        1 => host.clone().prop_map(Step::Asked),
        2 => host.prop_map(Step::Use),
        4 => prop_oneof![0..3_000u64, 0..100_000u64].prop_map(Step::Wait),
    ]
}

proptest! {
    /// Whatever happens, each packet comes out once or is held, what is known is what was learned
    /// last, and all counts, lists and buckets agree.
    #[test]
    fn nothing_is_lost(steps in prop::collection::vec(step(), 1..200)) {
        let mut port = Port::new();
        let (mut now, mut packets, mut out) = (0, 0u32, 0);
        for step in steps {
            let time = Instant::from_millis(now);
            match step {
                Step::Pin(hosts) => port.pin_only(hosts.into_iter().map(|n| host(n.into()))),
                Step::Hold(n) => {
                    let address = host(n.into());
                    if port.lookup(address, time).is_none() {
                        packets += 1;
                        match port.hold(address, packets, time) {
                            Hold::Held { displaced, .. } => out += usize::from(displaced.is_some()),
                            Hold::Refused(_) => out += 1,
                        }
                    }
                }
                Step::Learn(n, create) => {
                    out += port.learn(host(n.into()), create, time).len();
                    prop_assert!(!create || port.lookup(host(n.into()), time) == Some(MAC));
                }
                Step::Asked(n) => port.note_asked(host(n.into()), time),
                Step::Use(n) => drop(port.lookup(host(n.into()), time)),
                Step::Wait(millis) => now += millis,
            }
            for due in port.tick(Instant::from_millis(now), Budget { looks: 7, requests: 3 }) {
                if let Due::GiveUp(packets) = due {
                    out += packets.len();
                }
            }
            prop_assert_eq!(out + port.neighbours.held(), packets as usize);
            check(&port.neighbours);
        }
    }
}

/// Asserts that all counts, lists and buckets agree.
fn check<T>(table: &Neighbours<T>) {
    let live = |entry: &&Neighbour| entry.state != State::Free;
    let entries = || table.entries[1..].iter().filter(live);
    assert_eq!(entries().filter(|entry| entry.is_pinned).count(), table.pinned);
    assert_eq!(entries().filter(|entry| !entry.is_pinned).count(), table.unpinned);
    assert_eq!(entries().map(|entry| entry.held.len()).sum::<usize>(), table.held());
    for entry in entries() {
        let NeighbourId(id) = table.find(entry.address).expect("it is in its bucket");
        assert_eq!(table.entries[id as usize].address, entry.address, "once");
        assert!(entry.state != State::Known || entry.held.is_empty());
    }
    let order = |list: List, links: fn(&mut Neighbour) -> &mut Links| {
        let mut rest = table.entries.clone();
        let (mut list, mut ids) = (list, Vec::new());
        while let Some(id) = list.first() {
            list.remove(&mut rest, links, id);
            ids.push(id);
        }
        ids
    };
    let orders = table.orders.map(|list| order(list, order_links));
    assert_eq!(orders.iter().map(Vec::len).sum::<usize>(), table.unpinned);
    for (is_proven, ids) in orders.iter().enumerate() {
        for id in ids {
            let entry = &table.entries[*id as usize];
            assert!(!entry.is_pinned && usize::from(entry.is_proven) == is_proven);
        }
    }
}
