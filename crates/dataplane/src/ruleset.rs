use std::{net::IpAddr, ops::RangeInclusive, sync::Arc};

use shunt_config::{self as config, Config, Protocol, Role};
use shunt_rules::{
    Defaults, ForwardingMode, LatePackets, LocalAddress, OnUnknown, Persistence, RealServer, Rules,
    Scheduler, SchedulerFlags, SnatRule, TimeoutOverrides, Timeouts, VirtualEndpoint,
    VirtualService,
};

/// Source ports of inside hosts that dial a virtual service: Linux's `ip_local_port_range`.
const HAIRPIN_PORTS: RangeInclusive<u16> = 32768..=60999;

/// The part of a service file that the NAT engine runs, with services, servers and SNAT rules in the
/// order of the file.
#[must_use]
pub fn rules(config: &Config) -> Rules {
    let snat = config.snat.iter().map(|rule| SnatRule {
        from: rule.from.into(),
        to: rule.to.iter().copied().map(IpAddr::from).collect(),
        ports: rule.ports.clone(),
    });
    let local = config
        .nat
        .local_addresses
        .iter()
        .map(|local| LocalAddress { address: local.address.into(), ports: local.ports.clone() });
    let dip = config.ports.get(Role::Inside).addresses.first().map(|dip| dip.addr());
    let services = config.services.iter().map(|service| Arc::new(virtual_service(service)));
    Rules {
        services: services.collect(),
        snat: snat.collect(),
        local_addresses: local.collect(),
        hairpin: dip.map(|address| LocalAddress { address: address.into(), ports: HAIRPIN_PORTS }),
        defaults: Defaults {
            timeouts: timeouts(config.timeouts),
            on_unknown: on_unknown(config.nat.on_unknown),
            late_packets: LatePackets::default(),
            reset_on_expiry: config.nat.reset_on_expiry,
        },
    }
}

fn virtual_service(service: &config::VirtualService) -> VirtualService {
    let protocols = service.protocols.iter().map(|protocol| match protocol {
        Protocol::Tcp => shunt_rules::Protocol::Tcp,
        Protocol::Udp => shunt_rules::Protocol::Udp,
    });
    let endpoints = service.endpoints.iter().map(|endpoint| VirtualEndpoint {
        address: endpoint.address.into(),
        ports: endpoint.ports.clone(),
    });
    let mut service = VirtualService {
        name: String::new(),
        protocols: protocols.collect(),
        endpoints: endpoints.collect(),
        scheduler: service.scheduler.as_str().parse().unwrap_or(Scheduler::default()),
        scheduler_flags: SchedulerFlags {
            fallback: service.scheduler_flags.fallback,
            port: service.scheduler_flags.port,
        },
        scheduler_slots: None,
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
            address: fallback.ip.into(),
            port: fallback.port,
            weight: 1,
            upper_threshold: 0,
            lower_threshold: 0,
        }),
        mss_limit: service.mss_clamp,
        on_unknown: service.on_unknown.map(on_unknown),
        reset_on_expiry: service.reset_on_expiry,
        timeouts: service.timeouts.map_or(TimeoutOverrides::default(), |t| timeouts(t).into()),
        drain_timeout: service.drain_timeout,
    };
    service.name = service.default_name();
    service
}

fn real_server(server: &config::RealServer) -> RealServer {
    RealServer {
        address: server.ip.into(),
        port: server.port,
        weight: server.weight,
        upper_threshold: server.upper_threshold,
        lower_threshold: server.lower_threshold,
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
