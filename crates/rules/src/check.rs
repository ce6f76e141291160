//! Whether rules make sense: in themselves, and on the director's network.

use std::{net::IpAddr, ops::RangeInclusive};

use hashbrown::{HashMap, HashSet};
use ipnet::IpNet;

use crate::{
    ForwardingMode, LocalAddress, Location, Network, Problem, Protocol, RealServer, Reason, Rules,
    Scheduler, ServicePart, Side, TimeoutOverrides, VirtualEndpoint, VirtualService,
    network::{NetworkIndex, check_host},
    overlap::{self, Dialled},
    problem::{LocalAddressPart, ServerPart, SnatPart, check_duration},
};

impl Rules {
    /// Whether the rules make sense on this network, and don't ask for what can't be done yet.
    ///
    /// # Errors
    /// Everything that is wrong, services first, each value once.
    pub fn check(&self, network: &Network) -> Result<(), Vec<Problem>> {
        Check::new(self, Some(network)).run()
    }

    /// Whether the rules make sense in themselves, on whatever network.
    ///
    /// # Errors
    /// As [`Rules::check`].
    pub fn check_values(&self) -> Result<(), Vec<Problem>> {
        Check::new(self, None).run()
    }
}

impl VirtualService {
    /// Whether a service may be called so: it has to fit a URL, a label of a metric and a command line.
    #[must_use]
    pub fn is_name(name: &str) -> bool {
        let allowed = |c: char| c.is_ascii_alphanumeric() || "._:-".contains(c);
        (1..=63).contains(&name.len())
            && name.starts_with(|c: char| c.is_ascii_alphanumeric())
            && name.chars().all(allowed)
    }
}

struct Check<'a> {
    rules: &'a Rules,
    network: Option<NetworkIndex<'a>>,
    /// The addresses that clients dial.
    vips: HashSet<IpAddr>,
    problems: Vec<Problem>,
}

/// Writes down problems of one service.
struct ServiceCheck<'c, 'a> {
    check: &'c mut Check<'a>,
    index: usize,
    service: &'a VirtualService,
}

