//! Putting packets to the director itself together (RFC 1122, section 3.3.2): pings that are larger
//! than a network on their way.
//!
//! There is room for a few packets, which is reserved at the start. A packet's place depends on its
//! sender, so that who sends many that are never complete displaces his own and a few others'.
//! The newest takes the place of the oldest: honest fragments follow each other within milliseconds.
//!
//! Of overlapping fragments nobody can say which is right: their packet is given up (as RFC 5722 has
//! it for IPv6), and what else comes of it until its time is over. A fragment all of whose bytes came
//! before is a duplicate, and dropped alone.

use std::{
    hash::{BuildHasher, RandomState},
    time::Duration,
};

use shunt_nat::{
    Instant,
    fragments::{FragmentError, FragmentKey, FragmentRange},
};
use shunt_packet::ipv4::{HEADER_LEN, Ipv4Header, Ipv4Packet};
use zerocopy::IntoBytes;

/// Time for all fragments of a packet to come (Linux's `ipfrag_time`).
const TIMEOUT: Duration = Duration::from_secs(30);

/// Sets of places, one of which a packet's sender decides on, and places in a set.
const SETS: usize = 8;
const WAYS: usize = 2;

/// The longest packet.
const ROOM: usize = u16::MAX as usize;

/// Offsets count in units of this many bytes.
const BLOCK: usize = 8;

const BLOCKS: usize = (ROOM - HEADER_LEN).div_ceil(BLOCK);
const WORD_BITS: usize = u64::BITS as usize;

/// A packet of which fragments came.
struct Partial {
    /// `None` when the place is free.
    key: Option<FragmentKey>,
    since: Instant,
    /// The first fragment's header.
    first: Option<Ipv4Header>,
    /// Bytes of the first fragment's payload.
    first_len: usize,
    /// Bytes of the payload, when the last fragment is there.
    len: Option<usize>,
    /// Which blocks of the payload are there, and how many.
    blocks: [u64; BLOCKS.div_ceil(WORD_BITS)],
    count: usize,
    /// Where the payload that is there ends.
    end: usize,
    fragments: usize,
    is_refused: bool,
}

/// A packet that was given up.
pub(super) struct Abandoned<'a> {
    /// How many fragments of it had been taken in.
    pub(super) fragments: usize,
    /// The header and the payload of its first fragment, if that is among them.
    pub(super) first: Option<(Ipv4Header, &'a [u8])>,
}

/// What became of a fragment.
pub(super) enum Reassembly<'a> {
    /// Others have yet to come. So many fragments of another packet were given up for it.
    Partial { displaced: usize },
    /// It was the last one that was missing: here is the packet, options left out.
    Complete(&'a mut [u8]),
}

/// Packets of which fragments came.
pub(super) struct Reassembler {
    partials: Box<[Partial]>,
    /// Room for the packets: headers and payload.
    bytes: Box<[u8]>,
    hasher: RandomState,
}

impl Reassembler {
    pub(super) fn new() -> Reassembler {
        Reassembler {
            partials: (0..SETS * WAYS).map(|_| Partial::free()).collect(),
            bytes: vec![0; SETS * WAYS * ROOM].into(),
            hasher: RandomState::new(),
        }
    }

