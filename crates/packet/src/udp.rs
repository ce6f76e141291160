//! UDP (RFC 768).

use zerocopy::{
    FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned, byteorder::network_endian::U16,
};

use crate::{Malformed, checksum::Delta, plain::Ports};

/// Bytes of a UDP header.
pub const HEADER_LEN: usize = size_of::<UdpHeader>();

/// A UDP header: 8 bytes.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct UdpHeader {
    ports: Ports,
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
        let [src, _]: [U16; 2] = zerocopy::transmute!(self.ports);
        src.get()
    }

    /// Destination port.
    #[must_use]
    pub fn dst_port(&self) -> u16 {
        let [_, dst]: [U16; 2] = zerocopy::transmute!(self.ports);
        dst.get()
    }

    /// Both ports.
    #[inline(always)]
    #[must_use]
    pub fn ports(&self) -> Ports {
        self.ports
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
    pub fn rewrite(&mut self, ports: Ports, delta: Delta) {
        self.ports = ports;
        delta.update_udp(&mut self.checksum);
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
        header.rewrite([0, 1, 0, 2], Delta::from_bits(0x1234));
        assert_eq!((header.src_port(), header.dst_port(), header.checksum()), (1, 2, 0));
    }
}
