//! Service files that a running director is given: what of them it takes, and how the change reads.

use shunt_config::{Change, Config};

const RUNNING: &str = r#"
[dpdk]
main-lcore = 0
worker-lcores = [1]
idle = "spin"
memory = "256M"
mbufs = 16384
no-huge = true
eal-args = ["--log-level", "pmd:info"]

[[port]]
name = "outside"
role = "outside"
device = "net_null0"
addresses = ["192.168.1.100/24"]
mtu = 1500
rx-descriptors = 512
tx-descriptors = 512
checksum = "auto"
vlan = "drop"

[[port]]
name = "inside"
role = "inside"
device = "net_null1"
addresses = ["192.168.2.200/24"]

[nat]
connections = 4096

[[service]]
vip = "192.168.1.100:80"
scheduler = "wrr"
server = [{ address = "192.168.2.210", weight = 2 }, { address = "192.168.2.220" }]

[[service]]
protocol = "udp"
vip = "192.168.1.100:53"
scheduler = "rr"
server = [{ address = "192.168.2.210" }]
"#;

fn running() -> Config {
    Config::parse("running.toml", RUNNING).unwrap()
}

/// The running file with some of its text replaced; all of it has to be there.
fn edited(edits: &[(&str, &str)]) -> String {
    edits.iter().fold(RUNNING.to_owned(), |text, (old, new)| {
        assert!(text.contains(old), "{old}");
        text.replacen(old, new, 1)
    })
}

/// What a director that gets the edited file says of it.
#[track_caller]
fn change(edits: &[(&str, &str)]) -> String {
    let running = running();
    let new = running.parse_change("new.toml", &edited(edits)).unwrap_or_else(|e| panic!("{e}"));
    let change = Change::between(&running, &new);
    assert_eq!(change.is_empty(), new == running);
    assert!(Change::between(&new, &new).is_empty());
    change.to_string()
}

#[test]
fn a_change_reads_like_this() {
    let servers = r#"{ address = "192.168.2.210", weight = 2 }, { address = "192.168.2.220" }"#;
    for (new, expected) in [
        (
            r#"{ address = "192.168.2.210", weight = 2 }, { address = "192.168.2.230" }"#,
            &["192.168.2.220:80 removed", "192.168.2.230:80 added"][..],
        ),
        (
            r#"{ address = "192.168.2.210", weight = 5 }, { address = "192.168.2.220", weight = 0 }"#,
            &["192.168.2.210:80 edited, weight 5", "192.168.2.220:80 drained"],
        ),
        (
            r#"{ address = "192.168.2.210", weight = 2, upper = 9 }, { address = "192.168.2.220" }"#,
            &["192.168.2.210:80 edited, weight 2, thresholds 9 and 0"],
        ),
    ] {
        let expected: Vec<_> =
            expected.iter().map(|what| format!("tcp-192.168.1.100-80: {what}")).collect();
        assert_eq!(change(&[(servers, new)]), expected.join("; "));
    }
    let reordered = r#"{ address = "192.168.2.220" }, { address = "192.168.2.210", weight = 2 }"#;
    assert_eq!(change(&[(servers, reordered)]), "service tcp-192.168.1.100-80 edited");
    assert_eq!(change(&[]), "nothing");
}

#[test]
fn a_drained_server_comes_back() {
    let drained = edited(&[("weight = 2", "weight = 0")]);
    let drained = Config::parse("f", &drained).unwrap();
    assert_eq!(
        Change::between(&drained, &running()).to_string(),
        "tcp-192.168.1.100-80: 192.168.2.210:80 edited, weight 2"
    );
}

#[test]
fn services_come_go_and_change() {
    assert_eq!(
        change(&[(":53", ":54"), ("\"wrr\"", "\"wrr\"\ndrain-timeout = 60")]),
        "service udp-192.168.1.100-53 removed; service tcp-192.168.1.100-80 edited; \
         service udp-192.168.1.100-54 added"
    );
    assert_eq!(
        change(&[(
            "vip = \"192.168.1.100:80\"",
            "vip = [\"192.168.1.100:80\", \"192.168.1.100:81\"]"
        )]),
        "service tcp-192.168.1.100-80 edited"
    );
}

#[test]
fn every_other_section_can_change() {
    let more = r#"
[[snat]]
from = "192.168.2.0/24"
to = "192.168.1.100"

[[nat.local-address]]
address = "192.168.2.201"

[timeouts]
udp = 60

[[route]]
to = "default"
via = "192.168.1.1"

[log]
level = "debug"

[[service]]
protocol = "udp"
"#;
    assert_eq!(
        change(&[
            ("\n[[service]]\nprotocol = \"udp\"\n", more),
            ("connections = 4096", "connections = 4096\nreset-on-expiry = true"),
            ("192.168.1.100/24\"", "192.168.1.100/24\", \"192.168.1.99/24\""),
        ]),
        "SNAT of 192.168.2.0/24 added; local address 192.168.2.201 added; defaults edited; \
         [[route]]; addresses of [[port]]; [log]"
    );
}

