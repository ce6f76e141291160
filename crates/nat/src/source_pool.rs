//! Source endpoints for translated connections: SNAT's, and full-NAT's local addresses.

use std::{
    net::{Ipv4Addr, SocketAddrV4},
    ops::RangeInclusive,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
    },
};

use derive_more::AddAssign;
use hashbrown::HashSet;

/// How many ports of an address are tried for one connection, and after how many no further address
/// is: both bound the work that a packet can cause.
const ATTEMPTS: u32 = 64;
const ATTEMPTS_IN_ALL: u32 = 512;

/// A search that took more attempts than this found most ports taken.
const SCARCE: u32 = 8;

/// How much of a pool of source endpoints is in use.
///
/// One port serves many destinations at once, so `in_use` may exceed `endpoints`. What runs out is
/// ports towards one destination, and `scarce` says so ahead of time.
#[derive(AddAssign, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PoolUsage {
    /// Addresses times ports.
    pub endpoints: u64,
    /// Connections that have an endpoint on one of its addresses now. Of an address that is in
    /// several pools, each counts all connections.
    pub in_use: u64,
    /// Connections for which 8 taken ports or more had to be passed over: towards their
    /// destination, most are taken.
    pub scarce: u64,
    /// Times that a connection found no port free for its destination. Of a service's servers, others
    /// may have been tried then.
    pub exhausted: u64,
}

/// How much one worker uses a source address, whoever's pools it is in. It outlives changes of the
/// rules. Written by that worker, read by the builder of rules.
#[derive(Debug, Default)]
pub(crate) struct AddressUse {
    /// Connections that have an endpoint on it.
    in_use: AtomicU64,
    /// The place of the port whose turn it is.
    next: AtomicU32,
}

impl AddressUse {
    pub(crate) fn is_idle(&self) -> bool {
        self.in_use.load(Relaxed) == 0
    }

    fn take(&self) {
        self.in_use.store(self.in_use.load(Relaxed) + 1, Relaxed);
    }

    /// Notes that a connection gave its endpoint back.
    pub(crate) fn release(&self) {
        self.in_use.store(self.in_use.load(Relaxed) - 1, Relaxed);
    }

    /// Whose turn it is, which passes on.
    fn next(&self) -> u32 {
        let next = self.next.load(Relaxed);
        self.next.store(next.wrapping_add(1), Relaxed);
        next
    }
}

/// What one worker counts of a pool; it outlives changes of the rules, and is written by that worker
/// only.
#[derive(Debug, Default)]
pub(crate) struct PoolCounts {
    scarce: AtomicU64,
    exhausted: AtomicU64,
}

fn count_up(counter: &AtomicU64) {
    counter.store(counter.load(Relaxed) + 1, Relaxed);
}

/// Whether a connection can have a source endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Availability {
    /// No other connection with its peer has it.
    Free,
    /// Another host's connection has it that both ends are done with. The peer may be in TIME-WAIT, and
    /// that host's last segments may be on their way: it is better left alone while others are free.
    Closing,
    /// Another connection needs it.
    Taken,
}

/// Addresses with a set of ports each.
#[derive(Debug)]
pub(crate) struct SourcePool {
    /// Those with ports.
    addresses: Vec<SourceAddress>,
    /// Every address once, those without ports as well.
    uses: Vec<Arc<AddressUse>>,
    counts: Arc<PoolCounts>,
}

#[derive(Debug)]
struct SourceAddress {
    address: Ipv4Addr,
    ports: Ports,
    usage: Arc<AddressUse>,
}

impl SourcePool {
    pub(crate) fn new(
        addresses: impl IntoIterator<Item = (Ipv4Addr, Ports, Arc<AddressUse>)>,
        counts: Arc<PoolCounts>,
    ) -> SourcePool {
        let mut pool = SourcePool { addresses: Vec::new(), uses: Vec::new(), counts };
        let mut seen = HashSet::new();
        for (address, ports, usage) in addresses {
            if seen.insert(address) {
                pool.uses.push(Arc::clone(&usage));
            }
            if ports.len() > 0 {
                pool.addresses.push(SourceAddress { address, ports, usage });
            }
        }
        pool
    }

