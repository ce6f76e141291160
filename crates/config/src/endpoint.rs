//! What clients dial: an address with one port, several or all.

use std::{fmt, net::Ipv4Addr, ops::RangeInclusive};

/// A VIP with the ports on which a service answers: an element of key `vip`.
///
/// Displays as the file writes it: `192.0.2.1:80`, `192.0.2.1:8000-8999` or `192.0.2.1:*`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct VirtualEndpoint {
    /// VIP.
    pub address: Ipv4Addr,
    /// vports, at least one, never 0.
    pub ports: RangeInclusive<u16>,
}

impl VirtualEndpoint {
    /// The ports that `*` stands for.
    pub const ANY_PORT: RangeInclusive<u16> = 1..=65535;

    /// The vport, if there is exactly one.
    pub fn port(&self) -> Option<u16> {
        (self.ports.start() == self.ports.end()).then_some(*self.ports.start())
    }

    /// Whether it stands for every port.
    pub fn is_any_port(&self) -> bool {
        self.ports == Self::ANY_PORT
    }

    /// Whether a client that dials `port` at `address` means this endpoint.
    pub fn contains(&self, address: Ipv4Addr, port: u16) -> bool {
        self.address == address && self.ports.contains(&port)
    }

    /// Whether some port belongs to both.
    pub fn overlaps(&self, other: &VirtualEndpoint) -> bool {
        self.address == other.address
            && self.ports.start() <= other.ports.end()
            && other.ports.start() <= self.ports.end()
    }

    /// Whether it has every port of `other` and more: `other` is the narrower of the two, and wins
    /// where both are services.
    pub fn encloses(&self, other: &VirtualEndpoint) -> bool {
        self != other
            && self.contains(other.address, *other.ports.start())
            && self.contains(other.address, *other.ports.end())
    }
}

impl fmt::Display for VirtualEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (address, (first, last)) = (self.address, (self.ports.start(), self.ports.end()));
        if self.is_any_port() {
            write!(f, "{address}:*")
        } else if first == last {
            write!(f, "{address}:{first}")
        } else {
            write!(f, "{address}:{first}-{last}")
        }
    }
}
