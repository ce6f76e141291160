//! Network namespaces, by the `ip` command, and the processes in them.

use std::{
    collections::BTreeSet,
    env,
    ffi::OsString,
    fs,
    os::unix::{
        fs::MetadataExt,
        process::{CommandExt, ExitStatusExt},
    },
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};

use super::poll_until;

/// A proxy is for the machine's network, which namespaces are no part of.
const PROXIES: [&str; 4] = ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"];

/// Debian keeps nginx, ethtool and others in sbin, which is not in everybody's PATH.
pub(super) fn search_path() -> OsString {
    let mut path = env::var_os("PATH").unwrap_or_default();
    path.push(":/usr/local/sbin:/usr/sbin:/sbin");
    path
}

/// Where a program ends: with the process that started it, or by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lifetime {
    /// The kernel kills it when the *thread* that started it ends, however that happens.
    OfItsParent,
    /// In a session of its own, away from the terminal that it was started on.
    Unlimited,
}

/// A network namespace with a name.
#[derive(Clone, Debug)]
pub(crate) struct Namespace {
    name: String,
}

impl Namespace {
    pub(crate) fn named(name: String) -> Namespace {
        Namespace { name }
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Makes it, with its loopback interface up.
    pub(crate) fn create(&self) {
        ip(&format!("netns add {}", self.name));
        self.ip("link set lo up");
    }

    /// `ip` in it.
    pub(crate) fn ip(&self, arguments: &str) {
        ip(&format!("-n {} {arguments}", self.name));
    }

    /// Runs a command in it that has to succeed, of words without spaces; what it says is not shown.
    pub(crate) fn sh(&self, command: &str) {
        run(self.command(&command.split(' ').collect::<Vec<_>>(), Lifetime::OfItsParent), command);
    }

    /// A command in it, in a process group of its own, so that the terminal's Ctrl-C isn't for it.
    pub(crate) fn command(&self, program: &[&str], lifetime: Lifetime) -> Command {
        let mut command = match lifetime {
            Lifetime::OfItsParent => {
                let mut command = Command::new("setpriv");
                command.args(["--pdeathsig", "KILL", "--"]).process_group(0);
                command
            }
            Lifetime::Unlimited => Command::new("setsid"),
        };
        command.args(["ip", "netns", "exec", &self.name]).args(program);
        command.env("PATH", search_path());
        for proxy in PROXIES {
            command.env_remove(proxy);
        }
        command
    }

    fn path(&self) -> PathBuf {
        Path::new("/run/netns").join(&self.name)
    }

    pub(crate) fn exists(&self) -> bool {
        self.path().exists()
    }

    /// What the kernel knows it by.
    pub(crate) fn inode(&self) -> Option<u64> {
        Some(fs::metadata(self.path()).ok()?.ino())
    }
}

/// The inode of the network namespace that a process is in.
pub(crate) fn inode_of_process(pid: u32) -> Option<u64> {
    Some(fs::metadata(format!("/proc/{pid}/ns/net")).ok()?.ino())
}

/// Ends what runs in namespaces, and them; those that there aren't are left out. Goes on when
/// something fails, so that as much as can be is gone afterwards.
pub(crate) fn remove(namespaces: &[Namespace]) {
    let present: Vec<&Namespace> = namespaces.iter().filter(|each| each.exists()).collect();
    let inodes: BTreeSet<u64> = present.iter().filter_map(|each| each.inode()).collect();
    kill_all(&inodes, Signal::TERM);
    if !poll_until(Duration::from_secs(5), || processes_in(&inodes).is_empty()) {
        kill_all(&inodes, Signal::KILL);
    }
    for namespace in present {
        // Another one who cleans up may have been faster.
        let _ = Command::new("ip")
            .args(["netns", "delete", &namespace.name])
            .env("PATH", search_path())
            .stderr(Stdio::null())
            .status();
    }
}

fn kill_all(inodes: &BTreeSet<u64>, signal: Signal) {
    for pid in processes_in(inodes) {
        // It may have ended by itself.
        let _ = kill_process(pid, signal);
    }
}

fn processes_in(inodes: &BTreeSet<u64>) -> Vec<Pid> {
    if inodes.is_empty() {
        return Vec::new();
    }
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|&pid| inode_of_process(pid as u32).is_some_and(|inode| inodes.contains(&inode)))
        .filter_map(Pid::from_raw)
        .collect()
}

fn ip(arguments: &str) {
    let mut command = Command::new("ip");
    command.args(arguments.split(' ')).env("PATH", search_path());
    run(command, &format!("ip {arguments}"));
}

fn run(mut command: Command, name: &str) {
    let output = command.stdin(Stdio::null()).output().expect("iproute2 and util-linux are there");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "`{name}` failed: {}", said.trim());
}

/// An exit status as a shell has it: 128 and the signal's number for who died of one.
pub(crate) fn shell_status(status: ExitStatus) -> i32 {
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or_default())
}