#[test]
fn a_large_change_is_told_by_its_numbers() {
    let services: String = (1..=300)
        .map(|port| format!("[[service]]\nvip = \"192.168.1.101:{port}\"\nscheduler = \"rr\"\n"))
        .collect();
    let text = format!("{}{services}", edited(&[("weight = 2", "weight = 0"), (":53", ":54")]));
    let new = Config::parse("f", &text).unwrap();
    let change = Change::between(&running(), &new);
    assert!(change.is_summarised());
    assert_eq!(change.to_string(), "services: 301 added, 1 removed; servers: 1 edited");
    let details: Vec<_> = change.details().map(ToString::to_string).collect();
    assert_eq!(details.len(), 303);
    assert!(details.contains(&"tcp-192.168.1.100-80: 192.168.2.210:80 drained".to_owned()));
}

#[test]
fn a_service_keeps_its_identity_when_it_gets_a_name() {
    assert_eq!(
        change(&[("scheduler = \"wrr\"", "scheduler = \"wrr\"\nname = \"web\"")]),
        "service tcp-192.168.1.100-80 edited, and called web"
    );
}

/// What a director refuses in the edited file: `LINE:COLUMN WHAT`.
#[track_caller]
fn refused(edits: &[(&str, &str)]) -> Vec<String> {
    let text = edited(edits);
    Config::parse("new.toml", &text).unwrap_or_else(|errors| panic!("{errors}"));
    let errors = running().parse_change("new.toml", &text).expect_err("a restart is needed");
    let what = |message: &str| {
        let what = message.strip_prefix("the ")?;
        Some(what.strip_suffix(" of a running director can't change")?.to_owned())
    };
    let errors = errors.iter().map(|error| {
        assert!(error.help.as_ref().unwrap().contains("restart the director"));
        let place = error.location.as_ref().unwrap();
        format!("{}:{} {}", place.line, place.column, what(&error.message).unwrap())
    });
    errors.collect()
}

#[test]
fn what_needs_a_restart_is_refused_where_it_is() {
    let of_dpdk = [
        ("main-lcore = 0", "main-lcore = 2"),
        ("worker-lcores = [1]", "worker-lcores = [3]"),
        ("idle = \"spin\"", "idle = \"adaptive\""),
        ("\"256M\"", "\"512M\""),
        ("mbufs = 16384", "mbufs = 32768"),
        ("no-huge = true", "no-huge = false"),
        ("pmd:info", "pmd:debug"),
    ];
    assert_eq!(
        refused(&of_dpdk),
        [
            "3:14 `main-lcore`",
            "4:17 `worker-lcores`",
            "5:8 `idle`",
            "6:10 `memory`",
            "7:9 `mbufs`",
            "8:11 kind of memory",
            "9:12 `eal-args`",
        ]
    );
    let of_a_port = [
        ("name = \"outside\"", "name = \"wan\""),
        ("net_null0", "net_null2"),
        ("mtu = 1500", "mtu = 9000"),
        ("rx-descriptors = 512", "rx-descriptors = 1024"),
        ("tx-descriptors = 512", "tx-descriptors = 1024"),
        ("\"auto\"", "\"software\""),
        ("\"drop\"", "\"pass\""),
        ("connections = 4096", "connections = 8192"),
    ];
    assert_eq!(
        refused(&of_a_port),
        [
            "12:8 `name`",
            "14:10 `device`",
            "16:7 `mtu`",
            "17:18 `rx-descriptors`",
            "18:18 `tx-descriptors`",
            "19:12 `checksum`",
            "20:8 `vlan`",
            "29:15 `connections`",
        ]
    );
}

#[test]
fn what_was_left_out_is_refused_where_it_should_be() {
    assert_eq!(refused(&[("mtu = 1500\nrx-descriptors = 512", "")]), ["11:1 `rx-descriptors`"]);
    assert_eq!(refused(&[("connections = 4096", "")]).len(), 1);
    assert_eq!(refused(&[("no-huge = true", "")]).len(), 1);
}

#[test]
fn a_wrong_file_is_refused_as_at_start() {
    let text = edited(&[("weight = 2", "weight = 70000"), ("mtu = 1500", "mtu = 9000")]);
    let at_start = Config::parse("new.toml", &text).unwrap_err();
    assert_eq!(running().parse_change("new.toml", &text).unwrap_err(), at_start);
    let syntax = edited(&[("scheduler = \"wrr\"", "scheduler =")]);
    assert!(running().parse_change("new.toml", &syntax).is_err());
}

#[test]
fn ports_may_be_written_in_another_order() {
    let (before, rest) = RUNNING.split_once("[[port]]\nname = \"outside\"").unwrap();
    let (outside, rest) = rest.split_once("[[port]]\n").unwrap();
    let (inside, rest) = rest.split_once("[nat]").unwrap();
    let text =
        format!("{before}[[port]]\n{inside}[[port]]\nname = \"outside\"{outside}[nat]{rest}");
    assert_eq!(running().parse_change("new.toml", &text), Ok(running()));
}
