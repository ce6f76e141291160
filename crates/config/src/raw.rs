//! The service file as serde reads it: every key that there is, each value with its place.
//!
//! Nothing is required and nothing is defaulted here: what is missing has no place of its own, and
//! validation knows better what to say about it.

mod value;

use serde::Deserialize;
use toml::Spanned;

pub(crate) use value::{Scalar, Strings, Table};

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
    pub(crate) nat: Table<Nat>,
    #[serde(default)]
    pub(crate) timeouts: Table<Timeouts>,
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
    pub(crate) idle: Value<String>,
    pub(crate) memory: Value<String>,
    pub(crate) hugepage_dir: Value<String>,
    pub(crate) no_huge: Value<bool>,
    pub(crate) mbufs: Value<i64>,
    pub(crate) mbuf_size: Value<i64>,
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
    pub(crate) queues: Value<Scalar>,
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

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Nat {
    pub(crate) connections: Value<i64>,
    pub(crate) on_unknown: Value<String>,
    pub(crate) reset_on_expiry: Value<bool>,
    #[serde(default)]
    pub(crate) local_address: Tables<LocalAddress>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct LocalAddress {
    pub(crate) address: Value<String>,
    pub(crate) ports: Value<String>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Timeouts {
    pub(crate) established: Value<Scalar>,
    pub(crate) syn_sent: Value<Scalar>,
    pub(crate) syn_recv: Value<Scalar>,
    pub(crate) fin_wait: Value<Scalar>,
    pub(crate) time_wait: Value<Scalar>,
    pub(crate) close: Value<Scalar>,
    pub(crate) close_wait: Value<Scalar>,
    pub(crate) last_ack: Value<Scalar>,
    pub(crate) udp: Value<Scalar>,
    pub(crate) udp_one_way: Value<Scalar>,
    pub(crate) icmp: Value<Scalar>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Service {
    pub(crate) protocol: Value<Strings>,
    pub(crate) vip: Value<Strings>,
    pub(crate) scheduler: Value<String>,
    pub(crate) scheduler_flags: Value<Vec<Spanned<String>>>,
    pub(crate) mode: Value<String>,
    #[serde(default)]
    pub(crate) server: Tables<Server>,
    pub(crate) fallback: Value<String>,
    pub(crate) persistence: Value<Scalar>,
    pub(crate) persistence_mask: Value<Scalar>,
    pub(crate) one_packet: Value<bool>,
    pub(crate) drain_timeout: Value<Scalar>,
    pub(crate) mss_clamp: Value<i64>,
    pub(crate) on_unknown: Value<String>,
    pub(crate) reset_on_expiry: Value<bool>,
    pub(crate) timeouts: Option<Table<Timeouts>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Server {
    pub(crate) address: Value<String>,
    pub(crate) weight: Value<i64>,
    pub(crate) upper: Value<i64>,
    pub(crate) lower: Value<i64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Snat {
    pub(crate) from: Value<String>,
    pub(crate) to: Value<Strings>,
    pub(crate) ports: Value<String>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Log {
    pub(crate) level: Value<String>,
}
