//! What engines are tried with: few addresses and ports in many roles, so that everything soon meets
//! everything else.

use std::{
    net::{IpAddr, Ipv4Addr},
    ops::RangeInclusive,
    sync::Arc,
    time::Duration,
};

use proptest::{
    prelude::*,
    sample::{select, subsequence},
};
use shunt_nat::{EngineConfig, Side, Topology};
use shunt_rules::{
    Defaults, ForwardingMode, LatePackets, LocalAddress, OnUnknown, Persistence,
    Protocol::{Tcp, Udp},
    RealServer, Rules, Scheduler, SchedulerFlags, SnatRule, TimeoutOverrides, Timeouts,
    VirtualEndpoint, VirtualService,
};

/// Outside hosts.
pub(crate) const CLIENTS: [Ipv4Addr; 4] = [
    Ipv4Addr::new(192, 0, 2, 1),
    Ipv4Addr::new(192, 0, 2, 2),
    Ipv4Addr::new(192, 0, 3, 1),
    Ipv4Addr::new(203, 0, 113, 7),
];
/// Inside hosts, the first three of which may be servers.
pub(crate) const HOSTS: [Ipv4Addr; 5] = [
    Ipv4Addr::new(10, 0, 0, 1),
    Ipv4Addr::new(10, 0, 0, 2),
    Ipv4Addr::new(10, 0, 0, 3),
    Ipv4Addr::new(10, 0, 0, 9),
    Ipv4Addr::new(10, 0, 1, 9),
];
/// The director's outside addresses: the first two for services, the last two for SNAT.
pub(crate) const OUTSIDE: [Ipv4Addr; 3] = [
    Ipv4Addr::new(198, 51, 100, 1),
    Ipv4Addr::new(198, 51, 100, 2),
    Ipv4Addr::new(198, 51, 100, 3),
];
/// The director's inside addresses.
pub(crate) const INSIDE: [Ipv4Addr; 2] =
    [Ipv4Addr::new(10, 0, 0, 100), Ipv4Addr::new(10, 0, 0, 101)];
/// Where no route leads.
pub(crate) const NOWHERE: Ipv4Addr = Ipv4Addr::new(240, 0, 0, 1);

pub(crate) const PORTS: [u16; 5] = [80, 81, 1000, 1001, 0];

/// Where these addresses are.
pub(crate) struct Lab;

impl Topology for Lab {
    fn is_local(&self, address: Ipv4Addr) -> bool {
        OUTSIDE.contains(&address) || INSIDE.contains(&address)
    }

    fn side_of(&self, address: Ipv4Addr) -> Option<Side> {
        match address.octets()[0] {
            10 => Some(Side::Inside),
            240.. => None,
            _ => Some(Side::Outside),
        }
    }
}

/// Of what engines are made.
#[derive(Clone, Debug)]
pub(crate) struct Setup {
    pub(crate) workers: usize,
    /// Of each worker.
    pub(crate) capacity: u32,
    pub(crate) seed: u64,
    pub(crate) rules: Rules,
}

impl Setup {
    pub(crate) fn config(&self) -> EngineConfig {
        EngineConfig { capacity: self.capacity, secret: [self.seed, 2, 3, 4] }
    }
}

prop_compose! {
    pub(crate) fn setup()(
        workers in select(vec![1, 2, 4]),
        capacity in prop_oneof![3 => Just(64u32), 2 => 1u32..8],
        seed: u64,
        rules in rules().boxed(),
    ) -> Setup {
        Setup { workers, capacity, seed, rules }
    }
}

prop_compose! {
    pub(crate) fn rules()(
        services in prop::collection::vec(service().prop_map(Arc::new).boxed(), 1..5),
        snat in prop::collection::vec(snat(), 0..3),
        local_addresses in local_addresses(),
        hairpin in prop::option::of(local_address(INSIDE[0])),
        defaults in defaults(),
    ) -> Rules {
        Rules { services, snat, local_addresses, hairpin, defaults }
    }
}

pub(crate) fn local_addresses() -> impl Strategy<Value = Vec<LocalAddress>> {
    subsequence(INSIDE.to_vec(), 0..=2)
        .prop_flat_map(|addresses| addresses.into_iter().map(local_address).collect::<Vec<_>>())
}

prop_compose! {
    pub(crate) fn defaults()(
        timeouts in timeouts(),
        on_unknown in on_unknown(),
        late_packets in select(LatePackets::ALL),
        reset_on_expiry: bool,
    ) -> Defaults {
        // Source routes are the data path's business.
        Defaults { timeouts, on_unknown, late_packets, reset_on_expiry, ..Defaults::default() }
    }
}

