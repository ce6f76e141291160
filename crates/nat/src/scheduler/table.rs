//! Tables of servers that are looked up by a hash, and sharing them between services.

use std::{
    fmt,
    hash::{BuildHasher, Hash},
    net::SocketAddrV4,
    sync::{Arc, Weak},
};

use hashbrown::HashMap;

use super::{hash, mh, sh};
use crate::server::Server;

/// The most slots that a table of `mh` can have.
pub const MAX_SLOTS: u32 = 6_553_577;

/// What a table is made from. Equal recipes make equal tables.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct Recipe {
    pub(super) filling: Filling,
    pub(super) size: usize,
    pub(super) members: Box<[Member]>,
}

/// How slots are given to servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Filling {
    /// As in [source hashing](super::sh).
    Tiled,
    /// As in [Maglev hashing](super::mh), with this seed.
    Maglev { seed: u64 },
}

/// A server of a table, by the service's order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Member {
    pub(super) endpoint: SocketAddrV4,
    /// The configured one.
    pub(super) weight: u16,
}

impl Recipe {
    pub(super) fn new(filling: Filling, size: usize, servers: &[Server]) -> Recipe {
        let member = |server: &Server| Member {
            endpoint: server.endpoint,
            weight: server.shared.configured_weight(),
        };
        Recipe { filling, size, members: servers.iter().map(member).collect() }
    }
}

/// A table of servers. All workers read one, and services with equal recipes share one.
pub(super) struct Table {
    recipe: Recipe,
    slots: Slots,
}

/// Indexes of servers, as narrow as they can be; none if no server has a weight.
enum Slots {
    Narrow(Box<[u8]>),
    Wide(Box<[u16]>),
    Widest(Box<[u32]>),
}

/// An index of a server in a slot.
pub(super) trait SlotIndex: Copy + Eq {
    /// No index.
    const FREE: Self;

    /// The index of a server; there are fewer than [`FREE`](SlotIndex::FREE).
    fn new(server: usize) -> Self;
}

macro_rules! slot_indexes {
    ($($width:ty),*) => {$(
        impl SlotIndex for $width {
            const FREE: $width = <$width>::MAX;

            fn new(server: usize) -> $width {
                server as $width
            }
        }
    )*};
}

slot_indexes!(u8, u16, u32);

impl Table {
    pub(super) fn new(recipe: Recipe) -> Table {
        let slots = match recipe.members.len() {
            0..=0xff => Slots::Narrow(fill(&recipe)),
            0x100..=0xffff => Slots::Wide(fill(&recipe)),
            _ => Slots::Widest(fill(&recipe)),
        };
        Table { recipe, slots }
    }

    pub(super) fn members(&self) -> &[Member] {
        &self.recipe.members
    }

    /// The index of the server at this point of the space of hashes.
    #[inline]
    pub(super) fn at(&self, hash: u64) -> Option<usize> {
        self.get(hash::scale(hash, self.len() as u64) as usize)
    }

    /// The index of the server in a slot.
    #[inline]
    pub(super) fn get(&self, slot: usize) -> Option<usize> {
        match &self.slots {
            Slots::Narrow(slots) => slots.get(slot).map(|server| usize::from(*server)),
            Slots::Wide(slots) => slots.get(slot).map(|server| usize::from(*server)),
            Slots::Widest(slots) => slots.get(slot).map(|server| *server as usize),
        }
    }

    /// How many slots it has: as many as the recipe says, or none if no server has a weight.
    #[inline]
    pub(super) fn len(&self) -> usize {
        match &self.slots {
            Slots::Narrow(slots) => slots.len(),
            Slots::Wide(slots) => slots.len(),
            Slots::Widest(slots) => slots.len(),
        }
    }
}

fn fill<I: SlotIndex>(recipe: &Recipe) -> Box<[I]> {
    let Recipe { filling, size, members } = recipe;
    match filling {
        Filling::Tiled => sh::tile(members, *size),
        Filling::Maglev { seed } => mh::fill(members, *size, *seed),
    }
}

