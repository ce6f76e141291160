//! Rings between two threads.

use std::cell::Cell;
use std::ffi::CString;
use std::marker::PhantomData;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use shunt_dpdk_sys as sys;

use crate::burst::Burst;
use crate::eal::Eal;
use crate::error::Error;

/// Makes a ring that holds up to `slots` packets and hands them from one thread to another, in
/// order and without a lock (`rte_ring_create`, for a single producer and a single consumer).
///
/// # Errors
/// `ENOMEM` when EAL has not enough memory, `ENOSPC` when it has no memzone left for another ring,
/// `EINVAL` for more than 2³¹ − 2 slots.
pub fn ring(_: &Eal, slots: u32) -> Result<(RingProducer, RingConsumer), Error> {
    const CALL: &str = "rte_ring_create";
    const ANY_SOCKET: i32 = -1;
    // DPDK requires a unique name for each, though nobody looks one up.
    static RINGS: AtomicU32 = AtomicU32::new(0);
    let number = RINGS.fetch_add(1, Ordering::Relaxed);
    let name = CString::new(format!("shunt-{number}")).expect("no NUL in it");
    let flags = sys::RING_F_SP_ENQ | sys::RING_F_SC_DEQ | sys::RING_F_EXACT_SZ;
    // SAFETY: EAL is initialised, and DPDK copies the name.
    let ring = unsafe { sys::rte_ring_create(name.as_ptr(), slots, ANY_SOCKET, flags) };
    let ring = Arc::new(Ring(NonNull::new(ring).ok_or_else(|| Error::last(CALL))?));
    let producer = RingProducer { ring: Arc::clone(&ring), _not_sync: PhantomData };
    Ok((producer, RingConsumer { ring, _not_sync: PhantomData }))
}

/// The producer's end of a ring.
#[derive(Debug)]
pub struct RingProducer {
    ring: Arc<Ring>,
    _not_sync: PhantomData<Cell<()>>,
}

impl RingProducer {
    /// Enqueues packets from the front of a burst, as many as there is room for, and returns how
    /// many (`rte_ring_sp_enqueue_burst`). The others stay in the burst, in order.
    #[inline]
    pub fn enqueue(&mut self, burst: &mut Burst) -> usize {
        // SAFETY: the ring lives, and this is its only producer. What it counts is the ring's.
        unsafe {
            burst.take(|mbufs, count| {
                sys::shunt_ring_enqueue(self.ring.0.as_ptr(), mbufs, count.into()) as u16
            })
        }
    }
}

/// The consumer's end of a ring.
#[derive(Debug)]
pub struct RingConsumer {
    ring: Arc<Ring>,
    _not_sync: PhantomData<Cell<()>>,
}

impl RingConsumer {
    /// Adds packets to a burst, as many as there are and fit, and returns how many
    /// (`rte_ring_sc_dequeue_burst`).
    #[inline]
    pub fn dequeue(&mut self, burst: &mut Burst) -> usize {
        // SAFETY: this is the only consumer.
        unsafe { self.ring.dequeue(burst) }
    }
}

/// What both ends share. The last one to be dropped frees it, and the packets in it.
#[derive(Debug)]
struct Ring(NonNull<sys::rte_ring>);

// SAFETY: DPDK's rings are made to be used by one producer and one consumer at once, and each end
// has one owner.
unsafe impl Send for Ring {}
// SAFETY: as above.
unsafe impl Sync for Ring {}

impl Ring {
    /// # Safety
    /// No other thread takes packets out.
    #[inline]
    unsafe fn dequeue(&self, burst: &mut Burst) -> usize {
        // SAFETY: the ring lives; it hands over the mbufs that it counts.
        unsafe {
            burst.fill(|mbufs, count| {
                sys::shunt_ring_dequeue(self.0.as_ptr(), mbufs, count.into()) as u16
            })
        }
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        let mut burst = Burst::new();
        // SAFETY: both ends are gone, so this is the only consumer.
        while unsafe { self.dequeue(&mut burst) } > 0 {
            burst.clear();
        }
        // SAFETY: nobody uses the ring any more.
        unsafe { sys::rte_ring_free(self.0.as_ptr()) };
    }
}
