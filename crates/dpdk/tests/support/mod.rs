//! EAL for tests: no root, no huge pages, no devices but virtual ones, any one CPU.

#![allow(dead_code, reason = "no test file uses all of it")]

use std::fs;
use std::sync::OnceLock;

use shunt_dpdk::{Burst, Eal, Mempool, MempoolConfig};

/// Arguments for a main lcore and one worker, both on the first CPU that this process may use. The
/// tests of one file share the process and so the EAL.
pub(crate) fn eal_args() -> Vec<String> {
    let cpu = first_cpu();
    [
        &format!("--lcores=0@{cpu},1@{cpu}"),
        "--no-huge",
        "--no-pci",
        "--no-shconf",
        "--no-telemetry",
        // Nothing is shared between processes with --no-shconf, so that one name serves all.
        "--file-prefix=shunt-test",
        "-m",
        "64",
    ]
    .map(str::to_owned)
    .to_vec()
}

/// The EAL that the tests of this file share.
pub(crate) fn eal() -> &'static Eal {
    static EAL: OnceLock<Eal> = OnceLock::new();
    EAL.get_or_init(|| Eal::init(&eal_args()).expect("EAL starts without root and huge pages"))
}

/// A pool with no cache, so that each of its mbufs can be had.
pub(crate) fn pool(name: &str, mbufs: u32) -> Mempool {
    let config = MempoolConfig { cache: 0, ..MempoolConfig::new(name, mbufs) };
    Mempool::new(eal(), &config).expect("memory for a pool")
}

/// A burst of one packet for each content.
pub(crate) fn burst<T: AsRef<[u8]>>(
    pool: &Mempool,
    contents: impl IntoIterator<Item = T>,
) -> Burst {
    let mut burst = Burst::new();
    for content in contents {
        let content = content.as_ref();
        let mut mbuf = pool.alloc().expect("an mbuf");
        mbuf.append(content.len()).expect("room for the packet").copy_from_slice(content);
        burst.push(mbuf).expect("room in the burst");
    }
    burst
}

/// The contents of a burst.
pub(crate) fn contents(burst: &Burst) -> Vec<Vec<u8>> {
    burst.iter().map(|mbuf| mbuf.data().to_vec()).collect()
}

/// Every mbuf is back.
#[track_caller]
pub(crate) fn assert_all_free(pool: &Mempool) {
    assert_eq!((pool.available(), pool.in_use()), (pool.size(), 0), "mbufs leaked");
}

fn first_cpu() -> u32 {
    let status = fs::read_to_string("/proc/self/status").expect("procfs");
    let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    let first = list.and_then(|list| list.trim().split([',', '-']).next());
    first.and_then(|cpu| cpu.parse().ok()).expect("a CPU to run on")
}
