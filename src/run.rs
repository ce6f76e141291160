//! `shunt run`.

use std::{
    path::{Path, PathBuf},
    sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    thread,
    time::{Duration, Instant},
};

use anyhow::Context;
use shunt_config::{Change, Config, Errors};
use shunt_dataplane::{Director, MaglevDisruption};
use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGTERM},
    iterator::Signals,
    low_level::signal_name,
};
use tracing::{debug, error, info, warn};

use crate::{
    cli::LogLevel,
    logging::{self, Logging},
    output,
};

/// What the main lcore waits for.
enum Event {
    Signal(i32),
    /// The service file was read for a change.
    Read(Box<Result<Config, Errors>>),
}

/// Runs a director until a signal ends it, then prints what it did. SIGHUP has it read its service
/// file again.
pub(crate) fn run(file: &Path, log_level: Option<LogLevel>) -> anyhow::Result<()> {
    let config = Config::load(file)?;
    let logging = logging::init(log_level, config.log.level)?;
    // Caught from here on, so that a signal during the start ends in an orderly stop.
    let signals = Signals::new([SIGINT, SIGTERM, SIGHUP]).context("signals can't be caught")?;
    let director = Director::start(&config, file)?;
    let (sender, events) = channel();
    listen(signals, sender.clone()).context("no thread for signals")?;

    let reader = Reader { file: file.to_owned(), events: sender, state: ReaderState::Idle };
    let mut running = Running { config, director, reader };
    running.until_stopped(&events, &logging);

    let report = running.director.stop(&running.config);
    let printed = output::print(format_args!("{report}\n"));
    let missing = report.mbufs.missing();
    anyhow::ensure!(missing == 0, "{missing} mbufs did not come back: please report this");
    printed
}

/// Makes events of signals.
fn listen(mut signals: Signals, events: Sender<Event>) -> std::io::Result<()> {
    let thread = thread::Builder::new().name("signals".to_owned());
    thread.spawn(move || {
        for signal in signals.forever() {
            if events.send(Event::Signal(signal)).is_err() {
                return;
            }
        }
    })?;
    Ok(())
}

/// A director, what it runs, and who reads what it is to run.
struct Running {
    config: Config,
    director: Director,
    reader: Reader,
}

impl Running {
    /// Serves events until one is a signal to stop.
    fn until_stopped(&mut self, events: &Receiver<Event>, logging: &Logging) {
        let mut next_watch = Instant::now();
        loop {
            let now = Instant::now();
            if now >= next_watch {
                self.director.watch();
                next_watch = now + Director::WATCH_INTERVAL;
            }
            let event = match events.recv_timeout(next_watch.saturating_duration_since(now)) {
                Ok(event) => event,
                Err(RecvTimeoutError::Timeout) => continue,
                // It can't be: `self.reader` has a sender.
                Err(RecvTimeoutError::Disconnected) => return,
            };
            match event {
                Event::Signal(SIGHUP) => self.reader.read(&self.config),
                Event::Signal(signal) => {
                    info!("{}: stopping", signal_name(signal).unwrap_or("a signal"));
                    return;
                }
                Event::Read(result) => {
                    let is_outdated = self.reader.finish();
                    if is_outdated {
                        self.reader.read(&self.config);
                    } else {
                        self.change(*result, logging);
                    }
                }
            }
        }
    }

    /// Has the director run what the file says now. If anything is wrong with the file, it goes on as
    /// before.
    fn change(&mut self, new: Result<Config, Errors>, logging: &Logging) {
        let name = self.reader.file.display();
        let new = match new {
            Ok(new) if new == self.config => {
                info!("SIGHUP: {name} says nothing new");
                return;
            }
            Ok(new) => new,
            Err(errors) => {
                error!(
                    "SIGHUP: the director goes on as before, because {name} is wrong:\n{errors}"
                );
                return;
            }
        };
        let moved = match self.director.apply(&new) {
            Ok(moved) => moved,
            Err(error) => {
                error!("SIGHUP: the director goes on as before: {error}");
                return;
            }
        };
        let change = Change::between(&self.config, &new);
        let mut changes = vec![change.to_string()];
        changes.extend(describe_moved(&moved));
        info!("SIGHUP: {name} runs now: {}", changes.join("; "));
        logging.set_level(new.log.level);
        if change.is_summarised() {
            change.details().for_each(|detail| debug!("{detail}"));
        }
        if moved.len() > FEW {
            moved.iter().for_each(|moved| debug!("{moved}"));
        }
        self.config = new;
    }
}

