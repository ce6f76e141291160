use std::sync::Arc;

use super::{
    Built, Construction, Request, Schedule, Tenure, WorkerState,
    destinations::{Destinations, is_overloaded},
    roster::Roster,
    wlc,
};
use crate::server::Server;

/// Locality-based least-connection: all connections to one virtual address go to one server. When
/// that is gone, not usable, or [overloaded](is_overloaded) while another is not, the
/// [weighted least-connection](wlc) server takes over, and keeps it.
///
/// After Zhang: Job Scheduling Algorithms in Linux Virtual Server.
///
/// Each worker remembers destinations for itself.
#[derive(Debug)]
struct LocalityLeastConnection {
    roster: Roster,
}

/// The server of each destination.
type Assigned = Destinations<Tenure>;

pub(super) fn build(construction: &mut Construction) -> Built {
    let servers = construction.servers;
    let is_same = |before: &LocalityLeastConnection| before.roster.is_of(servers);
    construction.kept(is_same).unwrap_or_else(|| {
        let before = construction.before::<LocalityLeastConnection>();
        let roster = Roster::new(construction, before.map(|before| &before.roster));
        (Arc::new(LocalityLeastConnection { roster }), None)
    })
}

impl Schedule for LocalityLeastConnection {
    fn pick(
        &self,
        state: &mut WorkerState,
        servers: &[Server],
        request: &Request,
    ) -> Option<usize> {
        let destination = *request.virtual_endpoint.ip();
        let assigned = state
            .memory::<Assigned>()
            .and_then(|assigned| assigned.ask(destination, request.now))
            // Who left is not found, and replaced.
            .and_then(|assigned| self.roster.position(*assigned))
            .filter(|position| can_stay(&servers[*position], servers));
        if assigned.is_some() {
            return assigned;
        }
        let picked = wlc::pick(servers)?;
        let assigned = state.memory_or_begin(Assigned::new);
        assigned.remember(destination, self.roster.tenures()[picked], request.now);
        Some(picked)
    }
}

fn can_stay(server: &Server, servers: &[Server]) -> bool {
    server.is_usable() && !is_overloaded(server, servers)
}

#[cfg(test)]
mod tests {
    use super::super::{SchedulerKind::LocalityLeastConnection, testing::*};

    #[test]
    fn one_server_for_one_destination() {
        let servers = servers(&[10, 10, 10]);
        let mut scheduler = scheduler(LocalityLeastConnection, &servers);
        for client in 0..10 {
            let picked = scheduler.pick(&servers, &request_to(client, 1, 80));
            assert_eq!(picked, Some(0), "at its weight, not above");
            servers[0].set_active(servers[0].active() + 1);
        }
        assert_eq!(scheduler.pick(&servers, &request_to(1, 2, 80)), Some(1), "least connections");
        assert_eq!(scheduler.pick(&servers, &request_to(1, 1, 443)), Some(0));
    }

    #[test]
    fn an_overloaded_server_hands_over_for_good() {
        let servers = [loaded(1, 10, 0, 0), loaded(2, 10, 5, 0), loaded(3, 10, 6, 0)];
        let mut scheduler = scheduler(LocalityLeastConnection, &servers);
        assert_eq!(scheduler.pick(&servers, &request(1)), Some(0));
        servers[0].set_active(11);
        assert_eq!(scheduler.pick(&servers, &request(1)), Some(0), "nobody has half its load");
        servers[1].set_active(4);
        assert_eq!(scheduler.pick(&servers, &request(1)), Some(1));
        servers[0].set_active(0);
        assert_eq!(scheduler.pick(&servers, &request(1)), Some(1));
    }

    #[test]
    fn what_is_not_usable_or_gone_is_replaced() {
        let mut servers = servers(&[1, 1, 1]);
        let mut scheduler = scheduler(LocalityLeastConnection, &servers);
        assert_eq!(scheduler.pick(&servers, &request(1)), Some(0));
        servers[0].set_overloaded(true);
        assert_eq!(scheduler.pick(&servers, &request(1)), Some(1));
        servers[0].set_overloaded(false);
        servers[1].shared.set_weight(0);
        assert_eq!(scheduler.pick(&servers, &request(1)), Some(0));
        let rest = &servers[1..];
        scheduler.servers_changed(rest);
        assert_eq!(scheduler.pick(rest, &request(1)), Some(1));
        servers.reverse();
        scheduler.servers_changed(&servers);
        assert_eq!(scheduler.pick(&servers, &request(1)), Some(0), "by who it is, not where");
    }

    #[test]
    fn a_destination_outlives_changes_of_which_the_worker_saw_none() {
        let servers = servers(&[9, 9, 9]);
        let mut scheduler = scheduler(LocalityLeastConnection, &servers);
        assert_eq!(scheduler.pick(&servers, &request(1)), Some(0));
        servers[0].set_active(1);
        scheduler.servers_changed(&servers[..2]);
        let reversed: Vec<_> = servers.iter().rev().cloned().collect();
        scheduler.servers_changed(&reversed);
        assert_eq!(scheduler.pick(&reversed, &request(1)), Some(2));
    }

    #[test]
    fn forgets_after_a_day() {
        let servers = servers(&[9, 9]);
        let mut scheduler = scheduler(LocalityLeastConnection, &servers);
        assert_eq!(scheduler.pick(&servers, &request(1)), Some(0));
        servers[0].set_active(1);
        assert_eq!(scheduler.pick(&servers, &later(request(1), 86_400)), Some(0));
        assert_eq!(scheduler.pick(&servers, &later(request(1), 2 * 86_400 + 1)), Some(1));
    }
}
