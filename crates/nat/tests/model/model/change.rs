//! Who is who when the rules change.

use std::rc::Rc;

use shunt_nat::{RealServer, Rules, SnatRule, VirtualService};

use super::{Model, Service};
use crate::{
    pool::Pool,
    servers::{Scheduler, Server},
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
            server.drained_since = (server.real.weight == 0).then_some(since);
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
                self.clients.forget_server(server);
            }
            let is_over = service.is_removed && service.removed_servers.is_empty();
            self.services[place] = (!is_over).then_some(service);
        }
        let in_use = |rule: &SnatRule| rule.to.iter().any(|to| self.in_use(*to) > 0);
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
            let identity = |options: &VirtualService| {
                (options.protocols.first().copied(), options.endpoints.first().cloned())
            };
            let known = candidates
                .iter()
                .position(|place| identity(&self.service(*place).options) == identity(options));
            let place = match known {
                Some(known) => candidates.remove(known),
                None => put(&mut self.services, Service::new(options)),
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

    /// A server is who it was if its address and port are.
    fn change_service(&mut self, place: usize, options: &VirtualService) {
        let service = self.service_mut(place);
        service.is_removed = false;
        let former = std::mem::replace(&mut service.options, Rc::new(options.clone()));
        let is_former = |address| options.endpoints.iter().all(|e| e.address != address);
        let addresses = former.endpoints.iter().map(|endpoint| endpoint.address);
        service.former_addresses.extend(addresses.filter(|address| is_former(*address)));

        let scheduled = service.listed[..service.scheduled.min(service.listed.len())].to_vec();
        let mut candidates: Vec<_> = service.all_servers().collect();
        let mut listed = Vec::new();
        for real in options.servers.iter().chain(&options.fallback) {
            let identity = |real: &RealServer| (real.address, real.port);
            let known = candidates
                .iter()
                .position(|place| identity(&self.server(*place).real) == identity(real));
            let server = match known {
                Some(known) => candidates.remove(known),
                None => put(&mut self.servers, Server::new(*real)),
            };
            self.server_mut(server).real = *real;
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

    /// A rule is who it was if it is for the same hosts.
    fn change_pools(&mut self, before: &Rules, rules: &Rules) {
        let pools = std::mem::take(&mut self.snat);
        let mut known: Vec<_> = before.snat.iter().cloned().zip(pools).collect();
        for rule in &rules.snat {
            let place = known.iter().position(|(known, _)| known.from == rule.from);
            let pool = Pool::of_rule(rule);
            self.snat.push(match place.map(|place| known.remove(place)) {
                Some((former, before)) => {
                    if former.to != rule.to {
                        self.former_snat.push(former);
                    }
                    pool.after(before)
                }
                None => pool,
            });
        }
        self.former_snat.extend(known.into_iter().map(|(rule, _)| rule));
        self.local = Pool::of(&rules.local_addresses).after(self.local.clone());
        self.hairpin = Pool::of(rules.hairpin.as_slice()).after(self.hairpin.clone());
    }
}

impl Service {
    pub(super) fn new(options: &VirtualService) -> Service {
        Service {
            options: Rc::new(options.clone()),
            is_removed: false,
            listed: Vec::new(),
            scheduled: 0,
            removed_servers: Vec::new(),
            former_addresses: Vec::new(),
            scheduler: Scheduler::new(options.scheduler),
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
