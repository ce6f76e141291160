//! What can be seen to be wrong before EAL is started, whose own messages help little.

use std::{
    fs,
    path::{Path, PathBuf},
};

use shunt_config::{Config, Device, HugePages, PciAddress};

pub use crate::memory::MemoryScope;
use crate::memory::{self, Available};

const KIB_PER_MIB: u64 = 1024;

/// Bytes of a MiB, as a power of two.
const MIB_SHIFT: u32 = 20;

/// Something on this machine that the service file needs and that isn't there.
#[derive(Debug, thiserror::Error)]
pub enum PreflightError {
    /// Too few huge pages.
    #[error(
        "{wanted} MiB of huge pages are wanted and {free} MiB are free; reserve them: \
         `echo {pages} | sudo tee {file}`, or write `no-huge = true` under `[dpdk]`"
    )]
    HugePages {
        /// MiB.
        wanted: u64,
        /// MiB.
        free: u64,
        /// How many pages there should be.
        pages: u64,
        /// Where to write that.
        file: String,
    },
    /// More memory than there is.
    #[error(
        "{} MiB of memory are wanted ({}), and {available} MiB are available {scope}; lower {}",
        .table + .dpdk,
        purposes(*.dpdk, *.table),
        lower(*.dpdk, *.table)
    )]
    Memory {
        /// MiB for DPDK, if that is not to be in huge pages.
        dpdk: u64,
        /// MiB for the table of connections.
        table: u64,
        /// MiB that there are.
        available: u64,
        /// Where.
        scope: MemoryScope,
    },
    /// The `hugepage-dir` isn't there.
    #[error(
        "there is no directory {dir}; mount huge pages there: \
         `sudo mkdir -p {dir} && sudo mount -t hugetlbfs none {dir}`", dir = .0.display()
    )]
    NoHugePageDirectory(PathBuf),
    /// An lcore that isn't a CPU here.
    #[error("lcore {lcore} is wanted, and the CPUs of this machine are {online} (see `lscpu`)")]
    NoCpu {
        /// The lcore.
        lcore: u16,
        /// The kernel's list of CPUs.
        online: String,
    },
    /// A kernel interface that isn't there.
    #[error(
        "port `{port}`: there is no interface `{interface}` in this network namespace; `ip link` lists them"
    )]
    NoInterface {
        /// The port's name.
        port: String,
        /// The interface's name.
        interface: String,
    },
    /// A PCI device that isn't there.
    #[error(
        "port `{port}`: there is no PCI device {address}; `dpdk-devbind.py --status` lists them"
    )]
    NoPciDevice {
        /// The port's name.
        port: String,
        /// Its address.
        address: PciAddress,
    },
    /// A PCI device that the kernel uses.
    #[error(
        "port `{port}`: PCI device {address} is bound to {driver}; give it to DPDK: \
         `sudo modprobe vfio-pci && sudo dpdk-devbind.py --bind=vfio-pci {address}`"
    )]
    Unbound {
        /// The port's name.
        port: String,
        /// Its address.
        address: PciAddress,
        /// The kernel's driver, or "no driver".
        driver: String,
    },
}

fn purposes(dpdk: u64, table: u64) -> String {
    let purposes = [(dpdk, "for DPDK"), (table, "for the table of connections")];
    let words = purposes.iter().filter(|(mib, _)| *mib > 0);
    words.map(|(mib, purpose)| format!("{mib} MiB {purpose}")).collect::<Vec<_>>().join(", ")
}

/// The keys that mend a want of memory, the larger one first.
fn lower(dpdk: u64, table: u64) -> &'static str {
    match (dpdk, dpdk >= table) {
        (0, _) => "`connections` under `[nat]`",
        (_, true) => "`memory` under `[dpdk]` or `connections` under `[nat]`",
        (_, false) => "`connections` under `[nat]` or `memory` under `[dpdk]`",
    }
}

