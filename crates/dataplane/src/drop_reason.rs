use std::ops::AddAssign;

use shunt_nat::{self as nat, Counter, fragments::FragmentError};
use shunt_packet::Malformed;
use strum::{IntoStaticStr, VariantArray};

/// Why a packet was not passed on, in the order in which reasons are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, IntoStaticStr, VariantArray)]
#[strum(serialize_all = "kebab-case")]
pub enum DropReason {
    /// Fewer bytes than an Ethernet header.
    RuntFrame,
    /// More bytes than the port's MTU allows.
    Oversized,
    /// For another MAC address, or a group that we are not in.
    NotForUs,
    /// Has an 802.1Q tag, and the port doesn't pass these.
    Vlan,
    /// Neither IPv4 nor ARP.
    #[strum(serialize = "unknown-ethertype")]
    UnknownEtherType,
    /// ARP that is truncated, or not for IPv4 over Ethernet.
    MalformedArp,
    /// ARP about an address that isn't ours, or from one that can't be a neighbour.
    ArpNotForUs,
    /// ARP from another machine that claims an address of ours.
    AddressConflict,
    /// Shorter than its IPv4 header.
    Ipv4Truncated,
    /// IP, but not version 4.
    Ipv4Version,
    /// IHL below 5.
    Ipv4HeaderLength,
    /// A total length that can't be.
    Ipv4TotalLength,
    /// A wrong IPv4 header checksum.
    Ipv4Checksum,
    /// A source address that no single host can have, one of our own, or, outside, an inside one.
    MartianSource,
    /// A destination that no host on a network can have: in 0/8, 127/8 or 240/4.
    MartianDestination,
    /// An IPv4 option whose length can't be.
    Ipv4Options,
    /// An IPv4 source route, loose or strict: its sender chose its way.
    SourceRoute,
    /// To a broadcast or multicast address.
    NotUnicast,
    /// Shorter than a TCP header.
    TcpTruncated,
    /// A TCP data offset that can't be.
    TcpDataOffset,
    /// Shorter than a UDP header.
    UdpTruncated,
    /// A UDP length that can't be.
    UdpLength,
    /// Shorter than an ICMP header.
    IcmpTruncated,
    /// A wrong ICMP checksum, in a message to us.
    IcmpChecksum,
    /// A TCP or UDP checksum that the port found to be wrong.
    TransportChecksum,
    /// A fragment of a packet to us that is none of ICMP: we put only those together.
    FragmentToUs,
    /// A fragment of a length that can't be.
    FragmentLength,
    /// A fragment that ends beyond the longest packet.
    FragmentTooLong,
    /// A fragment that begins or ends within the transport header.
    FragmentTiny,
    /// A fragment that came before.
    FragmentDuplicate,
    /// A fragment of a packet whose fragments overlap.
    FragmentOverlap,
    /// A fragment of a packet whose first one was dropped.
    FragmentRefused,
    /// A fragment whose packet's first one did not come in time.
    FragmentTimeout,
    /// Too many fragments wait for their packets' first ones.
    FragmentQueueFull,
    /// A TCP reset without a connection.
    UnknownConnection,
    /// From a service's server to the outside, and of no connection (any more).
    LatePacket,
    /// Refused: no connection, no service there, or no server.
    Refused,
    /// The connection table has no room.
    TableFull,
    /// No source port of an SNAT rule is free for that destination.
    SnatPortsExhausted,
    /// No local port of full-NAT is free for that server.
    LocalPortsExhausted,
    /// Another live connection has the translated addresses and ports.
    TupleInUse,
    /// From a host that an SNAT rule covers, and of a kind that can't be translated.
    Untranslatable,
    /// An ICMP redirect.
    IcmpRedirect,
    /// To us, and nothing that we answer.
    NotAnswered,
    /// The TTL ran out here.
    TtlExpired,
    /// No route leads to the destination.
    NoRoute,
    /// Larger than the egress port's MTU.
    TooBig,
    /// The next hop doesn't answer ARP.
    HostUnreachable,
    /// Too many packets wait for ARP.
    NeighbourQueueFull,
    /// The pool is empty.
    NoMbuf,
    /// The ring to the worker that owns it, or that has the egress port's queue, is full.
    WorkerRingFull,
    /// The egress port's queue is full.
    TxQueueFull,
}

impl DropReason {
    /// All reasons.
    pub const ALL: &[DropReason] = DropReason::VARIANTS;

