//! `cargo xtask`: what the scripts need beyond a few lines of shell.
#![forbid(unsafe_code)]

mod executable;

use clap::{Parser, Subcommand};

use executable::Target;

/// What the scripts need beyond a few lines of shell
#[derive(Debug, Parser)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Build a binary, an integration test or a benchmark, and print where it is: a script that runs
    /// as root can then run what another user built
    Executable(Target),
}

fn main() -> anyhow::Result<()> {
    match Cli::parse().command {
        Command::Executable(target) => println!("{}", executable::build(&target)?),
    }
    Ok(())
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
