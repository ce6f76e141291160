use std::{
    net::{Ipv4Addr, SocketAddrV4},
    ops::Range,
    sync::Arc,
    time::Duration,
};

use hashbrown::{HashMap, HashSet};
use ipnet::Ipv4Net;

use shunt_rules::{
    Defaults, ForwardingMode, OnUnknown, ServerId, ServiceId, Timeouts, VirtualService,
};

use super::{dialled::Dialled, server_endpoints::ServerEndpoints};
use crate::{persistence::KeepRule, scheduler::compares_loads, server::Server};

/// Rules arranged for looking up: what all workers share, and what stays as it is until the next
/// change.
#[derive(Debug)]
pub(super) struct Plan {
    /// By [`ServiceId`]; with those that were removed and may have connections.
    pub(super) services: Vec<Option<ServicePlan>>,
    /// Those of the rules, in their order.
    pub(super) order: Vec<ServiceId>,
    /// Those of each service are together.
    pub(super) servers: Vec<Server>,
    /// By [`ServerId`].
    pub(super) places: Vec<Option<Place>>,
    pub(super) dialled: Dialled,
    /// The virtual endpoint that datagrams from a server of a one-packet service leave from.
    pub(super) one_packet: HashMap<SocketAddrV4, (ServiceId, SocketAddrV4)>,
    pub(super) server_endpoints: ServerEndpoints,
    pub(super) defaults: Defaults,
    pub(super) has_hairpin: bool,
    /// Virtual addresses, and those of SNAT rules: of now, and of before as long as connections may
    /// use them.
    pub(super) outside_addresses: HashSet<Ipv4Addr>,
    pub(super) server_addresses: HashSet<Ipv4Addr>,
    /// Inside networks of SNAT rules that were removed, and whose connections may live.
    pub(super) former_inside: Vec<Ipv4Net>,
}

/// What holds for a service's connections.
#[derive(Clone, Copy, Debug)]
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

/// A service's part of the plan.
#[derive(Debug)]
pub(super) struct ServicePlan {
    /// In which change the service came.
    pub(super) born: u64,
    /// What was said of it; of a removed service, last.
    pub(super) service: Arc<VirtualService>,
    pub(super) options: ServiceOptions,
    /// Where its servers begin: first those that are scheduled, then the fallback, then those that
    /// were removed.
    pub(super) first: usize,
    pub(super) scheduled: usize,
    pub(super) has_fallback: bool,
    /// Whether and how its clients keep their servers.
    pub(super) keep: Option<KeepRule>,
    /// Whether its servers may be chosen ahead of time.
    pub(super) chooses_ahead: bool,
}

impl ServicePlan {
    /// Positions of the servers that its scheduler chooses from.
    pub(super) fn scheduled(&self) -> Range<usize> {
        self.first..self.first + self.scheduled
    }

    /// The position of its fallback server.
    pub(super) fn fallback(&self) -> Option<usize> {
        self.has_fallback.then_some(self.first + self.scheduled)
    }

    /// Positions of all that were not removed.
    pub(super) fn listed(&self) -> Range<usize> {
        self.first..self.first + self.scheduled + usize::from(self.has_fallback)
    }

    pub(super) fn lists(&self, position: usize) -> bool {
        self.listed().contains(&position)
    }
}

/// Where a server is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    /// In which change the server came.
    pub(super) born: u64,
    pub(super) service: ServiceId,
    /// Among all servers.
    pub(super) position: usize,
}

impl Plan {
    /// # Panics
    /// When nobody has this number.
    pub(super) fn service(&self, id: ServiceId) -> &ServicePlan {
        self.services[id.0 as usize].as_ref().expect("numbers in use are not given away")
    }

    pub(super) fn place(&self, id: ServerId) -> Option<Place> {
        *self.places.get(id.0 as usize)?
    }

    /// # Panics
    /// When nobody has this number.
    pub(super) fn server(&self, id: ServerId) -> &Server {
        let place = self.place(id).expect("numbers in use are not given away");
        &self.servers[place.position]
    }

    /// Services that are the same here and in an earlier plan.
    pub(super) fn surviving_services(&self, before: &Plan) -> impl Iterator<Item = ServiceId> {
        let is_same = |(after, before): (&Option<ServicePlan>, &Option<ServicePlan>)| matches!((after, before), (Some(after), Some(before)) if after.born == before.born);
        let both = self.services.iter().zip(&before.services).map(is_same);
        (0..).map(ServiceId).zip(both).filter(|(_, is_same)| *is_same).map(|(id, _)| id)
    }

    /// Where this plan's server was in an earlier plan, if it was there.
    pub(super) fn former_place(&self, before: &Plan, id: ServerId) -> Option<Place> {
        let born = self.place(id)?.born;
        before.place(id).filter(|place| place.born == born)
    }

    /// Whether packets to this outside address may have to be translated.
    pub(super) fn translates_to(&self, address: Ipv4Addr) -> bool {
        self.outside_addresses.contains(&address)
    }

    /// Whether packets from this inside address may have to be translated, for another reason than
    /// that an SNAT rule covers it now.
    pub(super) fn translates_from(&self, address: Ipv4Addr) -> bool {
        self.server_addresses.contains(&address)
            || self.former_inside.iter().any(|network| network.contains(&address))
    }
}
