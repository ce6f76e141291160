//! What holds for every scheduler, whatever happens.

use proptest::prelude::*;

use std::sync::Arc;

use super::{
    SchedulerBuilder, SchedulerFlags, SchedulerKind, SchedulerOptions, WorkerState, testing::*,
};
use crate::server::{AdminState, Health, Server, ServerShared};

#[derive(Clone, Debug)]
enum Step {
    /// A client asks, and its connection stays.
    Open { client: u32, cport: u16, vip: u8, seconds: u64 },
    /// All connections of a server end.
    Close(prop::sample::Index),
    /// A server goes beyond its threshold, or comes back.
    SetOverloaded(prop::sample::Index, bool),
    /// A server goes down, or comes back.
    SetHealth(prop::sample::Index, bool),
    /// An operator drains or disables a server, or enables it.
    SetAdmin(prop::sample::Index, AdminState),
    /// A server's weight changes without a configuration.
    SetEffectiveWeight(prop::sample::Index, u16),
    /// A configuration comes with other weights.
    SetWeight(prop::sample::Index, u16),
    /// One with one more server.
    Add { at: prop::sample::Index, host: u16, weight: u16 },
    /// One with one less.
    Remove(prop::sample::Index),
    /// One with the same in another order.
    Rotate(prop::sample::Index),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        8 => (0u32..50, 1u16..9, 1u8..5, 0u64..200_000).prop_map(
            |(client, cport, vip, seconds)| Step::Open { client, cport, vip, seconds }
        ),
        1 => any::<prop::sample::Index>().prop_map(Step::Close),
        1 => any::<(prop::sample::Index, bool)>().prop_map(|(who, to)| Step::SetOverloaded(who, to)),
        1 => any::<(prop::sample::Index, bool)>().prop_map(|(who, to)| Step::SetHealth(who, to)),
        1 => (any::<prop::sample::Index>(), admin()).prop_map(|(who, to)| Step::SetAdmin(who, to)),
        1 => (any::<prop::sample::Index>(), weight())
            .prop_map(|(who, to)| Step::SetEffectiveWeight(who, to)),
        1 => (any::<prop::sample::Index>(), weight()).prop_map(|(who, to)| Step::SetWeight(who, to)),
        1 => (any::<prop::sample::Index>(), 100u16.., weight())
            .prop_map(|(at, host, weight)| Step::Add { at, host, weight }),
        1 => any::<prop::sample::Index>().prop_map(Step::Remove),
        1 => any::<prop::sample::Index>().prop_map(Step::Rotate),
    ];
    prop::collection::vec(step, 1..60)
}

fn weight() -> impl Strategy<Value = u16> {
    prop_oneof![2 => Just(0u16), 4 => 1u16..5, 1 => Just(65535u16), 1 => any::<u16>()]
}

fn admin() -> impl Strategy<Value = AdminState> {
    use AdminState::{Disabled, Draining, Enabled};
    prop_oneof![3 => Just(Enabled), 1 => Just(Draining), 1 => Just(Disabled)]
}

fn some_servers() -> impl Strategy<Value = Vec<Server>> {
    let load = || prop_oneof![8 => 0u32..10, 1 => Just(u32::MAX / 2)];
    prop::collection::vec((weight(), load(), load(), prop::bool::weighted(0.2)), 0..7).prop_map(
        |servers| {
            let server = |(host, (weight, active, inactive, overloaded))| {
                let server = loaded(host, weight, active, inactive);
                server.set_overloaded(overloaded);
                server
            };
            (1..).zip(servers).map(server).collect()
        },
    )
}

/// Whether this scheduler gives every request a server as long as one is usable.
fn never_refuses(kind: SchedulerKind, flags: SchedulerFlags) -> bool {
    use SchedulerKind::{DestinationHash, Maglev, Overflow, SourceHash};
    match kind {
        SourceHash | DestinationHash | Maglev => flags.fallback,
        Overflow => false,
        _ => true,
    }
}

fn is_overloaded(server: &Server) -> bool {
    server.shared.is_in_service() && server.is_overloaded()
}

