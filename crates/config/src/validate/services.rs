//! `[[service]]`.

use std::net::Ipv4Addr;

use toml::Spanned;

use super::{
    durations,
    endpoints::{self, Dialled},
    ipv4,
    network::Network,
    report::Report,
    schedulers,
    servers::{self, Reach},
};
use crate::{
    ForwardingMode, Persistence, Protocol, Scheduler, Timeouts, VirtualEndpoint, VirtualService,
    fault::Fault,
    raw::{self, Scalar, Table, Tables},
};

/// Bytes of [`VirtualService::mss_clamp`]: 536 is what every host must take (RFC 9293 §3.7.1), 9176
/// fills a port's largest MTU.
const MSS: std::ops::RangeInclusive<u16> = 536..=9176;

/// The rest of the file, as far as a service has to know it.
pub(super) struct Context<'a> {
    pub(super) network: Option<&'a Network>,
    /// Of `[timeouts]`.
    pub(super) timeouts: Timeouts,
    /// Whether there is a `[[nat.local-address]]`, right or wrong.
    pub(super) has_local_address: bool,
}

pub(super) fn validate(
    sections: &Tables<raw::Service>,
    context: &Context,
    report: &mut Report,
) -> Vec<VirtualService> {
    let endpoints: Vec<Option<Vec<Spanned<VirtualEndpoint>>>> = sections
        .iter()
        .map(|section| endpoints::endpoints(section, context.network, report))
        .collect();
    let vips: Vec<Ipv4Addr> =
        endpoints.iter().flatten().flatten().map(|vip| vip.get_ref().address).collect();
    let reach = Reach { network: context.network, vips: &vips };

    let mut dialled = Vec::new();
    let mut services = Vec::new();
    for (section, endpoints) in sections.iter().zip(endpoints) {
        let protocols = endpoints::protocols(&section.get_ref().0, report);
        let service =
            service(section, endpoints.as_deref(), protocols.as_deref(), context, &reach, report);
        services.extend(service);
        if let (Some(protocols), Some(endpoints)) = (protocols, endpoints) {
            dialled.push(Dialled { protocols, endpoints });
        }
    }
    endpoints::check_overlap(&dialled, report);
    services
}

/// One service; `endpoints` and `protocols` are `None` if they are wrong, and so is the service.
fn service(
    section: &Spanned<Table<raw::Service>>,
    endpoints: Option<&[Spanned<VirtualEndpoint>]>,
    protocols: Option<&[Protocol]>,
    context: &Context,
    reach: &Reach,
    report: &mut Report,
) -> Option<VirtualService> {
    let raw = &section.get_ref().0;
    let scheduler = report
        .required(&raw.scheduler, section, "scheduler", "scheduler = \"rr\"")
        .and_then(|word| report.keyword("scheduler", word));
    // Wherever something is wrong the report has it, and what stands in its place goes nowhere.
    let mut service = VirtualService {
        protocols: protocols.unwrap_or_default().to_vec(),
        endpoints: endpoints.unwrap_or_default().iter().map(|vip| vip.get_ref().clone()).collect(),
        scheduler: scheduler.unwrap_or(Scheduler::Rr),
        scheduler_flags: schedulers::flags(raw, scheduler, report),
        mode: mode(raw, context, report),
        servers: Vec::new(),
        fallback: None,
        persistence: persistence(raw, report),
        one_packet: raw.one_packet.as_ref().is_some_and(|value| *value.get_ref()),
        drain_timeout: raw.drain_timeout.as_ref().and_then(|value| {
            report.check(value.span(), durations::duration("drain-timeout", value.get_ref()))
        }),
        mss_clamp: mss_clamp(raw, report),
        on_unknown: raw.on_unknown.as_ref().and_then(|word| report.keyword("on-unknown", word)),
        reset_on_expiry: raw.reset_on_expiry.as_ref().map(|value| *value.get_ref()),
        timeouts: raw
            .timeouts
            .as_ref()
            .map(|timeouts| durations::timeouts(&timeouts.0, context.timeouts, report)),
    };
    (service.servers, service.fallback) = servers::validate(raw, service.port(), reach, report);
    if let Some(protocols) = protocols {
        check_protocols(raw, protocols, report);
    }
    check_one_packet_mode(raw, &service, report);
    check_one_packet_endpoint(raw, &service, report);
    check_drain_timeout(raw, &service, report);
    check_any_port(raw, endpoints.unwrap_or_default(), report);
    (endpoints.is_some() && protocols.is_some() && scheduler.is_some()).then_some(service)
}

fn mode(raw: &raw::Service, context: &Context, report: &mut Report) -> ForwardingMode {
    let mode = report.keyword_or("mode", &raw.mode, ForwardingMode::Nat);
    if let Some(written) = &raw.mode
        && mode == ForwardingMode::FullNat
        && !context.has_local_address
    {
        let fault = Fault::new("mode `full-nat` needs an address for the servers to see")
            .help("add a `[[nat.local-address]]` with an `address` inside, the DIP if need be");
        report.add(written.span(), fault);
    }
    mode
}

