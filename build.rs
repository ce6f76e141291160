//! Tells `shunt --version` which commit it is built from.
//!
//! Without git, or outside a checkout of Shunt (a source archive, perhaps unpacked in another
//! project's repository), the build goes on and the version leaves the commit out.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

/// What the program is built from, as git's pathspecs: changes elsewhere leave it as it is.
const SOURCES: &[&str] = &[
    "Cargo.lock",
    "Cargo.toml",
    "build.rs",
    "src",
    "crates",
    ":!crates/testkit",
    ":!crates/*/benches",
    ":!crates/*/fuzz",
    ":!crates/*/tests",
];

fn main() {
    let checkout = Path::new(env!("CARGO_MANIFEST_DIR"));
    println!("cargo::rerun-if-changed=build.rs");
    for file in watched_files(checkout) {
        println!("cargo::rerun-if-changed={}", file.display());
    }
    if let Some(revision) = revision(checkout) {
        println!("cargo::rustc-env=SHUNT_REVISION={revision}");
    }
}

/// The commit that is checked out and its date, such as `abc1234 2026-01-31`, or `abc1234-dirty …`
/// when the sources differ from it.
pub(crate) fn revision(checkout: &Path) -> Option<String> {
    if !is_top_level(checkout) {
        return None;
    }
    let commit =
        git(checkout, &["-c", "log.showSignature=false", "log", "-1", "--format=%h %cs"], &[])?;
    let (hash, date) = commit.split_once(' ')?;
    let changes = git(checkout, &["status", "--porcelain"], SOURCES)?;
    let dirty = if changes.is_empty() { "" } else { "-dirty" };
    Some(format!("{hash}{dirty} {date}"))
}

/// The files whose change can change the [`revision`]. All of them exist: cargo would run this
/// script in every build for one that doesn't.
pub(crate) fn watched_files(checkout: &Path) -> Vec<PathBuf> {
    if !is_top_level(checkout) {
        return Vec::new();
    }
    let git = |arguments: &[&str], paths: &[&str]| git(checkout, arguments, paths);
    // HEAD names a branch; which commit that is, a file of its own says, or `packed-refs`. The
    // reflog grows whenever HEAD moves, and is there unless it was switched off. In a linked
    // worktree some of them are its own and some the repository's: git knows.
    let branch = git(&["rev-parse", "--symbolic-full-name", "HEAD"], &[]).unwrap_or_default();
    let of_git = ["HEAD", "logs/HEAD", "packed-refs", &branch]
        .into_iter()
        .filter_map(|file| git(&["rev-parse", "--git-path", file], &[]));
    let sources = git(&["-c", "core.quotePath=false", "ls-files"], SOURCES).unwrap_or_default();
    of_git
        .chain(sources.lines().map(str::to_owned))
        .map(|file| checkout.join(file))
        .filter(|file| file.is_file())
        .collect()
}

/// Whether git takes the directory for the top of a checkout.
fn is_top_level(directory: &Path) -> bool {
    git(directory, &["rev-parse", "--show-prefix"], &[]).is_some_and(|prefix| prefix.is_empty())
}

/// What git prints; `None` when it fails, or isn't there.
fn git(directory: &Path, arguments: &[&str], paths: &[&str]) -> Option<String> {
    let mut command = Command::new("git");
    command.current_dir(directory).args(arguments);
    if !paths.is_empty() {
        command.arg("--").args(paths);
    }
    // A git hook that builds has these set, for a repository that needn't be this one.
    for variable in ["GIT_DIR", "GIT_INDEX_FILE", "GIT_WORK_TREE"] {
        command.env_remove(variable);
    }
    // `git status` would write down what it found out about the files.
    let output = command.env("GIT_OPTIONAL_LOCKS", "0").output().ok()?;
    output.status.success().then_some(())?;
    Some(String::from_utf8(output.stdout).ok()?.trim_end().to_owned())
}
