//! The buffers that the director and testpmd get alike.

use shunt_dataplane::connection_memory;

use crate::{case::Case, latency};

/// The smallest MTU that a service file can have, so that buffers are small: there may be two
/// million of them.
pub(crate) const MTU: u16 = 576;

/// Bytes of a frame that a buffer has room for.
pub(crate) const MBUF_SIZE: u16 = MTU + 18;

/// Bytes of a buffer's data room as testpmd takes it: with DPDK's headroom, in whole cache lines.
pub(crate) const DATA_ROOM: u16 = (MBUF_SIZE + 128).next_multiple_of(64);

/// Buffers in flight, in caches and in rings, beside those that hold the preloaded frames.
const WORKING: u32 = 16 * 1024;

/// Bytes of a buffer with its header, the pool's header, and room to spread over memory channels.
const MBUF_BYTES: u64 = DATA_ROOM as u64 + 128 + 64 + 64;

/// How much memory a case takes.
#[derive(Clone, Copy)]
pub(crate) struct Memory {
    pub(crate) mbufs: u32,
    pub(crate) mib: u32,
}

impl Memory {
    /// What a case takes.
    pub(crate) fn of(case: Case) -> Memory {
        let mbufs = case.templates() + WORKING;
        // Rings for the preloaded frames, with eight bytes each, and what EAL and drivers take.
        let bytes = u64::from(mbufs) * (MBUF_BYTES + 16);
        Memory { mbufs, mib: (bytes >> 20) as u32 + 96 }
    }

    /// What the hungriest of them takes, or measuring latency, with the connection table, in MiB.
    pub(crate) fn most(cases: impl IntoIterator<Item = Case>) -> u32 {
        let all = |case: Case| {
            Memory::of(case).mib + (connection_memory(case.connections()) >> 20) as u32
        };
        cases.into_iter().map(all).fold(all(latency::CASE) + latency::GENERATOR_MIB, u32::max)
    }
}
