//! `[[service]]`: its keys, and what they come to.

use std::sync::Arc;

use serde::Deserialize;
use shunt_rules::{
    ForwardingMode, Persistence, Protocol, Scheduler, SchedulerFlags, ServicePart, VirtualEndpoint,
    VirtualService,
};
use toml::Spanned;

use crate::{
    address, duration,
    fault::Fault,
    report::{Report, either, span},
    server,
    source::Span,
    suggest::nearest,
    timeouts,
    value::{Scalar, Strings, Table, Tables, Value, placeholder},
};

/// A section as the file has it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Raw {
    name: Value<String>,
    protocol: Value<Strings>,
    vip: Value<Strings>,
    scheduler: Value<String>,
    scheduler_flags: Value<Vec<Spanned<String>>>,
    scheduler_slots: Value<i64>,
    mode: Value<String>,
    #[serde(default)]
    server: Tables<server::Raw>,
    fallback: Value<String>,
    persistence: Value<Scalar>,
    persistence_mask: Value<Scalar>,
    one_packet: Value<bool>,
    drain_timeout: Value<Scalar>,
    mss_clamp: Value<i64>,
    on_unknown: Value<String>,
    reset_on_expiry: Value<bool>,
    #[serde(default)]
    timeouts: Table<timeouts::Raw>,
}

/// The services, in the order of the file.
pub(crate) fn read(sections: &Tables<Raw>, report: &mut Report) -> Vec<Arc<VirtualService>> {
    sections.iter().map(|section| Arc::new(service(section, report))).collect()
}

/// One service, with placeholders for what is wrong.
fn service(section: &Spanned<Table<Raw>>, report: &mut Report) -> VirtualService {
    let raw = &section.get_ref().0;
    let unread = |place: &Span| VirtualEndpoint { address: placeholder(place), ports: 1..=1 };
    let endpoints = report
        .required(&raw.vip, section, "vip", "vip = \"192.168.1.100:80\"")
        .map(|vip| report.each_or("vip", vip, address::virtual_endpoint, unread));
    let scheduler = report
        .required(&raw.scheduler, section, "scheduler", "scheduler = \"rr\"")
        .and_then(|word| report.keyword("scheduler", word));
    let flags = flags(raw, scheduler, report);
    let mut service = VirtualService {
        name: raw.name.as_ref().map(|name| name.get_ref().clone()).unwrap_or_default(),
        protocols: protocols(raw, report).unwrap_or_default(),
        endpoints: endpoints.unwrap_or_default(),
        scheduler: scheduler.unwrap_or_default(),
        scheduler_flags: flags,
        scheduler_slots: slots(raw, report).filter(|_| scheduler.is_some()),
        mode: report.keyword_or("mode", &raw.mode, ForwardingMode::Nat),
        servers: Vec::new(),
        fallback: None,
        persistence: persistence(raw, report),
        one_packet: raw.one_packet.as_ref().is_some_and(|value| *value.get_ref()),
        drain_timeout: raw.drain_timeout.as_ref().and_then(|value| {
            report.check(value.span(), duration::duration("drain-timeout", value.get_ref()))
        }),
        mss_limit: mss_clamp(raw, report),
        on_unknown: raw.on_unknown.as_ref().and_then(|word| report.keyword("on-unknown", word)),
        reset_on_expiry: raw.reset_on_expiry.as_ref().map(|value| *value.get_ref()),
        timeouts: timeouts::read(&raw.timeouts.0, report),
    };
    if raw.name.is_none() {
        let name = service.identity().map(|identity| identity.default_name());
        // Without an identity something is wrong, and this placeholder goes nowhere.
        service.name = name.unwrap_or_else(|| format!("unread-{}", section.span().start));
    }
    service.servers = server::read(&raw.server, service.port(), report);
    service.fallback = server::read_fallback(&raw.fallback, service.port(), report);
    service
}

/// The place of a value of a service.
pub(crate) fn locate(section: &Spanned<Table<Raw>>, part: ServicePart) -> Span {
    let raw = &section.get_ref().0;
    let element =
        |value: &Value<Strings>, index| value.as_ref().map(|value| Strings::place(value, index));
    let value = match part {
        // Where there is none, the endpoints make it.
        ServicePart::Name => span(&raw.name).or_else(|| element(&raw.vip, 0)),
        ServicePart::Protocols => span(&raw.protocol),
        ServicePart::Protocol(index) => element(&raw.protocol, index),
        ServicePart::Endpoints => span(&raw.vip),
        ServicePart::Endpoint(index) => element(&raw.vip, index),
        ServicePart::SchedulerFlags => span(&raw.scheduler_flags),
        ServicePart::SchedulerSlots => span(&raw.scheduler_slots),
        ServicePart::Mode => span(&raw.mode),
        ServicePart::Server { index, part, .. } => {
            raw.server.get(index).map(|server| server::locate(server, part))
        }
        ServicePart::Fallback(_) => span(&raw.fallback),
        ServicePart::PersistenceTimeout => span(&raw.persistence),
        ServicePart::PersistencePrefix => span(&raw.persistence_mask),
        ServicePart::OnePacket => span(&raw.one_packet),
        ServicePart::DrainTimeout => span(&raw.drain_timeout),
        ServicePart::MssLimit => span(&raw.mss_clamp),
        ServicePart::Timeout(key) => timeouts::locate(&raw.timeouts.0, key),
    };
    value.unwrap_or_else(|| section.span())
}

