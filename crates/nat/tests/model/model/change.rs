//! Which services and servers stay the same when the rules change.

use std::rc::Rc;

use shunt_rules::{Rules, SnatRule, VirtualService};

use super::{Model, Service};
use crate::{
    connection::Connection,
    pool::Pool,
    servers::{Scheduler, Server},
    steering::owner,
    wire::v4,
};

impl Model {
    /// Goes over to other rules.
    pub(crate) fn change(&mut self, now: u64, rules: &Rules) {
        self.forget();
        let before = std::mem::replace(&mut self.rules, Rc::new(rules.clone()));
        self.change_services(rules);
        self.change_pools(&before, rules);
        for server in self.servers.iter_mut().flatten() {
            let since = server.drained_since.unwrap_or(now);
            let is_drained = server.real.weight == 0 || server.is_removed;
            server.drained_since = is_drained.then_some(since);
        }
        self.recount();
    }

    /// What was removed, and whose last connection has ended, is no more.
    fn forget(&mut self) {
        for place in 0..self.services.len() {
            let Some(mut service) = self.services[place].take() else { continue };
            if service.all_servers().all(|server| self.is_idle(server)) {
                service.former_addresses.clear();
            }
            let (idle, busy): (Vec<_>, Vec<_>) =
                service.removed_servers.iter().partition(|server| self.is_idle(**server));
            service.removed_servers = busy;
            for server in idle {
                self.servers[server] = None;
                self.workers.iter_mut().for_each(|worker| worker.fragments.forget_server(server));
                self.clients.forget_server(server);
            }
            let is_over = service.is_removed && service.removed_servers.is_empty();
            self.services[place] = (!is_over).then_some(service);
        }
        let in_use = |rule: &SnatRule| {
            self.connections
                .iter()
                .filter_map(Connection::source)
                .any(|to| rule.to.contains(&to.into()))
        };
        let former = self.former_snat.iter().filter(|rule| in_use(rule)).cloned().collect();
        self.former_snat = former;
    }

    fn is_idle(&self, server: usize) -> bool {
        self.connections.iter().all(|connection| connection.server() != Some(server))
    }

    /// A service is who it was if its first protocol and first endpoint are; those that are there are
    /// asked before those that were removed.
    fn change_services(&mut self, rules: &Rules) {
        let there = std::mem::take(&mut self.order);
        let is_removed =
            |place: &usize| self.services[*place].as_ref().is_some_and(|s| s.is_removed);
        let removed: Vec<_> = (0..self.services.len()).filter(is_removed).collect();
        let mut candidates = [there, removed].concat();
        for options in &rules.services {
            let identity = options.identity();
            let known = candidates
                .iter()
                .position(|place| self.service(*place).options.identity() == identity);
            let place = match known {
                Some(known) => candidates.remove(known),
                None => put(&mut self.services, Service::new(options, self.workers.len())),
            };
            self.order.push(place);
            self.change_service(place, options);
        }
        for place in candidates {
            self.clients.forget_service(place);
            let service = self.service_mut(place);
            service.is_removed = true;
            service.removed_servers.append(&mut service.listed);
            let servers = service.removed_servers.clone();
            servers.iter().for_each(|server| self.server_mut(*server).remove());
        }
    }

    /// Servers are matched across changes by address and port.
    fn change_service(&mut self, place: usize, options: &VirtualService) {
        let service = self.service_mut(place);
        service.is_removed = false;
        let former = std::mem::replace(&mut service.options, Rc::new(options.clone()));
        let is_former = |address| options.endpoints.iter().all(|e| v4(e.address) != address);
        let addresses = former.endpoints.iter().map(|endpoint| v4(endpoint.address));
        service.former_addresses.extend(addresses.filter(|address| is_former(*address)));

        let scheduled = service.listed[..service.scheduled.min(service.listed.len())].to_vec();
        let mut candidates: Vec<_> = service.all_servers().collect();
        let mut listed = Vec::new();
        for real in options.servers.iter().chain(&options.fallback) {
            let identity = real.identity();
            let known =
                candidates.iter().position(|place| self.server(*place).real.identity() == identity);
            let server = match known {
                Some(known) => candidates.remove(known),
                None => put(&mut self.servers, Server::new(*real)),
            };
            let known = self.server_mut(server);
            (known.real, known.is_removed) = (*real, false);
            listed.push(server);
        }
        candidates.iter().for_each(|server| self.server_mut(*server).remove());
        let service = self.service_mut(place);
        let after = &listed[..options.servers.len()];
        let falls_back = options.scheduler_flags.fallback;
        service.scheduler.change(options.scheduler, falls_back, &scheduled, after);
        service.scheduled = after.len();
        (service.listed, service.removed_servers) = (listed, candidates);

        let mask = |options: &VirtualService| options.persistence.map(|p| p.prefix_len);
        if mask(&former) != mask(options) {
            self.clients.forget_service(place);
        }
    }

    fn change_pools(&mut self, before: &Rules, rules: &Rules) {
        let workers = self.workers.len();
        let heirs = heirs(&before.snat, &rules.snat);
        for (number, worker) in self.workers.iter_mut().enumerate() {
            let is_own = |endpoint| owner(endpoint, workers) == number;
            let former = std::mem::take(&mut worker.snat);
            let pools = rules.snat.iter().zip(&heirs).map(|(rule, known)| match known {
                Some(known) => Pool::of_rule(rule).after(former[*known].clone()),
                None => Pool::of_rule(rule),
            });
            worker.snat = pools.collect();
            let local = std::mem::take(&mut worker.local);
            worker.local = Pool::of(&rules.local_addresses, is_own).after(local);
            let hairpin = std::mem::take(&mut worker.hairpin);
            worker.hairpin = Pool::of(rules.hairpin.as_slice(), is_own).after(hairpin);
        }
        for (known, rule) in before.snat.iter().enumerate() {
            let heir = heirs.iter().position(|heir| *heir == Some(known));
            if heir.is_none_or(|heir| rules.snat[heir].to != rule.to) {
                self.former_snat.push(rule.clone());
            }
        }
    }
}

/// Which of the rules before each rule is: it is who it was if it is for the same hosts.
fn heirs(before: &[SnatRule], rules: &[SnatRule]) -> Vec<Option<usize>> {
    let mut known: Vec<_> = (0..before.len()).collect();
    let heir = |rule: &SnatRule| {
        let place = known.iter().position(|known| before[*known].from == rule.from)?;
        Some(known.remove(place))
    };
    rules.iter().map(heir).collect()
}

impl Service {
    pub(super) fn new(options: &VirtualService, workers: usize) -> Service {
        Service {
            options: Rc::new(options.clone()),
            is_removed: false,
            listed: Vec::new(),
            scheduled: 0,
            removed_servers: Vec::new(),
            former_addresses: Vec::new(),
            scheduler: Scheduler::new(options.scheduler, workers),
            counters: shunt_nat::ServiceCounters::default(),
        }
    }

    pub(super) fn all_servers(&self) -> impl Iterator<Item = usize> {
        self.listed.iter().chain(&self.removed_servers).copied()
    }
}

/// Puts an item into the first place that is free.
fn put<T>(places: &mut Vec<Option<T>>, item: T) -> usize {
    let free = places.iter().position(Option::is_none).unwrap_or(places.len());
    places.resize_with(places.len().max(free + 1), || None);
    places[free] = Some(item);
    free
}
