use std::time::Duration;

use super::{
    FragmentError, FragmentKey, FragmentRange, PacketMap,
    coverage::Coverage,
    fifo::{Fifo, Place},
    packet_map,
};
use crate::time::Instant;

/// How much a [`FragmentTracker`] remembers.
#[derive(Clone, Copy, Debug)]
pub struct TrackerLimits {
    /// Packets at once, at least one; each takes a little more than 1 KiB.
    pub packets: usize,
    /// How long after its first fragment to come a packet is forgotten. A sender that numbers more
    /// than 65,536 packets to one receiver in this time uses identifications again (RFC 4963):
    /// where packets lost a fragment, the next ones of their numbers are lost, too.
    pub timeout: Duration,
}

impl Default for TrackerLimits {
    /// 1,024 packets; 30 s, as Linux waits (`net.ipv4.ipfrag_time`), between the 15 s of RFC 791
    /// and the 60 s of RFC 1122.
    fn default() -> TrackerLimits {
        TrackerLimits { packets: 1024, timeout: Duration::from_secs(30) }
    }
}

/// What became of the packets of a [`FragmentTracker`], other than completion.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TrackerCounters {
    /// Forgotten when their time was over.
    pub expired: u64,
    /// Forgotten before, because a newer one needed the room.
    pub evicted: u64,
}

/// Remembers packets of which fragments have come: what was decided about the first fragment (a
/// `D`), and which bytes are accounted for. A packet that is complete is forgotten at once.
pub struct FragmentTracker<D> {
    /// In order of their first fragments to come, which is that of their deadlines.
    packets: Fifo<Packet<D>>,
    places: PacketMap<Place>,
    timeout: Duration,
    counters: TrackerCounters,
}

struct Packet<D> {
    key: FragmentKey,
    since: Instant,
    fate: Fate<D>,
    coverage: Coverage,
}

enum Fate<D> {
    Undecided,
    Decided(D),
    /// Fragments overlapped: none may pass any more.
    Poisoned,
}

impl<D: Copy> FragmentTracker<D> {
    /// A tracker without packets, hashing under a secret of this boot.
    #[must_use]
    pub fn new(limits: TrackerLimits, secret: [u64; 4]) -> FragmentTracker<D> {
        let packets = Fifo::with_capacity(limits.packets);
        FragmentTracker {
            places: packet_map(packets.capacity(), secret),
            packets,
            timeout: limits.timeout,
            counters: TrackerCounters::default(),
        }
    }

    /// Notes a fragment that has come, and says what was decided about its packet; `None` when that
    /// is still to be done. It always is for a first fragment: see [`FragmentTracker::decide`].
    ///
    /// # Errors
    /// [`Duplicate`](FragmentError::Duplicate), or [`Overlap`](FragmentError::Overlap), and then so
    /// are all fragments of this packet until its time is over.
    pub fn admit(
        &mut self,
        key: FragmentKey,
        range: FragmentRange,
        now: Instant,
    ) -> Result<Option<D>, FragmentError> {
        self.expire(now);
        let place = match self.places.get(&key) {
            Some(place) => *place,
            None => self.add(key, now),
        };
        let packet = self.packets.get_mut(place);
        let decision = packet.admit(range)?;
        if packet.is_settled() {
            self.forget(place);
        }
        Ok(decision)
    }

    /// Says what becomes of all fragments of a packet whose first fragment was just admitted. Does
    /// nothing when the packet is not waiting for a decision.
    pub fn decide(&mut self, key: FragmentKey, decision: D) {
        let Some(&place) = self.places.get(&key) else { return };
        let packet = self.packets.get_mut(place);
        if let Fate::Undecided = packet.fate {
            packet.fate = Fate::Decided(decision);
        }
        if packet.is_settled() {
            self.forget(place);
        }
    }

