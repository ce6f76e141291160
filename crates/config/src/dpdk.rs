//! `[dpdk]`: its keys, what they can be, and what they come to.

use std::path::PathBuf;

use serde::Deserialize;
use strum::{Display, IntoStaticStr, VariantArray};
use toml::Spanned;

use crate::{
    Port, Ports, eal,
    fault::Fault,
    report::{Report, span},
    value::Value,
};

/// The section as the file has it.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Raw {
    pub(crate) main_lcore: Value<i64>,
    pub(crate) worker_lcores: Value<Vec<Spanned<i64>>>,
    pub(crate) idle: Value<String>,
    pub(crate) memory: Value<String>,
    pub(crate) hugepage_dir: Value<String>,
    pub(crate) no_huge: Value<bool>,
    pub(crate) mbufs: Value<i64>,
    pub(crate) mbuf_size: Value<i64>,
    pub(crate) eal_args: Value<Vec<Spanned<String>>>,
}

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

/// The highest lcore of a stock DPDK (`RTE_MAX_LCORE` is 128).
const LAST_LCORE: u16 = 127;
/// Pieces of memory that a stock DPDK gives out (`RTE_MAX_MEMZONE`). Each ring between workers is one.
const MEMZONES: usize = 2560;
/// The most workers for which they suffice.
const MAX_WORKERS: usize = 48;
/// MiB that `memory` can ask for: below, EAL and one pool hardly fit; above is a slip of the pen.
const MEMORY_MIB: std::ops::RangeInclusive<u32> = 64..=1024 * 1024;
/// Buffers that `mbufs` can ask for; each takes some 2.3 KiB.
const MBUFS: std::ops::RangeInclusive<u32> = 1024..=16 * 1024 * 1024;
/// Bytes of a frame that `mbuf-size` can ask room for.
const MBUF_SIZE: std::ops::RangeInclusive<u16> = 64..=16384;

/// What the section says.
pub(crate) fn read(raw: &Raw, ports: Option<&Ports>, report: &mut Report) -> Dpdk {
    let default = Dpdk::default();
    let help = "write the number of one lcore, as in `main-lcore = 0`";
    let main_lcore =
        report.number("main-lcore", &raw.main_lcore, 0..=LAST_LCORE, default.main_lcore, help);
    Dpdk {
        main_lcore,
        worker_lcores: worker_lcores(raw, main_lcore, &default, report),
        idle: report.keyword_or("idle", &raw.idle, default.idle),
        memory_mib: memory(raw, report).unwrap_or(default.memory_mib),
        huge_pages: huge_pages(raw, report),
        mbufs: mbufs(raw, ports, &default, report),
        mbuf_size: mbuf_size(raw, ports, &default, report),
        eal_args: eal_args(raw, report),
    }
}

/// How many workers the section asks for, right or wrong.
pub(crate) fn workers(raw: &Raw) -> usize {
    let lcores = raw.worker_lcores.as_ref().map(|lcores| lcores.get_ref().len());
    lcores.unwrap_or_else(|| Dpdk::default().worker_lcores.len())
}

fn worker_lcores(raw: &Raw, main_lcore: u16, default: &Dpdk, report: &mut Report) -> Vec<u16> {
    let free = if main_lcore == 1 { 0 } else { 1 };
    let help = format!("write lcores in brackets, as in `worker-lcores = [{free}]`");
    let Some(workers) = &raw.worker_lcores else {
        if let Some(main) = &raw.main_lcore
            && default.worker_lcores.contains(&main_lcore)
        {
            let message = format!("lcore {main_lcore} is the worker's, unless you say otherwise");
            report.add(main.span(), Fault::new(message).help(help));
        }
        return default.worker_lcores.clone();
    };
    if workers.get_ref().is_empty() {
        report.add(workers.span(), Fault::new("there is no worker lcore").help(&help));
    }
    let count = workers.get_ref().len();
    if count > MAX_WORKERS {
        let message = format!(
            "{count} workers are too many: with a ring from each to each other, they and their queues \
             take up to {} memzones, and DPDK has {MEMZONES}",
            memzones(count)
        );
        let help = format!("write at most {MAX_WORKERS} of these lcores");
        report.add(workers.span(), Fault::new(message).help(help));
    }
    report.duplicates(workers.get_ref(), |lcore, _| {
        Fault::new(format!("lcore {lcore} is there twice")).help("an lcore runs one worker")
    });
    let worker = |number: i64| match u16::try_from(number) {
        Ok(lcore) if lcore <= LAST_LCORE => Ok(lcore),
        _ => Err(Fault::new(format!("a worker lcore is {number}; it can be 0 to {LAST_LCORE}"))),
    };
    workers
        .get_ref()
        .iter()
        .filter_map(|lcore| {
            let checked = worker(*lcore.get_ref()).map_err(|fault| fault.help(&help));
            report.check(lcore.span(), checked)
        })
        .collect()
}

