//! That the random steps come everywhere: a comparison of nothing with nothing proves nothing.

use std::collections::{BTreeMap, BTreeSet};

use proptest::{
    strategy::{Strategy, ValueTree},
    test_runner::TestRunner,
};
use shunt_nat::{ConnectionKind, Direction, Instant, ServerId, ServiceId};

use crate::{
    outcome::Outcome,
    run::Run,
    setup::setup,
    steps::steps,
    wire::{Ip, UDP, quoted_flow},
};

/// Outcomes, states, kinds, and events that counters tell of.
const EVERYTHING: [&str; 63] = [
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
    "Dropped(TableFull)",
    "Dropped(SnatPortsExhausted)",
    "Dropped(LocalPortsExhausted)",
    "Dropped(TupleInUse)",
    "Dropped(IcmpRedirect)",
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
    "ICMP errors",
    "disbelieved resets",
    "refused",
    "overloaded",
    "kept server",
    "resets on expiry",
    "scarce",
    "exhausted",
    "short way",
    "drained",
    "connection to a removed server",
    "connection to a removed service",
    "client of a removed server",
    "connection that no SNAT rule covers",
    "number of another service",
    "error about a packet without connection",
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
            for (number, options, _) in run.engine.rules().services() {
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
            if run.engine.table().lookup(&quoted.key()).is_none() && quoted.protocol == UDP {
                see("error about a packet without connection");
            }
        }
        Some(other) => see(&format!("{other:?}")),
        None => {}
    }
    let engine = &run.engine;
    for connection in engine.table().iter() {
        see(&format!("{:?}", connection.state()));
        match connection.kind() {
            ConnectionKind::Service(service, server) => {
                see("Service");
                see(standing(run, service, server));
            }
            ConnectionKind::Snat => {
                see("Snat");
                let host = *connection.key(Direction::Inbound).src().ip();
                if run.rules.snat.iter().all(|rule| !rule.from.contains(&host)) {
                    see("connection that no SNAT rule covers");
                }
            }
            other => see(&format!("{other:?}")),
        }
    }
    let (rules, counters) = (engine.rules(), engine.counters());
    let given: u64 = engine.server_counters().map(|server| server.connections).sum();
    let (local, hairpin) = (rules.local_usage(), rules.hairpin_usage());
    let pools = || rules.snat_usage().chain([local, hairpin]);
    let servers = || rules.services().flat_map(|(_, _, servers)| servers);
    let mut kept = rules.kept_servers(Instant::from_millis(run.now));
    let facts = [
        ("drained", counters.drained > 0),
        (
            "client of a removed server",
            kept.any(|(_, _, server)| servers().all(|known| known.id() != server)),
        ),
        ("full NAT", local.in_use > 0),
        ("hairpin", hairpin.in_use > 0),
        ("one packet", given > counters.opened),
        ("opened", counters.opened > 0),
        ("expired", counters.expired > 0),
        ("replaced", counters.replaced > 0),
        ("evicted", counters.evicted > 0),
        ("ICMP errors", counters.icmp_errors > 0),
        ("disbelieved resets", counters.disbelieved_resets > 0),
        ("refused", engine.service_counters().any(|service| service.refused > 0)),
        ("overloaded", servers().any(shunt_nat::Server::is_overloaded)),
        ("kept server", rules.persistent_clients() > 0),
        ("resets on expiry", run.resets > 0),
        ("scarce", pools().any(|usage| usage.scarce > 0)),
        ("short way", run.forwarded > 0),
        ("exhausted", pools().any(|usage| usage.exhausted > 0)),
    ];
    facts.iter().filter(|(_, is_so)| *is_so).for_each(|(what, _)| see(what));
}

/// What a connection's server is now.
fn standing(run: &Run, service: ServiceId, server: ServerId) -> &'static str {
    let mut services = run.engine.rules().services();
    let Some((_, options, servers)) = services.find(|(id, ..)| *id == service) else {
        return "connection to a removed service";
    };
    match servers.iter().position(|known| known.id() == server) {
        None => "connection to a removed server",
        Some(place) if place == options.servers.len() => "fallback",
        Some(_) => "connection to a server",
    }
}
