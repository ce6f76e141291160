//! Logs through tracing, DPDK's own lines among them.

use std::{backtrace::Backtrace, io, panic, time::Duration};

use anyhow::Context;
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

use crate::{cli::LogLevel, log_writer::LogWriter};

/// How long the end of the process waits for the log's last lines to be written.
const PATIENCE: Duration = Duration::from_secs(1);

/// The log of this process. When it goes, the lines so far are written.
pub(crate) struct Logging {
    writer: LogWriter,
    /// `None` where something else than the service file says how much is logged.
    filter: Option<Filter>,
}

type Filter = Handle<EnvFilter, Formatter<DefaultFields, Format, LogWriter>>;

impl Logging {
    /// Logs as the service file says now, unless the command line or RUST_LOG said something.
    pub(crate) fn set_level(&self, file: Level) {
        if let Some(filter) = &self.filter {
            // It fails when there is no log any more.
            let _ = filter.reload(EnvFilter::new(<&str>::from(file)));
        }
    }
}

impl Drop for Logging {
    fn drop(&mut self) {
        self.writer.flush(PATIENCE);
    }
}

/// Starts logging to standard error. The command line's level wins over RUST_LOG, and that over the
/// service file's.
///
/// # Errors
/// When the system has no thread for it.
pub(crate) fn init(command_line: Option<LogLevel>, file: Level) -> anyhow::Result<Logging> {
    let said = match command_line {
        Some(level) => Some(Level::from(level).to_string()),
        None => std::env::var("RUST_LOG").ok(),
    };
    let is_said = said.is_some();
    let directives = said.unwrap_or_else(|| file.to_string());
    let writer = LogWriter::start(io::stderr()).context("no thread for the log")?;
    let log = tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::new(directives))
        .with_writer(writer.clone())
        // It would say so with `eprintln!`, which panics where standard error can't be written.
        .log_internal_errors(false)
        .with_filter_reloading();
    let filter = log.reload_handle();
    log.init();
    dpdk::set_sink(log_line);
    log_panics(writer.clone());
    Ok(Logging { writer, filter: (!is_said).then_some(filter) })
}

/// Has a panic's message take the way of all lines, after those that were logged before it.
fn log_panics(writer: LogWriter) {
    panic::set_hook(Box::new(move |panic| {
        writer.send(format!("shunt: {panic}\n{}\n", Backtrace::capture()).as_bytes());
        writer.flush(PATIENCE);
    }));
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
