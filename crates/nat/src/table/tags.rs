//! Finding a tag among those of a bucket: eight at once where the processor can.
#![allow(unsafe_code)]

/// Tags of a bucket.
pub(super) const TAGS: usize = 10;

/// A bit for each place with this tag.
#[cfg(target_arch = "x86_64")]
#[inline]
pub(super) fn places_of(tag: u16, tags: &[u16; TAGS]) -> u32 {
    use std::arch::x86_64::{
        __m128i, _mm_cmpeq_epi16, _mm_cvtsi32_si128, _mm_movemask_epi8, _mm_packs_epi16,
        _mm_set1_epi16,
    };
    let (eight, rest) = tags.split_first_chunk::<8>().expect("ten tags");
    let eight: __m128i = zerocopy::transmute!(*eight);
    let rest: [u16; TAGS - 8] = rest.try_into().expect("ten tags");
    // SAFETY: these need SSE2 and nothing else; every x86-64 processor has it.
    let places = unsafe {
        let rest = _mm_cvtsi32_si128(zerocopy::transmute!(rest));
        let tag = _mm_set1_epi16(tag as i16);
        let equal = _mm_packs_epi16(_mm_cmpeq_epi16(eight, tag), _mm_cmpeq_epi16(rest, tag));
        _mm_movemask_epi8(equal) as u32
    };
    // Where there are no tags, zeros were compared.
    places & ((1 << TAGS) - 1)
}

/// A bit for each place with this tag.
#[cfg(not(target_arch = "x86_64"))]
#[inline]
pub(super) fn places_of(tag: u16, tags: &[u16; TAGS]) -> u32 {
    tags.iter().enumerate().map(|(place, stored)| u32::from(*stored == tag) << place).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn finds_every_place(
            tags in prop::array::uniform10(prop::sample::select(&[0u16, 0xfffe, 0xffff][..])),
            tag in prop::sample::select(&[0u16, 0xfffd, 0xfffe, 0xffff][..]),
        ) {
            let places = places_of(tag, &tags);
            for (place, stored) in tags.iter().enumerate() {
                prop_assert_eq!(places >> place & 1 == 1, *stored == tag);
            }
            prop_assert_eq!(places >> TAGS, 0);
        }
    }
}
