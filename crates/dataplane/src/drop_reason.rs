use std::ops::AddAssign;

use shunt_nat::{self as nat, Counter, fragments::FragmentError};
use shunt_packet::Malformed;

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)+) => {
        /// Why a packet was not passed on.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum DropReason {
            $($(#[$doc])* $name,)+
        }

        impl DropReason {
            /// All reasons, in the order in which they are shown.
            pub const ALL: &[DropReason] = &[$(DropReason::$name,)+];

            /// The name under which it is counted.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self {
                    $(DropReason::$name => $text,)+
                }
            }
        }
    };
}

reasons! {
    /// Fewer bytes than an Ethernet header.
    RuntFrame = "runt-frame",
    /// More bytes than the port's MTU allows.
    Oversized = "oversized",
    /// For another MAC address, or a group that we are not in.
    NotForUs = "not-for-us",
    /// Has an 802.1Q tag, and the port doesn't pass these.
    Vlan = "vlan",
    /// Neither IPv4 nor ARP.
    UnknownEtherType = "unknown-ethertype",
    /// ARP that is truncated, or not for IPv4 over Ethernet.
    MalformedArp = "malformed-arp",
    /// ARP about an address that isn't ours, or from one that can't be a neighbour.
    ArpNotForUs = "arp-not-for-us",
    /// ARP from another machine that claims an address of ours.
    AddressConflict = "address-conflict",
    /// Shorter than its IPv4 header.
    Ipv4Truncated = "ipv4-truncated",
    /// IP, but not version 4.
    Ipv4Version = "ipv4-version",
    /// IHL below 5.
    Ipv4HeaderLength = "ipv4-header-length",
    /// A total length that can't be.
    Ipv4TotalLength = "ipv4-total-length",
    /// A wrong IPv4 header checksum.
    Ipv4Checksum = "ipv4-checksum",
    /// A source address that no single host can have, one of our own, or, outside, an inside one.
    Martian = "martian-source",
    /// A destination that no host on a network can have: in 0/8, 127/8 or 240/4.
    MartianDestination = "martian-destination",
    /// An IPv4 option whose length can't be.
    Ipv4Options = "ipv4-options",
    /// An IPv4 source route, loose or strict: its sender chose its way.
    SourceRoute = "source-route",
    /// To a broadcast or multicast address.
    NotUnicast = "not-unicast",
    /// Shorter than a TCP header.
    TcpTruncated = "tcp-truncated",
    /// A TCP data offset that can't be.
    TcpDataOffset = "tcp-data-offset",
    /// Shorter than a UDP header.
    UdpTruncated = "udp-truncated",
    /// A UDP length that can't be.
    UdpLength = "udp-length",
    /// Shorter than an ICMP header.
    IcmpTruncated = "icmp-truncated",
    /// A wrong ICMP checksum, in a message to us.
    IcmpChecksum = "icmp-checksum",
    /// A TCP or UDP checksum that the port found to be wrong.
    TransportChecksum = "transport-checksum",
    /// A fragment of a packet to us that is none of ICMP: we put only those together.
    FragmentToUs = "fragment-to-us",
    /// A fragment of a length that can't be.
    FragmentLength = "fragment-length",
    /// A fragment that ends beyond the longest packet.
    FragmentTooLong = "fragment-too-long",
    /// A fragment that begins or ends within the transport header.
    FragmentTiny = "fragment-tiny",
    /// A fragment that came before.
    FragmentDuplicate = "fragment-duplicate",
    /// A fragment of a packet whose fragments overlap.
    FragmentOverlap = "fragment-overlap",
    /// A fragment of a packet whose first one was dropped.
    FragmentRefused = "fragment-refused",
    /// A fragment whose packet's first one did not come in time.
    FragmentTimeout = "fragment-timeout",
    /// Too many fragments wait for their packets' first ones.
    FragmentQueueFull = "fragment-queue-full",
    /// A TCP reset without a connection.
    UnknownConnection = "unknown-connection",
    /// From a service's server to the outside, and of no connection (any more).
    LatePacket = "late-packet",
    /// Refused: no connection, no service there, or no server.
    Refused = "refused",
    /// The connection table has no room.
    TableFull = "table-full",
    /// No source port of an SNAT rule is free for that destination.
    SnatPortsExhausted = "snat-ports-exhausted",
    /// No local port of full-NAT is free for that server.
    LocalPortsExhausted = "local-ports-exhausted",
    /// Another live connection has the translated addresses and ports.
    TupleInUse = "tuple-in-use",
    /// From a host that an SNAT rule covers, and of a kind that can't be translated.
    Untranslatable = "untranslatable",
    /// An ICMP redirect.
    IcmpRedirect = "icmp-redirect",
    /// To us, and nothing that we answer.
    NotAnswered = "not-answered",
    /// The TTL ran out here.
    TtlExpired = "ttl-expired",
    /// No route leads to the destination.
    NoRoute = "no-route",
    /// Larger than the egress port's MTU.
    TooBig = "too-big",
    /// The next hop doesn't answer ARP.
    HostUnreachable = "host-unreachable",
    /// Too many packets wait for ARP.
    NeighbourQueueFull = "neighbour-queue-full",
    /// The pool is empty.
    NoMbuf = "no-mbuf",
    /// The ring to the worker that owns it, or that has the egress port's queue, is full.
    WorkerRingFull = "worker-ring-full",
    /// The egress port's queue is full.
    TxQueueFull = "tx-queue-full",
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
