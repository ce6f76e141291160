//! ICMP (RFC 792): echo, and the errors that a router sends and translates.

use std::net::Ipv4Addr;

use zerocopy::{
    FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned,
    byteorder::network_endian::U16,
};

use crate::{
    Malformed,
    checksum::{Delta, Sum},
    ipv4::{self, Ipv4Header, Ipv4Packet, protocol},
};

/// Bytes of an ICMP header.
pub const HEADER_LEN: usize = size_of::<IcmpHeader>();

const ECHO_REPLY: u8 = 0;
const DESTINATION_UNREACHABLE: u8 = 3;
const SOURCE_QUENCH: u8 = 4;
const REDIRECT: u8 = 5;
const ECHO_REQUEST: u8 = 8;
const TIME_EXCEEDED: u8 = 11;
const PARAMETER_PROBLEM: u8 = 12;
const TIMESTAMP: u8 = 13;
const TIMESTAMP_REPLY: u8 = 14;
const INFORMATION_REQUEST: u8 = 15;
const INFORMATION_REPLY: u8 = 16;
/// RFC 950, appendix I.
const ADDRESS_MASK_REQUEST: u8 = 17;
const ADDRESS_MASK_REPLY: u8 = 18;

/// An ICMP header: 8 bytes, of which the last four mean what the type says.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct IcmpHeader {
    kind: u8,
    code: u8,
    checksum: U16,
    identifier: U16,
    sequence_or_mtu: U16,
}

impl IcmpHeader {
    /// Splits an IPv4 payload into ICMP header and data.
    ///
    /// # Errors
    /// [`Malformed::IcmpTruncated`] when there are fewer than 8 bytes.
    pub fn split(payload: &mut [u8]) -> Result<(&mut IcmpHeader, &mut [u8]), Malformed> {
        IcmpHeader::mut_from_prefix(payload).map_err(|_| Malformed::IcmpTruncated)
    }

    /// Whether this is an echo request.
    #[must_use]
    pub fn is_echo_request(&self) -> bool {
        self.kind == ECHO_REQUEST
    }

    /// Whether this is an echo reply.
    #[must_use]
    pub fn is_echo_reply(&self) -> bool {
        self.kind == ECHO_REPLY
    }

    /// Whether it is a query: an echo request, or another message that a reply with the same identifier
    /// answers (RFC 5508, section 1).
    #[must_use]
    pub fn is_query(&self) -> bool {
        matches!(self.kind, ECHO_REQUEST | TIMESTAMP | INFORMATION_REQUEST | ADDRESS_MASK_REQUEST)
    }

    /// Whether it answers a query.
    #[must_use]
    pub fn is_query_reply(&self) -> bool {
        matches!(self.kind, ECHO_REPLY | TIMESTAMP_REPLY | INFORMATION_REPLY | ADDRESS_MASK_REPLY)
    }

    /// The identifier, which tells the queries of one host apart.
    #[must_use]
    pub fn identifier(&self) -> u16 {
        self.identifier.get()
    }

    /// Sets the identifier of a query or its reply and updates the checksum by `delta`, its change.
    pub fn rewrite(&mut self, identifier: u16, delta: Delta) {
        self.identifier = identifier.into();
        self.apply(delta);
    }

    /// Whether it reports an error about a packet, which it quotes (RFC 1122, section 3.2.2).
    #[must_use]
    pub fn is_error(&self) -> bool {
        matches!(
            self.kind,
            DESTINATION_UNREACHABLE | SOURCE_QUENCH | REDIRECT | TIME_EXCEEDED | PARAMETER_PROBLEM
        )
    }

    /// Whether it tells a host to use another gateway. A NAT must not pass these on: they name
    /// addresses of the other side.
    #[must_use]
    pub fn is_redirect(&self) -> bool {
        self.kind == REDIRECT
    }

    /// The checksum field.
    #[must_use]
    pub fn checksum(&self) -> u16 {
        self.checksum.get()
    }

    /// Updates the checksum after a change to the data.
    pub fn apply(&mut self, delta: Delta) {
        self.checksum = delta.apply(self.checksum.get()).into();
    }
}

