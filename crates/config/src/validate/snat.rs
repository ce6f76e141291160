//! `[[snat]]`.

use std::{net::Ipv4Addr, ops::RangeInclusive};

use ipnet::Ipv4Net;
use toml::Spanned;

use super::{
    ipv4,
    network::{Network, check_host},
    report::Report,
};
use crate::{
    Role, Snat, VirtualService,
    fault::Fault,
    raw::{self, Tables},
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
            .and_then(|to| report.parse(to, |text| outside_address(text, network, services)));
        let ports = match &raw.ports {
            Some(ports) => report.parse(ports, ipv4::l4_ports).map(Spanned::into_inner),
            None => Some(Snat::DEFAULT_PORTS),
        };
        if let (Some(to), Some(ports)) = (&to, &ports)
            && let Err(fault) = check_ports(*to.get_ref(), ports, services)
        {
            report.add(raw.ports.as_ref().map_or_else(|| to.span(), Spanned::span), fault);
        }
        if let Some(from) = &from {
            check_overlap(from, &networks, report);
        }
        if let (Some(from), Some(to), Some(ports)) = (&from, to, ports) {
            rules.push(Snat { from: *from.get_ref(), to: to.into_inner(), ports });
        }
        networks.extend(from);
    }
    rules
}

fn source_network(text: &str, network: Option<&Network>) -> Result<Ipv4Net, Fault> {
    let from = ipv4::network(text)?;
    let Some(network) = network else { return Ok(from) };
    let outside =
        network.connected_to(Role::Outside).find(|net| net.contains(&from) || from.contains(net));
    match (outside, network.connected_to(Role::Inside).next()) {
        (Some(outside), Some(inside)) => Err(Fault::new(format!(
            "{from} overlaps the outside network {outside}"
        ))
        .help(format!("write the network of the hosts inside, as in `from = \"{inside}\"`"))),
        _ => Ok(from),
    }
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
    if network.owner(to) == Some(Role::Inside) {
        let message = format!("`to` is {to}, an address of the inside port; the outside sees it");
        return Err(Fault::new(message).help(help));
    }
    if services.iter().flat_map(|service| &service.servers).any(|server| *server.address.ip() == to)
    {
        return Err(Fault::new(format!("`to` is {to}, the address of a real server")).help(help));
    }
    Ok(to)
}

/// Refuses source ports among which a service on the same address has its own: a reply to the one
/// could not be told from a request to the other.
fn check_ports(
    to: Ipv4Addr,
    ports: &RangeInclusive<u16>,
    services: &[VirtualService],
) -> Result<(), Fault> {
    let taken = services
        .iter()
        .find(|service| *service.vip.ip() == to && ports.contains(&service.vip.port()));
    let Some(service) = taken else { return Ok(()) };
    let (first, last, vport) = (ports.start(), ports.end(), service.vip.port());
    // The longer of the two parts beside the service's port; with one port there is none.
    let (below, above) = (vport - first, last - vport);
    let help = match below.max(above) {
        0 => "write ports that no service has, as in `ports = \"32768-60999\"`".to_owned(),
        _ if below >= above => format!("write `ports = \"{first}-{}\"`", vport - 1),
        _ => format!("write `ports = \"{}-{last}\"`", vport + 1),
    };
    let message = format!(
        "source ports {first}-{last} include port {vport} of the service on {}",
        service.vip
    );
    Err(Fault::new(message).help(help))
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
