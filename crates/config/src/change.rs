//! What changes when a director that runs one service file is given another.

use std::fmt;

use shunt_rules::Summary;

use crate::{Config, Ports};

/// So many changes of rules are told one by one.
const FEW: usize = 8;

/// The difference between two service files.
///
/// Displays in one line, a large one by its numbers:
/// `tcp-192.0.2.1-80: 10.0.0.1:80 drained; tcp-192.0.2.1-80: 10.0.0.3:80 added; [[route]]`, or
/// `services: 300 added, 1 removed; [log]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    rules: Vec<shunt_rules::Change>,
    /// Other sections that changed.
    sections: Vec<&'static str>,
}

impl Change {
    /// What `new` says differently from `old`.
    #[must_use]
    pub fn between(old: &Config, new: &Config) -> Change {
        let sections = [
            ("[[route]]", old.routes != new.routes),
            ("addresses of [[port]]", has_other_addresses(&old.ports, &new.ports)),
            ("[log]", old.log != new.log),
        ];
        let changed = sections.into_iter().filter(|(_, is_other)| *is_other);
        Change {
            rules: old.rules.diff(&new.rules),
            sections: changed.map(|(section, _)| section).collect(),
        }
    }

    /// Whether both say the same.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty() && self.sections.is_empty()
    }

    /// What changed about the rules, one by one.
    pub fn details(&self) -> impl Iterator<Item = &shunt_rules::Change> {
        self.rules.iter()
    }

    /// Whether a display leaves details out.
    #[must_use]
    pub fn is_summarised(&self) -> bool {
        self.rules.len() > FEW
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts: Vec<String> = if self.is_summarised() {
            vec![Summary::of(&self.rules).to_string()]
        } else {
            self.rules.iter().map(ToString::to_string).collect()
        };
        parts.extend(self.sections.iter().map(|section| (*section).to_owned()));
        if parts.is_empty() { f.write_str("nothing") } else { f.write_str(&parts.join("; ")) }
    }
}

fn has_other_addresses(old: &Ports, new: &Ports) -> bool {
    old.iter().zip(new.iter()).any(|(old, new)| old.addresses != new.addresses)
}