/// Whether the checksum of a whole ICMP message is right.
#[must_use]
pub fn checksum_is_sound(message: &[u8]) -> bool {
    Sum::ZERO.bytes(message).is_sound()
}

/// Turns an echo request to us into our reply, in place: swaps the addresses, renews the TTL and
/// updates both checksums. Does nothing to any other message.
pub fn answer_echo(packet: &mut Ipv4Packet<'_>) {
    let Ok((icmp, _)) = IcmpHeader::split(packet.payload) else { return };
    if !icmp.is_echo_request() {
        return;
    }
    let word = |kind: u8| Sum::ZERO.word(u16::from(kind) << 8);
    icmp.kind = ECHO_REPLY;
    icmp.apply(Delta::between(word(ECHO_REQUEST), word(ECHO_REPLY)));
    let (src, dst) = (packet.header.src(), packet.header.dst());
    packet.header.set_addresses(dst, src);
    packet.header.set_ttl(ipv4::DEFAULT_TTL);
}

/// An error that a router reports to the sender of a packet that it did not forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IcmpError {
    /// No route (RFC 1812, section 5.2.7.1).
    NetUnreachable,
    /// The next hop does not answer ARP.
    HostUnreachable,
    /// Addressed to us, in a protocol that we don't speak.
    ProtocolUnreachable,
    /// Addressed to us or to a virtual address, on a port that nobody listens on.
    PortUnreachable,
    /// Larger than the egress port's MTU, with DF set (RFC 1191).
    FragmentationNeeded {
        /// The largest packet that would pass, in bytes.
        mtu: u16,
    },
    /// The TTL expired here.
    TimeExceeded,
    /// For us, and not all of its fragments came in time (RFC 1122, section 3.3.2).
    ReassemblyTimeExceeded,
}

/// Bytes that an ICMP error puts before the packet that it quotes.
pub const ERROR_PREFIX_LEN: usize = ipv4::HEADER_LEN + HEADER_LEN;

/// The most of the offending packet that an error quotes, so that the whole is at most 576 bytes
/// (RFC 1812, section 4.3.2.3).
pub const ERROR_QUOTE_LEN: usize = 576 - ERROR_PREFIX_LEN;

/// Type of service of an ICMP error: precedence 6 (RFC 1812, section 4.3.2.5).
const INTERNETWORK_CONTROL: u8 = 0xc0;

impl IcmpError {
    /// The IPv4 and ICMP headers that go in front of `quote` (the offending packet as it arrived,
    /// cut to [`ERROR_QUOTE_LEN`]), from `src` to `dst`, checksums included.
    #[must_use]
    pub fn prefix(self, src: Ipv4Addr, dst: Ipv4Addr, quote: &[u8]) -> [u8; ERROR_PREFIX_LEN] {
        let (kind, code, mtu) = match self {
            IcmpError::NetUnreachable => (DESTINATION_UNREACHABLE, 0, 0),
            IcmpError::HostUnreachable => (DESTINATION_UNREACHABLE, 1, 0),
            IcmpError::ProtocolUnreachable => (DESTINATION_UNREACHABLE, 2, 0),
            IcmpError::PortUnreachable => (DESTINATION_UNREACHABLE, 3, 0),
            IcmpError::FragmentationNeeded { mtu } => (DESTINATION_UNREACHABLE, 4, mtu),
            IcmpError::TimeExceeded => (TIME_EXCEEDED, 0, 0),
            IcmpError::ReassemblyTimeExceeded => (TIME_EXCEEDED, 1, 0),
        };
        let mut icmp =
            IcmpHeader { kind, code, sequence_or_mtu: mtu.into(), ..IcmpHeader::new_zeroed() };
        icmp.checksum = Sum::ZERO.bytes(icmp.as_bytes()).bytes(quote).checksum().into();
        let payload_len = HEADER_LEN + quote.len();
        let ip = Ipv4Header::with_tos(INTERNETWORK_CONTROL, src, dst, protocol::ICMP, payload_len);
        let mut bytes = [0; ERROR_PREFIX_LEN];
        bytes[..ipv4::HEADER_LEN].copy_from_slice(ip.as_bytes());
        bytes[ipv4::HEADER_LEN..].copy_from_slice(icmp.as_bytes());
        bytes
    }
}

