//! UDP (RFC 768).

use zerocopy::{
    FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned, byteorder::network_endian::U16,
};

use crate::{Malformed, checksum::Delta};

/// Bytes of a UDP header.
pub const HEADER_LEN: usize = size_of::<UdpHeader>();

/// A UDP header: 8 bytes.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct UdpHeader {
    src_port: U16,
    dst_port: U16,
    length: U16,
    checksum: U16,
}

impl UdpHeader {
    /// Views the header at the start of an IPv4 payload.
    ///
    /// # Errors
    /// Truncated, or a length below 8 or beyond the payload.
    pub fn parse(payload: &mut [u8]) -> Result<&mut UdpHeader, Malformed> {
        let available = payload.len();
        let (header, _) =
            UdpHeader::mut_from_prefix(payload).map_err(|_| Malformed::UdpTruncated)?;
        let length = usize::from(header.length.get());
        if length < HEADER_LEN || length > available {
            Err(Malformed::UdpLength)
        } else {
            Ok(header)
        }
    }

    /// Views the header of a datagram that may be cut short: its first fragment.
    ///
    /// # Errors
    /// Truncated, or a length below 8.
    pub fn parse_partial(payload: &mut [u8]) -> Result<&mut UdpHeader, Malformed> {
        let (header, _) =
            UdpHeader::mut_from_prefix(payload).map_err(|_| Malformed::UdpTruncated)?;
        if usize::from(header.length.get()) < HEADER_LEN {
            Err(Malformed::UdpLength)
        } else {
            Ok(header)
        }
    }

    /// Source port.
    #[must_use]
    pub fn src_port(&self) -> u16 {
        self.src_port.get()
    }

    /// Destination port.
    #[must_use]
    pub fn dst_port(&self) -> u16 {
        self.dst_port.get()
    }

    /// Bytes of header and data.
    #[must_use]
    pub fn length(&self) -> u16 {
        self.length.get()
    }

    /// The checksum field; 0 is "none".
    #[must_use]
    pub fn checksum(&self) -> u16 {
        self.checksum.get()
    }

    /// Sets both ports and updates the checksum: `delta` is the change of ports and addresses.
    #[inline(always)]
    pub fn rewrite(&mut self, src_port: u16, dst_port: u16, delta: Delta) {
        self.src_port = src_port.into();
        self.dst_port = dst_port.into();
        self.checksum = delta.apply_udp(self.checksum.get()).into();
    }

    /// Sets the checksum field. A NIC that computes the checksum expects the folded sum of the
    /// pseudo-header in it.
    pub fn set_checksum(&mut self, value: u16) {
        self.checksum = value.into();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_checked() {
        let good = [0x13, 0x88, 0x00, 0x35, 0x00, 0x0a, 0, 0, 1, 2];
        assert_eq!(UdpHeader::parse(&mut good.clone()).unwrap().dst_port(), 53);
        assert_eq!(UdpHeader::parse(&mut good[..7].to_vec()).err(), Some(Malformed::UdpTruncated));
        assert_eq!(UdpHeader::parse(&mut good[..9].to_vec()).err(), Some(Malformed::UdpLength));
        let mut short = good;
        short[5] = 7;
        assert_eq!(UdpHeader::parse(&mut short).err(), Some(Malformed::UdpLength));
    }

    #[test]
    fn no_checksum_stays_none() {
        let mut bytes = [0x13, 0x88, 0x00, 0x35, 0x00, 0x08, 0, 0];
        let header = UdpHeader::parse(&mut bytes).unwrap();
        header.rewrite(1, 2, Delta::from_bits(0x1234));
        assert_eq!((header.src_port(), header.dst_port(), header.checksum()), (1, 2, 0));
    }
}
