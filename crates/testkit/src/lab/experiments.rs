//! The experiments, each on a director that runs its [`Configuration`]: classics of LVS-NAT, and what
//! went wrong in it before. Each panics when it finds something other than it should.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{self, Read},
    net::{Ipv4Addr, SocketAddrV4},
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use rustix::process::Signal;

use super::{
    CLIENT, CLIENT2, Capture, Configuration, DIP, Director, Host, IcmpError, LIP, Lab, RS1, RS2,
    VIP, note, quote, wait_until,
};
use Host::{Client, Rs1, Rs2};

/// An experiment.
#[derive(Clone, Copy, Debug)]
pub struct Experiment {
    /// As one selects it.
    pub name: &'static str,
    /// What it shows.
    pub title: &'static str,
    configuration: fn() -> Configuration,
    run: fn(&Lab),
}

/// All of them, in the order in which one would try them.
pub const EXPERIMENTS: [Experiment; 18] = [
    Experiment {
        name: "plain_router",
        title: "no services yet: the director as a plain router",
        configuration: Configuration::router,
        run: plain_router,
    },
    Experiment {
        name: "round_robin",
        title: "VIP port 80, scheduler rr, both servers: four fetches",
        configuration: Configuration::example,
        run: round_robin,
    },
    Experiment {
        name: "port_mapping",
        title: "port mapping: port 8080 of the VIP to port 80 of the servers",
        configuration: Configuration::full,
        run: port_mapping,
    },
    Experiment {
        name: "addresses",
        title: "captures: who sees whose address",
        configuration: Configuration::full,
        run: addresses,
    },
    Experiment {
        name: "ping",
        title: "ping: the director's addresses, and a server through it",
        configuration: Configuration::full,
        run: ping,
    },
    Experiment {
        name: "traceroute",
        title: "traceroute from the client to rs1",
        configuration: Configuration::full,
        run: traceroute,
    },
    Experiment {
        name: "big_transfers",
        title: "a 100 MB download and a 100 MB upload through the VIP, both at once",
        configuration: Configuration::full,
        run: big_transfers,
    },
    Experiment {
        name: "udp_dns",
        title: "UDP: DNS servers behind port 53 of the VIP",
        configuration: Configuration::full,
        run: udp_dns,
    },
    Experiment {
        name: "snat_web",
        title: "outbound SNAT: rs1 fetches from a server on the outside",
        configuration: Configuration::full,
        run: snat_web,
    },
    Experiment {
        name: "load",
        title: "load: wrk, 50 connections for 10 s against the VIP",
        configuration: Configuration::full,
        run: load,
    },
    Experiment {
        name: "refusals",
        title: "what cannot be reached is refused, not swallowed",
        configuration: Configuration::full,
        run: refusals,
    },
    Experiment {
        name: "fragments",
        title: "fragments: a datagram of 5000 bytes and its echo by UDP",
        configuration: Configuration::full,
        run: fragments,
    },
    Experiment {
        name: "full_nat",
        title: "full-nat: a server whose gateway is not the director",
        configuration: Configuration::full,
        run: full_nat,
    },
    Experiment {
        name: "hairpin",
        title: "hairpin: the servers dial the VIP",
        configuration: Configuration::full,
        run: hairpin,
    },
    Experiment {
        name: "persistence",
        title: "persistence: a client keeps its server",
        configuration: Configuration::full,
        run: persistence,
    },
    Experiment {
        name: "snat_ping",
        title: "outbound SNAT: rs1 pings a host on the outside",
        configuration: Configuration::full,
        run: snat_ping,
    },
    Experiment {
        name: "fallback",
        title: "fallback: a service whose only server has weight 0",
        configuration: Configuration::full,
        run: fallback,
    },
    Experiment {
        name: "drain_under_load",
        title: "a server is taken out under load, and put back: the file is edited, the director reads it",
        configuration: Configuration::full,
        run: drain_under_load,
    },
];

