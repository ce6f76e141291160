//! Where validation writes down what it finds, and the checks that every section shares.

use std::{fmt::Display, ops::RangeInclusive};

use strum::VariantArray;
use toml::Spanned;

use crate::{
    ConfigError, Errors,
    fault::Fault,
    raw::{Strings, Table, Value},
    source::{Source, Span},
    suggest::nearest,
};

/// The mistakes found so far.
pub(super) struct Report<'a> {
    source: &'a Source<'a>,
    errors: Vec<ConfigError>,
}

impl<'a> Report<'a> {
    pub(super) fn new(source: &'a Source<'a>) -> Report<'a> {
        Report { source, errors: Vec::new() }
    }

    /// Everything found, if anything was.
    pub(super) fn into_errors(self) -> Option<Errors> {
        if self.errors.is_empty() { None } else { Some(Errors::sorted(self.errors)) }
    }

    pub(super) fn add(&mut self, span: Span, fault: Fault) {
        self.errors.push(self.source.error(span, fault));
    }

    /// The value of `result`, or its fault written down at `span`.
    pub(super) fn check<T>(&mut self, span: Span, result: Result<T, Fault>) -> Option<T> {
        result.map_err(|fault| self.add(span, fault)).ok()
    }

    /// What `parse` makes of `value`, with the same place.
    pub(super) fn parse<T>(
        &mut self,
        value: &Spanned<String>,
        parse: impl FnOnce(&str) -> Result<T, Fault>,
    ) -> Option<Spanned<T>> {
        let parsed = self.check(value.span(), parse(value.get_ref()))?;
        Some(Spanned::new(value.span(), parsed))
    }

    /// What `parse` makes of every string of `value`, written for `key`, if there is one and all
    /// are right.
    pub(super) fn each<T>(
        &mut self,
        key: &str,
        value: &Spanned<Strings>,
        parse: impl Fn(&str) -> Result<T, Fault>,
    ) -> Option<Vec<Spanned<T>>> {
        let texts = Strings::each(value);
        if texts.is_empty() {
            let fault = Fault::new(format!("`{key}` is an empty list")).help("write at least one");
            self.add(value.span(), fault);
            return None;
        }
        let parsed: Vec<_> = texts.iter().map(|text| self.parse(text, &parse)).collect();
        parsed.into_iter().collect()
    }

    /// The line on which `span` begins.
    pub(super) fn line(&self, span: &Span) -> usize {
        self.source.line(span)
    }

    /// The end of the file.
    pub(super) fn end(&self) -> Span {
        self.source.end()
    }

    /// The value that `key` must have in `table`; `example` is how one writes it.
    pub(super) fn required<'v, T, U>(
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
    pub(super) fn number<T>(
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
        let Some(value) = value else { return default };
        let number = *value.get_ref();
        match T::try_from(number) {
            Ok(number) if range.contains(&number) => number,
            _ => {
                let (least, most) = range.into_inner();
                let message = format!("`{key}` is {number}; it can be {least} to {most}");
                self.add(value.span(), Fault::new(message).help(help));
                default
            }
        }
    }

    /// One of the words of `T`.
    pub(super) fn keyword<T: VariantArray + Copy>(
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
    pub(super) fn keyword_or<T: VariantArray + Copy>(
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
    pub(super) fn duplicates<'i, T: PartialEq + 'i>(
        &mut self,
        items: impl IntoIterator<Item = &'i Spanned<T>>,
        fault: impl Fn(&T, usize) -> Fault,
    ) {
        let mut seen: Vec<&Spanned<T>> = Vec::new();
        for item in items {
            match seen.iter().find(|earlier| earlier.get_ref() == item.get_ref()) {
                Some(earlier) => {
                    self.add(item.span(), fault(item.get_ref(), self.line(&earlier.span())));
                }
                None => seen.push(item),
            }
        }
    }
}

/// `a`, `b` or `c`.
pub(super) fn either(words: &[&str]) -> String {
    match words {
        [all @ .., last] if !all.is_empty() => format!("`{}` or `{last}`", all.join("`, `")),
        _ => words.join(""),
    }
}
