//! `[[service]]` and `[[service.server]]`.

use std::net::SocketAddrV4;

keywords! {
    /// The transport protocol of a service.
    pub enum Protocol {
        /// TCP.
        Tcp = "tcp",
        /// UDP.
        Udp = "udp",
    }
}

keywords! {
    /// How a new connection gets its server; the names are those of IPVS.
    pub enum Scheduler {
        /// Round robin: each server in turn.
        Rr = "rr",
        /// Weighted round robin: each server in turn, as often as its weight says.
        Wrr = "wrr",
    }
}

/// What clients dial, and who answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VirtualService {
    /// Key `protocol`, by default [`Protocol::Tcp`].
    pub protocol: Protocol,
    /// Key `vip`: VIP and vport.
    pub vip: SocketAddrV4,
    /// Key `scheduler`, required.
    pub scheduler: Scheduler,
    /// Key `server`, in the order of the file, addresses unique. A service without servers refuses
    /// connections.
    pub servers: Vec<RealServer>,
}

/// A server inside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RealServer {
    /// Key `address`: RIP and rport. Without a port the rport is the vport, as `ipvsadm` has it.
    pub address: SocketAddrV4,
    /// Key `weight`, by default 1: its share of new connections; 0 gets none.
    pub weight: u16,
}
