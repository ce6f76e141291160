/// Packets and bytes of one port, as its worker saw them. Bytes count whole Ethernet frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PortCounters {
    /// Frames received.
    pub rx_packets: u64,
    /// Bytes received.
    pub rx_bytes: u64,
    /// Frames that the device took for transmission.
    pub tx_packets: u64,
    /// Bytes that the device took for transmission.
    pub tx_bytes: u64,
}

/// What a worker did besides passing packets on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PipelineCounters {
    /// ARP requests of ours, announcements included.
    pub arp_requests: u64,
    /// ARP replies of ours.
    pub arp_replies: u64,
    /// ARP packets that told us of a neighbour.
    pub arp_learned: u64,
    /// Echo requests to us that were answered.
    pub echo_replies: u64,
    /// TCP resets sent.
    pub resets: u64,
    /// ICMP errors sent.
    pub icmp_errors: u64,
    /// ICMP errors not sent, for their rate.
    pub icmp_errors_suppressed: u64,
    /// Packets sent in fragments, being larger than the egress port's MTU.
    pub fragmented: u64,
    /// Frames with an 802.1Q tag passed on untouched.
    pub vlan_passed: u64,
}
