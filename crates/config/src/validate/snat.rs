//! `[[snat]]`.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use toml::Spanned;

use super::{
    ipv4,
    network::{Network, check_host},
    report::Report,
    servers::server_addresses,
    source_ports,
};
use crate::{
    Side, Snat, VirtualService,
    fault::Fault,
    raw::{self, Strings, Tables},
};

pub(super) fn validate(
    sections: &Tables<raw::Snat>,
    network: Option<&Network>,
    services: &[VirtualService],
    report: &mut Report,
) -> Vec<Snat> {
    let mut networks: Vec<Spanned<Ipv4Net>> = Vec::new();
    let mut rules = Vec::new();
    for section in sections {
        let raw = &section.get_ref().0;
        let from = report
            .required(&raw.from, section, "from", "from = \"192.168.2.0/24\"")
            .and_then(|from| report.parse(from, |text| source_network(text, network)));
        let to = report
            .required(&raw.to, section, "to", "to = \"192.168.1.100\"")
            .and_then(|to| outside_addresses(to, network, services, report));
        let ports = match &raw.ports {
            Some(ports) => report.parse(ports, ipv4::l4_ports).map(Spanned::into_inner),
            None => Some(Snat::DEFAULT_PORTS),
        };
        if let (Some(to), Some(ports)) = (&to, &ports) {
            for address in to {
                let place = raw.ports.as_ref().map_or_else(|| address.span(), Spanned::span);
                report.check(place, source_ports::check(*address.get_ref(), ports, services));
            }
        }
        if let Some(from) = &from {
            check_overlap(from, &networks, report);
        }
        if let (Some(from), Some(to), Some(ports)) = (&from, to, ports) {
            let to = to.into_iter().map(Spanned::into_inner).collect();
            rules.push(Snat { from: *from.get_ref(), to, ports });
        }
        networks.extend(from);
    }
    rules
}

fn source_network(text: &str, network: Option<&Network>) -> Result<Ipv4Net, Fault> {
    let from = ipv4::network(text)?;
    let Some(network) = network else { return Ok(from) };
    let outside =
        network.connected_to(Side::Outside).find(|net| net.contains(&from) || from.contains(net));
    match (outside, network.connected_to(Side::Inside).next()) {
        (Some(outside), Some(inside)) => Err(Fault::new(format!(
            "{from} overlaps the outside network {outside}"
        ))
        .help(format!("write the network of the hosts inside, as in `from = \"{inside}\"`"))),
        _ => Ok(from),
    }
}

/// The addresses of one rule, unless one is wrong.
fn outside_addresses(
    to: &Spanned<Strings>,
    network: Option<&Network>,
    services: &[VirtualService],
    report: &mut Report,
) -> Option<Vec<Spanned<Ipv4Addr>>> {
    let addresses = report.each("to", to, |text| outside_address(text, network, services))?;
    report.duplicates(&addresses, |address, _| {
        Fault::new(format!("{address} is in this rule already")).help("write each address once")
    });
    Some(addresses)
}

fn outside_address(
    text: &str,
    network: Option<&Network>,
    services: &[VirtualService],
) -> Result<Ipv4Addr, Fault> {
    let to = ipv4::address(text)?;
    let Some(network) = network else {
        return check_host("to", to).map(|()| to);
    };
    network.check_virtual("to", to)?;
    let help = "write an address of the outside port, or a free one that is routed to it";
    if network.owner(to) == Some(Side::Inside) {
        let message = format!("`to` is {to}, an address of the inside port; the outside sees it");
        return Err(Fault::new(message).help(help));
    }
    if server_addresses(services).any(|server| server == to) {
        return Err(Fault::new(format!("`to` is {to}, the address of a real server")).help(help));
    }
    Ok(to)
}

fn check_overlap(from: &Spanned<Ipv4Net>, earlier: &[Spanned<Ipv4Net>], report: &mut Report) {
    let net = *from.get_ref();
    let overlapping = earlier.iter().find(|other| {
        let other = other.get_ref();
        other.contains(&net) || net.contains(other)
    });
    if let Some(other) = overlapping {
        let line = report.line(&other.span());
        let message = format!("{net} overlaps {} of the rule on line {line}", other.get_ref());
        report.add(from.span(), Fault::new(message).help("keep one rule per inside network"));
    }
}
