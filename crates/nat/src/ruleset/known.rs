//! Who is who when the rules change.

use std::{net::IpAddr, sync::Arc};

use shunt_rules::{RealServer, Rules, ServerId, ServiceId, VirtualService};

use crate::{
    persistence::{ClientsId, KeepRule},
    scheduler::Schedule,
    server::ServerShared,
};

/// Numbers the changes of the rules.
pub(super) type Generation = u64;

/// Services and servers of the rules, and those that were removed but may have connections.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// By [`ServiceId`].
    pub(super) services: Vec<Option<KnownService>>,
    /// By [`ServerId`].
    pub(super) servers: Vec<Option<KnownServer>>,
    /// The services of the rules, in their order.
    pub(super) order: Vec<ServiceId>,
    /// How many [`ClientsId`]s were given away.
    clients: u32,
    /// Whether something was forgotten that clients may be told to keep.
    pub(super) clients_lose: bool,
}

#[derive(Debug)]
pub(super) struct KnownService {
    pub(super) born: Generation,
    pub(super) removed: Option<Generation>,
    /// Of a removed service, the last ones.
    pub(super) options: Arc<VirtualService>,
    /// In the order of the rules, the fallback last.
    pub(super) listed: Vec<ServerId>,
    pub(super) removed_servers: Vec<ServerId>,
    /// Virtual addresses that it had before, and until when.
    pub(super) former_addresses: Vec<(IpAddr, Generation)>,
    pub(super) keep: Option<KeepRule>,
    pub(super) scheduler: Option<Arc<dyn Schedule>>,
}

impl KnownService {
    fn all_servers(&self) -> impl Iterator<Item = ServerId> {
        self.listed.iter().chain(&self.removed_servers).copied()
    }
}

#[derive(Debug)]
pub(super) struct KnownServer {
    pub(super) born: Generation,
    pub(super) removed: Option<Generation>,
    pub(super) real: RealServer,
    pub(super) shared: Arc<ServerShared>,
}

impl Known {
    /// Forgets what was removed and has no connections, provided that no worker can open more: all
    /// plans from before `oldest` have been dropped.
    pub(super) fn forget(&mut self, oldest: Generation) {
        let is_over = |until: Generation| until <= oldest;
        let is_idle = |server: &KnownServer| server.shared.is_idle();
        for service in &mut self.services {
            let Some(known) = service else { continue };
            let server = |id: ServerId| self.servers[id.0 as usize].as_ref();
            if known.all_servers().filter_map(server).all(is_idle) {
                known.former_addresses.retain(|(_, until)| !is_over(*until));
            }
            for id in &known.removed_servers {
                let slot = &mut self.servers[id.0 as usize];
                let is_over = |server: &mut KnownServer| {
                    server.removed.is_some_and(is_over) && is_idle(server)
                };
                self.clients_lose |= slot.take_if(is_over).is_some();
            }
            known.removed_servers.retain(|id| self.servers[id.0 as usize].is_some());
            if known.removed.is_some_and(is_over) && known.removed_servers.is_empty() {
                *service = None;
            }
        }
    }

    /// Takes in new rules.
    pub(super) fn update(&mut self, rules: &Rules, now: Generation) {
        // Of several that could be meant, those that are there come before those that were removed.
        let mut candidates = std::mem::take(&mut self.order);
        candidates.extend(self.removed_services());
        for options in &rules.services {
            let identity = options.identity();
            let known =
                candidates.iter().position(|id| self.service(*id).options.identity() == identity);
            let id = match known {
                Some(known) => candidates.remove(known),
                None => self.add_service(options, now),
            };
            self.update_service(id, options, now);
            self.order.push(id);
        }
        for id in candidates {
            self.remove_service(id, now);
        }
    }

    pub(super) fn removed_services(&self) -> impl Iterator<Item = ServiceId> {
        let is_removed = |known: &KnownService| known.removed.is_some();
        let services = (0..).map(ServiceId).zip(&self.services);
        services.filter(move |(_, known)| known.as_ref().is_some_and(is_removed)).map(|(id, _)| id)
    }

    pub(super) fn service(&self, id: ServiceId) -> &KnownService {
        self.services[id.0 as usize].as_ref().expect("a known service")
    }

