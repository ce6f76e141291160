use std::{net::IpAddr, ops::RangeInclusive};

use ipnet::IpNet;

/// Hosts of `from` reach the outside behind the addresses of `to`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SnatRule {
    /// Which inside hosts, without host bits. It identifies the rule when rules change.
    pub from: IpNet,
    /// The outside addresses that they share, at least one, each once; a host keeps to one while that
    /// has free ports.
    pub to: Vec<IpAddr>,
    /// The source ports, and echo identifiers, that they may be given on each; never 0.
    pub ports: RangeInclusive<u16>,
}

impl SnatRule {
    /// The source ports where nothing is said: Linux's `ip_local_port_range`.
    pub const DEFAULT_PORTS: RangeInclusive<u16> = 32768..=60999;
}

/// An address of the director's, and the source ports that it may use there.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct LocalAddress {
    /// LIP.
    pub address: IpAddr,
    /// The lports; never 0.
    pub ports: RangeInclusive<u16>,
}

impl LocalAddress {
    /// The source ports where nothing is said.
    pub const DEFAULT_PORTS: RangeInclusive<u16> = 1024..=65535;
}
