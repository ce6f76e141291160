//! The text of a service file, and where a byte of it stands for a human reader.

use std::ops::Range;

use crate::{
    error::{ConfigError, SourceLocation},
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
            location: Some(self.location(span)),
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

    fn location(&self, span: Span) -> SourceLocation {
        let line = self.line(&span);
        let (text, start) = self.line_text(&span);
        let from = self.boundary(span.start) - start;
        let to = self.boundary(span.end).saturating_sub(start).clamp(from, text.len());
        let column = text[..from].chars().count() + 1;
        let window = window(text, &(from..to));
        let (before, culprit) = (&text[window.start..from], &text[from..to.min(window.end)]);

        // Tabs stay tabs, so that the carets stand under the culprit whatever the tab width.
        let indent: String = before.chars().map(|c| if c == '\t' { '\t' } else { ' ' }).collect();
        let carets = "^".repeat(culprit.chars().count().max(1));
        let gutter = line.to_string().len();
        let shown = printable(&text[window.clone()]);
        let (left, right) = (window.start > 0, window.end < text.len());
        let (left, right) = (if left { "… " } else { "" }, if right { " …" } else { "" });
        let left_indent = " ".repeat(left.chars().count());
        let snippet = format!(
            "{:gutter$} |\n{line} | {left}{shown}{right}\n{:gutter$} | {left_indent}{indent}{carets}",
            "", ""
        );
        SourceLocation { line, column, snippet }
    }

    /// `at`, moved back to where a character begins and into the text.
    fn boundary(&self, at: usize) -> usize {
        self.text.floor_char_boundary(at)
    }
}

/// Bytes of a line that are shown whole, and how many on either side of a culprit in a longer one.
const LINE: usize = 400;
const AROUND: usize = 100;

/// The part of a line to show: all of it, or what is around the culprit, without cutting a character.
fn window(line: &str, culprit: &Span) -> Span {
    if line.len() <= LINE {
        return 0..line.len();
    }
    let start = line.ceil_char_boundary(culprit.start.saturating_sub(AROUND));
    let end = line.floor_char_boundary((culprit.end.min(culprit.start + AROUND)) + AROUND);
    start.min(culprit.start)..end.max(culprit.start)
}

/// `text` with control characters (but for tabs) replaced, so that a hostile file cannot steer the
/// reader's terminal.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\t' { '\u{fffd}' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(text: &str, span: Span) -> SourceLocation {
        Source::new("f", text).location(span)
    }

    #[test]
    fn of_a_long_line_the_part_around_the_culprit_is_shown() {
        let line = format!("{}x{}", "ß".repeat(5000), "ü".repeat(5000));
        let SourceLocation { column, snippet, .. } = place(&line, 10_000..10_001);
        assert_eq!(column, 5001);
        let shown: Vec<&str> = snippet.lines().collect();
        assert_eq!(shown[1], format!("1 | … {}x{} …", "ß".repeat(50), "ü".repeat(50)));
        assert_eq!(
            shown[2].chars().position(|c| c == '^'),
            shown[1].chars().position(|c| c == 'x')
        );
        let whole = place(&line, 0..line.len()).snippet;
        assert!(whole.len() < 2000 && whole.contains("^^^"), "{whole}");
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
