//! Which worker owns a connection.

use std::net::Ipv4Addr;

use shunt_nat::Side;

use super::key::{MAX_INDEX_BITS, MIN_KEY_LEN, rss_key, window};

/// A worker's place among the workers, from 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WorkerId(pub u8);

/// Entries of the table where no port has one of its own: a NIC's usual 128.
const DEFAULT_ENTRIES: usize = 128;
/// The most entries: a larger table of a port's repeats them.
const MAX_ENTRIES: usize = 1 << MAX_INDEX_BITS;

/// Says which worker owns the connections with a peer endpoint: what a port does in hardware under
/// [`rss_key`] and [`Owners::redirection`], in software.
#[derive(Clone)]
pub struct Owners {
    /// What each value of each byte of an endpoint, address first, adds to the table's index. The
    /// hash is linear: its value is the XOR of them all.
    bytes: [[u16; 256]; 6],
    /// The first `entries` are in use.
    table: [WorkerId; MAX_ENTRIES],
    entries: usize,
}

impl Owners {
    /// For workers and ports, some of which have redirection tables: the smallest of them decides,
    /// because larger ones can repeat it.
    pub(crate) fn among(workers: usize, tables: impl Iterator<Item = usize>) -> Owners {
        Owners::new(tables.min().unwrap_or(DEFAULT_ENTRIES).min(MAX_ENTRIES), workers)
    }

    /// Shares a table of `entries`, a power of two from 2 to 512, out among `workers`.
    ///
    /// # Panics
    /// For another number of entries.
    #[must_use]
    pub fn new(entries: usize, workers: usize) -> Owners {
        assert!(entries.is_power_of_two() && (2..=MAX_ENTRIES).contains(&entries), "{entries}");
        let index_bits = entries.trailing_zeros();
        let key = rss_key(Side::Outside, index_bits, MIN_KEY_LEN);
        // Where the source address and the source port begin in what is hashed.
        let positions = [0, 8, 16, 24, 64, 72];
        let bytes = positions.map(|position| {
            std::array::from_fn(|value| {
                let bits = (0..8).filter(|bit| value & (0x80 >> bit) != 0);
                let sum = bits.fold(0, |sum, bit| sum ^ window(&key, position + bit));
                (sum & (entries as u32 - 1)) as u16
            })
        });
        // In blocks: neighbouring endpoints differ in the index's high bits.
        let mut table = [WorkerId::default(); MAX_ENTRIES];
        for (entry, worker) in table[..entries].iter_mut().enumerate() {
            *worker = WorkerId((entry * workers / entries) as u8);
        }
        Owners { bytes, table, entries }
    }

    /// The owner of the connections with a peer endpoint. Of what has no ports the port is 0.
    #[inline]
    #[must_use]
    pub fn owner(&self, address: Ipv4Addr, l4_port: u16) -> WorkerId {
        let [a, b, c, d] = address.octets();
        let [e, f] = l4_port.to_be_bytes();
        let [t0, t1, t2, t3, t4, t5] = &self.bytes;
        let addresses = t0[a as usize] ^ t1[b as usize] ^ t2[c as usize] ^ t3[d as usize];
        let index = addresses ^ t4[e as usize] ^ t5[f as usize];
        // The mask changes nothing, and tells the compiler that no bound need be checked.
        self.table[usize::from(index) & (MAX_ENTRIES - 1)]
    }

    /// Bits of the hash that index the table.
    #[must_use]
    pub fn index_bits(&self) -> u32 {
        self.entries.trailing_zeros()
    }