    /// Forgets packets whose time is over. [`FragmentTracker::admit`] does so, too: this is for
    /// times in which no fragments come.
    pub fn expire(&mut self, now: Instant) {
        while let Some((place, packet)) = self.packets.oldest()
            && now.since(packet.since) >= self.timeout
        {
            self.forget(place);
            self.counters.expired += 1;
        }
    }

    /// Packets that are remembered.
    #[must_use]
    pub fn len(&self) -> usize {
        self.packets.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What became of packets that were never complete.
    #[must_use]
    pub fn counters(&self) -> &TrackerCounters {
        &self.counters
    }

    fn add(&mut self, key: FragmentKey, now: Instant) -> Place {
        if self.packets.is_full()
            && let Some((oldest, _)) = self.packets.oldest()
        {
            self.forget(oldest);
            self.counters.evicted += 1;
        }
        let packet = Packet { key, since: now, fate: Fate::Undecided, coverage: Coverage::new() };
        let place = self.packets.push(packet);
        self.places.insert(key, place);
        place
    }

    fn forget(&mut self, place: Place) {
        let packet = self.packets.remove(place);
        self.places.remove(&packet.key);
    }
}

impl<D: Copy> Packet<D> {
    fn admit(&mut self, range: FragmentRange) -> Result<Option<D>, FragmentError> {
        if let Fate::Poisoned = self.fate {
            return Err(FragmentError::Overlap);
        }
        if let Err(error) = self.coverage.add(range) {
            if error == FragmentError::Overlap {
                self.fate = Fate::Poisoned;
            }
            return Err(error);
        }
        match self.fate {
            Fate::Decided(decision) => Ok(Some(decision)),
            _ => Ok(None),
        }
    }

