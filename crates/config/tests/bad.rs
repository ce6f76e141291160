//! Wrong service files, each of which says in its first lines what must be said about it:
//! `# LINE:COLUMN PART OF THE MESSAGE`, a line for every mistake, in the order of the file.

use std::{fs, path::Path};

use shunt_config::{Config, ConfigError, Errors};

#[test]
fn wrong_files_are_refused_at_the_right_place() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/bad");
    let mut files = 0;
    let mut complaints = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let text = fs::read_to_string(&path).unwrap();
        files += 1;
        match Config::load(&path) {
            Ok(_) => complaints.push(format!("{}: was taken for right", path.display())),
            Err(errors) => {
                errors.iter().for_each(|error| check_form(error, &text));
                complaints.extend(unexpected(&text, &errors));
            }
        }
    }
    assert!(complaints.is_empty(), "{}", complaints.join("\n\n"));
    assert!(files >= 30, "only {files} wrong files were found");
}

/// What was said, if it isn't what the file says must be said.
fn unexpected(text: &str, errors: &Errors) -> Option<String> {
    let expected: Vec<(&str, &str)> = text
        .lines()
        .map_while(|line| line.strip_prefix("# "))
        .map(|line| line.split_once(' ').unwrap())
        .collect();
    let is_expected = |error: &ConfigError, (place, part): (&str, &str)| {
        let found = error.location.as_ref().unwrap();
        format!("{}:{}", found.line, found.column) == place && error.message.contains(part)
    };
    let all_right = errors.iter().count() == expected.len()
        && errors.iter().zip(&expected).all(|(error, &expected)| is_expected(error, expected));
    (!all_right).then(|| format!("expected {expected:#?}, got\n{errors}"))
}

/// Every mistake shows its line, underlines something, and says what to write instead.
fn check_form(error: &ConfigError, text: &str) {
    let place = error.location.as_ref().unwrap();
    let line = text.lines().nth(place.line - 1).unwrap();
    let shown: Vec<&str> = place.snippet.lines().collect();
    assert_eq!(shown.len(), 3, "{error}");
    assert_eq!(shown[1], format!("{} | {line}", place.line));
    let carets = shown[2].find('^').expect("something is underlined");
    let gutter = place.line.to_string().len() + " | ".len();
    assert_eq!(shown[2][..carets].chars().count(), gutter + place.column - 1, "{error}");

    let is_syntax = error.message.starts_with("unclosed");
    assert!(error.help.is_some() || is_syntax, "no help: {error}");
    let first = format!("{}:{}:{}: {}\n", error.file, place.line, place.column, error.message);
    assert!(error.to_string().starts_with(&first));
}

#[test]
fn an_error_reads_like_this() {
    let text = include_str!("bad/server-weight.toml");
    let errors = Config::parse("shunt.toml", text).unwrap_err();
    assert_eq!(
        errors.to_string(),
        r#"
shunt.toml:18:49: `weight` is 70000; it can be 0 to 65535
   |
18 | server = [{ address = "192.168.2.210", weight = 70000 }, { address = "192.168.2.220", weight = -1 }]
   |                                                 ^^^^^
   = help: write a whole number: 0 gets no new connections, 2 gets twice as many as 1

shunt.toml:18:96: `weight` is -1; it can be 0 to 65535
   |
18 | server = [{ address = "192.168.2.210", weight = 70000 }, { address = "192.168.2.220", weight = -1 }]
   |                                                                                                ^^
   = help: write a whole number: 0 gets no new connections, 2 gets twice as many as 1"#
            .trim_start()
    );
}

