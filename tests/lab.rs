//! The lab's experiments, on the real binary: a client, a director and two real servers in network
//! namespaces; see [`shunt_testkit::lab`]. They need root, so that `cargo test` leaves them out, and
//! `sudo scripts/test` runs them; each can be selected by itself:
//!
//! ```text
//! sudo scripts/lab test hairpin
//! sudo scripts/lab test --exact af_xdp::hairpin
//! CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER="sudo -E" cargo test --test lab -- --ignored hairpin
//! ```
//!
//! Each builds a lab of its own and starts a director in it, and afterwards the director has to end
//! cleanly. Those that load the machine run alone, in huge pages; the others may run at the same time,
//! and have ordinary ones, which are there sooner: so each device is tried with both.
//! `SHUNT_BINARY` names another build of `shunt` to test.

use std::{
    env,
    path::PathBuf,
    sync::{PoisonError, RwLock},
};

use shunt_testkit::lab::{
    Device, Director, Lab,
    experiments::{EXPERIMENTS, Experiment},
};

/// Written by experiments that load the machine, read by others.
static QUIET: RwLock<()> = RwLock::new(());

/// Makes an experiment with a director of that kind.
fn check(director: Director, name: &str) {
    let experiment = Experiment::named(name).expect("an experiment of that name");
    let (_alone, _with_others) = match experiment.is_heavy() {
        true => (Some(QUIET.write().unwrap_or_else(PoisonError::into_inner)), None),
        false => (None, Some(QUIET.read().unwrap_or_else(PoisonError::into_inner))),
    };
    assert_eq!(experiment.obstacle(director), None, "there should be no such test");
    println!("\n{}", experiment.title);
    let lab = Lab::builder(director, binary());
    let mut lab = lab.huge_pages(experiment.is_heavy()).build();
    experiment.run(&mut lab);
    lab.stop_director();
}

/// The `shunt` to test.
fn binary() -> PathBuf {
    env::var_os("SHUNT_BINARY").unwrap_or_else(|| env!("CARGO_BIN_EXE_shunt").into()).into()
}

/// A test for each experiment, with such a director, and the list of their names.
macro_rules! tests {
    ($director:expr, $($name:ident)*) => {
        pub(super) const DIRECTOR: super::Director = $director;
        pub(super) const NAMES: &[&str] = &[$(stringify!($name)),*];

        $(
            #[test]
            #[ignore = "needs root: sudo scripts/test"]
            fn $name() {
                super::check(DIRECTOR, stringify!($name));
            }
        )*
    };
}

/// A module of tests for each director: the experiments that any of them can do, and those that this
/// one can do beside them.
macro_rules! directors {
    ($($module:ident = $director:expr, and $($more:ident)*;)*) => {
        $(
            mod $module {
                use super::*;

                tests!(
                    $director,
                    plain_router round_robin port_mapping addresses ping traceroute big_transfers
                    udp_dns snat_web load refusals full_nat hairpin persistence snat_ping fallback
                    $($more)*
                );
            }
        )*

        const DIRECTORS: &[(Director, &[&str])] = &[$(($module::DIRECTOR, $module::NAMES)),*];
    };
}

directors! {
    af_packet = Director::Shunt(Device::AfPacket, 1), and drain_under_load;
    af_xdp = Director::Shunt(Device::AfXdp, 1), and fragments drain_under_load;
    tap = Director::Shunt(Device::Tap, 1), and fragments drain_under_load;
    // On one queue, that is: one worker receives for both.
    two_workers_on_af_packet = Director::Shunt(Device::AfPacket, 2), and drain_under_load;
    two_workers_on_af_xdp = Director::Shunt(Device::AfXdp, 2), and fragments drain_under_load;
    two_workers_on_tap = Director::Shunt(Device::Tap, 2), and fragments drain_under_load;
    // The control: shows that the experiments are right.
    kernel = Director::Kernel, and fragments;
}

/// Whatever ends an experiment, nothing is left of its lab.
mod teardown {
    use std::{
        env,
        ffi::OsStr,
        fs,
        io::{BufRead, BufReader, Read},
        os::unix::process::ExitStatusExt,
        panic::catch_unwind,
        path::Path,
        process::{Child, ChildStdout, Command, Stdio},
        sync::PoisonError,
        time::Duration,
    };

