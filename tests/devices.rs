//! The real binary on interfaces of the kernel's: what it says when they are taken, go away, or bring
//! packets that it can't use. Each test has a network namespace of its own, which needs root, so that
//! `cargo test` leaves them out, and `sudo scripts/test` runs them.

use std::{
    env,
    fs::{self, File},
    net::UdpSocket,
    process::{Child, Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

/// Set where a test runs in its namespace.
const INSIDE: &str = "SHUNT_TEST_NAMESPACE";

/// Two pairs of interfaces. The director has `vo` and `vi`; the client's `vop` has its address.
const NETWORK: &str = "
    mount -t sysfs none /sys
    ip link set lo up
    sysctl -qw net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.default.disable_ipv6=1
    ip link add vo type veth peer name vop
    ip link add vi type veth peer name vip
    for name in vo vop vi vip; do ip link set $name up; done
    ip addr add 192.168.1.200/24 dev vop
";

const SERVICE_FILE: &str = r#"
    [dpdk]
    worker-lcores = [0]
    memory = "64M"
    no-huge = true
    mbufs = 8192

    [nat]
    connections = 1024

    [[port]]
    name = "outside"
    role = "outside"
    device = "net_af_packet0,iface=vo"
    addresses = ["192.168.1.100/24"]

    [[port]]
    name = "inside"
    role = "inside"
    device = "net_af_packet1,iface=vi"
    addresses = ["192.168.2.200/24"]

    [[service]]
    protocol = "udp"
    vip = "192.168.1.100:53"
    scheduler = "rr"
    server = [{ address = "192.168.2.210" }]
"#;

/// Runs a test of this file in a network namespace of its own.
fn in_namespace(name: &str, test: impl FnOnce()) {
    if env::var_os(INSIDE).is_some() {
        shell(NETWORK);
        return test();
    }
    let status = Command::new("unshare")
        .args(["--net", "--mount", "--"])
        .arg(env::current_exe().expect("this program"))
        .args(["--ignored", "--exact", name, "--nocapture"])
        .env(INSIDE, "yes")
        .status();
    assert!(status.expect("unshare starts").success(), "its words are above");
}

fn shell(commands: &str) {
    let status = Command::new("sh").args(["-euc", commands]).status().expect("a shell");
    assert!(status.success(), "{commands}");
}

/// A director that runs, killed when the test is over.
struct Director {
    directory: tempfile::TempDir,
    process: Child,
}

impl Director {
    fn start() -> Director {
        let directory = tempfile::tempdir().expect("a temporary directory");
        fs::write(directory.path().join("lb.toml"), SERVICE_FILE).expect("a service file");
        let log = File::create(directory.path().join("log")).expect("a file for the log");
        let process = Command::new(env!("CARGO_BIN_EXE_shunt"))
            .args(["run", "--config"])
            .arg(directory.path().join("lb.toml"))
            .env_remove("RUST_LOG")
            .env("NO_COLOR", "1")
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("shunt starts");
        let director = Director { directory, process };
        director.await_log("director ready");
        director
    }

    fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("log")).expect("what the director logged")
    }

    #[track_caller]
    fn await_log(&self, words: &str) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !self.log().contains(words) {
            assert!(Instant::now() < deadline, "{words:?} is missing:\n{}", self.log());
            sleep(Duration::from_millis(20));
        }
    }

    /// Ends it, and returns all that it logged.
    fn stop(mut self) -> String {
        shell(&format!("kill -TERM {}", self.process.id()));
        let status = self.process.wait().expect("it ends");
        assert!(status.success(), "{}", self.log());
        self.log()
    }
}

impl Drop for Director {
    fn drop(&mut self) {
        // It has mostly ended.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
#[ignore = "needs root: sudo scripts/test"]
fn a_second_director_on_a_device_is_refused() {
    in_namespace("a_second_director_on_a_device_is_refused", || {
        let first = Director::start();
        let file = first.directory.path().join("second.toml");
        let text = SERVICE_FILE.replace("net_af_packet0,iface=vo", "net_null0");
        fs::write(&file, text).expect("a service file");
        let second = || {
            let mut command = Command::new(env!("CARGO_BIN_EXE_shunt"));
            command.args(["run", "--config"]).arg(&file).stdout(Stdio::null());
            command
        };
        let output = second().output().expect("shunt starts");
        let said = String::from_utf8(output.stderr).expect("UTF-8");
        assert_eq!(output.status.code(), Some(1), "{said}");
        let owner = first.directory.path().join("lb.toml");
        let owner = format!("process {} with {}", first.process.id(), owner.display());
        assert_eq!(
            said,
            format!(
                "shunt: port `inside`: interface vi is in use by another director, {owner}; stop that \
                 one, or give this one another device\n"
            )
        );
        first.stop();

        // One that was killed is in nobody's way.
        let mut killed = Director::start();
        killed.process.kill().expect("a child");
        killed.process.wait().expect("it ends");
        Director::start().stop();
    });
}

#[test]
#[ignore = "needs root: sudo scripts/test"]
fn links_that_come_and_go_are_logged() {
    in_namespace("links_that_come_and_go_are_logged", || {
        let director = Director::start();
        shell("ip link set vop down");
        director
            .await_log("WARN shunt_dataplane::links: port outside: interface vo has no carrier");
        shell("ip link set vop up");
        director.await_log("INFO shunt_dataplane::links: port outside: interface vo is up again");
        shell("ip link set vi down");
        director.await_log("port inside: interface vi was set down");
        shell("ip link set vi up");
        director.await_log("port inside: interface vi is up again");
        shell("ip link del vo");
        director.await_log("port outside: interface vo was removed; no packet passes any more");
        shell("ip link add vo type veth peer name vop");
        director.await_log("another one of the same name is there; restart the director");
        sleep(Duration::from_secs(2));
        let log = director.stop();
        let times = |words: &str| log.matches(words).count();
        assert_eq!((times("has no carrier"), times("vo is up again")), (1, 1), "once each: {log}");
    });
}

#[test]
#[ignore = "needs root: sudo scripts/test"]
fn unfinished_checksums_are_noticed() {
    in_namespace("unfinished_checksums_are_noticed", || {
        let send = || {
            let client = UdpSocket::bind("192.168.1.200:0").expect("a socket");
            for _ in 0..20 {
                client.send_to(b"query", "192.168.1.100:53").expect("a datagram is sent");
                sleep(Duration::from_millis(100));
            }
        };
        shell("ethtool -K vop tx off >/dev/null");
        let director = Director::start();
        send();
        let log = director.stop();
        assert!(!log.contains("unfinished checksums"), "{log}");

        shell("ethtool -K vop tx on >/dev/null");
        let director = Director::start();
        send();
        director
            .await_log("port outside: TCP or UDP packets arrive at vo with unfinished checksums");
        director.await_log("`sudo ethtool -K vop tx off`");
        send();
        let log = director.stop();
        assert_eq!(log.matches("unfinished checksums").count(), 1, "once: {log}");
    });
}
