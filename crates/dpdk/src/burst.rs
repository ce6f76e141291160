//! Up to [`BURST`] packets that are handled together.

use std::fmt;
use std::mem::MaybeUninit;
use std::slice;

use shunt_dpdk_sys as sys;

use crate::mbuf::Mbuf;

/// How many packets a [`Burst`] holds.
pub const BURST: usize = 32;

/// A fixed array that owns up to [`BURST`] packets, in order. What is in it when it is dropped goes
/// back to the pools it came from.
pub struct Burst {
    /// The first `len` are initialised.
    mbufs: [MaybeUninit<Mbuf>; BURST],
    len: usize,
}

impl Burst {
    /// An empty burst.
    #[inline]
    pub const fn new() -> Self {
        Self { mbufs: [const { MaybeUninit::uninit() }; BURST], len: 0 }
    }

    /// The number of packets.
    #[inline]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no packet.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether there is no room for another packet.
    #[inline]
    pub fn is_full(&self) -> bool {
        self.len == BURST
    }

    /// Adds a packet at the end; a full burst hands it back.
    ///
    /// # Errors
    /// The packet itself, when the burst is full.
    #[inline]
    pub fn push(&mut self, mbuf: Mbuf) -> Result<(), Mbuf> {
        match self.mbufs.get_mut(self.len) {
            Some(slot) => {
                slot.write(mbuf);
                self.len += 1;
                Ok(())
            }
            None => Err(mbuf),
        }
    }

    /// The packets.
    #[inline]
    pub fn as_slice(&self) -> &[Mbuf] {
        // SAFETY: the first `len` are initialised, and MaybeUninit<Mbuf> is laid out as Mbuf.
        unsafe { slice::from_raw_parts(self.mbufs.as_ptr().cast(), self.len) }
    }

    /// The packets, to be changed in place.
    #[inline]
    pub fn as_mut_slice(&mut self) -> &mut [Mbuf] {
        // SAFETY: as in `as_slice`.
        unsafe { slice::from_raw_parts_mut(self.mbufs.as_mut_ptr().cast(), self.len) }
    }

    /// The packets in order.
    #[inline]
    pub fn iter(&self) -> slice::Iter<'_, Mbuf> {
        self.as_slice().iter()
    }

    /// The packets in order, to be changed in place.
    #[inline]
    pub fn iter_mut(&mut self) -> slice::IterMut<'_, Mbuf> {
        self.as_mut_slice().iter_mut()
    }

    /// Takes the packets out, in order. Those that the iterator did not yield are freed with it.
    #[inline]
    pub fn drain(&mut self) -> Drain<'_> {
        // From here the iterator is the owner: one that is forgotten leaks packets, and no more.
        let end = std::mem::take(&mut self.len);
        Drain { burst: self, next: 0, end }
    }

    /// Frees the packets (`rte_pktmbuf_free_bulk`).
    #[inline]
    pub fn clear(&mut self) {
        drop(self.drain());
    }

    /// Calls `receive` with the free slots and their number; it returns how many it filled, from
    /// the first on.
    ///
    /// # Panics
    /// When `receive` returns a larger number than it was given: whatever else it did, it wrote where
    /// it must not.
    ///
    /// # Safety
    /// The filled slots hold mbufs that nobody else owns.
    #[inline]
    pub(crate) unsafe fn fill(
        &mut self,
        receive: impl FnOnce(*mut *mut sys::rte_mbuf, u16) -> u16,
    ) -> usize {
        let free = &mut self.mbufs[self.len..];
        if free.is_empty() {
            return 0;
        }
        let count = usize::from(receive(free.as_mut_ptr().cast(), free.len() as u16));
        assert!(count <= free.len(), "{count} packets received into {} slots", free.len());
        self.len += count;
        count
    }

    /// Calls `send` with the packets and their number; it returns how many it took, from the first
    /// on. The others move to the front.
    ///
    /// # Panics
    /// When `send` returns a larger number than it was given. The packets are then nobody's: they leak.
    ///
    /// # Safety
    /// `send` becomes the owner of exactly the packets that it counts.
    #[inline]
    pub(crate) unsafe fn take(
        &mut self,
        send: impl FnOnce(*mut *mut sys::rte_mbuf, u16) -> u16,
    ) -> usize {
        if self.is_empty() {
            return 0;
        }
        let end = std::mem::take(&mut self.len);
        let count = usize::from(send(self.mbufs.as_mut_ptr().cast(), end as u16));
        assert!(count <= end, "{count} packets sent of {end}");
        // What was sent ends up behind the new length, where nothing is ours.
        self.mbufs[..end].rotate_left(count);
        self.len = end - count;
        count
    }
}

impl Default for Burst {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Burst {
    #[inline]
    fn drop(&mut self) {
        self.clear();
    }
}

impl fmt::Debug for Burst {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self).finish()
    }
}

impl<'a> IntoIterator for &'a Burst {
    type Item = &'a Mbuf;
    type IntoIter = slice::Iter<'a, Mbuf>;

    #[inline]
    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl<'a> IntoIterator for &'a mut Burst {
    type Item = &'a mut Mbuf;
    type IntoIter = slice::IterMut<'a, Mbuf>;

    #[inline]
    fn into_iter(self) -> Self::IntoIter {
        self.iter_mut()
    }
}

/// The packets of a [`Burst`], one after the other; see [`Burst::drain`].
#[derive(Debug)]
pub struct Drain<'a> {
    burst: &'a mut Burst,
    /// The slots `next..end` are initialised and ours; the burst's own length is zero.
    next: usize,
    end: usize,
}

impl Iterator for Drain<'_> {
    type Item = Mbuf;

    #[inline]
    fn next(&mut self) -> Option<Mbuf> {
        if self.next == self.end {
            return None;
        }
        // SAFETY: the slot is initialised, and counting on makes this its only reader.
        let mbuf = unsafe { self.burst.mbufs[self.next].assume_init_read() };
        self.next += 1;
        Some(mbuf)
    }

    #[inline]
    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.end - self.next, Some(self.end - self.next))
    }
}

impl ExactSizeIterator for Drain<'_> {}

impl Drop for Drain<'_> {
    #[inline]
    fn drop(&mut self) {
        let rest = &mut self.burst.mbufs[self.next..self.end];
        if !rest.is_empty() {
            // SAFETY: these slots are initialised and ours, and nobody reads them afterwards. Mbuf
            // is laid out as the pointer that DPDK expects; DPDK sorts them by pool.
            unsafe { sys::rte_pktmbuf_free_bulk(rest.as_mut_ptr().cast(), rest.len() as u32) };
        }
    }
}

#[cfg(test)]
mod tests {
    use std::ptr::NonNull;

    use super::*;

    #[test]
    #[should_panic(expected = "33 packets received into 32 slots")]
    fn a_driver_that_counts_more_than_there_are_slots_ends_the_program() {
        // SAFETY: no slot is filled, and none is read.
        unsafe { Burst::new().fill(|_, count| count + 1) };
    }

    #[test]
    #[should_panic(expected = "2 packets sent of 1")]
    fn a_driver_that_counts_more_than_it_was_given_ends_the_program() {
        let mut burst = Burst::new();
        // SAFETY: `take` gives it away, so nothing reads or frees it.
        burst.push(unsafe { Mbuf::from_raw(NonNull::dangling()) }).expect("room");
        // SAFETY: what is counted is nobody's.
        unsafe { burst.take(|_, count| count + 1) };
    }
}
