//! Builds an executable, and finds it.

use std::{
    env,
    io::{BufReader, Read},
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context, bail, ensure};
use cargo_metadata::{Message, TargetKind, camino::Utf8PathBuf};
use clap::Args;

/// What to build.
#[derive(Debug, Args)]
pub(crate) struct Target {
    /// The package that it belongs to
    #[arg(long, short)]
    package: String,
    #[command(flatten)]
    kind: Kind,
    /// Build with optimizations (benchmarks always are)
    #[arg(long, short)]
    release: bool,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct Kind {
    /// A binary
    #[arg(long, value_name = "NAME")]
    bin: Option<String>,
    /// An integration test
    #[arg(long, value_name = "NAME")]
    test: Option<String>,
    /// A benchmark
    #[arg(long, value_name = "NAME")]
    bench: Option<String>,
}

impl Target {
    /// Cargo's subcommand for it, with options; its kind, and its name.
    fn requested(&self) -> anyhow::Result<(&'static [&'static str], TargetKind, &str)> {
        Ok(match &self.kind {
            Kind { bin: Some(name), .. } => (&["build", "--bin"], TargetKind::Bin, name),
            Kind { test: Some(name), .. } => {
                (&["test", "--no-run", "--test"], TargetKind::Test, name)
            }
            Kind { bench: Some(name), .. } => {
                (&["bench", "--no-run", "--bench"], TargetKind::Bench, name)
            }
            Kind { .. } => bail!("neither a binary nor a test nor a benchmark is named"),
        })
    }
}

/// Builds the target and returns the path of its executable. What cargo and the compiler say goes
/// to standard error.
pub(crate) fn build(target: &Target) -> anyhow::Result<Utf8PathBuf> {
    let (subcommand, kind, name) = target.requested()?;
    let mut command = Command::new(env::var_os("CARGO").unwrap_or("cargo".into()));
    command.args(subcommand).args([name, "--package", &target.package]);
    if target.release && kind != TargetKind::Bench {
        command.arg("--release");
    }
    command.args(["--message-format", "json-render-diagnostics"]);
    command.current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(".."));
    let mut cargo = command.stdout(Stdio::piped()).spawn().context("cargo does not run")?;
    let messages = cargo.stdout.take().context("cargo has no output")?;
    let found = executables(messages, &kind, name);
    ensure!(cargo.wait()?.success(), "cargo could not build {name}");
    match found?.as_slice() {
        [executable] => Ok(executable.clone()),
        all => bail!("cargo built {} executables named {name}: {all:?}", all.len()),
    }
}

/// The executables that cargo reports of a target. With an integration test or a benchmark it builds
/// the binaries of the package, too.
fn executables(
    messages: impl Read,
    kind: &TargetKind,
    name: &str,
) -> anyhow::Result<Vec<Utf8PathBuf>> {
    let mut found = Vec::new();
    for message in Message::parse_stream(BufReader::new(messages)) {
        if let Message::CompilerArtifact(artifact) = message.context("cargo's messages")?
            && artifact.target.name == name
            && artifact.target.kind.contains(kind)
        {
            found.extend(artifact.executable);
        }
    }
    Ok(found)
}
