//! The traffic on which Shunt is compared with Linux: the same programs with the same source ports
//! and the same contents, whichever is the director. What passes the client and the real servers is
//! captured.
//!
//! Two more hosts are behind narrow links of the client and of rs1, so that those are routers, and
//! say `fragmentation needed`.

use std::{
    fs::{self, File},
    path::Path,
    process::Stdio,
    time::{Duration, SystemTime},
};

use shunt_testkit::lab::{
    CLIENT, Capture, Configuration, DEEP, DIP, FAR, Frames, Host, Lab, RS1, RS2, VIP,
    nft_round_robin, note, quote, wait_until,
};

use Host::{Client, Far, Rs1, Rs2};

/// Where everything is captured.
const CAPTURED: [Host; 3] = [Client, Rs1, Rs2];
/// Of the director's inside port, where it is to be a narrow one.
const INSIDE_MTU: u16 = 1400;

/// Exit statuses.
const SUCCESS: i32 = 0;
const CURL_CONNECTION_FAILED: i32 = 7;
const CURL_RECV_ERROR: i32 = 56;
const DIG_NO_ANSWER: i32 = 9;
const PING_NO_ANSWER: i32 = 1;

/// Traffic of one kind.
pub(crate) struct Traffic {
    pub(crate) name: &'static str,
    /// Whether there are fragments in it, which not every device passes.
    has_fragments: bool,
    configuration: fn() -> Configuration,
    send: fn(&Sender<'_>),
}

/// In this order.
pub(crate) const TRAFFIC: [Traffic; 12] = [
    Traffic::of("web", web),
    Traffic::of("upload", upload),
    Traffic::of("reset", reset),
    Traffic::of("dns", dns),
    Traffic { has_fragments: true, ..Traffic::of("fragments", fragments) },
    Traffic::of("refusal", refusal),
    Traffic::of("traceroute", traceroute),
    Traffic::of("ping", ping),
    Traffic::of("snat", snat),
    Traffic::of("hairpin", hairpin),
    Traffic::of("path_mtu", path_mtu),
    Traffic { configuration: narrow, ..Traffic::of("narrow_port", narrow_port) },
];

impl Traffic {
    const fn of(name: &'static str, send: fn(&Sender<'_>)) -> Traffic {
        Traffic { name, has_fragments: false, configuration: services, send }
    }

    pub(crate) fn passes(&self, passes_fragments: bool) -> bool {
        passes_fragments || !self.has_fragments
    }

    /// Sends it through the lab's director; returns what was captured on each host, and copies it to a
    /// directory.
    pub(crate) fn send(&self, lab: &mut Lab, to: &Path) -> Vec<(Host, Frames)> {
        println!("\n{}", self.name);
        lab.start_director(&(self.configuration)());
        let captures = CAPTURED.map(|host| lab.capture(host, "ip"));
        (self.send)(&Sender::new(lab));
        let mut files = Vec::new();
        for (host, capture) in CAPTURED.into_iter().zip(&captures) {
            let name = format!("{}-{}.pcap", self.name, host.name());
            files.push((capture.file().to_owned(), to.join(name)));
        }
        // What is under way comes within half a second.
        let frames = Capture::stop_all(captures, Duration::from_millis(500));
        for (file, copy) in files {
            fs::copy(file, copy).expect("a copy of a capture");
        }
        CAPTURED.into_iter().zip(frames).collect()
    }
}

/// The director of all but the narrow port.
fn services() -> Configuration {
    let service = |head: &str, server: String| {
        format!(
            "\n[[service]]\n{head}\nscheduler = \"rr\"\nserver = [{{ address = \"{server}\" }}]\n"
        )
    };
    let services = [
        service(&format!("vip = \"{VIP}:8080\""), format!("{RS1}:80")),
        service(&format!("protocol = [\"tcp\", \"udp\"]\nvip = \"{VIP}:81\""), format!("{RS1}:9")),
        service(&format!("vip = \"{VIP}:82\""), format!("{DEEP}:80")),
        service(&format!("protocol = \"udp\"\nvip = [\"{VIP}:53\", \"{VIP}:7\"]"), RS1.to_string()),
        service(&format!("vip = \"{VIP}:8084\""), format!("{RS2}:80")),
    ];
    let nft_services = [
        format!("tcp dport 80 {}", nft_round_robin(80)),
        format!("tcp dport 8080 dnat to {RS1}:80"),
        format!("tcp dport 81 dnat to {RS1}:9"),
        format!("udp dport 81 dnat to {RS1}:9"),
        format!("tcp dport 82 dnat to {DEEP}:80"),
        format!("udp dport {{ 53, 7 }} dnat to {RS1}"),
        format!("tcp dport 8084 dnat to {RS2}:80"),
    ];
    Configuration {
        name: "services",
        services: services.concat(),
        nft_services: nft_services.join("\n"),
        routes: vec![("10.1.0.0/24", CLIENT), ("10.2.0.0/24", RS1)],
        ..Configuration::example()
    }
}

