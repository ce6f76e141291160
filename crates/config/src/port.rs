//! `[[port]]`.

use std::net::Ipv4Addr;
use strum::{Display, IntoStaticStr, VariantArray};

use ipnet::Ipv4Net;

use shunt_rules::Side;

use crate::Device;

/// Who computes checksums of packets sent and checks those received.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Display, IntoStaticStr, VariantArray)]
#[strum(serialize_all = "kebab-case")]
pub enum Checksum {
    /// The device where it can, the CPU where it can't.
    Auto,
    /// The device; the director doesn't start if it can't.
    Hardware,
    /// The CPU, whatever the device can.
    Software,
}

/// What becomes of 802.1Q frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Display, IntoStaticStr, VariantArray)]
#[strum(serialize_all = "kebab-case")]
pub enum Vlan {
    /// Counted and dropped.
    Drop,
    /// Handed to the other port untouched.
    Pass,
}

/// A DPDK port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Port {
    /// Key `name`: what logs and counters call it.
    pub name: String,
    /// Key `role`: which side of the director it is on.
    pub side: Side,
    /// Key `device`.
    pub device: Device,
    /// Key `addresses`, at least one: the port's own addresses, each with the prefix of its
    /// network.
    pub addresses: Vec<Ipv4Net>,
    /// Key `mtu`, by default 1500: bytes of an IPv4 packet, 576 to 9216. 576 is what every host
    /// must accept (RFC 791 §3.1); a link with less would fragment what nobody expects to be
    /// fragmented.
    pub mtu: u16,
    /// Key `queues`, at most one for each worker: receive and transmit queues. `None` for `"auto"`,
    /// the default: one for each worker if the device has so many, else as many as it has.
    pub queues: Option<u16>,
    /// Key `rx-descriptors`, by default 1024: packets that a receive queue holds, 64 to 32768.
    pub rx_descriptors: u16,
    /// Key `tx-descriptors`, by default 1024: packets that a transmit queue holds, 64 to 32768.
    pub tx_descriptors: u16,
    /// Key `checksum`, by default [`Checksum::Auto`].
    pub checksum: Checksum,
    /// Key `vlan`, by default [`Vlan::Drop`].
    pub vlan: Vlan,
}

/// The two ports of a director.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ports {
    /// The port towards the clients.
    pub outside: Port,
    /// The port towards the real servers.
    pub inside: Port,
}

impl Ports {
    /// The port on this side.
    pub fn get(&self, side: Side) -> &Port {
        match side {
            Side::Outside => &self.outside,
            Side::Inside => &self.inside,
        }
    }

    /// Both ports, outside first.
    pub fn iter(&self) -> impl Iterator<Item = &Port> {
        [&self.outside, &self.inside].into_iter()
    }

    /// Bytes of the largest frame of either port: its MTU, an Ethernet header and an 802.1Q tag.
    pub fn max_frame(&self) -> u16 {
        self.outside.mtu.max(self.inside.mtu) + 14 + 4
    }

    /// Whether `address` is a port's own.
    pub fn own(&self, address: Ipv4Addr) -> bool {
        self.iter().flat_map(|port| &port.addresses).any(|own| own.addr() == address)
    }
}