    /// Takes in a fragment.
    ///
    /// # Errors
    /// Why it is not taken in.
    pub(super) fn add(
        &mut self,
        now: Instant,
        packet: &Ipv4Packet<'_>,
    ) -> Result<Reassembly<'_>, FragmentError> {
        let range = FragmentRange::of(packet)?;
        let key = FragmentKey::of(packet.header);
        let (place, displaced) = self.place(now, key, packet.header);
        let partial = &mut self.partials[place];
        let start = packet.header.fragment_offset();
        let end = start + packet.payload.len();
        partial.take_in(start, end, !packet.header.more_fragments())?;
        let bytes = &mut self.bytes[place * ROOM..][..ROOM];
        bytes[HEADER_LEN + start..HEADER_LEN + end].copy_from_slice(packet.payload);
        if range.is_first() {
            partial.first = Some(*packet.header);
            partial.first_len = end;
        }
        let (Some(len), Some(first)) = (partial.len, partial.first) else {
            return Ok(Reassembly::Partial { displaced });
        };
        if partial.count < len.div_ceil(BLOCK) {
            return Ok(Reassembly::Partial { displaced });
        }
        *partial = Partial::free();
        bytes[..HEADER_LEN].copy_from_slice(first.of_whole(len).as_bytes());
        Ok(Reassembly::Complete(&mut bytes[..HEADER_LEN + len]))
    }

    /// Gives up a packet that has been incomplete for too long.
    pub(super) fn expire(&mut self, now: Instant) -> Option<Abandoned<'_>> {
        let late = |partial: &Partial| partial.key.is_some() && now.since(partial.since) >= TIMEOUT;
        let place = self.partials.iter().position(late)?;
        let partial = std::mem::replace(&mut self.partials[place], Partial::free());
        let payload = &self.bytes[place * ROOM + HEADER_LEN..][..partial.first_len];
        let first = partial.first.filter(|_| !partial.is_refused);
        Some(Abandoned {
            fragments: partial.fragments,
            first: first.map(|header| (header, payload)),
        })
    }

    /// The place of a packet, and how many fragments of another one had to go for it.
    fn place(&mut self, now: Instant, key: FragmentKey, header: &Ipv4Header) -> (usize, usize) {
        let set = self.hasher.hash_one(header.src()) as usize % SETS * WAYS;
        let places = set..set + WAYS;
        if let Some(place) = places.clone().find(|place| self.partials[*place].key == Some(key)) {
            return (place, 0);
        }
        let age = |place: &usize| {
            let Partial { key, since, .. } = &self.partials[*place];
            key.map_or(Duration::MAX, |_| now.since(*since))
        };
        // A set is never empty.
        let place = places.max_by_key(age).unwrap_or(set);
        let new = Partial { key: Some(key), since: now, ..Partial::free() };
        (place, std::mem::replace(&mut self.partials[place], new).fragments)
    }
}

impl Partial {
    fn free() -> Partial {
        Partial {
            key: None,
            since: Instant::default(),
            first: None,
            first_len: 0,
            len: None,
            blocks: [0; BLOCKS.div_ceil(WORD_BITS)],
            count: 0,
            end: 0,
            fragments: 0,
            is_refused: false,
        }
    }