/// The protocols of one service, unless one is wrong.
fn protocols(raw: &Raw, report: &mut Report) -> Option<Vec<Protocol>> {
    let Some(value) = &raw.protocol else { return Some(vec![Protocol::Tcp]) };
    let words = Strings::each(value);
    if words.is_empty() {
        let fault = Fault::new("`protocol` is an empty list").help("write at least one");
        report.add(value.span(), fault);
    }
    let protocols: Vec<_> = words.iter().map(|word| protocol(word, report)).collect();
    protocols.into_iter().collect()
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

/// Every scheduler flag, with its scheduler and what it sets.
const FLAGS: [(&str, Scheduler, SchedulerFlags); 4] = {
    const FALLBACK: SchedulerFlags = SchedulerFlags { fallback: true, port: false };
    const PORT: SchedulerFlags = SchedulerFlags { fallback: false, port: true };
    [
        ("sh-fallback", Scheduler::SourceHash, FALLBACK),
        ("sh-port", Scheduler::SourceHash, PORT),
        ("mh-fallback", Scheduler::Maglev, FALLBACK),
        ("mh-port", Scheduler::Maglev, PORT),
    ]
};

/// The flags of a service with this scheduler, `None` if that is wrong.
fn flags(raw: &Raw, scheduler: Option<Scheduler>, report: &mut Report) -> SchedulerFlags {
    let mut flags = SchedulerFlags::default();
    let Some(words) = &raw.scheduler_flags else { return flags };
    for word in words.get_ref() {
        let flag = report.check(word.span(), flag(word.get_ref(), scheduler));
        if let Some(flag) = flag.filter(|_| scheduler.is_some()) {
            flags.fallback |= flag.fallback;
            flags.port |= flag.port;
        }
    }
    report.duplicates(words.get_ref(), |word, _| {
        Fault::new(format!("flag `{word}` is written twice")).help("write it once")
    });
    flags
}

fn flag(word: &str, scheduler: Option<Scheduler>) -> Result<SchedulerFlags, Fault> {
    let names = FLAGS.map(|(name, ..)| name);
    let Some((_, of, flag)) = FLAGS.into_iter().find(|&(name, ..)| name == word) else {
        let help = match nearest(word, names) {
            Some(near) => format!("did you mean `{near}`?"),
            None => "leave it out".to_owned(),
        };
        let message = format!("`{word}` is no scheduler flag; it can be {}", either(&names));
        return Err(Fault::new(message).help(help));
    };
    let Some(scheduler) = scheduler.filter(|&scheduler| scheduler != of) else { return Ok(flag) };
    let twin = FLAGS.into_iter().find(|&(_, of, same)| of == scheduler && same == flag);
    let help = match twin {
        Some((twin, ..)) => format!("write `{twin}`"),
        None => format!("leave it out, or write `scheduler = \"{of}\"`"),
    };
    Err(Fault::new(format!(
        "flag `{word}` is for scheduler `{of}`; this service has `{scheduler}`"
    ))
    .help(help))
}

fn slots(raw: &Raw, report: &mut Report) -> Option<u32> {
    let help = "write a prime, as in `scheduler-slots = 65537`";
    report.number_or_none("scheduler-slots", &raw.scheduler_slots, VirtualService::SLOTS, help)
}

fn persistence(raw: &Raw, report: &mut Report) -> Option<Persistence> {
    let timeout = match raw.persistence.as_ref().map(|value| (value.span(), value.get_ref())) {
        None | Some((_, Scalar::Boolean(false))) => None,
        Some((_, Scalar::Boolean(true))) => Some(Persistence::DEFAULT_TIMEOUT),
        Some((place, value)) => Some(
            report
                .check(place, duration::duration("persistence", value))
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
    timeout.map(|timeout| Persistence { timeout, prefix_len: mask.unwrap_or(32) })
}

/// `"255.255.255.0"` or `24`.
fn persistence_mask(value: &Scalar) -> Result<u8, Fault> {
    let length = match value {
        Scalar::Number(length) => u8::try_from(*length).ok().filter(|n| (1..=32).contains(n)),
        Scalar::Text(text) => address::netmask(text),
        Scalar::Boolean(_) => None,
    };
    length.ok_or_else(|| {
        Fault::new(format!("`persistence-mask` is {value}, which is no netmask")).help(
            "write `persistence-mask = \"255.255.255.0\"`, or the length of the prefix, 1 to 32",
        )
    })
}

fn mss_clamp(raw: &Raw, report: &mut Report) -> Option<u16> {
    let help = "write bytes of payload: 1460 fills an MTU of 1500, 1360 leaves room for a tunnel";
    report.number_or_none("mss-clamp", &raw.mss_clamp, VirtualService::MSS_LIMITS, help)
}
