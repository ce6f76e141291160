//! The index of the connection table: from a flow key's hash to a record, in one or two cache
//! lines.
//!
//! A bucket is one cache line of ten entries, each a 16-bit tag of the hash and a reference to a
//! record. An entry lives in its *home* bucket, or, when that is full, *displaced*: in the one other
//! bucket that home and tag determine (partial-key cuckoo hashing, Fan et al., CoNEXT 2014). Each
//! bucket counts its displaced entries, so that a lookup goes to the second bucket only where
//! there is something to find (the idea of Cuckoo++, Le Scouarnec, ANCS 2018). When both buckets are
//! full, one entry of theirs moves to its own other bucket: at most one move, no rehash ever.

use std::io;

use zerocopy::{FromZeros, Immutable, KnownLayout};

use super::{
    memory::{Pages, Slab},
    tags::{TAGS, places_of},
};
use crate::flow::Direction;

const ENTRIES: usize = TAGS;

/// Entries per bucket that the index is sized for; room for ten makes overflow rare.
const TARGET_LOAD: usize = 7;

/// A reference to one direction of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) record: u32,
    pub(super) direction: Direction,
}

/// What one look into the index says of a hash.
#[derive(Clone, Copy, Debug)]
pub(super) enum Probe {
    /// It may have an entry, but not where most are.
    Unknown,
    /// It has none.
    Absent,
    /// In all probability, this is its entry.
    Candidate(Entry),
}

const DISPLACED: u32 = 1 << 31;
const OUTBOUND: u32 = 1 << 30;

/// Records are numbered with the remaining 30 bits.
pub(super) const MAX_RECORDS: u32 = OUTBOUND;

impl Entry {
    fn to_bits(self) -> u32 {
        match self.direction {
            Direction::Inbound => self.record,
            Direction::Outbound => self.record | OUTBOUND,
        }
    }

    fn from_bits(bits: u32) -> Entry {
        let direction = if bits & OUTBOUND == 0 { Direction::Inbound } else { Direction::Outbound };
        Entry { record: bits & (OUTBOUND - 1), direction }
    }
}

/// One cache line. A tag of 0 is an empty place.
#[derive(FromZeros, KnownLayout, Immutable)]
#[repr(C, align(64))]
struct Bucket {
    entries: [u32; ENTRIES],
    tags: [u16; ENTRIES],
    /// How many entries have their home here and are displaced.
    displaced: u32,
}

const _: () = assert!(size_of::<Bucket>() == 64);

impl Bucket {
    fn empty_place(&self) -> Option<usize> {
        self.tags.iter().position(|tag| *tag == 0)
    }

    #[inline]
    fn find(&self, tag: u16, mut is_match: impl FnMut(Entry) -> bool) -> Option<(usize, Entry)> {
        let mut places = places_of(tag, &self.tags);
        while places != 0 {
            let place = places.trailing_zeros() as usize;
            let entry = Entry::from_bits(self.entries[place]);
            if is_match(entry) {
                return Some((place, entry));
            }
            places &= places - 1;
        }
        None
    }
}

/// Where a hash leads.
#[derive(Clone, Copy)]
struct Position {
    home: usize,
    other: usize,
    tag: u16,
}

/// No room for an entry, even after one move.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Full;

pub(super) struct Index {
    buckets: Slab<Bucket>,
}

impl Index {
    /// Room for `entries`.
    pub(super) fn new(entries: usize) -> io::Result<Index> {
        Ok(Index { buckets: Slab::zeroed(Index::buckets_for(entries))? })
    }

    /// What kind of pages it is in.
    pub(super) fn pages(&self) -> Pages {
        self.buckets.pages()
    }

    /// Prefetches the bucket in which a hash's entry most probably is.
    #[inline]
    pub(super) fn prefetch(&self, hash: u64) {
        self.buckets.prefetch(self.position(hash).home);
    }

    /// What the home bucket says of a hash.
    #[inline]
    pub(super) fn probe(&self, hash: u64) -> Probe {
        let Position { home, tag, .. } = self.position(hash);
        let bucket = &self.buckets[home];
        match bucket.find(tag, |_| true) {
            Some((_, entry)) => Probe::Candidate(entry),
            None if bucket.displaced == 0 => Probe::Absent,
            None => Probe::Unknown,
        }
    }

    /// The entry of this hash that `is_match`.
    #[inline]
    pub(super) fn find(&self, hash: u64, mut is_match: impl FnMut(Entry) -> bool) -> Option<Entry> {
        let Position { home, other, tag } = self.position(hash);
        let bucket = &self.buckets[home];
        if let Some((_, entry)) = bucket.find(tag, &mut is_match) {
            return Some(entry);
        }
        if bucket.displaced == 0 {
            return None;
        }
        self.buckets[other].find(tag, is_match).map(|(_, entry)| entry)
    }

