use std::{net::Ipv4Addr, ops::RangeInclusive};

use ipnet::Ipv4Net;

/// Hosts of `from` reach the outside behind `to`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnatRule {
    /// Which inside hosts.
    pub from: Ipv4Net,
    /// The outside address that they share.
    pub to: Ipv4Addr,
    /// The source ports that they may be given.
    pub ports: RangeInclusive<u16>,
}

/// How many ports are tried for one connection before it is refused: bounds the work that a packet
/// can cause.
const ATTEMPTS: u32 = 64;

/// Hands out candidate source ports of one rule.
#[derive(Debug)]
pub(crate) struct PortPool {
    first: u16,
    count: u32,
    next: u32,
}

impl PortPool {
    pub(crate) fn new(ports: &RangeInclusive<u16>) -> PortPool {
        let count = u32::from(*ports.end()).saturating_sub(u32::from(*ports.start())) + 1;
        PortPool { first: *ports.start(), count, next: 0 }
    }

    /// A port that `is_free`: the host's own if the pool has it (as Linux does), then the pool's in
    /// turn. What is handed out in turn is taken in runs, so the attempts are spread evenly over
    /// the pool: a long run can't hide the free ports behind it.
    pub(crate) fn allocate(&mut self, own: u16, is_free: impl Fn(u16) -> bool) -> Option<u16> {
        if self.contains(own) && is_free(own) {
            return Some(own);
        }
        let start = self.next;
        self.next = (start + 1) % self.count;
        let attempts = self.count.min(ATTEMPTS);
        let stride = self.count / attempts;
        (0..attempts).map(|attempt| self.port(start + attempt * stride)).find(|port| is_free(*port))
    }

    fn contains(&self, port: u16) -> bool {
        u32::from(port).checked_sub(u32::from(self.first)).is_some_and(|at| at < self.count)
    }

    /// The port at a place of the pool, round which places wrap.
    fn port(&self, place: u32) -> u16 {
        self.first + (place % self.count) as u16
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_own_port_comes_first() {
        let mut pool = PortPool::new(&(1000..=1002));
        assert_eq!(pool.allocate(1001, |_| true), Some(1001));
        assert_eq!(pool.allocate(1001, |port| port != 1001), Some(1000));
        assert_eq!(pool.allocate(5, |_| true), Some(1001));
        assert_eq!(pool.allocate(5, |_| true), Some(1002));
        assert_eq!(pool.allocate(5, |_| true), Some(1000));
    }

    #[test]
    fn a_full_pool_says_so() {
        let mut pool = PortPool::new(&(65_534..=65_535));
        assert_eq!(pool.allocate(65_535, |_| false), None);
        let mut all = PortPool::new(&(0..=65_535));
        assert_eq!(all.allocate(7, |_| false), None);
    }

    #[test]
    fn a_run_of_taken_ports_is_stepped_over() {
        for ports in [1000..=1001, 1000..=1063, 1000..=1064, 1000..=9999, 0..=65_535] {
            let mut pool = PortPool::new(&ports);
            let middle = ports.start() + (ports.end() - ports.start()) / 2;
            for _ in 0..pool.count {
                let port = pool.allocate(1, |port| port > middle).expect("half of them are free");
                assert!(ports.contains(&port));
            }
        }
    }
}
