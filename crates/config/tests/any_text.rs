//! Whatever a file holds, it is read or refused, never a panic; and what is said points into it.

use proptest::prelude::*;
use shunt_config::Config;

const EVERYTHING: &str = include_str!("good/everything.toml");

/// Parses `text`, and checks that every complaint points at a line that exists.
fn read_or_refuse(text: &str) {
    if let Err(errors) = Config::parse("any.toml", text) {
        assert!(errors.iter().count() > 0);
        let lines = text.split('\n').count();
        for error in &errors {
            let place = error.location.as_ref().expect("a place in the text");
            assert!((1..=lines).contains(&place.line), "{error}");
            let line = text.split('\n').nth(place.line - 1).expect("a line that exists");
            assert!((1..=line.chars().count() + 1).contains(&place.column), "{error}");
        }
        assert!(errors.to_string().contains("any.toml:"));
    }
}

/// Values that are wrong somewhere, if not everywhere.
fn value() -> impl Strategy<Value = String> {
    prop_oneof![
        any::<i64>().prop_map(|number| number.to_string()),
        "[0-9]{1,3}(\\.[0-9]{1,3}){3}(/[0-9]{1,2}|:[0-9]{1,5})?".prop_map(|s| format!("\"{s}\"")),
        "(0\\.0|10\\.0|127\\.0|192\\.168|255\\.255)\\.(0|1|2|255)\\.(0|1|200|255)(/[0-9]|/[123][0-9])?"
            .prop_map(|s| format!("\"{s}\"")),
        "[0-9]{1,5}-[0-9]{1,5}".prop_map(|s| format!("\"{s}\"")),
        "198\\.51\\.100\\.[89]:([0-9]{1,5}(-[0-9]{1,5})?|\\*)".prop_map(|s| format!("\"{s}\"")),
        "[0-9]{1,21}[smhd]".prop_map(|s| format!("\"{s}\"")),
        "\\PC{0,12}".prop_map(|s| format!("'{s}'")),
        "\\PC{0,12}",
        Just("[]".to_owned()),
        Just("{}".to_owned()),
        Just("true".to_owned()),
    ]
}

proptest! {
    #[test]
    fn arbitrary_text(text in "\\PC*") {
        read_or_refuse(&text);
    }

    #[test]
    fn arbitrary_characters(text in any::<String>()) {
        read_or_refuse(&text);
    }

    #[test]
    fn a_good_file_with_a_part_replaced(
        at in 0..EVERYTHING.len(),
        length in 0..40usize,
        patch in "[\\PC\\r\\n\\t]{0,8}",
    ) {
        let end = EVERYTHING.len().min(at + length);
        read_or_refuse(&format!("{}{patch}{}", &EVERYTHING[..at], &EVERYTHING[end..]));
    }

    #[test]
    fn a_good_file_with_values_replaced(
        patches in prop::collection::vec((0..200usize, value()), 1..6),
    ) {
        let mut lines: Vec<String> = EVERYTHING.lines().map(str::to_owned).collect();
        let assignments: Vec<usize> =
            (0..lines.len()).filter(|&i| lines[i].contains('=')).collect();
        for (index, value) in patches {
            let line = &mut lines[assignments[index % assignments.len()]];
            let key = line.split('=').next().unwrap_or_default().to_owned();
            *line = format!("{key}= {value}");
        }
        read_or_refuse(&lines.join("\n"));
    }

    #[test]
    fn a_good_file_with_lines_moved(from in 0..200usize, to in 0..200usize, twice in any::<bool>()) {
        let mut lines: Vec<&str> = EVERYTHING.lines().collect();
        let (from, to) = (from % lines.len(), to % lines.len());
        let line = if twice { lines[from] } else { lines.remove(from) };
        lines.insert(to.min(lines.len()), line);
        read_or_refuse(&lines.join("\n"));
    }
}
