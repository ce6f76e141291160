use std::{path::PathBuf, sync::LazyLock};

use clap::{Parser, Subcommand, ValueEnum};
use shunt_config::Level;
use shunt_dpdk::Eal;

/// A NAT load balancer on DPDK: LVS-NAT's director, in user space.
#[derive(Debug, Parser)]
#[command(version, long_version = LONG_VERSION.as_str(), propagate_version = true)]
#[command(arg_required_else_help = true, after_help = EXAMPLES)]
pub(crate) struct Cli {
    /// How much is logged; otherwise RUST_LOG says, or `[log]` in the service file
    #[arg(long, value_name = "LEVEL", global = true)]
    pub(crate) log_level: Option<LogLevel>,

    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What `--version` says: beside the version, the commit where it is known, and DPDK's version.
static LONG_VERSION: LazyLock<String> =
    LazyLock::new(|| long_version(option_env!("SHUNT_REVISION"), &Eal::version()));

/// `loaded` is the DPDK that the program runs with, which may be another than it was built against.
fn long_version(revision: Option<&str>, loaded: &str) -> String {
    let revision = revision.map(|revision| format!("{revision}, ")).unwrap_or_default();
    let built = format!("DPDK {}", Eal::BUILT_AGAINST);
    let dpdk = if loaded == built { built } else { format!("{loaded}, built against {built}") };
    format!("{} ({revision}{dpdk})", env!("CARGO_PKG_VERSION"))
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
        /// Print all services and addresses even if there are very many
        #[arg(long)]
        all: bool,
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
    fn the_long_version_says_what_is_known() {
        let (version, built) = (env!("CARGO_PKG_VERSION"), Eal::BUILT_AGAINST);
        let dpdk = format!("DPDK {built}");
        assert_eq!(
            long_version(Some("abc1234 2026-01-31"), &dpdk),
            format!("{version} (abc1234 2026-01-31, DPDK {built})")
        );
        assert_eq!(long_version(None, &dpdk), format!("{version} (DPDK {built})"));
        assert_eq!(
            long_version(None, "DPDK 99.11.0"),
            format!("{version} (DPDK 99.11.0, built against DPDK {built})")
        );
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
