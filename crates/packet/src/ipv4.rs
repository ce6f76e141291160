//! IPv4 (RFC 791), with options.

use std::net::Ipv4Addr;

use zerocopy::{
    FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned,
    byteorder::network_endian::U16,
};

use crate::{
    Malformed,
    checksum::{Delta, Sum},
    tcp::TcpHeader,
    udp::UdpHeader,
};

/// Bytes of an IPv4 header without options.
pub const HEADER_LEN: usize = size_of::<Ipv4Header>();

/// IP protocol numbers (IANA registry).
pub mod protocol {
    /// ICMP.
    pub const ICMP: u8 = 1;
    /// TCP.
    pub const TCP: u8 = 6;
    /// UDP.
    pub const UDP: u8 = 17;
}

/// The TTL of packets that we originate (RFC 1700).
pub const DEFAULT_TTL: u8 = 64;

const DONT_FRAGMENT: u16 = 0x4000;
pub(crate) const MORE_FRAGMENTS: u16 = 0x2000;
pub(crate) const FRAGMENT_OFFSET: u16 = 0x1fff;

/// The fixed part of an IPv4 header: 20 bytes.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Ipv4Header {
    version_ihl: u8,
    tos: u8,
    total_len: U16,
    identification: U16,
    flags_fragment: U16,
    ttl: u8,
    protocol: u8,
    checksum: U16,
    addresses: Addresses,
}

/// Source and destination address, as they are in a header.
pub type Addresses = [u8; 8];

/// Joins a source and a destination address.
fn join(src: Ipv4Addr, dst: Ipv4Addr) -> Addresses {
    zerocopy::transmute!([src.octets(), dst.octets()])
}

impl Ipv4Header {
    /// The header of a packet that we originate: no options, an atomic datagram (RFC 6864: DF set,
    /// identification 0), with its checksum.
    #[must_use]
    pub fn new(src: Ipv4Addr, dst: Ipv4Addr, protocol: u8, payload_len: usize) -> Ipv4Header {
        Ipv4Header::with_tos(0, src, dst, protocol, payload_len)
    }

    /// The same, with a type of service.
    pub(crate) fn with_tos(
        tos: u8,
        src: Ipv4Addr,
        dst: Ipv4Addr,
        protocol: u8,
        payload_len: usize,
    ) -> Ipv4Header {
        let mut header = Ipv4Header {
            version_ihl: 0x45,
            tos,
            total_len: ((HEADER_LEN + payload_len) as u16).into(),
            flags_fragment: DONT_FRAGMENT.into(),
            ttl: DEFAULT_TTL,
            protocol,
            addresses: join(src, dst),
            ..Ipv4Header::new_zeroed()
        };
        header.checksum = Sum::ZERO.bytes(header.as_bytes()).checksum().into();
        header
    }

    /// Header length in bytes, options included: 20 to 60 in a parsed header.
    #[must_use]
    pub fn header_len(&self) -> usize {
        usize::from(self.version_ihl & 0x0f) * 4
    }

    /// Bytes of the whole packet, header included.
    #[must_use]
    pub fn total_len(&self) -> u16 {
        self.total_len.get()
    }

    /// The identification, which all fragments of a packet share.
    #[must_use]
    pub fn identification(&self) -> u16 {
        self.identification.get()
    }

    /// Whether DF is set: routers must not fragment the packet.
    #[must_use]
    pub fn dont_fragment(&self) -> bool {
        self.flags_fragment.get() & DONT_FRAGMENT != 0
    }

    /// Whether this is a fragment: the first, the last, or one between.
    #[must_use]
    pub fn is_fragment(&self) -> bool {
        self.flags_fragment.get() & (MORE_FRAGMENTS | FRAGMENT_OFFSET) != 0
    }

    /// Whether this is a fragment other than the first, which has no transport header.
    #[must_use]
    pub fn is_later_fragment(&self) -> bool {
        self.flags_fragment.get() & FRAGMENT_OFFSET != 0
    }

    /// The payload's offset in the payload of the whole packet, in bytes: 0 unless this is a later
    /// fragment.
    #[must_use]
    pub fn fragment_offset(&self) -> usize {
        usize::from(self.flags_fragment.get() & FRAGMENT_OFFSET) * 8
    }

