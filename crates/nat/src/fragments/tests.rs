use std::{collections::HashSet, time::Duration};

use proptest::prelude::*;
use shunt_testkit::Packet;

use super::*;
use crate::time::Instant;

const SRC: &str = "192.0.2.1";
const DST: &str = "198.51.100.2";

/// The range of a fragment of `protocol`: offset in blocks, whether more follow, payload bytes.
fn range_of(
    protocol: u8,
    offset: u16,
    more: bool,
    len: usize,
) -> Result<FragmentRange, FragmentError> {
    range_of_bytes(
        &mut Packet::raw(SRC, DST, protocol).fragment(offset, more).payload(vec![0; len]).bytes(),
    )
}

fn range_of_bytes(bytes: &mut [u8]) -> Result<FragmentRange, FragmentError> {
    FragmentRange::of(&Ipv4Packet::parse(bytes).unwrap())
}

#[test]
fn ranges_are_read_from_headers() {
    let range = |start, end, is_last| Ok(FragmentRange { start, end, is_last });
    assert_eq!(range_of(protocol::UDP, 0, true, 1480), range(0, 1480, false));
    assert_eq!(range_of(protocol::UDP, 185, true, 1480), range(1480, 2960, false));
    assert_eq!(range_of(protocol::UDP, 370, false, 1), range(2960, 2961, true));
    assert_eq!(range_of(protocol::UDP, 0, false, 9), range(0, 9, true), "a whole packet");
    assert!(range_of(protocol::UDP, 0, true, 8).unwrap().is_first());
    assert!(!range_of(protocol::UDP, 1, true, 8).unwrap().is_first());
}

#[test]
fn wrong_lengths_are_refused() {
    use FragmentError::{Length, TooLong};
    assert_eq!(range_of(protocol::UDP, 10, true, 0), Err(Length));
    assert_eq!(range_of(protocol::UDP, 10, false, 0), Err(Length));
    assert_eq!(range_of(protocol::UDP, 10, true, 1479), Err(Length));
    assert!(range_of(protocol::UDP, 8189, false, 3).is_ok(), "20 + 65,512 + 3 = 65,535");
    assert_eq!(range_of(protocol::UDP, 8189, false, 4), Err(TooLong));
    assert_eq!(range_of(protocol::UDP, 8191, false, 1), Err(TooLong));
    let options =
        Packet::raw(SRC, DST, protocol::UDP).options(&[1; 4]).fragment(8189, false).payload([0; 3]);
    assert_eq!(range_of_bytes(&mut options.bytes()), Err(TooLong), "the header counts");
}

#[test]
fn transport_headers_come_in_one_piece() {
    use FragmentError::Tiny;
    for (protocol, needed) in [(protocol::TCP, 20), (protocol::UDP, 8), (protocol::ICMP, 8)] {
        for len in (8..64).step_by(8) {
            let is_tiny = len < needed;
            let first = range_of(protocol, 0, true, len);
            assert_eq!(first == Err(Tiny), is_tiny, "{protocol}: first with {len} bytes");
            let later = range_of(protocol, len as u16 / 8, true, 1480);
            assert_eq!(later == Err(Tiny), is_tiny, "{protocol}: later at {len}");
        }
        for len in 1..needed {
            assert_eq!(range_of(protocol, 0, false, len), Err(Tiny), "{protocol}: {len} bytes");
        }
        assert!(range_of(protocol, 0, false, needed).is_ok());
    }
    assert!(range_of(47, 0, true, 8).is_ok(), "nothing is known of other protocols");
}

#[test]
fn keys_tell_packets_apart() {
    let key =
        |packet: Packet| FragmentKey::of(Ipv4Packet::parse(&mut packet.bytes()).unwrap().header);
    let packet = || Packet::raw(SRC, DST, protocol::UDP).id(7).fragment(0, true).payload([0; 8]);
    assert_eq!(key(packet()), key(packet().fragment(5, false).ttl(3)));
    let others = [
        packet().id(8),
        Packet::raw(SRC, DST, protocol::TCP).id(7),
        Packet::raw(SRC, SRC, protocol::UDP).id(7),
        Packet::raw(DST, DST, protocol::UDP).id(7),
        Packet::raw(DST, SRC, protocol::UDP).id(7),
    ];
    for other in others {
        assert_ne!(key(packet()), key(other.clone()), "{other:?}");
    }
}

/// What comes of fragments when tracker and queue work together as the module's documentation says.
struct Nat {
    tracker: FragmentTracker<u16>,
    queue: HoldQueue<(u16, FragmentRange)>,
    /// Identification and range of each fragment that passed, and the decision that it followed.
    passed: Vec<(u16, FragmentRange, u16)>,
    dropped: usize,
}

impl Nat {
    fn new(limits: HoldLimits) -> Nat {
        let tracker = FragmentTracker::new(TrackerLimits::default(), [1, 2, 3, 4]);
        let queue = HoldQueue::new(limits, [5, 6, 7, 8]);
        Nat { tracker, queue, passed: Vec::new(), dropped: 0 }
    }

