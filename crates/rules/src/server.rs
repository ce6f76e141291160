use std::{
    fmt,
    net::{IpAddr, SocketAddr},
};

/// A real server of a service.
///
/// Displays as operators write its address: `192.0.2.1:80`, or `192.0.2.1` without a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RealServer {
    /// RIP.
    pub address: IpAddr,
    /// rport; `None` is the port that the client dialled.
    pub port: Option<u16>,
    /// Its share of new connections; 0 is none: the server is drained.
    pub weight: u16,
    /// No new connections from this many on; 0 is no limit.
    pub upper_threshold: u32,
    /// New connections again below this many; 0 is three quarters of the upper threshold.
    pub lower_threshold: u32,
}

impl RealServer {
    /// A server without thresholds.
    #[must_use]
    pub fn new(endpoint: impl Into<SocketAddr>, weight: u16) -> RealServer {
        let endpoint = endpoint.into();
        RealServer {
            address: endpoint.ip(),
            port: Some(endpoint.port()),
            weight,
            upper_threshold: 0,
            lower_threshold: 0,
        }
    }

    /// Where a connection to `vport` goes.
    #[must_use]
    pub fn endpoint(&self, vport: u16) -> SocketAddr {
        SocketAddr::new(self.address, self.port.unwrap_or(vport))
    }
}

impl fmt::Display for RealServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.identity().fmt(f)
    }
}
