//! Durations, anywhere.

use std::time::Duration;

use shunt_rules::Timeouts;

use crate::{fault::Fault, value::Scalar};

/// `900`, `"900s"`, `"15m"`, `"2h"` or `"1d"`, written for `key`.
pub(crate) fn duration(key: &str, value: &Scalar) -> Result<Duration, Fault> {
    let seconds = match value {
        Scalar::Number(number) => Some(u64::try_from(*number).unwrap_or(0)),
        Scalar::Text(text) => seconds(text),
        Scalar::Boolean(_) => None,
    };
    let help = format!("write seconds, or a number with its unit, as in `{key} = \"15m\"`");
    match seconds.map(Duration::from_secs) {
        Some(duration) if Timeouts::LIMITS.contains(&duration) => Ok(duration),
        Some(_) => Err(Fault::new(format!("`{key}` is {value}; it can be 1s to 7d")).help(help)),
        None => Err(Fault::new(format!("`{key}` is {value}, which is no duration"))
            .help(format!("{help}; units are `s`, `m`, `h` and `d`"))),
    }
}

/// The seconds in a number with its unit; more than there can be if they don't fit.
fn seconds(text: &str) -> Option<u64> {
    let unit = text.chars().last()?;
    let each = match unit {
        's' => 1,
        'm' => 60,
        'h' => 60 * 60,
        'd' => 24 * 60 * 60,
        _ => return None,
    };
    let number = text.strip_suffix(unit).filter(|number| !number.is_empty())?;
    if !number.chars().all(|c| c.is_ascii_digit()) {
        return None;
    }
    Some(number.parse::<u64>().map_or(u64::MAX, |number| number.saturating_mul(each)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Result<u64, String> {
        let duration = duration("key", &Scalar::Text(text.to_owned()));
        duration.map(|duration| duration.as_secs()).map_err(|fault| fault.message)
    }

    fn number(number: i64) -> Result<u64, String> {
        let duration = duration("key", &Scalar::Number(number));
        duration.map(|duration| duration.as_secs()).map_err(|fault| fault.message)
    }

    #[test]
    fn durations_are_seconds_or_have_a_unit() {
        assert_eq!(number(1), Ok(1));
        assert_eq!(number(604_800), Ok(604_800));
        assert_eq!(text("90s"), Ok(90));
        assert_eq!(text("15m"), Ok(900));
        assert_eq!(text("2h"), Ok(7200));
        assert_eq!(text("7d"), Ok(604_800));
        for no in ["", "s", "90", "1.5h", "-1s", "+1s", "1h30m", "1 h", "1w", "90S", "9ß", "１s"]
        {
            assert!(text(no).unwrap_err().contains("no duration"), "{no}");
        }
    }

    #[test]
    fn durations_have_bounds() {
        for wrong in ["0s", "604801s", "8d", "99999999999999999999999d", "18446744073709551615d"] {
            assert!(text(wrong).unwrap_err().contains("it can be 1s to 7d"), "{wrong}");
        }
        for wrong in [0, -1, 604_801, i64::MAX, i64::MIN] {
            assert!(number(wrong).unwrap_err().contains("it can be 1s to 7d"), "{wrong}");
        }
    }
}
