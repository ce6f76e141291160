//! `[[route]]`: its keys, what they can be, and what they come to.

use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net};
use serde::Deserialize;
use shunt_rules::{Network, Reason, Route, Side};

use crate::{
    address,
    fault::Fault,
    report::Report,
    value::{Tables, Value},
};

/// A section as the file has it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Raw {
    pub(crate) to: Value<String>,
    pub(crate) via: Value<String>,
}

/// The routes, and the network completed by them, unless one of them is wrong.
pub(crate) fn read(
    sections: &Tables<Raw>,
    mut network: Option<Network>,
    report: &mut Report,
) -> (Vec<Route>, Option<Network>) {
    let mut destinations = Vec::new();
    let mut routes = Vec::new();
    for section in sections {
        let raw = &section.get_ref().0;
        let to = report
            .required(&raw.to, section, "to", "to = \"default\"")
            .and_then(|to| report.parse(to, |text| destination(text, network.as_ref())));
        let via = report
            .required(&raw.via, section, "via", "via = \"192.168.1.1\"")
            .and_then(|via| report.parse(via, |text| gateway(text, network.as_ref())));
        if let (Some(to), Some(via)) = (&to, &via) {
            routes.push(Route { destination: *to.get_ref(), via: *via.get_ref() });
        }
        destinations.extend(to);
    }
    report.duplicates(&destinations, |to, line| {
        Fault::new(format!("a second route to {to}; the first is on line {line}"))
            .help("keep one of the two; there is one gateway per destination")
    });
    let network = network
        .take()
        .filter(|_| routes.len() == sections.len())
        .map(|network| Network { routes: routes.clone(), ..network });
    (routes, network)
}

fn destination(text: &str, network: Option<&Network>) -> Result<IpNet, Fault> {
    if text == "default" {
        return Ok(Ipv4Net::default().into());
    }
    let to = address::network(text)?;
    if to.addr().is_ipv6() {
        return Err(Reason::Ipv6Network(to).into());
    }
    let connected = Side::BOTH.into_iter().find(|&side| {
        network.is_some_and(|network| network.connected_to(side).any(|net| net == to))
    });
    match connected {
        Some(side) => Err(Fault::new(format!("{to} is connected to the {side} port"))
            .help("leave this route out; connected networks need none")),
        None => Ok(to),
    }
}

/// The gateway: a neighbour of one of the ports.
fn gateway(text: &str, network: Option<&Network>) -> Result<IpAddr, Fault> {
    let via = address::ipv4_address(text)?.into();
    let Some(network) = network else { return Ok(via) };
    network.check_host(via)?;
    if network.owner(via).is_some() {
        return Err(Fault::new(format!("`via` is {via}, an address of the director itself"))
            .help("write the address of the next router"));
    }
    if network.connected(via).is_none() {
        return Err(Fault::new(format!("gateway {via} is in no connected network")).help(
            "write a neighbour of one of the ports, or add its network to that port's `addresses`",
        ));
    }
    Ok(via)
}