fn narrow() -> Configuration {
    Configuration { name: "narrow", inside_mtu: Some(INSIDE_MTU), ..services() }
}

// ---------------------------------------------------------------------------------------------
// The traffic

fn web(sender: &Sender<'_>) {
    sender.curl(Client, SUCCESS, 20001, &[&format!("http://{VIP}/")]);
    sender.curl(Client, SUCCESS, 20002, &[&format!("http://{VIP}/")]);
    sender.curl(Client, SUCCESS, 20003, &[&format!("http://{VIP}:8080/")]);
    sender.curl(Client, SUCCESS, 20004, &[&format!("http://{RS1}/")]);
}

fn upload(sender: &Sender<'_>) {
    sender.upload(20011, 8080);
}

fn reset(sender: &Sender<'_>) {
    sender.curl(Client, CURL_RECV_ERROR, 20021, &[&format!("http://{VIP}:8080/reset")]);
    // A connection that stays open, until the client's kernel resets it.
    let telnet = format!("telnet://{VIP}:8080");
    let program = ["curl", "-sS", "--max-time", "10", "--local-port", "20022", &telnet];
    let _open = sender.lab.start(Client, &program, Stdio::piped());
    let is_open = || {
        let listed = ["ss", "-Hnt", "state", "established", "sport = :20022"];
        !sender.lab.run(Client, &listed).text.is_empty()
    };
    assert!(wait_until(Duration::from_secs(5), is_open), "no connection to reset");
    let kill = ["ss", "--kill", "--numeric", "--no-header", "sport = :20022"];
    sender.send(Client, SUCCESS, &kill);
}

fn dns(sender: &Sender<'_>) {
    sender.ask(Client, SUCCESS, 20031, &VIP.to_string(), 53);
    sender.ask(Client, SUCCESS, 20032, &VIP.to_string(), 53);
}

fn fragments(sender: &Sender<'_>) {
    let large = |id| ["-c", "2", "-i", "0.2", "-W", "2", "-s", "3000", "-e", id];
    let datagram = vec![b'd'; 5000];
    let to = format!("UDP4:{VIP}:7,sourceport=20041");
    let program = ["socat", "-b", "65536", "-t", "1", "-", &to];
    note(&format!("client$ {} <datagram", program.join(" ")));
    let echo = sender.lab.run_with(Client, &program, &datagram);
    assert!(echo.bytes == datagram, "another datagram came back: {} bytes", echo.bytes.len());
    sender.ping(Client, SUCCESS, &large("20042"), &RS1.to_string());
    sender.ping(Rs1, SUCCESS, &large("40041"), &CLIENT.to_string());
}

fn refusal(sender: &Sender<'_>) {
    let refused = CURL_CONNECTION_FAILED;
    sender.curl(Client, refused, 20051, &[&format!("http://{RS1}:9/")]);
    sender.curl(Client, refused, 20052, &[&format!("http://{VIP}:81/")]);
    sender.curl(Client, refused, 20053, &[&format!("http://{VIP}:9999/")]);
    sender.ask(Client, DIG_NO_ANSWER, 20054, &RS1.to_string(), 9);
    sender.ask(Client, DIG_NO_ANSWER, 20055, &VIP.to_string(), 81);
    sender.ask(Client, DIG_NO_ANSWER, 20056, &VIP.to_string(), 9999);
    sender.ping(Client, PING_NO_ANSWER, &["-c", "1", "-W", "5", "-e", "20057"], "192.168.2.99");
}

fn traceroute(sender: &Sender<'_>) {
    sender.traceroute(Client, 20061, &[&RS1.to_string()]);
    let vip = VIP.to_string();
    sender.traceroute(Client, 20062, &["--udp", "--port=81", &vip]);
    sender.traceroute(Client, 20063, &["--tcp", "--port=8080", &vip]);
    sender.traceroute(Client, 20064, &["--tcp", "--port=82", &vip]);
    sender.traceroute(Far, 20065, &["--tcp", "--port=82", &vip]);
}

fn ping(sender: &Sender<'_>) {
    let twice = |id| ["-c", "2", "-i", "0.2", "-W", "2", "-e", id];
    let [vip, dip, server] = [VIP, DIP, RS1].map(|address| address.to_string());
    sender.ping(Client, SUCCESS, &twice("20071"), &vip);
    sender.ping(Client, SUCCESS, &twice("20072"), &dip);
    let with_tos = [&twice("20073")[..], &["-Q", "0x28", "-M", "do"]].concat();
    sender.ping(Client, SUCCESS, &with_tos, &server);
    let one_hop = [&twice("20074")[..], &["-t", "1"]].concat();
    sender.ping(Client, PING_NO_ANSWER, &one_hop, &server);
    sender.ping(Rs1, SUCCESS, &twice("40071"), &vip);
    sender.ping(Rs1, SUCCESS, &twice("40072"), &dip);
}

