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

use etherparse::{
    Icmpv4Type,
    icmpv4::{DestUnreachableHeader, TimestampMessage},
};
use shunt_testkit::{
    Packet,
    lab::{
        CLIENT, Capture, Configuration, DEEP, DIP, FAR, Frames, Host, Lab, RS1, RS2, VIP,
        nft_round_robin, note, quote, wait_until,
    },
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

/// Protocols.
const GRE: u8 = 47;
const ESP: u8 = 50;
/// IPv4's options.
const LOOSE_SOURCE_ROUTE: u8 = 131;
const STRICT_SOURCE_ROUTE: u8 = 137;

/// Traffic of one kind.
pub(crate) struct Traffic {
    pub(crate) name: &'static str,
    /// Whether there are fragments in it, which not every device passes.
    has_fragments: bool,
    /// Flows that must differ, each behind the name of the host where it is captured; `main.rs` says why.
    pub(crate) differs: &'static [&'static str],
    configuration: fn() -> Configuration,
    send: fn(&Sender<'_>),
}

/// In this order.
static TRAFFIC: [Traffic; 18] = [
    Traffic::of("web", web),
    Traffic::of("upload", upload),
    Traffic::of("reset", reset),
    Traffic::of("dns", dns),
    Traffic { has_fragments: true, ..Traffic::of("fragments", fragments) },
    Traffic {
        has_fragments: true,
        differs: &LONG_ERROR_FLOWS,
        ..Traffic::of("long_error", long_error)
    },
    Traffic::of("refusal", refusal),
    Traffic::of("traceroute", traceroute),
    Traffic::of("ping", ping),
    Traffic { has_fragments: true, ..Traffic::of("large_pings", large_pings) },
    Traffic::of("snat", snat),
    Traffic::of("without_ports", without_ports),
    Traffic::of("hairpin", hairpin),
    Traffic::of("source_routes", source_routes),
    Traffic { differs: &MARTIAN_FLOWS, ..Traffic::of("martians", martians) },
    Traffic { differs: &LATE_FLOWS, ..Traffic::of("late_packets", late_packets) },
    Traffic::of("path_mtu", path_mtu),
    Traffic { configuration: narrow, ..Traffic::of("narrow_port", narrow_port) },
];

/// What a device passes that passes fragments or not.
pub(crate) fn of(passes_fragments: bool) -> impl Iterator<Item = &'static Traffic> {
    TRAFFIC.iter().filter(move |traffic| passes_fragments || !traffic.has_fragments)
}