    /// Whether fragments follow this one.
    #[must_use]
    pub fn more_fragments(&self) -> bool {
        self.flags_fragment.get() & MORE_FRAGMENTS != 0
    }

    /// Whether this is a version 4 header without options, of an unfragmented packet.
    #[inline]
    pub(crate) fn is_plain(&self) -> bool {
        self.version_ihl == 0x45 && !self.is_fragment()
    }

    /// Turns this into a fragment's header, except for the checksum. `header_len` includes options.
    pub(crate) fn set_fragment(
        &mut self,
        header_len: usize,
        payload_len: usize,
        offset: usize,
        more: bool,
    ) {
        self.version_ihl = 0x40 | (header_len / 4) as u8;
        self.total_len = ((header_len + payload_len) as u16).into();
        let more = if more { MORE_FRAGMENTS } else { 0 };
        self.flags_fragment = (more | (offset / 8) as u16).into();
    }

    /// The header of the whole packet whose first fragment has this one, without options.
    #[must_use]
    pub fn of_whole(&self, payload_len: usize) -> Ipv4Header {
        let mut whole = *self;
        whole.set_fragment(HEADER_LEN, payload_len, 0, false);
        whole.seal(&[]);
        whole
    }

    /// Sets the header checksum over header and options.
    pub(crate) fn seal(&mut self, options: &[u8]) {
        self.checksum = 0.into();
        self.checksum = Sum::ZERO.bytes(self.as_bytes()).bytes(options).checksum().into();
    }

    /// Time to live.
    #[must_use]
    pub fn ttl(&self) -> u8 {
        self.ttl
    }

    /// The protocol of the payload: see [`protocol`].
    #[must_use]
    pub fn protocol(&self) -> u8 {
        self.protocol
    }

    /// The header checksum field.
    #[must_use]
    pub fn checksum(&self) -> u16 {
        self.checksum.get()
    }

    /// Source address.
    #[must_use]
    pub fn src(&self) -> Ipv4Addr {
        let [[a, b, c, d], _]: [[u8; 4]; 2] = zerocopy::transmute!(self.addresses);
        Ipv4Addr::new(a, b, c, d)
    }

    /// Destination address.
    #[must_use]
    pub fn dst(&self) -> Ipv4Addr {
        let [_, [a, b, c, d]]: [[u8; 4]; 2] = zerocopy::transmute!(self.addresses);
        Ipv4Addr::new(a, b, c, d)
    }

    /// Both addresses.
    #[inline(always)]
    #[must_use]
    pub fn addresses(&self) -> Addresses {
        self.addresses
    }

    /// Sets both addresses and updates the header checksum by `delta`, their change.
    #[inline(always)]
    pub fn rewrite(&mut self, addresses: Addresses, delta: Delta) {
        self.addresses = addresses;
        delta.update(&mut self.checksum);
    }

    /// [Rewrites](Ipv4Header::rewrite) the addresses and decrements the TTL, which must not be 0.
    #[inline(always)]
    pub fn forward(&mut self, addresses: Addresses, delta: Delta) {
        // The TTL is the high byte of its word: ~m + m' is the same for every m.
        const ONE_HOP: Delta = Delta::of_word(0x0100, 0);
        self.ttl = self.ttl.wrapping_sub(1);
        self.rewrite(addresses, delta);
        ONE_HOP.update(&mut self.checksum);
    }

    /// Sets both addresses and updates the header checksum.
    pub fn set_addresses(&mut self, src: Ipv4Addr, dst: Ipv4Addr) {
        let old = Sum::ZERO.address(self.src()).address(self.dst());
        let delta = Delta::between(old, Sum::ZERO.address(src).address(dst));
        self.rewrite(join(src, dst), delta);
    }

    /// Decrements the TTL, which must not be 0, and updates the header checksum.
    pub fn decrement_ttl(&mut self) {
        self.set_ttl(self.ttl.wrapping_sub(1));
    }