impl<'a> Check<'a> {
    fn new(rules: &'a Rules, network: Option<&'a Network>) -> Check<'a> {
        let endpoints = rules.services.iter().flat_map(|service| &service.endpoints);
        Check {
            rules,
            network: network.map(NetworkIndex::new),
            vips: endpoints.map(|endpoint| endpoint.address).collect(),
            problems: Vec::new(),
        }
    }

    fn run(mut self) -> Result<(), Vec<Problem>> {
        let rules = self.rules;
        self.names();
        for (index, service) in rules.services.iter().enumerate() {
            ServiceCheck { check: &mut self, index, service }.run();
        }
        self.service_overlaps();
        self.snat();
        self.local_addresses();
        for (name, timeout) in TimeoutOverrides::from(rules.defaults.timeouts).iter() {
            self.add(Location::Timeout(name), check_duration(timeout));
        }
        if self.problems.is_empty() { Ok(()) } else { Err(self.problems) }
    }

    fn add(&mut self, location: Location, result: Result<(), Reason>) {
        if let Err(reason) = result {
            self.problems.push(Problem { location, related: None, reason });
        }
    }

    fn add_pair(&mut self, location: Location, related: Location, reason: Reason) {
        self.problems.push(Problem { location, related: Some(related), reason });
    }

    fn at(&self, index: usize, part: ServicePart) -> Location {
        Location::Service { index, name: self.rules.services[index].name.clone(), part }
    }

    fn names(&mut self) {
        let mut seen = HashMap::with_capacity(self.rules.services.len());
        for (index, service) in self.rules.services.iter().enumerate() {
            let name = &service.name;
            if !VirtualService::is_name(name) {
                self.add(self.at(index, ServicePart::Name), Err(Reason::Name(name.clone())));
            } else if let Some(earlier) = seen.insert(name, index) {
                let other = &self.rules.services[earlier];
                if *name == service.default_name() && service.identity() == other.identity() {
                    // Not because of their names: they are dialled alike, which is said below.
                    continue;
                }
                let at = |index| self.at(index, ServicePart::Name);
                let (location, related) = (at(index), at(earlier));
                self.add_pair(location, related, Reason::NameTaken(name.clone()));
            }
        }
    }

    /// Refuses endpoints of different services that share ports, unless one encloses the other: then
    /// the narrower wins. So no two services have the same identity, either.
    fn service_overlaps(&mut self) {
        let services = &self.rules.services;
        let dialled: Vec<_> = services
            .iter()
            .map(|service| Dialled { protocols: &service.protocols, endpoints: &service.endpoints })
            .collect();
        for overlap::Clash { protocol, later, earlier } in overlap::clashes(&dialled) {
            let endpoint = services[later.0].endpoints[later.1].clone();
            let other = services[earlier.0].endpoints[earlier.1].clone();
            let at = |(service, endpoint)| self.at(service, ServicePart::Endpoint(endpoint));
            let (location, related) = (at(later), at(earlier));
            let reason = if endpoint == other {
                Reason::ServiceTwice { protocol, endpoint }
            } else {
                Reason::ServicesOverlap { protocol, endpoint, other }
            };
            self.add_pair(location, related, reason);
        }
    }

    fn snat(&mut self) {
        let rules = self.rules;
        if rules.snat.is_empty() {
            return;
        }
        let (servers, endpoints) = (rules.server_addresses(), EndpointsByAddress::of(rules));
        let mut seen = Disjoint::default();
        for (index, rule) in rules.snat.iter().enumerate() {
            let at = |part| Location::Snat { index, from: rule.from, part };
            let from = self.snat_network(rule.from);
            let is_right = from.is_ok();
            self.add(at(SnatPart::From), from);
            if is_right && let Err(earlier) = seen.insert(rule.from, index) {
                let other = rules.snat[earlier].from;
                let related = Location::Snat { index: earlier, from: other, part: SnatPart::From };
                let reason = Reason::SnatOverlaps { from: rule.from, other };
                self.add_pair(at(SnatPart::From), related, reason);
            }
            if rule.to.is_empty() {
                self.add(at(SnatPart::Addresses), Err(Reason::NoSnatAddress));
            }
            let ports = check_ports(&rule.ports);
            let are_ports = ports.is_ok();
            self.add(at(SnatPart::Ports(0)), ports);
            let mut addresses: HashMap<IpAddr, usize> = HashMap::new();
            for (number, address) in rule.to.iter().enumerate() {
                self.add(at(SnatPart::Address(number)), self.snat_address(*address, &servers));
                if let Some(earlier) = addresses.insert(*address, number) {
                    let related = at(SnatPart::Address(earlier));
                    let reason = Reason::SnatAddressTwice(*address);
                    self.add_pair(at(SnatPart::Address(number)), related, reason);
                } else if are_ports {
                    self.source_ports(
                        at(SnatPart::Ports(number)),
                        *address,
                        &rule.ports,
                        &endpoints,
                    );
                }
            }
        }
    }

    fn snat_network(&self, from: IpNet) -> Result<(), Reason> {
        if from.addr().is_ipv6() {
            return Err(Reason::Ipv6Network(from));
        }
        if from != from.trunc() {
            return Err(Reason::HostBits(from));
        }
        let Some(network) = &self.network else { return Ok(()) };
        let overlaps = |net: &IpNet| net.contains(&from) || from.contains(net);
        match network.network.connected_to(Side::Outside).find(overlaps) {
            Some(outside) => Err(Reason::SnatOutside { from, outside, inside: network.inside() }),
            None => Ok(()),
        }
    }

    fn snat_address(&self, address: IpAddr, servers: &HashSet<IpAddr>) -> Result<(), Reason> {
        check_ipv6(address)?;
        let Some(network) = &self.network else { return check_host(address) };
        network.check_virtual(address)?;
        if network.owner(address) == Some(Side::Inside) {
            return Err(Reason::SnatAddressInside(address));
        }
        if servers.contains(&address) { Err(Reason::IsServer(address)) } else { Ok(()) }
    }

    fn local_addresses(&mut self) {
        let rules = self.rules;
        if rules.local_addresses.is_empty() && rules.hairpin.is_none() {
            return;
        }
        let (servers, endpoints) = (rules.server_addresses(), EndpointsByAddress::of(rules));
        let mut ranges = Vec::new();
        for (index, local) in rules.local_addresses.iter().enumerate() {
            let LocalAddress { address, ports } = local.clone();
            let at = |part| Location::LocalAddress { index, address, part };
            self.add(at(LocalAddressPart::Address), self.local_address(address, &servers));
            match check_ports(&ports) {
                Ok(()) => {
                    self.source_ports(at(LocalAddressPart::Ports), address, &ports, &endpoints);
                }
                wrong => self.add(at(LocalAddressPart::Ports), wrong),
            }
            ranges.push(VirtualEndpoint { address, ports });
        }
        for (later, earlier) in overlap::overlaps(&ranges) {
            let at = |index: usize| Location::LocalAddress {
                index,
                address: ranges[index].address,
                part: LocalAddressPart::Ports,
            };
            let (local, other) = (ranges[later].clone(), ranges[earlier].clone());
            let reason = Reason::LocalAddressesOverlap { local, other };
            self.add_pair(at(later), at(earlier), reason);
        }
        if let Some(LocalAddress { address, ports }) = &rules.hairpin {
            let checked = self.local_address(*address, &servers);
            self.add(Location::Hairpin(LocalAddressPart::Address), checked);
            self.add(Location::Hairpin(LocalAddressPart::Ports), check_ports(ports));
        }
    }

    fn local_address(&self, address: IpAddr, servers: &HashSet<IpAddr>) -> Result<(), Reason> {
        check_ipv6(address)?;
        match &self.network {
            Some(network) => network.check_local(address)?,
            None => check_host(address)?,
        }
        // Where the director has it, it is the server that is wrong.
        let is_own = self.network.as_ref().is_some_and(|network| network.owner(address).is_some());
        if servers.contains(&address) && !is_own { Err(Reason::IsServer(address)) } else { Ok(()) }
    }

    /// Refuses source ports among which a service has its own: a reply to the one could not be told
    /// from a request to the other.
    fn source_ports(
        &mut self,
        location: Location,
        address: IpAddr,
        ports: &RangeInclusive<u16>,
        endpoints: &EndpointsByAddress<'_>,
    ) {
        let wanted = VirtualEndpoint { address, ports: ports.clone() };
        if let Some((service, endpoint)) = endpoints.overlapping(&wanted) {
            let related = self.at(service, ServicePart::Endpoint(endpoint));
            let endpoint = self.rules.services[service].endpoints[endpoint].clone();
            let reason = Reason::SourcePortsTaken { ports: ports.clone(), endpoint };
            self.add_pair(location, related, reason);
        }
    }
}

