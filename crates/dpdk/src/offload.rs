//! What a port does to packets in hardware, as sets of DPDK's bits. Drivers report bits that have no
//! name here (`_`): the sets keep them.

use bitflags::bitflags;
use shunt_dpdk_sys as sys;

bitflags! {
    /// Offloads on receive (`RTE_ETH_RX_OFFLOAD_*`).
    #[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
    pub struct RxOffloads: u64 {
        /// Checks the IPv4 header's checksum.
        const IP_CHECKSUM = sys::ETH_RX_OFFLOAD_IPV4_CKSUM;
        /// Checks UDP's checksum.
        const UDP_CHECKSUM = sys::ETH_RX_OFFLOAD_UDP_CKSUM;
        /// Checks TCP's checksum.
        const TCP_CHECKSUM = sys::ETH_RX_OFFLOAD_TCP_CKSUM;
        /// Takes the 802.1Q tag out of the packet.
        const VLAN_STRIP = sys::ETH_RX_OFFLOAD_VLAN_STRIP;
        /// Spreads a packet that is larger than a buffer over a chain of them.
        const SCATTER = sys::ETH_RX_OFFLOAD_SCATTER;
        /// Reports the RSS hash.
        const RSS_HASH = sys::ETH_RX_OFFLOAD_RSS_HASH;
        const _ = !0;
    }
}

bitflags! {
    /// Offloads on transmit (`RTE_ETH_TX_OFFLOAD_*`).
    #[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
    pub struct TxOffloads: u64 {
        /// Fills in the IPv4 header's checksum.
        const IP_CHECKSUM = sys::ETH_TX_OFFLOAD_IPV4_CKSUM;
        /// Fills in UDP's checksum.
        const UDP_CHECKSUM = sys::ETH_TX_OFFLOAD_UDP_CKSUM;
        /// Fills in TCP's checksum.
        const TCP_CHECKSUM = sys::ETH_TX_OFFLOAD_TCP_CKSUM;
        /// Puts an 802.1Q tag into the packet.
        const VLAN_INSERT = sys::ETH_TX_OFFLOAD_VLAN_INSERT;
        /// Sends chains of buffers.
        const MULTI_SEGMENTS = sys::ETH_TX_OFFLOAD_MULTI_SEGS;
        /// Frees sent mbufs without a look: allowed only where all mbufs that a queue is given are
        /// unshared and from one pool.
        const FAST_FREE = sys::ETH_TX_OFFLOAD_MBUF_FAST_FREE;
        const _ = !0;
    }
}

bitflags! {
    /// What RSS hashes of which packets (`RTE_ETH_RSS_*`).
    #[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
    pub struct RssHashTypes: u64 {
        /// The addresses of IPv4 packets for which there is nothing more special below.
        const IPV4 = sys::ETH_RSS_IPV4;
        /// The addresses of IPv4 fragments.
        const FRAG_IPV4 = sys::ETH_RSS_FRAG_IPV4;
        /// Addresses and ports of TCP over IPv4.
        const IPV4_TCP = sys::ETH_RSS_NONFRAG_IPV4_TCP;
        /// Addresses and ports of UDP over IPv4.
        const IPV4_UDP = sys::ETH_RSS_NONFRAG_IPV4_UDP;
        /// The addresses of IPv4 packets with another payload.
        const IPV4_OTHER = sys::ETH_RSS_NONFRAG_IPV4_OTHER;
        const _ = !0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_without_a_name_are_kept() {
        let reported = sys::ETH_RSS_IPV4 | 1 << 63;
        assert_eq!(
            (RssHashTypes::from_bits_retain(reported) & RssHashTypes::all()).bits(),
            reported
        );
        assert_eq!(RxOffloads::all().bits(), u64::MAX);
        assert_eq!(TxOffloads::all().bits(), u64::MAX);
    }
}
