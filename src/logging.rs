//! Logs through tracing, DPDK's own lines among them.

use std::io;

use shunt_config::Level;
use shunt_dpdk::log as dpdk;
use tracing::{debug, error, info, warn};
use tracing_subscriber::{
    EnvFilter,
    fmt::{
        Formatter,
        format::{DefaultFields, Format},
    },
    reload::Handle,
};

use crate::cli::LogLevel;

/// The log of this process.
pub(crate) struct Logging {
    /// `None` where something else than the service file says how much is logged.
    filter: Option<Filter>,
}

type Filter = Handle<EnvFilter, Formatter<DefaultFields, Format, Stderr>>;
type Stderr = fn() -> io::Stderr;

impl Logging {
    /// Logs as the service file says now, unless the command line or RUST_LOG said something.
    pub(crate) fn set_level(&self, file: Level) {
        if let Some(filter) = &self.filter {
            // It fails when there is no log any more.
            let _ = filter.reload(EnvFilter::new(<&str>::from(file)));
        }
    }
}

/// Starts logging to standard error. The command line's level wins over RUST_LOG, and that over the
/// service file's.
pub(crate) fn init(command_line: Option<LogLevel>, file: Level) -> Logging {
    let said = match command_line {
        Some(level) => Some(Level::from(level).to_string()),
        None => std::env::var("RUST_LOG").ok(),
    };
    let is_said = said.is_some();
    let directives = said.unwrap_or_else(|| file.to_string());
    let log = tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::new(directives))
        .with_writer(io::stderr as Stderr)
        .with_filter_reloading();
    let filter = log.reload_handle();
    log.init();
    dpdk::set_sink(log_line);
    Logging { filter: (!is_said).then_some(filter) }
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