prop_compose! {
    pub(crate) fn service()(
        one_packet in prop::bool::weighted(0.15),
        protocols in select(vec![vec![Tcp], vec![Udp], vec![Tcp, Udp]]),
        mut endpoints in subsequence(endpoints(), 1..=3),
        scheduler in scheduler(),
        falls_back: bool,
        with_port: bool,
        is_full_nat in prop::bool::weighted(0.4),
        servers in servers(),
        persistence in prop::option::weighted(0.4, persistence()),
        fallback in prop::option::weighted(0.3, server(servers_at()[1])),
        mss_limit in prop::option::weighted(0.3, select(vec![536u16, 1400])),
        on_unknown in prop::option::of(on_unknown()),
        reset_on_expiry: Option<bool>,
        timeouts in overrides(),
        drain_timeout in prop::option::of(select(vec![0, 1500, 10_000])),
    ) -> VirtualService {
        if one_packet {
            endpoints.retain(|endpoint| endpoint.ports.len() == 1);
            endpoints.truncate(1);
        }
        VirtualService {
            name: String::new(),
            protocols,
            one_packet: one_packet && !endpoints.is_empty(),
            endpoints,
            scheduler,
            scheduler_flags: SchedulerFlags { fallback: falls_back, port: with_port },
            scheduler_slots: None,
            mode: if is_full_nat { ForwardingMode::FullNat } else { ForwardingMode::Nat },
            servers,
            persistence,
            fallback,
            mss_limit,
            on_unknown,
            reset_on_expiry,
            timeouts,
            drain_timeout: drain_timeout.map(Duration::from_millis),
        }
    }
}

fn endpoints() -> Vec<VirtualEndpoint> {
    let endpoint = |vip: usize, ports| VirtualEndpoint { address: OUTSIDE[vip].into(), ports };
    vec![
        endpoint(0, 80..=80),
        endpoint(0, 81..=81),
        endpoint(0, 80..=81),
        endpoint(0, 0..=65_535),
        endpoint(1, 80..=80),
        endpoint(1, 1000..=1001),
    ]
}

/// Turns, most of all: what comes depends on all that came before.
fn scheduler() -> impl Strategy<Value = Scheduler> {
    prop_oneof![
        1 => Just(Scheduler::RoundRobin),
        1 => Just(Scheduler::WeightedRoundRobin),
        2 => select(Scheduler::ALL),
    ]
}

/// Where servers listen; that of port 0 does so where its clients dial. The last one is outside.
pub(crate) fn servers_at() -> Vec<(Ipv4Addr, Option<u16>)> {
    vec![
        (HOSTS[0], Some(80)),
        (HOSTS[1], Some(80)),
        (HOSTS[1], Some(81)),
        (HOSTS[2], None),
        (CLIENTS[3], Some(80)),
    ]
}

fn servers() -> impl Strategy<Value = Vec<RealServer>> {
    subsequence(servers_at(), 0..=4)
        .prop_flat_map(|places| places.into_iter().map(server).collect::<Vec<_>>())
}

prop_compose! {
    pub(crate) fn server((address, port): (Ipv4Addr, Option<u16>))(
        weight in prop_oneof![4 => 1u16..4, 1 => Just(0), 1 => Just(u16::MAX)],
        upper_threshold in prop_oneof![3 => Just(0u32), 1 => 1u32..6],
        lower_threshold in 0u32..3,
    ) -> RealServer {
        RealServer { address: address.into(), port, weight, upper_threshold, lower_threshold }
    }
}

fn persistence() -> impl Strategy<Value = Persistence> {
    (select(vec![3u64, 60]), select(vec![0u8, 24, 32])).prop_map(|(seconds, prefix_len)| {
        Persistence { timeout: Duration::from_secs(seconds), prefix_len }
    })
}

fn on_unknown() -> impl Strategy<Value = OnUnknown> {
    select(vec![OnUnknown::Reset, OnUnknown::Drop])
}

/// None, or some of those that are brisk.
fn overrides() -> impl Strategy<Value = TimeoutOverrides> {
    prop_oneof![
        1 => Just(TimeoutOverrides::default()),
        1 => timeouts().prop_map(TimeoutOverrides::from),
        1 => timeouts().prop_map(|timeouts| TimeoutOverrides {
            established: None,
            udp: None,
            ..timeouts.into()
        }),
    ]
}

/// The default ones, or such that every state has one of its own and all are over soon.
fn timeouts() -> impl Strategy<Value = Timeouts> {
    let seconds = Duration::from_secs;
    let brisk = Timeouts {
        established: seconds(31),
        syn_sent: seconds(7),
        syn_recv: seconds(5),
        fin_wait: seconds(11),
        time_wait: seconds(13),
        close: seconds(2),
        close_wait: seconds(17),
        last_ack: seconds(3),
        udp_one_way: seconds(6),
        udp: seconds(19),
        icmp: seconds(4),
    };
    select(vec![Timeouts::default(), brisk])
}

prop_compose! {
    pub(crate) fn snat()(
        from in select(vec!["10.0.0.0/24", "10.0.0.0/8", "10.0.0.9/32"]),
        to in subsequence(OUTSIDE[1..].to_vec(), 0..=2),
        ports in ports(),
    ) -> SnatRule {
        let to = to.into_iter().map(IpAddr::from).collect();
        SnatRule { from: from.parse().expect("a network"), to, ports }
    }
}

prop_compose! {
    fn local_address(address: Ipv4Addr)(ports in ports()) -> LocalAddress {
        LocalAddress { address: address.into(), ports }
    }
}

fn ports() -> impl Strategy<Value = RangeInclusive<u16>> {
    let few = vec![1000..=1000, 1000..=1003, 80..=81, 0..=1, 65_534..=65_535];
    prop_oneof![2 => select(few), 1 => Just(1000..=1008)]
}
