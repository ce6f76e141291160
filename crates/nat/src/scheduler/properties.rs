//! What holds for every scheduler, whatever happens.

use proptest::prelude::*;

use super::{SchedulerFlags, SchedulerKind, testing::*};
use crate::server::Server;

#[derive(Clone, Debug)]
enum Step {
    /// A client asks, and its connection stays.
    Open { client: u32, cport: u16, vip: u8, seconds: u64 },
    /// All connections of a server end.
    Close(prop::sample::Index),
    /// A server goes beyond its threshold, or comes back.
    SetOverloaded(prop::sample::Index, bool),
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
                    None => prop_assert!(!is_usable || !never_refuses(kind, flags)),
                }
            }
            Step::Add { at, host, weight } => {
                servers.insert(at.index(count + 1), server(*host, *weight));
                scheduler.servers_changed(&servers);
            }
            _ if count == 0 => {}
            Step::Close(who) => servers[who.index(count)].set_active(0),
            Step::SetOverloaded(who, to) => servers[who.index(count)].set_overloaded(*to),
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
