use std::fmt;

/// Why bytes are not the packet that they claim to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Malformed {
    /// Shorter than an Ethernet header (14 bytes).
    RuntFrame,
    /// ARP that is truncated, or not for IPv4 over Ethernet.
    Arp,
    /// Shorter than an IPv4 header, or than the header length it states.
    Ipv4Truncated,
    /// The version field of an IPv4 packet is not 4.
    Ipv4Version,
    /// IHL below 5 (RFC 791, section 3.1).
    Ipv4HeaderLength,
    /// Total length shorter than the header, or longer than the bytes that came.
    Ipv4TotalLength,
    /// An IPv4 option whose length can't be (RFC 791, section 3.1).
    Ipv4Options,
    /// Shorter than a TCP header.
    TcpTruncated,
    /// Data offset below 5, or beyond the segment (RFC 9293, section 3.1).
    TcpDataOffset,
    /// Shorter than a UDP header.
    UdpTruncated,
    /// UDP length below 8, or beyond the datagram (RFC 768).
    UdpLength,
    /// Shorter than an ICMP header, or than what its type requires.
    IcmpTruncated,
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Malformed::RuntFrame => "runt frame",
            Malformed::Arp => "malformed ARP",
            Malformed::Ipv4Truncated => "truncated IPv4 header",
            Malformed::Ipv4Version => "IP version is not 4",
            Malformed::Ipv4HeaderLength => "IPv4 header length below 5",
            Malformed::Ipv4TotalLength => "IPv4 total length out of bounds",
            Malformed::Ipv4Options => "malformed IPv4 options",
            Malformed::TcpTruncated => "truncated TCP header",
            Malformed::TcpDataOffset => "TCP data offset out of bounds",
            Malformed::UdpTruncated => "truncated UDP header",
            Malformed::UdpLength => "UDP length out of bounds",
            Malformed::IcmpTruncated => "truncated ICMP message",
        })
    }
}

impl std::error::Error for Malformed {}
