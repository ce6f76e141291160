//! That the random steps come everywhere: a comparison of nothing with nothing proves nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use proptest::{
    strategy::{Strategy, ValueTree},
    test_runner::TestRunner,
};
use shunt_nat::{ConnectionKind, Direction, Engine, EngineCounters, Instant, ServerId, ServiceId};

use crate::{
    outcome::Outcome,
    run::Run,
    setup::setup,
    steps::steps,
    wire::{ICMP, Ip, TCP, UDP, quoted_flow},
    witness::total,
};

/// Outcomes, states, kinds, and events that counters tell of.
const EVERYTHING: [&str; 73] = [
    "Sent",
    "Sent with followers",
    "Forwarded",
    "Answered(Reset)",
    "Answered(PortUnreachable)",
    "Answered(TimeExceeded)",
    "Held",
    "Punted",
    "Dropped(Malformed(TcpTruncated))",
    "Dropped(Malformed(TcpDataOffset))",
    "Dropped(Malformed(UdpTruncated))",
    "Dropped(Malformed(UdpLength))",
    "Dropped(Malformed(IcmpTruncated))",
    "Dropped(Fragment(Length))",
    "Dropped(Fragment(TooLong))",
    "Dropped(Fragment(Tiny))",
    "Dropped(Fragment(Duplicate))",
    "Dropped(Fragment(Overlap))",
    "Dropped(FragmentRefused)",
    "Dropped(UnknownConnection)",
    "Dropped(LatePacket)",
    "Dropped(TableFull)",
    "Dropped(SnatPortsExhausted)",
    "Dropped(LocalPortsExhausted)",
    "Dropped(TupleInUse)",
    "Dropped(Untranslatable)",
    "Dropped(IcmpRedirect)",
    "packets without ports",
    "SynSent",
    "SynRecv",
    "Established",
    "FinWait",
    "TimeWait",
    "Close",
    "CloseWait",
    "LastAck",
    "UdpOneWay",
    "Udp",
    "Icmp",
    "Service",
    "Snat",
    "Passthrough",
    "full NAT",
    "hairpin",
    "fallback",
    "one packet",
    "opened",
    "expired",
    "replaced",
    "evicted",
    "rescheduled",
    "ICMP errors",
    "out-of-window resets",
    "out-of-window FINs",
    "refused",
    "overloaded",
    "kept server",
    "resets on expiry",
    "scarce",
    "exhausted",
    "fast path",
    "drained",
    "connection to a removed server",
    "connection to a removed service",
    "client of a removed server",
    "connection that no SNAT rule covers",
    "number of another service",
    "error about a packet without connection",
    "connections on both of 2 workers",
    "connections on all of 4 workers",
    "local endpoints in use on several workers",
    "server of several workers",
    "fragments that waited for their owner",
];

#[test]
fn the_steps_come_everywhere() {
    const ENOUGH: usize = 1000;
    let mut runner = TestRunner::deterministic();
    let mut missing: BTreeSet<String> = EVERYTHING.map(str::to_owned).into();
    for _ in 0..ENOUGH {
        let case = (setup(), steps()).new_tree(&mut runner).expect("a case");
        let (setup, steps) = case.current();
        let mut run = Run::new(setup);
        let mut numbers = BTreeMap::new();
        for step in &steps {
            run.act(step).unwrap_or_else(|error| panic!("{error}"));
            for (number, options, _) in run.engines[0].rules().services() {
                let identity =
                    (options.protocols.first().copied(), options.endpoints.first().cloned());
                let before = numbers.insert(number.0, identity.clone());
                if before.is_some_and(|before| before != identity) {
                    missing.remove("number of another service");
                }
            }
            seen(&run, |what| {
                missing.remove(what);
            });
        }
        if missing.is_empty() {
            return;
        }
    }
    panic!("never seen: {missing:?}");
}

