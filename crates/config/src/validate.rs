//! From what the file says to what it means.
//!
//! Every section has its own module. They run in the order in which they need one another: the
//! ports give the [`Network`](network::Network), which the routes complete; services are checked against it, local
//! addresses and SNAT rules against both. A section that is wrong never hides the mistakes of another, and causes none there:
//! where ports or routes are wrong there is no network, and nothing is said about what it would
//! reach.

mod dpdk;
mod durations;
mod endpoints;
mod fixed;
mod ipv4;
mod nat;
mod network;
mod ports;
mod report;
mod routes;
mod schedulers;
mod servers;
mod services;
mod snat;
mod source_ports;

use crate::{Config, Errors, Log, Timeouts, raw, source::Source};
use report::Report;
use services::Context;

/// `file`, read from `source`, with defaults filled in.
pub(crate) fn validate(file: &raw::File, source: &Source) -> Result<Config, Errors> {
    let mut report = Report::new(source);
    let workers = dpdk::workers(&file.dpdk.0);
    let ports = ports::validate(&file.port, workers, &mut report);
    let (routes, network) = routes::validate(&file.route, ports.network, &mut report);
    let network = network.as_ref();
    let timeouts = durations::timeouts(&file.timeouts.0, Timeouts::default(), &mut report);
    let has_local_address = !file.nat.0.local_address.is_empty();
    let context = Context { network, timeouts, has_local_address };
    let services = services::validate(&file.service, &context, &mut report);
    let nat = nat::validate(&file.nat.0, network, &services, &mut report);
    let snat = snat::validate(&file.snat, network, &services, &mut report);
    let dpdk = dpdk::validate(&file.dpdk.0, ports.ports.as_ref(), &mut report);
    let log = log(&file.log.0, &mut report);

    match (ports.ports, report.into_errors()) {
        (Some(ports), None) => {
            Ok(Config { dpdk, ports, routes, nat, timeouts, services, snat, log })
        }
        (_, Some(errors)) => Err(errors),
        (None, None) => unreachable!("ports are missing and nobody said why"),
    }
}

/// Refuses what a director that runs `old` can't take over from `file`, which means `new`.
pub(crate) fn check_fixed(
    file: &raw::File,
    source: &Source,
    old: &Config,
    new: &Config,
) -> Result<(), Errors> {
    let mut report = Report::new(source);
    fixed::check(file, old, new, &mut report);
    report.into_errors().map_or(Ok(()), Err)
}

fn log(raw: &raw::Log, report: &mut Report) -> Log {
    let default = Log::default();
    Log { level: report.keyword_or("level", &raw.level, default.level) }
}
