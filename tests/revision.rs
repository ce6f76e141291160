//! The build script's view of git: which commit the program is built from, and when to look again.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

#[allow(dead_code, reason = "cargo calls its main function, not this test")]
#[path = "../build.rs"]
mod build;

use build::{revision, watched_files};

/// Runs git in a directory, with no configuration but this.
#[track_caller]
fn git(directory: &Path, arguments: &[&str]) -> String {
    let output = Command::new("git")
        .current_dir(directory)
        .args(["-c", "user.name=Shunt", "-c", "user.email=shunt@example.com"])
        .args(arguments)
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_CONFIG_SYSTEM", "/dev/null")
        .env("GIT_COMMITTER_DATE", "2026-01-31T12:00:00Z")
        .env_remove("GIT_DIR")
        .env_remove("GIT_INDEX_FILE")
        .env_remove("GIT_WORK_TREE")
        .output()
        .expect("these tests need git");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("UTF-8").trim_end().to_owned()
}

/// A repository with one commit, of a program and its documentation.
fn repository(parent: &Path) -> PathBuf {
    let checkout = parent.join("checkout");
    fs::create_dir_all(checkout.join("src")).expect("a directory");
    fs::write(checkout.join("src/main.rs"), "fn main() {}\n").expect("a file");
    fs::write(checkout.join("README.md"), "Read me.\n").expect("a file");
    git(parent, &["init", "--quiet", "checkout"]);
    git(&checkout, &["add", "."]);
    git(&checkout, &["commit", "--quiet", "--message", "First"]);
    checkout
}

fn commit(checkout: &Path) {
    git(checkout, &["commit", "--quiet", "--allow-empty", "--message", "Next"]);
}

fn head(checkout: &Path) -> String {
    git(checkout, &["rev-parse", "--short", "HEAD"])
}

/// What the watched files hold: cargo runs the build script again when one of them is written.
fn watched(checkout: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let read = |file: PathBuf| (file.clone(), fs::read(file).expect("a file that exists"));
    watched_files(checkout).into_iter().map(read).collect()
}

#[test]
fn no_revision_outside_a_checkout() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    assert_eq!(revision(directory.path()), None);
    assert_eq!(watched_files(directory.path()), Vec::<PathBuf>::new());
}

#[test]
fn no_revision_of_the_repository_around() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let unpacked = repository(directory.path()).join("src");
    assert_eq!(revision(&unpacked), None);
    assert_eq!(watched_files(&unpacked), Vec::<PathBuf>::new());
}

#[test]
fn no_revision_before_the_first_commit() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    git(directory.path(), &["init", "--quiet"]);
    assert_eq!(revision(directory.path()), None);
}

#[test]
fn dirty_when_the_sources_differ() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let checkout = repository(directory.path());
    let hash = head(&checkout);
    let clean = Some(format!("{hash} 2026-01-31"));
    let dirty = Some(format!("{hash}-dirty 2026-01-31"));
    assert_eq!(revision(&checkout), clean);

    fs::write(checkout.join("README.md"), "Something else.\n").expect("a file");
    assert_eq!(revision(&checkout), clean, "the program is built from other files");
    fs::write(checkout.join("src/main.rs"), "fn main() { }\n").expect("a file");
    assert_eq!(revision(&checkout), dirty);
    git(&checkout, &["add", "."]);
    assert_eq!(revision(&checkout), dirty, "staged is not committed");
    git(&checkout, &["reset", "--quiet", "--hard"]);
    assert_eq!(revision(&checkout), clean);
    fs::write(checkout.join("src/new.rs"), "\n").expect("a file");
    assert_eq!(revision(&checkout), dirty);
}

#[test]
fn watches_sources_that_exist() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let checkout = repository(directory.path());
    let files = watched(&checkout);
    assert!(files.contains_key(&checkout.join("src/main.rs")), "{files:?}");
    assert!(!files.contains_key(&checkout.join("README.md")), "{files:?}");
    fs::remove_file(checkout.join("src/main.rs")).expect("the file");
    assert!(!watched(&checkout).contains_key(&checkout.join("src/main.rs")));
}

/// However HEAD moves, a file that was watched before changes.
#[track_caller]
fn sees_head_move(checkout: &Path, what: &str, move_head: impl FnOnce()) {
    let (hash, before) = (head(checkout), watched(checkout));
    move_head();
    assert_ne!(head(checkout), hash, "{what} moves HEAD");
    let is_changed =
        |(file, content): (&PathBuf, &Vec<u8>)| fs::read(file).ok().as_ref() != Some(content);
    assert!(before.iter().any(is_changed), "{what} changes none of {:?}", before.keys());
}

#[test]
fn sees_commits_and_other_branches() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let checkout = &repository(directory.path());
    sees_head_move(checkout, "a commit", || commit(checkout));
    git(checkout, &["pack-refs", "--all"]);
    sees_head_move(checkout, "a commit on a packed branch", || commit(checkout));
    sees_head_move(checkout, "a checkout", || {
        git(checkout, &["checkout", "--quiet", "--detach", "HEAD~1"]);
    });
    sees_head_move(checkout, "a commit on no branch", || commit(checkout));
}

#[test]
fn sees_commits_in_a_linked_worktree() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let main = repository(directory.path());
    let checkout = &directory.path().join("linked");
    git(&main, &["worktree", "add", "--quiet", "-b", "linked", "../linked"]);
    assert_eq!(revision(checkout), Some(format!("{} 2026-01-31", head(checkout))));
    sees_head_move(checkout, "a commit", || commit(checkout));
    let before = watched(checkout);
    commit(&main);
    assert_eq!(watched(checkout), before, "another worktree's commits are of no interest");
}

#[test]
fn sees_commits_without_a_reflog() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let checkout = &repository(directory.path());
    git(checkout, &["config", "core.logAllRefUpdates", "false"]);
    fs::remove_dir_all(checkout.join(".git/logs")).expect("the reflog");
    sees_head_move(checkout, "a commit", || commit(checkout));
}
