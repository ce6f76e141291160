//! `[[route]]`.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use super::{ipv4, network::Network, report::Report};
use crate::{
    Route, Side,
    fault::Fault,
    raw::{self, Tables},
};

/// The routes, and the network completed by them, unless one of them is wrong.
pub(super) fn validate(
    sections: &Tables<raw::Route>,
    mut network: Option<Network>,
    report: &mut Report,
) -> (Vec<Route>, Option<Network>) {
    let mut destinations = Vec::new();
    let mut routes = Vec::new();
    let mut hops = Vec::new();
    for section in sections {
        let raw = &section.get_ref().0;
        let to = report
            .required(&raw.to, section, "to", "to = \"default\"")
            .and_then(|to| report.parse(to, |text| destination(text, network.as_ref())));
        let via = report
            .required(&raw.via, section, "via", "via = \"192.168.1.1\"")
            .and_then(|via| report.parse(via, |text| gateway(text, network.as_ref())));
        if let (Some(to), Some(via)) = (&to, &via) {
            let (via, role) = *via.get_ref();
            routes.push(Route { destination: *to.get_ref(), via });
            hops.extend(role.map(|role| (*to.get_ref(), via, role)));
        }
        destinations.extend(to);
    }
    report.duplicates(&destinations, |to, line| {
        Fault::new(format!("a second route to {to}; the first is on line {line}"))
            .help("keep one of the two; there is one gateway per destination")
    });
    if hops.len() < sections.len() {
        network = None;
    }
    if let Some(network) = &mut network {
        for (to, via, role) in hops {
            network.add_route(to, via, role);
        }
    }
    (routes, network)
}

fn destination(text: &str, network: Option<&Network>) -> Result<Ipv4Net, Fault> {
    if text == "default" {
        return Ok(Ipv4Net::default());
    }
    let to = ipv4::network(text)?;
    let connected = Side::BOTH.into_iter().find(|&role| {
        network.is_some_and(|network| network.connected_to(role).any(|net| net == to))
    });
    match connected {
        Some(role) => Err(Fault::new(format!("{to} is connected to the {role} port"))
            .help("leave this route out; connected networks need none")),
        None => Ok(to),
    }
}

/// The gateway, and the port through which it is reached if that can be told.
fn gateway(text: &str, network: Option<&Network>) -> Result<(Ipv4Addr, Option<Side>), Fault> {
    let via = ipv4::address(text)?;
    let Some(network) = network else { return Ok((via, None)) };
    network.check_host("via", via)?;
    if network.owner(via).is_some() {
        return Err(Fault::new(format!("`via` is {via}, an address of the director itself"))
            .help("write the address of the next router"));
    }
    match network.connected(via) {
        Some((_, role)) => Ok((via, Some(role))),
        None => Err(Fault::new(format!("gateway {via} is in no connected network")).help(
            "write a neighbour of one of the ports, or add its network to that port's `addresses`",
        )),
    }
}
