use hashbrown::HashMap;

use shunt_rules::ServerId;

use super::Construction;
use crate::server::Server;

/// A server's stay in a service: from the change with which it came until that with which it leaves.
/// One that comes back begins another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Tenure(u64);

/// Who a service's servers are, in its order.
#[derive(Debug)]
pub(super) struct Roster {
    servers: Box<[ServerId]>,
    tenures: Box<[Tenure]>,
    /// Indexes, by tenure.
    by_tenure: Box<[u32]>,
}

impl Roster {
    /// Of those servers of a construction that are in the roster from before, the stay goes on.
    pub(super) fn new(construction: &mut Construction, before: Option<&Roster>) -> Roster {
        let present: HashMap<ServerId, Tenure> = before
            .map(|before| before.servers.iter().copied().zip(before.tenures.iter().copied()))
            .into_iter()
            .flatten()
            .collect();
        let servers = construction.servers;
        let tenure = |server: &Server| match present.get(&server.id) {
            Some(tenure) => *tenure,
            None => Tenure(construction.number()),
        };
        let tenures: Box<[Tenure]> = servers.iter().map(tenure).collect();
        let mut by_tenure: Box<[u32]> = (0..tenures.len() as u32).collect();
        by_tenure.sort_unstable_by_key(|index| tenures[*index as usize]);
        Roster { servers: servers.iter().map(|server| server.id).collect(), tenures, by_tenure }
    }

    /// Whether it is of these servers, in this order.
    pub(super) fn is_of(&self, servers: &[Server]) -> bool {
        servers.iter().map(|server| server.id).eq(self.servers.iter().copied())
    }

    pub(super) fn len(&self) -> usize {
        self.servers.len()
    }

    /// By index.
    pub(super) fn tenures(&self) -> &[Tenure] {
        &self.tenures
    }

    /// The index of a server whose stay has not ended.
    pub(super) fn position(&self, tenure: Tenure) -> Option<usize> {
        self.tenures.iter().position(|other| *other == tenure)
    }

    /// Indexes here and in another roster of those whose stay spans both. Allocates nothing, and takes
    /// steps in proportion to the servers of both.
    pub(super) fn common<'a>(
        &'a self,
        other: &'a Roster,
    ) -> impl Iterator<Item = (usize, usize)> + use<'a> {
        let mut theirs = other.by_tenure.iter().map(|index| *index as usize).peekable();
        self.by_tenure.iter().filter_map(move |index| {
            let index = *index as usize;
            let tenure = self.tenures[index];
            while theirs.next_if(|their| other.tenures[*their] < tenure).is_some() {}
            let same = theirs.next_if(|their| other.tenures[*their] == tenure)?;
            Some((index, same))
        })
    }
}
