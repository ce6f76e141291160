//! What is different between two sets of rules.

use std::{fmt, sync::Arc};

use hashbrown::{HashMap, HashSet};

use crate::{Change, RealServer, Rules, ServerIdentity, ServiceIdentity, VirtualService};

impl Rules {
    /// Changes that lead from these rules to `to`. None where both say the same, the order of services
    /// and SNAT rules aside, which means nothing.
    ///
    /// Services are matched by [identity](ServiceIdentity); servers that only came, went or got another
    /// weight are changes of their own, anything else is an
    /// [`EditService`](Change::EditService).
    #[must_use]
    pub fn diff(&self, to: &Rules) -> Vec<Change> {
        let mut changes = Vec::new();
        self.diff_services(to, &mut changes);
        self.diff_snat(to, &mut changes);
        for gone in self.local_addresses.iter().filter(|old| !to.local_addresses.contains(old)) {
            changes.push(Change::RemoveLocalAddress(gone.clone()));
        }
        for new in to.local_addresses.iter().filter(|new| !self.local_addresses.contains(new)) {
            changes.push(Change::AddLocalAddress(new.clone()));
        }
        if self.hairpin != to.hairpin {
            changes.push(Change::SetHairpin(to.hairpin.clone()));
        }
        if self.defaults != to.defaults {
            changes.push(Change::SetDefaults(to.defaults));
        }
        changes
    }

    fn diff_services(&self, to: &Rules, changes: &mut Vec<Change>) {
        let mut old: HashMap<ServiceIdentity, &Arc<VirtualService>> = self
            .services
            .iter()
            .filter_map(|service| Some((service.identity()?, service)))
            .collect();
        let (mut added, mut edited) = (Vec::new(), Vec::new());
        for service in &to.services {
            let before = service.identity().and_then(|identity| old.remove(&identity));
            match before {
                None => added.push(Change::AddService(Arc::clone(service))),
                Some(before) => diff_service(before, service, &mut edited),
            }
        }
        let gone = |service: &&Arc<VirtualService>| {
            service.identity().is_some_and(|identity| old.contains_key(&identity))
        };
        let removed = self.services.iter().filter(gone);
        // Those that go make room for the names of those that come. Where names are exchanged, one has to
        // get another in the meantime.
        changes.extend(removed.map(|gone| Change::RemoveService { name: gone.name.clone() }));
        changes.extend(untangle(edited));
        changes.append(&mut added);
    }

    fn diff_snat(&self, to: &Rules, changes: &mut Vec<Change>) {
        for gone in &self.snat {
            if !to.snat.iter().any(|rule| rule.from == gone.from) {
                changes.push(Change::RemoveSnat(gone.from));
            }
        }
        for rule in &to.snat {
            match self.snat.iter().find(|old| old.from == rule.from) {
                None => changes.push(Change::AddSnat(rule.clone())),
                Some(old) if old != rule => changes.push(Change::EditSnat(rule.clone())),
                Some(_) => {}
            }
        }
    }
}

/// Orders edits so that no service gets a name that another one still has: a service whose new name is
/// one that another one gives up gets a name in between first.
fn untangle(edits: Vec<Change>) -> Vec<Change> {
    let given_up: HashSet<String> = edits.iter().filter_map(name_given_up).cloned().collect();
    let mut renamed = Vec::new();
    let mut others = Vec::new();
    for edit in edits {
        match edit {
            Change::EditService { name, service }
                if name != service.name && given_up.contains(&service.name) =>
            {
                renamed.push((name, service));
            }
            other => others.push(other),
        }
    }
    let mut changes = Vec::new();
    for (number, (name, service)) in renamed.iter_mut().enumerate() {
        // No name has a blank in it.
        let between = format!("{} {number}", service.name);
        let service = VirtualService { name: between.clone(), ..(**service).clone() };
        let name = std::mem::replace(name, between);
        changes.push(Change::EditService { name, service: Arc::new(service) });
    }
    // Services that take a name that nobody had give theirs up before others take that.
    changes.extend(others);
    let last = renamed.into_iter().map(|(name, service)| Change::EditService { name, service });
    changes.extend(last);
    changes
}

/// The name that a service has no longer after an edit.
fn name_given_up(edit: &Change) -> Option<&String> {
    match edit {
        Change::EditService { name, service } if *name != service.name => Some(name),
        _ => None,
    }
}

fn diff_service(
    before: &Arc<VirtualService>,
    after: &Arc<VirtualService>,
    changes: &mut Vec<Change>,
) {
    if Arc::ptr_eq(before, after) || before == after {
        return;
    }
    let name = || before.name.clone();
    match diff_servers(before, after) {
        Some(servers) if has_same_options(before, after) => changes.extend(servers),
        _ => changes.push(Change::EditService { name: name(), service: Arc::clone(after) }),
    }
}

/// Whether two services agree in all but their servers.
fn has_same_options(one: &VirtualService, other: &VirtualService) -> bool {
    let options =
        |service: &VirtualService| VirtualService { servers: Vec::new(), ..service.clone() };
    options(one) == options(other)
}