    /// A port's redirection table of `entries`, a multiple of ours: the queue that `queue_of` the
    /// owner.
    #[must_use]
    pub fn redirection(&self, entries: usize, queue_of: impl Fn(WorkerId) -> u16) -> Vec<u16> {
        self.table[..self.entries]
            .iter()
            .map(|worker| queue_of(*worker))
            .cycle()
            .take(entries)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use shunt_dpdk::{DEFAULT_KEY_LEN, softrss};

    use super::*;

    /// Sizes of redirection tables that NICs have, and ours for them.
    const TABLES: [usize; 6] = [16, 64, 128, 256, 512, 2048];

    /// The queue that a port on one side would put a packet into, if worker and queue go together.
    fn queue(owners: &Owners, side: Side, entries: usize, input: &[u32], key_len: usize) -> u16 {
        let key = rss_key(side, owners.index_bits(), key_len);
        let table = owners.redirection(entries, |worker| worker.0.into());
        table[softrss(input, &key) as usize % entries]
    }

    fn owners(entries: usize, workers: usize) -> Owners {
        Owners::new(entries.min(MAX_ENTRIES), workers)
    }

    proptest! {
        /// Of random packets: both ports' hardware and our software agree, whatever the other
        /// fields are, under a key of either length.
        #[test]
        fn ports_and_software_agree(
            (peer, own) in any::<(u32, u32)>(),
            (peer_port, own_port) in any::<(u16, u16)>(),
            entries in prop::sample::select(&TABLES[..]),
            workers in 1usize..17,
            key_len in prop::sample::select(&[DEFAULT_KEY_LEN, 52][..]),
        ) {
            let owners = owners(entries, workers);
            let ports = |src: u16, dst: u16| u32::from(src) << 16 | u32::from(dst);
            let outside = [peer, own, ports(peer_port, own_port)];
            let inside = [own, peer, ports(own_port, peer_port)];
            let owner = u16::from(owners.owner(peer.into(), peer_port).0);
            prop_assert_eq!(queue(&owners, Side::Outside, entries, &outside, key_len), owner);
            prop_assert_eq!(queue(&owners, Side::Inside, entries, &inside, key_len), owner);
            // Fragments, ICMP: addresses alone.
            let owner = u16::from(owners.owner(peer.into(), 0).0);
            prop_assert_eq!(queue(&owners, Side::Outside, entries, &outside[..2], key_len), owner);
            prop_assert_eq!(queue(&owners, Side::Inside, entries, &inside[..2], key_len), owner);
        }
    }

    /// How far the busiest of the workers is above its fair share.
    fn excess(owners: &Owners, workers: usize, peers: impl Iterator<Item = (u32, u16)>) -> f64 {
        let mut loads = vec![0u32; workers];
        for (address, port) in peers {
            loads[owners.owner(address.into(), port).0 as usize] += 1;
        }
        let fair = f64::from(loads.iter().sum::<u32>()) / workers as f64;
        loads.into_iter().map(f64::from).fold(0.0, f64::max) / fair - 1.0
    }

    /// What a table can't divide evenly stays uneven: of 128 entries, three workers get 42 or 43.
    fn allowed(entries: usize, workers: usize) -> f64 {
        let fair = entries as f64 / workers as f64;
        fair.ceil() / fair - 1.0 + 0.001
    }

    #[test]
    fn neighbouring_peers_are_spread_evenly() {
        let client = u32::from_be_bytes([192, 0, 2, 0]);
        for entries in [64, 128, 256, 512] {
            for workers in [2, 3, 4, 6, 8, 12, 16] {
                let owners = owners(entries, workers);
                let allowed = allowed(entries, workers);
                // A client that uses its ports in turn, and clients of one network on one port.
                let ports = (0..1 << 14).map(|port| (client, 32_768 + port as u16));
                let addresses = (0..1 << 14).map(|host| (client + host, 40_000));
                for excess in [excess(&owners, workers, ports), excess(&owners, workers, addresses)]
                {
                    assert!(excess <= allowed, "{entries} entries, {workers} workers: {excess}");
                }
            }
        }
    }

    #[test]
    fn few_peers_are_spread_too() {
        let client = u32::from_be_bytes([192, 0, 2, 17]);
        for workers in [2, 4] {
            let owners = owners(128, workers);
            let ports = (0..16).map(|port| (client, 40_000 + port));
            let hosts = (0..16).map(|host| (client + host, 0));
            for excess in [excess(&owners, workers, ports), excess(&owners, workers, hosts)] {
                assert!(excess <= 0.5, "{workers} workers: {excess}");
            }
        }
    }

    #[test]
    fn chance_spreads_within_its_bounds() {
        use std::hash::{BuildHasher, RandomState};
        let state = RandomState::new();
        let random = |n: u32| {
            let hash = state.hash_one(n);
            ((hash >> 32) as u32, hash as u16)
        };
        const PEERS: u32 = 100_000;
        for workers in [2, 4, 8] {
            let owners = owners(128, workers);
            // Five standard deviations of a binomial distribution.
            let fair = f64::from(PEERS) / workers as f64;
            let bound = 5.0 * fair.sqrt() / fair;
            let excess = excess(&owners, workers, (0..PEERS).map(random));
            assert!(excess <= bound, "{workers} workers: {excess}");
        }
    }

    #[test]
    fn workers_get_blocks_of_the_table() {
        let owners = owners(128, 3);
        let table = owners.redirection(256, |worker| worker.0.into());
        assert!(table[..128].is_sorted() && table[..128] == table[128..]);
        let count = |worker| table[..128].iter().filter(|owner| **owner == worker).count();
        assert_eq!([count(0), count(1), count(2)], [43, 43, 42]);
    }
}
