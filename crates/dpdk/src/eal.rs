//! The environment abstraction layer: DPDK's start and end.

use std::ffi::{CStr, CString, c_char, c_int};
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};

use shunt_dpdk_sys as sys;

use crate::error::{EALREADY, EINVAL, Error};
use crate::lcore::LcoreId;

/// Set for good by the first attempt to initialise.
static INITIALISED: AtomicBool = AtomicBool::new(false);
/// Set while there is an EAL to call.
static RUNNING: AtomicBool = AtomicBool::new(false);

/// Proof that EAL is initialised. There is at most one per process.
#[derive(Debug)]
pub struct Eal {
    _private: (),
}

impl Eal {
    /// Initialises EAL (`rte_eal_init`) with its command-line arguments, the program's name not
    /// among them. Probes the devices that they name.
    ///
    /// The calling thread becomes the main lcore and is pinned to its CPU; threads that it starts
    /// later inherit that. Can be tried once per process: after a failure DPDK is half initialised.
    ///
    /// EAL needs neither root nor huge pages with `--no-huge --no-pci --no-shconf --no-telemetry
    /// -m <megabytes>`. Its run-time directory is `/var/run/dpdk`, or for other users than root
    /// `$XDG_RUNTIME_DIR/dpdk` (else `/tmp/dpdk`); with `--no-shconf` it works without one.
    ///
    /// # Errors
    /// What EAL reports; `EALREADY` on a second attempt; `EINVAL` when an argument has a NUL byte.
    pub fn init(args: &[impl AsRef<str>]) -> Result<Self, Error> {
        const CALL: &str = "rte_eal_init";
        let argv = argv(args).ok_or(Error::new(CALL, EINVAL))?;
        if INITIALISED.swap(true, Ordering::AcqRel) {
            return Err(Error::new(CALL, EALREADY));
        }
        let argc = c_int::try_from(args.len() + 1).map_err(|_| Error::new(CALL, EINVAL))?;
        // SAFETY: argv has argc strings and a final null, all of which live as long as the
        // process. The flag above makes this the only call.
        if unsafe { sys::rte_eal_init(argc, argv) } < 0 {
            return Err(Error::last(CALL));
        }
        RUNNING.store(true, Ordering::Release);
        Ok(Self { _private: () })
    }

    /// The lcore that runs the thread that initialised EAL.
    pub fn main_lcore(&self) -> LcoreId {
        // SAFETY: EAL is initialised.
        LcoreId(unsafe { sys::rte_get_main_lcore() })
    }

    /// The other lcores, in ascending order; [`crate::launch`] gives them work.
    pub fn worker_lcores(&self) -> Vec<LcoreId> {
        let next = |lcore: u32| {
            // SAFETY: EAL is initialised.
            let next = unsafe { sys::rte_get_next_lcore(lcore, 1, 0) };
            (next < sys::RTE_MAX_LCORE).then_some(next)
        };
        // DPDK starts at 0 when it is asked what follows -1.
        std::iter::successors(next(u32::MAX), |&lcore| next(lcore)).map(LcoreId).collect()
    }

    /// The version of the DPDK whose headers this was built against, such as `22.11.11`.
    pub const BUILT_AGAINST: &str = sys::DPDK_VERSION;

    /// The name and version of the DPDK that is loaded, such as `DPDK 22.11.11`. Needs no EAL.
    pub fn version() -> String {
        // SAFETY: rte_version returns a static string.
        unsafe { CStr::from_ptr(sys::rte_version()) }.to_string_lossy().into_owned()
    }

    /// Releases what EAL holds (`rte_eal_cleanup`): devices, memory, run-time files.
    ///
    /// # Errors
    /// What DPDK reports. EAL is gone in any case.
    ///
    /// # Safety
    /// Nothing that came from DPDK may be left or come into use again: no mempool, mbuf, burst
    /// with mbufs, port or queue, and no lcore may be at work.
    pub unsafe fn cleanup(self) -> Result<(), Error> {
        RUNNING.store(false, Ordering::Release);
        // SAFETY: `self` proves that EAL is initialised; the caller vouches for the rest.
        Error::check("rte_eal_cleanup", unsafe { sys::rte_eal_cleanup() })
    }
}

/// Whether there is an EAL, for what does not ask for the token.
pub(crate) fn is_running() -> bool {
    RUNNING.load(Ordering::Acquire)
}

/// The C form of the arguments. EAL may keep pointers to them, so they are leaked.
fn argv(args: &[impl AsRef<str>]) -> Option<*mut *mut c_char> {
    let mut argv = vec![c"shunt".to_owned().into_raw()];
    for arg in args {
        argv.push(CString::new(arg.as_ref()).ok()?.into_raw());
    }
    argv.push(ptr::null_mut());
    Some(argv.leak().as_mut_ptr())
}