/// Looks for what the service file needs on this machine.
///
/// # Errors
/// The first thing that is missing.
pub(crate) fn check(config: &Config) -> Result<(), PreflightError> {
    check_lcores(config, Path::new("/sys/devices/system/cpu/online"))?;
    check_huge_pages(config, Path::new("/sys/kernel/mm/hugepages"))?;
    if let Some(available) = memory::available() {
        check_memory(config, Path::new("/sys/kernel/mm/hugepages"), available)?;
    }
    for port in config.ports.iter() {
        match &port.device {
            Device::Pci(address) => {
                check_pci(&port.name, *address, Path::new("/sys/bus/pci/devices"))?;
            }
            vdev @ Device::Vdev { .. } => {
                check_interface(&port.name, vdev, Path::new("/sys/class/net"))?;
            }
        }
    }
    Ok(())
}

fn check_lcores(config: &Config, online: &Path) -> Result<(), PreflightError> {
    // A kernel that doesn't say leaves it to EAL.
    let Ok(online) = fs::read_to_string(online) else { return Ok(()) };
    let online = online.trim();
    let lcores = [config.dpdk.main_lcore].into_iter().chain(config.dpdk.worker_lcores.clone());
    match lcores.into_iter().find(|lcore| !in_list(*lcore, online)) {
        Some(lcore) => Err(PreflightError::NoCpu { lcore, online: online.to_owned() }),
        None => Ok(()),
    }
}

/// Whether the kernel's list ("0-3,8") has a number.
fn in_list(number: u16, list: &str) -> bool {
    list.split(',').any(|range| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        match (first.parse::<u16>(), last.parse::<u16>()) {
            (Ok(first), Ok(last)) => (first..=last).contains(&number),
            _ => false,
        }
    })
}

fn check_huge_pages(config: &Config, sizes: &Path) -> Result<(), PreflightError> {
    match &config.dpdk.huge_pages {
        HugePages::None => return Ok(()),
        HugePages::Directory(directory) if !directory.is_dir() => {
            return Err(PreflightError::NoHugePageDirectory(directory.clone()));
        }
        HugePages::Default | HugePages::Directory(_) => {}
    }
    let pools: Vec<HugePagePool> = HugePagePool::all(sizes);
    let free: u64 = pools.iter().map(HugePagePool::free_mib).sum();
    let wanted = u64::from(config.dpdk.memory_mib);
    if free >= wanted {
        return Ok(());
    }
    // The smallest pages are those that can be had at run time.
    let (kib, total) = pools.iter().map(|pool| (pool.kib, pool.total)).min().unwrap_or((2048, 0));
    let missing = ((wanted - free) * KIB_PER_MIB).div_ceil(kib);
    Err(PreflightError::HugePages {
        wanted,
        free,
        pages: total + missing,
        file: format!("{}/hugepages-{kib}kB/nr_hugepages", sizes.display()),
    })
}

/// Memory that is not in huge pages: all of it is used at start.
fn check_memory(
    config: &Config,
    sizes: &Path,
    Available { bytes, scope }: Available,
) -> Result<(), PreflightError> {
    let memory = u64::from(config.dpdk.memory_mib);
    let (dpdk, left_of_huge) = match &config.dpdk.huge_pages {
        HugePages::None => (memory, 0),
        HugePages::Default | HugePages::Directory(_) => (0, memory),
    };
    let table = (crate::connection_memory(config.nat.connections) as u64) >> MIB_SHIFT;
    // The table takes what huge pages of 2 MiB DPDK leaves.
    let free = HugePagePool::all(sizes)
        .iter()
        .filter(|pool| pool.kib == 2048)
        .map(HugePagePool::free_mib)
        .sum::<u64>();
    let in_huge_pages = free.saturating_sub(left_of_huge) >= table;
    let (ordinary_table, available) = (if in_huge_pages { 0 } else { table }, bytes >> MIB_SHIFT);
    if dpdk + ordinary_table <= available {
        return Ok(());
    }
    Err(PreflightError::Memory { dpdk, table: ordinary_table, available, scope })
}

/// The huge pages of one size.
struct HugePagePool {
    kib: u64,
    total: u64,
    free: u64,
}