    use shunt_testkit::lab::{Configuration, Device, Director, Host, Lab, wait_until};

    use super::{QUIET, binary};

    /// A test run like this one, in the middle of an experiment under load.
    struct Run {
        child: Child,
        /// What it prints, to be kept open.
        _printed: BufReader<ChildStdout>,
        /// The processes of its lab.
        processes: Vec<String>,
    }

    impl Run {
        fn start() -> Run {
            let mut child = Command::new(env::current_exe().expect("this binary"))
                .args(["--ignored", "--exact", "af_packet::load", "--nocapture"])
                .stdout(Stdio::piped())
                .stderr(Stdio::null())
                .spawn()
                .expect("this binary starts");
            let mut printed = BufReader::new(child.stdout.take().expect("a pipe"));
            let mut lines = printed.by_ref().lines().map_while(Result::ok);
            assert!(lines.any(|line| line.contains("client$ wrk")), "the load began");
            let mut run = Run { child, _printed: printed, processes: Vec::new() };
            // wrk itself comes a moment later.
            let is_loaded = wait_until(Duration::from_secs(5), || {
                run.processes = run.namespaces().iter().flat_map(|name| pids_in(name)).collect();
                run.processes.iter().any(|pid| name_of(pid) == "wrk")
            });
            assert!(is_loaded, "wrk runs");
            let names: Vec<String> = run.processes.iter().map(|pid| name_of(pid)).collect();
            let shunt = binary();
            let shunt = shunt.file_name().and_then(OsStr::to_str).expect("a name in UTF-8");
            for name in [shunt, "nginx", "dnsmasq", "socat"] {
                // The kernel knows the beginning of a name only.
                assert!(names.iter().any(|each| name.starts_with(each)), "{name} runs: {names:?}");
            }
            run
        }

        fn namespaces(&self) -> Vec<String> {
            let prefix = format!("shunt-{}.", self.child.id());
            let entries = fs::read_dir("/run/netns").expect("namespaces");
            let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
            names.filter(|name| name.starts_with(&prefix)).collect()
        }

        /// Ends it with that signal; returns the exit status.
        fn end(&mut self, signal: &str) -> Option<i32> {
            let pid = self.child.id().to_string();
            let status = Command::new("kill").args(["-s", signal, &pid]).status();
            assert!(status.expect("kill starts").success(), "kill -s {signal} {pid}");
            self.child.wait().expect("it ends").code()
        }

        /// A zombie, which its new parent has still to ask for its status, has no command line.
        fn has_processes(&self) -> bool {
            let has_command =
                |pid| fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| !line.is_empty());
            self.processes.iter().any(has_command)
        }

