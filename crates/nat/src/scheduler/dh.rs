use std::sync::Arc;

use super::{Built, Construction, Request, Schedule, WorkerState, sh::tiled, slots::Slots};
use crate::server::Server;

/// Destination hashing: like [source hashing](super::sh), flags and all, by the virtual address
/// (with the flag `port`: and port). A service with one VIP:vport has one server then: this is for
/// services of many.
#[derive(Debug)]
struct DestinationHash(Slots);

pub(super) fn build(construction: &mut Construction) -> Built {
    let slots = tiled(construction);
    let is_same = |before: &DestinationHash| before.0.is_same(&slots);
    construction.kept(is_same).unwrap_or_else(|| (Arc::new(DestinationHash(slots)), None))
}

impl Schedule for DestinationHash {
    fn pick(&self, _: &mut WorkerState, servers: &[Server], request: &Request) -> Option<usize> {
        self.0.pick(servers, request.virtual_endpoint)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{SchedulerFlags, SchedulerKind::DestinationHash, testing::*};

    #[test]
    fn the_virtual_address_decides_not_the_client() {
        let servers = servers(&[1, 1, 1]);
        let mut scheduler = scheduler(DestinationHash, &servers);
        let mut of_address = Vec::new();
        for vip in 1..=60 {
            let picked = scheduler.pick(&servers, &request_to(1, vip, 80)).unwrap();
            for (client, vport) in [(2, 80), (3, 443)] {
                let again = scheduler.pick(&servers, &request_to(client, vip, vport));
                assert_eq!(again, Some(picked));
            }
            of_address.push(picked);
        }
        assert!(counts(&of_address, 3).iter().all(|count| *count >= 10), "{of_address:?}");
    }

    #[test]
    fn with_port_the_virtual_port_decides_too() {
        let servers = servers(&[1, 1, 1]);
        let flags = SchedulerFlags { port: true, fallback: false };
        let mut scheduler = Subject::new(DestinationHash, flags, &servers, SEED);
        let picked: Vec<usize> = (1..=60)
            .map(|vport| scheduler.pick(&servers, &request_to(1, 1, vport)).unwrap())
            .collect();
        assert!(counts(&picked, 3).iter().all(|count| *count >= 10), "{picked:?}");
    }

    #[test]
    fn refuses_or_falls_back() {
        let servers = servers(&[1, 1]);
        for fallback in [false, true] {
            let flags = SchedulerFlags { fallback, port: false };
            let mut scheduler = Subject::new(DestinationHash, flags, &servers, SEED);
            let picked = scheduler.pick(&servers, &request(1)).unwrap();
            servers[picked].set_overloaded(true);
            let instead = fallback.then_some(1 - picked);
            assert_eq!(scheduler.pick(&servers, &request(1)), instead);
            servers[picked].set_overloaded(false);
            scheduler.servers_changed(&servers[..1]);
            assert_eq!(scheduler.pick(&servers[..1], &request(1)), Some(0));
        }
    }
}
