use std::time::Duration;

use super::{
    FragmentKey, PacketMap,
    fifo::{Fifo, Place},
    packet_map,
};
use crate::time::Instant;

/// How much a [`HoldQueue`] holds.
#[derive(Clone, Copy, Debug)]
pub struct HoldLimits {
    /// Fragments of one packet.
    pub per_packet: usize,
    /// Fragments in all, at least one.
    pub fragments: usize,
    /// Bytes in all.
    pub bytes: usize,
    /// How long a fragment waits for the first one of its packet. No longer than the tracker
    /// remembers the packet: see [`TrackerLimits`](super::TrackerLimits).
    pub timeout: Duration,
}

impl HoldLimits {
    /// 16 fragments of one packet, 256 in all, 256 KiB; 1 s: fragments are sent back to back, and
    /// only the network's reordering keeps them apart.
    pub const DEFAULT: HoldLimits = HoldLimits {
        per_packet: 16,
        fragments: 256,
        bytes: 256 * 1024,
        timeout: Duration::from_secs(1),
    };
}

impl Default for HoldLimits {
    fn default() -> HoldLimits {
        HoldLimits::DEFAULT
    }
}

/// Fragments (each a `T`) that came before the first one of their packet.
///
/// Whatever goes in comes out exactly once: from [`pop`](HoldQueue::pop), from
/// [`expire`](HoldQueue::expire), or to the `discard` of [`hold`](HoldQueue::hold).
pub struct HoldQueue<T> {
    /// In order of arrival, whatever packet they belong to.
    fragments: Fifo<Held<T>>,
    chains: PacketMap<Chain>,
    bytes: usize,
    limits: HoldLimits,
}

struct Held<T> {
    item: T,
    key: FragmentKey,
    bytes: usize,
    since: Instant,
    /// The packet's next one.
    next: Option<Place>,
}

/// The fragments of one packet, in order of arrival: never empty.
struct Chain {
    first: Place,
    last: Place,
    len: usize,
}

impl<T> HoldQueue<T> {
    /// An empty queue, hashing under a secret of this boot.
    #[must_use]
    pub fn new(limits: HoldLimits, secret: [u64; 4]) -> HoldQueue<T> {
        let fragments = Fifo::with_capacity(limits.fragments);
        HoldQueue { chains: packet_map(fragments.capacity(), secret), fragments, bytes: 0, limits }
    }

    /// Holds a fragment that occupies `bytes`. What a limit keeps from being held goes to
    /// `discard`: this very fragment, when its packet has its share, or as many of the oldest as it
    /// takes, each with all of its packet, since a packet that lacks one fragment is worth nothing.
    pub fn hold(
        &mut self,
        key: FragmentKey,
        bytes: usize,
        item: T,
        now: Instant,
        mut discard: impl FnMut(T),
    ) {
        let waiting = self.chains.get(&key).map_or(0, |chain| chain.len);
        if waiting >= self.limits.per_packet || bytes > self.limits.bytes {
            discard(item);
            return;
        }
        while (self.fragments.is_full() || self.bytes > self.limits.bytes - bytes)
            && let Some((_, oldest)) = self.fragments.oldest()
        {
            let oldest = oldest.key;
            while let Some(item) = self.pop(&oldest) {
                discard(item);
            }
        }
        self.append(Held { item, key, bytes, since: now, next: None });
    }

    /// Takes out the fragment of this packet that has waited longest.
    pub fn pop(&mut self, key: &FragmentKey) -> Option<T> {
        let chain = self.chains.get_mut(key)?;
        let held = self.fragments.remove(chain.first);
        match held.next {
            Some(next) => {
                chain.first = next;
                chain.len -= 1;
            }
            None => {
                self.chains.remove(key);
            }
        }
        self.bytes -= held.bytes;
        Some(held.item)
    }

