//! `cargo xtask executable`, as the scripts call it.

use std::process::{Command, Output};

fn xtask(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_xtask")).args(arguments).output().expect("xtask starts")
}

fn text(bytes: &[u8]) -> &str {
    str::from_utf8(bytes).expect("UTF-8")
}

#[test]
fn prints_the_one_that_was_asked_for() {
    // Its binary is built for this test, too, and is not what is printed.
    for kind in ["--bin", "--test"] {
        let name = if kind == "--bin" { "xtask" } else { "executable" };
        let output = xtask(&["executable", "--package", "xtask", kind, name]);
        assert!(output.status.success(), "{}", text(&output.stderr));
        let path = text(&output.stdout).strip_suffix('\n').expect("a line");
        let file = path.rsplit('/').next().expect("a path");
        assert!(file == name || file.starts_with(&format!("{name}-")), "{path}");
        let help = Command::new(path).arg("--help").output().expect("an executable");
        assert!(help.status.success(), "{}", text(&help.stderr));
    }
}

#[test]
fn says_why_there_is_none() {
    let output = xtask(&["executable", "--package", "xtask", "--test", "nonexistent"]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(text(&output.stdout), "");
    let complaint = text(&output.stderr);
    assert!(complaint.contains("no test target named `nonexistent`"), "{complaint}");
    assert!(complaint.contains("cargo could not build nonexistent"), "{complaint}");
}

#[test]
fn wants_one_target() {
    for arguments in [&[][..], &["--bin", "xtask", "--test", "executable"]] {
        let output = xtask(&[&["executable", "--package", "xtask"], arguments].concat());
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {}", text(&output.stdout));
    }
}