/// Of so many services it is told one by one what a change did to their clients.
const FEW: usize = 8;

/// What a change did to clients of services that hash, in few words.
fn describe_moved(moved: &[MaglevDisruption]) -> Vec<String> {
    if moved.len() <= FEW {
        return moved.iter().map(ToString::to_string).collect();
    }
    let average = moved.iter().map(|moved| moved.share).sum::<f64>() / moved.len() as f64;
    let most = moved.iter().max_by(|one, other| one.share.total_cmp(&other.share));
    let most = most.map(|MaglevDisruption { service, share }| {
        format!(", at most {:.1} % (of {service})", share * 100.0)
    });
    vec![format!(
        "of {} services clients move: {:.1} % on average{}",
        moved.len(),
        average * 100.0,
        most.unwrap_or_default()
    )]
}

/// Reads the service file again, on a thread of its own: a file may be on a file system that hangs,
/// and meanwhile the main lcore has other things to do, such as to stop.
struct Reader {
    file: PathBuf,
    events: Sender<Event>,
    state: ReaderState,
}

enum ReaderState {
    Idle,
    /// Since when, and whether the file was to be read again meanwhile.
    Reading {
        since: Instant,
        again: bool,
    },
}

impl Reader {
    /// When a file that isn't read yet is worth a warning.
    const SLOW: Duration = Duration::from_secs(2);

    /// Has the file read for a director that runs `running`: now, or once more if it is being read.
    fn read(&mut self, running: &Config) {
        if let ReaderState::Reading { since, again } = &mut self.state {
            *again = true;
            if since.elapsed() >= Reader::SLOW {
                warn!(
                    "SIGHUP: {} is still being read, for {} s now; the director goes on as before",
                    self.file.display(),
                    since.elapsed().as_secs()
                );
            }
            return;
        }
        let (running, file, events) = (running.clone(), self.file.clone(), self.events.clone());
        let read = move || {
            let result = running.load_change(&file);
            // Nobody wants it when the director stops.
            let _ = events.send(Event::Read(Box::new(result)));
        };
        match thread::Builder::new().name("reload".to_owned()).spawn(read) {
            Ok(_) => self.state = ReaderState::Reading { since: Instant::now(), again: false },
            Err(error) => error!("SIGHUP: no thread to read {}: {error}", self.file.display()),
        }
    }

    /// Notes that the file was read, and returns whether it is to be read again.
    fn finish(&mut self) -> bool {
        let state = std::mem::replace(&mut self.state, ReaderState::Idle);
        matches!(state, ReaderState::Reading { again: true, .. })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_happened_to_many_services_is_summarised() {
        let moved = |count: u8| -> Vec<MaglevDisruption> {
            let one = |number| MaglevDisruption {
                service: format!("tcp 192.0.2.{number}:80"),
                share: f64::from(number) / 100.0,
            };
            (1..=count).map(one).collect()
        };
        assert_eq!(describe_moved(&moved(0)), [""; 0]);
        let few = describe_moved(&moved(8));
        assert_eq!((few.len(), &*few[7]), (8, "8.0 % of the clients of tcp 192.0.2.8:80 move"));
        assert_eq!(
            describe_moved(&moved(9)),
            ["of 9 services clients move: 5.0 % on average, at most 9.0 % (of tcp 192.0.2.9:80)"]
        );
    }
}
