//! What the engine is told to do: services and their servers, and SNAT rules.

use std::net::{Ipv4Addr, SocketAddrV4};

use hashbrown::{HashMap, HashSet};

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
    servers: Vec<RealServer>,
    by_endpoint: HashMap<(u8, SocketAddrV4), ServiceId>,
    /// Virtual addresses, and those of SNAT rules.
    outside_addresses: HashSet<Ipv4Addr>,
    server_addresses: HashSet<Ipv4Addr>,
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
            outside_addresses: snat.iter().map(|rule| rule.to).collect(),
            server_addresses: HashSet::new(),
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
        self.outside_addresses.insert(*service.virtual_endpoint.ip());
        self.server_addresses.extend(service.servers.iter().map(|server| server.endpoint.ip()));
        self.services.push(Service {
            scheduler: Scheduler::new(service.scheduler, &weights),
            weights,
            first_server: self.servers.len() as u32,
        });
        self.servers.extend_from_slice(&service.servers);
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

    /// The server for a new connection; `None` when none takes any.
    pub(crate) fn schedule(&mut self, service: ServiceId) -> Option<ServerId> {
        let Service { scheduler, weights, first_server } = &mut self.services[service.0 as usize];
        let picked = scheduler.pick(weights)?;
        Some(ServerId(*first_server + picked as u32))
    }

    /// All servers of a service, the scheduled one first.
    pub(crate) fn candidates(
        &self,
        service: ServiceId,
        scheduled: ServerId,
    ) -> impl Iterator<Item = ServerId> + use<> {
        let Service { weights, first_server, .. } = &self.services[service.0 as usize];
        let end = first_server + weights.len() as u32;
        (scheduled.0..end).chain(*first_server..scheduled.0).map(ServerId)
    }

    /// RIP:rport of a server, unless its weight says that it takes no new connections.
    pub(crate) fn active_endpoint(&self, server: ServerId) -> Option<SocketAddrV4> {
        let RealServer { endpoint, weight } = self.servers[server.0 as usize];
        (weight > 0).then_some(endpoint)
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

    /// Whether packets to this outside address may have to be translated.
    pub(crate) fn translates_to(&self, address: Ipv4Addr) -> bool {
        self.outside_addresses.contains(&address)
    }

    /// Whether packets from this inside address may have to be translated.
    pub(crate) fn translates_from(&self, address: Ipv4Addr) -> bool {
        self.server_addresses.contains(&address) || self.snat_covers(address)
    }
}
