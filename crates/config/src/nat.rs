//! `[nat]` and `[[nat.local-address]]`: their keys, what they can be, and what they come to.

use std::ops::RangeInclusive;

use serde::Deserialize;
use shunt_rules::{Defaults, LocalAddress, LocalAddressPart};
use toml::Spanned;

use crate::{
    address,
    report::{Report, span},
    source::Span,
    value::{Table, Tables, Value, placeholder},
};

/// The section as the file has it.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Raw {
    connections: Value<i64>,
    on_unknown: Value<String>,
    late_packets: Value<String>,
    source_routes: Value<String>,
    reset_on_expiry: Value<bool>,
    #[serde(default)]
    pub(crate) local_address: Tables<RawLocalAddress>,
}

/// A local address as the file has it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawLocalAddress {
    address: Value<String>,
    ports: Value<String>,
}

/// What the NAT engine is made with, and keeps for as long as it runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Nat {
    /// Key `connections`, by default 1,048,576: how many connections all workers together track at
    /// once, 1024 to 2²⁸. The table never grows.
    pub connections: u32,
}

impl Default for Nat {
    fn default() -> Nat {
        Nat { connections: 1 << 20 }
    }
}

/// A record takes a cache line: 2²⁸ are 16 GiB.
const CONNECTIONS: RangeInclusive<u32> = 1024..=1 << 28;

/// What the section says of the engine itself.
pub(crate) fn read(raw: &Raw, report: &mut Report) -> Nat {
    let default = Nat::default().connections;
    let help =
        "write how many connections all workers together track, as in `connections = 1048576`";
    Nat { connections: report.number("connections", &raw.connections, CONNECTIONS, default, help) }
}

/// What the section says of packets and connections, with timeouts that it doesn't know.
pub(crate) fn read_defaults(raw: &Raw, report: &mut Report) -> Defaults {
    let default = Defaults::default();
    Defaults {
        on_unknown: report.keyword_or("on-unknown", &raw.on_unknown, default.on_unknown),
        late_packets: report.keyword_or("late-packets", &raw.late_packets, default.late_packets),
        source_routes: report.keyword_or(
            "source-routes",
            &raw.source_routes,
            default.source_routes,
        ),
        reset_on_expiry: match &raw.reset_on_expiry {
            Some(value) => *value.get_ref(),
            None => default.reset_on_expiry,
        },
        timeouts: default.timeouts,
    }
}

/// The local addresses, in the order of the file.
pub(crate) fn read_local_addresses(raw: &Raw, report: &mut Report) -> Vec<LocalAddress> {
    let mut read = |section: &Spanned<Table<RawLocalAddress>>| {
        let RawLocalAddress { address, ports } = &section.get_ref().0;
        let address = report
            .required(address, section, "address", "address = \"192.168.2.201\"")
            .and_then(|address| report.parse(address, address::address));
        let ports = ports.as_ref().and_then(|ports| report.parse(ports, address::l4_ports));
        LocalAddress {
            address: address.map_or_else(|| placeholder(&section.span()), Spanned::into_inner),
            ports: ports.map_or(LocalAddress::DEFAULT_PORTS, Spanned::into_inner),
        }
    };
    raw.local_address.iter().map(&mut read).collect()
}

/// The place of a value of a local address.
pub(crate) fn locate(section: &Spanned<Table<RawLocalAddress>>, part: LocalAddressPart) -> Span {
    let RawLocalAddress { address, ports } = &section.get_ref().0;
    let address = || span(address);
    let value = match part {
        LocalAddressPart::Address => address(),
        LocalAddressPart::Ports => span(ports).or_else(address),
    };
    value.unwrap_or_else(|| section.span())
}

/// Refuses what a director whose engine was made with `old` can't take.
pub(crate) fn check_fixed(raw: &Raw, old: &Nat, new: &Nat, report: &mut Report) {
    let Nat { connections } = old;
    let is_same = *connections == new.connections;
    report.fixed(is_same, "`connections`", span(&raw.connections), &report.end());
}
