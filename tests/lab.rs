//! The lab's experiments, on the real binary: a client, a director and two real servers in network
//! namespaces. They need root and a minute each, so that `cargo test` leaves them out, and
//! `sudo scripts/test` runs them. `SHUNT_BINARY` names another build of `shunt` to test.

use std::path::Path;
use std::process::Command;
use std::sync::{Mutex, PoisonError};

/// The lab's namespaces have fixed names: one lab at a time.
static LAB: Mutex<()> = Mutex::new(());

fn experiments_pass_on(device: &str) {
    experiments_pass_with(device, 1);
}

fn experiments_pass_with(device: &str, workers: usize) {
    let _lab = LAB.lock().unwrap_or_else(PoisonError::into_inner);
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let binary =
        std::env::var_os("SHUNT_BINARY").unwrap_or_else(|| env!("CARGO_BIN_EXE_shunt").into());
    let status = Command::new(root.join("scripts/lab"))
        .args(["run", "--device", device, "--workers", &workers.to_string(), "--binary"])
        .arg(&binary)
        .status()
        .expect("scripts/lab starts");
    assert!(status.success(), "scripts/lab run --device {device}: {status}; its words are above");
}

#[test]
#[ignore = "needs root: sudo scripts/test"]
fn af_packet() {
    experiments_pass_on("af_packet");
}

/// On one queue, that is: one worker receives for both.
#[test]
#[ignore = "needs root: sudo scripts/test"]
fn two_workers() {
    experiments_pass_with("af_packet", 2);
}

#[test]
#[ignore = "needs root: sudo scripts/test"]
fn af_xdp() {
    experiments_pass_on("af_xdp");
}

#[test]
#[ignore = "needs root: sudo scripts/test"]
fn tap() {
    experiments_pass_on("tap");
}