/// How many memzones so many workers need at most.
fn memzones(workers: usize) -> usize {
    /// Those of EAL, the mbufs and the ports themselves: a few, and room for what drivers have.
    const OTHERS: usize = 64;
    let between_workers = workers * (workers - 1);
    // On each of two ports, a worker has a queue to receive and one to send, for each of which its
    // driver may take one; or it has a ring to a worker that sends.
    let to_ports = 2 * 2 * workers;
    between_workers + to_ports + OTHERS
}

fn memory(raw: &Raw, report: &mut Report) -> Option<u32> {
    report.parse(raw.memory.as_ref()?, parse_memory).map(toml::Spanned::into_inner)
}

/// MiB in `256M` or `1G`.
fn parse_memory(text: &str) -> Result<u32, Fault> {
    let number = text.trim_end_matches(['M', 'G']);
    let mib = match &text[number.len()..] {
        "M" => 1,
        "G" => 1024,
        _ => 0,
    };
    let is_number = number.chars().all(|c| c.is_ascii_digit());
    let amount = number.parse::<u32>().ok().filter(|_| is_number && mib > 0);
    let Some(amount) = amount else {
        return Err(Fault::new(format!("`memory` is \"{text}\", which is no amount"))
            .help("write a whole number and `M` or `G`, as in `memory = \"256M\"`"));
    };
    amount.checked_mul(mib).filter(|total| MEMORY_MIB.contains(total)).ok_or_else(|| {
        Fault::new(format!("`memory` is {text}; it can be 64M to 1024G"))
            .help("write how much the director may take, as in `memory = \"256M\"`")
    })
}

fn huge_pages(raw: &Raw, report: &mut Report) -> HugePages {
    let no_huge = raw.no_huge.as_ref().is_some_and(|value| *value.get_ref());
    let Some(directory) = &raw.hugepage_dir else {
        return if no_huge { HugePages::None } else { HugePages::Default };
    };
    if no_huge {
        let fault = Fault::new("`hugepage-dir` and `no-huge = true` contradict each other")
            .help("keep one of the two");
        report.add(directory.span(), fault);
    }
    let path = directory.get_ref();
    if !path.starts_with('/') || path.contains(char::is_control) {
        let fault = Fault::new(format!("`hugepage-dir` is \"{path}\", which is no absolute path"))
            .help("write where hugetlbfs is mounted, as in `hugepage-dir = \"/dev/hugepages\"`");
        report.add(directory.span(), fault);
    }
    HugePages::Directory(PathBuf::from(path))
}

fn mbufs(raw: &Raw, ports: Option<&Ports>, default: &Dpdk, report: &mut Report) -> u32 {
    let help = "write how many packet buffers there are, as in `mbufs = 16384`";
    let mbufs = report.number("mbufs", &raw.mbufs, MBUFS, default.mbufs, help);
    let held = ports.map_or(0, |ports| {
        let of = |port: &Port| {
            (u32::from(port.rx_descriptors) + u32::from(port.tx_descriptors))
                * port.queues.map_or(workers(raw) as u32, u32::from)
        };
        ports.iter().map(of).sum()
    });
    if mbufs < held {
        let at = raw.mbufs.as_ref().map_or_else(|| report.end(), toml::Spanned::span);
        let message = format!("{mbufs} mbufs are fewer than the {held} descriptors of the ports");
        let help = format!("write `mbufs = {}` in `[dpdk]`", held.next_power_of_two());
        report.add(at, Fault::new(message).help(help));
    }
    mbufs
}

