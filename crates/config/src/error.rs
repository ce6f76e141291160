//! What a reader of a refused file sees.

use std::{fmt, io};

use crate::{fault::Fault, source::Source};

/// One mistake in a service file.
///
/// Displays as the mistake, the line with the culprit underlined, and what to write instead:
/// ```text
/// shunt.toml:14:10: `weight` is 70000; it can be 0 to 65535
///    |
/// 14 | weight = 70000
///    |          ^^^^^
///    = help: write a whole number: 0 gets no new connections, 2 gets twice as many as 1
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// The file as the caller named it.
    pub file: String,
    /// Where in the file; `None` when the file could not be read at all.
    pub location: Option<SourceLocation>,
    /// What is wrong.
    pub message: String,
    /// What to write or do instead.
    pub help: Option<String>,
}

/// Where in a service file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceLocation {
    /// Line, counted from 1.
    pub line: usize,
    /// Column in characters, counted from 1.
    pub column: usize,
    /// The line with its number, the culprit underlined: three lines without a newline at the end.
    pub snippet: String,
}

impl ConfigError {
    pub(crate) fn unreadable(file: &str, error: &io::Error) -> ConfigError {
        let help = match error.kind() {
            io::ErrorKind::NotFound => "name an existing file with `--config FILE`",
            io::ErrorKind::PermissionDenied => "run as a user that may read it: `sudo shunt …`",
            _ => "name a service file with `--config FILE`",
        };
        ConfigError {
            file: file.to_owned(),
            location: None,
            message: format!("cannot be read: {error}"),
            help: Some(help.to_owned()),
        }
    }

    pub(crate) fn not_utf8(file: &str, bytes: &[u8], valid_up_to: usize) -> ConfigError {
        let fault = Fault::new("the file is not UTF-8 text")
            .help(format!("convert it: `iconv -f latin1 -t utf-8 {file}`"));
        // Lossy text agrees with the bytes up to the first bad one, which becomes U+FFFD.
        let text = String::from_utf8_lossy(bytes);
        Source::new(file, &text).error(valid_up_to..valid_up_to + 1, fault)
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ConfigError { file, location, message, help } = self;
        // `= help` stands under the gutter, which is as wide as the line number.
        let mut gutter = 2;
        match location {
            Some(SourceLocation { line, column, snippet }) => {
                gutter = line.to_string().len();
                write!(f, "{file}:{line}:{column}: {message}\n{snippet}")?;
            }
            None => write!(f, "{file}: {message}")?,
        }
        match help {
            Some(help) => write!(f, "\n{:gutter$} = help: {help}", ""),
            None => Ok(()),
        }
    }
}

impl std::error::Error for ConfigError {}

/// Every mistake found in a service file, at least one, in the order of the file.
///
/// Displays them one after the other, a blank line between; of very many, the first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Errors(Vec<ConfigError>);

impl Errors {
    /// So many are displayed.
    const DISPLAYED: usize = 50;

    /// `errors` in the order of the file.
    pub(crate) fn sorted(mut errors: Vec<ConfigError>) -> Errors {
        errors.sort_by_key(|error| error.location.as_ref().map(|at| (at.line, at.column)));
        Errors(errors)
    }

    /// The mistakes, in the order of the file.
    pub fn iter(&self) -> std::slice::Iter<'_, ConfigError> {
        self.0.iter()
    }
}

impl<'a> IntoIterator for &'a Errors {
    type Item = &'a ConfigError;
    type IntoIter = std::slice::Iter<'a, ConfigError>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl From<ConfigError> for Errors {
    fn from(error: ConfigError) -> Errors {
        Errors(vec![error])
    }
}

impl fmt::Display for Errors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.iter().take(Self::DISPLAYED).enumerate() {
            if index > 0 {
                f.write_str("\n\n")?;
            }
            error.fmt(f)?;
        }
        match self.0.len().saturating_sub(Self::DISPLAYED) {
            0 => Ok(()),
            more => write!(f, "\n\nand {more} more mistakes"),
        }
    }
}

impl std::error::Error for Errors {}
