//! A device is for one director at a time.
//!
//! Two directors on the same interfaces would both answer, and neither would notice. So each takes a lock
//! per device before EAL starts, on a file that also says who has it. A PCI device is locked by its
//! address, an interface of the kernel's by its name and the network namespace that it is in: directors in
//! different namespaces may well have interfaces of the same name. Devices that are nothing outside the
//! process (net_null, net_ring, net_pcap …) need no lock.

use std::{
    fs::{self, File},
    io::{self, Write},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process, thread,
    time::Duration,
};

use shunt_config::{Config, Device};
use tracing::warn;

use crate::lock_file::{Attempt, lock_file, make_private, runtime_directory, user};

/// Drivers that take an interface of the kernel's, or make one.
const OF_THE_KERNEL: [&str; 5] =
    ["net_af_packet", "net_af_xdp", "net_tap", "eth_af_packet", "eth_tap"];

/// A device that another director has.
#[derive(Debug, thiserror::Error)]
#[error(
    "port `{port}`: {device} is in use by another director, {owner}; \
     stop that one, or give this one another device"
)]
pub struct DeviceInUse {
    /// The port's name.
    pub port: String,
    /// What the device is called outside the process.
    pub device: String,
    /// Whose it is: its process and its service file.
    pub owner: String,
}

/// Locks on the devices of both ports. They end with this value, or with the process.
pub(crate) struct DeviceLocks {
    locks: Vec<(PathBuf, File)>,
}

impl DeviceLocks {
    /// Locks the devices of a director that runs `file`. Where the system has no place for locks, that
    /// is logged and nothing is locked.
    pub(crate) fn take(config: &Config, file: &Path) -> Result<DeviceLocks, DeviceInUse> {
        let directory = lock_directory();
        match directory.and_then(|directory| Ok((directory, network_namespace()?))) {
            Ok((directory, namespace)) => DeviceLocks::take_in(&directory, namespace, config, file),
            Err(error) => {
                warn!("no lock keeps other directors off these devices: {error}");
                Ok(DeviceLocks { locks: Vec::new() })
            }
        }
    }

    fn take_in(
        directory: &Path,
        namespace: u64,
        config: &Config,
        file: &Path,
    ) -> Result<DeviceLocks, DeviceInUse> {
        // An absolute path means the same to whoever reads it.
        let file = std::path::absolute(file).unwrap_or_else(|_| file.to_owned());
        let owner = format!("process {} with {}\n", process::id(), file.display());
        let mut taken = DeviceLocks { locks: Vec::new() };
        for port in config.ports.iter() {
            let Some((device, key)) = key(&port.device, namespace) else { continue };
            let path = directory.join(format!("{key}.lock"));
            match lock_file(&path) {
                Ok(Attempt::Locked(mut lock)) => {
                    // Who has it is for people to read; the lock holds without it.
                    let _ = lock.set_len(0).and_then(|()| lock.write_all(owner.as_bytes()));
                    taken.locks.push((path, lock));
                }
                Ok(Attempt::Taken) => {
                    return Err(DeviceInUse {
                        port: port.name.clone(),
                        device,
                        owner: read_owner(&path),
                    });
                }
                Err(error) => warn!("no lock keeps other directors off {device}: {error}"),
            }
        }
        Ok(taken)
    }
}

impl Drop for DeviceLocks {
    fn drop(&mut self) {
        // Removed while they are locked, so that nobody has locked one of them yet.
        for (path, _lock) in &self.locks {
            let _ = fs::remove_file(path);
        }
    }
}

/// Where locks are. Each user has a place of its own: a device that two of them can use is rare.
fn lock_directory() -> io::Result<PathBuf> {
    let fallback = format!("/tmp/shunt-{}", user()?);
    let directory = runtime_directory("/run/shunt", "shunt", &fallback)?;
    make_private(&directory)?;
    Ok(directory)
}