    pub(super) fn service_mut(&mut self, id: ServiceId) -> &mut KnownService {
        self.services[id.0 as usize].as_mut().expect("a known service")
    }

    pub(super) fn server(&self, id: ServerId) -> &KnownServer {
        self.servers[id.0 as usize].as_ref().expect("a known server")
    }

    fn server_mut(&mut self, id: ServerId) -> &mut KnownServer {
        self.servers[id.0 as usize].as_mut().expect("a known server")
    }

    fn add_service(&mut self, options: &Arc<VirtualService>, now: Generation) -> ServiceId {
        let service = KnownService {
            born: now,
            removed: None,
            options: Arc::clone(options),
            listed: Vec::new(),
            removed_servers: Vec::new(),
            former_addresses: Vec::new(),
            keep: None,
            scheduler: None,
        };
        ServiceId(put(&mut self.services, service))
    }

    fn update_service(&mut self, id: ServiceId, options: &Arc<VirtualService>, now: Generation) {
        let keep = self.keep_rule(id, options);
        let kept = self.service(id).keep.map(|keep| keep.clients);
        self.clients_lose |= kept != keep.map(|keep| keep.clients);
        let known = self.service_mut(id);
        let former = std::mem::replace(&mut known.options, Arc::clone(options));
        let addresses = former.endpoints.iter().map(|endpoint| (endpoint.address, now));
        known.former_addresses.extend(
            addresses
                .filter(|(address, _)| options.endpoints.iter().all(|e| e.address != *address)),
        );
        (known.removed, known.keep) = (None, keep);

        let mut candidates: Vec<ServerId> = known.all_servers().collect();
        let mut listed = Vec::new();
        for real in options.servers.iter().chain(&options.fallback) {
            let identity = real.identity();
            let known =
                candidates.iter().position(|id| self.server(*id).real.identity() == identity);
            let id = match known {
                Some(known) => candidates.remove(known),
                None => ServerId(put(&mut self.servers, KnownServer::new(real, now))),
            };
            let known = self.server_mut(id);
            known.removed = None;
            known.set(*real);
            listed.push(id);
        }
        for id in &candidates {
            self.remove_server(*id, now);
        }
        let known = self.service_mut(id);
        (known.listed, known.removed_servers) = (listed, candidates);
    }

    /// Clients keep their servers for as long as they are told apart in the same way.
    fn keep_rule(&mut self, id: ServiceId, options: &VirtualService) -> Option<KeepRule> {
        let persistence = options.persistence?;
        let before = self.service(id).keep;
        let clients = match before {
            Some(keep) if keep.persistence.prefix_len == persistence.prefix_len => keep.clients,
            _ => {
                self.clients += 1;
                ClientsId(self.clients)
            }
        };
        Some(KeepRule { clients, persistence })
    }

    fn remove_service(&mut self, id: ServiceId, now: Generation) {
        self.clients_lose = true;
        let known = self.service_mut(id);
        known.removed.get_or_insert(now);
        (known.keep, known.scheduler) = (None, None);
        let mut listed = std::mem::take(&mut known.listed);
        known.removed_servers.append(&mut listed);
        for server in known.removed_servers.clone() {
            self.remove_server(server, now);
        }
    }

    /// It gets no new connections from whoever runs the rules of now.
    fn remove_server(&mut self, id: ServerId, now: Generation) {
        self.server_mut(id).removed.get_or_insert(now);
    }
}

impl KnownServer {
    fn new(real: &RealServer, now: Generation) -> KnownServer {
        let RealServer { weight, upper_threshold, lower_threshold, .. } = *real;
        let shared = Arc::new(ServerShared::new(weight, upper_threshold, lower_threshold));
        KnownServer { born: now, removed: None, real: *real, shared }
    }

    /// Takes in what is said of it now. On all workers that is so at once.
    fn set(&mut self, real: RealServer) {
        if real.weight != self.shared.configured_weight() {
            self.shared.set_weight(real.weight);
        }
        self.shared.set_thresholds(real.upper_threshold, real.lower_threshold);
        self.real = real;
    }
}

/// Puts an item into the first free slot.
fn put<T>(slots: &mut Vec<Option<T>>, item: T) -> u32 {
    let free = slots.iter().position(Option::is_none).unwrap_or(slots.len());
    if free == slots.len() {
        slots.push(None);
    }
    slots[free] = Some(item);
    free as u32
}
