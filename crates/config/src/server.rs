//! `[[service.server]]` and `fallback`: their keys, and what they come to.

use serde::Deserialize;
use shunt_rules::{RealServer, ServerPart};
use toml::Spanned;

use crate::{
    address,
    report::{Report, span},
    source::Span,
    value::{Table, Tables, Value, placeholder},
};

/// A section as the file has it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Raw {
    address: Value<String>,
    weight: Value<i64>,
    upper: Value<i64>,
    lower: Value<i64>,
}

/// The servers of a service, in the order of the file; `vport` is its port if it has one only, which
/// is that of servers that don't say theirs.
pub(crate) fn read(
    sections: &Tables<Raw>,
    vport: Option<u16>,
    report: &mut Report,
) -> Vec<RealServer> {
    sections.iter().map(|section| server(section, vport, report)).collect()
}

fn server(section: &Spanned<Table<Raw>>, vport: Option<u16>, report: &mut Report) -> RealServer {
    let raw = &section.get_ref().0;
    let example = "address = \"192.168.2.210:80\"";
    let address = report
        .required(&raw.address, section, "address", example)
        .and_then(|address| report.parse(address, address::server_endpoint));
    let (address, rport) =
        address.map_or_else(|| (placeholder(&section.span()), None), Spanned::into_inner);
    let help = "write a whole number: 0 gets no new connections, 2 gets twice as many as 1";
    let weight = report.number("weight", &raw.weight, 0..=u16::MAX, 1, help);
    let help = "write a number of connections; 0 is no limit";
    let upper = report.number_or_none("upper", &raw.upper, 0..=u32::MAX, help);
    let lower = report.number_or_none("lower", &raw.lower, 0..=u32::MAX, help);
    // Where one is wrong, the other isn't held against it.
    let is_wrong =
        (raw.upper.is_some() && upper.is_none()) || (raw.lower.is_some() && lower.is_none());
    let (upper_threshold, lower_threshold) =
        if is_wrong { (0, 0) } else { (upper.unwrap_or(0), lower.unwrap_or(0)) };
    RealServer { address, port: rport.or(vport), weight, upper_threshold, lower_threshold }
}

/// The server that a service falls back on. Nobody shares its work, so its weight is 1.
pub(crate) fn read_fallback(
    value: &Value<String>,
    vport: Option<u16>,
    report: &mut Report,
) -> Option<RealServer> {
    let (address, rport) = report.parse(value.as_ref()?, address::server_endpoint)?.into_inner();
    Some(RealServer {
        address,
        port: rport.or(vport),
        weight: 1,
        upper_threshold: 0,
        lower_threshold: 0,
    })
}

/// The place of a value of a server.
pub(crate) fn locate(section: &Spanned<Table<Raw>>, part: ServerPart) -> Span {
    let raw = &section.get_ref().0;
    let value = match part {
        ServerPart::Address => span(&raw.address),
        ServerPart::UpperThreshold => span(&raw.upper),
        ServerPart::LowerThreshold => span(&raw.lower),
    };
    value.unwrap_or_else(|| section.span())
}
