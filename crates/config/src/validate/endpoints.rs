//! `vip` and `protocol`: what clients dial, and which service they mean.

use toml::Spanned;

use super::{
    ipv4,
    network::{Network, check_host},
    report::Report,
};
use crate::{
    Protocol, VirtualEndpoint,
    fault::Fault,
    raw::{self, Table},
};

/// The endpoints of one service, unless one is wrong.
pub(super) fn endpoints(
    section: &Spanned<Table<raw::Service>>,
    network: Option<&Network>,
    report: &mut Report,
) -> Option<Vec<Spanned<VirtualEndpoint>>> {
    let vip = &section.get_ref().0.vip;
    let vip = report.required(vip, section, "vip", "vip = \"192.168.1.100:80\"")?;
    let endpoints = report.each("vip", vip, |text| {
        let endpoint = ipv4::virtual_endpoint(text)?;
        match network {
            Some(network) => network.check_virtual("vip", endpoint.address)?,
            None => check_host("vip", endpoint.address)?,
        }
        Ok(endpoint)
    })?;
    for (index, endpoint) in endpoints.iter().enumerate() {
        let own = endpoint.get_ref();
        let mut earlier = endpoints[..index].iter().map(Spanned::get_ref);
        if let Some(other) = earlier.find(|other| other.overlaps(own)) {
            let message = if own == other {
                format!("{own} is in this service already")
            } else {
                format!("{own} overlaps {other} of this service")
            };
            report.add(endpoint.span(), Fault::new(message).help("write each port once"));
        }
    }
    Some(endpoints)
}

/// The protocols of one service, unless one is wrong.
pub(super) fn protocols(raw: &raw::Service, report: &mut Report) -> Option<Vec<Protocol>> {
    let Some(value) = &raw.protocol else { return Some(vec![Protocol::Tcp]) };
    let words = report.each("protocol", value, |word| Ok(word.to_owned()))?;
    let protocols: Vec<_> = words.iter().map(|word| protocol(word, report)).collect();
    let protocols: Vec<_> = protocols.into_iter().collect::<Option<_>>()?;
    report.duplicates(&protocols, |protocol, _| {
        Fault::new(format!("protocol `{protocol}` is written twice"))
            .help("write `protocol = [\"tcp\", \"udp\"]` for both, or one of them")
    });
    Some(protocols.into_iter().map(Spanned::into_inner).collect())
}

fn protocol(word: &Spanned<String>, report: &mut Report) -> Option<Spanned<Protocol>> {
    if ["sctp", "quic", "icmp", "dccp"].contains(&word.get_ref().as_str()) {
        let message = format!("protocol `{}` is not supported yet", word.get_ref());
        let help = match word.get_ref().as_str() {
            "quic" => "protocol is `tcp` or `udp`; QUIC is carried by `udp`",
            _ => "protocol is `tcp` or `udp`",
        };
        report.add(word.span(), Fault::new(message).help(help));
        return None;
    }
    Some(Spanned::new(word.span(), report.keyword("protocol", word)?))
}

/// What one service is dialled by: its endpoints, and the protocols of all of them.
pub(super) struct Dialled {
    pub(super) protocols: Vec<Protocol>,
    pub(super) endpoints: Vec<Spanned<VirtualEndpoint>>,
}

/// Refuses endpoints of different services that share ports, unless one encloses the other: then
/// the narrower wins.
pub(super) fn check_overlap(services: &[Dialled], report: &mut Report) {
    for (index, later) in services.iter().enumerate() {
        for endpoint in &later.endpoints {
            if let Some(fault) = clash(endpoint.get_ref(), later, &services[..index], report) {
                report.add(endpoint.span(), fault);
            }
        }
    }
}

/// Why `own`, of service `later`, cannot stand beside one of the `earlier` services.
fn clash(
    own: &VirtualEndpoint,
    later: &Dialled,
    earlier: &[Dialled],
    report: &Report,
) -> Option<Fault> {
    earlier.iter().find_map(|service| {
        let protocol = later.protocols.iter().find(|own| service.protocols.contains(own))?;
        let other = service.endpoints.iter().find(|other| {
            let other = other.get_ref();
            own.overlaps(other) && !own.encloses(other) && !other.encloses(own)
        })?;
        let line = report.line(&other.span());
        let other = other.get_ref();
        Some(if own == other {
            Fault::new(format!("a second {protocol} service on {own}; the first is on line {line}"))
                .help("put the servers of both under one `[[service]]`, or write another `vip`")
        } else {
            Fault::new(format!("{own} overlaps {other} of the {protocol} service on line {line}"))
                .help(
                    "write ports that are apart, or one range within the other: the narrower wins",
                )
        })
    })
}
