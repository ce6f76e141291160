//! What a director is to do, as plain values: the vocabulary that the service file, the API and the
//! commands share.
//!
//! [`Rules`] say everything: virtual services with their real servers, SNAT, the source addresses of
//! full-NAT, and how long connections live. A [`Change`] says what is to be different, and
//! [`Rules::apply`] makes it so, all or nothing; [`Rules::diff`] finds the changes that lead from one
//! set of rules to another. [`Rules::check`] finds what makes no
//! sense, in itself or on the director's [`Network`], each [`Problem`] with the value that it is about.
//!
//! | you look for | it is in |
//! | --- | --- |
//! | the two networks | `side` |
//! | services, what clients dial | `service`, `endpoint` |
//! | servers | `server` |
//! | schedulers and their flags | `scheduler` |
//! | SNAT and local addresses | `source_address` |
//! | timeouts | `timeouts` |
//! | who is who when rules change | `identity` |
//! | changes, and applying them | `change` |
//! | what is different | `diff` |
//! | whether rules make sense | `check`, `overlap` |
//! | what is wrong, where, and what to do | `problem` |
//! | the networks around the director | `network` |
//!
//! Addresses are [`IpAddr`](std::net::IpAddr)s, whatever a data path can do with them today. The order
//! of servers within a service counts (schedulers prefer the first of several that are equally good),
//! that of services and SNAT rules doesn't.
#![forbid(unsafe_code)]

mod change;
mod check;
mod diff;
mod endpoint;
mod identity;
mod network;
mod overlap;
mod problem;
mod scheduler;
mod server;
mod service;
mod side;
mod source_address;
mod timeouts;

use std::sync::Arc;

pub use change::{ApplyError, Change, Refusal};
pub use diff::Summary;
pub use endpoint::VirtualEndpoint;
pub use identity::{ServerId, ServerIdentity, ServiceId, ServiceIdentity};
pub use network::{Network, Route, check_edge, check_host};
pub use problem::{LocalAddressPart, Location, Problem, Reason, ServerPart, ServicePart, SnatPart};
pub use scheduler::{Scheduler, SchedulerFlags};
pub use server::RealServer;
pub use service::{
    ForwardingMode, LatePackets, OnUnknown, Persistence, Protocol, SourceRoutes, VirtualService,
};
pub use side::Side;
pub use source_address::{LocalAddress, SnatRule};
pub use timeouts::{TimeoutOverrides, Timeouts};

/// All that a director is to do.
///
/// A copy costs a pointer for each service: what a change leaves alone is shared between the rules
/// before it and those after it, and found to be the same by comparing pointers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// Virtual services. Names are unique, and so are identities.
    pub services: Vec<Arc<VirtualService>>,
    /// Outbound SNAT; no two rules cover the same host.
    pub snat: Vec<SnatRule>,
    /// The source addresses of full-NAT; port ranges on one address are disjoint.
    pub local_addresses: Vec<LocalAddress>,
    /// The source address, and its ports, for inside hosts that dial a virtual service (hairpin):
    /// their server would otherwise answer them directly. `None` refuses them.
    pub hairpin: Option<LocalAddress>,
    /// What applies to connections of no service, and to those of services that don't say otherwise.
    pub defaults: Defaults,
}

/// What applies where a service doesn't say otherwise, and to packets of no service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Defaults {
    /// How long connections may be silent.
    pub timeouts: Timeouts,
    /// What becomes of TCP segments in mid-stream that belong to no connection.
    pub on_unknown: OnUnknown,
    /// What becomes of packets from a service's servers that belong to no connection.
    pub late_packets: LatePackets,
    /// What becomes of packets whose sender chose their way.
    pub source_routes: SourceRoutes,
    /// Whether both ends of an established TCP connection are told when it ends for being silent.
    pub reset_on_expiry: bool,
}

impl Rules {
    /// The service with this name.
    #[must_use]
    pub fn service(&self, name: &str) -> Option<&Arc<VirtualService>> {
        self.services.iter().find(|service| service.name == name)
    }
}
