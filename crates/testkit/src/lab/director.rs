//! The director under test: Shunt on two DPDK ports, or the kernel as a control.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use rustix::process::Signal;

use super::{
    Configuration, DIP, Device, LIP, Process, VIP,
    namespace::{Lifetime, Namespace},
    transcript::{note, quote},
    wait_until,
};

/// Shunt, running.
#[derive(Debug)]
pub(super) struct Shunt {
    process: Process,
    service_file: PathBuf,
}

/// How a director ended.
#[derive(Clone, Debug)]
pub struct Summary {
    /// All that it printed, the counters at its end too.
    pub log: String,
    /// In a line.
    pub text: String,
    /// What was wrong with it; empty if nothing.
    pub faults: Vec<String>,
}

impl Shunt {
    /// Starts it, and waits until it is ready.
    pub(super) fn start(
        namespace: &Namespace,
        lifetime: Lifetime,
        binary: &Path,
        service_file: PathBuf,
    ) -> Shunt {
        // A director that was killed leaves its XDP program on the NIC.
        for nic in ["outside0", "inside0"] {
            namespace.ip(&format!("link set {nic} xdp off"));
        }
        let file = service_file.to_str().expect("a path in UTF-8");
        let binary = binary.to_str().expect("a path in UTF-8");
        let program = ["env", "NO_COLOR=1", binary, "run", "--config", file];
        let log = service_file.with_extension("log");
        let process = Process::start(namespace, lifetime, &log, &program, Stdio::null());
        let is_ready = process.wait_for_words("director ready", Duration::from_secs(20));
        assert!(is_ready, "the director is not ready after 20 s, or has ended:\n{}", process.log());
        Shunt { process, service_file }
    }

    /// Edits its service file and has it read that again.
    pub(super) fn reload(&self, edit: impl FnOnce(&str) -> String) {
        let before = fs::read_to_string(&self.service_file).expect("a service file");
        let after = edit(&before);
        note(&format!("director$ edit {} && kill -HUP", self.service_file.display()));
        for (old, new) in before.lines().zip(after.lines()).filter(|(old, new)| old != new) {
            quote(&format!("- {old}\n+ {new}"));
        }
        fs::write(&self.service_file, after).expect("a service file");
        let said = self.replies().len();
        self.process.signal(Signal::HUP);
        let has_said = wait_until(Duration::from_secs(5), || self.replies().len() > said);
        assert!(has_said, "the director does not say what it read");
        quote(&self.replies()[said..].join("\n"));
    }

    /// What it said to each SIGHUP.
    fn replies(&self) -> Vec<String> {
        self.process
            .log()
            .lines()
            .filter(|line| line.contains("SIGHUP: "))
            .map(str::to_owned)
            .collect()
    }

    pub(super) fn has_ended(&self) -> bool {
        !self.process.is_running()
    }

    pub(super) fn log(&self) -> String {
        self.process.log()
    }

    /// Ends it with SIGTERM, and examines how that went.
    pub(super) fn stop(mut self) -> Summary {
        let status = self.process.stop(Duration::from_secs(10));
        Summary::of(status.map(super::namespace::shell_status), self.process.log())
    }

    /// Ends it, however that goes.
    pub(super) fn end(&mut self) {
        self.process.stop(Duration::from_secs(10));
    }

    pub(super) fn leave(self) {
        self.process.leave();
    }
}

impl Summary {
    fn of(status: Option<i32>, log: String) -> Summary {
        let mut faults = Vec::new();
        match status {
            None => faults.push("shunt ignored SIGTERM for 10 s".to_owned()),
            Some(0) => {}
            Some(status) => faults.push(format!("exit status {status} after SIGTERM")),
        }
        let mbufs = log.lines().rev().find(|line| line.contains("back in the pool"));
        match mbufs.and_then(mbufs_of) {
            None => faults.push("no line that counts mbufs".to_owned()),
            Some((back, all)) if back < all => faults.push(format!("{} mbufs leaked", all - back)),
            Some(_) => {}
        }
        let text = format!(
            "exit status {}, {}",
            status.map_or("none".to_owned(), |status| status.to_string()),
            mbufs.unwrap_or("mbufs not counted"),
        );
        Summary { log, text, faults }
    }
}