#[test]
fn helps_say_what_to_write() {
    for (file, help) in [
        (
            include_str!("bad/key-unknown.toml"),
            "did you mean `address`? known here: address, weight, upper, lower",
        ),
        (include_str!("bad/section-unknown.toml"), "did you mean `service`?"),
        (include_str!("bad/section-not-a-list.toml"), "double brackets: `[[service]]`"),
        (include_str!("bad/section-repeated.toml"), "single brackets: `[dpdk]`"),
        (include_str!("bad/type-string-for-number.toml"), "without quotes: `2`"),
        (include_str!("bad/type-number-for-string.toml"), "in quotes: `\"1\"`"),
        (include_str!("bad/type-string-for-list.toml"), "`[\"192.168.2.200/24\"]`"),
        (include_str!("bad/syntax-bare-address.toml"), "`vip = \"192.168.1.100:80\"`"),
        (include_str!("bad/syntax-boolean.toml"), "write `true` or `false`"),
        (include_str!("bad/section-server-before-service.toml"), "with `[[service]]` above"),
        (include_str!("bad/dpdk-main-lcore-is-default-worker.toml"), "`worker-lcores = [0]`"),
        (include_str!("bad/port-role-unknown.toml"), "did you mean `role = \"inside\"`?"),
        (include_str!("bad/port-device-kernel-name.toml"), "`net_af_packet0,iface=eth0`"),
        (include_str!("bad/service-scheduler-misspelt.toml"), "`scheduler = \"lblc\"`?"),
        (include_str!("bad/service-scheduler-flags-other.toml"), "or write `scheduler = \"sh\"`"),
        (include_str!("bad/service-scheduler-flags-twin.toml"), "write `mh-fallback`"),
        (include_str!("bad/service-mode-unknown.toml"), "did you mean `mode = \"full-nat\"`?"),
        (include_str!("bad/service-mode-full-nat.toml"), "add a `[[nat.local-address]]`"),
        (include_str!("bad/service-vip-any-port.toml"), "add `persistence`, or write the ports"),
        (include_str!("bad/service-vip-port-0.toml"), "or `*` for any port"),
        (include_str!("bad/service-vip-overlaps.toml"), "the narrower wins"),
        (include_str!("bad/service-persistence-mask.toml"), "\"255.255.255.0\""),
        (include_str!("bad/server-port-range.toml"), "leave it out for the port that was dialled"),
        (include_str!("bad/server-thresholds.toml"), "write `lower = 10` or less"),
        (include_str!("bad/nat-connections.toml"), "all workers together track, as in"),
        (include_str!("bad/timeouts-unit.toml"), "as in `established = \"15m\"`; units are"),
        (include_str!("bad/timeouts-state-unknown.toml"), "did you mean `syn-sent`?"),
        (include_str!("bad/local-address-outside.toml"), "a free address in 192.168.2.0/24"),
        (include_str!("bad/local-address-not-a-list.toml"), "`[[nat.local-address]]`"),
        (include_str!("bad/local-address-ports-of-service.toml"), "write `ports = \"9000-65535\"`"),
        (include_str!("bad/service-protocol-number.toml"), "in quotes: `\"6\"`"),
        (include_str!("bad/service-protocol-quic.toml"), "protocol is `tcp` or `udp`"),
        (include_str!("bad/route-host-bits.toml"), "write `10.0.0.0/8` for the network"),
        (include_str!("bad/snat-ports-of-service.toml"), "write `ports = \"81-1023\"`"),
        (include_str!("bad/dpdk-eal-args-joined.toml"), "`\"--log-level\", \"pmd:debug\"`"),
        (include_str!("bad/dpdk-mbufs-below-descriptors.toml"), "`mbufs = 4096`"),
    ] {
        let errors = Config::parse("f", file).unwrap_err();
        let said = errors.iter().next().unwrap().help.as_deref().unwrap();
        assert!(said.contains(help), "{said:?} lacks {help:?}");
    }
}

/// Whatever stands for a value that can't be read, others are not held against it.
#[test]
fn a_wrong_value_is_the_only_one_that_is_refused() {
    let everything = include_str!("good/everything.toml");
    let mut tried = 0;
    for (index, line) in everything.lines().enumerate() {
        let Some((key, value)) = line.split_once(" = ") else { continue };
        if key.starts_with('#') {
            continue;
        }
        let wrong = match value.as_bytes()[0] {
            b'"' if ["name", "eal-args"].contains(&key) => "\"?\"",
            b'"' => "\"no such\"",
            b'[' if key == "worker-lcores" => "[9998, 9999]",
            b'[' if key == "server" => "[{ address = \"no such\" }]",
            b'[' => "[\"no such\"]",
            b'{' => "{ udp = \"never\" }",
            b't' | b'f' => continue,
            _ => "-1",
        };
        let mut lines: Vec<_> = everything.lines().collect();
        let changed = format!("{key} = {wrong}");
        lines[index] = &changed;
        let text = lines.join("\n");
        let is_option = key == "eal-args" || key == "hugepage-dir";
        match Config::parse("f", &text) {
            Ok(_) => assert!(is_option, "{changed} was taken for right"),
            Err(errors) => {
                for error in &errors {
                    let at = error.location.as_ref().unwrap().line;
                    assert_eq!(at, index + 1, "{changed}:\n{errors}");
                }
            }
        }
        tried += 1;
    }
    assert!(tried > 70, "{tried}");
}

#[test]
fn of_very_many_mistakes_the_first_are_shown() {
    let wrong = "{ address = \"192.168.1.7\" }, ".repeat(1000);
    let text = include_str!("bad/server-outside.toml")
        .replace("server = [", &format!("server = [{wrong}"));
    let errors = Config::parse("f", &text).unwrap_err();
    // 1001 are outside, and 999 of them are there already.
    assert_eq!(errors.iter().count(), 2000);
    let shown = errors.to_string();
    assert!(shown.ends_with("\n\nand 1950 more mistakes"), "{}", &shown[shown.len() - 99..]);
}

#[test]
fn files_that_cannot_be_read_are_named() {
    let errors = Config::load(Path::new("/nonexistent/shunt.toml")).unwrap_err();
    let said = errors.to_string();
    assert!(said.starts_with("/nonexistent/shunt.toml: cannot be read: "), "{said}");
    assert!(said.contains("--config FILE"), "{said}");
}

#[test]
fn files_that_are_not_utf8_are_refused_at_the_byte() {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), b"[log]\nlevel = \"caf\xe9\"\n").unwrap();
    let errors = Config::load(file.path()).unwrap_err();
    let error = errors.iter().next().unwrap();
    let place = error.location.as_ref().unwrap();
    assert_eq!((place.line, place.column), (2, 13));
    assert!(error.message.contains("not UTF-8"), "{error}");
}