impl Experiment {
    /// That of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Experiment> {
        EXPERIMENTS.into_iter().find(|experiment| experiment.name == name)
    }

    /// Why it can't be made with that director, if so.
    #[must_use]
    pub fn obstacle(&self, director: Director) -> Option<&'static str> {
        match (self.name, director) {
            ("fragments", Director::Shunt(device, _)) if !device.passes_fragments() => {
                Some("the kernel puts fragments together before net_af_packet sees them")
            }
            ("drain_under_load", Director::Kernel) => Some("the kernel has no service file"),
            _ => None,
        }
    }

    /// Whether it loads the machine so much that others may not be answered in time.
    #[must_use]
    pub fn is_heavy(&self) -> bool {
        matches!(self.name, "big_transfers" | "load" | "drain_under_load")
    }

    /// Has the lab's director do what it needs, and makes it.
    ///
    /// # Panics
    /// When it finds something other than it should.
    pub fn run(&self, lab: &mut Lab) {
        lab.start_director(&(self.configuration)());
        (self.run)(lab);
    }
}

/// 100 MB.
const BIG: u64 = 100 << 20;
const BIG_DATAGRAM: usize = 5000;

/// Captures look at these client ports only: a connection of an earlier experiment may still be
/// closing, and retransmit into one.
const CAPTURED: &str = "tcp portrange 20000-20099";
const FROM_CAPTURED: [&str; 2] = ["--local-port", "20000-20099"];
/// Fragments, first or later.
const FRAGMENTS: &str = "ip[6:2] & 0x3fff != 0";

fn plain_router(lab: &Lab) {
    for server in [Rs1, Rs2] {
        assert_eq!(curl(lab, Client, &[], &url(server.address(), 80)), server.name());
    }
}

fn round_robin(lab: &Lab) {
    let answers = [(); 4].map(|()| curl(lab, Client, &[], &url(VIP, 80)));
    assert_eq!(answers, ["rs1", "rs2", "rs1", "rs2"], "the order");
}

fn port_mapping(lab: &Lab) {
    let capture = lab.capture(Client, &format!("{CAPTURED} and dst host {CLIENT}"));
    let answer = curl(lab, Client, &FROM_CAPTURED, &url(VIP, 8080));
    let received = capture.stop();
    assert!(["rs1", "rs2"].contains(&answer.as_str()), "the answer: {answer}");
    let sources = received.tcp_sources();
    assert_eq!(sources, [SocketAddrV4::new(VIP, 8080)].into(), "whom the client hears");
}

fn addresses(lab: &Lab) {
    let to_servers = format!("{CAPTURED} and dst port 80");
    let captures = [(Client, CAPTURED), (Rs1, &to_servers), (Rs2, &to_servers)]
        .map(|(host, filter)| lab.capture(host, filter));
    for _ in 0..2 {
        curl(lab, Client, &FROM_CAPTURED, &url(VIP, 80));
    }
    let [client, rs1, rs2] = Capture::stop_all(captures, Capture::QUIET);
    assert_eq!(client.addresses(), [VIP, CLIENT].into(), "the addresses at the client");
    assert_eq!(rs1.sources(), [CLIENT].into(), "whom rs1 sees");
    assert_eq!(rs2.sources(), [CLIENT].into(), "whom rs2 sees");
}

fn ping(lab: &Lab) {
    let directors =
        [Client, Rs1, Rs2].into_iter().flat_map(|host| [(host, VIP, 64), (host, DIP, 64)]);
    let through = [(Client, RS1, 63), (Client, RS2, 63)];
    expect_pings(lab, &directors.chain(through).collect::<Vec<_>>());
}

/// Three requests each, of a host to an address, and three answers that arrive with that TTL.
fn expect_pings(lab: &Lab, pings: &[(Host, Ipv4Addr, u8)]) {
    let addresses: Vec<String> = pings.iter().map(|(_, address, _)| address.to_string()).collect();
    let programs: Vec<(Host, Vec<&str>)> = pings
        .iter()
        .zip(&addresses)
        .map(|(&(host, ..), address)| {
            (host, vec!["ping", "-n", "-c", "3", "-i", "0.2", "-W", "1", address])
        })
        .collect();
    for (&(host, address, ttl), outcome) in pings.iter().zip(lab.show_all(&programs)) {
        let from = format!("from {address}: ");
        let answers = outcome.text.lines().filter(|line| line.contains(&from));
        let ttls: Vec<&str> = answers
            .filter_map(|line| line.split(' ').find_map(|word| word.strip_prefix("ttl=")))
            .collect();
        let host = host.name();
        assert_eq!(ttls, vec![ttl.to_string(); 3], "TTLs of the answers to {host} from {address}");
    }
}

