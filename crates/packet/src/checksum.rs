//! The Internet checksum (RFC 1071), and how to keep it right without reading the payload.
//!
//! # One's complement, in one minute
//!
//! The checksum field holds the complement of the one's-complement sum of all 16-bit words that it
//! covers. A one's-complement sum is an ordinary sum whose carries are added back in at the bottom
//! ("folded"), and it has two zeros, `0x0000` and `0xffff`. Three things follow:
//!
//! - A sum that starts from anything but zero never folds to `0x0000`, so over real headers (their
//!   version field is never zero) the sum is in `1..=0xffff`, and the checksum in `0..=0xfffe`.
//! - Words that change can be exchanged in the sum without looking at the others. RFC 1624,
//!   equation 3: `HC' = ~(~HC + ~m + m')`. [`Delta`] is the `~m + m'` of *all* the words that a
//!   translation changes, folded once when a connection opens; applying it is two additions. (The
//!   older equation of RFC 1141 can arrive at the wrong zero; equation 3 cannot.)
//! - An incremental update keeps a wrong checksum wrong. That is wanted: a payload that was
//!   corrupted on the way in must not leave with a checksum that says it is sound.
//!
//! UDP alone gives one of the zeros a meaning: `0x0000` says "no checksum" (RFC 768), so a computed
//! zero is sent as `0xffff`, and a received zero stays zero through any translation.

use std::net::Ipv4Addr;

use zerocopy::byteorder::network_endian::U16;

/// A running one's-complement sum. Words are taken in network byte order.
///
/// Holds the sum of at least 2^48 words without overflow.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sum(u64);

impl Sum {
    /// The empty sum.
    pub const ZERO: Sum = Sum(0);

    /// Adds `bytes` as 16-bit words; an odd last byte is padded with a zero (RFC 1071, section 4.1).
    #[must_use]
    pub fn bytes(self, bytes: &[u8]) -> Sum {
        let mut sum = self.0;
        let mut words = bytes.chunks_exact(4);
        for word in &mut words {
            sum += u64::from(u32::from_be_bytes([word[0], word[1], word[2], word[3]]));
        }
        let rest = words.remainder();
        let mut last = [0; 4];
        last[..rest.len()].copy_from_slice(rest);
        Sum(sum + u64::from(u32::from_be_bytes(last)))
    }

    /// Adds one 16-bit word.
    #[must_use]
    pub fn word(self, word: u16) -> Sum {
        Sum(self.0 + u64::from(word))
    }

    /// Adds the two words of an address.
    #[must_use]
    pub fn address(self, address: Ipv4Addr) -> Sum {
        Sum(self.0 + u64::from(address.to_bits()))
    }

    /// Adds the pseudo-header of TCP and UDP over IPv4 (RFC 9293, section 3.1; RFC 768).
    #[must_use]
    pub fn pseudo_header(self, src: Ipv4Addr, dst: Ipv4Addr, protocol: u8, length: u16) -> Sum {
        self.address(src).address(dst).word(u16::from(protocol)).word(length)
    }

    /// The sum folded to 16 bits, not complemented. Over the pseudo-header, this is what a NIC that
    /// computes a transport checksum expects in the checksum field.
    #[must_use]
    pub fn fold(self) -> u16 {
        // Halves are added until one is left; the carry of each step is added back in at the bottom.
        let (sum, carry) = (self.0 as u32).overflowing_add((self.0 >> 32) as u32);
        let sum = sum + u32::from(carry);
        let (sum, carry) = (sum as u16).overflowing_add((sum >> 16) as u16);
        sum + u16::from(carry)
    }

    /// The value for a checksum field: the complement of the folded sum.
    #[must_use]
    pub fn checksum(self) -> u16 {
        !self.fold()
    }

    /// Whether the sum over data, its checksum field included, verifies the data.
    #[must_use]
    pub fn is_sound(self) -> bool {
        self.fold() == 0xffff
    }
}

/// What to add to a checksum when the words that it covers change (RFC 1624, equation 3).
///
/// Kept as it would be in memory, in network byte order: a one's-complement sum is the same in any order
/// (RFC 1071, section 2), so that a checksum field is updated as it is read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Delta(u16);

impl Delta {
    /// The change that replaces the words in `old` by those in `new`.
    #[must_use]
    pub fn between(old: Sum, new: Sum) -> Delta {
        Delta(Sum(u64::from(!old.fold()) + new.0).fold().to_be())
    }

    /// The change that replaces one word by another.
    pub(crate) const fn of_word(old: u16, new: u16) -> Delta {
        let (sum, carry) = new.overflowing_add(!old);
        Delta((sum + carry as u16).to_be())
    }

    /// The delta that undoes this one.
    #[must_use]
    pub fn inverse(self) -> Delta {
        self.inverse_if(true)
    }

    /// The delta that undoes this one, or this one itself. Takes no branch.
    #[inline]
    #[must_use]
    pub fn inverse_if(self, is_wanted: bool) -> Delta {
        Delta(self.0 ^ u16::from(is_wanted).wrapping_neg())
    }

    /// The raw 16 bits, for storage in a record.
    #[must_use]
    pub const fn to_bits(self) -> u16 {
        self.0
    }

    /// The delta that [`Delta::to_bits`] came from.
    #[must_use]
    pub const fn from_bits(bits: u16) -> Delta {
        Delta(bits)
    }

