//! `[log]`.

keywords! {
    /// How much is logged: a level and everything above it.
    pub enum Level {
        /// What stops or breaks the director.
        Error = "error",
        /// What works, but not as asked.
        Warn = "warn",
        /// What happens at start, at reload and at the end.
        Info = "info",
        /// What helps to find a mistake in a configuration.
        Debug = "debug",
        /// Everything.
        Trace = "trace",
    }
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
