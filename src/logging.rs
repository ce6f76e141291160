//! Logs through tracing, DPDK's own lines among them.

use std::io;

use shunt_config::Level;
use shunt_dpdk::log as dpdk;
use tracing::{debug, error, info, warn};
use tracing_subscriber::EnvFilter;

use crate::cli::LogLevel;

/// Starts logging to standard error. The command line's level wins over RUST_LOG, and that over the
/// service file's.
pub(crate) fn init(command_line: Option<LogLevel>, file: Level) {
    let directives = match command_line {
        Some(level) => Level::from(level).as_str().to_owned(),
        None => std::env::var("RUST_LOG").unwrap_or_else(|_| file.as_str().to_owned()),
    };
    tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::new(directives))
        .with_writer(io::stderr)
        .init();
    dpdk::set_sink(log_line);
}

/// One line of DPDK's. What it calls info and notice is detail to us.
fn log_line(level: u32, line: &str) {
    match level {
        0..=dpdk::ERROR => error!(target: "eal", "{line}"),
        dpdk::WARNING => warn!(target: "eal", "{line}"),
        dpdk::NOTICE => info!(target: "eal", "{line}"),
        _ => debug!(target: "eal", "{line}"),
    }
}
