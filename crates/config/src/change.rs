//! What changes when a director that runs one service file is given another.

use std::fmt;

use crate::{Config, Nat, Ports, RealServer, VirtualService};

/// The difference between two service files.
///
/// Displays in one line: `tcp 192.0.2.1:80: 10.0.0.1:80 drained, 10.0.0.3:80 added; [timeouts]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change(Vec<String>);

impl Change {
    /// What `new` says differently from `old`.
    pub fn between(old: &Config, new: &Config) -> Change {
        let mut parts = services(&old.services, &new.services);
        let sections = [
            ("[[snat]]", old.snat != new.snat),
            ("[nat]", has_other_nat(&old.nat, &new.nat)),
            ("[[nat.local-address]]", old.nat.local_addresses != new.nat.local_addresses),
            ("[timeouts]", old.timeouts != new.timeouts),
            ("[[route]]", old.routes != new.routes),
            ("addresses of [[port]]", has_other_addresses(&old.ports, &new.ports)),
            ("[log]", old.log != new.log),
        ];
        let changed = sections.into_iter().filter(|(_, is_other)| *is_other);
        parts.extend(changed.map(|(section, _)| section.to_owned()));
        Change(parts)
    }

    /// Whether both say the same.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() { f.write_str("nothing") } else { f.write_str(&self.0.join("; ")) }
    }
}

fn services(old: &[VirtualService], new: &[VirtualService]) -> Vec<String> {
    let mut parts = Vec::new();
    for service in new {
        match old.iter().find(|old| old.is_same(service)) {
            None => parts.push(format!("{service} added")),
            Some(old) => {
                let changes = changes(old, service);
                if !changes.is_empty() {
                    parts.push(format!("{service}: {}", changes.join(", ")));
                }
            }
        }
    }
    let is_gone = |old: &&VirtualService| !new.iter().any(|service| service.is_same(old));
    parts.extend(old.iter().filter(is_gone).map(|service| format!("{service} removed")));
    parts
}

/// What is different about a service.
fn changes(old: &VirtualService, new: &VirtualService) -> Vec<String> {
    let mut changes = Vec::new();
    for server in &new.servers {
        match old.servers.iter().find(|old| old.is_same(server)) {
            None => changes.push(format!("{server} added")),
            Some(old) => changes.extend(server_change(old, server)),
        }
    }
    let is_gone = |old: &&RealServer| !new.servers.iter().any(|server| server.is_same(old));
    changes.extend(old.servers.iter().filter(is_gone).map(|server| format!("{server} removed")));
    // What has no words of its own above: keys of the service, and the order of its servers.
    let options = |service: &VirtualService| VirtualService { servers: vec![], ..service.clone() };
    if options(old) != options(new) || (changes.is_empty() && old.servers != new.servers) {
        changes.push("options changed".to_owned());
    }
    changes
}

fn server_change(old: &RealServer, new: &RealServer) -> Option<String> {
    match (old.weight, new.weight) {
        (from, to) if from == to => (old != new).then(|| format!("{new} thresholds changed")),
        (_, 0) => Some(format!("{new} drained")),
        (0, to) => Some(format!("{new} back with weight {to}")),
        (from, to) => Some(format!("{new} weight {to} instead of {from}")),
    }
}

/// Whether those keys of `[nat]` changed that can.
fn has_other_nat(old: &Nat, new: &Nat) -> bool {
    (old.on_unknown, old.reset_on_expiry) != (new.on_unknown, new.reset_on_expiry)
}

fn has_other_addresses(old: &Ports, new: &Ports) -> bool {
    old.iter().zip(new.iter()).any(|(old, new)| old.addresses != new.addresses)
}
