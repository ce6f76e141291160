//! `shunt run`.

use anyhow::Context;
use shunt_config::Config;
use shunt_dataplane::Director;
use signal_hook::{
    consts::{SIGINT, SIGTERM},
    iterator::Signals,
};
use tracing::info;

use crate::{cli::LogLevel, logging};

/// Runs a director until a signal ends it, then prints what it did.
pub(crate) fn run(config: &Config, log_level: Option<LogLevel>) -> anyhow::Result<()> {
    logging::init(log_level, config.log.level);
    // Caught from here on, so that a signal during the start ends in an orderly stop.
    let mut signals = Signals::new([SIGINT, SIGTERM]).context("signals can't be caught")?;
    let director = Director::start(config)?;

    let signal = signals.forever().next();
    let name = signal.and_then(signal_hook::low_level::signal_name).unwrap_or("a signal");
    info!("{name}: stopping");

    let report = director.stop(config);
    println!("{report}");
    let missing = report.mbufs.missing();
    anyhow::ensure!(missing == 0, "{missing} mbufs did not come back: please report this");
    Ok(())
}
