//! Finding a tag among those of a bucket: eight at once where the processor can.
#![allow(unsafe_code)]

/// Tags of a bucket.
pub(super) const TAGS: usize = 10;

/// A bit for each place with this tag.
#[inline]
pub(super) fn places_of(tag: u16, tags: &[u16; TAGS]) -> u32 {
    let (eight, rest) = tags.split_first_chunk::<8>().expect("ten tags");
    let rest = rest.iter().enumerate().map(|(place, stored)| u32::from(*stored == tag) << place);
    places_among_eight(tag, eight) | rest.sum::<u32>() << 8
}

#[cfg(target_arch = "x86_64")]
#[inline]
fn places_among_eight(tag: u16, tags: &[u16; 8]) -> u32 {
    use std::arch::x86_64::{
        __m128i, _mm_cmpeq_epi16, _mm_movemask_epi8, _mm_packs_epi16, _mm_set1_epi16,
        _mm_setzero_si128,
    };
    let tags: __m128i = zerocopy::transmute!(*tags);
    // SAFETY: these need SSE2 and nothing else; every x86-64 processor has it.
    unsafe {
        let equal = _mm_cmpeq_epi16(tags, _mm_set1_epi16(tag as i16));
        _mm_movemask_epi8(_mm_packs_epi16(equal, _mm_setzero_si128())) as u32
    }
}

#[cfg(not(target_arch = "x86_64"))]
#[inline]
fn places_among_eight(tag: u16, tags: &[u16; 8]) -> u32 {
    tags.iter().enumerate().map(|(place, stored)| u32::from(*stored == tag) << place).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn finds_every_place(tags in prop::array::uniform10(0xfffeu16..=0xffff), tag in 0xfffdu16..) {
            let places = places_of(tag, &tags);
            for (place, stored) in tags.iter().enumerate() {
                prop_assert_eq!(places >> place & 1 == 1, *stored == tag);
            }
            prop_assert_eq!(places >> TAGS, 0);
        }
    }
}
