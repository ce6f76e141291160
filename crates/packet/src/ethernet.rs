//! Ethernet II frames and 802.1Q tags.

use std::fmt;

use zerocopy::{
    FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned, byteorder::network_endian::U16,
};

use crate::Malformed;

/// Bytes of an Ethernet II header.
pub const HEADER_LEN: usize = size_of::<EthernetHeader>();

/// A MAC address.
#[derive(
    Clone, Copy, PartialEq, Eq, Hash, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(transparent)]
pub struct MacAddr(pub [u8; 6]);

impl MacAddr {
    /// ff:ff:ff:ff:ff:ff
    pub const BROADCAST: MacAddr = MacAddr([0xff; 6]);
    /// 00:00:00:00:00:00, the unknown address in ARP requests.
    pub const ZERO: MacAddr = MacAddr([0; 6]);

    /// Whether the group bit is set: multicast or broadcast.
    #[must_use]
    pub fn is_group(self) -> bool {
        self.0[0] & 1 != 0
    }
}

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The type of an Ethernet frame's payload (IEEE 802 numbers, IANA registry).
#[derive(
    Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(transparent)]
pub struct EtherType(U16);

impl EtherType {
    /// IPv4.
    pub const IPV4: EtherType = EtherType(U16::from_bytes([0x08, 0x00]));
    /// ARP.
    pub const ARP: EtherType = EtherType(U16::from_bytes([0x08, 0x06]));
    /// An 802.1Q tag (C-VLAN).
    pub const VLAN: EtherType = EtherType(U16::from_bytes([0x81, 0x00]));
    /// An 802.1ad tag (S-VLAN).
    pub const QINQ: EtherType = EtherType(U16::from_bytes([0x88, 0xa8]));

    /// Whether a VLAN tag follows.
    #[must_use]
    pub fn is_vlan(self) -> bool {
        self == EtherType::VLAN || self == EtherType::QINQ
    }
}

/// An Ethernet II header: 14 bytes.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct EthernetHeader {
    /// The destination.
    pub destination: MacAddr,
    /// The source.
    pub source: MacAddr,
    /// The type of the payload.
    pub ethertype: EtherType,
}

impl EthernetHeader {
    /// Splits a frame into header and payload.
    ///
    /// # Errors
    /// [`Malformed::RuntFrame`] when there are fewer than 14 bytes.
    pub fn split(frame: &mut [u8]) -> Result<(&mut EthernetHeader, &mut [u8]), Malformed> {
        EthernetHeader::mut_from_prefix(frame).map_err(|_| Malformed::RuntFrame)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn split_checks_the_length() {
        assert_eq!(EthernetHeader::split(&mut [0; 13]).err(), Some(Malformed::RuntFrame));
        let mut frame = *b"\x02\x00\x00\x00\x00\x01\x02\x00\x00\x00\x00\x02\x08\x00rest";
        let (header, payload) = EthernetHeader::split(&mut frame).unwrap();
        assert_eq!(header.destination.to_string(), "02:00:00:00:00:01");
        assert_eq!(header.ethertype, EtherType::IPV4);
        assert_eq!(payload, b"rest");
    }
}
