use std::sync::Arc;

use hashbrown::HashMap;
use ipnet::IpNet;

use crate::{
    Defaults, LocalAddress, RealServer, Rules, ServerIdentity, ServiceIdentity, SnatRule,
    VirtualService,
};

/// Something that is to be different. Services are meant by name, servers by
/// [identity](ServerIdentity).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A service is new.
    AddService(Arc<VirtualService>),
    /// A service becomes this one; its servers included, its name, too.
    EditService {
        /// Which one.
        name: String,
        /// What it becomes.
        service: Arc<VirtualService>,
    },
    /// A service goes. Connections live on as its `drain_timeout` says.
    RemoveService {
        /// Which one.
        name: String,
    },
    /// A service gets another server, behind those that it has.
    AddServer {
        /// The service's name.
        service: String,
        /// The server.
        server: RealServer,
    },
    /// A server of a service gets another weight or other thresholds.
    EditServer {
        /// The service's name.
        service: String,
        /// The server with this identity, as it is to be.
        server: RealServer,
    },
    /// A service loses a server.
    RemoveServer {
        /// The service's name.
        service: String,
        /// Which one.
        server: ServerIdentity,
    },
    /// Further hosts reach the outside.
    AddSnat(SnatRule),
    /// The rule for the same hosts becomes this one.
    EditSnat(SnatRule),
    /// The rule for these hosts goes.
    RemoveSnat(IpNet),
    /// Full-NAT has further source endpoints.
    AddLocalAddress(LocalAddress),
    /// Full-NAT loses source endpoints.
    RemoveLocalAddress(LocalAddress),
    /// Inside hosts that dial a service are seen as this.
    SetHairpin(Option<LocalAddress>),
    /// What applies where a service doesn't say otherwise.
    SetDefaults(Defaults),
    /// All rules become these.
    Replace(Rules),
}

/// Why changes were not applied.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{refusal}")]
pub struct ApplyError {
    /// Which of the changes it was, counted from 0.
    pub change: usize,
    /// What is the matter with it.
    pub refusal: Refusal,
}

/// What is the matter with a change.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Names are unique.
    #[error("there is a service named `{0}` already")]
    NameTaken(String),
    /// Two services can't be told apart.
    #[error("service `{name}` is dialled as {identity} already")]
    IdentityTaken {
        /// The service that has it.
        name: String,
        /// What both have.
        identity: ServiceIdentity,
    },
    /// Nobody could dial the service.
    #[error("service `{0}` has no protocol or no endpoint")]
    Undialled(String),
    /// There is no such service.
    #[error("there is no service named `{0}`")]
    NoService(String),
    /// A service has each server once.
    #[error("server {server} is in service `{service}` already")]
    ServerExists {
        /// The service's name.
        service: String,
        /// The server.
        server: ServerIdentity,
    },
    /// There is no such server.
    #[error("there is no server {server} in service `{service}`")]
    NoServer {
        /// The service's name.
        service: String,
        /// The server.
        server: ServerIdentity,
    },
    /// There is one rule for each network.
    #[error("there is an SNAT rule for {0} already")]
    SnatExists(IpNet),
    /// There is no such rule.
    #[error("there is no SNAT rule for {0}")]
    NoSnat(IpNet),
    /// Each is there once.
    #[error("local address {} with these ports is there already", .0.address)]
    LocalAddressExists(LocalAddress),
    /// There is no such local address.
    #[error("there is no local address {} with these ports", .0.address)]
    NoLocalAddress(LocalAddress),
}

impl Rules {
    /// Makes the changes, one after the other.
    ///
    /// Whether the rules make sense then, in themselves and on the director's network, is another
    /// question; what is checked here is that each change meets what it is about.
    ///
    /// # Errors
    /// The first change that can't be made; the rules are as they were then.
    pub fn apply(&mut self, changes: impl IntoIterator<Item = Change>) -> Result<(), ApplyError> {
        let mut edit = Edit::of(self.clone());
        for (change, made) in changes.into_iter().enumerate() {
            edit.make(made).map_err(|refusal| ApplyError { change, refusal })?;
        }
        *self = edit.finish();
        Ok(())
    }

    /// Takes the services of other rules instead of its own where they say the same: those are then
    /// there once, and are found to be the same by comparing pointers.
    pub fn share_services(&mut self, other: &Rules) {
        let known = other.services.iter().map(|service| (service.identity(), service));
        let known: HashMap<_, _> = known.collect();
        for service in &mut self.services {
            if let Some(known) = known.get(&service.identity())
                && *known == service
            {
                *service = Arc::clone(known);
            }
        }
    }
}

/// Rules that are being changed, with their services found by name and by identity.
struct Edit {
    rules: Rules,
    /// Those of the rules, `None` where one was removed.
    services: Vec<Option<Arc<VirtualService>>>,
    by_name: HashMap<String, usize>,
    by_identity: HashMap<ServiceIdentity, usize>,
}

