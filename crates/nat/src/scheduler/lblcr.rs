use std::{cmp::Reverse, sync::Arc};

use super::{
    Built, Construction, Request, Schedule, Tenure, WorkerState,
    destinations::{Destinations, EXPIRY, is_overloaded},
    load::PerWeight,
    roster::Roster,
    usable, wlc,
};
use crate::{server::Server, time::Instant};

/// Locality-based least-connection with replication: connections to one virtual address go to the
/// [weighted least-connection](wlc) server of a set. When that is [overloaded](is_overloaded)
/// while one of all the servers is not, or the set has no usable server, the least loaded of all
/// joins the set. When the set did not change for a day, the most loaded leaves it.
///
/// After Zhang: Job Scheduling Algorithms in Linux Virtual Server.
///
/// Each worker remembers sets for itself.
#[derive(Debug)]
struct LocalityLeastConnectionReplicated {
    version: u64,
    roster: Roster,
}

#[derive(Debug)]
struct ServerSet {
    /// Never empty, but while a change of the servers left none.
    members: Vec<Tenure>,
    last_changed: Instant,
    /// The schedule that it was last used with.
    version: u64,
}

pub(super) fn build(construction: &mut Construction) -> Built {
    let servers = construction.servers;
    let is_same = |before: &LocalityLeastConnectionReplicated| before.roster.is_of(servers);
    construction.kept(is_same).unwrap_or_else(|| {
        let before = construction.before::<LocalityLeastConnectionReplicated>();
        let roster = Roster::new(construction, before.map(|before| &before.roster));
        let version = construction.number();
        (Arc::new(LocalityLeastConnectionReplicated { version, roster }), None)
    })
}

impl Schedule for LocalityLeastConnectionReplicated {
    /// Steps over the servers times the size of the set, which is small unless nearly all servers
    /// are overloaded.
    fn pick(
        &self,
        state: &mut WorkerState,
        servers: &[Server],
        request: &Request,
    ) -> Option<usize> {
        let destination = *request.virtual_endpoint.ip();
        let assigned = state.memory_or_begin(Destinations::<ServerSet>::new);
        if let Some(set) = assigned.ask(destination, request.now) {
            if std::mem::replace(&mut set.version, self.version) != self.version {
                set.members.retain(|member| self.roster.position(*member).is_some());
            }
            return set.pick(self.roster.tenures(), servers, request.now);
        }
        let picked = wlc::pick(servers)?;
        let set = ServerSet {
            members: vec![self.roster.tenures()[picked]],
            last_changed: request.now,
            version: self.version,
        };
        assigned.remember(destination, set, request.now);
        Some(picked)
    }
}

impl ServerSet {
    fn pick(&mut self, tenures: &[Tenure], servers: &[Server], now: Instant) -> Option<usize> {
        let picked = match self.least_loaded(tenures, servers) {
            Some(member) if !is_overloaded(&servers[member], servers) => member,
            _ => {
                let picked = wlc::pick(servers)?;
                self.add(tenures[picked], now);
                picked
            }
        };
        if self.members.len() > 1 && now.since(self.last_changed) > EXPIRY {
            self.remove_most_loaded(tenures, servers, now);
        }
        Some(picked)
    }

    fn least_loaded(&self, tenures: &[Tenure], servers: &[Server]) -> Option<usize> {
        usable(servers)
            .filter(|(index, _)| self.members.contains(&tenures[*index]))
            .min_by_key(|(_, server)| PerWeight::of(*server))
            .map(|(index, _)| index)
    }

    fn add(&mut self, member: Tenure, now: Instant) {
        if !self.members.contains(&member) {
            self.members.push(member);
            self.last_changed = now;
        }
    }

