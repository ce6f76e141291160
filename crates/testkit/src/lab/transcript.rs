//! What an experiment does and what comes back, as a user reads it.

use std::sync::atomic::{AtomicBool, Ordering};

static COLORS: AtomicBool = AtomicBool::new(false);

/// Prints colors from now on, or none: none is the default.
pub fn use_colors(wanted: bool) {
    COLORS.store(wanted, Ordering::Relaxed);
}

/// A style of the terminal's.
#[derive(Clone, Copy, Debug)]
pub enum Style {
    /// Titles.
    Bold,
    /// What is done.
    Dim,
    /// What went wrong.
    Red,
    /// What went well.
    Green,
}

/// The text in that style, if colors are in use.
#[must_use]
pub fn styled(style: Style, text: &str) -> String {
    if !COLORS.load(Ordering::Relaxed) {
        return text.to_owned();
    }
    let code = match style {
        Style::Bold => 1,
        Style::Dim => 2,
        Style::Red => 31,
        Style::Green => 32,
    };
    format!("\x1b[{code}m{text}\x1b[0m")
}

/// Prints what is done.
pub fn note(text: &str) {
    println!("{}", styled(Style::Dim, &format!("    {text}")));
}

/// Prints what came back, line by line.
pub fn quote(text: &str) {
    for line in text.lines() {
        println!("      {line}");
    }
}

/// A command as one would type it.
#[must_use]
pub(super) fn as_typed(command: &[&str]) -> String {
    let word = |word: &&str| match word.contains(char::is_whitespace) {
        true => format!("'{word}'"),
        false => (*word).to_owned(),
    };
    command.iter().map(word).collect::<Vec<_>>().join(" ")
}