/// What a device is called outside the process, and a file name that only it has.
fn key(device: &Device, namespace: u64) -> Option<(String, String)> {
    match device {
        Device::Pci(address) => Some((format!("PCI device {address}"), format!("pci-{address}"))),
        vdev @ Device::Vdev { .. } => {
            let name = vdev.name();
            OF_THE_KERNEL.iter().find(|driver| name.starts_with(**driver))?;
            // A TAP without a name gets one that is free.
            let interface = vdev.interface()?;
            // What the kernel allows in a name and a file system doesn't is `/` alone, and that it
            // doesn't allow either.
            let key = format!("netns-{namespace}-{}", interface.replace('/', "_"));
            Some((format!("interface {interface}"), key))
        }
    }
}

/// The number of the network namespace that this process is in.
fn network_namespace() -> io::Result<u64> {
    Ok(fs::metadata("/proc/self/ns/net")?.ino())
}

/// Who has locked it. The other one writes that right after it has the lock.
fn read_owner(path: &Path) -> String {
    for _ in 0..10 {
        match fs::read_to_string(path) {
            Ok(owner) if owner.ends_with('\n') => return owner.trim_end().to_owned(),
            _ => thread::sleep(Duration::from_millis(10)),
        }
    }
    format!("which has locked {}", path.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(outside: &str, inside: &str) -> Config {
        let text = format!(
            r#"
            [[port]]
            name = "out"
            role = "outside"
            device = "{outside}"
            addresses = ["192.0.2.1/24"]
            [[port]]
            name = "in"
            role = "inside"
            device = "{inside}"
            addresses = ["10.0.0.1/8"]
            "#
        );
        Config::parse("test.toml", &text).unwrap()
    }

    #[test]
    fn a_device_is_for_one_director_at_a_time() {
        let directory = tempfile::tempdir().unwrap();
        let take = |namespace, config: &Config, file: &str| {
            DeviceLocks::take_in(directory.path(), namespace, config, Path::new(file))
        };
        let first = config("net_af_packet0,iface=eth0", "03:00.0");
        let second = config("net_tap0,iface=tap0", "net_af_xdp0,iface=eth0");
        let third = config("net_tap0,iface=tap1", "03:00.0");
        let pid = process::id();

        let locks = take(1, &first, "/etc/first.toml").unwrap();
        let error = take(1, &second, "/etc/second.toml").err().expect("eth0 is taken").to_string();
        assert_eq!(
            error,
            format!(
                "port `in`: interface eth0 is in use by another director, process {pid} with \
                 /etc/first.toml; stop that one, or give this one another device"
            )
        );
        let other = take(2, &second, "/etc/second.toml").expect("another network namespace");
        let error =
            take(2, &third, "/etc/third.toml").err().expect("the card is taken").to_string();
        assert!(error.starts_with("port `in`: PCI device 0000:03:00.0 is in use"), "{error}");
        drop(other);
        assert!(take(1, &config("net_tap0,iface=tap0", "net_null1"), "x").is_ok(), "was let go");

        drop(locks);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0, "nothing is left");
        assert!(take(1, &second, "/etc/second.toml").is_ok());
    }

    #[test]
    fn what_a_killed_director_leaves_is_in_nobody_s_way() {
        let directory = tempfile::tempdir().unwrap();
        let left = directory.path().join("netns-1-eth0.lock");
        fs::write(&left, "process 4194304 with /etc/a-much-longer-name-than-the-next-one.toml\n")
            .unwrap();
        let config = config("net_af_packet0,iface=eth0", "net_null0");
        let _locks = DeviceLocks::take_in(directory.path(), 1, &config, Path::new("/x")).unwrap();
        assert_eq!(
            fs::read_to_string(left).unwrap(),
            format!("process {} with /x\n", process::id())
        );
    }

    #[test]
    fn what_is_nothing_outside_the_process_needs_no_lock() {
        for device in ["net_null0", "net_pcap0,iface=eth0", "net_ring0", "net_tap0"] {
            assert_eq!(key(&config(device, "net_null9").ports.outside.device, 1), None, "{device}");
        }
    }
}
