//! The director as it is run: from its start until it is ready, and from SIGHUP until it says what became of
//! it.

use std::{
    fs,
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    sync::mpsc::{Receiver, channel},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};

/// What any step may take before it counts as failed.
const PATIENCE: Duration = Duration::from_secs(60);

/// How long something took, in milliseconds: until it was done, and on CPUs. The one is more than the other
/// where a machine is busy with other things, the other where several threads work.
#[derive(Clone, Copy)]
pub(crate) struct Took {
    pub(crate) millis: f64,
    pub(crate) cpu: f64,
}

/// How long `shunt check` takes, and what it prints.
pub(crate) fn check(file: &Path) -> anyhow::Result<(Took, String)> {
    // Those of the children of this process.
    let (start, cpu) = (Instant::now(), cpu_millis("self", 13)?);
    let output = shunt().args(["check", "--config"]).arg(file).output()?;
    let took = Took { millis: millis(start.elapsed()), cpu: cpu_millis("self", 13)? - cpu };
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok((took, String::from_utf8_lossy(&output.stdout).into_owned()))
}

fn shunt() -> Command {
    Command::new(env!("CARGO_BIN_EXE_shunt"))
}

/// A running director. It ends with its handle.
pub(crate) struct Running {
    child: Child,
    lines: Receiver<(Instant, String)>,
    /// The longest line of its log so far.
    longest_line: usize,
    /// Where its connections are, as it says itself: MiB.
    pub(crate) table_mib: f64,
}

impl Running {
    /// Starts it, and returns how long it took to be ready, too.
    pub(crate) fn start(file: &Path) -> anyhow::Result<(Running, Took)> {
        let start = Instant::now();
        let mut child = shunt()
            .args(["run", "--config"])
            .arg(file)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .context("shunt did not start")?;
        let log = BufReader::new(child.stderr.take().context("no pipe for its log")?);
        let (sender, lines) = channel();
        thread::spawn(move || {
            for line in log.lines().map_while(Result::ok) {
                if sender.send((Instant::now(), line)).is_err() {
                    return;
                }
            }
        });
        let mut running = Running { child, lines, longest_line: 0, table_mib: 0.0 };
        let (_, table) = running.wait_for("connection table: ")?;
        running.table_mib = before(&table, " MiB").context("no size of the connection table")?;
        let (ready, _) = running.wait_for("director ready")?;
        let took = Took { millis: millis(ready - start), cpu: running.cpu_millis()? };
        Ok((running, took))
    }

    /// Has it read its file again; returns how long it took until it said so, and the line.
    pub(crate) fn reload(&mut self) -> anyhow::Result<(Took, String)> {
        let (start, cpu) = (Instant::now(), self.cpu_millis()?);
        let process = self.child.id().to_string();
        let status = Command::new("kill").args(["-HUP", &process]).status()?;
        ensure!(status.success(), "kill: {status}");
        let (then, line) = self.wait_for("SIGHUP")?;
        Ok((Took { millis: millis(then - start), cpu: self.cpu_millis()? - cpu }, line))
    }

    fn wait_for(&mut self, words: &str) -> anyhow::Result<(Instant, String)> {
        loop {
            let next = self.lines.recv_timeout(PATIENCE);
            let (then, line) = next.with_context(|| format!("it has not logged \"{words}\""))?;
            self.longest_line = self.longest_line.max(line.chars().count());
            if line.contains(words) {
                return Ok((then, line));
            }
        }
    }

    /// The time that it has had on CPUs, its workers' included.
    fn cpu_millis(&self) -> anyhow::Result<f64> {
        cpu_millis(&self.child.id().to_string(), 11)
    }

    /// Characters in the longest line of its log so far.
    pub(crate) fn longest_line(&self) -> usize {
        self.longest_line
    }

    /// MiB that it occupies now, and that it has occupied at most.
    pub(crate) fn memory(&self) -> anyhow::Result<(f64, f64)> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let field = |name: &str| {
            let line = status.lines().find(|line| line.starts_with(name))?;
            let kib: f64 = line.split_whitespace().nth(1)?.parse().ok()?;
            Some(kib / 1024.0)
        };
        field("VmRSS:").zip(field("VmHWM:")).context("no VmRSS and VmHWM in its status")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// The time on CPUs by two neighbouring fields of a process's statistics, counted behind its name.
fn cpu_millis(process: &str, field: usize) -> anyhow::Result<f64> {
    /// Of a tick of Linux's statistics: `USER_HZ` is 100 everywhere.
    const MILLIS: f64 = 10.0;
    let statistics = fs::read_to_string(format!("/proc/{process}/stat"))?;
    let (_, fields) = statistics.rsplit_once(')').context("no name in a process's statistics")?;
    let fields = fields.split_whitespace().skip(field).take(2);
    let ticks: u64 = fields.map(str::parse::<u64>).sum::<Result<_, _>>()?;
    Ok(ticks as f64 * MILLIS)
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

/// The number right before `unit`.
fn before(line: &str, unit: &str) -> Option<f64> {
    line.split_once(unit)?.0.split_whitespace().last()?.parse().ok()
}
