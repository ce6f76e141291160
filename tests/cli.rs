//! The real binary, as a user runs it: what it prints, its exit status, and a packet that it carries.
//! Needs neither root nor huge pages; when root runs this, the director is run as nobody.

use std::{
    fs::{self, File, Permissions},
    io::{self, PipeWriter, Write},
    os::unix::{
        fs::{MetadataExt, PermissionsExt},
        process::CommandExt,
    },
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    thread::{sleep, spawn},
    time::{Duration, Instant},
};

use shunt_testkit::{Packet, arp_request, describe, mac, pcap, verify_checksums};

fn shunt(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_shunt")).args(arguments).output().expect("shunt starts")
}

fn text(bytes: &[u8]) -> &str {
    str::from_utf8(bytes).expect("UTF-8")
}

/// What a successful command prints; it complains of nothing.
#[track_caller]
fn printed(arguments: &[&str]) -> String {
    let output = shunt(arguments);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert_eq!(text(&output.stderr), "");
    text(&output.stdout).to_owned()
}

/// What a command that ends with exit status 1 complains of; it prints nothing else.
#[track_caller]
fn refused(arguments: &[&str]) -> String {
    let output = shunt(arguments);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stdout));
    assert_eq!(text(&output.stdout), "");
    text(&output.stderr).to_owned()
}

