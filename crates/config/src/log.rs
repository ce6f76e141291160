//! `[log]`.
use strum::{Display, IntoStaticStr, VariantArray};

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
