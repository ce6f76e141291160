//! Where validation writes down what it finds, and the checks that every section shares.

use std::{collections::HashMap, fmt::Display, hash::Hash, ops::RangeInclusive};

use shunt_rules::{Location, Problem};
use strum::VariantArray;
use toml::Spanned;

use crate::{
    ConfigError, Errors,
    fault::Fault,
    source::{Source, Span},
    suggest::nearest,
    value::{Strings, Table, Value},
};

/// The mistakes found so far.
pub(crate) struct Report<'a> {
    source: &'a Source<'a>,
    errors: Vec<ConfigError>,
    /// Where they are.
    spans: Vec<Span>,
}

impl<'a> Report<'a> {
    pub(crate) fn new(source: &'a Source<'a>) -> Report<'a> {
        Report { source, errors: Vec::new(), spans: Vec::new() }
    }

    /// Everything found, if anything was.
    pub(crate) fn into_errors(self) -> Option<Errors> {
        if self.errors.is_empty() { None } else { Some(Errors::sorted(self.errors)) }
    }

    pub(crate) fn add(&mut self, span: Span, fault: Fault) {
        self.errors.push(self.source.error(span.clone(), fault));
        self.spans.push(span);
    }

    /// Adds what is wrong with the rules that were made of the file; `locate` finds values in it.
    ///
    /// In the rules, a placeholder stands for each value that could not be read. Problems of
    /// placeholders, or with them, are left out: the value's own mistake is in the report already.
    pub(crate) fn add_problems(
        &mut self,
        problems: Vec<Problem>,
        locate: impl Fn(&Location) -> Span,
    ) {
        let mut unread = std::mem::take(&mut self.spans);
        unread.sort_unstable_by_key(|span| (span.start, span.end));
        let is_unread = |value: &Span| {
            let from = unread.partition_point(|span| span.start < value.start);
            let within = unread[from..].iter().take_while(|span| span.start <= value.end);
            within.into_iter().any(|span| span.end <= value.end)
        };
        for Problem { location, related, reason } in problems {
            let (span, related) = (locate(&location), related.as_ref().map(&locate));
            if is_unread(&span) || related.as_ref().is_some_and(is_unread) {
                continue;
            }
            let mut fault = Fault::from(reason);
            let line = related.map(|related| self.line(&related));
            if let Some(line) = line.filter(|line| *line != self.line(&span)) {
                fault.message += &format!(" (see line {line})");
            }
            self.add(span, fault);
        }
    }

    /// Refuses a value that a running director can't change; where it is left out, its section is shown.
    pub(crate) fn fixed(&mut self, is_same: bool, what: &str, value: Option<Span>, section: &Span) {
        if !is_same {
            let fault = Fault::new(format!("the {what} of a running director can't change"))
                .help("restart the director to change it, or put back what it was started with");
            self.add(value.unwrap_or(section.clone()), fault);
        }
    }

    /// The value of `result`, or its fault written down at `span`.
    pub(crate) fn check<T>(&mut self, span: Span, result: Result<T, Fault>) -> Option<T> {
        result.map_err(|fault| self.add(span, fault)).ok()
    }

    /// What `parse` makes of `value`, with the same place.
    pub(crate) fn parse<T>(
        &mut self,
        value: &Spanned<String>,
        parse: impl FnOnce(&str) -> Result<T, Fault>,
    ) -> Option<Spanned<T>> {
        let parsed = self.check(value.span(), parse(value.get_ref()))?;
        Some(Spanned::new(value.span(), parsed))
    }

    /// What `parse` makes of every string of `value`, written for `key`, with a `placeholder` for each
    /// wrong one. An empty list is a mistake, too.
    pub(crate) fn each_or<T>(
        &mut self,
        key: &str,
        value: &Spanned<Strings>,
        parse: impl Fn(&str) -> Result<T, Fault>,
        placeholder: impl Fn(&Span) -> T,
    ) -> Vec<T> {
        let texts = Strings::each(value);
        if texts.is_empty() {
            let fault = Fault::new(format!("`{key}` is an empty list")).help("write at least one");
            self.add(value.span(), fault);
        }
        let mut read = |text: &Spanned<String>| match parse(text.get_ref()) {
            Ok(value) => value,
            Err(fault) => {
                self.add(text.span(), fault);
                placeholder(&text.span())
            }
        };
        texts.iter().map(&mut read).collect()
    }

    /// The line on which `span` begins.
    pub(crate) fn line(&self, span: &Span) -> usize {
        self.source.line(span)
    }

    /// The end of the file.
    pub(crate) fn end(&self) -> Span {
        self.source.end()
    }

    /// The value that `key` must have in `table`; `example` is how one writes it.
    pub(crate) fn required<'v, T, U>(
        &mut self,
        value: &'v Value<T>,
        table: &Spanned<Table<U>>,
        key: &str,
        example: &str,
    ) -> Option<&'v Spanned<T>> {
        if value.is_none() {
            let fault = Fault::new(format!("`{key}` is missing here"))
                .help(format!("add a line, as in `{example}`"));
            self.add(table.span(), fault);
        }
        value.as_ref()
    }

    /// A number within `range`, or `default` where there is none or a wrong one.
    pub(crate) fn number<T>(
        &mut self,
        key: &str,
        value: &Value<i64>,
        range: RangeInclusive<T>,
        default: T,
        help: &str,
    ) -> T
    where
        T: TryFrom<i64> + PartialOrd + Display,
    {
        self.number_or_none(key, value, range, help).unwrap_or(default)
    }

    /// A number within `range`, where there is one and it is right.
    pub(crate) fn number_or_none<T>(
        &mut self,
        key: &str,
        value: &Value<i64>,
        range: RangeInclusive<T>,
        help: &str,
    ) -> Option<T>
    where
        T: TryFrom<i64> + PartialOrd + Display,
    {
        let value = value.as_ref()?;
        let number = *value.get_ref();
        let right = T::try_from(number).ok().filter(|number| range.contains(number));
        if right.is_none() {
            let (least, most) = range.into_inner();
            let message = format!("`{key}` is {number}; it can be {least} to {most}");
            self.add(value.span(), Fault::new(message).help(help));
        }
        right
    }

    /// One of the words of `T`.
    pub(crate) fn keyword<T: VariantArray + Copy>(
        &mut self,
        key: &str,
        value: &Spanned<String>,
    ) -> Option<T>
    where
        &'static str: From<T>,
    {
        let word = value.get_ref().as_str();
        let words: Vec<&str> = T::VARIANTS.iter().map(|&variant| variant.into()).collect();
        if let Some(index) = words.iter().position(|known| *known == word) {
            return Some(T::VARIANTS[index]);
        }
        let help = match nearest(word, words.iter().copied()) {
            Some(near) => format!("did you mean `{key} = \"{near}\"`?"),
            None if words.len() > 4 => {
                format!("write one of them, as in `{key} = \"{}\"`", words[0])
            }
            None => format!("write `{key} = \"{}\"`", words.join("\"` or `\"")),
        };
        let message = format!("`{key}` is \"{word}\"; it can be {}", either(&words));
        self.add(value.span(), Fault::new(message).help(help));
        None
    }

    /// One of the words of `T`, or `default` where there is none or a wrong one.
    pub(crate) fn keyword_or<T: VariantArray + Copy>(
        &mut self,
        key: &str,
        value: &Value<String>,
        default: T,
    ) -> T
    where
        &'static str: From<T>,
    {
        value.as_ref().and_then(|value| self.keyword(key, value)).unwrap_or(default)
    }

    /// Writes down every one of `items` that equals an earlier one; `fault` makes the words, given
    /// the item and the line of the earlier one.
    pub(crate) fn duplicates<'i, T: Eq + Hash + 'i>(
        &mut self,
        items: impl IntoIterator<Item = &'i Spanned<T>>,
        fault: impl Fn(&T, usize) -> Fault,
    ) {
        let mut seen: HashMap<&T, Span> = HashMap::new();
        for item in items {
            match seen.get(item.get_ref()) {
                Some(earlier) => self.add(item.span(), fault(item.get_ref(), self.line(earlier))),
                None => _ = seen.insert(item.get_ref(), item.span()),
            }
        }
    }
}

/// The place of a value, if there is one.
pub(crate) fn span<T>(value: &Value<T>) -> Option<Span> {
    value.as_ref().map(Spanned::span)
}

/// `a`, `b` or `c`.
pub(crate) fn either(words: &[&str]) -> String {
    match words {
        [all @ .., last] if !all.is_empty() => format!("`{}` or `{last}`", all.join("`, `")),
        _ => words.join(""),
    }
}
