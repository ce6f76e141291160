//! `shunt run`.

use std::path::Path;

use anyhow::Context;
use shunt_config::{Change, Config};
use shunt_dataplane::Director;
use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGTERM},
    iterator::Signals,
    low_level::signal_name,
};
use tracing::{error, info};

use crate::{
    cli::LogLevel,
    logging::{self, Logging},
    output,
};

/// Runs a director until a signal ends it, then prints what it did. SIGHUP has it read its service
/// file again.
pub(crate) fn run(file: &Path, log_level: Option<LogLevel>) -> anyhow::Result<()> {
    let mut config = Config::load(file)?;
    let logging = logging::init(log_level, config.log.level)?;
    // Caught from here on, so that a signal during the start ends in an orderly stop.
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP]).context("signals can't be caught")?;
    let mut director = Director::start(&config, file)?;

    for signal in signals.forever() {
        if signal == SIGHUP {
            config = reload(file, config, &mut director, &logging);
        } else {
            info!("{}: stopping", signal_name(signal).unwrap_or("a signal"));
            break;
        }
    }

    let report = director.stop(&config);
    let printed = output::print(format_args!("{report}\n"));
    let missing = report.mbufs.missing();
    anyhow::ensure!(missing == 0, "{missing} mbufs did not come back: please report this");
    printed
}

/// Has the director run what the file says now, and returns what it runs: the same as before if
/// anything is wrong with the file.
fn reload(file: &Path, running: Config, director: &mut Director, logging: &Logging) -> Config {
    let name = file.display();
    let new = match running.load_change(file) {
        Ok(new) if new == running => {
            info!("SIGHUP: {name} says nothing new");
            return running;
        }
        Ok(new) => new,
        Err(errors) => {
            error!("SIGHUP: the director goes on as before, because {name} is wrong:\n{errors}");
            return running;
        }
    };
    let moved = match director.apply(&new) {
        Ok(moved) => moved,
        Err(error) => {
            error!("SIGHUP: the director goes on as before: {error}");
            return running;
        }
    };
    let mut changes = vec![Change::between(&running, &new).to_string()];
    changes.extend(moved.iter().map(ToString::to_string));
    info!("SIGHUP: {name} runs now: {}", changes.join("; "));
    logging.set_level(new.log.level);
    new
}
