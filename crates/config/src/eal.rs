//! The arguments that EAL is started with.

use crate::{Config, Device, HugePages};

impl Config {
    /// The arguments for `rte_eal_init`, without the program's name.
    ///
    /// The control plane is EAL's lcore 0, and the workers are lcores 1, 2 …, whatever their CPUs: so
    /// the control plane may share one with a worker.
    ///
    /// Files and sockets that EAL makes at run time carry `file_prefix`; give each process its own.
    ///
    /// With huge pages and no `hugepage-dir`, EAL runs `--in-memory`: a director has no secondary
    /// processes to share memory with, and so needs no mounted hugetlbfs and leaves no page
    /// occupied when it is killed. A `hugepage-dir` asks for files there, so those are unlinked as
    /// soon as they are mapped (`--huge-unlink`), for the same reason. Without huge pages EAL 22.11
    /// refuses `--in-memory`; `--no-shconf` at least keeps its run-time configuration out of the
    /// file system.
    pub fn eal_args(&self, file_prefix: &str) -> Vec<String> {
        let mut args = Vec::new();
        let mut push = |words: &[&str]| args.extend(words.iter().map(|&word| word.to_owned()));
        let dpdk = &self.dpdk;

        let cpus = std::iter::once(&dpdk.main_lcore).chain(&dpdk.worker_lcores);
        let lcores: Vec<String> =
            cpus.enumerate().map(|(lcore, cpu)| format!("{lcore}@{cpu}")).collect();
        push(&["--lcores", &lcores.join(","), "--main-lcore", "0"]);
        push(&["-m", &dpdk.memory_mib.to_string(), "--file-prefix", file_prefix, "--no-telemetry"]);
        match &dpdk.huge_pages {
            HugePages::Default => push(&["--in-memory"]),
            // The directory came from a TOML string: it is UTF-8.
            HugePages::Directory(path) => {
                push(&["--huge-dir", &path.to_string_lossy(), "--huge-unlink", "--no-shconf"]);
            }
            HugePages::None => push(&["--no-huge", "--no-shconf"]),
        }
        let is_pci = |device: &Device| matches!(device, Device::Pci(_));
        if !self.ports.iter().any(|port| is_pci(&port.device)) {
            push(&["--no-pci"]);
        }
        args.extend(self.ports.iter().flat_map(|port| port.device.eal_args()));
        args.extend(dpdk.eal_args.iter().cloned());
        args
    }
}

/// EAL options that are set from the service file or by the director itself, and what to do
/// instead.
const RESERVED: [(&[&str], &str); 7] = [
    (
        &["-l", "-c", "-s", "-S", "--lcores", "--main-lcore", "--master-lcore"],
        "set `main-lcore` and `worker-lcores`",
    ),
    (&["-m", "--socket-mem"], "set `memory`"),
    (&["--huge-dir", "--huge-unlink"], "set `hugepage-dir`"),
    (&["--no-huge"], "set `no-huge = true`"),
    (
        &["--vdev", "-a", "--allow", "-w", "-b", "--block", "--no-pci"],
        "set the `device` of a `[[port]]`; no other device is taken",
    ),
    (
        &[
            "--file-prefix",
            "--in-memory",
            "--no-shconf",
            "--no-telemetry",
            "--telemetry",
            "--proc-type",
        ],
        "leave it out; the director sets it or does without",
    ),
    (&["-h", "--help", "-v", "--version"], "leave it out; it is not for a service file"),
];

/// What to do instead of passing `argument` to EAL, if it is reserved.
///
/// `getopt_long` takes a long option by any unambiguous beginning, so a beginning is reserved as
/// well; a short one is followed by its value with or without a blank.
pub(crate) fn reserved(argument: &str) -> Option<&'static str> {
    let is = |option: &&str| match argument.strip_prefix("--") {
        Some(long) => {
            let name = long.split('=').next().unwrap_or(long);
            !name.is_empty() && option.strip_prefix("--").is_some_and(|o| o.starts_with(name))
        }
        None => !option.starts_with("--") && argument.starts_with(option),
    };
    RESERVED.iter().find(|(options, _)| options.iter().any(is)).map(|&(_, instead)| instead)
}

#[cfg(test)]
mod tests {
    use super::reserved;

    #[test]
    fn reserved_options_are_known_in_every_spelling() {
        for argument in [
            "-l",
            "-l0-3",
            "--lcores=0-3",
            "--lco",
            "--vdev",
            "-a03:00.0",
            "--no-hu",
            "--socket-mem=1",
        ] {
            assert!(reserved(argument).is_some(), "{argument}");
        }
    }

    #[test]
    fn other_arguments_pass() {
        for argument in
            ["--log-level=pmd:debug", "-n", "4", "--iova-mode=va", "-d", "x.so", "--", "-"]
        {
            assert_eq!(reserved(argument), None, "{argument}");
        }
    }
}