impl Traffic {
    const fn of(name: &'static str, send: fn(&Sender<'_>)) -> Traffic {
        Traffic { name, has_fragments: false, differs: &[], configuration: services, send }
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

const LONG_ERROR_FLOWS: [&str; 1] = [
    "rs1: icmp error 192.168.1.200 > 192.168.2.210 about protocol 17 192.168.2.210 > 192.168.1.200 [53, 20045]",
];

/// An error about a connection that quotes so much of a packet that it comes in fragments.
fn long_error(sender: &Sender<'_>) {
    let (client, vip) = (CLIENT.to_string(), VIP.to_string());
    sender.ask(Client, SUCCESS, 20045, &vip, 53);
    let answer = Packet::udp(&format!("{vip}:53"), &format!("{client}:20045"));
    let port = Icmpv4Type::DestinationUnreachable(DestUnreachableHeader::Port);
    let quote = answer.payload([b'q'; 1000]).bytes();
    let error = Packet::icmp(&client, &vip, port).payload(quote);
    sender.frame(Client, &error.part(0..800));
    sender.frame(Client, &error.part(800..1036));
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

/// More than fits into one packet, to the director itself.
fn large_pings(sender: &Sender<'_>) {
    let large = |id, size| ["-c", "2", "-i", "0.2", "-W", "2", "-s", size, "-e", id];
    let [vip, dip] = [VIP, DIP].map(|address| address.to_string());
    sender.ping(Client, SUCCESS, &large("20121", "1473"), &vip);
    sender.ping(Client, SUCCESS, &large("20122", "8000"), &dip);
    sender.ping(Rs1, SUCCESS, &large("40121", "3000"), &vip);
    sender.ping(Rs1, SUCCESS, &large("40122", "3000"), &dip);
}

/// What SNAT tells apart by addresses, or by an identifier. Nobody takes GRE and ESP on the client,
/// which says so.
fn without_ports(sender: &Sender<'_>) {
    let [client, vip, server] = [CLIENT, VIP, RS1].map(|address| address.to_string());
    let time = TimestampMessage {
        id: 40131,
        seq: 1,
        originate_timestamp: 77,
        receive_timestamp: 0,
        transmit_timestamp: 0,
    };
    let question = Packet::icmp(&server, &client, Icmpv4Type::TimestampRequest(time));
    sender.frame(Rs1, &question);
    for (protocol, header) in [(GRE, [0, 0, 8, 0].as_slice()), (ESP, &[0, 0, 1, 2, 0, 0, 0, 1])] {
        let packet = |src: &str, dst: &str, data: &str| {
            Packet::raw(src, dst, protocol).payload([header, data.as_bytes()].concat())
        };
        sender.frame(Rs1, &packet(&server, &client, "question"));
        sender.frame(Client, &packet(&client, &vip, "answer"));
    }
}

/// Neither director passes them on or takes them; the last one is to show that a packet without gets there.
fn source_routes(sender: &Sender<'_>) {
    let [client, server] = [format!("{CLIENT}:20141"), format!("{RS1}:7")];
    let [a, b, c, d] = RS1.octets();
    let route = |kind, pointer| vec![kind, 7, pointer, a, b, c, d, 0];
    for (to, options) in [
        (format!("{VIP}:7"), route(LOOSE_SOURCE_ROUTE, 4)),
        (format!("{VIP}:9999"), route(STRICT_SOURCE_ROUTE, 4)),
        (server.clone(), route(LOOSE_SOURCE_ROUTE, 4)),
        // Used up.
        (server.clone(), route(LOOSE_SOURCE_ROUTE, 8)),
        (server, Vec::new()),
    ] {
        sender.frame(Client, &Packet::udp(&client, &to).options(&options).payload("question"));
    }
}

/// Of 0.0.0.0/8 Linux knows only the first address as none of a host's.
const MARTIAN_FLOWS: [&str; 2] = [
    "client: icmp error 192.168.1.100 > 192.168.1.200 about protocol 6 192.168.1.200 > 0.1.2.3 [20151, 80]",
    "rs1: icmp error 192.168.2.200 > 192.168.2.210 about protocol 6 192.168.2.210 > 0.1.2.3 [40151, 80]",
];

/// Destinations that no host has.
fn martians(sender: &Sender<'_>) {
    for (host, address, port) in [(Client, CLIENT, 20151), (Rs1, RS1, 40151)] {
        let from = format!("{address}:{port}");
        for to in ["127.0.0.1:80", "127.1.2.3:80", "0.0.0.0:80", "0.1.2.3:80"] {
            sender.frame(host, &Packet::tcp(&from, to).syn());
        }
    }
}

/// Linux takes data for those of a connection of the server's own, and translates them by SNAT; the rest
/// it passes on as it is. What passes is answered by the client's reset, which rs1 gets from Shunt at once.
const LATE_FLOWS: [&str; 8] = [
    "client: icmp error 192.168.2.210 > 192.168.1.200 about protocol 6 192.168.1.200 > 192.168.2.210 [20164, 80]",
    "client: tcp 192.168.1.100:80 > 192.168.1.200:20161",
    "client: tcp 192.168.1.200:20161 > 192.168.1.100:80",
    "client: tcp 192.168.1.200:20162 > 192.168.2.210:80",
    "client: tcp 192.168.2.210:80 > 192.168.1.200:20162",
    "client: tcp 192.168.2.210:80 > 192.168.1.200:20163",
    "rs1: tcp 192.168.1.200:20161 > 192.168.2.210:80",
    "rs1: tcp 192.168.1.200:20162 > 192.168.2.210:80",
];

/// A server goes on with connections that the director knows nothing of (any more).
fn late_packets(sender: &Sender<'_>) {
    let server = format!("{RS1}:80");
    let segment = |port: u16| Packet::tcp(&server, &format!("{CLIENT}:{port}")).seq(5001);
    sender.frame(Rs1, &segment(20161).ack(1001).payload("late"));
    sender.frame(Rs1, &segment(20162).ack(1001).fin());
    sender.frame(Rs1, &segment(20163).rst());
    let port = Icmpv4Type::DestinationUnreachable(DestUnreachableHeader::Port);
    let received = Packet::tcp(&format!("{CLIENT}:20164"), &server).ack(5001).bytes();
    sender.frame(Rs1, &Packet::icmp(&RS1.to_string(), &CLIENT.to_string(), port).payload(received));
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

    /// Sends a packet to the director that no program would send.
    fn frame(&self, host: Host, packet: &Packet) {
        let gateway = if host == Client { VIP } else { DIP }.to_string();
        let nic = host.nic();
        let say = |program: &[&str]| self.lab.run(host, program).text;
        say(&["ip", "neighbour", "flush", "dev", nic]);
        self.ping(host, SUCCESS, &["-c", "1", "-W", "2", "-e", "1"], &gateway);
        let known = say(&["ip", "-o", "neighbour", "show", &gateway, "dev", nic]);
        let own = say(&["cat", &format!("/sys/class/net/{nic}/address")]);
        let (_, director) = known.split_once("lladdr ").expect("a MAC address");
        let frame = packet.frame(mac_of(&own), mac_of(director));
        note(&format!("{}$ socat -u - INTERFACE:{nic} <{} bytes", host.name(), frame.len()));
        let to = format!("INTERFACE:{nic}");
        assert_eq!(self.lab.run_with(host, &["socat", "-u", "-", &to], &frame).status, SUCCESS);
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

/// The MAC address that a text begins with.
fn mac_of(text: &str) -> [u8; 6] {
    let mut mac = [0; 6];
    let bytes = text.split_whitespace().next().into_iter().flat_map(|mac| mac.split(':'));
    for (byte, digits) in mac.iter_mut().zip(bytes) {
        *byte = u8::from_str_radix(digits, 16).expect("a byte of a MAC address");
    }
    mac
}