    /// Sets the TTL and updates the header checksum.
    pub fn set_ttl(&mut self, ttl: u8) {
        // The TTL is the high byte of its 16-bit word; the protocol below it does not change.
        let word = |ttl: u8| Sum::ZERO.word(u16::from(ttl) << 8);
        let delta = Delta::between(word(self.ttl), word(ttl));
        self.ttl = ttl;
        delta.update(&mut self.checksum);
    }

    /// Zeroes the header checksum, as a NIC that computes it requires.
    pub fn clear_checksum(&mut self) {
        self.checksum = 0.into();
    }

    /// The sum of the pseudo-header for a transport segment of `length` bytes.
    #[must_use]
    pub fn pseudo_header(&self, length: u16) -> Sum {
        Sum::ZERO.pseudo_header(self.src(), self.dst(), self.protocol, length)
    }
}

/// A view of one IPv4 packet, its lengths checked: header, options, and exactly the payload that
/// the total length states (link-layer padding is left out).
#[derive(Debug)]
pub struct Ipv4Packet<'a> {
    /// The fixed header.
    pub header: &'a mut Ipv4Header,
    /// Options: 0 to 40 bytes.
    pub options: &'a mut [u8],
    /// The payload.
    pub payload: &'a mut [u8],
}

impl<'a> Ipv4Packet<'a> {
    /// Views the packet at the start of `bytes`. Does not verify the checksum: see
    /// [`Ipv4Packet::checksum_is_sound`].
    ///
    /// # Errors
    /// Says which length or version is wrong.
    pub fn parse(bytes: &'a mut [u8]) -> Result<Ipv4Packet<'a>, Malformed> {
        let packet = Ipv4Packet::parse_quoted(bytes)?;
        let header_len = packet.header.header_len();
        let payload_len = usize::from(packet.header.total_len())
            .checked_sub(header_len)
            .ok_or(Malformed::Ipv4TotalLength)?;
        let payload = packet.payload.get_mut(..payload_len).ok_or(Malformed::Ipv4TotalLength)?;
        Ok(Ipv4Packet { payload, ..packet })
    }

    /// Views a packet that may be cut short, as an ICMP error quotes it: the payload is whatever is
    /// left of it.
    ///
    /// # Errors
    /// Says which length or version is wrong.
    pub fn parse_quoted(bytes: &'a mut [u8]) -> Result<Ipv4Packet<'a>, Malformed> {
        let (header, rest) =
            Ipv4Header::mut_from_prefix(bytes).map_err(|_| Malformed::Ipv4Truncated)?;
        if header.version_ihl >> 4 != 4 {
            return Err(Malformed::Ipv4Version);
        }
        let options_len =
            header.header_len().checked_sub(HEADER_LEN).ok_or(Malformed::Ipv4HeaderLength)?;
        let (options, payload) =
            rest.split_at_mut_checked(options_len).ok_or(Malformed::Ipv4Truncated)?;
        Ok(Ipv4Packet { header, options, payload })
    }

    /// Computes the header checksum anew, options included.
    pub fn compute_checksum(&mut self) {
        self.header.seal(self.options);
    }

    /// Computes the checksum of a TCP segment or UDP datagram anew, over all of its payload. Only for
    /// packets whose sender relied on checksum offload and that never passed a NIC: in any other
    /// packet a wrong checksum must stay wrong (see [`checksum`](crate::checksum)). Leaves malformed
    /// packets and datagrams without a checksum alone.
    pub fn compute_transport_checksum(&mut self) {
        match self.header.protocol() {
            protocol::TCP => {
                let pseudo_header = self.header.pseudo_header(self.payload.len() as u16);
                let Ok(tcp) = TcpHeader::parse(self.payload) else { return };
                tcp.set_checksum(0);
                let checksum = pseudo_header.bytes(self.payload).checksum();
                if let Ok(tcp) = TcpHeader::parse(self.payload) {
                    tcp.set_checksum(checksum);
                }
            }
            protocol::UDP => {
                let Ok(udp) = UdpHeader::parse(self.payload) else { return };
                if udp.checksum() == 0 {
                    return;
                }
                udp.set_checksum(0);
                let length = udp.length();
                let datagram = &self.payload[..usize::from(length)];
                // A computed zero is sent as ones: zero says "none" (RFC 768).
                let checksum = match self.header.pseudo_header(length).bytes(datagram).checksum() {
                    0 => 0xffff,
                    computed => computed,
                };
                if let Ok(udp) = UdpHeader::parse(self.payload) {
                    udp.set_checksum(checksum);
                }
            }
            _ => {}
        }
    }

    /// Whether the header checksum, options included, is right.
    #[must_use]
    pub fn checksum_is_sound(&self) -> bool {
        Sum::ZERO.bytes(self.header.as_bytes()).bytes(self.options).is_sound()
    }
}

/// Whether a host may have sent a packet from this address (RFC 1812, section 5.3.7: no multicast,
/// broadcast, loopback or "this network" sources).
#[must_use]
pub fn is_valid_source(src: Ipv4Addr) -> bool {
    let first = src.octets()[0];
    first != 0 && first != 127 && first < 224
}

/// Whether a packet may be passed on to this address, as far as its network says: none of "this
/// network" (0/8), loopback (127/8) and the reserved class E (240/4) may (RFC 1812, sections 4.2.2.11
/// and 5.3.7; RFC 6890). Groups, the limited broadcast address among them, are another matter.
#[must_use]
pub fn is_martian_destination(dst: Ipv4Addr) -> bool {
    let first = dst.octets()[0];
    first == 0 || first == 127 || (first >= 240 && !dst.is_broadcast())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SRC: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
    const DST: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 2);

    fn packet(payload: &[u8]) -> Vec<u8> {
        let mut bytes = Ipv4Header::new(SRC, DST, protocol::UDP, payload.len()).as_bytes().to_vec();
        bytes.extend_from_slice(payload);
        bytes
    }

    #[test]
    fn payload_ends_where_the_total_length_says() {
        let mut bytes = packet(b"payload");
        bytes.extend_from_slice(&[0; 11]);
        let packet = Ipv4Packet::parse(&mut bytes).unwrap();
        assert_eq!(packet.payload, b"payload");
        assert!(packet.options.is_empty());
        assert!(packet.checksum_is_sound());
    }

    #[test]
    fn wrong_lengths_are_named() {
        let good = packet(b"payload");
        let with = |at: usize, value: u8| {
            let mut bytes = good.clone();
            bytes[at] = value;
            Ipv4Packet::parse(&mut bytes).err()
        };
        assert_eq!(
            Ipv4Packet::parse(&mut good[..19].to_vec()).err(),
            Some(Malformed::Ipv4Truncated)
        );
        assert_eq!(with(0, 0x65), Some(Malformed::Ipv4Version));
        assert_eq!(with(0, 0x44), Some(Malformed::Ipv4HeaderLength));
        assert_eq!(with(0, 0x4f), Some(Malformed::Ipv4Truncated), "60 bytes of header in 27");
        assert_eq!(with(3, 19), Some(Malformed::Ipv4TotalLength));
        assert_eq!(with(3, 28), Some(Malformed::Ipv4TotalLength));
        assert_eq!(with(3, 27), None);
    }

    #[test]
    fn options_belong_to_the_header() {
        let mut bytes = packet(&[1, 1, 1, 0, 9, 9]);
        bytes[0] = 0x46;
        let packet = Ipv4Packet::parse(&mut bytes).unwrap();
        assert_eq!((&*packet.options, &*packet.payload), (&[1, 1, 1, 0][..], &[9, 9][..]));
        assert!(!packet.checksum_is_sound(), "the sum was made without the options");
    }

    proptest! {
        #[test]
        fn parsing_never_panics(mut bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            let _ = Ipv4Packet::parse(&mut bytes);
        }

        #[test]
        fn changes_keep_the_checksum(src: Ipv4Addr, dst: Ipv4Addr, ttl in 1u8..) {
            let mut bytes = packet(b"");
            let packet = Ipv4Packet::parse(&mut bytes).unwrap();
            packet.header.set_ttl(ttl);
            packet.header.set_addresses(src, dst);
            packet.header.decrement_ttl();
            prop_assert_eq!(packet.header.ttl(), ttl - 1);
            prop_assert!(packet.checksum_is_sound());
        }
    }
}