    /// The name under which it is counted.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

impl From<Malformed> for DropReason {
    fn from(malformed: Malformed) -> DropReason {
        match malformed {
            Malformed::RuntFrame => DropReason::RuntFrame,
            Malformed::Arp => DropReason::MalformedArp,
            Malformed::Ipv4Truncated => DropReason::Ipv4Truncated,
            Malformed::Ipv4Version => DropReason::Ipv4Version,
            Malformed::Ipv4HeaderLength => DropReason::Ipv4HeaderLength,
            Malformed::Ipv4TotalLength => DropReason::Ipv4TotalLength,
            Malformed::Ipv4Options => DropReason::Ipv4Options,
            Malformed::TcpTruncated => DropReason::TcpTruncated,
            Malformed::TcpDataOffset => DropReason::TcpDataOffset,
            Malformed::UdpTruncated => DropReason::UdpTruncated,
            Malformed::UdpLength => DropReason::UdpLength,
            Malformed::IcmpTruncated => DropReason::IcmpTruncated,
        }
    }
}

impl From<FragmentError> for DropReason {
    fn from(error: FragmentError) -> DropReason {
        match error {
            FragmentError::Length => DropReason::FragmentLength,
            FragmentError::TooLong => DropReason::FragmentTooLong,
            FragmentError::Tiny => DropReason::FragmentTiny,
            FragmentError::Duplicate => DropReason::FragmentDuplicate,
            FragmentError::Overlap => DropReason::FragmentOverlap,
        }
    }
}

impl From<nat::DropReason> for DropReason {
    fn from(reason: nat::DropReason) -> DropReason {
        match reason {
            nat::DropReason::Malformed(malformed) => malformed.into(),
            nat::DropReason::Fragment(error) => error.into(),
            nat::DropReason::FragmentRefused => DropReason::FragmentRefused,
            nat::DropReason::UnknownConnection => DropReason::UnknownConnection,
            nat::DropReason::LatePacket => DropReason::LatePacket,
            nat::DropReason::TableFull => DropReason::TableFull,
            nat::DropReason::SnatPortsExhausted => DropReason::SnatPortsExhausted,
            nat::DropReason::LocalPortsExhausted => DropReason::LocalPortsExhausted,
            nat::DropReason::TupleInUse => DropReason::TupleInUse,
            nat::DropReason::Untranslatable => DropReason::Untranslatable,
            nat::DropReason::IcmpRedirect => DropReason::IcmpRedirect,
        }
    }
}

/// How many packets were dropped for each reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DropCounters([u64; DropReason::ALL.len()]);

impl Default for DropCounters {
    fn default() -> DropCounters {
        DropCounters([0; DropReason::ALL.len()])
    }
}

impl DropCounters {
    /// Packets dropped for a reason.
    #[must_use]
    pub fn get(&self, reason: DropReason) -> u64 {
        self.0[reason as usize]
    }

    /// The reasons for which packets were dropped, and how many.
    pub fn iter(&self) -> impl Iterator<Item = (DropReason, u64)> {
        DropReason::ALL.iter().map(|reason| (*reason, self.get(*reason))).filter(|(_, n)| *n > 0)
    }
}

/// Live [`DropCounters`].
#[derive(Debug)]
pub(crate) struct LiveDropCounters([Counter; DropReason::ALL.len()]);

impl Default for LiveDropCounters {
    fn default() -> LiveDropCounters {
        LiveDropCounters(std::array::from_fn(|_| Counter::default()))
    }
}

impl LiveDropCounters {
    /// Counts packets that were dropped.
    pub(crate) fn add(&self, reason: DropReason, packets: usize) {
        self.0[reason as usize].add(packets as u64);
    }

    /// What was counted up to now.
    pub(crate) fn get(&self) -> DropCounters {
        DropCounters(self.0.each_ref().map(Counter::get))
    }
}

impl AddAssign<&DropCounters> for DropCounters {
    fn add_assign(&mut self, other: &DropCounters) {
        self.0.iter_mut().zip(other.0).for_each(|(sum, packets)| *sum += packets);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_documentation() {
        let names: Vec<_> = DropReason::ALL.iter().map(|reason| reason.as_str()).collect();
        for name in
            ["runt-frame", "unknown-ethertype", "ipv4-truncated", "martian-source", "no-mbuf"]
        {
            assert!(names.contains(&name), "{name}");
        }
        let is_plain = |name: &str| {
            name.bytes().all(|b| b == b'-' || b.is_ascii_lowercase() || b.is_ascii_digit())
        };
        assert!(names.iter().all(|name| is_plain(name)), "{names:?}");
    }
}
