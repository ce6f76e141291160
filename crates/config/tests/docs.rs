//! What the documentation says of the service file, held against what is true.
//!
//! Examples are fenced as `toml`, whole files, or as `toml fragment`, parts of one. Tables of keys
//! stand under the heading of their section, with the columns key, type, default, limits, meaning.

use shunt_config::{Config, Errors};

const README: &str = include_str!("../../../README.md");
const REFERENCE: &str = include_str!("../../../docs/service-file.md");

const INSIDE: &str = r#"
[[port]]
name = "base-inside"
role = "inside"
device = "net_null1"
addresses = ["192.168.2.200/24"]
"#;

const OUTSIDE: &str = r#"
[[port]]
name = "base-outside"
role = "outside"
device = "net_null0"
addresses = ["192.168.1.100/24"]
"#;

/// Every section with the keys that it requires.
const SECTIONS: [(&str, &str); 10] = [
    ("[dpdk]", ""),
    ("[[port]]", ""), // the last of the base
    ("[[route]]", "to = \"default\"\nvia = \"192.168.1.1\"\n"),
    ("[nat]", ""),
    ("[[nat.local-address]]", "address = \"192.168.2.201\"\n"),
    ("[timeouts]", ""),
    ("[[service]]", "vip = \"192.168.1.100:80\"\nscheduler = \"rr\"\n"),
    ("[[service.server]]", "address = \"192.168.2.210\"\n"),
    ("[[snat]]", "from = \"192.168.2.0/24\"\nto = \"192.168.1.100\"\n"),
    ("[log]", ""),
];

#[test]
fn examples_are_right() {
    for (name, text, fragments) in [("README.md", README, 0), ("service-file.md", REFERENCE, 9)] {
        let examples = examples(text);
        for Example { line, is_fragment, text } in &examples {
            let text = if *is_fragment { completed(text) } else { text.clone() };
            if let Err(errors) = Config::parse("example", &text) {
                panic!("the example on line {line} of {name} is wrong:\n{errors}");
            }
        }
        let found = examples.iter().filter(|example| example.is_fragment).count();
        assert!(found >= fragments && found < examples.len(), "{name}: examples are missing");
    }
}

#[test]
fn every_section_and_key_is_listed_and_no_others() {
    let name = |section: &str| section.trim_matches(['[', ']']).to_owned();
    let documented: Vec<_> = headings().map(name).collect();
    assert_eq!(documented, SECTIONS.map(|(section, _)| name(section)));
    let at_top = documented.into_iter().filter(|name| !name.contains('.')).collect();
    assert_eq!(sorted(at_top), sorted(known("")));

    for (section, _) in SECTIONS {
        let documented = rows(section).map(|row| row.key.to_owned()).collect();
        assert_eq!(sorted(documented), sorted(known(&base(section))), "{section}");
    }
}

#[test]
fn defaults_and_required_keys_are_as_said() {
    for (section, _) in SECTIONS {
        let base = base(section);
        for Row { key, default, .. } in rows(section) {
            match default {
                "required" => {
                    let errors = Config::parse("f", &without(&base, key)).unwrap_err();
                    assert_said(&errors, &format!("`{key}` is missing here"));
                }
                "none" => {}
                value => {
                    let value = unquoted(value);
                    let text = format!("{base}{key} = {value}\n");
                    assert_eq!(parse(&text), parse(&base), "{section} {key} = {value}");
                }
            }
        }
    }
}

#[test]
fn ranges_are_as_said() {
    let mut checked = 0;
    for (section, _) in SECTIONS {
        let integers = rows(section).filter(|row| row.kind == "integer");
        for Row { key, limits, .. } in integers {
            let range = limits.split(',').next().unwrap_or_default();
            let Some((least, most)) = range.split_once(" to ") else { continue };
            let (least, most): (i64, i64) = (least.parse().unwrap(), most.parse().unwrap());
            for wrong in [least - 1, most + 1] {
                let text = format!("{}{key} = {wrong}\n", base(section));
                let errors = Config::parse("f", &text).unwrap_err();
                assert_said(&errors, &format!("`{key}` is {wrong}; it can be {range}"));
            }
            checked += 1;
        }
    }
    assert_eq!(checked, 12, "keys with a range");
}

#[test]
fn durations_are_as_said() {
    let mut checked = 0;
    for (section, _) in SECTIONS {
        for Row { key, limits, .. } in rows(section).filter(|row| row.kind == "duration") {
            assert_eq!(limits, "1s to 7d", "{key}");
            for wrong in ["0", "604801", "\"8d\""] {
                let text = format!("{}{key} = {wrong}\n", base(section));
                let errors = Config::parse("f", &text).unwrap_err();
                assert_said(&errors, &format!("`{key}` is {wrong}; it can be {limits}"));
            }
            checked += 1;
        }
    }
    assert_eq!(checked, 12, "keys with a duration");
}