fn traceroute(lab: &Lab) {
    let server = RS1.to_string();
    for method in [&[][..], &["--icmp"], &["--tcp", "--port=80"]] {
        let mut program = vec!["traceroute", "-n", "-q", "1", "-w", "2", "-m", "4"];
        program.extend(method);
        program.push(&server);
        let text = lab.show(Client, &program).text;
        let hops: Vec<Vec<&str>> = text
            .lines()
            .map(|line| line.split_whitespace().take(2).collect())
            .filter(|words: &Vec<&str>| words.first().is_some_and(|hop| hop.parse::<u8>().is_ok()))
            .collect();
        assert_eq!(hops, [["1", &VIP.to_string()], ["2", &server]], "the hops");
    }
}

fn big_transfers(lab: &Lab) {
    let [sent, download] = ["big", "download"].map(|name| lab.dir().join(name));
    let from = File::open("/dev/urandom").expect("random bytes");
    io::copy(&mut from.take(BIG), &mut File::create(&sent).expect("a file")).expect("a copy");
    // To a name that no server knows from an earlier run.
    let uploads = [Rs1, Rs2].map(|server| upload(lab, server, "big"));
    for upload in &uploads {
        let _ = fs::remove_file(upload);
    }

    let [sent_path, download_path] =
        [&sent, &download].map(|path| path.to_str().expect("a path in UTF-8"));
    let from = format!("http://{VIP}/files/big");
    let to = format!("http://{VIP}/upload/big");
    let outcomes = lab.show_all(&[
        (Client, vec!["curl", "-sS", "--max-time", "60", "-o", download_path, &from]),
        (Client, vec!["curl", "-sS", "--max-time", "60", "--upload-file", sent_path, &to]),
    ]);
    let statuses: Vec<i32> = outcomes.iter().map(|outcome| outcome.status).collect();
    assert_eq!(statuses, [0, 0], "curl's exit status, down and up");
    let sent = fs::read(&sent).expect("what was sent");
    assert_eq!(sent.len() as u64, BIG);
    // Not assert_eq: nobody wants to see 100 MB.
    assert!(fs::read(&download).expect("a download") == sent, "the download is another file");
    let uploads: Vec<Vec<u8>> = uploads.iter().filter_map(|path| fs::read(path).ok()).collect();
    assert!(uploads == [sent], "{} uploads, and not just what was sent", uploads.len());
    note("both came through as they were sent");
}

fn udp_dns(lab: &Lab) {
    let server = format!("@{VIP}");
    // dig itself takes no answer from another address than the one it asked.
    let program = ["dig", "+short", "+tries=1", "+time=3", &server, "whoami.lab", "TXT"];
    let answers: BTreeSet<String> = (0..4).map(|_| lab.show(Client, &program).text).collect();
    let expected = ["\"rs1\"", "\"rs2\""].map(str::to_owned);
    assert_eq!(answers, expected.into(), "who answers");
}

fn snat_web(lab: &Lab) {
    let log = lab.dir().join("client/access.log");
    File::create(&log).expect("nginx's log");
    assert_eq!(curl(lab, Rs1, &[], &url(CLIENT, 80)), "client");
    wait_until(Duration::from_secs(2), || log.metadata().is_ok_and(|log| log.len() > 0));
    let text = fs::read_to_string(&log).expect("nginx's log");
    note("the access log of the client's nginx:");
    quote(&text);
    let clients: BTreeSet<&str> = text.lines().filter_map(|line| line.split(' ').next()).collect();
    assert_eq!(clients, [VIP.to_string().as_str()].into(), "whom that nginx saw");
}

fn load(lab: &Lab) {
    // With its port: a machine without /etc/services does not know what http is.
    let url = format!("http://{VIP}:80/");
    let wrk = ["wrk", "--threads", "2", "--connections", "50", "--duration", "10s", &url];
    expect_clean(&lab.show(Client, &wrk).text);
}

/// What wrk has to report: requests, and neither errors nor answers other than 2xx.
fn expect_clean(report: &str) {
    let rate = report.lines().find_map(|line| line.trim().strip_prefix("Requests/sec:"));
    let rate = rate.and_then(|rate| rate.trim().parse::<f64>().ok());
    assert!(rate.is_some_and(|rate| rate >= 1.0), "requests per second: {rate:?}");
    let faults: Vec<&str> = report
        .lines()
        .filter(|line| line.contains("Socket errors") || line.contains("Non-2xx"))
        .collect();
    assert_eq!(faults, [""; 0], "socket errors and answers other than 2xx");
}