/// Says what is to be seen after a step.
fn seen(run: &Run, mut see: impl FnMut(&str)) {
    match &run.outcome {
        Some(Outcome::Sent(_, followers)) => {
            see(if followers.is_empty() { "Sent" } else { "Sent with followers" });
        }
        Some(Outcome::Forwarded(left)) => {
            see("Forwarded");
            // The quoted packet is there as its sender knows it.
            let quoted = quoted_flow(Ip(left)).expect("a quoted packet");
            if run.engines.iter().all(|e| e.table().lookup(&quoted.key()).is_none())
                && quoted.protocol == UDP
            {
                see("error about a packet without connection");
            }
        }
        Some(other) => see(&format!("{other:?}")),
        None => {}
    }
    for connection in run.engines.iter().flat_map(|engine| engine.table().iter()) {
        see(&format!("{:?}", connection.state()));
        match connection.kind() {
            ConnectionKind::Service(service, server) => {
                see("Service");
                see(standing(run, service, server));
            }
            ConnectionKind::Snat => {
                see("Snat");
                if ![TCP, UDP, ICMP].contains(&connection.key(Direction::Inbound).protocol()) {
                    see("packets without ports");
                }
                let host = *connection.key(Direction::Inbound).src().ip();
                if run.rules.snat.iter().all(|rule| !rule.from.contains(&IpAddr::from(host))) {
                    see("connection that no SNAT rule covers");
                }
            }
            other => see(&format!("{other:?}")),
        }
    }
    let engines = || run.engines.iter();
    let mut counters = EngineCounters::default();
    engines().for_each(|engine| counters += engine.counters());
    let given: u64 =
        total(&run.engines, Engine::server_counters).iter().map(|s| s.connections).sum();
    let local = || engines().map(|engine| engine.rules().local_usage());
    let hairpin = || engines().map(|engine| engine.rules().hairpin_usage());
    let snat = engines().flat_map(|engine| engine.rules().snat_usage());
    let pools: Vec<_> = snat.chain(local()).chain(hairpin()).collect();
    // What all workers share.
    let rules = run.engines[0].rules();
    let servers = || rules.services().flat_map(|(_, _, servers)| servers);
    let mut kept = rules.kept_servers(Instant::from_millis(run.now));
    let facts = [
        ("drained", counters.drained > 0),
        (
            "client of a removed server",
            kept.any(|(_, _, server)| servers().all(|known| known.id() != server)),
        ),
        ("full NAT", local().any(|usage| usage.in_use > 0)),
        ("hairpin", hairpin().any(|usage| usage.in_use > 0)),
        ("one packet", given > counters.opened),
        ("opened", counters.opened > 0),
        ("expired", counters.expired > 0),
        ("replaced", counters.replaced > 0),
        ("evicted", counters.evicted > 0),
        ("rescheduled", counters.rescheduled > 0),
        ("ICMP errors", counters.icmp_errors > 0),
        ("out-of-window resets", counters.out_of_window_resets > 0),
        ("out-of-window FINs", counters.out_of_window_fins > 0),
        (
            "refused",
            engines().flat_map(Engine::service_counters).any(|service| service.refused > 0),
        ),
        ("overloaded", servers().any(shunt_nat::Server::is_overloaded)),
        ("kept server", rules.persistent_clients() > 0),
        ("resets on expiry", run.resets > 0),
        ("scarce", pools.iter().any(|usage| usage.scarce > 0)),
        ("fast path", run.forwarded > 0),
        ("exhausted", pools.iter().any(|usage| usage.exhausted > 0)),
    ];
    workers(run, &mut see);
    facts.iter().filter(|(_, is_so)| *is_so).for_each(|(what, _)| see(what));
}

/// What there is only with several workers.
fn workers(run: &Run, see: &mut impl FnMut(&str)) {
    let busy = || run.engines.iter().filter(|engine| !engine.table().is_empty());
    match run.engines.len() {
        2 if busy().count() == 2 => see("connections on both of 2 workers"),
        4 if busy().count() == 4 => see("connections on all of 4 workers"),
        _ => {}
    }
    if busy().filter(|engine| engine.rules().local_usage().in_use > 0).count() > 1 {
        see("local endpoints in use on several workers");
    }
    let all = total(&run.engines, Engine::server_counters);
    let is_shared = |engine: &Engine| {
        let mut own = engine.server_counters().zip(&all);
        own.any(|(own, all)| own.current() > 0 && own.current() < all.current())
    };
    if busy().any(is_shared) {
        see("server of several workers");
    }
    if run.steered_late > 0 {
        see("fragments that waited for their owner");
    }
}

/// What a connection's server is now.
fn standing(run: &Run, service: ServiceId, server: ServerId) -> &'static str {
    let mut services = run.engines[0].rules().services();
    let Some((_, options, servers)) = services.find(|(id, ..)| *id == service) else {
        return "connection to a removed service";
    };
    match servers.iter().position(|known| known.id() == server) {
        None => "connection to a removed server",
        Some(place) if place == options.servers.len() => "fallback",
        Some(_) => "connection to a server",
    }
}
