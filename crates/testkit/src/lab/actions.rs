//! What is done in a lab.

use std::{
    fs,
    io::{self, Read, Write},
    path::{Path, PathBuf},
    process::Stdio,
    thread,
};

use super::{
    Capture, Configuration, Device, Director, HUGE_MIB, Host, Lab, Outcome, Process, Running,
    Summary,
    director::{self, Shunt},
    footprint, huge_pages,
    namespace::{self, Lifetime, Namespace},
    note, quote,
    transcript::as_typed,
};

impl Lab {
    /// Who is the director.
    #[must_use]
    pub fn director(&self) -> Director {
        self.kind
    }

    /// Whether the director's memory is in huge pages.
    #[must_use]
    pub fn has_huge_pages(&self) -> bool {
        self.has_huge_pages
    }

    /// The directory of its files, which goes with it.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.site.0.dir()
    }

    pub(super) fn namespace(&self, host: Host) -> Namespace {
        self.site.0.namespace(host)
    }

    /// `ip` on a host.
    ///
    /// # Panics
    /// When it fails.
    pub fn ip(&self, host: Host, arguments: &str) {
        self.namespace(host).ip(arguments);
    }

    /// Runs a program on a host to its end, without showing it.
    ///
    /// # Panics
    /// When it can't be started.
    #[must_use]
    pub fn run(&self, host: Host, program: &[&str]) -> Outcome {
        run(&self.namespace(host), program, &[])
    }

    /// The same, with something to read.
    ///
    /// # Panics
    /// When it can't be started.
    #[must_use]
    pub fn run_with(&self, host: Host, program: &[&str], stdin: &[u8]) -> Outcome {
        run(&self.namespace(host), program, stdin)
    }

    /// Runs a program on a host to its end, and shows it and what came back.
    ///
    /// # Panics
    /// When it can't be started.
    pub fn show(&self, host: Host, program: &[&str]) -> Outcome {
        note(&format!("{}$ {}", host.name(), as_typed(program)));
        let outcome = self.run(host, program);
        quote(&outcome.text);
        outcome
    }

    /// Starts a program on a host, which goes on beside what follows; shows it.
    ///
    /// # Panics
    /// When it can't be started.
    #[must_use]
    pub fn start(&self, host: Host, program: &[&str], stdin: Stdio) -> Process {
        note(&format!("{}$ {} &", host.name(), as_typed(program)));
        self.start_quietly(host, program, stdin)
    }

    pub(super) fn start_quietly(&self, host: Host, program: &[&str], stdin: Stdio) -> Process {
        let log = self.dir().join(format!("{}-{}.log", host.name(), program[0]));
        Process::start(&self.namespace(host), self.lifetime, &log, program, stdin)
    }

    /// Runs programs at once, each to its end; shows them and what came back, one after the other.
    ///
    /// # Panics
    /// When one can't be started.
    pub fn show_all(&self, programs: &[(Host, Vec<&str>)]) -> Vec<Outcome> {
        let namespaces: Vec<Namespace> =
            programs.iter().map(|&(host, _)| self.namespace(host)).collect();
        let outcomes: Vec<Outcome> = thread::scope(|scope| {
            let mut threads = Vec::new();
            for (namespace, (_, program)) in namespaces.iter().zip(programs) {
                threads.push(scope.spawn(move || run(namespace, program, &[])));
            }
            threads.into_iter().map(|thread| thread.join().expect("a program runs")).collect()
        });
        for ((host, program), outcome) in programs.iter().zip(&outcomes) {
            note(&format!("{}$ {}", host.name(), as_typed(program)));
            quote(&outcome.text);
        }
        outcomes
    }

    /// A file below `/proc/net` as a host has it; one with servers.
    ///
    /// # Panics
    /// When that host runs none.
    #[must_use]
    pub fn proc_net(&self, host: Host, file: &str) -> String {
        let server = self.servers.iter().find(|(at, _)| *at == host);
        let (_, server) = server.unwrap_or_else(|| panic!("{} runs no server", host.name()));
        server.proc_net(file)
    }

    /// Captures what passes a host's interface and a filter in tcpdump's words.
    ///
    /// # Panics
    /// When tcpdump does not start.
    #[must_use]
    pub fn capture(&self, host: Host, filter: &str) -> Capture {
        let number = self.captures.get();
        self.captures.set(number + 1);
        let file = self.dir().join(format!("{}-{number}.pcap", host.name()));
        note(&format!("{}$ tcpdump -i {} {filter} &", host.name(), host.nic()));
        let path = file.to_str().expect("a path in UTF-8");
        let mut program = vec!["tcpdump", "-Z", "root", "--immediate-mode", "-U", "-s", "0", "-p"];
        program.extend(["-n", "-i", host.nic(), "-w", path, filter]);
        let log = file.with_extension("log");
        let namespace = self.namespace(host);
        let process =
            Process::start(&namespace, Lifetime::OfItsParent, &log, &program, Stdio::null());
        Capture::new(process, file)
    }

    /// Has the director do this, unless it does already: one that does something else is stopped.
    ///
    /// # Panics
    /// When it is not ready after 20 seconds, or the one before did not end as it should.
    pub fn start_director(&mut self, configuration: &Configuration) {
        let is_running = |running: &Running| running.configuration == *configuration;
        if self.running.as_ref().is_some_and(is_running) {
            return;
        }
        self.stop_director();
        let director = self.namespace(Host::Director);
        let shunt = match self.kind {
            Director::Shunt(..) => {
                let file = self.write_service_file(configuration);
                if self.has_huge_pages {
                    huge_pages::top_up(HUGE_MIB, self.dir());
                }
                let name = configuration.name;
                note(&format!("director$ shunt run --config shunt-{name}.toml"));
                Some(Shunt::start(&director, self.lifetime, &self.binary, file))
            }
            Director::Kernel => {
                note(&format!(
                    "director$ the kernel: ip_forward, nftables ({})",
                    configuration.name
                ));
                director::start_kernel(&director, configuration);
                None
            }
        };
        self.running = Some(Running { configuration: configuration.clone(), shunt });
    }

    /// Writes the service file of a director in this lab; returns its path.
    ///
    /// # Panics
    /// When it can't be written.
    pub fn write_service_file(&self, configuration: &Configuration) -> PathBuf {
        let (device, workers) = match self.kind {
            Director::Shunt(device, workers) => (device, workers),
            Director::Kernel => (Device::AfPacket, 1),
        };
        let file = self.dir().join(format!("shunt-{}.toml", configuration.name));
        fs::write(&file, configuration.service_file(device, workers, self.has_huge_pages))
            .unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        file
    }

    /// Whether the director runs.
    #[must_use]
    pub fn director_runs(&self) -> bool {
        let has_ended = |running: &Running| running.shunt.as_ref().is_some_and(Shunt::has_ended);
        self.running.as_ref().is_some_and(|running| !has_ended(running))
    }

    /// Edits the service file of the director that runs, and has it read that again.
    ///
    /// # Panics
    /// When Shunt does not run, or does not answer.
    pub fn reload(&self, edit: impl FnOnce(&str) -> String) {
        let shunt = self.running.as_ref().and_then(|running| running.shunt.as_ref());
        shunt.expect("Shunt runs").reload(edit);
    }

    /// Ends the director, if one runs; says how Shunt ended.
    ///
    /// # Panics
    /// When Shunt did not end as it should: by itself, with exit status 0, and with every mbuf back
    /// in its pool.
    pub fn stop_director(&mut self) -> Option<Summary> {
        let Some(shunt) = self.running.take()?.shunt else {
            director::stop_kernel(&self.namespace(Host::Director));
            return None;
        };
        let summary = shunt.stop();
        note(&format!("the director has ended: {}", summary.text));
        assert!(summary.faults.is_empty(), "{}\n{}", summary.faults.join(", "), summary.log);
        Some(summary)
    }

    /// Leaves all that runs to the user. The lab is [built](super::Builder::outlives_process) for that.
    ///
    /// # Panics
    /// When it was not.
    pub fn leave(mut self) {
        assert_eq!(self.lifetime, Lifetime::Unlimited, "what a lab has started goes with it");
        self.servers.drain(..).for_each(|(_, server)| server.leave());
        if let Some(shunt) = self.running.take().and_then(|running| running.shunt) {
            shunt.leave();
        }
        self.site.0.leave();
        std::mem::forget(self);
    }
}

fn run(namespace: &Namespace, program: &[&str], stdin: &[u8]) -> Outcome {
    let (mut reader, writer) = io::pipe().expect("a pipe");
    let mut command = namespace.command(program, Lifetime::OfItsParent);
    command.stdin(Stdio::piped()).stderr(writer.try_clone().expect("a pipe")).stdout(writer);
    let mut child = command.spawn().expect("setpriv starts");
    drop(command); // The writing ends are the program's alone now.
    let mut pipe = child.stdin.take().expect("a pipe");
    let mut bytes = Vec::new();
    thread::scope(|scope| {
        scope.spawn(move || {
            // A program need not read all.
            let _ = pipe.write_all(stdin);
        });
        reader.read_to_end(&mut bytes).expect("what a program prints");
    });
    let status = namespace::shell_status(child.wait().expect("a program that ends"));
    footprint::wait_if_ending();
    Outcome { status, text: String::from_utf8_lossy(&bytes).trim().to_owned(), bytes }
}
