//! `[[service]]` and `[[service.server]]`.

use std::net::{Ipv4Addr, SocketAddrV4};

use toml::Spanned;

use super::{
    ipv4,
    network::{Network, check_host},
    report::Report,
};
use crate::{
    Protocol, RealServer, Role, Scheduler, VirtualService,
    fault::Fault,
    raw::{self, Table, Tables},
};

/// Schedulers of IPVS that are not here; a file that comes from `ipvsadm` may name them.
const OTHER_SCHEDULERS: [&str; 12] =
    ["lc", "wlc", "lblc", "lblcr", "dh", "sh", "mh", "sed", "nq", "fo", "ovf", "twos"];

pub(super) fn validate(
    sections: &Tables<raw::Service>,
    network: Option<&Network>,
    report: &mut Report,
) -> Vec<VirtualService> {
    let vips: Vec<Option<Spanned<SocketAddrV4>>> =
        sections.iter().map(|section| vip(section, network, report)).collect();
    let own: Vec<Ipv4Addr> = vips.iter().flatten().map(|vip| *vip.get_ref().ip()).collect();
    let reach = Reach { network, vips: &own };

    let mut dialled = Vec::new();
    let mut services = Vec::new();
    for (section, vip) in sections.iter().zip(&vips) {
        let raw = &section.get_ref().0;
        let protocol = match &raw.protocol {
            Some(word) => protocol(word, report),
            None => Some(Protocol::Tcp),
        };
        let scheduler = report
            .required(&raw.scheduler, section, "scheduler", "scheduler = \"rr\"")
            .and_then(|word| scheduler(word, report));
        let vport = vip.as_ref().map(|vip| vip.get_ref().port());
        let servers = servers(&raw.server, vport, &reach, report);

        let Some(vip) = vip else { continue };
        dialled.extend(protocol.map(|p| Spanned::new(vip.span(), (p, *vip.get_ref()))));
        if let (Some(protocol), Some(scheduler)) = (protocol, scheduler) {
            services.push(VirtualService { protocol, vip: *vip.get_ref(), scheduler, servers });
        }
    }
    report.duplicates(&dialled, |(protocol, vip), line| {
        Fault::new(format!("a second {protocol} service on {vip}; the first is on line {line}"))
            .help("put the servers of both under one `[[service]]`, or write another `vip`")
    });
    services
}

fn vip(
    section: &Spanned<Table<raw::Service>>,
    network: Option<&Network>,
    report: &mut Report,
) -> Option<Spanned<SocketAddrV4>> {
    let vip = &section.get_ref().0.vip;
    let vip = report.required(vip, section, "vip", "vip = \"192.168.1.100:80\"")?;
    report.parse(vip, |text| {
        let (address, vport) = ipv4::endpoint(text)?;
        let vport = vport.ok_or_else(|| {
            Fault::new(format!("`{text}` has no port"))
                .help(format!("write the port that clients dial, as in `vip = \"{address}:80\"`"))
        })?;
        match network {
            Some(network) => network.check_virtual("vip", address)?,
            None => check_host("vip", address)?,
        }
        Ok(SocketAddrV4::new(address, vport))
    })
}

fn protocol(word: &Spanned<String>, report: &mut Report) -> Option<Protocol> {
    if ["sctp", "quic", "icmp", "dccp"].contains(&word.get_ref().as_str()) {
        let message = format!("protocol `{}` is not supported yet", word.get_ref());
        let help = match word.get_ref().as_str() {
            "quic" => "protocol is `tcp` or `udp`; QUIC is carried by `udp`",
            _ => "protocol is `tcp` or `udp`",
        };
        report.add(word.span(), Fault::new(message).help(help));
        return None;
    }
    report.keyword("protocol", word)
}

fn scheduler(word: &Spanned<String>, report: &mut Report) -> Option<Scheduler> {
    let name = word.get_ref().as_str();
    if OTHER_SCHEDULERS.contains(&name) {
        let fault = Fault::new(format!("scheduler `{name}` is not in this release"))
            .help("use `rr` (each server in turn) or `wrr` (in turn, as often as its weight says)");
        report.add(word.span(), fault);
        return None;
    }
    report.keyword("scheduler", word)
}

/// What servers are held against.
struct Reach<'a> {
    network: Option<&'a Network>,
    vips: &'a [Ipv4Addr],
}

/// The servers of one service; `vport` is `None` if the service's is wrong.
fn servers(
    sections: &Tables<raw::Server>,
    vport: Option<u16>,
    reach: &Reach,
    report: &mut Report,
) -> Vec<RealServer> {
    let mut addresses = Vec::new();
    let mut servers = Vec::new();
    for section in sections {
        let raw = &section.get_ref().0;
        let help = "write a whole number: 0 gets no new connections, 2 gets twice as many as 1";
        let weight = report.number("weight", &raw.weight, 0..=u16::MAX, 1, help);
        let address = report
            .required(&raw.address, section, "address", "address = \"192.168.2.210:80\"")
            .and_then(|address| report.parse(address, |text| reach.server(text)));
        let Some(address) = address else { continue };
        let (rip, rport) = *address.get_ref();
        let Some(rport) = rport.or(vport) else { continue };
        let endpoint = SocketAddrV4::new(rip, rport);
        addresses.push(Spanned::new(address.span(), endpoint));
        servers.push(RealServer { address: endpoint, weight });
    }
    report.duplicates(&addresses, |address, line| {
        Fault::new(format!("server {address} is in this service already, on line {line}"))
            .help("keep one of the two; give it more `weight` if it should get more connections")
    });
    servers
}

impl Reach<'_> {
    /// A server's address, with its port where the file has one.
    fn server(&self, text: &str) -> Result<(Ipv4Addr, Option<u16>), Fault> {
        let (rip, rport) = ipv4::endpoint(text)?;
        match self.network {
            Some(network) => self.check_reach(network, rip)?,
            None => check_host("address", rip)?,
        }
        Ok((rip, rport))
    }

    fn check_reach(&self, network: &Network, rip: Ipv4Addr) -> Result<(), Fault> {
        network.check_host("address", rip)?;
        if network.owner(rip).is_some() || self.vips.contains(&rip) {
            return Err(Fault::new(format!("server {rip} is an address of the director itself"))
                .help("write the address of a host behind the inside port"));
        }
        let inside = network.connected_to(Role::Inside).next();
        let help = match inside {
            Some(net) => format!(
                "write an address in {net}, or add a `[[route]]` to the server via a router in it"
            ),
            None => "add a `[[route]]` to the server via a router inside".to_owned(),
        };
        match network.egress(rip) {
            Some((_, Role::Inside)) => Ok(()),
            Some((net, Role::Outside)) => {
                let way = if net.prefix_len() == 0 {
                    "the default route".into()
                } else {
                    net.to_string()
                };
                Err(Fault::new(format!("server {rip} is reached through the outside port ({way})"))
                    .help(help))
            }
            None => Err(Fault::new(format!("no inside port reaches server {rip}")).help(help)),
        }
    }
}
