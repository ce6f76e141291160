//! DPDK's log lines, handed to the program.
//!
//! Without a sink DPDK writes to standard error and to syslog. How much it says is decided by
//! EAL's `--log-level` argument.

use std::ffi::c_char;
use std::slice;
use std::sync::{Mutex, MutexGuard};

use shunt_dpdk_sys as sys;

/// An action failed, or a worse condition (smaller levels are more urgent).
pub const ERROR: u32 = sys::RTE_LOG_ERR;
/// Something is not as it should be.
pub const WARNING: u32 = sys::RTE_LOG_WARNING;
/// A normal but significant condition.
pub const NOTICE: u32 = sys::RTE_LOG_NOTICE;
/// Information.
pub const INFO: u32 = sys::RTE_LOG_INFO;
/// For developers.
pub const DEBUG: u32 = sys::RTE_LOG_DEBUG;

static SINK: Mutex<Sink> = Mutex::new(Sink { write: None, line: Vec::new() });

struct Sink {
    write: Option<fn(u32, &str)>,
    /// The beginning of a line whose end DPDK has not written yet.
    line: Vec<u8>,
}

/// Sends every later log line of DPDK to `sink`: its level (a constant of this module) and its
/// text, without the line feed. Bytes that are not UTF-8 are replaced.
///
/// May be called before `Eal::init` (to miss nothing) or after; a second call replaces the sink.
/// The sink runs on the thread that logs, one line at a time. It must not call DPDK or this
/// function, and a panic in it aborts the process.
pub fn set_sink(sink: fn(level: u32, line: &str)) {
    // The stream stays open until the process ends, so it is opened once.
    let first = lock().write.replace(sink).is_none();
    if first {
        // SAFETY: `write` has the signature that the shim expects and lives as long as the process.
        // It fails only for want of memory, and then DPDK logs where it did before.
        unsafe { sys::shunt_log_open(Some(write)) };
    }
}

fn lock() -> MutexGuard<'static, Sink> {
    SINK.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// Cuts what DPDK writes into lines.
extern "C" fn write(level: u32, text: *const c_char, length: usize) {
    // SAFETY: the shim passes the readable bytes of the stream's buffer.
    let text = unsafe { slice::from_raw_parts(text.cast::<u8>(), length) };
    let mut sink = lock();
    for piece in text.split_inclusive(|&byte| byte == b'\n') {
        sink.line.extend_from_slice(piece);
        if piece.ends_with(b"\n") {
            let line = std::mem::take(&mut sink.line);
            let line = String::from_utf8_lossy(&line);
            if let (Some(write), false) = (sink.write, line.trim().is_empty()) {
                write(level, line.trim_end());
            }
        }
    }
}
