//! Other programs that are run, and end with their handles.

use std::{
    fs,
    io::{BufRead, BufReader, Read},
    process::{Child, ChildStderr, ChildStdout, Command, Stdio},
    time::Duration,
};

use anyhow::{Context, ensure};

/// A process that ends with its handle.
pub(crate) struct Running {
    child: Child,
    log: BufReader<ChildStderr>,
}

impl Running {
    /// Starts it, with nothing to read.
    pub(crate) fn start(command: &mut Command) -> anyhow::Result<Running> {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let program = command.get_program().display().to_string();
        let mut child = command.spawn().with_context(|| format!("{program} did not start"))?;
        let log = BufReader::new(child.stderr.take().context("no pipe for its log")?);
        Ok(Running { child, log })
    }

    /// Waits until it has logged that.
    pub(crate) fn wait_for(&mut self, words: &str) -> anyhow::Result<()> {
        let mut log = String::new();
        while !log.contains(words) {
            let length = self.log.read_line(&mut log)?;
            ensure!(length > 0, "{}", log.trim());
        }
        Ok(())
    }

    /// What it prints. To be asked for once.
    pub(crate) fn output(&mut self) -> anyhow::Result<ChildStdout> {
        self.child.stdout.take().context("its output was taken")
    }

    /// The time that it has had on CPUs.
    pub(crate) fn cpu_time(&self) -> anyhow::Result<Duration> {
        let tasks = format!("/proc/{}/task", self.child.id());
        let mut nanos = 0;
        for task in fs::read_dir(&tasks).context(tasks)? {
            // Threads may end meanwhile; of the others the first number is the time on a CPU.
            let Ok(statistics) = fs::read_to_string(task?.path().join("schedstat")) else {
                continue;
            };
            let time = statistics.split_whitespace().next().and_then(|time| time.parse().ok());
            nanos += time.unwrap_or(0);
        }
        Ok(Duration::from_nanos(nanos))
    }

    /// Ends it, and returns what it has complained of.
    pub(crate) fn last_words(&mut self) -> String {
        self.end();
        let mut words = String::new();
        // What is no UTF-8 is no complaint.
        let _ = self.log.read_to_string(&mut words);
        words.trim().to_owned()
    }

    /// Ends it, which leaves nothing behind: neither testpmd nor the director has files that matter.
    fn end(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.end();
    }
}