fn in_project(path: &str) -> String {
    format!("{}/{path}", env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn help_has_examples() {
    let help = printed(&["--help"]);
    for part in ["Examples:", "shunt check --config", "sudo shunt run --config", "--log-level"] {
        assert!(help.contains(part), "{part} is missing:\n{help}");
    }
    assert!(printed(&["run", "--help"]).contains("SIGHUP has it read its service file again"));
    for command in ["run", "check"] {
        let help = printed(&[command, "--help"]);
        assert!(help.contains(&format!("shunt {command} --config /etc/shunt/lb.toml")), "{help}");
    }
}

#[test]
fn version() {
    let short = format!("shunt {}", env!("CARGO_PKG_VERSION"));
    assert_eq!(printed(&["-V"]), format!("{short}\n"));

    let long = printed(&["--version"]);
    let details = long.strip_prefix(&format!("{short} (")).expect("the short version, and more");
    let details = details.strip_suffix(")\n").expect("one line");
    // Built and run on one machine, the two versions of DPDK are one.
    let dpdk = output_of("pkg-config", &["--modversion", "libdpdk"]).expect("libdpdk's version");
    match output_of("git", &["log", "-1", "--format=%H"]) {
        Some(commit) => {
            let (revision, rest) = details.split_once(' ').expect("a commit and its date");
            let hash = revision.strip_suffix("-dirty").unwrap_or(revision);
            assert!(hash.len() >= 7 && commit.starts_with(hash), "{long} is not of {commit}");
            let date = output_of("git", &["log", "-1", "--format=%cs"]).expect("a date");
            assert_eq!(rest, format!("{date}, DPDK {dpdk}"));
        }
        // Built from a source archive.
        None => assert_eq!(details, format!("DPDK {dpdk}")),
    }
}

/// What a command prints in the project's directory; `None` when it fails, or isn't there.
fn output_of(program: &str, arguments: &[&str]) -> Option<String> {
    let directory = env!("CARGO_MANIFEST_DIR");
    let output = Command::new(program).args(arguments).current_dir(directory).output().ok()?;
    output.status.success().then(|| text(&output.stdout).trim_end().to_owned())
}

#[test]
fn check_prints_what_would_run() {
    let file = in_project("examples/lvs-nat.toml");
    let plan = printed(&["check", "--config", &file]);
    for part in [
        "lvs-nat.toml is sound",
        "lcores   main 0, worker 1, idle adaptive",
        "mtu 1500, a queue for each worker",
        "port     outside (outside) 192.168.1.100/24",
        "device net_af_packet1,iface=inside0",
        "service  tcp 192.168.1.100:80 rr",
        "-> 192.168.2.220:80 weight 1",
        "snat     192.168.2.0/24 behind 192.168.1.100",
        "--vdev net_af_packet0,iface=outside0",
    ] {
        assert!(plan.contains(part), "{part} is missing:\n{plan}");
    }
}

#[test]
fn check_prints_what_a_service_does() {
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    fs::write(file.path(), SERVICES).expect("a service file");
    let plan = printed(&["check", "--config", file.path().to_str().expect("UTF-8")]);
    for part in [
        "address  192.168.2.201 (local, answered for inside)",
        "address  192.168.1.101 (virtual, answered for outside)",
        "address  192.168.1.102 (virtual, answered for outside)",
        "service  tcp+udp 192.168.1.100:5060, 192.168.1.100:8000-8999 mh nat",
        "mh-port, persistent for 600 s per /24, drained servers lose their connections after 300 s, \
         mss clamped to 1360, on-unknown reset, reset-on-expiry false",
        "reset-on-expiry false, timeouts udp 60\n",
        "-> 192.168.2.210 weight 2, upper 10, lower 5",
        "-> 192.168.2.250 as a fallback",
        "service  udp 192.168.1.100:53 rr nat\n           one-packet",
        "service  tcp 192.168.1.100:80 wlc full-nat",
        "no server: connections are refused",
        "snat     192.168.2.0/24 behind 192.168.1.101, 192.168.1.102, ports 40000-49999",
        "local    192.168.2.201, ports 1024-65535 (for full-nat)",
        "nat      4096 connections (",
        "on-unknown drop, late-packets on-unknown, source-routes drop, reset-on-expiry true",
        "timeouts established 7200, ",
        "udp 300, udp-one-way 5, icmp 30",
    ] {
        assert!(plan.contains(part), "{part} is missing:\n{plan}");
    }
}

#[test]
fn check_counts_what_there_is_very_much_of() {
    let service = |number: usize| {
        let scheduler = if number == 0 { "rr" } else { "mh" };
        format!(
            "[[service]]\nvip = \"192.168.1.101:{}\"\nscheduler = \"{scheduler}\"\n\
             server = [{{ address = \"192.168.2.210\" }}, {{ address = \"192.168.2.220\" }}]\n",
            1000 + number
        )
    };
    let check = |services: usize, options: &[&str]| {
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        let (ports, _) = SERVICES.split_once("[[service]]").expect("services after ports");
        let services: String = (0..services).map(service).collect();
        fs::write(file.path(), format!("{ports}{services}")).expect("a service file");
        let path = file.path().to_str().expect("UTF-8");
        printed(&[&["check", "--config", path], options].concat())
    };
    let counts = "services 101 with 202 servers: 100 mh nat, 1 rr nat (`--all` lists them)\n";
    let many = check(101, &[]);
    assert!(many.contains(counts) && !many.contains("service  tcp"), "{many}");
    for (services, options) in [(100, &[][..]), (101, &["--all"])] {
        let plan = check(services, options);
        let listed = plan.lines().filter(|line| line.starts_with("service  tcp")).count();
        assert_eq!(listed, services, "{plan}");
        assert!(!plan.contains("services"), "{plan}");
    }
}

#[test]
fn check_warns_where_workers_have_few_local_ports() {
    let warned_of = |lcores: &str, ports: &str, mode: &str| {
        let text = SERVICES
            .replace("mode = \"full-nat\"", &format!("mode = \"{mode}\""))
            .replace("\"192.168.2.201\"", &format!("\"192.168.2.201\"\nports = \"{ports}\""));
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        fs::write(file.path(), format!("{text}\n[dpdk]\nworker-lcores = {lcores}\n"))
            .expect("a service file");
        let plan = printed(&["check", "--config", file.path().to_str().expect("UTF-8")]);
        plan.lines().find(|line| line.starts_with("warning")).map(str::to_owned)
    };
    let few = warned_of("[1, 2, 3, 4]", "10000-10249", "full-nat").expect("a warning");
    assert!(
        few.contains("4 workers share 250 ports of local addresses by a hash, 62.5 each"),
        "{few}"
    );
    let scarcely_any = warned_of("[1, 2]", "10000-10000", "full-nat").expect("a warning");
    assert!(scarcely_any.contains("0.5 each on average"), "{scarcely_any}");
    for (lcores, ports, mode) in [
        ("[1, 2, 3, 4]", "10000-10255", "full-nat"),
        ("[1]", "10000-10000", "full-nat"),
        ("[1, 2, 3, 4]", "10000-10249", "nat"),
    ] {
        assert_eq!(warned_of(lcores, ports, mode), None, "{lcores} {ports} {mode}");
    }
}

const SERVICES: &str = r#"
    [[port]]
    name = "outside"
    role = "outside"
    device = "net_null0"
    addresses = ["192.168.1.100/24"]

    [[port]]
    name = "inside"
    role = "inside"
    device = "net_null1"
    addresses = ["192.168.2.200/24"]

    [nat]
    connections = 4096
    on-unknown = "drop"
    reset-on-expiry = true

    [[nat.local-address]]
    address = "192.168.2.201"

    [timeouts]
    established = "2h"
    udp-one-way = 5

    [[service]]
    protocol = ["tcp", "udp"]
    vip = ["192.168.1.100:5060", "192.168.1.100:8000-8999"]
    scheduler = "mh"
    scheduler-flags = ["mh-port"]
    persistence = "10m"
    persistence-mask = 24
    drain-timeout = "5m"
    mss-clamp = 1360
    on-unknown = "reset"
    reset-on-expiry = false
    fallback = "192.168.2.250"
    timeouts = { udp = "1m" }
    server = [{ address = "192.168.2.210", weight = 2, upper = 10, lower = 5 }]

    [[service]]
    protocol = "udp"
    vip = "192.168.1.100:53"
    scheduler = "rr"
    one-packet = true
    server = [{ address = "192.168.2.210" }]

    [[service]]
    vip = "192.168.1.100:80"
    scheduler = "wlc"
    mode = "full-nat"

    [[snat]]
    from = "192.168.2.0/24"
    to = ["192.168.1.101", "192.168.1.102"]
    ports = "40000-49999"
"#;

/// Each wrong file says in its first lines what is wrong with it: `# LINE:COLUMN PART OF THE MESSAGE`.
#[test]
fn check_says_where_a_file_is_wrong() {
    let mut files = 0;
    for entry in fs::read_dir(in_project("crates/config/tests/bad")).expect("the wrong files") {
        let path = entry.expect("a file").path();
        let content = fs::read_to_string(&path).expect("a wrong file");
        let path = path.to_str().expect("UTF-8");
        let said = refused(&["check", "--config", path]);
        let mistakes: Vec<_> =
            content.lines().map_while(|line| line.strip_prefix("# ")?.split_once(' ')).collect();
        assert!(!mistakes.is_empty(), "{path} doesn't say what is wrong with it");
        for (place, message) in mistakes {
            let place = format!("{path}:{place}: ");
            let is_it = |line: &str| line.contains(&place) && line.contains(message);
            assert!(said.lines().any(is_it), "{place}{message} is missing:\n{said}");
        }
        files += 1;
    }
    assert!(files >= 30, "only {files} wrong files were found");
}

#[test]
fn a_file_that_is_not_there() {
    for command in ["check", "run"] {
        let said = refused(&[command, "--config", "/nonexistent/lb.toml"]);
        assert!(said.starts_with("shunt: /nonexistent/lb.toml: cannot be read"), "{said}");
    }
}

#[test]
fn an_interface_that_is_not_there() {
    let file = service_file("no-huge = true", "net_af_packet0,iface=shunt-none", "net_null1");
    let said = refused(&["run", "--config", file.path().to_str().expect("UTF-8")]);
    assert_eq!(
        said,
        "shunt: port `outside`: there is no interface `shunt-none` in this network namespace; \
         `ip link` lists them\n"
    );
}

#[test]
fn more_huge_pages_than_there_are() {
    let file = service_file("memory = \"1024G\"", "net_null0", "net_null1");
    let said = refused(&["run", "--config", file.path().to_str().expect("UTF-8")]);
    assert!(said.starts_with("shunt: 1048576 MiB of huge pages are wanted and "), "{said}");
    assert!(said.contains("sudo tee /sys/kernel/mm/hugepages/hugepages-"), "{said}");
    assert!(said.contains("`no-huge = true`"), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
}

/// A service file for VIP 192.168.1.100:80.
fn service_file(dpdk: &str, outside: &str, inside: &str) -> tempfile::NamedTempFile {
    let text = format!(
        r#"
        [dpdk]
        {dpdk}

        [[port]]
        name = "outside"
        role = "outside"
        device = "{outside}"
        addresses = ["192.168.1.100/24"]

        [[port]]
        name = "inside"
        role = "inside"
        device = "{inside}"
        addresses = ["192.168.2.200/24"]

        [[service]]
        protocol = "tcp"
        vip = "192.168.1.100:80"
        scheduler = "rr"
        server = [{{ address = "192.168.2.210:8080" }}]
        "#
    );
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    fs::write(file.path(), text).expect("a service file");
    file
}

#[test]
fn it_runs_until_sigterm() {
    carries_a_packet_until("TERM");
}

#[test]
fn it_runs_until_sigint() {
    carries_a_packet_until("INT");
}

/// The addresses that net_pcap gives to the first two devices of a process.
const OUTSIDE: [u8; 6] = [0x02, 0x70, 0x63, 0x61, 0x70, 0];
const INSIDE: [u8; 6] = [0x02, 0x70, 0x63, 0x61, 0x70, 1];

fn carries_a_packet_until(signal: &str) {
    const CLIENT_PORT: &str = "192.168.1.200:4000";
    let (client, server) = (mac(1), mac(11));
    let arrives = Packet::tcp(CLIENT_PORT, "192.168.1.100:80").syn().frame(client, OUTSIDE);
    let leaves = Packet::tcp(CLIENT_PORT, "192.168.2.210:8080").syn().ttl(63).frame(INSIDE, server);

    let stage = Stage::new();
    pcap::write(&stage.file("outside-rx"), &[arrives]);
    pcap::write(&stage.file("inside-rx"), &[arp_request(server, "192.168.2.210", "192.168.2.200")]);
    let mut director = stage.start();
    stage.await_log(&mut director, "director ready");
    // The worker polls without a pause: it has long had both frames.
    sleep(Duration::from_millis(300));
    send(signal, &director);
    let status = director.wait().expect("the director ends");

    let (log, summary) = (stage.read("stderr"), stage.read("stdout"));
    assert_eq!(status.code(), Some(0), "{log}");
    assert!(log.contains(&format!("SIG{signal}: stopping")), "{log}");
    for part in [
        "service tcp 192.168.1.100:80: 1 connections, 0 refused, in 1 packets 40 bytes",
        "  server 192.168.2.210:8080: 1 connections, 0 active and 1 inactive now",
        "port outside (net_pcap): rx 1 packets 54 bytes",
        "mbufs: 16384 of 16384 back in the pool",
    ] {
        assert!(summary.contains(part), "{part} is missing:\n{summary}\n{log}");
    }
    let left = pcap::read(&stage.file("inside-tx"));
    let listed: Vec<_> = left.iter().map(|frame| describe(frame)).collect();
    assert_eq!(left.iter().filter(|frame| **frame == leaves).count(), 1, "{listed:#?}");
    left.iter().for_each(|frame| verify_checksums(frame).expect("right checksums"));
}

/// A director that waits for what comes, its files and its log.
fn idle_director() -> (Stage, Child) {
    let stage = Stage::new();
    stage.write_empty_captures();
    let mut director = stage.start();
    stage.await_log(&mut director, "director ready");
    (stage, director)
}

/// Ends it in good order, and returns its log and its summary.
fn stopped(stage: &Stage, mut director: Child) -> (String, String) {
    send("TERM", &director);
    let status = director.wait().expect("the director ends");
    let (log, summary) = (stage.read("stderr"), stage.read("stdout"));
    assert_eq!(status.code(), Some(0), "{log}");
    assert!(summary.contains("mbufs: 16384 of 16384 back in the pool"), "{summary}");
    (log, summary)
}

#[test]
fn sighup_makes_it_run_what_its_file_says_now() {
    let (stage, mut director) = idle_director();
    stage.edit("192.168.2.210:8080\" }", "192.168.2.210:8080\" }, { address = \"192.168.2.220\" }");
    stage.edit("vip = \"192.168.1.100:80\"", "vip = [\"192.168.1.100:80\", \"192.168.1.101:80\"]");
    send("HUP", &director);
    stage.await_log(&mut director, "lb.toml runs now: service tcp-192.168.1.100-80 edited");
    send("HUP", &director);
    stage.await_log(&mut director, "lb.toml says nothing new");
    // The worker looks for what is due ten times a second.
    sleep(Duration::from_millis(300));

    let (_, summary) = stopped(&stage, director);
    assert!(summary.contains("server 192.168.2.220:80: 0 connections"), "{summary}");
    for (port, own, wanted) in [
        ("inside", "192.168.2.200", "192.168.2.220"),
        ("outside", "192.168.1.101", "192.168.1.101"),
    ] {
        let mac = if port == "inside" { INSIDE } else { OUTSIDE };
        let left = pcap::read(&stage.file(&format!("{port}-tx")));
        let listed: Vec<_> = left.iter().map(|frame| describe(frame)).collect();
        assert!(left.contains(&arp_request(mac, own, wanted)), "{wanted}: {listed:#?}");
    }
}

#[test]
fn sighup_changes_nothing_when_the_file_is_wrong() {
    let (stage, mut director) = idle_director();
    stage.edit("192.168.2.210:8080\" }", "192.168.2.210:8080\", weight = 70000 }");
    send("HUP", &director);
    stage.await_log(&mut director, "the director goes on as before, because ");
    stage.await_log(&mut director, "lb.toml:21:62: `weight` is 70000; it can be 0 to 65535");
    stage.edit("weight = 70000", "weight = 7");
    send("HUP", &director);
    stage.await_log(
        &mut director,
        "runs now: tcp-192.168.1.100-80: 192.168.2.210:8080 edited, weight 7",
    );
    stopped(&stage, director);
}

#[test]
fn sighup_changes_nothing_that_needs_a_restart() {
    let (stage, mut director) = idle_director();
    stage.edit("no-huge = true", "no-huge = true\n        mbufs = 32768");
    stage.edit("scheduler = \"rr\"", "scheduler = \"wrr\"");
    send("HUP", &director);
    stage.await_log(&mut director, "lb.toml:4:17: the `mbufs` of a running director can't change");
    stage.await_log(&mut director, "= help: restart the director to change it");
    let (log, _) = stopped(&stage, director);
    assert!(!log.contains("runs now"), "{log}");
}

#[test]
fn sighup_changes_how_much_is_logged() {
    let (stage, mut director) = idle_director();
    stage.edit("[dpdk]", "[log]\n        level = \"error\"\n        [dpdk]");
    send("HUP", &director);
    stage.await_log(&mut director, "runs now: [log]");
    let (log, _) = stopped(&stage, director);
    assert!(!log.contains("SIGTERM: stopping"), "{log}");
}

#[test]
fn sighup_leaves_alone_what_the_command_line_says_of_the_log() {
    let stage = Stage::new();
    pcap::write(&stage.file("outside-rx"), &[]);
    pcap::write(&stage.file("inside-rx"), &[]);
    let mut director = stage.start_with(&["--log-level", "info"]);
    stage.await_log(&mut director, "director ready");
    stage.edit("[dpdk]", "[log]\n        level = \"error\"\n        [dpdk]");
    send("HUP", &director);
    stage.await_log(&mut director, "runs now: [log]");
    let (log, _) = stopped(&stage, director);
    assert!(log.contains("SIGTERM: stopping"), "{log}");
}

/// Runs an idle director with that for its log and its output, and has it complain of its file, so
/// that there is something to log. It goes on; returns its exit status in the end.
#[track_caller]
fn exit_status_with(stderr: impl Into<Stdio>, stdout: impl Into<Stdio>) -> Option<i32> {
    let stage = Stage::new();
    stage.write_empty_captures();
    let mut director = stage.command(&[]).stderr(stderr).stdout(stdout).spawn().expect("it starts");
    // It can't say that it is ready: it has a thread for signals when it is.
    await_that("the director is ready", || threads(&director).any(|name| name == "signals\n"));
    stage.edit("192.168.2.210:8080\" }", "192.168.2.210:8080\", weight = 70000 }");
    for _ in 0..3 {
        send("HUP", &director);
        sleep(Duration::from_millis(100));
        assert!(director.try_wait().expect("a child").is_none(), "it goes on");
    }
    send("TERM", &director);
    director.wait().expect("it ends").code()
}

/// The names of a process's threads.
fn threads(child: &Child) -> impl Iterator<Item = String> + use<> {
    let tasks = fs::read_dir(format!("/proc/{}/task", child.id())).into_iter().flatten().flatten();
    tasks.filter_map(|task| fs::read_to_string(task.path().join("comm")).ok())
}

fn full_disk() -> File {
    File::options().write(true).open("/dev/full").expect("a disk that is full")
}

/// The writing end of a pipe that nobody reads.
fn broken_pipe() -> PipeWriter {
    let (reader, writer) = io::pipe().expect("a pipe");
    drop(reader);
    writer
}

#[test]
fn a_log_that_can_not_be_written_stops_nothing() {
    assert_eq!(exit_status_with(broken_pipe(), Stdio::null()), Some(0), "its reader is gone");
    assert_eq!(exit_status_with(full_disk(), Stdio::null()), Some(0), "its disk is full");
}

#[test]
fn a_log_that_nobody_reads_keeps_nothing_waiting() {
    let (_reader, mut writer) = io::pipe().expect("a pipe");
    let mut full = writer.try_clone().expect("a descriptor");
    // On a thread of its own, which waits when the pipe is full, and in the end for ever.
    spawn(move || while full.write_all(&[b'x'; 4096]).is_ok() {});
    sleep(Duration::from_millis(100));
    writer.flush().expect("nothing to flush");
    assert_eq!(exit_status_with(writer, Stdio::null()), Some(0));
}

#[test]
fn a_summary_that_can_not_be_written() {
    assert_eq!(
        exit_status_with(Stdio::null(), broken_pipe()),
        Some(0),
        "its reader wanted no more"
    );
    assert_eq!(exit_status_with(Stdio::null(), full_disk()), Some(1), "its disk is full");
}

#[test]
fn what_check_prints_and_can_not_be_written() {
    let check = |stdout: Stdio| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_shunt"));
        command.args(["check", "--config", &in_project("examples/lvs-nat.toml")]).stdout(stdout);
        let output = command.stderr(Stdio::piped()).output().expect("shunt starts");
        (output.status.code(), text(&output.stderr).to_owned())
    };
    assert_eq!(check(broken_pipe().into()), (Some(0), String::new()));
    let (status, said) = check(full_disk().into());
    assert_eq!(status, Some(1));
    assert!(said.starts_with("shunt: standard output can't be written: No space left"), "{said}");
}

#[test]
fn an_error_that_can_not_be_written_is_still_an_exit_status() {
    for stderr in [Stdio::from(broken_pipe()), Stdio::from(full_disk())] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_shunt"));
        command.args(["check", "--config", "/nonexistent/lb.toml"]).stderr(stderr);
        assert_eq!(command.status().expect("shunt starts").code(), Some(1));
    }
}

#[test]
fn a_file_that_hangs_when_it_is_read_again_holds_nothing_up() {
    let (stage, mut director) = idle_director();
    let file = stage.path("lb.toml");
    fs::rename(&file, stage.path("kept.toml")).expect("our own file");
    let status = Command::new("mkfifo").arg(&file).status().expect("mkfifo starts");
    assert!(status.success(), "a FIFO, which is opened when somebody writes to it");
    open_to_all(&file);
    send("HUP", &director);
    sleep(Duration::from_millis(2500));
    send("HUP", &director);
    stage
        .await_log(&mut director, "lb.toml is still being read, for 2 s now; the director goes on");
    let (log, _) = stopped(&stage, director);
    assert!(log.contains("SIGTERM: stopping"), "{log}");
}

#[test]
fn a_file_that_changes_while_it_is_read_is_read_again() {
    let (stage, mut director) = idle_director();
    let file = stage.path("lb.toml");
    let text = stage.read("lb.toml");
    fs::remove_file(&file).expect("our own file");
    let status = Command::new("mkfifo").arg(&file).status().expect("mkfifo starts");
    assert!(status.success());
    open_to_all(&file);
    send("HUP", &director);
    sleep(Duration::from_millis(300));
    send("HUP", &director);
    sleep(Duration::from_millis(300));
    // The first reader has opened the FIFO; the second reads the file that replaces it.
    let new = stage.path("new.toml");
    fs::write(&new, text.replace("scheduler = \"rr\"", "scheduler = \"wrr\""))
        .expect("a service file");
    open_to_all(&new);
    let mut fifo = File::options().write(true).open(&file).expect("the reader is there");
    fs::rename(&new, &file).expect("our own file");
    fifo.write_all(b"this is no service file").expect("the reader is there");
    drop(fifo);
    stage.await_log(&mut director, "lb.toml runs now: service tcp-192.168.1.100-80 edited");
    let (log, _) = stopped(&stage, director);
    assert!(!log.contains("is wrong"), "what it was before counts no more: {log}");
}

#[test]
fn more_memory_than_there_is() {
    let file = service_file("memory = \"1024G\"\nno-huge = true", "net_null0", "net_null1");
    let said = refused(&["run", "--config", file.path().to_str().expect("UTF-8")]);
    assert!(said.contains(" MiB of memory are wanted (1048576 MiB for DPDK"), "{said}");
    assert!(said.contains("lower `memory` under `[dpdk]`"), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
}

#[test]
fn a_table_that_the_kernel_refuses() {
    let dpdk = "memory = \"64M\"\nno-huge = true\nmbufs = 8192\n[nat]\nconnections = 12000000";
    let file = service_file(dpdk, "net_null0", "net_null1");
    let runtime = tempfile::tempdir().expect("a temporary directory");
    let limited = "ulimit -v 900000; exec \"$0\" run --config \"$1\"";
    let output = Command::new("sh")
        .args(["-c", limited, env!("CARGO_BIN_EXE_shunt")])
        .arg(file.path())
        .env("XDG_RUNTIME_DIR", runtime.path())
        .env("RUST_LOG", "off")
        .output()
        .expect("a shell");
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(
        said.starts_with("shunt: no memory for a table of 12000000 connections, 988 MiB"),
        "{said}"
    );
    assert!(said.ends_with("lower `connections` under `[nat]`\n"), "{said}");
}

/// Whoever touches memory first gets it from its own NUMA node.
#[test]
fn a_worker_s_table_is_made_on_its_lcore() {
    // All but the table is the same, which takes pages of 4 KiB where it is small.
    let faults = |connections: u32| {
        let stage = Stage::new();
        stage.write_empty_captures();
        let section = format!("[nat]\nconnections = {connections}\n[dpdk]");
        let mut director = stage.start_edited(&[("[dpdk]", &section)]);
        stage.await_log(&mut director, "director ready");
        let faults = ["shunt", "worker"].map(|name| page_faults(&director, name));
        stopped(&stage, director);
        faults
    };
    let ([main, worker], [main_more, worker_more]) = (faults(1024), faults(16384));
    // 15,360 connections more, of 96 bytes each.
    let pages = 15_360 * 96 / 4096;
    assert!(worker_more > worker + pages - 40, "the worker's: {worker}, {worker_more}");
    assert!(main_more < main + pages / 2, "the main lcore's: {main}, {main_more}");
}

/// How often the thread with that in its name touched a page that it hadn't yet.
fn page_faults(child: &Child, name: &str) -> u64 {
    let tasks = fs::read_dir(format!("/proc/{}/task", child.id())).expect("threads");
    let stats = tasks.map(|task| {
        fs::read_to_string(task.expect("a thread").path().join("stat")).expect("its statistics")
    });
    let is_it = |stat: &String| stat.split(')').next().is_some_and(|head| head.contains(name));
    let stat = stats.into_iter().find(is_it).expect("a thread of that name");
    let after_name = stat.rsplit(')').next().expect("fields");
    after_name.split_whitespace().nth(7).and_then(|faults| faults.parse().ok()).expect("a number")
}

#[test]
fn nothing_of_it_is_left_in_the_runtime_directory() {
    let (stage, director) = idle_director();
    let own = stage.path("dpdk").join(format!("shunt-{}", director.id()));
    assert!(own.is_dir(), "EAL's own is there while it runs");
    // A dead one: no process has this number.
    let dead = stage.path("dpdk").join("shunt-4194305");
    fs::create_dir(&dead).expect("our own directory");
    open_to_all(&dead);
    stopped(&stage, director);
    assert!(!own.exists() && dead.exists());
    let director = stage.start();
    await_that("the next one removes what is dead", || !dead.exists());
    stopped(&stage, director);
}

/// A directory that nobody can use, with all that a run needs.
struct Stage {
    directory: tempfile::TempDir,
}

impl Stage {
    fn new() -> Stage {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let stage = Stage { directory };
        open_to_all(stage.directory.path());
        // Where cargo put the binary, only its user may have access.
        copy_binary(&stage.path("shunt"));
        open_to_all(&stage.path("shunt"));
        stage
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn file(&self, capture: &str) -> PathBuf {
        self.path(&format!("{capture}.pcap"))
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).expect("what the director wrote")
    }

    /// So that nothing arrives.
    fn write_empty_captures(&self) {
        pcap::write(&self.file("outside-rx"), &[]);
        pcap::write(&self.file("inside-rx"), &[]);
    }

    /// Replaces a part of the service file.
    fn edit(&self, old: &str, new: &str) {
        let text = self.read("lb.toml");
        assert!(text.contains(old), "{text}");
        fs::write(self.path("lb.toml"), text.replace(old, new)).expect("a service file");
    }

    fn start(&self) -> Child {
        self.start_with(&[])
    }

    fn start_with(&self, arguments: &[&str]) -> Child {
        self.spawn(self.command(arguments))
    }

    /// Starts it with a service file that differs in that.
    fn start_edited(&self, changes: &[(&str, &str)]) -> Child {
        let command = self.command(&[]);
        changes.iter().for_each(|(old, new)| self.edit(old, new));
        self.spawn(command)
    }

    fn spawn(&self, mut command: Command) -> Child {
        let file = |name| File::create(self.path(name)).expect("a file for output");
        command.stdout(file("stdout")).stderr(file("stderr")).spawn().expect("shunt starts")
    }

    /// The command that runs a director, with its files in place.
    fn command(&self, arguments: &[&str]) -> Command {
        let device = |number: u32, port: &str| {
            let file = |what: &str| self.file(&format!("{port}-{what}")).display().to_string();
            format!("net_pcap{number},rx_pcap={},tx_pcap={}", file("rx"), file("tx"))
        };
        let service_file =
            service_file("no-huge = true", &device(0, "outside"), &device(1, "inside"));
        fs::copy(service_file.path(), self.path("lb.toml")).expect("a service file");
        for name in ["outside-rx.pcap", "inside-rx.pcap", "lb.toml"] {
            open_to_all(&self.path(name));
        }
        let mut command = Command::new(self.path("shunt"));
        command.args(["run", "--config"]).arg(self.path("lb.toml")).args(arguments);
        command.env("XDG_RUNTIME_DIR", self.directory.path()).env_remove("RUST_LOG");
        let is_root = fs::metadata("/proc/self").expect("procfs").uid() == 0;
        if is_root {
            const NOBODY: u32 = 65534;
            command.uid(NOBODY).gid(NOBODY);
        }
        command
    }

    /// Waits until the director logs something.
    fn await_log(&self, director: &mut Child, line: &str) {
        let deadline = Instant::now() + Duration::from_secs(30);
        while !self.read("stderr").contains(line) {
            let status = director.try_wait().expect("a child");
            let is_late = Instant::now() > deadline;
            if is_late {
                director.kill().expect("a child to kill");
            }
            assert!(status.is_none() && !is_late, "{status:?}:\n{}", self.read("stderr"));
            sleep(Duration::from_millis(10));
        }
    }
}

#[track_caller]
fn await_that(what: &str, is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !is_so() {
        assert!(Instant::now() < deadline, "{what}");
        sleep(Duration::from_millis(10));
    }
}

/// Has `cp` copy it: a file that this process has open for writing would be open in the children
/// that other tests start meanwhile, too, and not be executed ("text file busy").
fn copy_binary(to: &Path) {
    let status = Command::new("cp").arg(env!("CARGO_BIN_EXE_shunt")).arg(to).status();
    assert!(status.expect("cp starts").success(), "no copy of the binary");
}

fn open_to_all(path: &Path) {
    fs::set_permissions(path, Permissions::from_mode(0o777)).expect("our own file");
}

/// Sends a signal, by the shell's own `kill`.
fn send(signal: &str, child: &Child) {
    let command = format!("kill -{signal} {}", child.id());
    let status = Command::new("sh").args(["-c", &command]).status().expect("a shell");
    assert!(status.success(), "{command}");
}
