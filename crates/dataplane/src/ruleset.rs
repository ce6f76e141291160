use shunt_config::{Config, Protocol, Scheduler};
use shunt_nat::{RealServer, Ruleset, SnatRule, VirtualService, scheduler::SchedulerKind};
use shunt_packet::ipv4::protocol;

/// The part of a service file that the NAT engine runs, with the services and servers in the order
/// of the file.
#[must_use]
pub fn ruleset(config: &Config) -> Ruleset {
    let services: Vec<_> = config.services.iter().map(service).collect();
    let snat: Vec<_> = config
        .snat
        .iter()
        .map(|rule| SnatRule { from: rule.from, to: rule.to, ports: rule.ports.clone() })
        .collect();
    Ruleset::new(&services, &snat)
}

fn service(service: &shunt_config::VirtualService) -> VirtualService {
    let server = |server: &shunt_config::RealServer| RealServer {
        endpoint: server.address,
        weight: server.weight,
    };
    VirtualService {
        protocol: match service.protocol {
            Protocol::Tcp => protocol::TCP,
            Protocol::Udp => protocol::UDP,
        },
        virtual_endpoint: service.vip,
        scheduler: match service.scheduler {
            Scheduler::Rr => SchedulerKind::RoundRobin,
            Scheduler::Wrr => SchedulerKind::WeightedRoundRobin,
        },
        servers: service.servers.iter().map(server).collect(),
    }
}
