use std::{
    fmt,
    net::{IpAddr, SocketAddr, SocketAddrV4},
    ops::RangeInclusive,
};

/// A VIP with the ports on which a service answers.
///
/// Displays as operators write it: `192.0.2.1:80`, `192.0.2.1:8000-8999`, `192.0.2.1:*`, or
/// `[2001:db8::1]:80`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct VirtualEndpoint {
    /// VIP.
    pub address: IpAddr,
    /// vports, at least one, never 0.
    pub ports: RangeInclusive<u16>,
}

impl VirtualEndpoint {
    /// The ports that `*` stands for.
    pub const ANY_PORT: RangeInclusive<u16> = 1..=65535;

    /// The vport, if there is exactly one.
    #[must_use]
    pub fn port(&self) -> Option<u16> {
        (self.ports.start() == self.ports.end()).then_some(*self.ports.start())
    }

    /// Whether it stands for every port.
    #[must_use]
    pub fn is_any_port(&self) -> bool {
        self.ports == Self::ANY_PORT
    }

    /// Whether a client that dials `port` at `address` means this endpoint.
    #[must_use]
    pub fn contains(&self, address: IpAddr, port: u16) -> bool {
        self.address == address && self.ports.contains(&port)
    }

    /// Whether some port belongs to both.
    #[must_use]
    pub fn overlaps(&self, other: &VirtualEndpoint) -> bool {
        self.address == other.address
            && self.ports.start() <= other.ports.end()
            && other.ports.start() <= self.ports.end()
    }

    /// Whether it has every port of `other` and more: `other` is the narrower of the two, and wins
    /// where both are services.
    #[must_use]
    pub fn encloses(&self, other: &VirtualEndpoint) -> bool {
        self != other
            && self.contains(other.address, *other.ports.start())
            && self.contains(other.address, *other.ports.end())
    }
}

impl From<SocketAddr> for VirtualEndpoint {
    fn from(endpoint: SocketAddr) -> VirtualEndpoint {
        VirtualEndpoint { address: endpoint.ip(), ports: endpoint.port()..=endpoint.port() }
    }
}

impl From<SocketAddrV4> for VirtualEndpoint {
    fn from(endpoint: SocketAddrV4) -> VirtualEndpoint {
        SocketAddr::V4(endpoint).into()
    }
}

impl fmt::Display for VirtualEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.address {
            IpAddr::V4(address) => write!(f, "{address}:")?,
            IpAddr::V6(address) => write!(f, "[{address}]:")?,
        }
        match self.ports.clone().into_inner() {
            _ if self.is_any_port() => f.write_str("*"),
            (first, last) if first == last => write!(f, "{first}"),
            (first, last) => write!(f, "{first}-{last}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(address: &str, ports: RangeInclusive<u16>) -> VirtualEndpoint {
        VirtualEndpoint { address: address.parse().unwrap(), ports }
    }

    #[test]
    fn endpoints_display_as_operators_write_them() {
        for (endpoint, text) in [
            (endpoint("192.0.2.1", 80..=80), "192.0.2.1:80"),
            (endpoint("192.0.2.1", 8000..=8999), "192.0.2.1:8000-8999"),
            (endpoint("192.0.2.1", 1..=65535), "192.0.2.1:*"),
            (endpoint("2001:db8::1", 80..=80), "[2001:db8::1]:80"),
        ] {
            assert_eq!(endpoint.to_string(), text);
        }
    }

    #[test]
    fn the_narrower_is_enclosed() {
        let (wide, narrow) = (endpoint("192.0.2.1", 1..=100), endpoint("192.0.2.1", 80..=80));
        assert!(wide.encloses(&narrow) && !narrow.encloses(&wide) && !wide.encloses(&wide));
        assert!(wide.overlaps(&narrow) && narrow.overlaps(&wide));
        assert!(!wide.overlaps(&endpoint("192.0.2.2", 80..=80)));
        assert!(!wide.overlaps(&endpoint("192.0.2.1", 101..=101)));
    }
}