/// `mbufs: 16384 of 16384 back in the pool`
fn mbufs_of(line: &str) -> Option<(usize, usize)> {
    let (_, counts) = line.split_once("mbufs: ")?;
    let (back, rest) = counts.split_once(" of ")?;
    Some((back.parse().ok()?, rest.split(' ').next()?.parse().ok()?))
}

/// Has the kernel do what Shunt would.
pub(super) fn start_kernel(namespace: &Namespace, configuration: &Configuration) {
    namespace.ip(&format!("address add {VIP}/24 dev outside0"));
    namespace.ip(&format!("address add {DIP}/24 dev inside0"));
    namespace.ip(&format!("address add {LIP}/24 dev inside0"));
    if let Some(mtu) = configuration.inside_mtu {
        namespace.ip(&format!("link set inside0 mtu {mtu}"));
    }
    for (network, gateway) in &configuration.routes {
        namespace.ip(&format!("route add {network} via {gateway}"));
    }
    namespace.sh("sysctl -qw net.ipv4.ip_forward=1 net.ipv4.conf.all.arp_ignore=0 \
         net.ipv4.conf.all.send_redirects=0 net.ipv4.conf.inside0.send_redirects=0");
    let Some(rules) = configuration.nft_rules() else { return };
    let mut nft = namespace
        .command(&["nft", "-f", "-"], Lifetime::OfItsParent)
        .stdin(Stdio::piped())
        .spawn()
        .expect("nft starts");
    nft.stdin.take().expect("a pipe").write_all(rules.as_bytes()).expect("rules are written");
    assert!(nft.wait().expect("nft ends").success(), "nft refuses:\n{rules}");
}

/// Has the kernel do nothing.
pub(super) fn stop_kernel(namespace: &Namespace) {
    namespace.sh("nft flush ruleset");
    for nic in ["outside0", "inside0"] {
        namespace.ip(&format!("address flush dev {nic}"));
    }
    namespace.ip("link set inside0 mtu 1500");
    mute(namespace);
}

/// Only the director under test may answer: its kernel forwards nothing, and answers no ARP.
pub(super) fn mute(namespace: &Namespace) {
    namespace.sh("sysctl -qw net.ipv4.ip_forward=0 net.ipv4.conf.all.arp_ignore=8 \
         net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.default.disable_ipv6=1");
}

impl Device {
    /// The devices of the outside and the inside port, as a service file names them.
    pub(super) fn vdevs(self) -> (&'static str, &'static str) {
        match self {
            Device::AfPacket => ("net_af_packet0,iface=outside0", "net_af_packet1,iface=inside0"),
            Device::AfXdp => ("net_af_xdp0,iface=outside0", "net_af_xdp1,iface=inside0"),
            Device::Tap => ("net_tap0,iface=tap-outside", "net_tap1,iface=tap-inside"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Summary;

    #[test]
    fn ends_are_judged() {
        let faults = |status, log: &str| Summary::of(status, log.to_owned()).faults;
        let clean = "ARP: 1 request\nmbufs: 16384 of 16384 back in the pool\n";
        assert_eq!(faults(Some(0), clean), [""; 0]);
        assert_eq!(faults(Some(139), clean), ["exit status 139 after SIGTERM"]);
        assert_eq!(faults(None, clean), ["shunt ignored SIGTERM for 10 s"]);
        let leak = "mbufs: 16380 of 16384 back in the pool\n";
        assert_eq!(faults(Some(0), leak), ["4 mbufs leaked"]);
        assert_eq!(faults(Some(0), "killed"), ["no line that counts mbufs"]);
    }
}