/// A buffer that can't hold the largest frame would lose it.
fn mbuf_size(raw: &Raw, ports: Option<&Ports>, default: &Dpdk, report: &mut Report) -> u16 {
    let help = "write how many bytes of a frame fit into a buffer, as in `mbuf-size = 2048`";
    let size = report.number("mbuf-size", &raw.mbuf_size, MBUF_SIZE, default.mbuf_size, help);
    if let (Some(value), Some(ports)) = (&raw.mbuf_size, ports)
        && size < ports.max_frame()
    {
        let frame = ports.max_frame();
        let message = format!("`mbuf-size` is {size}; the ports' largest frame has {frame} bytes");
        let help = format!("write at least `mbuf-size = {frame}`, or a smaller `mtu`");
        report.add(value.span(), Fault::new(message).help(help));
    }
    size
}

fn eal_args(raw: &Raw, report: &mut Report) -> Vec<String> {
    let Some(args) = &raw.eal_args else { return Vec::new() };
    for arg in args.get_ref() {
        let text = arg.get_ref();
        let fault = if let Some(instead) = eal::reserved(text) {
            Fault::new(format!("`{text}` is not for `eal-args`")).help(instead)
        } else if text.is_empty() || text == "--" || text.contains(char::is_control) {
            Fault::new("this is no argument of EAL's")
                .help("write one option, or its value, per string")
        } else if text.starts_with('-') && text.contains(' ') {
            let parts: Vec<&str> = text.split_whitespace().collect();
            Fault::new(format!("`{text}` is more than one argument"))
                .help(format!("write a string for each: `\"{}\"`", parts.join("\", \"")))
        } else {
            continue;
        };
        report.add(arg.span(), fault);
    }
    args.get_ref().iter().map(|arg| arg.get_ref().clone()).collect()
}

/// Refuses what a director that runs with `old` can't take.
pub(crate) fn check_fixed(raw: &Raw, old: &Dpdk, new: &Dpdk, report: &mut Report) {
    let Dpdk {
        main_lcore,
        worker_lcores,
        idle,
        memory_mib,
        huge_pages,
        mbufs,
        mbuf_size,
        eal_args,
    } = old;
    let pages = span(&raw.hugepage_dir).or(span(&raw.no_huge));
    let end = report.end();
    let mut check = |is_same, what, value| report.fixed(is_same, what, value, &end);
    check(*main_lcore == new.main_lcore, "`main-lcore`", span(&raw.main_lcore));
    check(*worker_lcores == new.worker_lcores, "`worker-lcores`", span(&raw.worker_lcores));
    check(*idle == new.idle, "`idle`", span(&raw.idle));
    check(*memory_mib == new.memory_mib, "`memory`", span(&raw.memory));
    check(*huge_pages == new.huge_pages, "kind of memory", pages);
    check(*mbufs == new.mbufs, "`mbufs`", span(&raw.mbufs));
    check(*mbuf_size == new.mbuf_size, "`mbuf-size`", span(&raw.mbuf_size));
    check(*eal_args == new.eal_args, "`eal-args`", span(&raw.eal_args));
}

#[cfg(test)]
mod tests {
    use super::{MAX_WORKERS, MEMZONES, memzones, parse_memory};

    #[test]
    fn memzones_suffice_for_so_many_workers() {
        assert_eq!(memzones(2), 2 + 8 + 64);
        assert!(memzones(MAX_WORKERS) <= MEMZONES);
        assert!(memzones(MAX_WORKERS + 1) > MEMZONES);
    }

    #[test]
    fn memory_is_a_number_with_a_unit() {
        assert_eq!(parse_memory("64M"), Ok(64));
        assert_eq!(parse_memory("2G"), Ok(2048));
        for text in ["", "M", "256", "256K", "256MB", "1.5G", "-1M", "+1G", "1MG", "99999999999M"] {
            assert!(parse_memory(text).unwrap_err().message.contains("no amount"), "{text}");
        }
        for text in ["63M", "0G", "1025G", "4294967295G"] {
            assert!(parse_memory(text).unwrap_err().message.contains("64M to 1024G"), "{text}");
        }
    }
}
