//! A service file: read or refused, never a panic. What is said points into it, and what is accepted
//! can be run.
#![no_main]

use std::io::Write;

use libfuzzer_sys::fuzz_target;
use shunt_config::{Config, Errors};
use shunt_nat::Ruleset;

fuzz_target!(|input: &[u8]| {
    let (text, result) = match std::str::from_utf8(input) {
        Ok(text) => (text.into(), Config::parse("fuzz.toml", text)),
        Err(_) => (String::from_utf8_lossy(input), load(input)),
    };
    match result {
        Ok(config) => {
            let ruleset = Ruleset::new(&config.rules, 7).expect("IPv4");
            assert_eq!(ruleset.services().count(), config.rules.services.len());
        }
        Err(errors) => check(&text, &errors),
    }
});

/// Only a file on disk can hold what is not UTF-8.
fn load(input: &[u8]) -> Result<Config, Errors> {
    let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
    file.write_all(input).expect("room for a temporary file");
    Config::load(file.path())
}

/// Complaints come in the order of the file, each with a line that exists, a column in it, and the
/// line itself.
fn check(text: &str, errors: &Errors) {
    assert!(errors.iter().count() > 0);
    let lines: Vec<&str> = text.split('\n').collect();
    let mut last = (1, 1);
    for error in errors {
        let place = error.location.as_ref().expect("a place in the text");
        let line = lines.get(place.line - 1).expect("a line that exists");
        assert!((1..=line.chars().count() + 1).contains(&place.column), "{error}");
        assert!(last <= (place.line, place.column), "out of order: {errors}");
        last = (place.line, place.column);
        assert_eq!(place.snippet.lines().count(), 3, "{error}");
        assert!(!error.message.is_empty());
    }
    assert!(!errors.to_string().contains('\u{1b}'), "a complaint steers the terminal");
}
