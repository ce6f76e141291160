//! `[nat]` and `[[nat.local-address]]`.

use std::{net::Ipv4Addr, ops::RangeInclusive};

use toml::Spanned;

use super::{
    ipv4,
    network::{Network, check_host},
    report::Report,
    servers::server_addresses,
    source_ports,
};
use crate::{
    LocalAddress, Nat, VirtualEndpoint, VirtualService,
    fault::Fault,
    raw::{self, Tables},
};

/// A record takes a cache line: 2²⁸ are 16 GiB.
const CONNECTIONS: RangeInclusive<u32> = 1024..=1 << 28;

pub(super) fn validate(
    raw: &raw::Nat,
    network: Option<&Network>,
    services: &[VirtualService],
    report: &mut Report,
) -> Nat {
    let default = Nat::default();
    let help =
        "write how many connections all workers together track, as in `connections = 1048576`";
    Nat {
        connections: report.number(
            "connections",
            &raw.connections,
            CONNECTIONS,
            default.connections,
            help,
        ),
        on_unknown: report.keyword_or("on-unknown", &raw.on_unknown, default.on_unknown),
        reset_on_expiry: match &raw.reset_on_expiry {
            Some(value) => *value.get_ref(),
            None => default.reset_on_expiry,
        },
        local_addresses: local_addresses(&raw.local_address, network, services, report),
    }
}

fn local_addresses(
    sections: &Tables<raw::LocalAddress>,
    network: Option<&Network>,
    services: &[VirtualService],
    report: &mut Report,
) -> Vec<LocalAddress> {
    let mut seen: Vec<Spanned<VirtualEndpoint>> = Vec::new();
    for section in sections {
        let raw = &section.get_ref().0;
        let address = report
            .required(&raw.address, section, "address", "address = \"192.168.2.201\"")
            .and_then(|address| report.parse(address, |text| local(text, network, services)));
        let ports = match &raw.ports {
            Some(ports) => report.parse(ports, ipv4::l4_ports).map(Spanned::into_inner),
            None => Some(LocalAddress::DEFAULT_PORTS),
        };
        let (Some(address), Some(ports)) = (address, ports) else { continue };
        let place = raw.ports.as_ref().map_or_else(|| address.span(), Spanned::span);
        let address = address.into_inner();
        report.check(place.clone(), source_ports::check(address, &ports, services));
        let local = VirtualEndpoint { address, ports };
        if let Some(other) = seen.iter().find(|other| other.get_ref().overlaps(&local)) {
            let line = report.line(&other.span());
            let message = format!("{local} overlaps {} on line {line}", other.get_ref());
            let fault = Fault::new(message).help("write each address once, or other `ports`");
            report.add(place.clone(), fault);
        }
        seen.push(Spanned::new(place, local));
    }
    seen.into_iter()
        .map(Spanned::into_inner)
        .map(|VirtualEndpoint { address, ports }| LocalAddress { address, ports })
        .collect()
}

fn local(
    text: &str,
    network: Option<&Network>,
    services: &[VirtualService],
) -> Result<Ipv4Addr, Fault> {
    let address = ipv4::address(text)?;
    match network {
        Some(network) => network.check_local("address", address)?,
        None => check_host("address", address)?,
    }
    if server_addresses(services).any(|server| server == address) {
        return Err(Fault::new(format!("`address` is {address}, the address of a real server"))
            .help("write an address that no other host has"));
    }
    Ok(address)
}
