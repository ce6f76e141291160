use std::ops::AddAssign;

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
    /// Frames received that were handed to other workers, their owners.
    pub handed_over: u64,
    /// Of these, the ones that the port claims to bring to their owners by itself.
    pub misplaced: u64,
}

impl AddAssign for PortCounters {
    fn add_assign(&mut self, other: PortCounters) {
        let PortCounters { rx_packets, rx_bytes, tx_packets, tx_bytes, handed_over, misplaced } =
            other;
        self.rx_packets += rx_packets;
        self.rx_bytes += rx_bytes;
        self.tx_packets += tx_packets;
        self.tx_bytes += tx_bytes;
        self.handed_over += handed_over;
        self.misplaced += misplaced;
    }
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

impl AddAssign for PipelineCounters {
    fn add_assign(&mut self, other: PipelineCounters) {
        let PipelineCounters {
            arp_requests,
            arp_replies,
            arp_learned,
            echo_replies,
            resets,
            icmp_errors,
            icmp_errors_suppressed,
            fragmented,
            vlan_passed,
        } = other;
        self.arp_requests += arp_requests;
        self.arp_replies += arp_replies;
        self.arp_learned += arp_learned;
        self.echo_replies += echo_replies;
        self.resets += resets;
        self.icmp_errors += icmp_errors;
        self.icmp_errors_suppressed += icmp_errors_suppressed;
        self.fragmented += fragmented;
        self.vlan_passed += vlan_passed;
    }
}