impl HugePagePool {
    fn all(sizes: &Path) -> Vec<HugePagePool> {
        let entries = fs::read_dir(sizes).into_iter().flatten().flatten();
        entries.filter_map(|entry| HugePagePool::read(&entry.path())).collect()
    }

    fn free_mib(&self) -> u64 {
        self.free * self.kib / KIB_PER_MIB
    }

    fn read(directory: &Path) -> Option<HugePagePool> {
        let name = directory.file_name()?.to_str()?;
        let kib = name.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()?;
        let count = |file| -> Option<u64> {
            fs::read_to_string(directory.join(file)).ok()?.trim().parse().ok()
        };
        Some(HugePagePool { kib, total: count("nr_hugepages")?, free: count("free_hugepages")? })
    }
}

fn check_interface(port: &str, device: &Device, interfaces: &Path) -> Result<(), PreflightError> {
    let takes_interface = ["net_af_packet", "net_af_xdp"];
    let name = device.name();
    if !takes_interface.iter().any(|driver| name.starts_with(driver)) {
        return Ok(());
    }
    match device.interface() {
        Some(interface) if !interfaces.join(interface).exists() => {
            Err(PreflightError::NoInterface {
                port: port.to_owned(),
                interface: interface.to_owned(),
            })
        }
        _ => Ok(()),
    }
}

