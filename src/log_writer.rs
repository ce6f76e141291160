//! Writing the log, without ever waiting for whoever reads it.
//!
//! Lines go through a bounded queue to a thread that writes them to standard error. A worker that has
//! something to say never waits for a disk or a pipe, and a log that can't be written (its reader has
//! gone, the disk is full, nobody empties the pipe) costs its lines and nothing else. How many were
//! lost is said as soon as something can be written again.

use std::{
    io::{self, Write},
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread,
    time::{Duration, Instant},
};

use tracing_subscriber::fmt::MakeWriter;

/// Lines that wait to be written, at most.
const QUEUE: usize = 4096;

/// Takes lines for the log. Clones write to the same log.
#[derive(Clone)]
pub(crate) struct LogWriter {
    lines: SyncSender<Vec<u8>>,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    /// Lines in the queue or being written. Loggers count up, the thread counts down.
    pending: AtomicUsize,
    /// Lines lost since that was last said. Loggers and the thread count up, the thread takes it.
    lost: AtomicU64,
}

impl LogWriter {
    /// Starts the thread that writes to `output`.
    pub(crate) fn start(output: impl Write + Send + 'static) -> io::Result<LogWriter> {
        let (lines, queue) = sync_channel(QUEUE);
        let shared = Arc::new(Shared::default());
        let for_thread = Arc::clone(&shared);
        let thread = thread::Builder::new().name("log".to_owned());
        thread.spawn(move || write_all(&queue, &for_thread, output))?;
        Ok(LogWriter { lines, shared })
    }

    /// Puts a line into the queue, or counts it as lost where there is no room.
    pub(crate) fn send(&self, line: &[u8]) {
        self.shared.pending.fetch_add(1, Ordering::AcqRel);
        if self.lines.try_send(line.to_vec()).is_err() {
            self.shared.pending.fetch_sub(1, Ordering::AcqRel);
            self.shared.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Waits until all that was sent is written, but no longer than `patience`.
    pub(crate) fn flush(&self, patience: Duration) {
        let deadline = Instant::now() + patience;
        while self.shared.pending.load(Ordering::Acquire) > 0 && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(1));
        }
    }
}

/// The thread: writes what comes until nobody can send any more.
fn write_all(queue: &Receiver<Vec<u8>>, shared: &Shared, mut output: impl Write) {
    for line in queue {
        let lost = shared.lost.swap(0, Ordering::Relaxed);
        let said = match lost {
            0 => Ok(()),
            _ => writeln!(output, "{lost} lines of this log were lost: it could not be written"),
        };
        if said.is_err() {
            shared.lost.fetch_add(lost, Ordering::Relaxed);
        }
        if output.write_all(&line).and_then(|()| output.flush()).is_err() {
            shared.lost.fetch_add(1, Ordering::Relaxed);
        }
        shared.pending.fetch_sub(1, Ordering::AcqRel);
    }
}

impl<'a> MakeWriter<'a> for LogWriter {
    type Writer = &'a LogWriter;

    fn make_writer(&'a self) -> &'a LogWriter {
        self
    }
}

/// tracing writes each event as a whole.
impl Write for &LogWriter {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.send(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Mutex, MutexGuard};

    const PATIENCE: Duration = Duration::from_secs(30);

    /// An output that works, fails, or keeps its writer waiting while the test holds the lock.
    #[derive(Clone, Default)]
    struct Output(Arc<Mutex<State>>);

    #[derive(Default)]
    struct State {
        written: Vec<u8>,
        is_full: bool,
    }

    impl Output {
        fn state(&self) -> MutexGuard<'_, State> {
            self.0.lock().unwrap()
        }

        fn text(&self) -> String {
            String::from_utf8(self.state().written.clone()).unwrap()
        }
    }

    impl Write for Output {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let mut state = self.state();
            if state.is_full {
                return Err(io::ErrorKind::StorageFull.into());
            }
            state.written.extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn what_could_not_be_written_is_counted_and_said() {
        let output = Output::default();
        let log = LogWriter::start(output.clone()).unwrap();
        log.send(b"one\n");
        log.flush(PATIENCE);
        output.state().is_full = true;
        log.send(b"two\n");
        log.send(b"three\n");
        log.flush(PATIENCE);
        output.state().is_full = false;
        log.send(b"four\n");
        log.flush(PATIENCE);
        assert_eq!(
            output.text(),
            "one\n2 lines of this log were lost: it could not be written\nfour\n"
        );
    }

    #[test]
    fn nobody_waits_for_an_output_that_hangs() {
        let output = Output::default();
        let log = LogWriter::start(output.clone()).unwrap();
        let hanging = output.state();
        let sent = QUEUE + 100;
        for _ in 0..sent {
            log.send(b"x\n");
        }
        log.flush(Duration::from_millis(10));
        drop(hanging);
        log.flush(PATIENCE);
        log.send(b"last\n");
        log.flush(PATIENCE);
        let text = output.text();
        let lost = text.lines().find_map(|line| line.split_once(" lines of this log were lost"));
        let lost: usize = lost.expect("lost lines").0.parse().unwrap();
        assert!(lost >= 99, "the queue holds {QUEUE}, and one was being written: {lost}");
        assert_eq!(text.lines().filter(|line| *line == "x").count() + lost, sent);
    }
}