    /// The checksum after the change.
    #[inline]
    #[must_use]
    pub fn apply(self, checksum: u16) -> u16 {
        u16::from_be(self.apply_in_order(checksum.to_be()))
    }

    /// A checksum after the change, in network byte order as the one before it. `~(~HC + d)` is `HC - d`
    /// with the borrow taken out at the bottom, and the same of both zeros.
    #[inline]
    fn apply_in_order(self, checksum: u16) -> u16 {
        let (difference, borrow) = checksum.overflowing_sub(self.0);
        difference.wrapping_sub(u16::from(borrow))
    }

    /// Updates a checksum field.
    #[inline(always)]
    pub(crate) fn update(self, checksum: &mut U16) {
        let before = u16::from_ne_bytes(checksum.to_bytes());
        *checksum = U16::from_bytes(self.apply_in_order(before).to_ne_bytes());
    }

    /// Updates UDP's checksum field: see [`Delta::apply_udp`].
    #[inline(always)]
    pub(crate) fn update_udp(self, checksum: &mut U16) {
        let before = u16::from_ne_bytes(checksum.to_bytes());
        *checksum = U16::from_bytes(self.apply_udp_in_order(before).to_ne_bytes());
    }

    /// The UDP checksum after the change: "no checksum" stays so, and a computed zero becomes
    /// `0xffff` (RFC 768).
    #[inline]
    #[must_use]
    pub fn apply_udp(self, checksum: u16) -> u16 {
        u16::from_be(self.apply_udp_in_order(checksum.to_be()))
    }

    /// See [`Delta::apply_udp`]; zeros and ones are the same in any order.
    #[inline]
    fn apply_udp_in_order(self, checksum: u16) -> u16 {
        match checksum {
            0 => 0,
            sent => match self.apply_in_order(sent) {
                0 => 0xffff,
                computed => computed,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn rfc_1071_example() {
        let sum = Sum::ZERO.bytes(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]);
        assert_eq!(sum.fold(), 0xddf2);
        assert_eq!(sum.checksum(), 0x220d);
    }

    #[test]
    fn rfc_1624_example() {
        // The case that RFC 1141's equation gets wrong: 0xDD2F with 0x5555 -> 0x3285.
        let delta = Delta::between(Sum::ZERO.word(0x5555), Sum::ZERO.word(0x3285));
        assert_eq!(delta.apply(0xdd2f), 0x0000);
    }

    #[test]
    fn both_zeros_are_told_apart() {
        // Equation 3 as it stands in the RFC, for every checksum and what is next to carries and zeros.
        let interesting = [0, 1, 2, 0xff, 0x100, 0x7fff, 0x8000, 0xfeff, 0xff00, 0xfffe, 0xffff];
        for delta in interesting {
            for checksum in 0..=0xffff {
                let sum = Sum::ZERO.word(!checksum).word(delta);
                assert_eq!(Delta(delta.to_be()).apply(checksum), !sum.fold(), "{checksum} {delta}");
            }
            for new in interesting {
                let (old, new) = (Sum::ZERO.word(delta), Sum::ZERO.word(new));
                let of_word = Delta::of_word(old.fold(), new.fold());
                assert_eq!(of_word, Delta::between(old, new));
            }
        }
    }

    #[test]
    fn udp_zeros() {
        let nothing = Delta::between(Sum::ZERO, Sum::ZERO);
        assert_eq!(nothing.apply_udp(0), 0, "no checksum stays no checksum");
        let delta = Delta::between(Sum::ZERO.word(0x5555), Sum::ZERO.word(0x3285));
        assert_eq!(delta.apply_udp(0xdd2f), 0xffff, "a computed zero is sent as ones");
    }

    /// The definition, word by word.
    fn plain(bytes: &[u8]) -> u16 {
        let mut sum: u32 = 0;
        for pair in bytes.chunks(2) {
            sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
            sum = (sum & 0xffff) + (sum >> 16);
        }
        !(sum as u16)
    }

    proptest! {
        #[test]
        fn sum_is_the_definition(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            prop_assert_eq!(Sum::ZERO.bytes(&bytes).checksum(), plain(&bytes));
        }

        #[test]
        fn delta_equals_recomputation(
            mut words in prop::collection::vec(any::<u16>(), 2..40),
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u16>()), 1..6),
        ) {
            // Real headers are never all zeros; the first word stands for the version field.
            words[0] |= 0x4000;
            let sum = |words: &[u16]| words.iter().fold(Sum::ZERO, |sum, word| sum.word(*word));
            let before = words.clone();
            let checksum = sum(&words).checksum();
            for (at, to) in changes {
                let at = 1 + at.index(words.len() - 1);
                words[at] = to;
            }
            let delta = Delta::between(sum(&before[1..]), sum(&words[1..]));
            prop_assert_eq!(delta.apply(checksum), sum(&words).checksum());
            prop_assert_eq!(delta.inverse().apply(delta.apply(checksum)), checksum);
        }

        #[test]
        fn delta_keeps_bad_checksums_bad(word in any::<u16>(), to in any::<u16>(), error in 1..0xffffu16) {
            let sum = |word| Sum::ZERO.word(0x4500).word(word);
            let bad = Sum::ZERO.word(sum(word).checksum()).word(error).fold();
            let delta = Delta::between(Sum::ZERO.word(word), Sum::ZERO.word(to));
            prop_assert!(!sum(to).word(delta.apply(bad)).is_sound());
        }
    }
}