fn check(
    kind: SchedulerKind,
    flags: SchedulerFlags,
    mut servers: Vec<Server>,
    steps: &[Step],
    seed: u64,
) -> Result<(), TestCaseError> {
    let mut scheduler = Subject::new(kind, flags, &servers, seed);
    for step in steps {
        let count = servers.len();
        match step {
            Step::Open { client, cport, vip, seconds } => {
                let mut request = later(request_to(*client, *vip, 80), *seconds);
                request.client.set_port(*cport);
                let picked = scheduler.pick(&servers, &request);
                let is_usable = servers.iter().any(Server::is_usable);
                match picked {
                    Some(picked) => {
                        prop_assert!(servers[picked].is_usable());
                        servers[picked].set_active(servers[picked].active() + 1);
                    }
                    None => {
                        let may_refuse = match kind {
                            SchedulerKind::Overflow => true,
                            _ => !never_refuses(kind, flags) && servers.iter().any(is_overloaded),
                        };
                        prop_assert!(!is_usable || may_refuse);
                    }
                }
            }
            Step::Add { at, host, weight } => {
                servers.insert(at.index(count + 1), server(*host, *weight));
                scheduler.servers_changed(&servers);
            }
            _ if count == 0 => {}
            Step::Close(who) => servers[who.index(count)].set_active(0),
            Step::SetOverloaded(who, to) => servers[who.index(count)].set_overloaded(*to),
            Step::SetHealth(who, is_up) => {
                let health = if *is_up { Health::Up } else { Health::Down };
                servers[who.index(count)].shared.set_health(health);
            }
            Step::SetAdmin(who, to) => servers[who.index(count)].shared.set_admin(*to),
            Step::SetEffectiveWeight(who, to) => {
                servers[who.index(count)].shared.set_effective_weight(*to);
            }
            Step::SetWeight(who, to) => {
                servers[who.index(count)].shared.set_weight(*to);
                scheduler.servers_changed(&servers);
            }
            Step::Remove(who) => {
                servers.remove(who.index(count));
                scheduler.servers_changed(&servers);
            }
            Step::Rotate(by) => {
                servers.rotate_left(by.index(count));
                scheduler.servers_changed(&servers);
            }
        }
    }
    Ok(())
}

/// All kinds but `mh`, whose table takes its time.
fn quick_kinds() -> impl Strategy<Value = SchedulerKind> {
    let kinds = SchedulerKind::ALL.iter().copied().filter(|kind| *kind != SchedulerKind::Maglev);
    prop::sample::select(kinds.collect::<Vec<_>>())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn picks_what_is_usable_and_nothing_else(
        kind in quick_kinds(),
        (fallback, port, seed) in any::<(bool, bool, u64)>(),
        servers in some_servers(),
        steps in steps(),
    ) {
        check(kind, SchedulerFlags { fallback, port }, servers, &steps, seed)?;
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(10))]

    #[test]
    fn so_does_maglev(
        (fallback, port, seed) in any::<(bool, bool, u64)>(),
        servers in some_servers(),
        steps in steps(),
    ) {
        check(SchedulerKind::Maglev, SchedulerFlags { fallback, port }, servers, &steps, seed)?;
    }
}

#[test]
fn no_servers_or_all_drained_or_all_overloaded_is_none() {
    let mut overloaded = servers(&[1, 65535]);
    overloaded.iter_mut().for_each(|server| server.set_overloaded(true));
    for kind in SchedulerKind::ALL.iter().copied() {
        for fallback in [false, true] {
            let flags = SchedulerFlags { fallback, port: false };
            for servers in [vec![], servers(&[0, 0, 0]), overloaded.clone()] {
                let mut scheduler = Subject::new(kind, flags, &servers, SEED);
                assert_eq!(scheduler.pick(&servers, &request(1)), None, "{kind} {servers:?}");
            }
        }
    }
}

#[test]
fn a_single_server_takes_all_at_any_weight() {
    for kind in SchedulerKind::ALL.iter().copied() {
        for weight in [1, 2, 65535] {
            let servers = servers(&[0, weight]);
            let mut scheduler = scheduler(kind, &servers);
            assert_eq!(scheduler.picks_of_clients(&servers, 5), [1; 5], "{kind} {weight}");
        }
    }
}

type Switch = fn(&ServerShared);

/// All ways in which a server goes out of service without new rules, and how it comes back.
const OUTAGES: [(&str, Switch, Switch); 4] = [
    ("down", |it| it.set_health(Health::Down), |it| it.set_health(Health::Up)),
    ("drained", |it| it.set_admin(AdminState::Draining), |it| it.set_admin(AdminState::Enabled)),
    ("disabled", |it| it.set_admin(AdminState::Disabled), |it| it.set_admin(AdminState::Enabled)),
    ("weight 0", |it| it.set_effective_weight(0), |it| it.set_effective_weight(1000)),
];

