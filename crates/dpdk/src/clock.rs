//! The CPU's cycle counter.

use shunt_dpdk_sys as sys;

/// The time stamp counter: monotonic, the same on every core of the machines that DPDK supports,
/// and read without a system call.
pub struct Tsc;

impl Tsc {
    /// The counter, in cycles since an arbitrary moment (`rte_rdtsc`).
    #[inline]
    pub fn now() -> u64 {
        // SAFETY: reading the counter has no precondition.
        unsafe { sys::shunt_rdtsc() }
    }

    /// Cycles per second (`rte_get_tsc_hz`), which [`crate::Eal::init`] measures; zero before.
    pub fn hz() -> u64 {
        // SAFETY: the function reads an integer.
        unsafe { sys::rte_get_tsc_hz() }
    }
}
