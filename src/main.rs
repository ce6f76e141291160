//! The `shunt` command: a NAT load balancer on DPDK.
#![forbid(unsafe_code)]

mod check;
mod cli;
mod log_writer;
mod logging;
mod output;
mod run;

use std::process::ExitCode;

use clap::Parser;
use shunt_config::Config;

use cli::{Cli, Command};

fn main() -> ExitCode {
    match execute(&Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            output::complain(error);
            ExitCode::FAILURE
        }
    }
}

fn execute(cli: &Cli) -> anyhow::Result<()> {
    match &cli.command {
        Command::Run { config } => run::run(config, cli.log_level),
        Command::Check { config, all } => check::check(config, &Config::load(config)?, *all),
    }
}
