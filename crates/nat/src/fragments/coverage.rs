use super::{BLOCK, FragmentError, FragmentRange, MAX_PAYLOAD};

const WORD: usize = u64::BITS as usize;
const WORDS: usize = MAX_PAYLOAD.div_ceil(BLOCK).div_ceil(WORD);

/// Which bytes of a packet have come: one bit for each block of 8 bytes, 1 KiB in all, so that
/// there is no limit on the number of fragments, and no order in which they are dear.
pub(super) struct Coverage {
    blocks: [u64; WORDS],
    /// Bits set in `blocks`.
    covered: usize,
    /// The furthest end so far: the packet's, once the last fragment has come.
    end: u16,
    has_last: bool,
}

impl Coverage {
    pub(super) fn new() -> Coverage {
        Coverage { blocks: [0; WORDS], covered: 0, end: 0, has_last: false }
    }

    /// Whether there is nothing more to come.
    pub(super) fn is_complete(&self) -> bool {
        self.has_last && self.covered == usize::from(self.end).div_ceil(BLOCK)
    }

    /// Notes the bytes of one more fragment, or says why that cannot be; nothing has changed then.
    pub(super) fn add(&mut self, range: FragmentRange) -> Result<(), FragmentError> {
        if self.contradicts(range) {
            return Err(FragmentError::Overlap);
        }
        let first = usize::from(range.start) / BLOCK;
        let end = usize::from(range.end).div_ceil(BLOCK);
        let known: usize = masks(first, end)
            .map(|(word, mask)| (self.blocks[word] & mask).count_ones() as usize)
            .sum();
        if known == end - first {
            return Err(FragmentError::Duplicate);
        }
        if known > 0 {
            return Err(FragmentError::Overlap);
        }
        for (word, mask) in masks(first, end) {
            self.blocks[word] |= mask;
        }
        self.covered += end - first;
        self.end = self.end.max(range.end);
        self.has_last |= range.is_last;
        Ok(())
    }

    /// Whether the packet would have two ends, or bytes beyond its end. This also keeps the last
    /// block, which may not be full, from being taken for the same block of a longer packet.
    fn contradicts(&self, range: FragmentRange) -> bool {
        match (self.has_last, range.is_last) {
            (true, true) => range.end != self.end,
            (true, false) => range.end > self.end,
            (false, true) => range.end < self.end,
            (false, false) => false,
        }
    }
}

/// The words that hold the bits from `first` to before `end`, each with a mask of these bits.
fn masks(first: usize, end: usize) -> impl Iterator<Item = (usize, u64)> {
    (first / WORD..end.div_ceil(WORD)).map(move |word| {
        let low = first.saturating_sub(word * WORD);
        let high = (end - word * WORD).min(WORD);
        (word, u64::MAX << low & u64::MAX >> (WORD - high))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use FragmentError::{Duplicate, Overlap};
    use proptest::prelude::*;

    fn middle(start: u16, end: u16) -> FragmentRange {
        FragmentRange { start, end, is_last: false }
    }

    fn last(start: u16, end: u16) -> FragmentRange {
        FragmentRange { start, end, is_last: true }
    }

    /// What comes of each range in turn, and whether the packet is complete after them.
    fn add(ranges: &[FragmentRange]) -> (Vec<Result<(), FragmentError>>, bool) {
        let mut coverage = Coverage::new();
        let results = ranges.iter().map(|range| coverage.add(*range)).collect();
        (results, coverage.is_complete())
    }

    #[test]
    fn ranges_that_meet_make_a_packet() {
        let ok = |n| vec![Ok(()); n];
        assert_eq!(add(&[middle(0, 1480), last(1480, 1500)]), (ok(2), true));
        assert_eq!(add(&[last(1480, 1481), middle(0, 1480)]), (ok(2), true));
        assert_eq!(add(&[middle(0, 1472), last(1480, 1500)]), (ok(2), false), "a hole");
        assert_eq!(add(&[middle(0, 1480), middle(1480, 2960)]), (ok(2), false), "no last one");
        assert_eq!(add(&[middle(0, 65_512), last(65_512, 65_515)]), (ok(2), true), "the longest");
        let bytewise: Vec<_> = (0..8189).map(|n| middle(n * 8, n * 8 + 8)).collect();
        let bytewise = [&bytewise[..], &[last(65_512, 65_515)]].concat();
        assert_eq!(add(&bytewise), (ok(8190), true), "in the smallest pieces");
    }

    #[test]
    fn what_adds_nothing_is_a_duplicate() {
        for (earlier, again) in [
            (middle(0, 1480), middle(0, 1480)),
            (middle(0, 1480), middle(512, 1024)),
            (last(1480, 1500), last(1480, 1500)),
        ] {
            let (results, _) = add(&[earlier, again]);
            assert_eq!(results, [Ok(()), Err(Duplicate)], "{again:?} after {earlier:?}");
        }
    }

    #[test]
    fn what_differs_from_what_came_overlaps() {
        for (earlier, overlapping) in [
            (middle(8, 24), middle(0, 16)),
            (middle(8, 24), middle(16, 32)),
            (middle(8, 24), middle(0, 32)),
            (last(96, 100), last(96, 98)),
            (last(96, 100), last(104, 108)),
            (last(96, 100), middle(96, 104)),
            (last(96, 100), middle(800, 808)),
            (middle(96, 104), last(96, 100)),
            (middle(800, 808), last(96, 100)),
        ] {
            let (results, _) = add(&[earlier, overlapping]);
            assert_eq!(results, [Ok(()), Err(Overlap)], "{overlapping:?} after {earlier:?}");
        }
    }

    prop_compose! {
        /// Any valid range; most of them near the start of the packet, where they meet.
        fn any_range()(
            start in prop_oneof![4 => 0u16..24, 1 => 0u16..8189],
            len in prop_oneof![4 => 1u16..64, 1 => 1u16..=65_515],
            is_last: bool,
        ) -> FragmentRange {
            let start = start * 8;
            let len = if is_last { len } else { len.next_multiple_of(8) };
            let longest = if is_last { 65_515 } else { 65_512 };
            FragmentRange { start, end: start.saturating_add(len).min(longest), is_last }
        }
    }

    proptest! {
        /// Against one flag for each byte.
        #[test]
        fn agrees_with_counting_bytes(ranges in prop::collection::vec(any_range(), 1..12)) {
            let mut coverage = Coverage::new();
            let mut bytes = vec![false; MAX_PAYLOAD];
            let mut length = None;
            for range in ranges {
                let (start, end) = (usize::from(range.start), usize::from(range.end));
                let furthest = bytes.iter().rposition(|seen| *seen).map_or(0, |last| last + 1);
                let is_beyond = length.is_some_and(|length| end > length);
                let other_end =
                    range.is_last && (end < furthest || length.is_some_and(|length| end != length));
                let known = bytes[start..end].iter().filter(|seen| **seen).count();
                let expected = if is_beyond || other_end {
                    Err(Overlap)
                } else if known == end - start {
                    Err(Duplicate)
                } else if known > 0 {
                    Err(Overlap)
                } else {
                    bytes[start..end].fill(true);
                    length = length.or(range.is_last.then_some(end));
                    Ok(())
                };
                prop_assert_eq!(coverage.add(range), expected, "{:?}", range);
                let all = |length: usize| bytes[..length].iter().all(|seen| *seen);
                prop_assert_eq!(coverage.is_complete(), length.is_some_and(all));
            }
        }
    }
}
