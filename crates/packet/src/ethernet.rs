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

/// Bytes of an 802.1Q tag.
pub const TAG_LEN: usize = 4;

/// The part of a tag's control information that says which VLAN it is.
const VLAN_ID: u16 = 0x0fff;

/// Whether a tag with this control information is a priority tag: it names no VLAN, and its frame
/// counts as untagged (IEEE 802.1Q, section 6.9.1; VLAN ID 0 is the null VLAN ID).
#[must_use]
pub fn is_priority_tag(control: u16) -> bool {
    control & VLAN_ID == 0
}

/// Moves a frame's addresses over its priority tag, if it has one: the frame then begins
/// [`TAG_LEN`] bytes later. Returns whether it had one.
#[must_use]
pub fn cover_priority_tag(frame: &mut [u8]) -> bool {
    const ADDRESSES: usize = 2 * size_of::<MacAddr>();
    let Some(headers) = frame.first_chunk_mut::<{ HEADER_LEN + TAG_LEN }>() else { return false };
    let (kind, control) = (&headers[ADDRESSES..HEADER_LEN], &headers[HEADER_LEN..]);
    let control = u16::from_be_bytes([control[0], control[1]]);
    if kind != EtherType::VLAN.as_bytes() || !is_priority_tag(control) {
        return false;
    }
    headers.copy_within(..ADDRESSES, TAG_LEN);
    true
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
    fn only_a_priority_tag_is_covered() {
        let frame = |kind: [u8; 2], control: [u8; 2]| {
            [&b"TO ME.FROM U"[..], &kind, &control, &[8, 0], b"rest"].concat()
        };
        let mut tagged = frame([0x81, 0], [0xe0, 0]);
        assert!(cover_priority_tag(&mut tagged));
        assert_eq!(tagged[TAG_LEN..], *b"TO ME.FROM U\x08\x00rest");
        for (kind, control) in [([0x81, 0], [0, 1]), ([0x88, 0xa8], [0, 0]), ([8, 0], [0, 0])] {
            let mut other = frame(kind, control);
            assert!(!cover_priority_tag(&mut other));
            assert_eq!(other, frame(kind, control));
        }
        assert!(!cover_priority_tag(&mut tagged[..17]));
    }

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
