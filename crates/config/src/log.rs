//! `[log]`: its keys, what they can be, and what they come to.
use serde::Deserialize;
use strum::{Display, IntoStaticStr, VariantArray};

use crate::{report::Report, value::Value};

/// The section as the file has it.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Raw {
    pub(crate) level: Value<String>,
}

/// How much is logged: a level and everything above it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Display, IntoStaticStr, VariantArray)]
#[strum(serialize_all = "kebab-case")]
pub enum Level {
    /// What stops or breaks the director.
    Error,
    /// What works, but not as asked.
    Warn,
    /// What happens at start, at reload and at the end.
    Info,
    /// What helps to find a mistake in a configuration.
    Debug,
    /// Everything.
    Trace,
}

/// What the director says while it runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    /// Key `level`, by default [`Level::Info`].
    pub level: Level,
}

impl Default for Log {
    fn default() -> Log {
        Log { level: Level::Info }
    }
}

/// What the section says.
pub(crate) fn read(raw: &Raw, report: &mut Report) -> Log {
    let default = Log::default();
    Log { level: report.keyword_or("level", &raw.level, default.level) }
}