        fn directory(&self) -> String {
            format!("/var/tmp/shunt-lab.{}.0", self.child.id())
        }
    }

    fn pids_in(namespace: &str) -> Vec<String> {
        let output = Command::new("ip").args(["netns", "pids", namespace]).output();
        let text = String::from_utf8(output.expect("ip starts").stdout).expect("numbers");
        text.lines().map(|line| line.trim().to_owned()).collect()
    }

    fn name_of(pid: &str) -> String {
        fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default().trim().to_owned()
    }

    #[test]
    #[ignore = "needs root: sudo scripts/test"]
    fn by_sigterm_and_sighup() {
        let _alone = QUIET.write().unwrap_or_else(PoisonError::into_inner);
        for (signal, status) in [("TERM", 143), ("HUP", 129)] {
            let mut run = Run::start();
            assert_eq!(run.end(signal), Some(status), "{signal}");
            assert!(!run.has_processes(), "{signal}: {:?}", run.processes);
            assert_eq!(run.namespaces(), [""; 0], "{signal}");
            assert!(!Path::new(&run.directory()).exists(), "{signal}: {}", run.directory());
        }
    }

    #[test]
    #[ignore = "needs root: sudo scripts/test"]
    fn by_ctrl_c() {
        let _alone = QUIET.write().unwrap_or_else(PoisonError::into_inner);
        let mut run = Run::start();
        // With a program that SIGTERM does not end.
        let namespace = run.namespaces().pop().expect("a namespace");
        let mut stubborn = Command::new("ip")
            .args([
                "netns",
                "exec",
                &namespace,
                "bash",
                "-c",
                "trap '' TERM; echo; sleep 60 & wait",
            ])
            .stdout(Stdio::piped())
            .spawn()
            .expect("ip starts");
        let mut word = [0];
        stubborn.stdout.as_mut().expect("a pipe").read_exact(&mut word).expect("it has begun");
        assert_eq!(run.end("INT"), Some(130));
        let status = stubborn.wait().expect("it ends");
        assert_eq!(status.signal(), Some(9), "{status}");
        assert!(!run.has_processes(), "{:?}", run.processes);
        assert_eq!(run.namespaces(), [""; 0]);
        assert!(!Path::new(&run.directory()).exists(), "{}", run.directory());
    }

    #[test]
    #[ignore = "needs root: sudo scripts/test"]
    fn by_sigkill() {
        let _alone = QUIET.write().unwrap_or_else(PoisonError::into_inner);
        let mut run = Run::start();
        assert_eq!(run.end("KILL"), None);
        let are_gone = wait_until(Duration::from_secs(5), || !run.has_processes());
        assert!(are_gone, "processes: {:?}", run.processes);
        // What can't go by itself goes when the next lab is built.
        assert_ne!(run.namespaces(), [""; 0]);
        drop(Lab::builder(Director::Kernel, "").build());
        assert_eq!(run.namespaces(), [""; 0]);
        assert!(!Path::new(&run.directory()).exists(), "{}", run.directory());
    }

    #[test]
    #[ignore = "needs root: sudo scripts/test"]
    fn by_a_panic() {
        let _alone = QUIET.write().unwrap_or_else(PoisonError::into_inner);
        let (sender, receiver) = std::sync::mpsc::channel();
        let result = catch_unwind(move || {
            let director = Director::Shunt(Device::AfPacket, 1);
            let mut lab = Lab::builder(director, binary()).build();
            lab.start_director(&Configuration::example());
            let _capture = lab.capture(Host::Client, "icmp");
            sender.send(lab.dir().to_owned()).expect("a receiver");
            panic!("as a failed experiment does");
        });
        assert!(result.is_err());
        let dir = receiver.recv().expect("the lab was built");
        assert!(!dir.exists(), "{}", dir.display());
        let id = dir.to_str().and_then(|dir| dir.strip_prefix("/var/tmp/shunt-lab."));
        let namespaces = format!("shunt-{}-", id.expect("the directory has its place"));
        let left = fs::read_dir("/run/netns").expect("namespaces").any(|entry| {
            entry.unwrap().file_name().into_string().unwrap().starts_with(&namespaces)
        });
        assert!(!left, "{namespaces}");
    }

    /// Labs of different processes, and of one, are there at once.
    #[test]
    #[ignore = "needs root: sudo scripts/test"]
    fn leaves_other_labs_alone() {
        let _others = QUIET.read().unwrap_or_else(PoisonError::into_inner);
        let fetch =
            |lab: &Lab| lab.run(Host::Client, &["curl", "-sS", "http://192.168.1.100/"]).text;
        let [mut one, mut other] = [(); 2].map(|()| Lab::builder(Director::Kernel, "").build());
        one.start_director(&Configuration::example());
        other.start_director(&Configuration::example());
        assert_eq!([fetch(&one), fetch(&other)], ["rs1", "rs1"]);
        drop(one);
        assert_eq!(fetch(&other), "rs2");
    }
}

#[test]
fn every_experiment_is_a_test() {
    for &(director, names) in DIRECTORS {
        let mut names = names.to_vec();
        let possible = EXPERIMENTS.iter().filter(|each| each.obstacle(director).is_none());
        let mut possible: Vec<&str> = possible.map(|each| each.name).collect();
        names.sort_unstable();
        possible.sort_unstable();
        assert_eq!(names, possible, "{director:?}");
    }
}
