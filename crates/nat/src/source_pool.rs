//! Source endpoints for translated connections: SNAT's, and full-NAT's local addresses.

use std::{
    net::{Ipv4Addr, SocketAddrV4},
    ops::RangeInclusive,
};

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
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PoolUsage {
    /// Addresses times ports.
    pub endpoints: u64,
    /// Connections that have an endpoint now.
    pub in_use: u64,
    /// Connections for which 8 taken ports or more had to be passed over: towards their
    /// destination, most are taken.
    pub scarce: u64,
    /// Connections refused because no port was free for their destination.
    pub exhausted: u64,
}

/// Addresses with a range of ports each.
#[derive(Debug)]
pub(crate) struct SourcePool {
    addresses: Vec<(Ipv4Addr, Ports)>,
    usage: PoolUsage,
}

impl SourcePool {
    pub(crate) fn new<'a>(
        addresses: impl IntoIterator<Item = (Ipv4Addr, &'a RangeInclusive<u16>)>,
    ) -> SourcePool {
        let addresses: Vec<_> =
            addresses.into_iter().map(|(address, ports)| (address, Ports::new(ports))).collect();
        let endpoints = addresses.iter().map(|(_, ports)| u64::from(ports.count)).sum();
        SourcePool { addresses, usage: PoolUsage { endpoints, ..PoolUsage::default() } }
    }

    /// An endpoint that `is_free`, for a host and its own port. A host keeps to one address as long
    /// as that has free ports (RFC 4787, REQ-2), and to its own port if it can.
    pub(crate) fn allocate(
        &mut self,
        host: Ipv4Addr,
        own_port: u16,
        is_free: impl Fn(SocketAddrV4) -> bool,
    ) -> Option<SocketAddrV4> {
        let count = self.addresses.len();
        let first = (host.to_bits() as usize).checked_rem(count).unwrap_or(0);
        let mut tried = 0;
        for place in (first..count).chain(0..first) {
            let (address, ports) = &mut self.addresses[place];
            let address = *address;
            let is_free = |port| is_free(SocketAddrV4::new(address, port));
            if let Some(port) = ports.allocate(own_port, &mut tried, is_free) {
                self.usage.in_use += 1;
                self.usage.scarce += u64::from(tried > SCARCE);
                return Some(SocketAddrV4::new(address, port));
            }
            if tried >= ATTEMPTS_IN_ALL {
                break;
            }
        }
        self.usage.exhausted += 1;
        None
    }

    /// Notes that a connection gave its endpoint back.
    pub(crate) fn release(&mut self) {
        self.usage.in_use -= 1;
    }

    pub(crate) fn usage(&self) -> PoolUsage {
        self.usage
    }
}

/// Hands out candidate ports of one address.
#[derive(Debug)]
struct Ports {
    first: u16,
    count: u32,
    next: u32,
}

impl Ports {
    fn new(ports: &RangeInclusive<u16>) -> Ports {
        let count = u32::from(*ports.end()).saturating_sub(u32::from(*ports.start())) + 1;
        Ports { first: *ports.start(), count, next: 0 }
    }

    /// A port that `is_free`: the host's own if it is in the range (as Linux does), then the
    /// range's in turn. What is handed out in turn is taken in runs, so the attempts are spread
    /// evenly: a long run can't hide the free ports behind it. `tried` counts them.
    fn allocate(
        &mut self,
        own: u16,
        tried: &mut u32,
        is_free: impl Fn(u16) -> bool,
    ) -> Option<u16> {
        if self.contains(own) && is_free(own) {
            return Some(own);
        }
        let start = self.next;
        self.next = (start + 1) % self.count;
        let attempts = self.count.min(ATTEMPTS);
        let stride = self.count / attempts;
        (0..attempts)
            .inspect(|_| *tried += 1)
            .map(|attempt| self.port(start + attempt * stride))
            .find(|port| is_free(*port))
    }

    fn contains(&self, port: u16) -> bool {
        u32::from(port).checked_sub(u32::from(self.first)).is_some_and(|at| at < self.count)
    }

    /// The port at a place of the range, round which places wrap.
    fn port(&self, place: u32) -> u16 {
        self.first + (place % self.count) as u16
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOST: Ipv4Addr = Ipv4Addr::new(192, 168, 2, 10);

    fn pool(addresses: &[&str], ports: RangeInclusive<u16>) -> SourcePool {
        SourcePool::new(addresses.iter().map(|address| (address.parse().unwrap(), &ports)))
    }

    fn ports(pool: &mut SourcePool, own: u16, is_free: impl Fn(u16) -> bool) -> Option<u16> {
        pool.allocate(HOST, own, |endpoint| is_free(endpoint.port()))
            .map(|endpoint| endpoint.port())
    }

    #[test]
    fn the_own_port_comes_first() {
        let mut pool = pool(&["192.0.2.1"], 1000..=1002);
        assert_eq!(ports(&mut pool, 1001, |_| true), Some(1001));
        assert_eq!(ports(&mut pool, 1001, |port| port != 1001), Some(1000));
        assert_eq!(ports(&mut pool, 5, |_| true), Some(1001));
        assert_eq!(ports(&mut pool, 5, |_| true), Some(1002));
        assert_eq!(ports(&mut pool, 5, |_| true), Some(1000));
        pool.release();
        assert_eq!(pool.usage(), PoolUsage { endpoints: 3, in_use: 4, scarce: 0, exhausted: 0 });
    }

    #[test]
    fn a_full_pool_says_so_and_a_nearly_full_one_warns() {
        let mut small = pool(&["192.0.2.1"], 65_534..=65_535);
        assert_eq!(ports(&mut small, 65_535, |_| false), None);
        assert_eq!(small.usage().exhausted, 1);
        let mut all = pool(&["192.0.2.1"], 0..=65_535);
        assert_eq!(ports(&mut all, 7, |_| false), None);
        assert!(ports(&mut all, 7, |port| port > 60_000).is_some());
        assert_eq!((all.usage().scarce, all.usage().in_use), (1, 1));
    }

    #[test]
    fn a_run_of_taken_ports_hides_no_free_ones() {
        let mut pool = pool(&["192.0.2.1"], 10_000..=59_999);
        for _ in 0..1000 {
            assert!(ports(&mut pool, 0, |port| port > 35_000).is_some());
        }
    }

    #[test]
    fn a_host_keeps_its_address_while_it_can() {
        let mut pool = pool(&["192.0.2.1", "192.0.2.2", "192.0.2.3"], 1000..=1001);
        let mut address = |host: Ipv4Addr, taken: &[Ipv4Addr]| {
            pool.allocate(host, 1000, |endpoint| !taken.contains(endpoint.ip()))
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
        let mut none = pool(&[], 1..=2);
        assert_eq!(ports(&mut none, 1, |_| true), None);
        assert_eq!(none.usage().exhausted, 1);
    }
}
