//! A fast view of what nearly all packets are: unfragmented TCP or UDP over IPv4 without options.

use zerocopy::{
    FromBytes,
    byteorder::{NativeEndian, U32},
};

use crate::{
    ipv4::{HEADER_LEN, Ipv4Header, protocol},
    tcp::{self, TcpHeader},
    udp::{self, UdpHeader},
};

/// Source and destination port, as they are in a header: the first bytes of TCP's and of UDP's.
pub type Ports = [u8; 4];

/// A view of the headers of such a packet, all lengths checked at once.
#[derive(Debug)]
pub struct PlainPacket<'a> {
    /// The IPv4 header, which has no options.
    pub header: &'a mut Ipv4Header,
    /// The transport header.
    pub transport: PlainTransport<'a>,
}

/// The transport header of a [`PlainPacket`].
#[derive(Debug)]
pub enum PlainTransport<'a> {
    /// TCP, perhaps with options.
    Tcp(&'a mut TcpHeader),
    /// UDP.
    Udp(&'a mut UdpHeader),
}

impl<'a> PlainPacket<'a> {
    /// Views the packet at the start of `bytes`; `None` when it is not plain, or a length is wrong.
    /// Does not verify checksums.
    #[inline(always)]
    #[must_use]
    pub fn parse(bytes: &'a mut [u8]) -> Option<PlainPacket<'a>> {
        let (header, rest) = Ipv4Header::mut_from_prefix(bytes).ok()?;
        let payload_len = usize::from(header.total_len()).checked_sub(HEADER_LEN)?;
        if !header.is_plain() || payload_len > rest.len() {
            return None;
        }
        let transport = match header.protocol() {
            protocol::TCP => {
                let (tcp, _) = TcpHeader::mut_from_prefix(rest).ok()?;
                let is_sound = (tcp::HEADER_LEN..=payload_len).contains(&tcp.header_len());
                is_sound.then_some(PlainTransport::Tcp(tcp))?
            }
            protocol::UDP => {
                let (udp, _) = UdpHeader::mut_from_prefix(rest).ok()?;
                let is_sound = (udp::HEADER_LEN..=payload_len).contains(&usize::from(udp.length()));
                is_sound.then_some(PlainTransport::Udp(udp))?
            }
            _ => return None,
        };
        Some(PlainPacket { header, transport })
    }

    /// Views a packet that [`parse`](PlainPacket::parse) has accepted and that was not changed since.
    /// Checks only that the headers are there.
    #[inline(always)]
    #[must_use]
    pub fn view(bytes: &'a mut [u8]) -> Option<PlainPacket<'a>> {
        let (header, rest) = Ipv4Header::mut_from_prefix(bytes).ok()?;
        let transport = if header.protocol() == protocol::TCP {
            PlainTransport::Tcp(TcpHeader::mut_from_prefix(rest).ok()?.0)
        } else {
            PlainTransport::Udp(UdpHeader::mut_from_prefix(rest).ok()?.0)
        };
        Some(PlainPacket { header, transport })
    }

    /// Whether the IPv4 header's checksum is right.
    #[inline(always)]
    #[must_use]
    pub fn checksum_is_sound(&self) -> bool {
        // A one's-complement sum is the same in any byte order (RFC 1071, section 2).
        let words: &[U32<NativeEndian>; HEADER_LEN / 4] = zerocopy::transmute_ref!(&*self.header);
        let sum: u64 = words.iter().map(|word| u64::from(word.get())).sum();
        let sum = (sum & 0xffff_ffff) + (sum >> 32);
        let sum = (sum & 0xffff) + (sum >> 16);
        let sum = (sum & 0xffff) + (sum >> 16);
        (sum & 0xffff) + (sum >> 16) == 0xffff
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ipv4::Ipv4Packet;
    use proptest::prelude::*;
    use shunt_testkit::Packet;
    use zerocopy::IntoBytes;

    fn parses(bytes: &[u8]) -> bool {
        PlainPacket::parse(&mut bytes.to_vec()).is_some()
    }

    #[test]
    fn what_is_plain() {
        let (src, dst) = ("192.0.2.1:1000", "192.0.2.2:80");
        let segment = || Packet::tcp(src, dst).ack(1).payload("data");
        let plain = [segment(), segment().mss(1460), Packet::udp(src, dst)];
        plain.into_iter().for_each(|packet| assert!(parses(&Vec::from(packet))));
        let others = [
            Packet::echo_request("192.0.2.1", "192.0.2.2", 1, 1),
            segment().options(&[1, 1, 1, 1]),
            segment().payload([0; 64]).part(0..32),
            segment().payload([0; 64]).part(32..64),
        ];
        others.into_iter().for_each(|packet| assert!(!parses(&Vec::from(packet))));
    }

    proptest! {
        /// Whatever is plain is accepted by the general views, too, and they agree about it.
        #[test]
        fn agrees_with_the_general_views(
            is_tcp in any::<bool>(),
            damage in prop::collection::vec((0usize..48, any::<u8>()), 0..4),
            cut in 0usize..60,
        ) {
            let (src, dst) = ("192.0.2.1:1000", "192.0.2.2:80");
            let packet = if is_tcp { Packet::tcp(src, dst).ack(1) } else { Packet::udp(src, dst) };
            let mut bytes: Vec<u8> = packet.payload([7; 12]).into();
            for (at, value) in damage {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte = value;
                }
            }
            bytes.truncate(bytes.len().saturating_sub(cut.saturating_sub(40)));
            let mut other = bytes.clone();
            let bytes_before = bytes.clone();
            if let Some(plain) = PlainPacket::parse(&mut bytes) {
                let packet = Ipv4Packet::parse(&mut other).unwrap();
                prop_assert!(packet.options.is_empty() && !packet.header.is_fragment());
                prop_assert_eq!(plain.checksum_is_sound(), packet.checksum_is_sound());
                let mut same = bytes_before.clone();
                let view = PlainPacket::view(&mut same).unwrap();
                prop_assert_eq!(view.header.as_bytes(), plain.header.as_bytes());
                match (&view.transport, &plain.transport) {
                    (PlainTransport::Tcp(a), PlainTransport::Tcp(b)) => {
                        prop_assert_eq!(a.as_bytes(), b.as_bytes());
                    }
                    (PlainTransport::Udp(a), PlainTransport::Udp(b)) => {
                        prop_assert_eq!(a.as_bytes(), b.as_bytes());
                    }
                    other => prop_assert!(false, "{other:?}"),
                }
                match plain.transport {
                    PlainTransport::Tcp(tcp) => {
                        let same = TcpHeader::parse(packet.payload).unwrap();
                        prop_assert_eq!(tcp.as_bytes(), same.as_bytes());
                    }
                    PlainTransport::Udp(udp) => {
                        let same = UdpHeader::parse(packet.payload).unwrap();
                        prop_assert_eq!(udp.as_bytes(), same.as_bytes());
                    }
                }
            } else if let Ok(packet) = Ipv4Packet::parse(&mut other) {
                let is_plain = packet.options.is_empty() && !packet.header.is_fragment();
                let transport = match packet.header.protocol() {
                    protocol::TCP => TcpHeader::parse(packet.payload).is_ok(),
                    protocol::UDP => UdpHeader::parse(packet.payload).is_ok(),
                    _ => false,
                };
                prop_assert!(!(is_plain && transport));
            }
        }
    }
}