fn snat(sender: &Sender<'_>) {
    let client = CLIENT.to_string();
    sender.curl(Rs1, SUCCESS, 40081, &[&format!("http://{CLIENT}/")]);
    sender.ping(Rs1, SUCCESS, &["-c", "2", "-i", "0.2", "-W", "2", "-e", "40082"], &client);
    sender.curl(Rs1, CURL_CONNECTION_FAILED, 40083, &[&format!("http://{CLIENT}:9/")]);
    sender.ask(Rs1, DIG_NO_ANSWER, 40084, &client, 9);
    sender.traceroute(Rs1, 40085, &[&FAR.to_string()]);
    sender.traceroute(Rs1, 40086, &["--tcp", "--port=80", &client]);
}

fn hairpin(sender: &Sender<'_>) {
    sender.curl(Rs1, SUCCESS, 40091, &[&format!("http://{VIP}:8084/")]);
    sender.curl(Rs1, CURL_CONNECTION_FAILED, 40092, &[&format!("http://{VIP}:81/")]);
}

/// Routers on either side say `fragmentation needed`.
fn path_mtu(sender: &Sender<'_>) {
    let page = format!("http://{VIP}:8080/files/page");
    sender.curl(Far, SUCCESS, 20101, &["-o", "/dev/null", &page]);
    sender.upload(20102, 82);
}

/// The director says so itself, or cuts what it may.
fn narrow_port(sender: &Sender<'_>) {
    let lab = sender.lab;
    lab.ip(Rs1, &format!("link set server0 mtu {INSIDE_MTU}"));
    // A server that knows nothing of it: else its MSS would keep packets small.
    lab.ip(Rs1, &format!("route replace default via {DIP} advmss 1460"));
    // The client forgets what it knows of path MTUs, and learns it anew only after the first one:
    // else it would cut that itself.
    lab.ip(Client, "route flush cache");
    let to = format!("UDP4:{VIP}:81,sourceport=20111,ip-mtu-discover=0");
    let program = ["socat", "-u", "-b", "65536", "-", &to];
    note(&format!("client$ {} <1450 bytes", program.join(" ")));
    assert_eq!(lab.run_with(Client, &program, &[b'd'; 1450]).status, SUCCESS);
    let uncut = ["-c", "1", "-W", "2", "-e", "20112", "-M", "do", "-s", "1450"];
    sender.ping(Client, PING_NO_ANSWER, &uncut, &RS1.to_string());
    sender.upload(20113, 8080);
}

// ---------------------------------------------------------------------------------------------
// Programs

struct Sender<'a> {
    lab: &'a Lab,
    /// A file of 8000 bytes.
    page: String,
}

impl Sender<'_> {
    fn new(lab: &Lab) -> Sender<'_> {
        let path = lab.dir().join("page");
        fs::write(&path, [b'p'; 8000]).expect("a page");
        // Dates are part of what HTTP says of a file.
        let date = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
        let page = File::options().write(true).open(&path).expect("a page");
        page.set_modified(date).expect("a date");
        Sender { lab, page: path.to_str().expect("a path in UTF-8").to_owned() }
    }

    /// Runs a program on a host, which must end with that status.
    fn send(&self, host: Host, wanted: i32, program: &[&str]) {
        note(&format!("{}$ {}", host.name(), program.join(" ")));
        let outcome = self.lab.run(host, program);
        if outcome.status != wanted {
            quote(&outcome.text);
            panic!("`{}` ended with {}, not {wanted}", program.join(" "), outcome.status);
        }
    }

    fn curl(&self, host: Host, wanted: i32, source_port: u16, arguments: &[&str]) {
        let port = source_port.to_string();
        let curl = ["curl", "-sS", "--max-time", "5", "--local-port", &port];
        self.send(host, wanted, &[&curl[..], arguments].concat());
    }

    fn upload(&self, source_port: u16, vport: u16) {
        let to = format!("http://{VIP}:{vport}/upload/page");
        self.curl(Client, SUCCESS, source_port, &["--upload-file", &self.page, &to]);
    }

    /// Asks a DNS server.
    fn ask(&self, host: Host, wanted: i32, source_port: u16, server: &str, port: u16) {
        let (from, port, server) =
            (format!("0.0.0.0#{source_port}"), port.to_string(), format!("@{server}"));
        let dig = ["dig", "+short", "+tries=1", "+time=5", "+nocookie", "+qid=7", "-b", &from];
        let question = ["-p", &port, &server, "whoami.lab", "TXT"];
        self.send(host, wanted, &[&dig[..], &question].concat());
    }

    fn ping(&self, host: Host, wanted: i32, arguments: &[&str], address: &str) {
        self.send(host, wanted, &[&["ping", "-n"], arguments, &[address]].concat());
    }

    fn traceroute(&self, host: Host, source_port: u16, arguments: &[&str]) {
        let port = format!("--sport={source_port}");
        let traceroute = ["traceroute", "-n", "-q", "1", "-N", "1", "-w", "3", "-m", "5", &port];
        self.send(host, SUCCESS, &[&traceroute[..], arguments].concat());
    }
}
