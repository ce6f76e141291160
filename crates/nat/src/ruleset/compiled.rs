//! Rules arranged for looking up: what all workers share, and what stays as it is until the next
//! change.

use std::{
    net::{Ipv4Addr, SocketAddrV4},
    ops::Range,
    sync::Arc,
    time::Duration,
};

use hashbrown::HashSet;
use ipnet::Ipv4Net;
use shunt_rules::{
    Defaults, ForwardingMode, OnUnknown, ServerId, ServiceId, Timeouts, VirtualService,
};

use super::{
    address::{AddressSet, resolve_rport},
    server_endpoints::ServerEndpoints,
    service_lookup::ServiceLookup,
};
use crate::{
    persistence::PersistencePolicy,
    scheduler::{Schedule, compares_loads},
    server::Server,
    time::Instant,
};

/// Numbers the changes of the rules.
pub(super) type Generation = u64;

/// The rules, but for what is a worker's own. What a change leaves alone is shared with the compiled
/// rules from before it.
#[derive(Debug)]
pub(super) struct CompiledRules {
    /// By [`ServiceId`]; with those that were removed and may have connections.
    pub(super) services: Vec<Option<Arc<CompiledService>>>,
    /// One more than the highest number of a server.
    pub(super) servers: u32,
    /// Those of the rules, in their order.
    pub(super) order: Vec<ServiceId>,
    pub(super) lookup: Arc<ServiceLookup>,
    pub(super) server_endpoints: Arc<ServerEndpoints>,
    pub(super) defaults: Defaults,
    pub(super) has_hairpin: bool,
    /// Virtual addresses: of now, and of before as long as connections may use them.
    pub(super) virtual_addresses: AddressSet,
    pub(super) server_addresses: AddressSet,
    /// Addresses of SNAT rules, of now and of before as long as connections may use them.
    pub(super) snat_addresses: HashSet<Ipv4Addr>,
    /// Inside networks of SNAT rules that were removed, and whose connections may live.
    pub(super) former_inside: Vec<Ipv4Net>,
    /// Servers with connections that are to end at a certain time, the first one first.
    pub(super) drains: Vec<Drain>,
}

/// A server whose connections are to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Drain {
    pub(super) deadline: Instant,
    pub(super) server: ServerId,
}

impl CompiledRules {
    /// # Panics
    /// When no service has this number.
    #[inline]
    pub(super) fn service(&self, id: ServiceId) -> &CompiledService {
        self.services[id.0 as usize].as_ref().expect("numbers in use are not given away")
    }

    /// Whether packets to this outside address may have to be translated.
    pub(super) fn translates_to(&self, address: Ipv4Addr) -> bool {
        self.virtual_addresses.contains(address) || self.snat_addresses.contains(&address)
    }

    /// Whether packets from this inside address may have to be translated, for another reason than
    /// that an SNAT rule covers it now.
    pub(super) fn translates_from(&self, address: Ipv4Addr) -> bool {
        self.server_addresses.contains(address)
            || self.former_inside.iter().any(|network| network.contains(&address))
    }
}

/// What holds for a service's connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ServiceOptions {
    pub(crate) mode: ForwardingMode,
    pub(crate) one_packet: bool,
    pub(crate) mss_limit: Option<u16>,
    pub(crate) on_unknown: OnUnknown,
    pub(crate) reset_on_expiry: bool,
    pub(crate) timeouts: Timeouts,
    pub(crate) drain_timeout: Option<Duration>,
    /// Whether a connection that opens or ends changes which server is chosen next.
    pub(crate) compares_loads: bool,
}

impl ServiceOptions {
    pub(super) fn of(service: &VirtualService, defaults: &Defaults) -> ServiceOptions {
        ServiceOptions {
            mode: service.mode,
            one_packet: service.one_packet,
            mss_limit: service.mss_limit,
            on_unknown: service.on_unknown(defaults),
            reset_on_expiry: service.reset_on_expiry(defaults),
            timeouts: service.timeouts(defaults),
            drain_timeout: service.drain_timeout,
            compares_loads: compares_loads(service.scheduler),
        }
    }
}

/// A service, with those of its servers that may have connections.
#[derive(Debug)]
pub(super) struct CompiledService {
    /// What was said of it; of a removed service, last.
    pub(super) rules: Arc<VirtualService>,
    pub(super) options: ServiceOptions,
    /// First those that are scheduled, then the fallback, then those that were removed.
    pub(super) servers: Box<[Server]>,
    /// When each of them came, in the same order.
    pub(super) server_births: Box<[Generation]>,
    /// Where each of them is, sorted by number.
    pub(super) positions: Box<[(ServerId, u32)]>,
    pub(super) scheduled: usize,
    pub(super) has_fallback: bool,
    /// `None` if the service was removed.
    pub(super) schedule: Option<Arc<dyn Schedule>>,
    /// Whether and how its clients keep their servers.
    pub(super) policy: Option<PersistencePolicy>,
    /// Whether servers may be chosen for several connections before the first of them is open.
    pub(super) preschedules: bool,
    /// Its addresses, of now and of before as long as connections may use them.
    pub(super) virtual_addresses: Box<[Ipv4Addr]>,
    pub(super) server_addresses: Box<[Ipv4Addr]>,
}

impl CompiledService {
    /// The servers that its scheduler chooses from.
    pub(super) fn scheduled(&self) -> &[Server] {
        &self.servers[..self.scheduled]
    }

    /// The position of its fallback server.
    pub(super) fn fallback(&self) -> Option<usize> {
        self.has_fallback.then_some(self.scheduled)
    }

    /// Positions of all that were not removed.
    pub(super) fn listed(&self) -> Range<usize> {
        0..self.scheduled + usize::from(self.has_fallback)
    }

    /// Where a server is, if the service has it.
    #[inline]
    pub(super) fn position(&self, server: ServerId) -> Option<usize> {
        // Servers that came together have numbers in a row.
        let (first, _) = self.positions.first()?;
        match self.positions.get(server.0.wrapping_sub(first.0) as usize) {
            Some((id, position)) if *id == server => Some(*position as usize),
            _ => self.search_position(server),
        }
    }

    #[inline(never)]
    fn search_position(&self, server: ServerId) -> Option<usize> {
        let found = self.positions.binary_search_by_key(&server, |(id, _)| *id).ok()?;
        Some(self.positions[found].1 as usize)
    }

    /// A server that has connections.
    ///
    /// # Panics
    /// When the service has no such server.
    pub(super) fn server(&self, server: ServerId) -> &Server {
        let position = self.position(server).expect("numbers in use are not given away");
        &self.servers[position]
    }

    /// Whether its scheduler may choose this server.
    pub(super) fn schedules(&self, server: ServerId) -> bool {
        self.position(server).is_some_and(|position| position < self.scheduled)
    }

    /// The servers from which a one-packet service's datagrams come, and the endpoint that clients know
    /// it by.
    pub(super) fn one_packet(
        &self,
    ) -> Option<(SocketAddrV4, impl Iterator<Item = (ServerId, SocketAddrV4)>)> {
        let endpoint = self.rules.endpoints.first().filter(|_| self.rules.one_packet)?;
        let virtual_endpoint =
            SocketAddrV4::new(super::address::v4(endpoint.address), *endpoint.ports.start());
        let listed = self.servers[self.listed()].iter().map(move |server| {
            (server.id, resolve_rport(server.endpoint, virtual_endpoint.port()))
        });
        Some((virtual_endpoint, listed))
    }
}