fn persistence(raw: &raw::Service, report: &mut Report) -> Option<Persistence> {
    let timeout = match raw.persistence.as_ref().map(|value| (value.span(), value.get_ref())) {
        None | Some((_, Scalar::Boolean(false))) => None,
        Some((_, Scalar::Boolean(true))) => Some(Persistence::DEFAULT_TIMEOUT),
        Some((place, value)) => Some(
            report
                .check(place, durations::duration("persistence", value))
                .unwrap_or(Persistence::DEFAULT_TIMEOUT),
        ),
    };
    let mask = raw.persistence_mask.as_ref().and_then(|mask| {
        if timeout.is_none() {
            let fault = Fault::new("`persistence-mask` does nothing without `persistence`")
                .help("add `persistence = true`, or leave the mask out");
            report.add(mask.span(), fault);
        }
        report.check(mask.span(), persistence_mask(mask.get_ref()))
    });
    timeout.map(|timeout| Persistence { timeout, mask: mask.unwrap_or(32) })
}

/// `"255.255.255.0"` or `24`.
fn persistence_mask(value: &Scalar) -> Result<u8, Fault> {
    let length = match value {
        Scalar::Number(length) => u8::try_from(*length).ok().filter(|n| (1..=32).contains(n)),
        Scalar::Text(text) => ipv4::netmask(text),
        Scalar::Boolean(_) => None,
    };
    length.ok_or_else(|| {
        Fault::new(format!("`persistence-mask` is {value}, which is no netmask")).help(
            "write `persistence-mask = \"255.255.255.0\"`, or the length of the prefix, 1 to 32",
        )
    })
}

fn mss_clamp(raw: &raw::Service, report: &mut Report) -> Option<u16> {
    raw.mss_clamp.as_ref()?;
    let help = "write bytes of payload: 1460 fills an MTU of 1500, 1360 leaves room for a tunnel";
    Some(report.number("mss-clamp", &raw.mss_clamp, MSS, 1460, help))
}

/// Refuses keys that mean nothing to the protocols of the service.
fn check_protocols(raw: &raw::Service, protocols: &[Protocol], report: &mut Report) {
    if let Some(one_packet) = raw.one_packet.as_ref().filter(|value| *value.get_ref())
        && protocols.contains(&Protocol::Tcp)
    {
        let fault = Fault::new("`one-packet` is for UDP alone; a TCP connection has more packets")
            .help("leave it out, or write `protocol = \"udp\"`");
        report.add(one_packet.span(), fault);
    }
    if let Some(mss_clamp) = &raw.mss_clamp
        && !protocols.contains(&Protocol::Tcp)
    {
        let fault = Fault::new("`mss-clamp` is for TCP; this service is UDP alone")
            .help("leave it out, or write `protocol = \"tcp\"`");
        report.add(mss_clamp.span(), fault);
    }
}

fn check_one_packet_mode(raw: &raw::Service, service: &VirtualService, report: &mut Report) {
    if let Some(one_packet) = raw.one_packet.as_ref().filter(|value| *value.get_ref())
        && service.mode == ForwardingMode::FullNat
    {
        let fault = Fault::new(
            "`one-packet` keeps no connection, without which no reply finds its way in `full-nat`",
        )
        .help("leave it out, or write `mode = \"nat\"`");
        report.add(one_packet.span(), fault);
    }
}

/// Without a connection, a server's packet must be enough to know which endpoint it answers for.
fn check_one_packet_endpoint(raw: &raw::Service, service: &VirtualService, report: &mut Report) {
    if let Some(one_packet) = raw.one_packet.as_ref().filter(|value| *value.get_ref())
        && !matches!(&service.endpoints[..], [endpoint] if endpoint.port().is_some())
    {
        let fault = Fault::new("`one-packet` needs a `vip` of one address and one port")
            .help("write a `[[service]]` for each endpoint");
        report.add(one_packet.span(), fault);
    }
}

fn check_drain_timeout(raw: &raw::Service, service: &VirtualService, report: &mut Report) {
    if let Some(drain_timeout) = &raw.drain_timeout
        && service.one_packet
    {
        let fault = Fault::new("`one-packet` keeps no connections, so there are none to drain")
            .help("leave `drain-timeout` out");
        report.add(drain_timeout.span(), fault);
    }
}

/// Refuses `*` without persistence, as IPVS does: who takes any port expects the connections of a
/// client to meet on one server.
fn check_any_port(raw: &raw::Service, endpoints: &[Spanned<VirtualEndpoint>], report: &mut Report) {
    let is_persistent = match &raw.persistence {
        Some(value) => !matches!(value.get_ref(), Scalar::Boolean(false)),
        None => false,
    };
    for endpoint in endpoints.iter().filter(|endpoint| endpoint.get_ref().is_any_port()) {
        if !is_persistent {
            let vip = endpoint.get_ref();
            let fault = Fault::new(format!("{vip} takes any port, which needs `persistence`"))
                .help(format!(
                    "add `persistence = true`, or write the ports, as in `vip = \"{}:8000-8999\"`",
                    vip.address
                ));
            report.add(endpoint.span(), fault);
        }
    }
}