impl ServiceCheck<'_, '_> {
    fn run(&mut self) {
        self.protocols();
        self.endpoints();
        self.scheduler();
        self.servers();
        self.one_packet();
        let service = self.service;
        if service.mode == ForwardingMode::FullNat && self.check.rules.local_addresses.is_empty() {
            self.add(ServicePart::Mode, Err(Reason::NoLocalAddress));
        }
        if let Some(persistence) = service.persistence {
            self.add(ServicePart::PersistenceTimeout, check_duration(persistence.timeout));
            let is_ipv4 = service.endpoints.iter().all(|endpoint| endpoint.address.is_ipv4());
            let (len, longest) = (persistence.prefix_len, if is_ipv4 { 32 } else { 128 });
            if !(1..=longest).contains(&len) {
                let reason = Reason::PersistencePrefix { len, longest };
                self.add(ServicePart::PersistencePrefix, Err(reason));
            }
        }
        if let Some(timeout) = service.drain_timeout {
            self.add(ServicePart::DrainTimeout, check_duration(timeout));
        }
        if let Some(limit) = service.mss_limit {
            if !VirtualService::MSS_LIMITS.contains(&limit) {
                self.add(ServicePart::MssLimit, Err(Reason::MssLimit(limit)));
            } else if !service.protocols.is_empty() && !service.protocols.contains(&Protocol::Tcp) {
                self.add(ServicePart::MssLimit, Err(Reason::MssWithoutTcp));
            }
        }
        for (name, timeout) in service.timeouts.iter() {
            self.add(ServicePart::Timeout(name), check_duration(timeout));
        }
    }

    fn add(&mut self, part: ServicePart, result: Result<(), Reason>) {
        if result.is_err() {
            let at = self.check.at(self.index, part);
            self.check.add(at, result);
        }
    }

    fn add_pair(&mut self, part: ServicePart, related: ServicePart, reason: Reason) {
        let at = |part| self.check.at(self.index, part);
        let (location, related) = (at(part), at(related));
        self.check.add_pair(location, related, reason);
    }

    fn protocols(&mut self) {
        let protocols = &self.service.protocols;
        if protocols.is_empty() {
            self.add(ServicePart::Protocols, Err(Reason::NoProtocol));
        }
        for (index, protocol) in protocols.iter().enumerate() {
            if let Some(earlier) = protocols[..index].iter().position(|other| other == protocol) {
                let related = ServicePart::Protocol(earlier);
                let reason = Reason::ProtocolTwice(*protocol);
                self.add_pair(ServicePart::Protocol(index), related, reason);
            }
        }
    }

