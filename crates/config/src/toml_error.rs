//! Errors of the TOML reader and of serde, in the words of someone who writes a service file.
//!
//! Both hand over a place and an English sentence; the sentence is serde's and its form is stable.
//! What isn't recognised is passed on as it is.

use crate::{
    error::ConfigError,
    fault::Fault,
    source::{Source, Span},
    suggest::nearest,
};

/// `error` at its place in `source`.
pub(crate) fn explain(error: &toml::de::Error, source: &Source) -> ConfigError {
    let message = error.message();
    let mut span = error.span().unwrap_or_else(|| source.end());
    let fault = if let Some(rest) = message.strip_prefix("unknown field `") {
        unknown_key(rest, source, &span)
    } else if let Some(rest) = message.strip_prefix("invalid type: ") {
        wrong_type(rest, source, &span)
    } else if message.starts_with("invalid value: integer") {
        number_too_large()
    } else if message == "duplicate key" {
        Fault::new("this is written twice")
            .help("keep one of the two; only `[[…]]` may be repeated")
    } else if let Some((place, fault)) = bare_value(source, &span) {
        span = place;
        fault
    } else {
        syntax(message)
    };
    source.error(span, fault)
}

/// `rest` is ``KEY`, expected one of `A`, `B` ``.
fn unknown_key(rest: &str, source: &Source, span: &Span) -> Fault {
    let (key, expected) = rest.rsplit_once("`, expected ").unwrap_or((rest, ""));
    let known: Vec<&str> = expected.split('`').skip(1).step_by(2).collect();
    let is_section = source.text.get(..span.start).unwrap_or_default().ends_with('[');
    let what = if is_section { "section" } else { "key" };
    let known_here = format!("known here: {}", known.join(", "));
    let help = match nearest(key, known.iter().copied()) {
        Some(near) => format!("did you mean `{near}`? {known_here}"),
        None => known_here,
    };
    Fault::new(format!("unknown {what} `{key}`")).help(help)
}

/// `rest` is `string "x", expected i64`.
fn wrong_type(rest: &str, source: &Source, span: &Span) -> Fault {
    let (found, expected) = rest.rsplit_once(", expected ").unwrap_or((rest, "another type"));
    if found.ends_with("i128") || found.ends_with("u128") {
        return number_too_large();
    }
    let (kind, _) = found.split_once([' ', '`']).unwrap_or((found, ""));
    let written = source.text.get(span.clone()).unwrap_or_default();
    let before = source.text.get(..span.start).unwrap_or_default();
    // `[[service.server]]` makes a `service` of its own accord if there is none yet.
    let is_implied = before.ends_with('[') && kind == "map";
    let is_header = written.starts_with('[') && kind == "map" || written.starts_with("[[");
    let name = written.trim_matches(['[', ']']);

    let (wanted, help) = match expected {
        "a string" => (
            "a string",
            match kind {
                "map" | "sequence" => "write one string in quotes".to_owned(),
                _ => format!("write it in quotes: `\"{written}\"`"),
            },
        ),
        "a string or a list of strings" => (
            "a string or a list of strings",
            match kind {
                "map" => "write one string in quotes, or several in brackets".to_owned(),
                _ => format!("write it in quotes: `\"{written}\"`"),
            },
        ),
        "a whole number or a string" => {
            ("a whole number or a string", "write a whole number, or a string in quotes".to_owned())
        }
        "i64" => (
            "a whole number",
            match written.trim_matches(['"', '\'']).parse::<i64>() {
                Ok(number) => format!("write it without quotes: `{number}`"),
                Err(_) => "write a whole number without quotes".to_owned(),
            },
        ),
        "a boolean" => ("`true` or `false`", "write `true` or `false`, without quotes".to_owned()),
        "a sequence" if is_implied => {
            ("a list of sections", format!("begin one with `[[{name}]]` above this line"))
        }
        "a sequence" if is_header => {
            ("a list of sections", format!("write the header in double brackets: `[[{name}]]`"))
        }
        "a sequence" if kind == "map" => ("a list", "write a list in brackets: `[…]`".to_owned()),
        "a sequence" => ("a list", format!("write a list in brackets: `[{written}]`")),
        "a table" if is_header => {
            ("one section", format!("write the header once, in single brackets: `[{name}]`"))
        }
        "a table" => ("a table", "write its keys in braces: `{ key = value }`".to_owned()),
        other => (other, "write a value of that type".to_owned()),
    };
    let found = match kind {
        // A TOML date comes as a map of its own kind, too.
        "map" if written.starts_with(|c: char| c.is_ascii_digit()) => "a date",
        "map" if is_header || is_implied => "a section",
        "map" => "a table",
        "sequence" if is_header => "a list of sections",
        "sequence" => "a list",
        "string" => "a string",
        "integer" => "a whole number",
        "floating" => "a fraction",
        "boolean" => "`true` or `false`",
        _ => found,
    };
    Fault::new(format!("this is {found}, where {wanted} is wanted")).help(help)
}

fn syntax(message: &str) -> Fault {
    let fault = Fault::new(message.trim_end_matches(", expected nothing"));
    let is_bare = ["float", "integer", "quoted"].iter().any(|word| message.contains(word));
    if is_bare { fault.help("write addresses and words in quotes") } else { fault }
}

fn number_too_large() -> Fault {
    Fault::new("this number is too large").help("write a smaller whole number")
}

/// A value without quotes, or none at all, on the line where reading stopped. The TOML reader sees
/// half a number in `192.168.1.100:80` and complains about the other half.
fn bare_value(source: &Source, span: &Span) -> Option<(Span, Fault)> {
    let (line, start) = source.line_text(span);
    let (key, rest) = line.split_once('=')?;
    let (value, _comment) = rest.split_once('#').unwrap_or((rest, ""));
    let value = value.trim();
    let key = key.trim();
    let offset = start + (line.len() - rest.len()) + (rest.len() - rest.trim_start().len());
    let is_key = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if key.is_empty() || !key.chars().all(is_key) || span.start < offset {
        return None;
    }
    if value.is_empty() {
        let fault = Fault::new(format!("`{key}` has no value")).help("write one after the `=`");
        return Some((span.clone(), fault));
    }
    let is_bare = value.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '/' || c == ':');
    if !is_bare || value.contains(['"', '\'', ' ']) {
        return None;
    }
    let help = match value.to_lowercase().as_str() {
        "true" | "yes" | "on" | "false" | "no" | "off" => "write `true` or `false`".to_owned(),
        _ => format!("write a string in quotes: `{key} = \"{value}\"`"),
    };
    let fault =
        Fault::new(format!("`{value}` is neither a number nor a string in quotes")).help(help);
    Some((offset..offset + value.len(), fault))
}