    /// One that is not usable counts as more loaded than any that is.
    fn remove_most_loaded(&mut self, tenures: &[Tenure], servers: &[Server], now: Instant) {
        let most_loaded = tenures
            .iter()
            .zip(servers.iter().map(|server| server.shared.observe()))
            .filter(|(tenure, _)| self.members.contains(tenure))
            .min_by_key(|(_, server)| Reverse((!server.is_usable(), PerWeight::of(*server))));
        if let Some((most_loaded, _)) = most_loaded {
            self.members.retain(|member| member != most_loaded);
            self.last_changed = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{SchedulerKind::LocalityLeastConnectionReplicated, testing::*};

    const DAY: u64 = 86_400;

    #[test]
    fn the_set_grows_under_load_and_is_shared() {
        let servers = servers(&[10, 10, 10]);
        let mut scheduler = scheduler(LocalityLeastConnectionReplicated, &servers);
        assert_eq!(scheduler.pick(&servers, &request(1)), Some(0));
        servers[0].set_active(10);
        assert_eq!(scheduler.pick(&servers, &request(1)), Some(0), "at its weight, not above");
        servers[0].set_active(11);
        assert_eq!(scheduler.pick(&servers, &request(1)), Some(1), "a second one");
        servers[1].set_active(8);
        assert_eq!(scheduler.pick(&servers, &request(1)), Some(1), "not the third one");
        servers[0].set_active(7);
        assert_eq!(scheduler.pick(&servers, &request(1)), Some(0), "the first is still in");
    }

    #[test]
    fn the_set_shrinks_with_time() {
        let servers = servers(&[10, 10, 10]);
        let mut scheduler = scheduler(LocalityLeastConnectionReplicated, &servers);
        scheduler.pick(&servers, &request(1));
        servers[0].set_active(11);
        assert_eq!(scheduler.pick(&servers, &request(1)), Some(1));
        servers[1].set_active(3);
        assert_eq!(scheduler.pick(&servers, &later(request(1), DAY)), Some(1));
        servers[0].set_active(2);
        assert_eq!(scheduler.pick(&servers, &later(request(1), DAY)), Some(0), "still in");
        servers[0].set_active(4);
        assert_eq!(scheduler.pick(&servers, &later(request(1), DAY + 1)), Some(1));
        servers[0].set_active(0);
        assert_eq!(scheduler.pick(&servers, &later(request(1), DAY + 3)), Some(1), "it is out");
        servers[1].set_active(10);
        let much_later = later(request(1), 2 * DAY + 2);
        for _ in 0..2 {
            assert_eq!(scheduler.pick(&servers, &much_later), Some(1), "the last one stays");
        }
    }

    #[test]
    fn what_is_not_usable_is_stepped_over_and_leaves_first() {
        let servers = servers(&[10, 10, 10]);
        let mut scheduler = scheduler(LocalityLeastConnectionReplicated, &servers);
        scheduler.pick(&servers, &request(1));
        servers[0].set_overloaded(true);
        assert_eq!(scheduler.pick(&servers, &request(1)), Some(1));
        servers[1].set_active(9);
        assert_eq!(scheduler.pick(&servers, &later(request(1), DAY)), Some(1));
        assert_eq!(scheduler.pick(&servers, &later(request(1), DAY + 1)), Some(1));
        servers[0].set_overloaded(false);
        assert_eq!(scheduler.pick(&servers, &later(request(1), DAY + 2)), Some(1), "0 is out");
    }

    #[test]
    fn one_that_left_and_came_back_is_not_in_the_set() {
        let servers = servers(&[10, 10]);
        let mut scheduler = scheduler(LocalityLeastConnectionReplicated, &servers);
        scheduler.pick(&servers, &request(1));
        servers[0].set_active(11);
        assert_eq!(scheduler.pick(&servers, &request(1)), Some(1));
        scheduler.servers_changed(&servers[1..]);
        scheduler.servers_changed(&servers);
        servers[0].set_active(0);
        servers[1].set_active(10);
        assert_eq!(scheduler.pick(&servers, &request(1)), Some(1));
    }

    #[test]
    fn the_set_follows_its_servers_and_outlives_their_leaving() {
        let mut servers = servers(&[10, 10, 10]);
        let mut scheduler = scheduler(LocalityLeastConnectionReplicated, &servers);
        assert_eq!(scheduler.pick(&servers, &request(1)), Some(0));
        servers[0].set_active(5);
        servers.reverse();
        scheduler.servers_changed(&servers);
        assert_eq!(scheduler.pick(&servers, &request(1)), Some(2));
        let rest = &servers[..2];
        scheduler.servers_changed(rest);
        assert_eq!(scheduler.pick(rest, &request(1)), Some(0));
        scheduler.servers_changed(&[]);
        assert_eq!(scheduler.pick(&[], &request(1)), None);
        scheduler.servers_changed(rest);
        assert_eq!(scheduler.pick(rest, &request(1)), Some(0));
    }
}