    fn endpoints(&mut self) {
        let endpoints = &self.service.endpoints;
        if endpoints.is_empty() {
            self.add(ServicePart::Endpoints, Err(Reason::NoEndpoint));
        }
        for (index, endpoint) in endpoints.iter().enumerate() {
            let part = ServicePart::Endpoint(index);
            let address = self.virtual_address(endpoint.address);
            self.add(part, address.and_then(|()| check_ports(&endpoint.ports)));
            // Without persistence, the connections of a client go anywhere.
            if endpoint.is_any_port() && self.service.persistence.is_none() {
                self.add(part, Err(Reason::AnyPort(endpoint.clone())));
            }
        }
        for (later, earlier) in overlap::overlaps(endpoints) {
            let (endpoint, other) = (endpoints[later].clone(), endpoints[earlier].clone());
            let reason = if endpoint == other {
                Reason::EndpointTwice(endpoint)
            } else {
                Reason::EndpointOverlaps { endpoint, other }
            };
            self.add_pair(ServicePart::Endpoint(later), ServicePart::Endpoint(earlier), reason);
        }
    }

    fn virtual_address(&self, address: IpAddr) -> Result<(), Reason> {
        check_ipv6(address)?;
        match &self.check.network {
            Some(network) => network.check_virtual(address),
            None => check_host(address),
        }
    }

    fn scheduler(&mut self) {
        let VirtualService { scheduler, scheduler_flags: flags, scheduler_slots, servers, .. } =
            self.service;
        let hashes = matches!(
            scheduler,
            Scheduler::SourceHash | Scheduler::DestinationHash | Scheduler::Maglev
        );
        if (flags.fallback || flags.port) && !hashes {
            self.add(ServicePart::SchedulerFlags, Err(Reason::SchedulerFlags(*scheduler)));
        }
        let Some(slots) = *scheduler_slots else { return };
        let result = if *scheduler != Scheduler::Maglev {
            Err(Reason::SlotsWithoutTable(*scheduler))
        } else if !VirtualService::may_have_slots(slots) {
            Err(Reason::Slots(slots))
        } else if (slots as usize) < servers.len() {
            Err(Reason::FewSlots { slots, servers: servers.len() })
        } else {
            Ok(())
        };
        self.add(ServicePart::SchedulerSlots, result);
    }

    fn servers(&mut self) {
        let service = self.service;
        let vport = service.port();
        // Whatever one leaves to the dialled port, another may have written.
        let dialled = |server: &RealServer| (server.address, server.port.or(vport));
        let mut seen = HashMap::with_capacity(service.servers.len());
        for (index, server) in service.servers.iter().enumerate() {
            let identity = server.identity();
            let part = |part| ServicePart::Server { index, server: identity, part };
            let address = self.server_address(server);
            self.add(part(ServerPart::Address), address);
            self.thresholds(server, part(ServerPart::LowerThreshold));
            if let Some(earlier) = seen.insert(dialled(server), index) {
                let (index, server) = (earlier, service.servers[earlier].identity());
                let related = ServicePart::Server { index, server, part: ServerPart::Address };
                let reason = Reason::ServerTwice(identity);
                self.add_pair(part(ServerPart::Address), related, reason);
            }
        }
        if let Some(fallback) = &service.fallback {
            let address = self.server_address(fallback);
            self.add(ServicePart::Fallback(ServerPart::Address), address);
            self.thresholds(fallback, ServicePart::Fallback(ServerPart::LowerThreshold));
            if let Some(index) = seen.get(&dialled(fallback)) {
                let (index, server) = (*index, service.servers[*index].identity());
                let related = ServicePart::Server { index, server, part: ServerPart::Address };
                let reason = Reason::FallbackIsServer(fallback.identity());
                self.add_pair(ServicePart::Fallback(ServerPart::Address), related, reason);
            }
        }
    }

    fn server_address(&self, server: &RealServer) -> Result<(), Reason> {
        let address = server.address;
        check_ipv6(address)?;
        match &self.check.network {
            Some(network) => {
                network.check_host(address)?;
                if network.owner(address).is_some() || self.check.vips.contains(&address) {
                    return Err(Reason::ServerIsDirector(address));
                }
                network.check_reach(address)?;
            }
            None => check_host(address)?,
        }
        if server.port == Some(0) { Err(Reason::PortZero) } else { Ok(()) }
    }

    fn thresholds(&mut self, server: &RealServer, lower_part: ServicePart) {
        let (lower, upper) = (server.lower_threshold, server.upper_threshold);
        if lower > upper {
            let reason = match upper {
                0 => Reason::LowerAlone(lower),
                _ => Reason::LowerAboveUpper { lower, upper },
            };
            self.add(lower_part, Err(reason));
        }
    }