    /// An endpoint that is free, for a host and its own port, or else one whose connection closes. A host
    /// keeps to one address as long as that has free ports (RFC 4787, REQ-2), and to its own port if it
    /// can.
    pub(crate) fn allocate(
        &self,
        host: Ipv4Addr,
        own_port: u16,
        availability: impl Fn(SocketAddrV4) -> Availability,
    ) -> Option<SocketAddrV4> {
        let count = self.addresses.len();
        let first = (host.to_bits() as usize).checked_rem(count).unwrap_or(0);
        let mut tried = 0;
        let mut closing = None;
        let mut found = None;
        for place in (first..count).chain(0..first) {
            let SourceAddress { address, ports, usage } = &self.addresses[place];
            let is_free = |port| {
                let endpoint = SocketAddrV4::new(*address, port);
                let availability = availability(endpoint);
                if availability == Availability::Closing {
                    closing.get_or_insert((endpoint, usage));
                }
                availability == Availability::Free
            };
            if let Some(port) = ports.allocate(own_port, usage, &mut tried, is_free) {
                found = Some((SocketAddrV4::new(*address, port), usage));
                break;
            }
            if tried >= ATTEMPTS_IN_ALL {
                break;
            }
        }
        let Some((endpoint, usage)) = found.or(closing) else {
            count_up(&self.counts.exhausted);
            return None;
        };
        usage.take();
        if tried > SCARCE {
            count_up(&self.counts.scarce);
        }
        Some(endpoint)
    }

    /// An address that `is_free`, the host's own first.
    pub(crate) fn allocate_address(
        &self,
        host: Ipv4Addr,
        is_free: impl Fn(Ipv4Addr) -> bool,
    ) -> Option<Ipv4Addr> {
        let count = self.addresses.len();
        let first = (host.to_bits() as usize).checked_rem(count).unwrap_or(0);
        let places = (first..count).chain(0..first).take(ATTEMPTS as usize);
        let mut addresses = places.map(|place| &self.addresses[place]);
        let Some(found) = addresses.find(|source| is_free(source.address)) else {
            count_up(&self.counts.exhausted);
            return None;
        };
        found.usage.take();
        Some(found.address)
    }

    pub(crate) fn usage(&self) -> PoolUsage {
        PoolUsage {
            endpoints: self.addresses.iter().map(|address| u64::from(address.ports.len())).sum(),
            in_use: self.uses.iter().map(|usage| usage.in_use.load(Relaxed)).sum(),
            scarce: self.counts.scarce.load(Relaxed),
            exhausted: self.counts.exhausted.load(Relaxed),
        }
    }
}

/// Ports of one address that a worker may hand out.
#[derive(Debug)]
pub(crate) enum Ports {
    /// All of a range.
    All(RangeInclusive<u16>),
    /// Those whose replies come to this worker, in ascending order.
    Own(Box<[u16]>),
}

impl Ports {
    fn len(&self) -> u32 {
        match self {
            Ports::All(range) => range.len() as u32,
            Ports::Own(ports) => ports.len() as u32,
        }
    }

    /// A port that `is_free`: the host's own if it is among them (as Linux does), then the others in
    /// turn. What is handed out in turn is taken in runs, so the attempts are spread evenly: a long
    /// run can't hide the free ports behind it. `tried` counts them.
    fn allocate(
        &self,
        own: u16,
        usage: &AddressUse,
        tried: &mut u32,
        mut is_free: impl FnMut(u16) -> bool,
    ) -> Option<u16> {
        if self.contains(own) && is_free(own) {
            return Some(own);
        }
        let start = usage.next() % self.len();
        let attempts = self.len().min(ATTEMPTS);
        let stride = self.len() / attempts;
        (0..attempts)
            .inspect(|_| *tried += 1)
            .map(|attempt| self.port((start + attempt * stride) % self.len()))
            .find(|port| is_free(*port))
    }

    fn contains(&self, port: u16) -> bool {
        match self {
            Ports::All(range) => range.contains(&port),
            Ports::Own(ports) => ports.binary_search(&port).is_ok(),
        }
    }

