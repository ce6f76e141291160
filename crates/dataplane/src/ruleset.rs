use std::ops::RangeInclusive;

use shunt_config::{self as config, Config, Protocol, Role};
use shunt_nat::{
    ForwardingMode, LocalAddress, OnUnknown, OtherConnections, Persistence, RealServer, Rules,
    SnatRule, Timeouts, VirtualEndpoint, VirtualService,
    scheduler::{SchedulerFlags, SchedulerKind},
};
use shunt_packet::ipv4::protocol;

/// Source ports of inside hosts that dial a virtual service: Linux's `ip_local_port_range`.
const HAIRPIN_PORTS: RangeInclusive<u16> = 32768..=60999;

/// The part of a service file that the NAT engine runs, with services, servers and SNAT rules in the
/// order of the file.
#[must_use]
pub fn rules(config: &Config) -> Rules {
    let snat = config.snat.iter().map(|rule| SnatRule {
        from: rule.from,
        to: rule.to.clone(),
        ports: rule.ports.clone(),
    });
    let local = config
        .nat
        .local_addresses
        .iter()
        .map(|local| LocalAddress { address: local.address, ports: local.ports.clone() });
    let dip = config.ports.get(Role::Inside).addresses.first().map(|dip| dip.addr());
    Rules {
        services: config.services.iter().map(|service| virtual_service(config, service)).collect(),
        snat: snat.collect(),
        local_addresses: local.collect(),
        hairpin: dip.map(|address| LocalAddress { address, ports: HAIRPIN_PORTS }),
        other: OtherConnections {
            timeouts: timeouts(config.timeouts),
            on_unknown: on_unknown(config.nat.on_unknown),
            reset_on_expiry: config.nat.reset_on_expiry,
        },
    }
}

fn virtual_service(config: &Config, service: &config::VirtualService) -> VirtualService {
    let protocols = service.protocols.iter().map(|protocol| match protocol {
        Protocol::Tcp => protocol::TCP,
        Protocol::Udp => protocol::UDP,
    });
    let endpoints = service.endpoints.iter().map(|endpoint| VirtualEndpoint {
        address: endpoint.address,
        ports: endpoint.ports.clone(),
    });
    VirtualService {
        protocols: protocols.collect(),
        endpoints: endpoints.collect(),
        scheduler: scheduler(service.scheduler),
        scheduler_flags: SchedulerFlags {
            fallback: service.scheduler_flags.fallback,
            port: service.scheduler_flags.port,
        },
        mode: match service.mode {
            config::ForwardingMode::Nat => ForwardingMode::Nat,
            config::ForwardingMode::FullNat => ForwardingMode::FullNat,
        },
        servers: service.servers.iter().map(real_server).collect(),
        persistence: service.persistence.map(|persistence| Persistence {
            timeout: persistence.timeout,
            prefix_len: persistence.mask,
        }),
        one_packet: service.one_packet,
        fallback: service.fallback.map(|fallback| RealServer {
            address: fallback.ip,
            port: fallback.port,
            weight: 1,
            upper_threshold: 0,
            lower_threshold: 0,
        }),
        mss_limit: service.mss_clamp,
        on_unknown: on_unknown(service.on_unknown.unwrap_or(config.nat.on_unknown)),
        reset_on_expiry: service.reset_on_expiry.unwrap_or(config.nat.reset_on_expiry),
        timeouts: timeouts(service.timeouts.unwrap_or(config.timeouts)),
        drain_timeout: service.drain_timeout,
    }
}

fn real_server(server: &config::RealServer) -> RealServer {
    RealServer {
        address: server.ip,
        port: server.port,
        weight: server.weight,
        upper_threshold: server.upper_threshold,
        lower_threshold: server.lower_threshold,
    }
}

fn scheduler(scheduler: config::Scheduler) -> SchedulerKind {
    match scheduler {
        config::Scheduler::Rr => SchedulerKind::RoundRobin,
        config::Scheduler::Wrr => SchedulerKind::WeightedRoundRobin,
        config::Scheduler::Lc => SchedulerKind::LeastConnection,
        config::Scheduler::Wlc => SchedulerKind::WeightedLeastConnection,
        config::Scheduler::Sed => SchedulerKind::ShortestExpectedDelay,
        config::Scheduler::Nq => SchedulerKind::NeverQueue,
        config::Scheduler::Sh => SchedulerKind::SourceHash,
        config::Scheduler::Dh => SchedulerKind::DestinationHash,
        config::Scheduler::Mh => SchedulerKind::Maglev,
        config::Scheduler::Lblc => SchedulerKind::LocalityLeastConnection,
        config::Scheduler::Lblcr => SchedulerKind::LocalityLeastConnectionReplicated,
        config::Scheduler::Fo => SchedulerKind::Failover,
        config::Scheduler::Ovf => SchedulerKind::Overflow,
        config::Scheduler::Twos => SchedulerKind::PowerOfTwo,
    }
}

fn on_unknown(on_unknown: config::OnUnknown) -> OnUnknown {
    match on_unknown {
        config::OnUnknown::Reset => OnUnknown::Reset,
        config::OnUnknown::Drop => OnUnknown::Drop,
    }
}

fn timeouts(timeouts: config::Timeouts) -> Timeouts {
    Timeouts {
        established: timeouts.established,
        syn_sent: timeouts.syn_sent,
        syn_recv: timeouts.syn_recv,
        fin_wait: timeouts.fin_wait,
        time_wait: timeouts.time_wait,
        close: timeouts.close,
        close_wait: timeouts.close_wait,
        last_ack: timeouts.last_ack,
        udp_one_way: timeouts.udp_one_way,
        udp: timeouts.udp,
        icmp: timeouts.icmp,
    }
}
