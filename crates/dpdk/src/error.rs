//! The one error type: which DPDK call failed, and why.

use std::ffi::{CStr, c_int};
use std::fmt;

use shunt_dpdk_sys as sys;

/// A DPDK call that failed.
///
/// Its text is the call and DPDK's own words: `rte_eth_dev_configure: Invalid argument (errno 22)`.
/// DPDK's log ([`crate::log`]) often says more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Error {
    /// The DPDK function.
    pub call: &'static str,
    /// The positive errno value, of `errno.h` or of `rte_errno.h`.
    pub errno: i32,
}

// Values of errno.h that this crate returns itself; they are the same on every Linux architecture
// that DPDK supports.
pub(crate) const EBUSY: i32 = 16;
pub(crate) const ENODEV: i32 = 19;
pub(crate) const EINVAL: i32 = 22;
pub(crate) const ENOTSUP: i32 = 95;
pub(crate) const EALREADY: i32 = 114;

impl Error {
    pub(crate) const fn new(call: &'static str, errno: i32) -> Self {
        Self { call, errno }
    }

    /// For calls that leave the reason in `rte_errno`.
    pub(crate) fn last(call: &'static str) -> Self {
        // SAFETY: the function reads a thread-local integer.
        Self::new(call, unsafe { sys::shunt_errno() })
    }

    /// For calls that return a negative errno value on failure.
    pub(crate) fn check(call: &'static str, status: c_int) -> Result<(), Self> {
        if status < 0 { Err(Self::new(call, -status)) } else { Ok(()) }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // SAFETY: rte_strerror returns a NUL-terminated string, or this thread's buffer with one,
        // which nothing overwrites before the text is copied out.
        let reason = unsafe { CStr::from_ptr(sys::rte_strerror(self.errno)) };
        write!(f, "{}: {} (errno {})", self.call, reason.to_string_lossy(), self.errno)
    }
}

impl std::error::Error for Error {}
