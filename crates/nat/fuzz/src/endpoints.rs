//! The hosts around the director, and all that it is told to do.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddrV4},
    sync::Arc,
    time::Duration,
};

use shunt_nat::{Side, Topology};
use shunt_rules::{
    Defaults, ForwardingMode, LocalAddress, OnUnknown, Persistence,
    Protocol::{self, Tcp, Udp},
    RealServer, Rules, Scheduler as Kind, SchedulerFlags, SnatRule, VirtualEndpoint,
    VirtualService,
};

const VIP: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 100);
const VIP2: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 101);
const SNAT_ONLY: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 102);
const CLIENT: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 200);
const CLIENT2: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 201);
const REMOTE: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 7);
const DIP: Ipv4Addr = Ipv4Addr::new(192, 168, 2, 200);
const LIP: Ipv4Addr = Ipv4Addr::new(192, 168, 2, 201);
const RS1: Ipv4Addr = Ipv4Addr::new(192, 168, 2, 210);
const RS2: Ipv4Addr = Ipv4Addr::new(192, 168, 2, 220);
const SPARE: Ipv4Addr = Ipv4Addr::new(192, 168, 2, 230);
const HOST: Ipv4Addr = Ipv4Addr::new(192, 168, 2, 50);
/// An inside host that no SNAT rule covers.
const PLAIN_HOST: Ipv4Addr = Ipv4Addr::new(192, 168, 2, 100);

const fn at(address: Ipv4Addr, port: u16) -> SocketAddrV4 {
    SocketAddrV4::new(address, port)
}

/// Who talks to whom: few enough that random pairs meet each other again. The seeds refer to them by
/// place.
pub(crate) const ENDPOINTS: [SocketAddrV4; 40] = [
    at(CLIENT, 40000),
    at(CLIENT, 40001),
    at(CLIENT2, 40000),
    at(CLIENT2, 0),
    at(REMOTE, 443),
    at(REMOTE, 1024),
    at(VIP, 80),
    at(VIP, 8080),
    at(VIP, 53),
    at(VIP, 5000),
    at(VIP, 5009),
    at(VIP, 443),
    at(VIP2, 7),
    at(VIP, 9000),
    at(VIP, 81),
    at(VIP, 82),
    at(VIP, 83),
    at(VIP, 84),
    at(VIP, 85),
    at(VIP, 86),
    at(VIP, 87),
    at(VIP, 88),
    at(VIP, 61000),
    at(VIP2, 1024),
    at(SNAT_ONLY, 61000),
    at(RS1, 80),
    at(RS1, 53),
    at(RS1, 5000),
    at(RS2, 80),
    at(RS2, 8080),
    at(RS2, 0),
    at(SPARE, 80),
    at(HOST, 1024),
    at(HOST, 50000),
    at(PLAIN_HOST, 80),
    at(DIP, 3000),
    at(DIP, 3001),
    at(LIP, 2000),
    at(LIP, 2001),
    at(Ipv4Addr::BROADCAST, 68),
];

/// 192.168.2.0/24 lies inside, all else outside.
pub(crate) struct TestNetwork;

impl Topology for TestNetwork {
    fn is_local(&self, address: Ipv4Addr) -> bool {
        [VIP, VIP2, SNAT_ONLY, DIP, LIP].contains(&address)
    }

    fn side_of(&self, address: Ipv4Addr) -> Option<Side> {
        match address.octets() {
            [192, 168, 2, _] => Some(Side::Inside),
            [240..=255, ..] => None,
            _ => Some(Side::Outside),
        }
    }
}

