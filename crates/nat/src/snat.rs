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
/// can cause. With half of the ports towards one destination taken, all fail once in 2^64.
const ATTEMPTS: usize = 64;

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

    /// The first port that `is_free`: the host's own if the pool has it (as Linux does), then the
    /// pool's in turn.
    pub(crate) fn allocate(&mut self, own: u16, is_free: impl Fn(u16) -> bool) -> Option<u16> {
        if self.contains(own) && is_free(own) {
            return Some(own);
        }
        let attempts = ATTEMPTS.min(self.count as usize);
        (0..attempts).map(|_| self.step()).find(|port| is_free(*port))
    }

    fn contains(&self, port: u16) -> bool {
        u32::from(port).checked_sub(u32::from(self.first)).is_some_and(|at| at < self.count)
    }

    fn step(&mut self) -> u16 {
        let port = self.first + self.next as u16;
        self.next = (self.next + 1) % self.count;
        port
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
}
