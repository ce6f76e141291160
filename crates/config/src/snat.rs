//! `[[snat]]`.

use std::{net::Ipv4Addr, ops::RangeInclusive};

use ipnet::Ipv4Net;

/// Hosts inside that reach the outside behind addresses of the director.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snat {
    /// Key `from`: the source network inside, without host bits. No two rules overlap.
    pub from: Ipv4Net,
    /// Key `to`, a string or a list: the source addresses that the outside sees, at least one, each
    /// once.
    pub to: Vec<Ipv4Addr>,
    /// Key `ports`, by default `"32768-60999"` (Linux's `ip_local_port_range`): source ports that
    /// the outside sees on each of them, never 0 and none that a service on the same address uses.
    pub ports: RangeInclusive<u16>,
}

impl Snat {
    /// [`Snat::ports`] where the file doesn't say.
    pub const DEFAULT_PORTS: RangeInclusive<u16> = 32768..=60999;
}
