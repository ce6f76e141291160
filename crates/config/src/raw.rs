//! The service file as serde reads it: every key that there is, each value with its place.
//!
//! Nothing is required and nothing is defaulted here: what is missing has no place of its own, and
//! validation knows better what to say about it.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor, value::MapAccessDeserializer},
};
use toml::Spanned;

use crate::{error::ConfigError, source::Source, toml_error};

/// A value and its place.
pub(crate) type Value<T> = Option<Spanned<T>>;
/// An array of tables, each with the place of its header.
pub(crate) type Tables<T> = Vec<Spanned<Table<T>>>;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct File {
    #[serde(default)]
    pub(crate) dpdk: Table<Dpdk>,
    #[serde(default)]
    pub(crate) port: Tables<Port>,
    #[serde(default)]
    pub(crate) route: Tables<Route>,
    #[serde(default)]
    pub(crate) service: Tables<Service>,
    #[serde(default)]
    pub(crate) snat: Tables<Snat>,
    #[serde(default)]
    pub(crate) log: Table<Log>,
}

impl File {
    pub(crate) fn parse(source: &Source) -> Result<File, ConfigError> {
        toml::from_str(source.text).map_err(|error| toml_error::explain(&error, source))
    }
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Dpdk {
    pub(crate) main_lcore: Value<i64>,
    pub(crate) worker_lcores: Value<Vec<Spanned<i64>>>,
    pub(crate) memory: Value<String>,
    pub(crate) hugepage_dir: Value<String>,
    pub(crate) no_huge: Value<bool>,
    pub(crate) mbufs: Value<i64>,
    pub(crate) eal_args: Value<Vec<Spanned<String>>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Port {
    pub(crate) name: Value<String>,
    pub(crate) role: Value<String>,
    pub(crate) device: Value<String>,
    pub(crate) addresses: Value<Vec<Spanned<String>>>,
    pub(crate) mtu: Value<i64>,
    pub(crate) queues: Value<i64>,
    pub(crate) rx_descriptors: Value<i64>,
    pub(crate) tx_descriptors: Value<i64>,
    pub(crate) checksum: Value<String>,
    pub(crate) vlan: Value<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Route {
    pub(crate) to: Value<String>,
    pub(crate) via: Value<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Service {
    pub(crate) protocol: Value<String>,
    pub(crate) vip: Value<String>,
    pub(crate) scheduler: Value<String>,
    #[serde(default)]
    pub(crate) server: Tables<Server>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Server {
    pub(crate) address: Value<String>,
    pub(crate) weight: Value<i64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Snat {
    pub(crate) from: Value<String>,
    pub(crate) to: Value<String>,
    pub(crate) ports: Value<String>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Log {
    pub(crate) level: Value<String>,
}

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
