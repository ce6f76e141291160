//! `[[service.server]]` and `fallback`.

use std::net::Ipv4Addr;

use toml::Spanned;

use super::{
    ipv4,
    network::{Network, check_host},
    report::Report,
};
use crate::{
    FallbackServer, RealServer, Side, VirtualService,
    fault::Fault,
    raw::{self, Tables, Value},
};

/// RIP, and rport unless it is the vport.
type Address = (Ipv4Addr, Option<u16>);

/// The addresses of all servers, those of `fallback` included.
pub(super) fn server_addresses(services: &[VirtualService]) -> impl Iterator<Item = Ipv4Addr> {
    services.iter().flat_map(|service| {
        let servers = service.servers.iter().map(|server| server.ip);
        servers.chain(service.fallback.map(|server| server.ip))
    })
}

/// The servers of one service and the one it falls back on; `vport` is its port if it has one only.
pub(super) fn validate(
    raw: &raw::Service,
    vport: Option<u16>,
    reach: &Reach,
    report: &mut Report,
) -> (Vec<RealServer>, Option<FallbackServer>) {
    let (servers, addresses) = servers(&raw.server, vport, reach, report);
    let fallback = fallback(&raw.fallback, vport, &addresses, reach, report);
    (servers, fallback)
}

fn servers(
    sections: &Tables<raw::Server>,
    vport: Option<u16>,
    reach: &Reach,
    report: &mut Report,
) -> (Vec<RealServer>, Vec<Spanned<Address>>) {
    let mut addresses = Vec::new();
    let mut servers = Vec::new();
    for section in sections {
        let raw = &section.get_ref().0;
        let help = "write a whole number: 0 gets no new connections, 2 gets twice as many as 1";
        let weight = report.number("weight", &raw.weight, 0..=u16::MAX, 1, help);
        let (upper_threshold, lower_threshold) = thresholds(raw, report);
        let address = report
            .required(&raw.address, section, "address", "address = \"192.168.2.210:80\"")
            .and_then(|address| report.parse(address, |text| reach.server("address", text)));
        let Some(address) = address else { continue };
        let (ip, rport) = *address.get_ref();
        let port = rport.or(vport);
        addresses.push(Spanned::new(address.span(), (ip, port)));
        servers.push(RealServer { ip, port, weight, upper_threshold, lower_threshold });
    }
    report.duplicates(&addresses, |&address, line| {
        let server = written(address);
        Fault::new(format!("server {server} is in this service already, on line {line}"))
            .help("keep one of the two; give it more `weight` if it should get more connections")
    });
    (servers, addresses)
}

/// `upper` and `lower`.
fn thresholds(raw: &raw::Server, report: &mut Report) -> (u32, u32) {
    let help = "write a number of connections; 0 is no limit";
    let upper = report.number("upper", &raw.upper, 0..=u32::MAX, 0, help);
    let lower = report.number("lower", &raw.lower, 0..=u32::MAX, 0, help);
    if let Some(written) = &raw.lower
        && lower > upper
    {
        let fault = if upper == 0 {
            Fault::new(format!("`lower` is {lower} without an `upper`"))
                .help("write both, as in `upper = 1000, lower = 800`, or neither")
        } else {
            Fault::new(format!("`lower` is {lower}, above `upper`, which is {upper}"))
                .help(format!("write `lower = {upper}` or less"))
        };
        report.add(written.span(), fault);
    }
    (upper, lower)
}

fn fallback(
    value: &Value<String>,
    vport: Option<u16>,
    servers: &[Spanned<Address>],
    reach: &Reach,
    report: &mut Report,
) -> Option<FallbackServer> {
    let value = value.as_ref()?;
    let (ip, rport) = report.parse(value, |text| reach.server("fallback", text))?.into_inner();
    let port = rport.or(vport);
    if let Some(server) = servers.iter().find(|server| *server.get_ref() == (ip, port)) {
        let (address, line) = (written((ip, port)), report.line(&server.span()));
        let fault =
            Fault::new(format!("fallback {address} is a server of this service, on line {line}"))
                .help("write a host that is no server here; one that says sorry, say");
        report.add(value.span(), fault);
    }
    Some(FallbackServer { ip, port })
}

/// An address as the file writes it.
fn written((ip, port): Address) -> String {
    FallbackServer { ip, port }.to_string()
}

/// What servers are held against.
pub(super) struct Reach<'a> {
    pub(super) network: Option<&'a Network>,
    pub(super) vips: &'a [Ipv4Addr],
}

impl Reach<'_> {
    /// A server's address, written for `key`, with its port where the file has one.
    fn server(&self, key: &str, text: &str) -> Result<Address, Fault> {
        let (rip, rport) = ipv4::server_endpoint(text)?;
        match self.network {
            Some(network) => self.check_reach(network, key, rip)?,
            None => check_host(key, rip)?,
        }
        Ok((rip, rport))
    }

    fn check_reach(&self, network: &Network, key: &str, rip: Ipv4Addr) -> Result<(), Fault> {
        network.check_host(key, rip)?;
        if network.owner(rip).is_some() || self.vips.contains(&rip) {
            return Err(Fault::new(format!("server {rip} is an address of the director itself"))
                .help("write the address of a host behind the inside port"));
        }
        let inside = network.connected_to(Side::Inside).next();
        let help = match inside {
            Some(net) => format!(
                "write an address in {net}, or add a `[[route]]` to the server via a router in it"
            ),
            None => "add a `[[route]]` to the server via a router inside".to_owned(),
        };
        match network.egress(rip) {
            Some((_, Side::Inside)) => Ok(()),
            Some((net, Side::Outside)) => {
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