/// What happened to the servers of a service; `None` if that can't be said server by server, as their
/// order is another.
fn diff_servers(before: &VirtualService, after: &VirtualService) -> Option<Vec<Change>> {
    let service = || before.name.clone();
    let new: HashMap<ServerIdentity, &RealServer> =
        after.servers.iter().map(|server| (server.identity(), server)).collect();
    let mut changes = Vec::new();
    let mut kept = Vec::new();
    for old in &before.servers {
        match new.get(&old.identity()) {
            None => {
                let server = old.identity();
                changes.push(Change::RemoveServer { service: service(), server });
            }
            Some(server) => {
                kept.push(server.identity());
                if *server != old {
                    changes.push(Change::EditServer { service: service(), server: **server });
                }
            }
        }
    }
    let (first, added) = after.servers.split_at_checked(kept.len())?;
    if first.iter().map(RealServer::identity).ne(kept) {
        return None;
    }
    let added =
        added.iter().map(|server| Change::AddServer { service: service(), server: *server });
    changes.extend(added);
    Some(changes)
}

/// How much changes, in a line: `12 services added, 3 edited; 7 servers edited`.
///
/// Displays as `nothing` if nothing does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Services that came.
    pub services_added: usize,
    /// Services that changed, other than by their servers.
    pub services_edited: usize,
    /// Services that went.
    pub services_removed: usize,
    /// Servers that came to services that were there.
    pub servers_added: usize,
    /// Servers that changed.
    pub servers_edited: usize,
    /// Servers that went from services that are still there.
    pub servers_removed: usize,
    /// Changes of anything else.
    pub others: usize,
}