impl fmt::Debug for Table {
    /// Without the slots: there are thousands.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Table").field("recipe", &self.recipe).finish_non_exhaustive()
    }
}

/// The tables that services use now.
#[derive(Debug, Default)]
pub(super) struct Tables {
    /// By a hash of the recipe. Of two recipes with one hash, the later one is here.
    by_hash: HashMap<u64, Weak<Table>>,
    /// The number of entries at which those of dropped tables are removed.
    full: usize,
}

impl Tables {
    /// The table of this recipe: one that is in use, or else a new one.
    pub(super) fn get(&mut self, recipe: Recipe) -> Arc<Table> {
        let hash = self.by_hash.hasher().hash_one(&recipe);
        let known = self.by_hash.get(&hash).and_then(Weak::upgrade);
        if let Some(known) = known.filter(|known| known.recipe == recipe) {
            return known;
        }
        if self.by_hash.len() >= self.full {
            self.by_hash.retain(|_, table| table.strong_count() > 0);
            self.full = (2 * self.by_hash.len()).max(64);
        }
        let table = Arc::new(Table::new(recipe));
        self.by_hash.insert(hash, Arc::downgrade(&table));
        table
    }
}

#[cfg(test)]
mod tests {
    use super::{super::testing::*, *};
    use std::net::Ipv4Addr;

    fn recipe(weights: &[u16], size: usize) -> Recipe {
        Recipe::new(Filling::Tiled, size, &servers(weights))
    }

    #[test]
    fn equal_recipes_share_a_table_while_it_is_used() {
        let mut tables = Tables::default();
        let first = tables.get(recipe(&[1, 2], 1024));
        assert!(Arc::ptr_eq(&first, &tables.get(recipe(&[1, 2], 1024))));
        for other in [recipe(&[2, 1], 1024), recipe(&[1, 2], 2048), recipe(&[1, 2, 0], 1024)] {
            assert!(!Arc::ptr_eq(&first, &tables.get(other)));
        }
        let maglev = Recipe { filling: Filling::Maglev { seed: 1 }, ..recipe(&[1, 2], 1021) };
        tables.get(maglev);
        drop(first);
        assert!(tables.by_hash.values().all(|table| table.strong_count() == 0));
    }

    #[test]
    fn tables_that_nobody_uses_are_forgotten() {
        let mut tables = Tables::default();
        let kept: Vec<_> = (1..=10).map(|weight| tables.get(recipe(&[weight], 64))).collect();
        for weight in 11..5000 {
            tables.get(recipe(&[weight], 64));
        }
        assert!(tables.by_hash.len() <= 64, "{}", tables.by_hash.len());
        assert!(Arc::ptr_eq(&kept[3], &tables.get(recipe(&[4], 64))));
    }

    #[test]
    fn an_index_is_as_wide_as_it_must_be() {
        for (servers, width) in [(1, 1), (255, 1), (256, 2), (65535, 2), (65536, 4)] {
            let endpoint =
                |server: usize| SocketAddrV4::new(Ipv4Addr::from_bits(server as u32), 80);
            let member = |server| Member { endpoint: endpoint(server), weight: 1 };
            let members = (0..servers).map(member).collect();
            let table = Table::new(Recipe { filling: Filling::Tiled, size: 131_072, members });
            let (bytes, last) = match &table.slots {
                Slots::Narrow(slots) => (size_of_val(&**slots), slots.len()),
                Slots::Wide(slots) => (size_of_val(&**slots), slots.len()),
                Slots::Widest(slots) => (size_of_val(&**slots), slots.len()),
            };
            assert_eq!((bytes, last), (131_072 * width, 131_072), "{servers}");
            let highest = (0..table.len()).filter_map(|slot| table.get(slot)).max();
            assert_eq!(highest, Some(servers - 1));
        }
    }
}
