//! Keyed hashing and random numbers that are the same on every machine.

use std::net::SocketAddrV4;

/// 2^64 over the golden ratio, odd: the step of [`Random`].
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// The hash of a 64-bit key under a seed. Every bit of both moves every bit of the hash.
pub(super) fn keyed(seed: u64, key: u64) -> u64 {
    mix(mix(key ^ GOLDEN).wrapping_add(mix(seed)))
}

/// An endpoint as a key; without the port if that shall not matter.
pub(super) fn endpoint_key(endpoint: SocketAddrV4, with_port: bool) -> u64 {
    let l4_port = if with_port { endpoint.port() } else { 0 };
    (u64::from(endpoint.ip().to_bits()) << 16) | u64::from(l4_port)
}

/// Maps a hash evenly onto `0..limit`.
pub(super) fn scale(hash: u64, limit: u64) -> u64 {
    ((u128::from(hash) * u128::from(limit)) >> 64) as u64
}

/// A stream of random numbers: SplitMix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number
/// Generators, OOPSLA 2014). Not for secrets.
#[derive(Clone, Debug)]
pub(super) struct Random(u64);

impl Random {
    pub(super) const fn new(seed: u64) -> Random {
        Random(mix(seed))
    }

    /// Another stream, one for each number.
    pub(super) fn fork(&self, number: u64) -> Random {
        Random(keyed(self.0, number))
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(GOLDEN);
        mix(self.0)
    }
}

/// The finalizer of SplitMix64: a bijection that flips half of the bits when one bit is flipped.
const fn mix(bits: u64) -> u64 {
    let bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The generator's published sequence from state 1234567, as its reference code gives it.
    #[test]
    fn splitmix64() {
        let mut random = Random(1_234_567);
        let expected = [6_457_827_717_110_365_317, 3_203_168_211_198_807_973];
        assert_eq!([random.next(), random.next()], expected);
    }

    #[test]
    fn every_bit_matters() {
        for bit in 0..64 {
            for flipped in [keyed(7, 1 << bit), keyed(7 ^ 1 << bit, 0)] {
                let changed = (flipped ^ keyed(7, 0)).count_ones();
                assert!((12..=52).contains(&changed), "bit {bit} changes {changed}");
            }
        }
    }

    #[test]
    fn scales_onto_the_whole_range() {
        assert_eq!([scale(0, 10), scale(u64::MAX, 10), scale(1 << 63, 10)], [0, 9, 5]);
    }
}
