//! `[[snat]]`: its keys, and what they come to.

use ipnet::IpNet;
use serde::Deserialize;
use shunt_rules::{SnatPart, SnatRule};
use toml::Spanned;

use crate::{
    address,
    report::{Report, span},
    source::Span,
    value::{Strings, Table, Tables, Value, placeholder},
};

/// A section as the file has it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Raw {
    from: Value<String>,
    to: Value<Strings>,
    ports: Value<String>,
}

/// The rules, in the order of the file.
pub(crate) fn read(sections: &Tables<Raw>, report: &mut Report) -> Vec<SnatRule> {
    sections.iter().map(|section| rule(section, report)).collect()
}

fn rule(section: &Spanned<Table<Raw>>, report: &mut Report) -> SnatRule {
    let Raw { from, to, ports } = &section.get_ref().0;
    let from = report
        .required(from, section, "from", "from = \"192.168.2.0/24\"")
        .and_then(|from| report.parse(from, address::network));
    let to = report
        .required(to, section, "to", "to = \"192.168.1.100\"")
        .map(|to| report.each_or("to", to, address::address, placeholder));
    let ports = ports.as_ref().and_then(|ports| report.parse(ports, address::l4_ports));
    SnatRule {
        from: from.map_or_else(|| IpNet::from(placeholder(&section.span())), Spanned::into_inner),
        to: to.unwrap_or_default(),
        ports: ports.map_or(SnatRule::DEFAULT_PORTS, Spanned::into_inner),
    }
}

/// The place of a value of a rule.
pub(crate) fn locate(section: &Spanned<Table<Raw>>, part: SnatPart) -> Span {
    let Raw { from, to, ports } = &section.get_ref().0;
    let address = |index| to.as_ref().map(|to| Strings::place(to, index));
    let value = match part {
        SnatPart::From => span(from),
        SnatPart::Addresses => span(to),
        SnatPart::Address(index) => address(index),
        SnatPart::Ports(index) => span(ports).or_else(|| address(index)),
    };
    value.unwrap_or_else(|| section.span())
}
