//! `[[route]]`.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

/// A static route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Route {
    /// Key `to`: the network reached, without host bits; `"default"` is 0.0.0.0/0.
    pub destination: Ipv4Net,
    /// Key `via`: the gateway, a neighbour of one port and never the director itself.
    pub via: Ipv4Addr,
}