impl Edit {
    fn of(mut rules: Rules) -> Edit {
        let services: Vec<_> = std::mem::take(&mut rules.services).into_iter().map(Some).collect();
        let (mut by_name, mut by_identity) = (HashMap::new(), HashMap::new());
        for (index, service) in services.iter().flatten().enumerate() {
            by_name.insert(service.name.clone(), index);
            by_identity.extend(service.identity().map(|identity| (identity, index)));
        }
        Edit { rules, services, by_name, by_identity }
    }

    fn finish(self) -> Rules {
        Rules { services: self.services.into_iter().flatten().collect(), ..self.rules }
    }

    fn make(&mut self, change: Change) -> Result<(), Refusal> {
        match change {
            Change::AddService(service) => {
                self.services.push(None);
                self.put(self.services.len() - 1, service)
            }
            Change::EditService { name, service } => {
                let index = self.take(&name)?;
                self.put(index, service)
            }
            Change::RemoveService { name } => self.take(&name).map(drop),
            Change::AddServer { service, server } => {
                let servers = self.servers(&service)?;
                let identity = server.identity();
                if servers.iter().any(|known| known.identity() == identity) {
                    return Err(Refusal::ServerExists { service, server: identity });
                }
                servers.push(server);
                Ok(())
            }
            Change::EditServer { service, server } => {
                let identity = server.identity();
                let servers = self.servers(&service)?;
                match servers.iter_mut().find(|known| known.identity() == identity) {
                    Some(known) => *known = server,
                    None => return Err(Refusal::NoServer { service, server: identity }),
                }
                Ok(())
            }
            Change::RemoveServer { service, server } => {
                let servers = self.servers(&service)?;
                match servers.iter().position(|known| known.identity() == server) {
                    Some(index) => servers.remove(index),
                    None => return Err(Refusal::NoServer { service, server }),
                };
                Ok(())
            }
            Change::AddSnat(rule) => {
                if self.rules.snat.iter().any(|known| known.from == rule.from) {
                    return Err(Refusal::SnatExists(rule.from));
                }
                self.rules.snat.push(rule);
                Ok(())
            }
            Change::EditSnat(rule) => {
                let known = self.rules.snat.iter_mut().find(|known| known.from == rule.from);
                let known = known.ok_or(Refusal::NoSnat(rule.from))?;
                *known = rule;
                Ok(())
            }
            Change::RemoveSnat(from) => {
                let known = self.rules.snat.iter().position(|known| known.from == from);
                self.rules.snat.remove(known.ok_or(Refusal::NoSnat(from))?);
                Ok(())
            }
            Change::AddLocalAddress(local) => {
                if self.rules.local_addresses.contains(&local) {
                    return Err(Refusal::LocalAddressExists(local));
                }
                self.rules.local_addresses.push(local);
                Ok(())
            }
            Change::RemoveLocalAddress(local) => {
                let known = self.rules.local_addresses.iter().position(|known| *known == local);
                self.rules.local_addresses.remove(known.ok_or(Refusal::NoLocalAddress(local))?);
                Ok(())
            }
            Change::SetHairpin(hairpin) => {
                self.rules.hairpin = hairpin;
                Ok(())
            }
            Change::SetDefaults(defaults) => {
                self.rules.defaults = defaults;
                Ok(())
            }
            Change::Replace(rules) => {
                *self = Edit::of(rules);
                Ok(())
            }
        }
    }

    /// Takes a service out; its place is free then.
    fn take(&mut self, name: &str) -> Result<usize, Refusal> {
        let no_service = || Refusal::NoService(name.to_owned());
        let index = self.by_name.remove(name).ok_or_else(no_service)?;
        let identity = self.services[index].take().and_then(|service| service.identity());
        identity.and_then(|identity| self.by_identity.remove(&identity));
        Ok(index)
    }

    /// Puts a service into a free place.
    fn put(&mut self, index: usize, service: Arc<VirtualService>) -> Result<(), Refusal> {
        let Some(identity) = service.identity() else {
            return Err(Refusal::Undialled(service.name.clone()));
        };
        if self.by_name.contains_key(&service.name) {
            return Err(Refusal::NameTaken(service.name.clone()));
        }
        if let Some(known) = self.by_identity.get(&identity) {
            let name = self.services[*known].as_ref().map_or("", |known| &known.name).to_owned();
            return Err(Refusal::IdentityTaken { name, identity });
        }
        self.by_name.insert(service.name.clone(), index);
        self.by_identity.insert(identity, index);
        self.services[index] = Some(service);
        Ok(())
    }

    fn servers(&mut self, name: &str) -> Result<&mut Vec<RealServer>, Refusal> {
        let index = self.by_name.get(name);
        let service = index.and_then(|index| self.services[*index].as_mut());
        let service = service.ok_or_else(|| Refusal::NoService(name.to_owned()))?;
        Ok(&mut Arc::make_mut(service).servers)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Protocol, Scheduler};
    use std::net::SocketAddr;