fn check_pci(port: &str, address: PciAddress, devices: &Path) -> Result<(), PreflightError> {
    let device = devices.join(address.to_string());
    if !device.exists() {
        return Err(PreflightError::NoPciDevice { port: port.to_owned(), address });
    }
    let driver = fs::read_link(device.join("driver")).ok();
    let driver = driver.as_deref().and_then(Path::file_name).and_then(|name| name.to_str());
    // NVIDIA's drivers stay with the kernel and share the device with DPDK.
    let usable = [
        "vfio-pci",
        "uio_pci_generic",
        "igb_uio",
        "mlx4_core",
        "mlx5_core",
        "mana",
        "uio_hv_generic",
    ];
    match driver {
        Some(driver) if usable.contains(&driver) => Ok(()),
        other => Err(PreflightError::Unbound {
            port: port.to_owned(),
            address,
            driver: other.unwrap_or("no driver").to_owned(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(dpdk: &str, device: &str) -> Config {
        let text = format!(
            r#"
            [dpdk]
            {dpdk}
            [[port]]
            name = "out"
            role = "outside"
            device = "{device}"
            addresses = ["192.0.2.1/24"]
            [[port]]
            name = "in"
            role = "inside"
            device = "net_null1"
            addresses = ["10.0.0.1/8"]
            "#
        );
        Config::parse("test.toml", &text).unwrap()
    }

    /// A directory that goes with the value.
    fn directory(files: &[(&str, &str)]) -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        for (file, content) in files {
            let path = directory.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        directory
    }

    #[test]
    fn missing_huge_pages_are_counted() {
        let sizes = directory(&[
            ("hugepages-2048kB/nr_hugepages", "100\n"),
            ("hugepages-2048kB/free_hugepages", "28\n"),
        ]);
        let check = |dpdk: &str| check_huge_pages(&config(dpdk, "net_null0"), sizes.path());
        assert!(check("memory = \"64M\"\nno-huge = true").is_ok());
        let error = check("memory = \"256M\"").unwrap_err().to_string();
        assert!(
            error.starts_with("256 MiB of huge pages are wanted and 56 MiB are free"),
            "{error}"
        );
        assert!(error.contains("echo 200 | sudo tee"), "{error}");
        fs::write(sizes.path().join("hugepages-2048kB/free_hugepages"), "128").unwrap();
        assert!(check("memory = \"256M\"").is_ok());
        let error = check("hugepage-dir = \"/nowhere\"").unwrap_err().to_string();
        assert!(error.contains("mount -t hugetlbfs none /nowhere"), "{error}");
    }

    #[test]
    fn memory_is_held_against_what_there_is() {
        let sizes = directory(&[
            ("hugepages-2048kB/nr_hugepages", "100\n"),
            ("hugepages-2048kB/free_hugepages", "100\n"),
        ]);
        // A table of a million connections takes 96 MiB.
        let check = |dpdk: &str, connections: u32, mib: u64| {
            let config =
                config(&format!("{dpdk}\n[nat]\nconnections = {connections}"), "net_null0");
            let available = Available { bytes: mib << MIB_SHIFT, scope: MemoryScope::Machine };
            check_memory(&config, sizes.path(), available).map_err(|error| error.to_string())
        };
        let million = 1 << 20;
        let no_huge = "memory = \"64M\"\nno-huge = true";
        assert_eq!(check(no_huge, million, 64), Ok(()), "the table fits huge pages");
        assert_eq!(check("memory = \"64M\"", million, 0), Ok(()), "all does");
        assert_eq!(check("memory = \"150M\"", million, 96), Ok(()), "DPDK alone does");
        assert_eq!(
            check("memory = \"1024G\"\nno-huge = true", million, 16384).unwrap_err(),
            "1048576 MiB of memory are wanted (1048576 MiB for DPDK), and 16384 MiB are available on this machine; lower `memory` under `[dpdk]` or \
             `connections` under `[nat]`"
        );
        assert_eq!(
            check("memory = \"150M\"", million * 8, 767).unwrap_err(),
            "768 MiB of memory are wanted (768 MiB for the table of connections), and 767 MiB are \
             available on this machine; lower `connections` under `[nat]`"
        );
        let error = check(no_huge, million * 8, 767 + 64).unwrap_err();
        assert!(error.ends_with("lower `connections` under `[nat]` or `memory` under `[dpdk]`"));
        assert_eq!(check(no_huge, million * 8, 768 + 64), Ok(()));
    }

    #[test]
    fn lcores_are_cpus() {
        let files = directory(&[("online", "0-1,4\n")]);
        let check =
            |lcores: &str| check_lcores(&config(lcores, "net_null0"), &files.path().join("online"));
        assert!(check("worker-lcores = [4]").is_ok());
        let error = check("worker-lcores = [2]").unwrap_err().to_string();
        assert!(error.starts_with("lcore 2 is wanted, and the CPUs of this machine are 0-1,4"));
    }

    #[test]
    fn interfaces_exist() {
        let interfaces = directory(&[("eth0/mtu", "1500")]);
        let check = |device: &str| {
            check_interface("out", &config("", device).ports.outside.device, interfaces.path())
        };
        assert!(check("net_af_packet0,iface=eth0").is_ok());
        assert!(check("net_tap0,iface=eth1").is_ok(), "a TAP is made, not found");
        let error = check("net_af_xdp0,iface=eth1").unwrap_err().to_string();
        assert!(error.contains("no interface `eth1`"), "{error}");
    }

    #[test]
    fn pci_devices_are_bound() {
        let devices = directory(&[("0000:03:00.0/vendor", "0x8086"), ("drivers/ixgbe/x", "")]);
        let Device::Pci(address) = config("", "03:00.0").ports.outside.device else {
            panic!("a PCI address")
        };
        let check = || check_pci("out", address, devices.path());
        let error = check().unwrap_err().to_string();
        assert!(error.contains("is bound to no driver"), "{error}");
        let driver = devices.path().join("0000:03:00.0/driver");
        std::os::unix::fs::symlink("../drivers/ixgbe", &driver).unwrap();
        let error = check().unwrap_err().to_string();
        assert!(error.contains("bound to ixgbe"), "{error}");
        assert!(error.contains("dpdk-devbind.py --bind=vfio-pci 0000:03:00.0"), "{error}");
        fs::remove_file(&driver).unwrap();
        std::os::unix::fs::symlink("../drivers/vfio-pci", &driver).unwrap();
        assert!(check().is_ok());
        let absent = check_pci("out", address, &devices.path().join("drivers")).unwrap_err();
        assert!(absent.to_string().contains("no PCI device 0000:03:00.0"));
    }
}