/// Every scheduler, every feature, and little room everywhere.
pub(crate) fn rules() -> Rules {
    let snat = |from: &str, to: &[Ipv4Addr], ports| SnatRule {
        from: from.parse().expect("a network"),
        to: to.iter().copied().map(IpAddr::from).collect(),
        ports,
    };
    Rules {
        services: services().into_iter().map(Arc::new).collect(),
        snat: vec![
            snat("192.168.2.0/26", &[VIP2], 1024..=1024),
            snat("192.168.2.192/26", &[VIP, SNAT_ONLY], 61000..=61000),
        ],
        local_addresses: vec![LocalAddress { address: LIP.into(), ports: 2000..=2001 }],
        hairpin: Some(LocalAddress { address: DIP.into(), ports: 3000..=3001 }),
        defaults: Defaults { reset_on_expiry: true, ..Defaults::default() },
    }
}

fn services() -> Vec<VirtualService> {
    let persistence =
        |prefix_len| Some(Persistence { timeout: Duration::from_secs(300), prefix_len });
    let flags = SchedulerFlags { fallback: true, port: true };
    let limited = RealServer { upper_threshold: 2, ..server(RS1, 80, 2) };
    let two = || vec![server(RS1, 80, 1), server(RS2, 8080, 3)];
    vec![
        VirtualService {
            mss_limit: Some(1400),
            reset_on_expiry: Some(true),
            drain_timeout: Some(Duration::from_secs(30)),
            ..service(Tcp, 80, Kind::RoundRobin, two())
        },
        VirtualService {
            fallback: Some(server(SPARE, 80, 1)),
            ..service(Tcp, 8080, Kind::WeightedRoundRobin, vec![limited])
        },
        VirtualService {
            one_packet: true,
            ..service(Udp, 53, Kind::LeastConnection, vec![server(RS1, 53, 1)])
        },
        VirtualService {
            endpoints: vec![VirtualEndpoint { address: VIP.into(), ports: 5000..=5009 }],
            ..service(Udp, 0, Kind::WeightedLeastConnection, vec![as_dialled(RS1), as_dialled(RS2)])
        },
        VirtualService {
            persistence: persistence(32),
            drain_timeout: Some(Duration::from_secs(30)),
            ..service(Tcp, 443, Kind::LocalityLeastConnection, vec![limited, server(RS2, 80, 1)])
        },
        VirtualService {
            protocols: vec![Tcp, Udp],
            endpoints: vec![
                VirtualEndpoint { address: VIP2.into(), ports: 1..=1023 },
                VirtualEndpoint { address: VIP.into(), ports: 9000..=9000 },
            ],
            persistence: persistence(24),
            ..service(Tcp, 0, Kind::LocalityLeastConnectionReplicated, two())
        },
        VirtualService {
            mode: ForwardingMode::FullNat,
            mss_limit: Some(536),
            ..service(Tcp, 81, Kind::DestinationHash, two())
        },
        VirtualService {
            mode: ForwardingMode::FullNat,
            scheduler_flags: flags,
            ..service(Udp, 82, Kind::SourceHash, two())
        },
        service(Tcp, 83, Kind::ShortestExpectedDelay, vec![]),
        VirtualService {
            fallback: Some(as_dialled(SPARE)),
            ..service(Tcp, 84, Kind::NeverQueue, vec![server(RS1, 80, 0)])
        },
        VirtualService {
            on_unknown: Some(OnUnknown::Drop),
            ..service(Tcp, 85, Kind::Failover, two())
        },
        service(Tcp, 86, Kind::Overflow, two()),
        VirtualService { scheduler_flags: flags, ..service(Tcp, 87, Kind::Maglev, two()) },
        service(Udp, 88, Kind::PowerOfTwo, two()),
    ]
}

fn service(
    protocol: Protocol,
    vport: u16,
    scheduler: Kind,
    servers: Vec<RealServer>,
) -> VirtualService {
    VirtualService::new(protocol, at(VIP, vport), scheduler, servers)
}

fn server(address: Ipv4Addr, rport: u16, weight: u16) -> RealServer {
    RealServer::new(at(address, rport), weight)
}

fn as_dialled(address: Ipv4Addr) -> RealServer {
    RealServer { port: None, ..server(address, 0, 1) }
}
