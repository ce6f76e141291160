//! `[nat]` and `[[nat.local-address]]`.

use std::{net::Ipv4Addr, ops::RangeInclusive};

keywords! {
    /// What becomes of a TCP packet, addressed to a service, that neither opens a connection nor
    /// belongs to one.
    pub enum OnUnknown {
        /// Answered with a RST (RFC 9293 §3.5.2), so that the sender gives up at once.
        Reset = "reset",
        /// Dropped and counted.
        Drop = "drop",
    }
}

/// What the NAT engine does as a whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Nat {
    /// Key `connections`, by default 1,048,576: how many connections all workers together track at
    /// once, 1024 to 2²⁸. The table never grows.
    pub connections: u32,
    /// Key `on-unknown`, by default [`OnUnknown::Reset`]; a service may differ.
    pub on_unknown: OnUnknown,
    /// Key `reset-on-expiry`, by default `false`: whether an established TCP connection that
    /// expires is ended with a RST to both sides; a service may differ.
    pub reset_on_expiry: bool,
    /// `[[nat.local-address]]`, in the order of the file: what servers of `full-nat` services see
    /// as the source. On one address port ranges are disjoint.
    pub local_addresses: Vec<LocalAddress>,
}

impl Default for Nat {
    fn default() -> Nat {
        Nat {
            connections: 1 << 20,
            on_unknown: OnUnknown::Reset,
            reset_on_expiry: false,
            local_addresses: Vec::new(),
        }
    }
}

/// A source address, with its ports, of `full-nat` connections to servers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalAddress {
    /// Key `address`: LIP, in a network that the inside port is connected to. It may be the port's
    /// own address; if it isn't, the inside port answers ARP for it.
    pub address: Ipv4Addr,
    /// Key `ports`, by default `"1024-65535"`: never 0, and none that a service on the same
    /// address uses.
    pub ports: RangeInclusive<u16>,
}

impl LocalAddress {
    /// [`LocalAddress::ports`] where the file doesn't say.
    pub const DEFAULT_PORTS: RangeInclusive<u16> = 1024..=65535;
}
