//! Shapes of values that serde has no type for.

use std::{
    fmt,
    net::{IpAddr, Ipv6Addr},
};

use serde::{
    Deserialize, Deserializer,
    de::{
        MapAccess, SeqAccess, Visitor,
        value::{MapAccessDeserializer, SeqAccessDeserializer},
    },
};
use toml::Spanned;

use crate::source::Span;

/// Stands for an address at `place` that could not be read. It equals no other address of the file, being
/// one that no host has, and causes no complaint about others.
pub(crate) fn placeholder(place: &Span) -> IpAddr {
    Ipv6Addr::from(place.start as u128).into()
}

/// A value and its place.
pub(crate) type Value<T> = Option<Spanned<T>>;
/// An array of tables, each with the place of its header.
pub(crate) type Tables<T> = Vec<Spanned<Table<T>>>;

/// A table and nothing else. A derived struct would take a list too, its values in the order of the
/// fields, and so read `[[dpdk]]` as something that nobody meant.
#[derive(Default)]
pub(crate) struct Table<T>(pub(crate) T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Table<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TableVisitor<T>(std::marker::PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for TableVisitor<T> {
            type Value = Table<T>;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a table")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(Table)
            }
        }

        deserializer.deserialize_map(TableVisitor(std::marker::PhantomData))
    }
}

/// One string, or a list of them.
pub(crate) enum Strings {
    One(String),
    List(Vec<Spanned<String>>),
}

impl Strings {
    /// Each string with its own place.
    pub(crate) fn each(value: &Spanned<Strings>) -> Vec<Spanned<String>> {
        match value.get_ref() {
            Strings::One(text) => vec![Spanned::new(value.span(), text.clone())],
            Strings::List(texts) => texts.clone(),
        }
    }

    /// The place of one of them; of all if there is no such.
    pub(crate) fn place(value: &Spanned<Strings>, index: usize) -> Span {
        match value.get_ref() {
            Strings::List(texts) => texts.get(index).map_or_else(|| value.span(), Spanned::span),
            Strings::One(_) => value.span(),
        }
    }
}

impl<'de> Deserialize<'de> for Strings {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct StringsVisitor;

        impl<'de> Visitor<'de> for StringsVisitor {
            type Value = Strings;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a string or a list of strings")
            }

            fn visit_str<E>(self, text: &str) -> Result<Strings, E> {
                Ok(Strings::One(text.to_owned()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, texts: A) -> Result<Strings, A::Error> {
                Vec::deserialize(SeqAccessDeserializer::new(texts)).map(Strings::List)
            }
        }

        deserializer.deserialize_any(StringsVisitor)
    }
}

/// What a number and a string can both say (a duration, a netmask), and `true` sometimes as well.
pub(crate) enum Scalar {
    Boolean(bool),
    Number(i64),
    Text(String),
}

/// As the file writes it.
impl fmt::Display for Scalar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Scalar::Boolean(value) => write!(f, "{value}"),
            Scalar::Number(number) => write!(f, "{number}"),
            Scalar::Text(text) => write!(f, "\"{text}\""),
        }
    }
}

impl<'de> Deserialize<'de> for Scalar {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ScalarVisitor;

        impl Visitor<'_> for ScalarVisitor {
            type Value = Scalar;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a whole number or a string")
            }

            fn visit_bool<E>(self, value: bool) -> Result<Scalar, E> {
                Ok(Scalar::Boolean(value))
            }

            fn visit_i64<E>(self, number: i64) -> Result<Scalar, E> {
                Ok(Scalar::Number(number))
            }

            fn visit_str<E>(self, text: &str) -> Result<Scalar, E> {
                Ok(Scalar::Text(text.to_owned()))
            }
        }

        deserializer.deserialize_any(ScalarVisitor)
    }
}