struct Example {
    /// Of the fence before it.
    line: usize,
    is_fragment: bool,
    text: String,
}

/// The TOML in a Markdown text.
fn examples(markdown: &str) -> Vec<Example> {
    let mut examples = Vec::new();
    let mut lines = markdown.lines().enumerate();
    while let Some((index, line)) = lines.next() {
        let Some(info) = line.strip_prefix("```") else { continue };
        let block = lines.by_ref().map(|(_, line)| line).take_while(|line| *line != "```");
        let text = block.fold(String::new(), |text, line| text + line + "\n");
        match info {
            "toml" | "toml fragment" => {
                let is_fragment = info != "toml";
                examples.push(Example { line: index + 1, is_fragment, text });
            }
            other => assert!(!other.contains("toml"), "line {}: ```{other}", index + 1),
        }
    }
    examples
}

/// A fragment with the ports that it lacks.
fn completed(fragment: &str) -> String {
    let missing = |role: &str, port| {
        if fragment.contains(&format!("role = \"{role}\"")) { "" } else { port }
    };
    format!("{fragment}{}{}", missing("outside", OUTSIDE), missing("inside", INSIDE))
}

struct Row {
    key: &'static str,
    kind: &'static str,
    default: &'static str,
    limits: &'static str,
}

/// The rows of the table of keys under a section's heading.
fn rows(section: &str) -> impl Iterator<Item = Row> {
    let heading = format!("# `{section}`\n");
    let (_, text) = REFERENCE.split_once(&heading).unwrap_or_else(|| panic!("no {heading}"));
    let text = text.split("\n#").next().unwrap_or_default();
    let table = text.lines().skip_while(|line| !line.starts_with("| Key ")).skip(2);
    table.take_while(|line| line.starts_with('|')).map(|line| {
        let cells: Vec<_> = line.trim_matches('|').split('|').map(str::trim).collect();
        let [key, kind, default, limits, _meaning] = cells[..] else { panic!("{line}") };
        Row { key: unquoted(key), kind, default, limits }
    })
}

/// The headings that are code: sections.
fn headings() -> impl Iterator<Item = &'static str> {
    REFERENCE.lines().filter_map(|line| {
        let (_, heading) = line.strip_prefix('#')?.split_once(' ')?;
        heading.strip_prefix('`')?.strip_suffix('`')
    })
}

fn unquoted(code: &'static str) -> &'static str {
    let inner = code.strip_prefix('`').and_then(|code| code.strip_suffix('`'));
    inner.unwrap_or_else(|| panic!("{code} is not in backquotes"))
}

/// A right file that ends in a section, which has the required keys alone.
fn base(section: &str) -> String {
    let table = |name| {
        let (_, keys) = SECTIONS.iter().find(|(known, _)| *known == name).unwrap();
        format!("{name}\n{keys}")
    };
    match section {
        "[[port]]" => format!("{INSIDE}{OUTSIDE}"),
        "[[service.server]]" => {
            format!("{INSIDE}{OUTSIDE}{}{}", table("[[service]]"), table(section))
        }
        _ => format!("{INSIDE}{OUTSIDE}{}", table(section)),
    }
}

/// `text` without the last line that sets `key`.
fn without(text: &str, key: &str) -> String {
    let mut lines: Vec<_> = text.lines().collect();
    let sets = |line: &&str| line.starts_with(&format!("{key} = "));
    let at = lines.iter().rposition(sets).unwrap_or_else(|| panic!("the base has no {key}"));
    lines.remove(at);
    lines.join("\n")
}

/// What the refusal of an unknown key after `text` says is known there.
fn known(text: &str) -> Vec<String> {
    let errors = Config::parse("f", &format!("{text}unheard-of = 1\n")).unwrap_err();
    let help = errors.iter().find_map(|error| error.help.clone()).unwrap();
    let (_, known) = help.split_once("known here: ").unwrap_or_else(|| panic!("{errors}"));
    known.split(", ").map(str::to_owned).collect()
}

fn sorted(mut names: Vec<String>) -> Vec<String> {
    names.sort();
    names
}

fn parse(text: &str) -> Config {
    Config::parse("f", text).unwrap_or_else(|errors| panic!("{errors}"))
}

fn assert_said(errors: &Errors, message: &str) {
    assert!(errors.iter().any(|error| error.message == message), "no “{message}” in\n{errors}");
}
