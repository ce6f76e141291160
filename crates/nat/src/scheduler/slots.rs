use std::{fmt, net::SocketAddrV4, sync::Arc};

use super::{SchedulerFlags, hash, usable};
use crate::server::Server;

/// A table of servers that is looked up by a hash: what `sh`, `dh` and `mh` have in common.
#[derive(Clone)]
pub(super) struct Slots {
    /// Indexes of servers; empty if no server has a weight. All workers read one table.
    servers: Arc<[u32]>,
    flags: SchedulerFlags,
    seed: u64,
}

impl Slots {
    pub(super) fn new(servers: Vec<u32>, flags: SchedulerFlags, seed: u64) -> Slots {
        Slots { servers: servers.into(), flags, seed }
    }

    /// The same table, looked up under other flags.
    pub(super) fn with_flags(&self, flags: SchedulerFlags) -> Slots {
        Slots { flags, ..self.clone() }
    }

    /// The server of an endpoint. One table look-up, unless it comes to falling back.
    pub(super) fn pick(&self, servers: &[Server], endpoint: SocketAddrV4) -> Option<usize> {
        let hash = hash::keyed(self.seed, hash::endpoint_key(endpoint, self.flags.port));
        let assigned = self.at(hash)?;
        if servers.get(assigned).is_some_and(Server::is_usable) {
            return Some(assigned);
        }
        if !self.flags.fallback {
            return None;
        }
        // A server's slots lie all over the table, so its clients spread over all the others.
        choose(usable(servers), hash)
    }

    /// The index of the server at this point of the space of hashes.
    pub(super) fn at(&self, hash: u64) -> Option<usize> {
        let slot = hash::scale(hash, self.servers.len() as u64);
        self.servers.get(slot as usize).map(|server| *server as usize)
    }

    pub(super) fn len(&self) -> usize {
        self.servers.len()
    }
}

impl fmt::Debug for Slots {
    /// Without the slots: there are thousands.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Slots({})", self.servers.len())
    }
}

/// One of the candidates, each in proportion to its weight, by a random number.
pub(super) fn choose<'a>(
    candidates: impl Iterator<Item = (usize, &'a Server)> + Clone,
    random: u64,
) -> Option<usize> {
    let total = candidates.clone().map(|(_, server)| u64::from(server.weight)).sum();
    let mut point = hash::scale(random, total);
    for (index, server) in candidates {
        let weight = u64::from(server.weight);
        if point < weight {
            return Some(index);
        }
        point -= weight;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::{super::testing::*, *};

    #[test]
    fn chooses_by_weight() {
        let servers = servers(&[1, 0, 3]);
        let choices = (0..8).map(|eighth| choose(usable(&servers), eighth << 61).unwrap());
        assert_eq!(choices.collect::<Vec<_>>(), [0, 0, 2, 2, 2, 2, 2, 2]);
        assert_eq!(choose(usable(&servers), u64::MAX), Some(2));
        assert_eq!(choose(usable(&[]), 5), None);
    }
}