    fn one_packet(&mut self) {
        let service = self.service;
        if !service.one_packet {
            return;
        }
        if service.protocols.contains(&Protocol::Tcp) {
            self.add(ServicePart::OnePacket, Err(Reason::OnePacketTcp));
        }
        if service.mode == ForwardingMode::FullNat {
            self.add(ServicePart::OnePacket, Err(Reason::OnePacketFullNat));
        }
        let is_single = matches!(&service.endpoints[..], [endpoint] if endpoint.port().is_some());
        if !service.endpoints.is_empty() && !is_single {
            self.add(ServicePart::OnePacket, Err(Reason::OnePacketEndpoints));
        }
        if service.drain_timeout.is_some() {
            self.add(ServicePart::DrainTimeout, Err(Reason::OnePacketDrains));
        }
    }
}

impl Rules {
    /// The addresses of all servers, those of fallbacks included.
    fn server_addresses(&self) -> HashSet<IpAddr> {
        let servers = self.services.iter().flat_map(|service| service.all_servers());
        servers.map(|server| server.address).collect()
    }
}

/// The endpoints of all services, found by address.
struct EndpointsByAddress<'a>(HashMap<IpAddr, Vec<(overlap::EndpointIndex, &'a VirtualEndpoint)>>);

impl<'a> EndpointsByAddress<'a> {
    fn of(rules: &'a Rules) -> EndpointsByAddress<'a> {
        let mut endpoints: HashMap<IpAddr, Vec<_>> = HashMap::new();
        for (index, service) in rules.services.iter().enumerate() {
            for (number, endpoint) in service.endpoints.iter().enumerate() {
                endpoints.entry(endpoint.address).or_default().push(((index, number), endpoint));
            }
        }
        EndpointsByAddress(endpoints)
    }

    fn overlapping(&self, wanted: &VirtualEndpoint) -> Option<overlap::EndpointIndex> {
        let endpoints = self.0.get(&wanted.address)?;
        let found = endpoints.iter().find(|(_, endpoint)| endpoint.overlaps(wanted));
        found.map(|(index, _)| *index)
    }
}

/// Networks of which no two overlap.
#[derive(Default)]
struct Disjoint(std::collections::BTreeMap<IpAddr, (IpNet, usize)>);

impl Disjoint {
    /// Adds a network, or says which one it overlaps.
    fn insert(&mut self, net: IpNet, index: usize) -> Result<(), usize> {
        // They are disjoint, so only the last that begins within this one or before it can overlap it.
        let nearest = self.0.range(..=net.broadcast()).next_back();
        match nearest {
            Some((_, (other, index))) if other.contains(&net) || net.contains(other) => Err(*index),
            _ => {
                self.0.insert(net.network(), (net, index));
                Ok(())
            }
        }
    }
}

fn check_ipv6(address: IpAddr) -> Result<(), Reason> {
    if address.is_ipv6() { Err(Reason::Ipv6(address)) } else { Ok(()) }
}

fn check_ports(ports: &RangeInclusive<u16>) -> Result<(), Reason> {
    if *ports.start() == 0 || ports.is_empty() { Err(Reason::Ports(ports.clone())) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::{collection::vec, prelude::*};

    /// Few addresses, so that much overlaps.
    fn network() -> impl Strategy<Value = IpNet> {
        let ipv4 =
            (0..16u8, 28..=32u8).prop_map(|(host, len)| (IpAddr::from([10, 0, 0, host]), len));
        let ipv6 = (0..4u16, 125..=128u8)
            .prop_map(|(host, len)| (IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, host]), len));
        prop_oneof![ipv4, ipv6].prop_map(|(base, len)| IpNet::new(base, len).unwrap().trunc())
    }

    proptest! {
        #[test]
        fn disjoint_networks_are_held_against_all_before(networks in vec(network(), 0..12)) {
            let mut disjoint = Disjoint::default();
            let mut accepted: Vec<(usize, IpNet)> = Vec::new();
            for (index, net) in networks.into_iter().enumerate() {
                let overlaps = |other: &IpNet| other.contains(&net) || net.contains(other);
                let is_free = accepted.iter().all(|(_, other)| !overlaps(other));
                match disjoint.insert(net, index) {
                    Ok(()) => {
                        prop_assert!(is_free, "{net}");
                        accepted.push((index, net));
                    }
                    Err(earlier) => {
                        let earlier = accepted.iter().find(|(index, _)| *index == earlier);
                        prop_assert!(earlier.is_some_and(|(_, other)| overlaps(other)), "{net}");
                    }
                }
            }
        }
    }
}