/// Whether an ICMP error may be sent about this packet (RFC 1122, section 3.2.2): not about an ICMP
/// error, a later fragment, or one from or to anything but single hosts.
#[must_use]
pub fn may_report(packet: &mut Ipv4Packet<'_>) -> bool {
    let header = &*packet.header;
    let is_icmp = header.protocol() == protocol::ICMP;
    let dst = header.dst();
    let addressable =
        ipv4::is_valid_source(header.src()) && !dst.is_multicast() && !dst.is_broadcast();
    // A truncated ICMP header may be that of an error, so it isn't answered either.
    let about_error =
        is_icmp && IcmpHeader::split(packet.payload).map_or(true, |(icmp, _)| icmp.is_error());
    addressable && !packet.header.is_later_fragment() && !about_error
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::{IcmpEchoHeader, Icmpv4Type, PacketBuilder, icmpv4};

    const CLIENT: [u8; 4] = [192, 0, 2, 1];
    const DIRECTOR: [u8; 4] = [192, 0, 2, 100];

    fn icmp(kind: Icmpv4Type, data: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        PacketBuilder::ipv4(CLIENT, DIRECTOR, 17).icmpv4(kind).write(&mut bytes, data).unwrap();
        bytes
    }

    fn udp() -> Vec<u8> {
        let mut bytes = Vec::new();
        PacketBuilder::ipv4(CLIENT, DIRECTOR, 1).udp(53, 53).write(&mut bytes, b"hello").unwrap();
        bytes
    }

    #[test]
    fn echo_is_answered_in_place() {
        let mut bytes = icmp(Icmpv4Type::EchoRequest(IcmpEchoHeader { id: 7, seq: 1 }), b"ping!");
        let mut packet = Ipv4Packet::parse(&mut bytes).unwrap();
        answer_echo(&mut packet);
        assert_eq!(packet.header.src().octets(), DIRECTOR);
        assert_eq!(packet.header.dst().octets(), CLIENT);
        assert_eq!(packet.header.ttl(), 64);
        assert!(packet.checksum_is_sound());
        assert!(checksum_is_sound(packet.payload));
        assert_eq!(packet.payload[0], ECHO_REPLY);
        assert_eq!(&packet.payload[8..], b"ping!");
    }

    #[test]
    fn an_error_parses_elsewhere() {
        let quote = udp();
        let prefix = IcmpError::FragmentationNeeded { mtu: 1400 }.prefix(
            DIRECTOR.into(),
            CLIENT.into(),
            &quote,
        );
        let bytes = [&prefix[..], &quote].concat();
        let parsed = etherparse::SlicedPacket::from_ip(&bytes).unwrap();
        let Some(etherparse::NetSlice::Ipv4(ip)) = &parsed.net else { panic!("not IPv4") };
        assert_eq!(ip.header().dcp().value() << 2, 0xc0, "precedence 6");
        let Some(etherparse::TransportSlice::Icmpv4(message)) = parsed.transport else {
            panic!("not ICMP")
        };
        assert_eq!(
            message.icmp_type(),
            Icmpv4Type::DestinationUnreachable(
                icmpv4::DestUnreachableHeader::FragmentationNeeded { next_hop_mtu: 1400 }
            )
        );
        assert!(checksum_is_sound(message.slice()));
        assert_eq!(message.payload(), quote);
    }

    #[test]
    fn errors_are_about_honest_packets_only() {
        let report = |mut bytes: Vec<u8>| may_report(&mut Ipv4Packet::parse(&mut bytes).unwrap());
        assert!(report(udp()));
        assert!(report(icmp(Icmpv4Type::EchoRequest(IcmpEchoHeader { id: 7, seq: 1 }), b"")));
        assert!(!report(icmp(
            Icmpv4Type::TimeExceeded(icmpv4::TimeExceededCode::TtlExceededInTransit),
            b""
        )));
        let with = |at: usize, value: u8| {
            let mut bytes = udp();
            bytes[at] = value;
            bytes
        };
        assert!(!report(with(7, 1)), "a later fragment");
        assert!(report(with(6, 0x20)), "the first fragment");
        assert!(!report(with(12, 224)), "from multicast");
        assert!(!report(with(16, 224)), "to multicast");
    }
}
