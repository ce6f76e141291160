//! Packets on their way out.

use shunt_dpdk::Mbuf;
use shunt_nat::Translation;

/// What is still to be done to a packet when its next hop is known.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Rewrite {
    /// We made it: nothing.
    Originated,
    /// One hop less to live.
    Routed,
    /// One hop less to live, and new addresses.
    Translated(Translation),
}

/// A packet on its way out. Until it is sent it is as it came, so that an ICMP error can quote it.
#[derive(Debug)]
pub(crate) struct Outgoing {
    pub(crate) mbuf: Mbuf,
    pub(crate) rewrite: Rewrite,
}