impl Summary {
    /// Counts changes.
    #[must_use]
    pub fn of(changes: &[Change]) -> Summary {
        let mut summary = Summary::default();
        for change in changes {
            let counter = match change {
                Change::AddService(_) => &mut summary.services_added,
                Change::EditService { .. } => &mut summary.services_edited,
                Change::RemoveService { .. } => &mut summary.services_removed,
                Change::AddServer { .. } => &mut summary.servers_added,
                Change::EditServer { .. } => &mut summary.servers_edited,
                Change::RemoveServer { .. } => &mut summary.servers_removed,
                Change::AddSnat(_)
                | Change::EditSnat(_)
                | Change::RemoveSnat(_)
                | Change::AddLocalAddress(_)
                | Change::RemoveLocalAddress(_)
                | Change::SetHairpin(_)
                | Change::SetDefaults(_)
                | Change::Replace(_) => &mut summary.others,
            };
            *counter += 1;
        }
        summary
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counted = |what: &str, counts: [(usize, &str); 3]| {
            let counts = counts.into_iter().filter(|(count, _)| *count > 0);
            let said: Vec<_> = counts.map(|(count, how)| format!("{count} {how}")).collect();
            (!said.is_empty()).then(|| format!("{what}: {}", said.join(", ")))
        };
        let parts = [
            counted(
                "services",
                [
                    (self.services_added, "added"),
                    (self.services_edited, "edited"),
                    (self.services_removed, "removed"),
                ],
            ),
            counted(
                "servers",
                [
                    (self.servers_added, "added"),
                    (self.servers_edited, "edited"),
                    (self.servers_removed, "removed"),
                ],
            ),
            (self.others > 0).then(|| format!("other rules: {}", self.others)),
        ];
        let parts: Vec<_> = parts.into_iter().flatten().collect();
        f.write_str(if parts.is_empty() { "nothing" } else { "" })?;
        f.write_str(&parts.join("; "))
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Change::AddService(service) => write!(f, "service {} added", service.name),
            Change::EditService { name, service } if *name != service.name => {
                write!(f, "service {name} edited, and called {}", service.name)
            }
            Change::EditService { name, .. } => write!(f, "service {name} edited"),
            Change::RemoveService { name } => write!(f, "service {name} removed"),
            Change::AddServer { service, server } => write!(f, "{service}: {server} added"),
            Change::EditServer { service, server } if server.weight == 0 => {
                write!(f, "{service}: {server} drained")
            }
            Change::EditServer { service, server } => {
                write!(f, "{service}: {server} edited, weight {}", server.weight)?;
                match (server.upper_threshold, server.lower_threshold) {
                    (0, _) => Ok(()),
                    (upper, lower) => write!(f, ", thresholds {upper} and {lower}"),
                }
            }
            Change::RemoveServer { service, server } => write!(f, "{service}: {server} removed"),
            Change::AddSnat(rule) => write!(f, "SNAT of {} added", rule.from),
            Change::EditSnat(rule) => write!(f, "SNAT of {} edited", rule.from),
            Change::RemoveSnat(from) => write!(f, "SNAT of {from} removed"),
            Change::AddLocalAddress(local) => write!(f, "local address {} added", local.address),
            Change::RemoveLocalAddress(local) => {
                write!(f, "local address {} removed", local.address)
            }
            Change::SetHairpin(Some(local)) => {
                write!(f, "inside hosts reach services as {}", local.address)
            }
            Change::SetHairpin(None) => f.write_str("inside hosts reach no services"),
            Change::SetDefaults(_) => f.write_str("defaults edited"),
            Change::Replace(rules) => {
                write!(f, "everything replaced, by {} services", rules.services.len())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Defaults, LocalAddress, OnUnknown, Protocol, Scheduler, SnatRule, VirtualEndpoint,
    };
    use proptest::{collection::btree_map, prelude::*, sample::subsequence};
    use std::net::{IpAddr, Ipv4Addr};

    fn address(last: u8) -> IpAddr {
        Ipv4Addr::new(192, 0, 2, last).into()
    }

    fn server() -> impl Strategy<Value = RealServer> {
        (0..3u16, 0..2u32).prop_map(|(weight, upper)| RealServer {
            upper_threshold: upper,
            ..RealServer::new((address(0), 80), weight)
        })
    }

    fn servers() -> impl Strategy<Value = Vec<RealServer>> {
        btree_map(1..6u8, server(), 0..5).prop_flat_map(|servers| {
            let servers: Vec<_> = servers
                .into_iter()
                .map(|(last, server)| RealServer { address: address(last), ..server })
                .collect();
            let len = servers.len();
            Just(servers).prop_shuffle().prop_map(move |servers| {
                assert_eq!(servers.len(), len);
                servers
            })
        })
    }

    fn rules() -> impl Strategy<Value = Rules> {
        let names = ["a", "b", "c", "d"];
        let service = (servers(), any::<bool>());
        let services = btree_map(100..104u8, service, 0..4);
        let snat = btree_map(0..3u8, 1..3u8, 0..3);
        let lips = subsequence(vec![1u8, 2, 3], 0..=3);
        (services, Just(names).prop_shuffle(), snat, lips, any::<bool>()).prop_map(
            |(services, names, snat, lips, drops)| Rules {
                services: services
                    .into_iter()
                    .zip(names)
                    .map(|((vip, (servers, one_packet)), name)| {
                        let endpoint = (address(vip), 80);
                        let service = VirtualService::new(
                            Protocol::Udp,
                            endpoint,
                            Scheduler::RoundRobin,
                            servers,
                        );
                        Arc::new(VirtualService { name: name.to_owned(), one_packet, ..service })
                    })
                    .collect(),
                snat: snat
                    .into_iter()
                    .map(|(net, to)| SnatRule {
                        from: format!("10.{net}.0.0/16").parse().unwrap(),
                        to: vec![address(to)],
                        ports: SnatRule::DEFAULT_PORTS,
                    })
                    .collect(),
                local_addresses: lips
                    .into_iter()
                    .map(|lip| LocalAddress {
                        address: address(lip),
                        ports: LocalAddress::DEFAULT_PORTS,
                    })
                    .collect(),
                hairpin: None,
                defaults: Defaults {
                    on_unknown: if drops { OnUnknown::Drop } else { OnUnknown::Reset },
                    ..Defaults::default()
                },
            },
        )
    }

    /// With what has no order in an order.
    fn sorted(mut rules: Rules) -> Rules {
        rules.services.sort_by_key(|service| service.endpoints[0].address);
        rules.snat.sort_by_key(|rule| rule.from);
        rules.local_addresses.sort_by_key(|local| local.address);
        rules
    }

    proptest! {
        #[test]
        fn a_diff_leads_from_one_to_the_other(from in rules(), to in rules()) {
            let changes = from.diff(&to);
            let mut changed = from.clone();
            changed.apply(changes.clone()).unwrap();
            prop_assert_eq!(sorted(changed), sorted(to.clone()));
            prop_assert_eq!(changes.is_empty(), sorted(from) == sorted(to.clone()));
            prop_assert_eq!(to.diff(&to), []);
        }
    }

    #[test]
    fn what_happened_to_a_server_is_said() {
        let endpoint = VirtualEndpoint { address: address(1), ports: 80..=80 };
        let server = |last, weight| RealServer::new((address(last), 80), weight);
        let rules = |servers: Vec<RealServer>| {
            let service = VirtualService {
                endpoints: vec![endpoint.clone()],
                ..VirtualService::new(Protocol::Tcp, (address(1), 80), Scheduler::Maglev, servers)
            };
            Rules { services: vec![Arc::new(service)], ..Rules::default() }
        };
        let before = rules(vec![server(10, 1), server(11, 1), server(12, 1)]);
        let after = rules(vec![server(10, 0), server(11, 3), server(13, 1)]);
        let changes = before.diff(&after);
        let said: Vec<_> = changes.iter().map(ToString::to_string).collect();
        assert_eq!(
            said,
            [
                "tcp-192.0.2.1-80: 192.0.2.10:80 drained",
                "tcp-192.0.2.1-80: 192.0.2.11:80 edited, weight 3",
                "tcp-192.0.2.1-80: 192.0.2.12:80 removed",
                "tcp-192.0.2.1-80: 192.0.2.13:80 added",
            ]
        );
        let summary = Summary::of(&changes).to_string();
        assert_eq!(summary, "servers: 1 added, 2 edited, 1 removed");
        assert_eq!(Summary::of(&[]).to_string(), "nothing");
    }
}