    /// Whether nothing remains to be remembered.
    fn is_settled(&self) -> bool {
        matches!(self.fate, Fate::Decided(_)) && self.coverage.is_complete()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use FragmentError::{Duplicate, Overlap};
    use proptest::prelude::*;

    const SECRET: [u64; 4] = [1, 2, 3, 4];
    const FIRST: FragmentRange = FragmentRange { start: 0, end: 16, is_last: false };
    const MIDDLE: FragmentRange = FragmentRange { start: 16, end: 32, is_last: false };
    const LAST: FragmentRange = FragmentRange { start: 32, end: 40, is_last: true };
    const OVERLAPPING: FragmentRange = FragmentRange { start: 8, end: 24, is_last: false };
    const RANGES: [FragmentRange; 4] = [FIRST, MIDDLE, LAST, OVERLAPPING];

    fn key(identification: u16) -> FragmentKey {
        FragmentKey { src: 1, dst: 2, identification, protocol: 17 }
    }

    fn at(seconds: u64) -> Instant {
        Instant::from_millis(seconds * 1000)
    }

    fn tracker(packets: usize) -> FragmentTracker<u32> {
        let limits = TrackerLimits { packets, timeout: Duration::from_secs(30) };
        FragmentTracker::new(limits, SECRET)
    }

    #[test]
    fn later_fragments_follow_the_first() {
        let mut tracker = tracker(2);
        assert_eq!(tracker.admit(key(1), FIRST, at(0)), Ok(None));
        tracker.decide(key(1), 7);
        assert_eq!(tracker.admit(key(1), MIDDLE, at(0)), Ok(Some(7)));
        assert_eq!(tracker.admit(key(2), MIDDLE, at(0)), Ok(None), "another packet");
        assert_eq!(tracker.len(), 2);
        assert_eq!(tracker.admit(key(1), LAST, at(0)), Ok(Some(7)));
        assert_eq!(tracker.len(), 1, "the complete one is forgotten");
    }

    #[test]
    fn a_packet_that_its_first_fragment_completes_waits_for_the_decision() {
        let mut tracker = tracker(2);
        for range in [LAST, MIDDLE, FIRST] {
            assert_eq!(tracker.admit(key(1), range, at(0)), Ok(None), "{range:?}");
        }
        assert_eq!(tracker.len(), 1);
        tracker.decide(key(1), 7);
        assert!(tracker.is_empty());
        assert_eq!(*tracker.counters(), TrackerCounters::default());
    }

    #[test]
    fn a_decision_stands() {
        let mut tracker = tracker(2);
        tracker.decide(key(1), 6);
        assert!(tracker.is_empty(), "nobody asked");
        assert_eq!(tracker.admit(key(1), FIRST, at(0)), Ok(None));
        tracker.decide(key(1), 7);
        assert_eq!(tracker.admit(key(1), FIRST, at(0)), Err(Duplicate));
        tracker.decide(key(1), 8);
        assert_eq!(tracker.admit(key(1), LAST, at(0)), Ok(Some(7)));
    }

    #[test]
    fn an_overlap_poisons_its_packet_for_its_time() {
        let mut tracker = tracker(2);
        assert_eq!(tracker.admit(key(1), FIRST, at(0)), Ok(None));
        tracker.decide(key(1), 7);
        for range in [OVERLAPPING, MIDDLE, LAST, FIRST] {
            assert_eq!(tracker.admit(key(1), range, at(29)), Err(Overlap), "{range:?}");
        }
        tracker.decide(key(1), 8);
        assert_eq!(tracker.admit(key(1), MIDDLE, at(29)), Err(Overlap));
        assert_eq!(tracker.admit(key(1), MIDDLE, at(30)), Ok(None), "a new packet");
        assert_eq!(*tracker.counters(), TrackerCounters { expired: 1, evicted: 0 });
    }

    #[test]
    fn time_runs_from_the_first_that_came() {
        let mut tracker = tracker(4);
        tracker.admit(key(1), FIRST, at(0)).unwrap();
        tracker.admit(key(2), FIRST, at(10)).unwrap();
        tracker.admit(key(1), MIDDLE, at(20)).unwrap();
        tracker.expire(at(29));
        assert_eq!(tracker.len(), 2);
        tracker.expire(at(30));
        assert_eq!(tracker.len(), 1);
        assert_eq!(tracker.admit(key(2), FIRST, at(39)), Err(Duplicate));
        tracker.expire(at(1000));
        assert!(tracker.is_empty());
        assert_eq!(*tracker.counters(), TrackerCounters { expired: 2, evicted: 0 });
    }

    #[test]
    fn the_oldest_makes_room() {
        let mut tracker = tracker(2);
        for identification in 1..=3 {
            tracker.admit(key(identification), FIRST, at(0)).unwrap();
        }
        assert_eq!(tracker.len(), 2);
        assert_eq!(*tracker.counters(), TrackerCounters { expired: 0, evicted: 1 });
        assert_eq!(tracker.admit(key(2), FIRST, at(0)), Err(Duplicate));
        assert_eq!(tracker.admit(key(3), FIRST, at(0)), Err(Duplicate));
        assert_eq!(tracker.admit(key(1), FIRST, at(0)), Ok(None));
    }

    #[test]
    fn memory_stays_what_it_was() {
        // As many as a map of 512 places takes: it fills with what removals leave behind.
        let mut tracker = tracker(448);
        let allocated = |tracker: &FragmentTracker<u32>| tracker.places.allocation_size();
        let at_start = allocated(&tracker);
        for n in 0..=u16::MAX {
            tracker.admit(key(n), FIRST, at(0)).unwrap();
            if n % 3 == 0 {
                tracker.decide(key(n), 1);
                tracker
                    .admit(key(n), FragmentRange { start: 16, end: 24, is_last: true }, at(0))
                    .unwrap();
            }
        }
        assert_eq!(allocated(&tracker), at_start);
    }

    /// The simplest tracker: a list of packets in the order in which they came up, each with the
    /// ranges that were admitted.
    #[derive(Default)]
    struct Model {
        packets: Vec<ModelPacket>,
        counters: TrackerCounters,
    }

    struct ModelPacket {
        identification: u16,
        since: u64,
        ranges: Vec<FragmentRange>,
        decision: Option<u32>,
        is_poisoned: bool,
    }

    impl ModelPacket {
        fn is_settled(&self) -> bool {
            let all = RANGES[..3].iter().all(|range| self.ranges.contains(range));
            all && self.decision.is_some() && !self.is_poisoned
        }
    }

    impl Model {
        const PACKETS: usize = 3;

        fn expire(&mut self, now: u64) {
            let before = self.packets.len();
            self.packets.retain(|packet| now < packet.since + 30);
            self.counters.expired += (before - self.packets.len()) as u64;
        }

        fn admit(
            &mut self,
            identification: u16,
            range: FragmentRange,
            now: u64,
        ) -> Result<Option<u32>, FragmentError> {
            self.expire(now);
            if self.packets.iter().all(|packet| packet.identification != identification) {
                if self.packets.len() == Model::PACKETS {
                    self.packets.remove(0);
                    self.counters.evicted += 1;
                }
                let (ranges, decision, is_poisoned) = (vec![], None, false);
                let packet =
                    ModelPacket { identification, since: now, ranges, decision, is_poisoned };
                self.packets.push(packet);
            }
            let mut packets = self.packets.iter_mut();
            let packet = packets.find(|packet| packet.identification == identification).unwrap();
            let covered = |byte: &u16| {
                packet.ranges.iter().any(|range| (range.start..range.end).contains(byte))
            };
            let known = (range.start..range.end).filter(covered).count();
            if packet.is_poisoned {
                return Err(Overlap);
            } else if known == usize::from(range.end - range.start) {
                return Err(Duplicate);
            } else if known > 0 {
                packet.is_poisoned = true;
                return Err(Overlap);
            }
            packet.ranges.push(range);
            let decision = packet.decision;
            self.packets.retain(|packet| !packet.is_settled());
            Ok(decision)
        }

        fn decide(&mut self, identification: u16, decision: u32) {
            for packet in &mut self.packets {
                if packet.identification == identification {
                    packet.decision = packet.decision.or(Some(decision));
                }
            }
            self.packets.retain(|packet| !packet.is_settled());
        }
    }

    #[derive(Clone, Debug)]
    enum Step {
        Admit { identification: u16, range: FragmentRange },
        Decide { identification: u16, decision: u32 },
        Wait { seconds: u64 },
    }

    fn step() -> impl Strategy<Value = Step> {
        let identification = 0u16..5;
        let ranges = prop_oneof![
            9 => prop::sample::select(&RANGES[..3]),
            1 => Just(OVERLAPPING),
        ];
        prop_oneof![
            8 => (identification.clone(), ranges)
                .prop_map(|(identification, range)| Step::Admit { identification, range }),
            4 => (identification, any::<u32>())
                .prop_map(|(identification, decision)| Step::Decide { identification, decision }),
            1 => (0u64..40).prop_map(|seconds| Step::Wait { seconds }),
        ]
    }

    proptest! {
        #[test]
        fn agrees_with_the_model(steps in prop::collection::vec(step(), 1..120)) {
            let (mut tracker, mut model) = (tracker(Model::PACKETS), Model::default());
            let mut now = 0;
            for step in steps {
                match step {
                    Step::Admit { identification, range } => prop_assert_eq!(
                        tracker.admit(key(identification), range, at(now)),
                        model.admit(identification, range, now),
                        "{:?} of {} at {}", range, identification, now
                    ),
                    Step::Decide { identification, decision } => {
                        tracker.decide(key(identification), decision);
                        model.decide(identification, decision);
                    }
                    Step::Wait { seconds } => {
                        now += seconds;
                        tracker.expire(at(now));
                        model.expire(now);
                    }
                }
                prop_assert_eq!(tracker.len(), model.packets.len());
                prop_assert_eq!(tracker.places.len(), model.packets.len());
                prop_assert_eq!(*tracker.counters(), model.counters);
            }
        }
    }
}