    /// Takes out a fragment that has waited for too long, the oldest first, if there is one.
    pub fn expire(&mut self, now: Instant) -> Option<T> {
        let (_, oldest) = self.fragments.oldest()?;
        if now.since(oldest.since) < self.limits.timeout {
            return None;
        }
        // The oldest of all is the oldest of its packet.
        let key = oldest.key;
        self.pop(&key)
    }

    /// Fragments that are held.
    #[must_use]
    pub fn len(&self) -> usize {
        self.fragments.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes that they occupy.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    fn append(&mut self, held: Held<T>) {
        let key = held.key;
        self.bytes += held.bytes;
        let place = self.fragments.push(held);
        match self.chains.get_mut(&key) {
            Some(chain) => {
                self.fragments.get_mut(chain.last).next = Some(place);
                chain.last = place;
                chain.len += 1;
            }
            None => {
                self.chains.insert(key, Chain { first: place, last: place, len: 1 });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashSet;

    const SECRET: [u64; 4] = [1, 2, 3, 4];
    const LIMITS: HoldLimits =
        HoldLimits { per_packet: 3, fragments: 5, bytes: 100, timeout: Duration::from_secs(1) };

    fn key(identification: u16) -> FragmentKey {
        FragmentKey { src: 1, dst: 2, identification, protocol: 17 }
    }

    fn at(millis: u64) -> Instant {
        Instant::from_millis(millis)
    }

    /// Holds an item of `bytes`; what is discarded for it.
    fn hold(queue: &mut HoldQueue<u32>, packet: u16, bytes: usize, item: u32) -> Vec<u32> {
        let mut discarded = Vec::new();
        queue.hold(key(packet), bytes, item, at(0), |item| discarded.push(item));
        discarded
    }

    fn pop_all(queue: &mut HoldQueue<u32>, packet: u16) -> Vec<u32> {
        std::iter::from_fn(|| queue.pop(&key(packet))).collect()
    }

    #[test]
    fn packets_come_out_in_order_of_arrival() {
        let mut queue = HoldQueue::new(LIMITS, SECRET);
        for (packet, item) in [(1, 10), (2, 20), (1, 11), (2, 21), (1, 12)] {
            assert_eq!(hold(&mut queue, packet, 20, item), []);
        }
        assert_eq!((queue.len(), queue.bytes()), (5, 100));
        assert_eq!(pop_all(&mut queue, 1), [10, 11, 12]);
        assert_eq!(pop_all(&mut queue, 1), []);
        assert_eq!(pop_all(&mut queue, 2), [20, 21]);
        assert!(queue.is_empty());
        assert_eq!(queue.bytes(), 0);
    }

    #[test]
    fn a_packet_has_its_share() {
        let mut queue = HoldQueue::new(LIMITS, SECRET);
        for item in 10..13 {
            assert_eq!(hold(&mut queue, 1, 1, item), []);
        }
        assert_eq!(hold(&mut queue, 1, 1, 13), [13]);
        assert_eq!(queue.pop(&key(1)), Some(10));
        assert_eq!(hold(&mut queue, 1, 1, 14), []);
        assert_eq!(pop_all(&mut queue, 1), [11, 12, 14]);
    }

    #[test]
    fn the_oldest_packet_makes_room() {
        let mut queue = HoldQueue::new(LIMITS, SECRET);
        for (packet, item) in [(1, 10), (2, 20), (1, 11), (3, 30), (4, 40)] {
            assert_eq!(hold(&mut queue, packet, 1, item), []);
        }
        assert_eq!(hold(&mut queue, 5, 1, 50), [10, 11], "by number, with all of its packet");
        assert_eq!(queue.len(), 4);
        assert_eq!(hold(&mut queue, 5, 98, 51), [20, 30], "by bytes, as many as it takes");
        assert_eq!(queue.bytes(), 100);
        assert_eq!(hold(&mut queue, 6, 101, 60), [60], "too large for any room");
        assert_eq!((queue.len(), queue.bytes()), (3, 100));
        assert_eq!(hold(&mut queue, 5, 100, 52), [40, 50, 51], "its own packet, too");
        assert_eq!(pop_all(&mut queue, 5), [52]);
    }

    #[test]
    fn waiting_has_an_end() {
        let mut queue = HoldQueue::new(LIMITS, SECRET);
        let discard = |item| panic!("{item} has room");
        queue.hold(key(1), 1, 10, at(0), discard);
        queue.hold(key(2), 1, 20, at(400), discard);
        queue.hold(key(1), 1, 11, at(800), discard);
        assert_eq!(queue.expire(at(999)), None);
        assert_eq!(queue.expire(at(1000)), Some(10));
        assert_eq!(queue.expire(at(1399)), None);
        assert_eq!(pop_all(&mut queue, 1), [11]);
        assert_eq!(queue.expire(at(9000)), Some(20));
        assert_eq!(queue.expire(at(9000)), None);
    }

    #[derive(Clone, Debug)]
    enum Step {
        Hold { packet: u16, bytes: usize },
        Pop { packet: u16 },
        Wait { millis: u64 },
    }

    fn step() -> impl Strategy<Value = Step> {
        let packet = 0u16..4;
        prop_oneof![
            6 => (packet.clone(), 0usize..60)
                .prop_map(|(packet, bytes)| Step::Hold { packet, bytes }),
            2 => packet.prop_map(|packet| Step::Pop { packet }),
            1 => (0u64..1500).prop_map(|millis| Step::Wait { millis }),
        ]
    }

    #[derive(Clone, Copy)]
    struct ModelItem {
        item: u32,
        packet: u16,
        bytes: usize,
        since: u64,
    }

    /// Takes items out of the list, in order.
    fn take(model: &mut Vec<ModelItem>, is_taken: impl Fn(&ModelItem) -> bool) -> Vec<u32> {
        model.extract_if(.., |held| is_taken(held)).map(|held| held.item).collect()
    }

    proptest! {
        /// Against a plain list: the same items come out, the limits hold, nothing is lost.
        #[test]
        fn agrees_with_a_list(steps in prop::collection::vec(step(), 1..120)) {
            let mut queue = HoldQueue::new(LIMITS, SECRET);
            let mut model: Vec<ModelItem> = Vec::new();
            let (mut item, mut out, mut now) = (0, 0, 0);
            for step in steps {
                let mut got = Vec::new();
                let expected = match step {
                    Step::Hold { packet, bytes } => {
                        item += 1;
                        queue.hold(key(packet), bytes, item, at(now), |item| got.push(item));
                        let mut expected = Vec::new();
                        if model.iter().filter(|held| held.packet == packet).count() == 3 {
                            expected.push(item);
                        } else {
                            while model.len() == 5
                                || model.iter().map(|held| held.bytes).sum::<usize>() + bytes > 100
                            {
                                let oldest = model[0].packet;
                                expected.extend(take(&mut model, |held| held.packet == oldest));
                            }
                            model.push(ModelItem { item, packet, bytes, since: now });
                        }
                        expected
                    }
                    Step::Pop { packet } => {
                        got = pop_all(&mut queue, packet);
                        take(&mut model, |held| held.packet == packet)
                    }
                    Step::Wait { millis } => {
                        now += millis;
                        got.extend(std::iter::from_fn(|| queue.expire(at(now))));
                        take(&mut model, |held| held.since + 1000 <= now)
                    }
                };
                prop_assert_eq!(&got, &expected);
                out += got.len();
                prop_assert_eq!(queue.len(), model.len());
                prop_assert_eq!(queue.bytes(), model.iter().map(|held| held.bytes).sum::<usize>());
                prop_assert_eq!(out + queue.len(), item as usize, "items in = items out + held");
                prop_assert!(queue.len() <= 5 && queue.bytes() <= 100);
            }
            let packets: HashSet<_> = model.iter().map(|held| held.packet).collect();
            prop_assert_eq!(queue.chains.len(), packets.len());
        }
    }
}