fn refusals(lab: &Lab) {
    let unknown = Ipv4Addr::new(192, 168, 2, 99);
    // 1 s: sooner than a SYN that met silence is sent again.
    expect_dial(lab, "tcp", RS1, 9, "1", "Connection refused", "a server's closed port");
    expect_dial(lab, "tcp", VIP, 81, "1", "Connection refused", "a closed port behind a service");
    expect_dial(lab, "tcp", VIP, 9999, "1", "Connection refused", "an unknown TCP port of the VIP");
    expect_dial(lab, "udp", VIP, 9999, "1", "Connection refused", "an unknown UDP port of the VIP");
    // The client would say the same of a director that answers no ARP: see who says it.
    let capture = lab.capture(Client, "icmp");
    expect_dial(lab, "tcp", unknown, 80, "6", "No route to host", "an unknown host inside");
    let errors = capture.stop().icmp_errors();
    // Host unreachable (RFC 792).
    let expected = IcmpError { from: VIP, to: CLIENT, kind: 3, code: 1, about: unknown };
    assert!(errors.contains(&expected), "ICMP about the unknown host: {errors:?}");
}

fn expect_dial(
    lab: &Lab,
    protocol: &str,
    address: Ipv4Addr,
    port: u16,
    seconds: &str,
    error: &str,
    what: &str,
) {
    let mut script = format!("exec 3<>/dev/{protocol}/{address}/{port}");
    if protocol == "udp" {
        // A connected UDP socket learns of an ICMP error when it reads.
        script += " && echo >&3 && read -r -u 3";
    }
    let said = lab.show(Client, &["timeout", seconds, "bash", "-c", &script]).text;
    assert!(said.contains(error), "{what}: expected '{error}', got '{said}'");
}

fn fragments(lab: &Lab) {
    let datagram: Vec<u8> = (0..BIG_DATAGRAM).map(|at| (at * 31 % 251) as u8).collect();
    let captures = [Client, Rs1, Rs2].map(|host| lab.capture(host, FRAGMENTS));
    let target = format!("UDP4:{VIP}:7");
    let program = ["socat", "-b", "65536", "-t", "1", "-", &target];
    note(&format!("client$ {} <datagram >echo", program.join(" ")));
    let echo = lab.run_with(Client, &program, &datagram);
    let [client, rs1, rs2] = Capture::stop_all(captures, Capture::QUIET);
    assert_eq!(client.addresses(), [VIP, CLIENT].into(), "fragments at the client");
    let at_servers: BTreeSet<Ipv4Addr> = &rs1.addresses() | &rs2.addresses();
    let of_one = [[CLIENT, RS1].into(), [CLIENT, RS2].into()];
    assert!(of_one.contains(&at_servers), "fragments at the servers: {at_servers:?}");
    assert!(echo.bytes == datagram, "the echo is another: {} bytes", echo.bytes.len());
}

fn full_nat(lab: &Lab) {
    let capture = lab.capture(Rs2, "tcp and dst port 80");
    note("rs2$ ip route delete default");
    lab.ip(Rs2, "route delete default");
    let answer = curl(lab, Client, &[], &url(VIP, 8081));
    lab.ip(Rs2, &format!("route add default via {DIP}"));
    let seen = capture.stop();
    assert_eq!(answer, "rs2");
    assert_eq!(seen.sources(), [LIP].into(), "whom rs2 sees");
}

fn hairpin(lab: &Lab) {
    let capture = lab.capture(Rs2, "tcp and dst port 80");
    let answers: BTreeSet<String> = (0..2).map(|_| curl(lab, Rs1, &[], &url(VIP, 8080))).collect();
    let seen = capture.stop();
    assert_eq!(answers, ["rs1", "rs2"].map(str::to_owned).into(), "who answers rs1");
    assert_eq!(seen.sources(), [DIP].into(), "whom rs2 sees");
}

fn persistence(lab: &Lab) {
    lab.ip(Client, &format!("address add {CLIENT2}/24 dev client0"));
    let answers = [CLIENT, CLIENT2, CLIENT, CLIENT2]
        .map(|client| curl(lab, Client, &["--interface", &client.to_string()], &url(VIP, 8082)));
    lab.ip(Client, &format!("address delete {CLIENT2}/24 dev client0"));
    assert_eq!(answers, ["rs1", "rs2", "rs1", "rs2"], "the order");
}

