//! Changes of the rules, as somebody who edits a service file makes them.

use std::sync::Arc;

use proptest::{prelude::*, sample::select};

use shunt_rules::{Defaults, LocalAddress, RealServer, Rules, SnatRule, VirtualService};

use crate::setup::{defaults, local_addresses, rules, server, servers_at, service, snat};

/// Services and servers are numbered, the servers through all services, and the numbers wrap.
#[derive(Clone, Debug)]
pub(crate) enum Change {
    Weight {
        server: usize,
        weight: u16,
    },
    AddServer {
        service: usize,
        at: usize,
        server: RealServer,
    },
    RemoveServer {
        server: usize,
    },
    AddService {
        at: usize,
        service: Box<VirtualService>,
    },
    RemoveService {
        service: usize,
    },
    /// A service gets everything that another one is, but for who it is, and for its servers if it
    /// keeps them.
    EditService {
        service: usize,
        to: Box<VirtualService>,
        keeps_servers: bool,
    },
    /// Services and servers come in another order.
    Reorder {
        by: usize,
    },
    Snat(Vec<SnatRule>),
    Local {
        addresses: Vec<LocalAddress>,
        hairpin: Option<LocalAddress>,
    },
    Defaults(Defaults),
    /// All is as it was in the beginning.
    Restore,
    /// Nothing is as it was.
    Replace(Box<Rules>),
}

pub(crate) fn change() -> impl Strategy<Value = Change> {
    let number = || 0usize..12;
    let weight = prop_oneof![2 => Just(0), 3 => select(vec![1u16, 2, 5])];
    let a_server = || select(servers_at()).prop_flat_map(server);
    prop_oneof![
        6 => (number(), weight).prop_map(|(server, weight)| Change::Weight { server, weight }),
        3 => (number(), number(), a_server())
            .prop_map(|(service, at, server)| Change::AddServer { service, at, server }),
        4 => number().prop_map(|server| Change::RemoveServer { server }),
        1 => (number(), service().boxed())
            .prop_map(|(at, service)| Change::AddService { at, service: Box::new(service) }),
        2 => number().prop_map(|service| Change::RemoveService { service }),
        2 => (number(), service().boxed(), any::<bool>()).prop_map(|(service, to, keeps_servers)| {
            Change::EditService { service, to: Box::new(to), keeps_servers }
        }),
        1 => number().prop_map(|by| Change::Reorder { by }),
        2 => prop::collection::vec(snat(), 0..3).prop_map(Change::Snat),
        1 => (local_addresses(), prop::option::of(local_addresses())).prop_map(
            |(addresses, hairpin)| Change::Local {
                addresses,
                hairpin: hairpin.and_then(|mut hairpin| hairpin.pop()),
            }
        ),
        1 => defaults().prop_map(Change::Defaults),
        4 => Just(Change::Restore),
        1 => rules().boxed().prop_map(|rules| Change::Replace(Box::new(rules))),
    ]
}

impl Change {
    pub(crate) fn apply(&self, rules: &mut Rules, first: &Rules) {
        let services = rules.services.len();
        match self {
            Change::Weight { server, weight } => {
                if let Some(server) = nth_server(rules, *server) {
                    server.weight = *weight;
                }
            }
            Change::AddServer { service, at, server } => {
                if let Some(service) = service.checked_rem(services) {
                    let servers = &mut Arc::make_mut(&mut rules.services[service]).servers;
                    servers.insert(at % (servers.len() + 1), *server);
                }
            }
            Change::RemoveServer { server } => {
                let scheduled = rules.services.iter().map(|service| service.servers.len()).sum();
                if let Some(mut nth) = server.checked_rem(scheduled) {
                    for service in rules.services.iter_mut().map(Arc::make_mut) {
                        if nth < service.servers.len() {
                            service.servers.remove(nth);
                            return;
                        }
                        nth -= service.servers.len();
                    }
                }
            }
            Change::AddService { at, service } => {
                rules.services.insert(at % (services + 1), VirtualService::clone(service).into());
            }
            Change::RemoveService { service } => {
                if let Some(service) = service.checked_rem(services) {
                    rules.services.remove(service);
                }
            }
            Change::EditService { service, to, keeps_servers } => {
                if let Some(service) = service.checked_rem(services) {
                    edit_service(Arc::make_mut(&mut rules.services[service]), to, *keeps_servers);
                }
            }
            Change::Reorder { by } => {
                if services > 0 {
                    rules.services.rotate_left(by % services);
                }
                for service in rules.services.iter_mut().map(Arc::make_mut) {
                    let by = by.checked_rem(service.servers.len()).unwrap_or(0);
                    service.servers.rotate_left(by);
                }
            }
            Change::Snat(snat) => rules.snat.clone_from(snat),
            Change::Local { addresses, hairpin } => {
                rules.local_addresses.clone_from(addresses);
                rules.hairpin.clone_from(hairpin);
            }
            Change::Defaults(defaults) => rules.defaults = *defaults,
            Change::Restore => rules.clone_from(first),
            Change::Replace(other) => rules.clone_from(other),
        }
    }
}

fn nth_server(rules: &mut Rules, nth: usize) -> Option<&mut RealServer> {
    let count = rules.services.iter().map(|service| service.all_servers().count()).sum();
    let nth = nth.checked_rem(count)?;
    let services = rules.services.iter_mut().map(Arc::make_mut);
    services.flat_map(|service| service.servers.iter_mut().chain(&mut service.fallback)).nth(nth)
}

fn edit_service(service: &mut VirtualService, to: &VirtualService, keeps_servers: bool) {
    let before = std::mem::replace(service, to.clone());
    service.protocols.retain(|protocol| !before.protocols.starts_with(&[*protocol]));
    service.protocols.splice(0..0, before.protocols.first().copied());
    service.endpoints.retain(|endpoint| Some(endpoint) != before.endpoints.first());
    service.endpoints.splice(0..0, before.endpoints.first().cloned());
    // Only a service with one endpoint and one port can do without connections.
    service.one_packet &=
        service.endpoints.len() == 1 && service.endpoints.iter().all(|e| e.ports.len() == 1);
    if keeps_servers {
        service.servers = before.servers;
    }
}
