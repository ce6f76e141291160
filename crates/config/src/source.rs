//! The text of a service file, and where a byte of it stands for a human reader.

use std::ops::Range;

use crate::{
    error::{ConfigError, Place},
    fault::Fault,
};

/// A run of bytes of the text.
pub(crate) type Span = Range<usize>;

/// A service file's name and text.
pub(crate) struct Source<'a> {
    file: &'a str,
    pub(crate) text: &'a str,
    /// The byte at which each line begins.
    lines: Vec<usize>,
}

impl<'a> Source<'a> {
    pub(crate) fn new(file: &'a str, text: &'a str) -> Source<'a> {
        let newlines = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n');
        let lines = std::iter::once(0).chain(newlines.map(|(at, _)| at + 1)).collect();
        Source { file, text, lines }
    }

    /// `fault` at `span`.
    pub(crate) fn error(&self, span: Span, fault: Fault) -> ConfigError {
        let Fault { message, help } = fault;
        ConfigError {
            file: self.file.to_owned(),
            place: Some(self.place(span)),
            message: printable(&message),
            help: help.map(|help| printable(&help)),
        }
    }

    /// The number of the line on which `span` begins.
    pub(crate) fn line(&self, span: &Span) -> usize {
        let at = self.boundary(span.start);
        self.lines.partition_point(|start| *start <= at)
    }

    /// The text of the line on which `span` begins, and the byte at which that line starts.
    pub(crate) fn line_text(&self, span: &Span) -> (&'a str, usize) {
        let at = self.boundary(span.start);
        let start = self.lines[self.line(span) - 1];
        let end = self.text[at..].find('\n').map_or(self.text.len(), |length| at + length);
        // A line may end in CR LF, and a span may point at that LF: never cut before the span.
        let line = &self.text[start..end];
        (line.strip_suffix('\r').filter(|line| start + line.len() >= at).unwrap_or(line), start)
    }

    /// The end of the last line that holds anything.
    pub(crate) fn end(&self) -> Span {
        let end = self.text.trim_end().len();
        end..end
    }

    fn place(&self, span: Span) -> Place {
        let line = self.line(&span);
        let (text, start) = self.line_text(&span);
        let from = self.boundary(span.start) - start;
        let to = self.boundary(span.end).saturating_sub(start).clamp(from, text.len());
        let (before, culprit) = (&text[..from], &text[from..to]);

        // Tabs stay tabs, so that the carets stand under the culprit whatever the tab width.
        let indent: String = before.chars().map(|c| if c == '\t' { '\t' } else { ' ' }).collect();
        let carets = "^".repeat(culprit.chars().count().max(1));
        let gutter = line.to_string().len();
        let shown = printable(text);
        let snippet =
            format!("{:gutter$} |\n{line} | {shown}\n{:gutter$} | {indent}{carets}", "", "");
        Place { line, column: before.chars().count() + 1, snippet }
    }

    /// `at`, moved back to where a character begins and into the text.
    fn boundary(&self, at: usize) -> usize {
        self.text.floor_char_boundary(at)
    }
}

/// `text` with control characters (but for tabs) replaced, so that a hostile file cannot steer the
/// reader's terminal.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\t' { '\u{fffd}' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(text: &str, span: Span) -> Place {
        Source::new("f", text).place(span)
    }

    #[test]
    fn column_counts_characters_not_bytes() {
        let place = place("a = 1\nß = \"ü\"\n", 11..15);
        assert_eq!((place.line, place.column), (2, 5));
        assert_eq!(place.snippet, "  |\n2 | ß = \"ü\"\n  |     ^^^");
    }

    #[test]
    fn tabs_keep_the_caret_under_the_culprit() {
        assert_eq!(place("\tx = 1", 5..6).snippet, "  |\n1 | \tx = 1\n  | \t    ^");
    }

    #[test]
    fn crlf_is_no_part_of_the_line() {
        assert_eq!(place("x = 1\r\ny", 4..7).snippet, "  |\n1 | x = 1\n  |     ^");
        assert_eq!(place("x\r\n", 2..2).column, 3);
    }

    #[test]
    fn a_span_beyond_the_text_points_at_its_end() {
        let place = place("x", 9..12);
        assert_eq!((place.line, place.column), (1, 2));
    }

    #[test]
    fn the_end_is_the_last_line_that_holds_anything() {
        let source = Source::new("f", "x = 1\n\n\n");
        assert_eq!(source.end(), 5..5);
    }

    #[test]
    fn escape_sequences_are_not_shown() {
        assert!(!place("\u{1b}[31m", 0..1).snippet.contains('\u{1b}'));
    }
}