    fn fragment(&mut self, identification: u16, range: FragmentRange, now: Instant) {
        let key = FragmentKey { src: 1, dst: 2, identification, protocol: protocol::UDP };
        match self.tracker.admit(key, range, now) {
            Ok(Some(decision)) => self.passed.push((identification, range, decision)),
            Ok(None) if range.is_first() => {
                let decision = identification ^ 0xffff;
                self.tracker.decide(key, decision);
                self.passed.push((identification, range, decision));
                while let Some((identification, range)) = self.queue.pop(&key) {
                    self.passed.push((identification, range, decision));
                }
            }
            Ok(None) => {
                let dropped = &mut self.dropped;
                let fragment = (identification, range);
                self.queue.hold(key, range.len(), fragment, now, |_| *dropped += 1);
            }
            Err(error) => {
                self.dropped += 1;
                while error == FragmentError::Overlap && self.queue.pop(&key).is_some() {
                    self.dropped += 1;
                }
            }
        }
    }

    fn expire(&mut self, now: Instant) {
        self.tracker.expire(now);
        self.dropped += std::iter::from_fn(|| self.queue.expire(now)).count();
    }
}

impl FragmentRange {
    fn len(self) -> usize {
        usize::from(self.end - self.start)
    }
}

/// Fragments of packets 0 to `packets`, in any order.
fn shuffled_fragments() -> impl Strategy<Value = Vec<(u16, FragmentRange)>> {
    let lengths = prop::collection::vec(1u16..40, 1..16);
    let packets = prop::collection::vec(lengths, 1..10);
    packets
        .prop_map(|packets| {
            let cut = |(identification, lengths): (usize, Vec<u16>)| {
                let mut start = 0;
                let count = lengths.len();
                let fragments = lengths.into_iter().enumerate().map(move |(number, length)| {
                    let is_last = number + 1 == count;
                    let end = start + if is_last { length } else { length * 8 };
                    let range = FragmentRange { start, end, is_last };
                    start = end;
                    (identification as u16, range)
                });
                fragments.collect::<Vec<_>>()
            };
            packets.into_iter().enumerate().flat_map(cut).collect()
        })
        .prop_shuffle()
}

proptest! {
    #[test]
    fn any_header_gives_a_sound_range_or_an_error(
        protocol: u8,
        offset in 0u16..8192,
        more: bool,
        len in prop_oneof![0usize..100, 0usize..65_516],
    ) {
        let Ok(range) = range_of(protocol, offset, more, len) else { return Ok(()) };
        prop_assert_eq!(usize::from(range.start), usize::from(offset) * 8);
        prop_assert_eq!(range.len(), len);
        prop_assert_eq!(range.is_last, !more);
        prop_assert!(range.len() > 0 && usize::from(range.end) <= MAX_PAYLOAD);
        prop_assert!(range.is_last || range.end % 8 == 0);
    }

    /// In whatever order fragments come, each passes exactly once and follows its first one, and
    /// nothing is remembered afterwards.
    #[test]
    fn order_does_not_matter(mut fragments in shuffled_fragments()) {
        let mut nat = Nat::new(HoldLimits::default());
        for (identification, range) in &fragments {
            nat.fragment(*identification, *range, Instant::default());
        }
        prop_assert!(nat.passed.iter().all(|(id, _, decision)| *decision == id ^ 0xffff));
        let order = |(id, range): &(u16, FragmentRange)| (*id, range.start);
        let mut passed: Vec<_> = nat.passed.iter().map(|(id, range, _)| (*id, *range)).collect();
        passed.sort_by_key(order);
        fragments.sort_by_key(order);
        prop_assert_eq!(passed, fragments);
        prop_assert_eq!((nat.dropped, nat.tracker.len(), nat.queue.len()), (0, 0, 0));
    }

    /// With repeated, overlapping and missing fragments, and little room: what passes of a packet
    /// never overlaps, and every fragment either passes, or is dropped, or is still held.
    #[test]
    fn nothing_is_lost_and_no_overlap_passes(
        fragments in prop::collection::vec((0u16..4, 0u16..12, 1u16..6), 1..80),
    ) {
        let mut nat =
            Nat::new(HoldLimits { per_packet: 3, fragments: 6, bytes: 200, ..Default::default() });
        let count = fragments.len();
        for (n, (identification, start, len)) in fragments.into_iter().enumerate() {
            // Without a last fragment no packet is complete, and none is forgotten in so short a
            // time.
            let range = FragmentRange { start: start * 8, end: (start + len) * 8, is_last: false };
            let now = Instant::from_millis(n as u64 * 20);
            nat.expire(now);
            nat.fragment(identification, range, now);
            prop_assert_eq!(nat.passed.len() + nat.dropped + nat.queue.len(), n + 1);
        }
        let mut seen = HashSet::new();
        for (identification, range, _) in &nat.passed {
            for byte in range.start..range.end {
                prop_assert!(seen.insert((*identification, byte)), "{:?} twice", byte);
            }
        }
        nat.expire(Instant::default() + Duration::from_secs(60));
        prop_assert!(nat.queue.is_empty() && nat.tracker.is_empty());
        prop_assert_eq!(nat.passed.len() + nat.dropped, count);
    }
}
