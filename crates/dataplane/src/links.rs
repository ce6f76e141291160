//! Watching the ports' links, on the main lcore: what happens to one is logged, once each time.
//!
//! Drivers over an interface of the kernel's say little of it or nothing (net_af_packet of DPDK 22.11 calls
//! its link up whatever happens), so there the kernel is asked, and for all other devices DPDK.

use std::{
    fmt, fs,
    path::{Path, PathBuf},
};

use shunt_config as config;
use shunt_dpdk::Port;
use tracing::{info, warn};

/// Interfaces of the kernel's, each a directory.
const INTERFACES: &str = "/sys/class/net";

/// Bit of an interface's flags: it is set up (`IFF_UP`).
const IFF_UP: u32 = 1;

/// What a port's link is like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LinkState {
    /// Packets can pass.
    Up,
    /// Nothing is at the other end.
    NoCarrier,
    /// The interface was set down.
    SetDown,
    /// The interface is no more.
    Gone,
    /// There is another interface of the same name.
    Replaced,
}

impl fmt::Display for LinkState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            LinkState::Up => "is up",
            LinkState::NoCarrier => "has no carrier; no packet passes until the other end is back",
            LinkState::SetDown => {
                "was set down; no packet passes until it is up again (`ip link set … up`)"
            }
            LinkState::Gone => {
                "was removed; no packet passes any more: restart the director when it is there again"
            }
            LinkState::Replaced => {
                "was removed, and another one of the same name is there; restart the director to \
                 take that one"
            }
        })
    }
}

/// The link of one port, and how it was when somebody last looked.
pub(crate) struct Link {
    port: String,
    source: Source,
    last: LinkState,
}

/// Who is asked.
enum Source {
    Dpdk,
    Kernel(Interface),
}

/// An interface of the kernel's.
struct Interface {
    name: String,
    directory: PathBuf,
    /// The kernel's number of it, which no other one gets. `None` where it could not be read.
    index: Option<u32>,
}

impl Link {
    /// The link of a port that has been started.
    pub(crate) fn new(wanted: &config::Port) -> Link {
        Link::with(wanted, Path::new(INTERFACES))
    }

    fn with(wanted: &config::Port, interfaces: &Path) -> Link {
        let interface = wanted.device.interface().map(|name| Interface::new(name, interfaces));
        let source = match interface {
            // net_pcap's `iface=` and others are what the kernel knows, too, or not.
            Some(interface) if interface.index.is_some() => Source::Kernel(interface),
            _ => Source::Dpdk,
        };
        Link { port: wanted.name.clone(), source, last: LinkState::Up }
    }

    /// Looks how it is, and logs what has changed.
    pub(crate) fn watch(&mut self, port: &Port) {
        if let Some(now) = self.change(|| port.link().up) {
            self.log(now);
        }
    }

    /// The new state, if it is another than before.
    fn change(&mut self, is_up: impl FnOnce() -> bool) -> Option<LinkState> {
        let now = match &self.source {
            Source::Kernel(interface) => interface.state(),
            Source::Dpdk if is_up() => LinkState::Up,
            Source::Dpdk => LinkState::NoCarrier,
        };
        let is_new = now != self.last;
        self.last = now;
        is_new.then_some(now)
    }

    fn log(&self, now: LinkState) {
        let port = &self.port;
        let what = match &self.source {
            Source::Kernel(interface) => format!("interface {}", interface.name),
            Source::Dpdk => "its link".to_owned(),
        };
        match now {
            LinkState::Up => info!("port {port}: {what} {now} again"),
            _ => warn!("port {port}: {what} {now}"),
        }
    }
}

impl Interface {
    fn new(name: &str, interfaces: &Path) -> Interface {
        let directory = interfaces.join(name);
        let index = read_number(&directory.join("ifindex"));
        Interface { name: name.to_owned(), directory, index }
    }

    fn state(&self) -> LinkState {
        let Some(index) = read_number(&self.directory.join("ifindex")) else {
            return LinkState::Gone;
        };
        if Some(index) != self.index {
            return LinkState::Replaced;
        }
        let is_set_up =
            read_flags(&self.directory.join("flags")).is_none_or(|flags| flags & IFF_UP != 0);
        match (is_set_up, read_number(&self.directory.join("carrier"))) {
            (false, _) => LinkState::SetDown,
            (true, Some(0)) => LinkState::NoCarrier,
            (true, _) => LinkState::Up,
        }
    }
}

fn read_number(file: &Path) -> Option<u32> {
    fs::read_to_string(file).ok()?.trim().parse().ok()
}

fn read_flags(file: &Path) -> Option<u32> {
    let text = fs::read_to_string(file).ok()?;
    u32::from_str_radix(text.trim().strip_prefix("0x")?, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use shunt_config::Config;

    fn wanted(device: &str) -> config::Port {
        let text = format!(
            r#"
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
        Config::parse("test.toml", &text).unwrap().ports.outside
    }

    #[test]
    fn what_happens_to_an_interface_is_told_once() {
        let interfaces = tempfile::tempdir().unwrap();
        let eth0 = interfaces.path().join("eth0");
        let set = |index: &str, flags: &str, carrier: Option<&str>| {
            fs::create_dir_all(&eth0).unwrap();
            fs::write(eth0.join("ifindex"), index).unwrap();
            fs::write(eth0.join("flags"), flags).unwrap();
            match carrier {
                Some(carrier) => fs::write(eth0.join("carrier"), carrier).unwrap(),
                // Reading it fails while the interface is down.
                None => fs::remove_file(eth0.join("carrier")).unwrap(),
            }
        };
        set("7\n", "0x1003\n", Some("1\n"));
        let mut link = Link::with(&wanted("net_af_packet0,iface=eth0"), interfaces.path());
        let mut change = || link.change(|| panic!("the kernel is asked"));
        assert_eq!(change(), None, "it is up at the start");
        set("7\n", "0x1003\n", Some("0\n"));
        assert_eq!((change(), change()), (Some(LinkState::NoCarrier), None));
        set("7\n", "0x1002\n", None);
        assert_eq!((change(), change()), (Some(LinkState::SetDown), None));
        set("7\n", "0x1003\n", Some("1\n"));
        assert_eq!((change(), change()), (Some(LinkState::Up), None));
        fs::remove_dir_all(&eth0).unwrap();
        assert_eq!((change(), change()), (Some(LinkState::Gone), None));
        set("8\n", "0x1003\n", Some("1\n"));
        assert_eq!((change(), change()), (Some(LinkState::Replaced), None));
    }

    #[test]
    fn dpdk_is_asked_of_what_the_kernel_does_not_know() {
        let interfaces = tempfile::tempdir().unwrap();
        let mut link = Link::with(&wanted("03:00.0"), interfaces.path());
        assert_eq!(link.change(|| true), None);
        assert_eq!(link.change(|| false), Some(LinkState::NoCarrier));
        assert_eq!(link.change(|| false), None);
        assert_eq!(link.change(|| true), Some(LinkState::Up));
    }
}
