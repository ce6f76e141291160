//! ARP for IPv4 over Ethernet (RFC 826; announcements: RFC 5227).

use std::net::Ipv4Addr;

use zerocopy::{
    FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned, byteorder::network_endian::U16,
};

use crate::{
    Malformed,
    ethernet::{EtherType, EthernetHeader, MacAddr},
};

/// Request or reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ArpOperation {
    /// Who has the target address?
    Request,
    /// The sender has it.
    Reply,
}

/// An ARP packet for IPv4 over Ethernet: 28 bytes.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct ArpPacket {
    hardware_type: U16,
    protocol_type: EtherType,
    hardware_len: u8,
    protocol_len: u8,
    operation: U16,
    sender_mac: MacAddr,
    sender_ip: [u8; 4],
    target_mac: MacAddr,
    target_ip: [u8; 4],
}

const ETHERNET: u16 = 1;
const REQUEST: u16 = 1;
const REPLY: u16 = 2;

impl ArpPacket {
    /// Views an ARP packet at the start of `bytes`; what follows it is padding.
    ///
    /// # Errors
    /// [`Malformed::Arp`] when it is truncated, not for IPv4 over Ethernet, or neither a request
    /// nor a reply.
    pub fn parse(bytes: &[u8]) -> Result<&ArpPacket, Malformed> {
        let (packet, _) = ArpPacket::ref_from_prefix(bytes).map_err(|_| Malformed::Arp)?;
        let sound = packet.hardware_type == ETHERNET
            && packet.protocol_type == EtherType::IPV4
            && packet.hardware_len == 6
            && packet.protocol_len == 4
            && (packet.operation == REQUEST || packet.operation == REPLY);
        if sound { Ok(packet) } else { Err(Malformed::Arp) }
    }

    /// Request or reply.
    #[must_use]
    pub fn operation(&self) -> ArpOperation {
        if self.operation == REQUEST { ArpOperation::Request } else { ArpOperation::Reply }
    }

    /// The sender's hardware address.
    #[must_use]
    pub fn sender_mac(&self) -> MacAddr {
        self.sender_mac
    }

    /// The sender's protocol address; 0.0.0.0 in a probe (RFC 5227, section 2.1.1).
    #[must_use]
    pub fn sender_ip(&self) -> Ipv4Addr {
        Ipv4Addr::from(self.sender_ip)
    }

    /// The target's protocol address: in a request, the one that is asked for.
    #[must_use]
    pub fn target_ip(&self) -> Ipv4Addr {
        Ipv4Addr::from(self.target_ip)
    }
}

/// A whole ARP frame: 42 bytes (the NIC pads it to Ethernet's minimum).
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct ArpFrame {
    /// The Ethernet header.
    pub ethernet: EthernetHeader,
    /// The ARP packet.
    pub arp: ArpPacket,
}

impl ArpFrame {
    /// "Who has `target_ip`? Tell `sender_ip`." Broadcast, or unicast to `known` to confirm a
    /// neighbour's address.
    #[must_use]
    pub fn request(
        sender_mac: MacAddr,
        sender_ip: Ipv4Addr,
        target_ip: Ipv4Addr,
        known: Option<MacAddr>,
    ) -> ArpFrame {
        let destination = known.unwrap_or(MacAddr::BROADCAST);
        ArpFrame::new(destination, REQUEST, (sender_mac, sender_ip), (MacAddr::ZERO, target_ip))
    }

    /// "`sender_ip` is at `sender_mac`", to the host that asked.
    #[must_use]
    pub fn reply(
        sender_mac: MacAddr,
        sender_ip: Ipv4Addr,
        target_mac: MacAddr,
        target_ip: Ipv4Addr,
    ) -> ArpFrame {
        ArpFrame::new(target_mac, REPLY, (sender_mac, sender_ip), (target_mac, target_ip))
    }

    /// A gratuitous ARP: the announcement that `ip` is at `mac` (RFC 5227, section 2.3).
    #[must_use]
    pub fn announcement(mac: MacAddr, ip: Ipv4Addr) -> ArpFrame {
        ArpFrame::request(mac, ip, ip, None)
    }

    fn new(
        destination: MacAddr,
        operation: u16,
        (sender_mac, sender_ip): (MacAddr, Ipv4Addr),
        (target_mac, target_ip): (MacAddr, Ipv4Addr),
    ) -> ArpFrame {
        ArpFrame {
            ethernet: EthernetHeader { destination, source: sender_mac, ethertype: EtherType::ARP },
            arp: ArpPacket {
                hardware_type: ETHERNET.into(),
                protocol_type: EtherType::IPV4,
                hardware_len: 6,
                protocol_len: 4,
                operation: operation.into(),
                sender_mac,
                sender_ip: sender_ip.octets(),
                target_mac,
                target_ip: target_ip.octets(),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
    const PEER: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);

    #[test]
    fn frames_parse_as_what_they_say() {
        let (ours, theirs) = (Ipv4Addr::new(192, 0, 2, 1), Ipv4Addr::new(192, 0, 2, 2));
        let request = ArpFrame::request(MAC, ours, theirs, None);
        assert_eq!(request.as_bytes().len(), 42);
        assert_eq!(request.ethernet.destination, MacAddr::BROADCAST);
        let parsed = ArpPacket::parse(&request.as_bytes()[14..]).unwrap();
        assert_eq!(parsed.operation(), ArpOperation::Request);
        assert_eq!((parsed.sender_ip(), parsed.target_ip()), (ours, theirs));

        let reply = ArpFrame::reply(MAC, ours, PEER, theirs);
        assert_eq!(reply.ethernet.destination, PEER);
        assert_eq!(
            ArpPacket::parse(reply.arp.as_bytes()).unwrap().operation(),
            ArpOperation::Reply
        );

        let confirm = ArpFrame::request(MAC, ours, theirs, Some(PEER));
        assert_eq!(confirm.ethernet.destination, PEER);

        let announcement = ArpFrame::announcement(MAC, ours);
        assert_eq!(announcement.arp.sender_ip(), announcement.arp.target_ip());
    }

    #[test]
    fn foreign_arp_is_malformed() {
        let frame = ArpFrame::announcement(MAC, Ipv4Addr::new(192, 0, 2, 1));
        let bytes = frame.arp.as_bytes();
        assert_eq!(ArpPacket::parse(&bytes[..27]).err(), Some(Malformed::Arp));
        for (at, value) in [(0, 1), (1, 6), (2, 0x86), (4, 8), (5, 16), (7, 9)] {
            let mut bad = bytes.to_vec();
            bad[at] = value;
            assert_eq!(ArpPacket::parse(&bad).err(), Some(Malformed::Arp), "byte {at}");
        }
    }
}