fn snat_ping(lab: &Lab) {
    let capture = lab.capture(Client, "icmp");
    expect_pings(lab, &[(Rs1, CLIENT, 63)]);
    assert_eq!(capture.stop().addresses(), [VIP, CLIENT].into(), "the addresses at the client");
}

fn fallback(lab: &Lab) {
    assert_eq!(curl(lab, Client, &[], &url(VIP, 8083)), "rs2");
}

fn drain_under_load(lab: &Lab) {
    let with = format!("address = \"{RS1}:80\"");
    let without = format!("{with}, weight = 0");
    let url = format!("http://{VIP}:80/");
    let before = accepted(lab, Rs1);
    // A connection for each request: all the time some are opened, and some end.
    let mut wrk = vec!["wrk", "--threads", "1", "--connections", "20", "--duration", "30s"];
    wrk.extend(["-H", "Connection: close", &url]);
    let mut wrk = lab.start(Client, &wrk, Stdio::null());
    let has_begun = wait_until(Duration::from_secs(5), || accepted(lab, Rs1) > before);
    assert!(has_begun, "rs1 has no connections");

    lab.reload(|file| file.replacen(&with, &without, 1));
    let is_idle = wait_until(Duration::from_secs(3), || established(lab, Rs1).is_empty());
    assert!(is_idle, "rs1 keeps connections: {}", established(lab, Rs1));
    let before = [Rs1, Rs2].map(|server| accepted(lab, server));
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(accepted(lab, Rs1), before[0], "connections of rs1 while it was out");
    assert!(accepted(lab, Rs2) > before[1], "rs2 got no connections meanwhile");

    lab.reload(|file| file.replacen(&without, &with, 1));
    let is_back = wait_until(Duration::from_secs(3), || accepted(lab, Rs1) > before[0]);
    assert!(is_back, "rs1 is not back");
    // All is said; some load on both servers again before the end.
    std::thread::sleep(Duration::from_secs(1));
    wrk.signal(Signal::INT);
    let status = wrk.wait(Duration::from_secs(5));
    quote(&wrk.log());
    assert!(status.is_some_and(|status| status.success()), "wrk's exit status: {status:?}");
    expect_clean(&wrk.log());
}

/// How many TCP connections a host has accepted so far (RFC 4022's tcpPassiveOpens).
fn accepted(lab: &Lab, host: Host) -> u64 {
    let snmp = lab.proc_net(host, "snmp");
    let mut lines = snmp.lines().filter_map(|line| line.strip_prefix("Tcp: "));
    let (names, values) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
    let mut counters = names.split(' ').zip(values.split(' '));
    let found = counters.find(|(name, _)| *name == "PassiveOpens");
    found.and_then(|(_, value)| value.parse().ok()).expect("PassiveOpens in /proc/net/snmp")
}

fn established(lab: &Lab, host: Host) -> String {
    lab.run(host, &["ss", "-Hnt", "state", "established", "sport = :80"]).text
}

fn upload(lab: &Lab, server: Host, name: &str) -> PathBuf {
    Path::new(lab.dir()).join(server.name()).join("upload").join(name)
}

fn url(address: Ipv4Addr, port: u16) -> String {
    match port {
        80 => format!("http://{address}/"),
        _ => format!("http://{address}:{port}/"),
    }
}

/// Fetches; returns the answer, or what curl complains of.
fn curl(lab: &Lab, host: Host, options: &[&str], url: &str) -> String {
    let mut program = vec!["curl", "-sS", "--max-time", "5"];
    program.extend(options);
    program.push(url);
    lab.show(host, &program).text
}

#[cfg(test)]
mod tests {
    use super::expect_clean;

    const REPORT: &str = "  119913 requests in 8.00s, 16.70MB read\nRequests/sec:  14987.78\n";

    #[test]
    fn a_clean_report() {
        expect_clean(REPORT);
    }

    #[test]
    #[should_panic(expected = "socket errors")]
    fn errors_in_a_report() {
        expect_clean(&format!("{REPORT}  Socket errors: connect 0, read 1, write 0, timeout 0\n"));
    }

    #[test]
    #[should_panic(expected = "requests per second")]
    fn a_report_without_requests() {
        expect_clean("Requests/sec:      0.00\n");
    }
}
