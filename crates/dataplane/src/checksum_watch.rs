//! Noticing that packets arrive with unfinished checksums.
//!
//! The classic trap of AF_PACKET between virtual interfaces: a ping works, and TCP and UDP never do, as each
//! packet arrives with a checksum that its sender has left to hardware which isn't there. Only the sender's
//! side can mend that; the director can say so.

use std::{
    fs,
    path::{Path, PathBuf},
};

use shunt_config as config;
use shunt_dpdk::PacketSocket;
use tracing::{debug, warn};

/// Interfaces of the kernel's, each a directory.
const INTERFACES: &str = "/sys/class/net";

/// Watches one port until it has had something to say.
pub(crate) struct ChecksumWatch {
    port: String,
    interface: String,
    socket: PacketSocket,
}

impl ChecksumWatch {
    /// Watches a port of net_af_packet. The other drivers have no such packets (net_tap tells the kernel
    /// that it can't do checksums), or take them before the kernel could show them (net_af_xdp).
    pub(crate) fn start(wanted: &config::Port) -> Option<ChecksumWatch> {
        let driver = wanted.device.name();
        let interface = wanted.device.interface()?;
        if !driver.starts_with("net_af_packet") && !driver.starts_with("eth_af_packet") {
            return None;
        }
        match PacketSocket::open(interface) {
            Ok(socket) => Some(ChecksumWatch {
                port: wanted.name.clone(),
                interface: interface.to_owned(),
                socket,
            }),
            Err(error) => {
                debug!("port {}: its checksums are not watched: {error}", wanted.name);
                None
            }
        }
    }

    /// Looks at what arrived, and warns if that is unfinished. Returns whether to go on watching.
    pub(crate) fn goes_on(&mut self) -> bool {
        let found = self.socket.saw_unfinished_checksum();
        if found {
            warn!(
                "port {}: TCP or UDP packets arrive at {} with unfinished checksums, which nobody will \
                 finish: TCP and UDP don't work. Their sender leaves checksums to hardware that isn't \
                 there; {}",
                self.port,
                self.interface,
                remedy(&self.interface, Path::new(INTERFACES))
            );
        }
        !found
    }
}

/// The command that mends it.
fn remedy(interface: &str, interfaces: &Path) -> String {
    match other_end(interface, interfaces) {
        OtherEnd::Here(peer) => format!("switch that off: `sudo ethtool -K {peer} tx off`"),
        OtherEnd::Elsewhere(index) => format!(
            "switch that off at the other end of {interface}, where `ip link` lists it with number \
             {index}: `sudo ethtool -K NAME tx off`"
        ),
        OtherEnd::Unknown => {
            "switch that off on the sender's interface, in the container or the virtual \
                              machine that it is in: `sudo ethtool -K NAME tx off`"
                .to_owned()
        }
    }
}

/// Where the other one of a pair of interfaces is.
#[derive(Debug, PartialEq, Eq)]
enum OtherEnd {
    /// In this network namespace, by this name.
    Here(String),
    /// In another one, by this number.
    Elsewhere(u32),
    /// The interface is none of a pair.
    Unknown,
}

fn other_end(interface: &str, interfaces: &Path) -> OtherEnd {
    let number = |directory: &Path, file: &str| -> Option<u32> {
        fs::read_to_string(directory.join(file)).ok()?.trim().parse().ok()
    };
    let own = interfaces.join(interface);
    let (Some(index), Some(peer)) = (number(&own, "ifindex"), number(&own, "iflink")) else {
        return OtherEnd::Unknown;
    };
    if peer == index || peer == 0 {
        return OtherEnd::Unknown;
    }
    // A number alone means nothing here if the other end is in another namespace: the pair is one if each
    // is the other's.
    let is_peer = |directory: &PathBuf| {
        number(directory, "ifindex") == Some(peer) && number(directory, "iflink") == Some(index)
    };
    let all = fs::read_dir(interfaces).into_iter().flatten().flatten().map(|entry| entry.path());
    let found = all.into_iter().find(is_peer);
    match found.as_deref().and_then(Path::file_name).and_then(|name| name.to_str()) {
        Some(name) => OtherEnd::Here(name.to_owned()),
        None => OtherEnd::Elsewhere(peer),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_remedy_names_the_other_end() {
        let interfaces = tempfile::tempdir().unwrap();
        for (name, index, link) in
            [("eth0", 2, 2), ("vo", 4, 5), ("vop", 5, 4), ("vi", 6, 2), ("dummy", 9, 6)]
        {
            let directory = interfaces.path().join(name);
            fs::create_dir(&directory).unwrap();
            fs::write(directory.join("ifindex"), format!("{index}\n")).unwrap();
            fs::write(directory.join("iflink"), format!("{link}\n")).unwrap();
        }
        let other_end = |interface| other_end(interface, interfaces.path());
        assert_eq!(other_end("vo"), OtherEnd::Here("vop".to_owned()));
        assert_eq!(other_end("vi"), OtherEnd::Elsewhere(2), "number 2 of another namespace");
        assert_eq!(other_end("eth0"), OtherEnd::Unknown);
        assert_eq!(other_end("nothing"), OtherEnd::Unknown);
        assert!(remedy("vo", interfaces.path()).ends_with("`sudo ethtool -K vop tx off`"));
    }
}
