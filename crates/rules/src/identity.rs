//! Which services and servers stay the same when rules change.
//!
//! A service is matched by its first protocol and its first endpoint, a server within its service by
//! its address and port. Whoever is matched keeps its number, its connections and its counters,
//! whatever else is said of it now.

use std::{fmt, net::IpAddr};

use crate::{Protocol, RealServer, VirtualEndpoint, VirtualService};

/// A service's number. It stays as long as the service does, and until the last of its connections
/// has ended; then another one may get it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceId(pub u32);

/// A server's number among all servers of all services. It stays as a [`ServiceId`] does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServerId(pub u32);

/// What makes a service the one that it was.
///
/// Displays as protocol and endpoint: `tcp 192.0.2.1:80`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ServiceIdentity {
    /// Its first protocol.
    pub protocol: Protocol,
    /// Its first endpoint.
    pub endpoint: VirtualEndpoint,
}

impl ServiceIdentity {
    /// The name of a service that was given none: `tcp-192.0.2.1-80`.
    #[must_use]
    pub fn default_name(&self) -> String {
        let ServiceIdentity { protocol, endpoint } = self;
        let address = endpoint.address;
        match endpoint.ports.clone().into_inner() {
            _ if endpoint.is_any_port() => format!("{protocol}-{address}-any"),
            (first, last) if first == last => format!("{protocol}-{address}-{first}"),
            (first, last) => format!("{protocol}-{address}-{first}-{last}"),
        }
    }
}

impl fmt::Display for ServiceIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.protocol, self.endpoint)
    }
}

impl VirtualService {
    /// What makes it the one that it was; `None` for a service that nobody can dial, having no
    /// protocol or no endpoint.
    #[must_use]
    pub fn identity(&self) -> Option<ServiceIdentity> {
        Some(ServiceIdentity {
            protocol: *self.protocols.first()?,
            endpoint: self.endpoints.first()?.clone(),
        })
    }
}

/// What makes a server, within its service, the one that it was.
///
/// Displays as operators write it: `192.0.2.1:80`, or `192.0.2.1` without a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServerIdentity {
    /// RIP.
    pub address: IpAddr,
    /// rport; `None` is the port that the client dialled.
    pub port: Option<u16>,
}

impl fmt::Display for ServerIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.address, self.port) {
            (address, None) => write!(f, "{address}"),
            (IpAddr::V4(address), Some(port)) => write!(f, "{address}:{port}"),
            (IpAddr::V6(address), Some(port)) => write!(f, "[{address}]:{port}"),
        }
    }
}

impl RealServer {
    /// What makes it, within its service, the one that it was.
    #[must_use]
    pub fn identity(&self) -> ServerIdentity {
        ServerIdentity { address: self.address, port: self.port }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_says_what_is_dialled() {
        let name = |address: &str, ports| {
            let endpoint = VirtualEndpoint { address: address.parse().unwrap(), ports };
            ServiceIdentity { protocol: Protocol::Tcp, endpoint }.default_name()
        };
        assert_eq!(name("192.0.2.1", 80..=80), "tcp-192.0.2.1-80");
        assert_eq!(name("192.0.2.1", 80..=89), "tcp-192.0.2.1-80-89");
        assert_eq!(name("2001:db8::1", 1..=65535), "tcp-2001:db8::1-any");
    }

    #[test]
    fn servers_display_as_operators_write_them() {
        let shown = |address: &str, port| {
            ServerIdentity { address: address.parse().unwrap(), port }.to_string()
        };
        assert_eq!(shown("192.0.2.1", Some(80)), "192.0.2.1:80");
        assert_eq!(shown("192.0.2.1", None), "192.0.2.1");
        assert_eq!(shown("2001:db8::1", Some(80)), "[2001:db8::1]:80");
    }
}
