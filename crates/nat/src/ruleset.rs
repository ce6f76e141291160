//! What the engine is told to do: services and their servers, and SNAT rules.

use std::net::{Ipv4Addr, SocketAddrV4};

use hashbrown::HashMap;

use crate::{
    flow::FlowKey,
    scheduler::{Scheduler, SchedulerKind},
    snat::{PortPool, SnatRule},
};

/// A virtual service: what clients dial, and who answers.
#[derive(Clone, Debug)]
pub struct VirtualService {
    /// IANA number of the transport protocol.
    pub protocol: u8,
    /// VIP:vport.
    pub virtual_endpoint: SocketAddrV4,
    /// How connections are spread.
    pub scheduler: SchedulerKind,
    /// The real servers.
    pub servers: Vec<RealServer>,
}

/// A real server of a service.
#[derive(Clone, Copy, Debug)]
pub struct RealServer {
    /// RIP:rport.
    pub endpoint: SocketAddrV4,
    /// Its share of the connections; 0 is none.
    pub weight: u16,
}

/// A service's place in its [`Ruleset`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ServiceId(pub u32);

/// A server's place among all servers of all services of its [`Ruleset`], in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ServerId(pub u32);

/// Services and SNAT rules, arranged for looking up.
#[derive(Debug)]
pub struct Ruleset {
    services: Vec<Service>,
    servers: Vec<SocketAddrV4>,
    by_endpoint: HashMap<(u8, SocketAddrV4), ServiceId>,
    snat: Vec<(SnatRule, PortPool)>,
}

/// A service as the engine runs it.
#[derive(Debug)]
struct Service {
    scheduler: Scheduler,
    weights: Vec<u16>,
    first_server: u32,
}

impl Ruleset {
    /// Arranges services and rules. Of two services with one endpoint, the later one counts.
    #[must_use]
    pub fn new(services: &[VirtualService], snat: &[SnatRule]) -> Ruleset {
        let mut ruleset = Ruleset {
            services: Vec::with_capacity(services.len()),
            servers: Vec::new(),
            by_endpoint: HashMap::with_capacity(services.len()),
            snat: snat.iter().map(|rule| (rule.clone(), PortPool::new(&rule.ports))).collect(),
        };
        for service in services {
            ruleset.add(service);
        }
        ruleset
    }

    fn add(&mut self, service: &VirtualService) {
        let id = ServiceId(self.services.len() as u32);
        let weights: Vec<u16> = service.servers.iter().map(|server| server.weight).collect();
        self.by_endpoint.insert((service.protocol, service.virtual_endpoint), id);
        self.services.push(Service {
            scheduler: Scheduler::new(service.scheduler, &weights),
            weights,
            first_server: self.servers.len() as u32,
        });
        self.servers.extend(service.servers.iter().map(|server| server.endpoint));
    }

    /// How many services there are.
    #[must_use]
    pub fn service_count(&self) -> usize {
        self.services.len()
    }

    /// How many servers there are, over all services.
    #[must_use]
    pub fn server_count(&self) -> usize {
        self.servers.len()
    }

    /// The service that these packets dial.
    pub(crate) fn service(&self, key: &FlowKey) -> Option<ServiceId> {
        self.by_endpoint.get(&(key.protocol, key.dst())).copied()
    }

    /// How many servers a service has.
    pub(crate) fn servers_of(&self, service: ServiceId) -> usize {
        self.services[service.0 as usize].weights.len()
    }

    /// The server for a new connection.
    pub(crate) fn schedule(&mut self, service: ServiceId) -> Option<(ServerId, SocketAddrV4)> {
        let Service { scheduler, weights, first_server } = &mut self.services[service.0 as usize];
        let picked = scheduler.pick(weights)?;
        let id = ServerId(*first_server + picked as u32);
        Some((id, self.servers[id.0 as usize]))
    }

    /// Whether an SNAT rule covers this inside host.
    pub(crate) fn snat_covers(&self, host: Ipv4Addr) -> bool {
        self.snat.iter().any(|(rule, _)| rule.from.contains(&host))
    }

    /// The SNAT rule of an inside host, and its ports.
    pub(crate) fn snat_of(&mut self, host: Ipv4Addr) -> Option<(Ipv4Addr, &mut PortPool)> {
        let (rule, ports) = self.snat.iter_mut().find(|(rule, _)| rule.from.contains(&host))?;
        Some((rule.to, ports))
    }

    /// Whether packets to this address may have to be translated.
    pub(crate) fn is_virtual(&self, address: Ipv4Addr) -> bool {
        self.by_endpoint.keys().any(|(_, endpoint)| *endpoint.ip() == address)
            || self.snat.iter().any(|(rule, _)| rule.to == address)
    }

    /// Whether packets from this address may have to be translated.
    pub(crate) fn is_translated(&self, address: Ipv4Addr) -> bool {
        self.servers.iter().any(|server| *server.ip() == address) || self.snat_covers(address)
    }
}
