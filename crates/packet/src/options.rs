//! IPv4 options (RFC 791, section 3.1).

use crate::Malformed;

/// Ends the list of options.
const END: u8 = 0;
/// Pads.
const NO_OPERATION: u8 = 1;
/// Loose source and record route.
const LOOSE_SOURCE_ROUTE: u8 = 131;
/// Strict source and record route.
const STRICT_SOURCE_ROUTE: u8 = 137;

/// In an option's kind: it goes into all fragments, not only the first.
const COPIED: u8 = 0x80;

/// One option of a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ipv4Option<'a>(&'a [u8]);

impl<'a> Ipv4Option<'a> {
    /// All of its bytes: the kind, and, unless it is one byte long, the length and the data.
    #[must_use]
    pub fn bytes(self) -> &'a [u8] {
        self.0
    }

    /// Whether its sender chose the packet's way.
    #[must_use]
    pub fn is_source_route(self) -> bool {
        matches!(self.0, [LOOSE_SOURCE_ROUTE | STRICT_SOURCE_ROUTE, ..])
    }

    /// Whether it goes into all fragments of its packet, not only the first.
    #[must_use]
    pub fn is_copied(self) -> bool {
        self.0.first().is_some_and(|kind| kind & COPIED != 0)
    }
}

/// The options of a header, one after the other. After [`Malformed::Ipv4Options`] there are none.
#[derive(Clone, Debug)]
pub struct Ipv4Options<'a>(&'a [u8]);

impl<'a> Ipv4Options<'a> {
    /// The options that these bytes hold.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Ipv4Options<'a> {
        Ipv4Options(bytes)
    }
}

impl<'a> Iterator for Ipv4Options<'a> {
    type Item = Result<Ipv4Option<'a>, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        let options = std::mem::take(&mut self.0);
        let len = match *options {
            [] | [END, ..] => return None,
            [NO_OPERATION, ..] => 1,
            // A length counts the kind and itself, too.
            [_, len, ..] if len >= 2 => usize::from(len),
            _ => return Some(Err(Malformed::Ipv4Options)),
        };
        let Some((option, rest)) = options.split_at_checked(len) else {
            return Some(Err(Malformed::Ipv4Options));
        };
        self.0 = rest;
        Some(Ok(Ipv4Option(option)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(bytes: &[u8]) -> Vec<Result<&[u8], Malformed>> {
        Ipv4Options::new(bytes).map(|option| option.map(Ipv4Option::bytes)).collect()
    }

    #[test]
    fn one_after_the_other() {
        assert_eq!(parsed(&[]), []);
        assert_eq!(parsed(&[1, 7, 3, 4, 0, 99]), [Ok(&[1][..]), Ok(&[7, 3, 4][..])]);
    }

    #[test]
    fn a_length_that_cannot_be_ends_the_list() {
        for malformed in [&[1, 7][..], &[1, 7, 0, 1], &[1, 7, 1, 1], &[1, 7, 4, 1]] {
            assert_eq!(parsed(malformed), [Ok(&[1][..]), Err(Malformed::Ipv4Options)]);
        }
    }

    #[test]
    fn kinds() {
        let option = |kind| Ipv4Option([&[kind][..], &[3, 4]].concat().leak());
        assert!([131, 137].into_iter().all(|kind| option(kind).is_source_route()));
        assert!(![7, 68, 130, 148].into_iter().any(|kind| option(kind).is_source_route()));
        assert!(option(131).is_copied() && !option(7).is_copied());
    }
}
