//! Pools of packet buffers.

use std::ffi::CString;
use std::ptr::NonNull;

use shunt_dpdk_sys as sys;

use crate::eal::Eal;
use crate::error::{EINVAL, Error};
use crate::mbuf::Mbuf;

/// What a [`Mempool`] is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MempoolConfig {
    /// Its name, unique in the process and at most 25 bytes long.
    pub name: String,
    /// The number of mbufs; a power of two minus one uses memory best.
    pub mbufs: u32,
    /// How many free mbufs each lcore caches: at most 512, and at most two thirds of `mbufs`. Zero
    /// for no cache.
    pub cache: u32,
    /// Bytes of each buffer, the headroom of 128 bytes (`RTE_PKTMBUF_HEADROOM`) among them.
    pub data_room: u16,
    /// The NUMA node that the memory comes from; `None` for any.
    pub socket: Option<i32>,
}

impl MempoolConfig {
    /// DPDK's default data room (2048 bytes and the headroom), 256 mbufs of cache (fewer in a small
    /// pool), any NUMA node.
    pub fn new(name: &str, mbufs: u32) -> Self {
        let data_room = sys::RTE_MBUF_DEFAULT_BUF_SIZE as u16;
        Self { name: name.to_owned(), mbufs, cache: 256.min(mbufs / 2), data_room, socket: None }
    }
}

/// A pool of mbufs. Clones are handles to the same pool.
///
/// A pool lives until EAL's cleanup, so that no [`Mbuf`] outlives its pool.
#[derive(Debug, Clone)]
pub struct Mempool {
    pool: NonNull<sys::rte_mempool>,
    size: u32,
}

// SAFETY: DPDK's mempools serve any number of threads at once. Threads that are lcores have a cache
// of their own; all others share the pool's ring, which takes several producers and consumers.
unsafe impl Send for Mempool {}
// SAFETY: as above.
unsafe impl Sync for Mempool {}

impl Mempool {
    /// Makes a pool (`rte_pktmbuf_pool_create`).
    ///
    /// # Errors
    /// `EEXIST` when there is a pool of that name, `ENOMEM` when EAL has not enough memory,
    /// `EINVAL` for a cache that is too large or a name with a NUL byte, `ENAMETOOLONG`.
    pub fn new(_: &Eal, config: &MempoolConfig) -> Result<Self, Error> {
        const CALL: &str = "rte_pktmbuf_pool_create";
        const ANY_SOCKET: i32 = -1;
        let name = CString::new(&*config.name).map_err(|_| Error::new(CALL, EINVAL))?;
        // SAFETY: EAL is initialised, and DPDK copies the name.
        let pool = unsafe {
            sys::rte_pktmbuf_pool_create(
                name.as_ptr(),
                config.mbufs,
                config.cache,
                0,
                config.data_room,
                config.socket.unwrap_or(ANY_SOCKET),
            )
        };
        let pool = NonNull::new(pool).ok_or_else(|| Error::last(CALL))?;
        Ok(Self { pool, size: config.mbufs })
    }

    /// Takes an mbuf out of the pool (`rte_pktmbuf_alloc`): empty, one segment, with the usual
    /// headroom. `None` when the pool has none left.
    #[inline]
    pub fn alloc(&self) -> Option<Mbuf> {
        // SAFETY: the pool lives until EAL's cleanup.
        let mbuf = NonNull::new(unsafe { sys::shunt_mbuf_alloc(self.pool.as_ptr()) })?;
        // SAFETY: the mbuf has just been allocated, so nobody else owns it.
        Some(unsafe { Mbuf::from_raw(mbuf) })
    }

    /// How many mbufs the pool was made with.
    pub fn size(&self) -> u32 {
        self.size
    }

    /// How many mbufs are free, in the lcores' caches too (`rte_mempool_avail_count`). Exact only
    /// while no other thread allocates or frees. Visits every lcore's cache: not for the hot path.
    pub fn available(&self) -> u32 {
        // SAFETY: the pool lives until EAL's cleanup.
        unsafe { sys::rte_mempool_avail_count(self.pool.as_ptr()) }
    }

    /// How many mbufs are in use. As exact as [`Self::available`].
    ///
    /// Running ports own some, and give them back when they close, except that `net_af_xdp` never
    /// gives back what its fill ring held.
    pub fn in_use(&self) -> u32 {
        self.size.saturating_sub(self.available())
    }

    pub(crate) fn as_ptr(&self) -> *mut sys::rte_mempool {
        self.pool.as_ptr()
    }
}
