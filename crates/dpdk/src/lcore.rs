//! Worker lcores: the threads that EAL pins to CPUs.

use std::any::Any;
use std::ffi::{c_int, c_void};
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use shunt_dpdk_sys as sys;

use crate::eal;
use crate::error::{EINVAL, Error};

/// DPDK's number of a logical core.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LcoreId(pub u32);

impl fmt::Display for LcoreId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// DPDK checks that an lcore is idle and gives it work in two steps, which must not interleave with
/// those of another thread.
static LAUNCH: Mutex<()> = Mutex::new(());

/// How work on an lcore ended: with its result, or with a panic.
type Outcome<T> = Result<T, Box<dyn Any + Send>>;

/// Runs `f` on a worker lcore (`rte_eal_remote_launch`).
///
/// # Errors
/// `EBUSY` when the lcore is at work; `EINVAL` when EAL runs no worker of that number.
pub fn launch<T, F>(lcore: LcoreId, f: F) -> Result<LcoreHandle<T>, Error>
where
    T: Send + 'static,
    F: FnOnce() -> T + Send + 'static,
{
    const CALL: &str = "rte_eal_remote_launch";
    if !is_worker(lcore) {
        return Err(Error::new(CALL, EINVAL));
    }
    // Room for the result, so that the lcore never waits for the handle.
    let (sender, outcome) = sync_channel(1);
    let task = Box::into_raw(Box::new(Task { f, sender }));
    let status = {
        let _guard = LAUNCH.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        // SAFETY: the lcore exists and is a worker. `run::<T, F>` gets the Task<T, F> that it
        // expects; on success the lcore calls it exactly once and owns the task from here.
        unsafe { sys::rte_eal_remote_launch(Some(run::<T, F>), task.cast(), lcore.0) }
    };
    if let Err(error) = Error::check(CALL, status) {
        // SAFETY: the lcore did not take the task, so it is still ours.
        drop(unsafe { Box::from_raw(task) });
        return Err(error);
    }
    Ok(LcoreHandle { lcore, outcome })
}

/// Work that an lcore does. Dropping it leaves the lcore at work.
#[derive(Debug)]
pub struct LcoreHandle<T> {
    lcore: LcoreId,
    outcome: Receiver<Outcome<T>>,
}

impl<T> LcoreHandle<T> {
    /// The lcore at work.
    pub fn lcore(&self) -> LcoreId {
        self.lcore
    }

    /// Waits for the end of the work and returns its result (`rte_eal_wait_lcore`). Afterwards
    /// everything that the work owned is dropped, and the lcore is free for other work.
    ///
    /// # Panics
    /// With the panic of the work, if it panicked.
    pub fn join(self) -> T {
        // rte_eal_wait_lcore spins; here it has only the lcore's last few instructions to wait for.
        let outcome = self.outcome.recv().expect("an lcore sends its outcome before it ends");
        // SAFETY: `launch` checked that the lcore is a worker.
        unsafe { sys::rte_eal_wait_lcore(self.lcore.0) };
        outcome.unwrap_or_else(|panic| resume_unwind(panic))
    }
}

struct Task<T, F> {
    f: F,
    sender: SyncSender<Outcome<T>>,
}

/// The lcore's side of [`launch`]. A panic must not unwind into DPDK's C frames, so it stops here.
unsafe extern "C" fn run<T, F: FnOnce() -> T>(task: *mut c_void) -> c_int {
    // SAFETY: `launch` passes a boxed Task<T, F> and gives up its ownership.
    let task = unsafe { Box::from_raw(task.cast::<Task<T, F>>()) };
    let Task { f, sender } = *task;
    let outcome = catch_unwind(AssertUnwindSafe(f));
    // The handle may be gone; then nobody wants the outcome.
    let _ = sender.send(outcome);
    0
}

fn is_worker(lcore: LcoreId) -> bool {
    // SAFETY: EAL runs when these are called; rte_lcore_is_enabled takes any number.
    eal::is_running()
        && unsafe {
            sys::rte_lcore_is_enabled(lcore.0) != 0 && lcore.0 != sys::rte_get_main_lcore()
        }
}
