//! Where and with what it was measured: figures of different machines are not to be compared.

use std::fs;

use serde::Serialize;
use shunt_dpdk::Eal;

/// A machine and its software.
#[derive(Debug, Serialize)]
pub(crate) struct Machine {
    cpu: String,
    cpus: usize,
    kernel: String,
    dpdk: String,
    shunt: &'static str,
    memory: &'static str,
}

impl Machine {
    /// This one.
    pub(crate) fn here(no_huge: bool) -> Machine {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let field = |name: &str| {
            let line = cpuinfo.lines().find(|line| line.starts_with(name))?;
            Some(line.split_once(':')?.1.trim().to_owned())
        };
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        Machine {
            cpu: field("model name").unwrap_or_else(|| "an unknown CPU".to_owned()),
            cpus: std::thread::available_parallelism().map_or(1, usize::from),
            kernel: kernel.trim().to_owned(),
            dpdk: Eal::version(),
            shunt: env!("CARGO_PKG_VERSION"),
            memory: if no_huge { "ordinary pages" } else { "huge pages" },
        }
    }
}

impl std::fmt::Display for Machine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Machine { cpu, cpus, kernel, dpdk, shunt, memory } = self;
        write!(f, "{cpu}, {cpus} CPUs, Linux {kernel}, {dpdk}, Shunt {shunt}, {memory}")
    }
}