    /// Notes that these bytes of the payload are there.
    fn take_in(&mut self, start: usize, end: usize, is_last: bool) -> Result<(), FragmentError> {
        let blocks = start / BLOCK..end.div_ceil(BLOCK);
        let bit = |block: usize| (block / WORD_BITS, 1u64 << (block % WORD_BITS));
        let is_there = |block: &usize| {
            let (word, bit) = bit(*block);
            self.blocks[word] & bit != 0
        };
        let there = blocks.clone().filter(is_there).count();
        let contradicts = match self.len {
            Some(len) => end > len || (is_last && end != len),
            None => is_last && end < self.end,
        };
        if self.is_refused || contradicts || (there > 0 && there < blocks.len()) {
            self.is_refused = true;
            return Err(FragmentError::Overlap);
        }
        if there > 0 {
            return Err(FragmentError::Duplicate);
        }
        self.count += blocks.len();
        for (word, bit) in blocks.map(bit) {
            self.blocks[word] |= bit;
        }
        self.end = self.end.max(end);
        self.len = self.len.or(is_last.then_some(end));
        self.fragments += 1;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use shunt_testkit::Packet;

    use super::*;

    fn ping(id: u16, len: usize) -> Packet {
        let payload: Vec<u8> = (0..len).map(|n| (n / 8) as u8).collect();
        Packet::echo_request("192.0.2.1", "192.0.2.100", 7, 1).id(id).payload(payload)
    }

    /// What comes of a fragment.
    fn add(
        all: &mut Reassembler,
        seconds: u64,
        fragment: &Packet,
    ) -> Result<Option<Vec<u8>>, FragmentError> {
        let mut bytes = fragment.bytes();
        let packet = Ipv4Packet::parse(&mut bytes).unwrap();
        let now = Instant::from_millis(seconds * 1000);
        Ok(match all.add(now, &packet)? {
            Reassembly::Partial { .. } => None,
            Reassembly::Complete(packet) => Some(packet.to_vec()),
        })
    }

    #[test]
    fn duplicates_and_overlaps() {
        let mut all = Reassembler::new();
        let packet = ping(1, 92);
        assert_eq!(add(&mut all, 0, &packet.part(0..40)), Ok(None));
        assert_eq!(add(&mut all, 0, &packet.part(0..40)), Err(FragmentError::Duplicate));
        assert_eq!(add(&mut all, 0, &packet.part(8..24)), Err(FragmentError::Duplicate));
        assert_eq!(
            add(&mut all, 0, &packet.part(40..100)),
            Ok(Some(packet.dont_fragment(false).bytes()))
        );

        let packet = ping(2, 92);
        assert_eq!(add(&mut all, 0, &packet.part(0..40)), Ok(None));
        assert_eq!(add(&mut all, 0, &packet.part(32..64)), Err(FragmentError::Overlap));
        assert_eq!(
            add(&mut all, 0, &packet.part(40..100)),
            Err(FragmentError::Overlap),
            "given up"
        );
        for (first, second) in
            [(40..100, ping(3, 84).part(40..92)), (40..64, ping(3, 20).part(16..28))]
        {
            let mut all = Reassembler::new();
            assert_eq!(add(&mut all, 0, &ping(3, 92).part(first)), Ok(None));
            assert_eq!(add(&mut all, 0, &second), Err(FragmentError::Overlap), "another end");
        }
    }

    #[test]
    fn one_sender_displaces_its_own() {
        let mut all = Reassembler::new();
        let one = ping(1, 92);
        add(&mut all, 0, &one.part(0..40)).unwrap();
        for id in 100..200 {
            assert_eq!(add(&mut all, 1, &ping(id, 92).part(0..40)), Ok(None));
        }
        assert_eq!(add(&mut all, 1, &one.part(40..100)), Ok(None), "it has been given up");
        assert_eq!(all.partials.iter().filter(|partial| partial.key.is_some()).count(), WAYS);
    }

    #[test]
    fn what_is_never_complete_ends() {
        let mut all = Reassembler::new();
        add(&mut all, 0, &ping(1, 92).part(0..40)).unwrap();
        add(&mut all, 5, &ping(2, 92).part(40..100)).unwrap();
        let at = |seconds: u64| Instant::from_millis(seconds * 1000);
        assert!(all.expire(at(29)).is_none());
        let Abandoned { fragments, first } = all.expire(at(30)).unwrap();
        assert_eq!((fragments, first.unwrap().1.len()), (1, 40));
        assert!(all.expire(at(35)).is_some_and(|abandoned| abandoned.first.is_none()));
        assert!(all.expire(at(35)).is_none());
    }

    proptest! {
        /// Fragments of any sizes in any order make the packet again, when the last one is there.
        #[test]
        fn any_order_will_do(
            len in 8..65_508usize,
            cuts in prop::collection::vec(1..8188usize, 0..60),
            order in any::<prop::sample::Index>(),
        ) {
            let packet = ping(1, len).dont_fragment(false);
            let whole = len + 8;
            let mut ends: Vec<_> = cuts.iter().map(|cut| cut * 8).filter(|cut| *cut < whole).collect();
            ends.push(whole);
            ends.sort_unstable();
            ends.dedup();
            let starts = std::iter::once(0).chain(ends.iter().copied());
            let mut parts: Vec<_> =
                starts.zip(&ends).map(|(start, end)| packet.part(start..*end)).collect();
            let middle = order.index(parts.len());
            parts.rotate_left(middle);
            parts[middle..].reverse();
            let last = parts.pop().unwrap();
            let mut all = Reassembler::new();
            for part in &parts {
                prop_assert_eq!(add(&mut all, 0, part), Ok(None));
            }
            prop_assert!(add(&mut all, 0, &last) == Ok(Some(packet.bytes())));
        }
    }
}
