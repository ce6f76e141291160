//! That the random steps come everywhere: a comparison of nothing with nothing proves nothing.

use std::collections::BTreeSet;

use proptest::{
    strategy::{Strategy, ValueTree},
    test_runner::TestRunner,
};
use shunt_nat::{ConnectionKind, ServerId, ServiceId};

use crate::{
    outcome::Outcome,
    run::Run,
    setup::{Setup, setup},
    steps::steps,
};

/// Outcomes, states, kinds, and events that counters tell of.
const EVERYTHING: [&str; 56] = [
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
];

#[test]
fn the_steps_come_everywhere() {
    const ENOUGH: usize = 1000;
    let mut runner = TestRunner::deterministic();
    let mut missing: BTreeSet<String> = EVERYTHING.map(str::to_owned).into();
    for _ in 0..ENOUGH {
        let case = (setup(), steps()).new_tree(&mut runner).expect("a case");
        let (setup, steps) = case.current();
        let mut run = Run::new(setup.clone());
        for step in &steps {
            run.act(step).unwrap_or_else(|error| panic!("{error}"));
            seen(&run, &setup, |what| {
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
fn seen(run: &Run, setup: &Setup, mut see: impl FnMut(&str)) {
    match &run.outcome {
        Some(Outcome::Sent(_, followers)) => {
            see(if followers.is_empty() { "Sent" } else { "Sent with followers" });
        }
        Some(Outcome::Forwarded(_)) => see("Forwarded"),
        Some(other) => see(&format!("{other:?}")),
        None => {}
    }
    let engine = &run.engine;
    for connection in engine.table().iter() {
        see(&format!("{:?}", connection.state()));
        match connection.kind() {
            ConnectionKind::Service(service, server) => {
                see("Service");
                if is_fallback(setup, service, server) {
                    see("fallback");
                }
            }
            other => see(&format!("{other:?}")),
        }
    }
    let (rules, counters) = (engine.rules(), engine.counters());
    let given: u64 = engine.server_counters().map(|server| server.connections).sum();
    let (local, hairpin) = (rules.local_usage(), rules.hairpin_usage());
    let pools = || rules.snat_usage().chain([local, hairpin]);
    let facts = [
        ("full NAT", local.in_use > 0),
        ("hairpin", hairpin.in_use > 0),
        ("one packet", given > counters.opened),
        ("opened", counters.opened > 0),
        ("expired", counters.expired > 0),
        ("replaced", counters.replaced > 0),
        ("evicted", counters.evicted > 0),
        ("ICMP errors", counters.icmp_errors > 0),
        ("disbelieved resets", counters.disbelieved_resets > 0),
        ("refused", engine.service_counters().iter().any(|service| service.refused > 0)),
        ("overloaded", rules.servers().iter().any(|server| server.overloaded)),
        ("kept server", rules.persistent_clients() > 0),
        ("resets on expiry", run.resets > 0),
        ("scarce", pools().any(|usage| usage.scarce > 0)),
        ("short way", run.forwarded > 0),
        ("exhausted", pools().any(|usage| usage.exhausted > 0)),
    ];
    facts.iter().filter(|(_, is_so)| *is_so).for_each(|(what, _)| see(what));
}

fn is_fallback(setup: &Setup, ServiceId(service): ServiceId, ServerId(server): ServerId) -> bool {
    let services = &setup.rules.services[..=service as usize];
    let count =
        |fallbacks: usize| services.iter().map(|s| s.servers.len()).sum::<usize>() + fallbacks;
    let fallbacks = services.iter().filter(|s| s.fallback.is_some()).count();
    services[service as usize].fallback.is_some() && server as usize + 1 == count(fallbacks)
}
