use std::path::PathBuf;

use clap::{Parser, Subcommand, ValueEnum};
use shunt_config::Level;

/// A NAT load balancer on DPDK: LVS-NAT's director, in user space.
#[derive(Debug, Parser)]
#[command(version, propagate_version = true, arg_required_else_help = true, after_help = EXAMPLES)]
pub(crate) struct Cli {
    /// How much is logged; otherwise RUST_LOG says, or `[log]` in the service file
    #[arg(long, value_name = "LEVEL", global = true)]
    pub(crate) log_level: Option<LogLevel>,

    #[command(subcommand)]
    pub(crate) command: Command,
}

const EXAMPLES: &str = "\
Examples:
  shunt check --config examples/lvs-nat.toml        say what a service file means
  sudo shunt run --config examples/lvs-nat.toml     run the director; Ctrl-C stops it
  sudo shunt run --config lb.toml --log-level debug show DPDK's own log, too

The classic LVS-NAT experiment on this machine, without hardware: sudo scripts/quickstart";

const RUN_EXAMPLES: &str = "\
Examples:
  sudo shunt run --config /etc/shunt/lb.toml
  sudo pkill -HUP -x shunt      after the file was edited: run what it says now";

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the director until SIGINT or SIGTERM, then print its counters; SIGHUP has it read its
    /// service file again
    #[command(after_help = RUN_EXAMPLES)]
    Run {
        /// The TOML service file
        #[arg(long, short, value_name = "FILE")]
        config: PathBuf,
    },
    /// Validate a service file and print what would run; touches no device
    #[command(after_help = "Example:\n  shunt check --config /etc/shunt/lb.toml")]
    Check {
        /// The TOML service file
        #[arg(long, short, value_name = "FILE")]
        config: PathBuf,
    },
}

/// The levels of `--log-level`, as `[log]` has them.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum LogLevel {
    /// What stops or breaks the director
    Error,
    /// What works, but not as asked
    Warn,
    /// What happens at start and at the end
    Info,
    /// What helps to find a mistake in a configuration
    Debug,
    /// Everything
    Trace,
}

impl From<LogLevel> for Level {
    fn from(level: LogLevel) -> Level {
        match level {
            LogLevel::Error => Level::Error,
            LogLevel::Warn => Level::Warn,
            LogLevel::Info => Level::Info,
            LogLevel::Debug => Level::Debug,
            LogLevel::Trace => Level::Trace,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
