//! Programs that run beside a test.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, ExitStatus, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

use super::{
    POLL,
    namespace::{self, Lifetime, Namespace},
    wait_until,
};

/// A program that runs in a namespace until it is dropped, and writes what it says to a file.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
    namespace: Option<u64>,
    /// Whether it goes on when this is dropped.
    is_left: bool,
}

impl Process {
    pub(crate) fn start(
        namespace: &Namespace,
        lifetime: Lifetime,
        log: &Path,
        program: &[&str],
        stdin: Stdio,
    ) -> Process {
        let file = File::create(log).unwrap_or_else(|error| panic!("{}: {error}", log.display()));
        let child = namespace
            .command(program, lifetime)
            .stdin(stdin)
            .stdout(file.try_clone().expect("a second handle of a file"))
            .stderr(file)
            .spawn()
            .unwrap_or_else(|error| panic!("{} does not start: {error}", program[0]));
        Process {
            name: format!("{} in {}", program[0], namespace.name()),
            child,
            log: log.to_owned(),
            namespace: namespace.inode(),
            is_left: false,
        }
    }

    /// Its process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// All that it has said so far.
    #[must_use]
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// Whether it has not ended yet.
    #[must_use]
    pub fn is_running(&self) -> bool {
        is_running(self.id())
    }

    /// Waits until it has said something; false when it ends before, or the time is over.
    #[must_use]
    pub fn wait_for_words(&self, words: &str, timeout: Duration) -> bool {
        wait_until(timeout, || self.log().contains(words) || !self.is_running());
        self.log().contains(words)
    }

    /// Waits until a socket of its namespace has that local port.
    ///
    /// # Panics
    /// When there is none after five seconds, or it has ended.
    pub(crate) fn wait_for_port(&self, table: &str, port: u16) {
        let has_port = || {
            namespace::inode_of_process(self.id()) == self.namespace
                && has_socket(&self.proc_net(table), port)
        };
        wait_until(Duration::from_secs(5), || has_port() || !self.is_running());
        assert!(has_port(), "{} does not take {table} port {port}:\n{}", self.name, self.log());
    }

    /// A file below `/proc/net`, as its namespace has it.
    pub(crate) fn proc_net(&self, file: &str) -> String {
        fs::read_to_string(format!("/proc/{}/net/{file}", self.id())).unwrap_or_default()
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        // It may have ended by itself.
        let _ = kill_process(Pid::from_child(&self.child), signal);
    }

    /// Waits until it ends by itself; `None` when it does not.
    pub fn wait(&mut self, timeout: Duration) -> Option<ExitStatus> {
        let deadline = Instant::now() + timeout;
        loop {
            let status = self.child.try_wait().expect("a child can be waited for");
            if status.is_some() || Instant::now() > deadline {
                return status;
            }
            sleep(POLL);
        }
    }

    /// Ends it with SIGTERM; `None` when it had to be killed.
    pub fn stop(&mut self, timeout: Duration) -> Option<ExitStatus> {
        self.signal(Signal::TERM);
        let status = self.wait(timeout);
        if status.is_none() {
            self.signal(Signal::KILL);
            let _ = self.child.wait();
        }
        status
    }

    /// Lets it go on when this is dropped.
    pub(crate) fn leave(mut self) {
        self.is_left = true;
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if !self.is_left {
            self.stop(Duration::from_secs(5));
        }
    }
}

/// A zombie has ended.
fn is_running(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

/// Whether a table as in `/proc/net/tcp` has a socket with that local port which is in no
/// connection.
fn has_socket(table: &str, port: u16) -> bool {
    let is_it = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [_, local, remote, ..] = fields[..] else { return false };
        local.ends_with(&format!(":{port:04X}")) && remote == "00000000:0000"
    };
    table.lines().skip(1).any(is_it)
}

#[cfg(test)]
mod tests {
    use super::has_socket;

    #[test]
    fn sockets_are_found_by_their_port() {
        let table = "  sl  local_address rem_address   st
   0: 00000000:0050 00000000:0000 0A 00000000:00000000
   1: D202A8C0:9C41 C801A8C0:0016 01 00000000:00000000\n";
        assert!(has_socket(table, 80));
        assert!(!has_socket(table, 81));
        assert!(!has_socket(table, 0x9c41), "a socket in a connection");
    }
}
