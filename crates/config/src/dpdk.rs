//! `[dpdk]`.

use std::path::PathBuf;
use strum::{Display, IntoStaticStr, VariantArray};

/// What DPDK's environment abstraction layer (EAL) is started with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dpdk {
    /// Key `main-lcore`, by default 0: the CPU of the control plane, which polls nothing.
    pub main_lcore: u16,
    /// Key `worker-lcores`, by default `[1]`: the CPUs of the workers, at least one, each once. One of
    /// them may be the main lcore's, too.
    pub worker_lcores: Vec<u16>,
    /// Key `idle`, by default [`Idle::Adaptive`].
    pub idle: Idle,
    /// Key `memory`, `"256M"` by default: MiB that EAL sets aside for mbufs, rings and tables.
    pub memory_mib: u32,
    /// Keys `hugepage-dir` and `no-huge`.
    pub huge_pages: HugePages,
    /// Key `mbufs`, by default 16384: packet buffers in the pool. At least as many as the receive
    /// and transmit descriptors of both ports together.
    pub mbufs: u32,
    /// Key `mbuf-size`, by default 2048: bytes of a frame that a packet buffer has room for, or
    /// those of the ports' largest frame where they are more.
    pub mbuf_size: u16,
    /// Key `eal-args`, by default none: further EAL arguments, after those of [`Config::eal_args`].
    ///
    /// [`Config::eal_args`]: crate::Config::eal_args
    pub eal_args: Vec<String>,
}

impl Default for Dpdk {
    fn default() -> Dpdk {
        Dpdk {
            main_lcore: 0,
            worker_lcores: vec![1],
            idle: Idle::Adaptive,
            memory_mib: 256,
            huge_pages: HugePages::Default,
            mbufs: 16384,
            mbuf_size: 2048,
            eal_args: Vec::new(),
        }
    }
}

/// What a worker does when no packets come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Display, IntoStaticStr, VariantArray)]
#[strum(serialize_all = "kebab-case")]
pub enum Idle {
    /// It polls on.
    Spin,
    /// It sleeps, for longer and longer up to some microseconds, between two looks.
    Adaptive,
}

/// Where EAL's memory comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HugePages {
    /// Neither key: anonymous huge pages of the default size, which need no mounted hugetlbfs.
    Default,
    /// `hugepage-dir = "/dev/hugepages"`: files in this mounted hugetlbfs, and so pages of its
    /// size.
    Directory(PathBuf),
    /// `no-huge = true`: ordinary pages. Slow, and no PCI device can use them; for trying things
    /// out.
    None,
}
