//! Memory of the connection table: one mapping, zeroed, in huge pages where the system has them.
//!
//! A table of a million connections is 96 MiB, visited at random. In pages of 4 KiB nearly every
//! visit would miss the TLB, besides the caches. All pages are touched when the memory is made, so that no
//! packet ever waits for one, and by the thread that makes it: it gets pages of its own NUMA node.
//!
//! With [`tags`](super::tags), the one place of this crate that needs `unsafe`.
#![allow(unsafe_code)]

use std::{
    fmt, io,
    marker::PhantomData,
    ops::{Deref, DerefMut},
};

use memmap2::{Advice, MmapMut, MmapOptions};
use zerocopy::FromZeros;

/// Huge pages of 2 MiB, as a power of two (`MAP_HUGE_2MB`).
const HUGE_SHIFT: u8 = 21;
const HUGE: usize = 1 << HUGE_SHIFT;

/// What kind of pages memory is in, from the best to the worst.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Pages {
    /// Reserved huge pages (`vm.nr_hugepages`).
    Huge,
    /// Ordinary ones that the kernel was asked to merge into huge ones (`MADV_HUGEPAGE`).
    Transparent,
    /// Ordinary ones: the memory is small, or the kernel has no others.
    Ordinary,
}

impl fmt::Display for Pages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Pages::Huge => "huge pages",
            Pages::Transparent => "transparent huge pages",
            Pages::Ordinary => "ordinary pages",
        })
    }
}

/// A fixed number of `T`s, all zero at first, in memory of their own.
pub(super) struct Slab<T> {
    map: MmapMut,
    len: usize,
    pages: Pages,
    content: PhantomData<T>,
}

impl<T: FromZeros> Slab<T> {
    /// # Errors
    /// The kernel's, when it has no memory for so many.
    pub(super) fn zeroed(len: usize) -> io::Result<Slab<T>> {
        const { assert!(align_of::<T>() <= 4096, "a mapping is aligned to its pages") };
        let bytes = len.checked_mul(size_of::<T>()).ok_or(io::ErrorKind::OutOfMemory)?;
        let (mut map, pages) = map(bytes.max(1))?;
        map.fill(0);
        Ok(Slab { map, len, pages, content: PhantomData })
    }

    pub(super) fn pages(&self) -> Pages {
        self.pages
    }

    /// Prefetches an element, so that it is near once other work is done. Nothing happens if there is none.
    #[inline]
    pub(super) fn prefetch(&self, index: usize) {
        if let Some(element) = self.get(index) {
            prefetch(element);
        }
    }
}

/// Maps memory in the best pages that there are.
fn map(bytes: usize) -> io::Result<(MmapMut, Pages)> {
    if bytes < HUGE {
        return Ok((MmapMut::map_anon(bytes)?, Pages::Ordinary));
    }
    let bytes = bytes.checked_next_multiple_of(HUGE).ok_or(io::ErrorKind::OutOfMemory)?;
    if let Ok(map) = MmapOptions::new().len(bytes).huge(Some(HUGE_SHIFT)).map_anon() {
        return Ok((map, Pages::Huge));
    }
    let map = MmapMut::map_anon(bytes)?;
    match map.advise(Advice::HugePage) {
        Ok(()) => Ok((map, Pages::Transparent)),
        Err(_) => Ok((map, Pages::Ordinary)),
    }
}

#[inline]
fn prefetch<T>(element: &T) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch reads nothing that the program could see, and SSE, which has it, is part of
    // every x86-64 processor.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(element).cast());
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: a prefetch reads nothing that the program could see, and changes nothing.
    unsafe {
        std::arch::asm!("prfm pldl1keep, [{0}]", in(reg) std::ptr::from_ref(element), options(nostack, readonly, preserves_flags));
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let _ = element;
}

impl<T: FromZeros> Deref for Slab<T> {
    type Target = [T];

    #[inline]
    fn deref(&self) -> &[T] {
        // SAFETY: the mapping is `len` times a `T` long or longer, and aligned to pages, which no `T`
        // exceeds. It was filled with zeros, which make valid `T`s, and since then was written to
        // only through `deref_mut`. It lives as long as `self`, which the slice borrows.
        unsafe { std::slice::from_raw_parts(self.map.as_ptr().cast(), self.len) }
    }
}

impl<T: FromZeros> DerefMut for Slab<T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as for `deref`; and `self` is borrowed mutably, so there is no other slice.
        unsafe { std::slice::from_raw_parts_mut(self.map.as_mut_ptr().cast(), self.len) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holds_what_is_written() {
        // Small ones, one that just fills a huge page, and one that does not quite fill two.
        for len in [0, 1, 1000, HUGE / 8, HUGE / 8 * 2 - 1] {
            let mut slab = Slab::<u64>::zeroed(len).unwrap();
            assert_eq!(slab.len(), len);
            assert!(slab.iter().all(|element| *element == 0));
            slab.iter_mut().zip(1..).for_each(|(element, number)| *element = number);
            assert!(slab.iter().copied().eq(1..=len as u64));
            (0..2 * len).step_by(97).for_each(|index| slab.prefetch(index));
        }
    }

    #[test]
    fn more_than_an_address_space_holds_is_an_error() {
        for len in [usize::MAX, usize::MAX / 8, usize::MAX / 32] {
            assert!(Slab::<u64>::zeroed(len).is_err(), "{len}");
        }
    }

    #[test]
    fn small_memory_is_in_ordinary_pages() {
        assert_eq!(Slab::<u64>::zeroed(10).unwrap().pages(), Pages::Ordinary);
        assert_eq!(Pages::Transparent.to_string(), "transparent huge pages");
    }
}