    fn endpoint(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn service(vip: &str) -> Arc<VirtualService> {
        let servers = vec![RealServer::new(endpoint("10.0.0.1:80"), 1)];
        Arc::new(VirtualService::new(Protocol::Tcp, endpoint(vip), Scheduler::RoundRobin, servers))
    }

    fn named(name: &str, vip: &str) -> Arc<VirtualService> {
        Arc::new(VirtualService { name: name.to_owned(), ..(*service(vip)).clone() })
    }

    fn rules() -> Rules {
        Rules { services: vec![service("192.0.2.1:80")], ..Rules::default() }
    }

    const WEB: &str = "tcp-192.0.2.1-80";

    #[test]
    fn servers_come_change_and_go() {
        let mut rules = rules();
        let before = Arc::clone(&rules.services[0]);
        let (one, two) = (endpoint("10.0.0.1:80"), endpoint("10.0.0.2:80"));
        let service = || WEB.to_owned();
        rules
            .apply([
                Change::AddServer { service: service(), server: RealServer::new(two, 5) },
                Change::EditServer { service: service(), server: RealServer::new(two, 7) },
                Change::RemoveServer {
                    service: service(),
                    server: RealServer::new(one, 1).identity(),
                },
            ])
            .unwrap();
        assert_eq!(rules.service(WEB).unwrap().servers, [RealServer::new(two, 7)]);
        assert_eq!(before.servers, [RealServer::new(one, 1)], "others see what they had");
    }

    #[test]
    fn what_is_left_alone_is_shared() {
        let mut rules = rules();
        let before = rules.clone();
        rules.apply([Change::AddService(service("192.0.2.2:80"))]).unwrap();
        assert!(Arc::ptr_eq(&before.services[0], &rules.services[0]));
        assert_eq!(rules.services.len(), 2);
    }

    #[test]
    fn what_says_the_same_is_shared() {
        let before = rules();
        let mut after = Rules {
            services: vec![service("192.0.2.2:80"), service("192.0.2.1:80")],
            ..Rules::default()
        };
        let said = after.clone();
        after.share_services(&before);
        assert_eq!(after, said);
        assert!(Arc::ptr_eq(&after.services[1], &before.services[0]));
        let mut other = Rules { services: vec![named("web", "192.0.2.1:80")], ..rules() };
        other.share_services(&before);
        assert_eq!(other.services[0].name, "web");
    }

    #[test]
    fn a_refused_change_leaves_everything_as_it_was() {
        let mut rules = rules();
        let before = rules.clone();
        let server = RealServer::new(endpoint("10.0.0.1:80"), 1);
        let other = RealServer::new(endpoint("10.0.0.9:80"), 1);
        let nobody = "nobody".to_owned();
        let identity = before.services[0].identity().unwrap();
        for (change, refusal) in [
            (Change::AddService(service("192.0.2.1:80")), Refusal::NameTaken(WEB.to_owned())),
            (
                Change::AddService(named("other", "192.0.2.1:80")),
                Refusal::IdentityTaken { name: WEB.to_owned(), identity },
            ),
            (Change::RemoveService { name: nobody.clone() }, Refusal::NoService(nobody.clone())),
            (
                Change::AddServer { service: WEB.to_owned(), server },
                Refusal::ServerExists { service: WEB.to_owned(), server: server.identity() },
            ),
            (
                Change::EditServer { service: WEB.to_owned(), server: other },
                Refusal::NoServer { service: WEB.to_owned(), server: other.identity() },
            ),
            (
                Change::RemoveSnat("10.0.0.0/8".parse().unwrap()),
                Refusal::NoSnat("10.0.0.0/8".parse().unwrap()),
            ),
        ] {
            let first = Change::AddService(service("192.0.2.3:80"));
            let error = rules.apply([first, change]).unwrap_err();
            assert_eq!(error, ApplyError { change: 1, refusal });
            assert_eq!(rules, before);
        }
    }

    #[test]
    fn a_service_can_be_renamed_moved_and_replaced_at_once() {
        let mut rules = rules();
        let moved = named("web", "192.0.2.9:80");
        rules
            .apply([
                Change::EditService { name: WEB.to_owned(), service: Arc::clone(&moved) },
                Change::AddService(service("192.0.2.1:80")),
                Change::RemoveService { name: "web".to_owned() },
                Change::AddService(named("web", "192.0.2.9:80")),
            ])
            .unwrap();
        let names: Vec<_> = rules.services.iter().map(|service| service.name.as_str()).collect();
        assert_eq!(names, [WEB, "web"]);
    }

    #[test]
    fn ten_thousand_services_are_added_in_one_go() {
        let mut rules = Rules::default();
        let vip = |n: u32| format!("{}:80", std::net::Ipv4Addr::from(0xc612_0000 + n));
        let changes = (0..10_000).map(|n| Change::AddService(service(&vip(n))));
        rules.apply(changes).unwrap();
        assert_eq!(rules.services.len(), 10_000);
    }
}