    fn port(&self, place: u32) -> u16 {
        match self {
            Ports::All(range) => range.start() + place as u16,
            Ports::Own(ports) => ports[place as usize],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOST: Ipv4Addr = Ipv4Addr::new(192, 168, 2, 10);

    fn pool(addresses: &[&str], ports: RangeInclusive<u16>) -> SourcePool {
        let address =
            |address: &&str| (address.parse().unwrap(), Ports::All(ports.clone()), Arc::default());
        SourcePool::new(addresses.iter().map(address), Arc::default())
    }

    fn ports(pool: &SourcePool, own: u16, is_free: impl Fn(u16) -> bool) -> Option<u16> {
        pool.allocate(HOST, own, |endpoint| free_or_taken(is_free(endpoint.port())))
            .map(|endpoint| endpoint.port())
    }

    fn free_or_taken(is_free: bool) -> Availability {
        if is_free { Availability::Free } else { Availability::Taken }
    }

    #[test]
    fn closing_connections_keep_their_ports_while_others_are_free() {
        use Availability::{Closing, Free, Taken};
        let pool = pool(&["192.0.2.1", "192.0.2.2"], 1000..=1003);
        let allocate = |availability: fn(SocketAddrV4) -> Availability| {
            pool.allocate(HOST, 1001, availability).map(|endpoint| endpoint.to_string())
        };
        let home = HOST.to_bits() as usize % 2;
        let [home, other] = [home, 1 - home].map(|place| pool.addresses[place].address.octets()[3]);
        assert_eq!(home, 1);
        let some = |text: &str| Some(text.to_owned());
        let only_1002 =
            |endpoint: SocketAddrV4| if endpoint.port() == 1002 { Free } else { Closing };
        assert_eq!(allocate(only_1002), some("192.0.2.1:1002"));
        // On the other address, too.
        let only_other = |endpoint: SocketAddrV4| match endpoint.ip().octets()[3] {
            2 => Free,
            _ => Closing,
        };
        assert_eq!(other, 2);
        assert_eq!(allocate(only_other), some("192.0.2.2:1001"));
        assert_eq!(allocate(|_| Closing), some("192.0.2.1:1001"));
        let last = |endpoint: SocketAddrV4| if endpoint.port() == 1003 { Closing } else { Taken };
        assert_eq!(allocate(last), some("192.0.2.1:1003"));
        assert_eq!(allocate(|_| Taken), None);
    }

    #[test]
    fn the_own_port_comes_first() {
        let pool = pool(&["192.0.2.1"], 1000..=1002);
        assert_eq!(ports(&pool, 1001, |_| true), Some(1001));
        assert_eq!(ports(&pool, 1001, |port| port != 1001), Some(1000));
        assert_eq!(ports(&pool, 5, |_| true), Some(1001));
        assert_eq!(ports(&pool, 5, |_| true), Some(1002));
        assert_eq!(ports(&pool, 5, |_| true), Some(1000));
        pool.uses[0].release();
        assert_eq!(pool.usage(), PoolUsage { endpoints: 3, in_use: 4, scarce: 0, exhausted: 0 });
    }

    #[test]
    fn a_full_pool_says_so_and_a_nearly_full_one_warns() {
        let small = pool(&["192.0.2.1"], 65_534..=65_535);
        assert_eq!(ports(&small, 65_535, |_| false), None);
        assert_eq!(small.usage().exhausted, 1);
        let all = pool(&["192.0.2.1"], 0..=65_535);
        assert_eq!(ports(&all, 7, |_| false), None);
        assert!(ports(&all, 7, |port| port > 60_000).is_some());
        assert_eq!((all.usage().scarce, all.usage().in_use), (1, 1));
    }

    #[test]
    fn a_run_of_taken_ports_hides_no_free_ones() {
        let pool = pool(&["192.0.2.1"], 10_000..=59_999);
        for _ in 0..1000 {
            assert!(ports(&pool, 0, |port| port > 35_000).is_some());
        }
    }

    #[test]
    fn a_host_keeps_its_address_while_it_can() {
        let pool = pool(&["192.0.2.1", "192.0.2.2", "192.0.2.3"], 1000..=1001);
        let address = |host: Ipv4Addr, taken: &[Ipv4Addr]| {
            pool.allocate(host, 1000, |endpoint| free_or_taken(!taken.contains(endpoint.ip())))
                .map(|endpoint| *endpoint.ip())
        };
        let first = address(HOST, &[]).unwrap();
        assert_eq!(address(HOST, &[]), Some(first));
        let second = address(HOST, &[first]).unwrap();
        let third = address(HOST, &[first, second]).unwrap();
        assert_eq!(address(HOST, &[first, second, third]), None);
        let next_host = Ipv4Addr::from_bits(HOST.to_bits() + 1);
        assert_ne!(address(next_host, &[]), Some(first), "hosts are spread");
    }

    #[test]
    fn no_addresses_no_endpoints() {
        let none = pool(&[], 1..=2);
        assert_eq!(ports(&none, 1, |_| true), None);
        assert_eq!(none.usage().exhausted, 1);
    }

    #[test]
    fn a_worker_has_ports_of_its_own() {
        let own = Ports::Own([1001, 1004, 1006].into());
        let usage: Arc<AddressUse> = Arc::default();
        let addresses = [
            ("192.0.2.1".parse().unwrap(), own, Arc::clone(&usage)),
            ("192.0.2.1".parse().unwrap(), Ports::All(2000..=2000), usage),
            ("192.0.2.2".parse().unwrap(), Ports::Own([].into()), Arc::default()),
        ];
        let pool = SourcePool::new(addresses, Arc::default());
        assert_eq!(ports(&pool, 1004, |_| true), Some(1004));
        let others: Vec<_> = (0..3).filter_map(|_| ports(&pool, 9, |port| port < 2000)).collect();
        assert_eq!(others, [1001, 1004, 1006]);
        assert_eq!(ports(&pool, 1005, |port| port == 2000), Some(2000));
        assert_eq!(pool.usage(), PoolUsage { endpoints: 4, in_use: 5, scarce: 0, exhausted: 0 });
    }
}