/// How many of 400 connections from as many clients to 200 destinations each server gets, on a day when
/// all servers begin idle and all destinations are new.
fn connections_of_a_day(scheduler: &mut Subject, servers: &[Server], day: u64) -> Vec<usize> {
    servers.iter().for_each(|server| server.set_active(0));
    let pick = |client: u32| {
        let request = later(request_to(client, 1 + (client % 200) as u8, 80), day * 2 * 86_400);
        let picked = scheduler.pick(servers, &request).expect("somebody is usable");
        servers[picked].set_active(servers[picked].active() + 1);
        picked
    };
    counts(&(0..400).map(pick).collect::<Vec<_>>(), servers.len())
}

#[test]
fn an_outage_takes_effect_at_once_and_leaves_nothing_behind() {
    for kind in SchedulerKind::ALL.iter().copied() {
        for (what, goes, comes_back) in OUTAGES {
            let servers = servers(&[1000; 4]);
            let mut scheduler = scheduler(kind, &servers);
            let before = connections_of_a_day(&mut scheduler, &servers, 0);
            assert!(before[0] >= 80, "{kind}: {before:?}");
            goes(&servers[0].shared);
            let during = connections_of_a_day(&mut scheduler, &servers, 1);
            assert_eq!(during[0], 0, "{kind} {what}");
            comes_back(&servers[0].shared);
            let after = connections_of_a_day(&mut scheduler, &servers, 2);
            let tolerance = if kind == SchedulerKind::PowerOfTwo { 10 } else { 1 };
            for (after, before) in after.iter().zip(&before) {
                assert!(after.abs_diff(*before) <= tolerance, "{kind} {what}: {after} {before}");
            }
        }
    }
}

#[test]
fn a_schedule_is_kept_until_something_changes_that_it_depends_on() {
    use SchedulerKind::{
        DestinationHash, LocalityLeastConnection, LocalityLeastConnectionReplicated, Maglev,
        RoundRobin, SourceHash, WeightedRoundRobin,
    };
    for kind in SchedulerKind::ALL.iter().copied() {
        let hashes = matches!(kind, SourceHash | DestinationHash | Maglev);
        let remembers = matches!(
            kind,
            RoundRobin
                | WeightedRoundRobin
                | LocalityLeastConnection
                | LocalityLeastConnectionReplicated
        );
        let servers = servers(&[3, 1, 4, 1]);
        let mut builder = SchedulerBuilder::new(2);
        let flags = SchedulerFlags::default();
        let options = SchedulerOptions { kind, flags, slots: None, seed: SEED };
        let (before, disruption) = builder.build(&options, &servers, None);
        assert_eq!(disruption, None);
        let mut is_kept = |options: &SchedulerOptions, servers: &[Server]| {
            let (after, _) = builder.build(options, servers, Some(&before));
            Arc::ptr_eq(&before, &after)
        };
        assert!(is_kept(&options, &servers), "{kind}");
        assert_eq!(is_kept(&options, &servers[1..]), !hashes && !remembers, "{kind}: one left");
        let with_port = SchedulerFlags { port: true, fallback: false };
        let other_flags = SchedulerOptions { flags: with_port, ..options };
        assert_eq!(is_kept(&other_flags, &servers), !hashes, "{kind}: flags");
        let other_slots = SchedulerOptions { slots: Some(251), ..options };
        assert_eq!(is_kept(&other_slots, &servers), kind != Maglev, "{kind}: slots");
        servers[1].shared.set_health(Health::Down);
        servers[1].shared.set_effective_weight(77);
        servers[2].shared.set_thresholds(9, 8);
        assert!(is_kept(&options, &servers), "{kind}: what servers share");
        servers[1].shared.set_weight(2);
        assert_eq!(is_kept(&options, &servers), !hashes, "{kind}: weights");
        let another = if kind == RoundRobin { SourceHash } else { RoundRobin };
        assert!(!is_kept(&SchedulerOptions { kind: another, ..options }, &servers), "{kind}");
    }
}

/// A worker's state of any schedule serves any other.
#[test]
fn a_state_follows_to_any_other_scheduler() {
    let servers = servers(&[1, 2, 3]);
    let mut builder = SchedulerBuilder::new(1);
    let mut state = WorkerState::new(0);
    let mut before = None;
    for kind in
        SchedulerKind::ALL.iter().flat_map(|a| SchedulerKind::ALL.iter().flat_map(|b| [*a, *b]))
    {
        let flags = SchedulerFlags::default();
        let options = SchedulerOptions { kind, flags, slots: None, seed: SEED };
        let (schedule, _) = builder.build(&options, &servers, before.as_ref());
        for client in 0..5 {
            let picked = schedule.pick(&mut state, &servers, &request(client));
            assert!(picked.is_some_and(|picked| picked < 3), "{kind}");
        }
        before = Some(schedule);
    }
}
