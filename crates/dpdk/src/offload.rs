//! What a port does to packets in hardware, as sets of DPDK's bits.

use std::ops::{BitAnd, BitOr};

use shunt_dpdk_sys as sys;

/// Defines a set of bits, its named members and a question for each.
macro_rules! offloads {
    ($(#[$doc:meta])* $name:ident {
        $($(#[$member_doc:meta])* $member:ident / $has:ident = $bits:expr;)*
    }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
        pub struct $name(pub u64);

        impl $name {
            /// No offload at all.
            pub const NONE: Self = Self(0);
            $($(#[$member_doc])* pub const $member: Self = Self($bits);)*

            $($(#[$member_doc])* pub const fn $has(self) -> bool { self.contains(Self::$member) })*

            /// Whether every member of `other` is one of this set.
            pub const fn contains(self, other: Self) -> bool {
                self.0 & other.0 == other.0
            }
        }

        /// The members of either set.
        impl BitOr for $name {
            type Output = Self;
            fn bitor(self, other: Self) -> Self { Self(self.0 | other.0) }
        }

        /// The members of both sets.
        impl BitAnd for $name {
            type Output = Self;
            fn bitand(self, other: Self) -> Self { Self(self.0 & other.0) }
        }
    };
}

offloads! {
    /// Offloads on receive (`RTE_ETH_RX_OFFLOAD_*`).
    RxOffloads {
        /// Checks the IPv4 header's checksum.
        IP_CHECKSUM / ip_checksum = sys::ETH_RX_OFFLOAD_IPV4_CKSUM;
        /// Checks UDP's checksum.
        UDP_CHECKSUM / udp_checksum = sys::ETH_RX_OFFLOAD_UDP_CKSUM;
        /// Checks TCP's checksum.
        TCP_CHECKSUM / tcp_checksum = sys::ETH_RX_OFFLOAD_TCP_CKSUM;
        /// Takes the 802.1Q tag out of the packet.
        VLAN_STRIP / vlan_strip = sys::ETH_RX_OFFLOAD_VLAN_STRIP;
        /// Spreads a packet that is larger than a buffer over a chain of them.
        SCATTER / scatter = sys::ETH_RX_OFFLOAD_SCATTER;
        /// Reports the RSS hash.
        RSS_HASH / rss_hash = sys::ETH_RX_OFFLOAD_RSS_HASH;
    }
}

offloads! {
    /// Offloads on transmit (`RTE_ETH_TX_OFFLOAD_*`).
    TxOffloads {
        /// Fills in the IPv4 header's checksum.
        IP_CHECKSUM / ip_checksum = sys::ETH_TX_OFFLOAD_IPV4_CKSUM;
        /// Fills in UDP's checksum.
        UDP_CHECKSUM / udp_checksum = sys::ETH_TX_OFFLOAD_UDP_CKSUM;
        /// Fills in TCP's checksum.
        TCP_CHECKSUM / tcp_checksum = sys::ETH_TX_OFFLOAD_TCP_CKSUM;
        /// Puts an 802.1Q tag into the packet.
        VLAN_INSERT / vlan_insert = sys::ETH_TX_OFFLOAD_VLAN_INSERT;
        /// Sends chains of buffers.
        MULTI_SEGMENTS / multi_segments = sys::ETH_TX_OFFLOAD_MULTI_SEGS;
        /// Frees sent mbufs without a look: allowed only where all mbufs that a queue is given are
        /// unshared and from one pool.
        FAST_FREE / fast_free = sys::ETH_TX_OFFLOAD_MBUF_FAST_FREE;
    }
}

offloads! {
    /// What RSS hashes of which packets (`RTE_ETH_RSS_*`).
    RssHashTypes {
        /// The addresses of IPv4 packets for which there is nothing more special below.
        IPV4 / ipv4 = sys::ETH_RSS_IPV4;
        /// The addresses of IPv4 fragments.
        FRAG_IPV4 / frag_ipv4 = sys::ETH_RSS_FRAG_IPV4;
        /// Addresses and ports of TCP over IPv4.
        IPV4_TCP / ipv4_tcp = sys::ETH_RSS_NONFRAG_IPV4_TCP;
        /// Addresses and ports of UDP over IPv4.
        IPV4_UDP / ipv4_udp = sys::ETH_RSS_NONFRAG_IPV4_UDP;
        /// The addresses of IPv4 packets with another payload.
        IPV4_OTHER / ipv4_other = sys::ETH_RSS_NONFRAG_IPV4_OTHER;
    }
}