    /// Adds an entry; that it isn't there already is the caller's to know.
    pub(super) fn insert(&mut self, hash: u64, entry: Entry) -> Result<(), Full> {
        let position = self.position(hash);
        let Position { home, other, tag } = position;
        if let Some(place) = self.buckets[home].empty_place() {
            self.set(home, place, tag, entry.to_bits());
        } else if let Some(place) = self.buckets[other].empty_place() {
            self.set(other, place, tag, entry.to_bits() | DISPLACED);
            self.buckets[home].displaced += 1;
        } else if let Some(place) = self.make_room(home) {
            self.set(home, place, tag, entry.to_bits());
        } else if let Some(place) = self.make_room(other) {
            self.set(other, place, tag, entry.to_bits() | DISPLACED);
            self.buckets[home].displaced += 1;
        } else {
            return Err(Full);
        }
        Ok(())
    }

    /// Removes an entry, if it is there.
    pub(super) fn remove(&mut self, hash: u64, entry: Entry) {
        let Position { home, other, tag } = self.position(hash);
        if let Some((place, _)) = self.buckets[home].find(tag, |stored| stored == entry) {
            self.buckets[home].tags[place] = 0;
        } else if let Some((place, _)) = self.buckets[other].find(tag, |stored| stored == entry) {
            self.buckets[other].tags[place] = 0;
            self.buckets[home].displaced -= 1;
        }
    }

    /// Bytes that an index for so many entries occupies when full.
    pub(super) fn memory_of(entries: usize) -> usize {
        Index::buckets_for(entries) * size_of::<Bucket>()
    }

    fn buckets_for(entries: usize) -> usize {
        entries.div_ceil(TARGET_LOAD).next_power_of_two().max(2)
    }

    fn position(&self, hash: u64) -> Position {
        let home = hash as usize & (self.buckets.len() - 1);
        let tag = ((hash >> 48) as u16).max(1);
        Position { home, other: self.other_bucket(home, tag), tag }
    }

    /// The bucket that an entry with this tag may live in besides `bucket`: its own inverse.
    fn other_bucket(&self, bucket: usize, tag: u16) -> usize {
        let spread = (usize::from(tag)).wrapping_mul(0x5bd1_e995) | 1;
        (bucket ^ spread) & (self.buckets.len() - 1)
    }

    fn set(&mut self, bucket: usize, place: usize, tag: u16, bits: u32) {
        self.buckets[bucket].tags[place] = tag;
        self.buckets[bucket].entries[place] = bits;
    }

    /// Moves one entry of a full bucket to its other bucket, and returns the place that is free now.
    fn make_room(&mut self, bucket: usize) -> Option<usize> {
        for place in 0..ENTRIES {
            let tag = self.buckets[bucket].tags[place];
            let other = self.other_bucket(bucket, tag);
            let Some(free) = self.buckets[other].empty_place() else { continue };
            let bits = self.buckets[bucket].entries[place];
            if bits & DISPLACED == 0 {
                self.buckets[bucket].displaced += 1;
            } else {
                self.buckets[other].displaced -= 1;
            }
            self.set(other, free, tag, bits ^ DISPLACED);
            self.buckets[bucket].tags[place] = 0;
            return Some(place);
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    fn entry(record: u32) -> Entry {
        let direction =
            if record.is_multiple_of(2) { Direction::Inbound } else { Direction::Outbound };
        Entry { record, direction }
    }

    /// A stand-in for a keyed hash (SplitMix64's finaliser).
    fn hash(record: u32) -> u64 {
        let mut hash = u64::from(record).wrapping_add(0x9e37_79b9_7f4a_7c15);
        hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        hash ^ (hash >> 31)
    }

    #[test]
    fn holds_what_it_is_sized_for() {
        // The worst size: just what fits before the number of buckets doubles.
        let count = TARGET_LOAD as u32 * 4096;
        let mut index = Index::new(count as usize).unwrap();
        for record in 0..count {
            index.insert(hash(record), entry(record)).unwrap();
        }
        for record in 0..count {
            assert_eq!(index.find(hash(record), |e| e.record == record), Some(entry(record)));
        }
    }

    #[test]
    fn a_full_index_says_so() {
        let mut index = Index::new(2).unwrap();
        let room = (0..).take_while(|record| index.insert(hash(*record), entry(*record)).is_ok());
        assert_eq!(room.count(), 2 * ENTRIES);
    }

    proptest! {
        /// Against a plain map, on an index so small that entries move all the time.
        #[test]
        fn behaves_like_a_map(operations in prop::collection::vec((any::<bool>(), 0u32..60), 1..400)) {
            let mut index = Index::new(4 * TARGET_LOAD).unwrap();
            let mut model = HashMap::new();
            for (insert, record) in operations {
                if insert && !model.contains_key(&record) {
                    if index.insert(hash(record), entry(record)).is_ok() {
                        model.insert(record, entry(record));
                    }
                } else if let Some(entry) = model.remove(&record) {
                    index.remove(hash(record), entry);
                }
                for record in 0..60 {
                    let found = index.find(hash(record), |e| e.record == record);
                    prop_assert_eq!(found, model.get(&record).copied());
                    let is_absent = matches!(index.probe(hash(record)), Probe::Absent);
                    prop_assert!(!is_absent || found.is_none());
                }
            }
            for (record, entry) in model {
                index.remove(hash(record), entry);
            }
            prop_assert!(index.buckets.iter().all(|b| b.displaced == 0 && b.tags == [0; ENTRIES]));
        }
    }
}
