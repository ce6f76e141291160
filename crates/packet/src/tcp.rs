//! TCP (RFC 9293), as far as a director needs it: headers, resets, and clamping the MSS.

use std::{fmt, net::SocketAddrV4};

use bitflags::bitflags;
use zerocopy::{
    FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned,
    byteorder::network_endian::{U16, U32},
};

use crate::{
    Malformed,
    checksum::{Delta, Sum},
    ipv4::{self, Ipv4Header, Ipv4Packet, protocol},
    plain::Ports,
};

/// Bytes of a TCP header without options.
pub const HEADER_LEN: usize = size_of::<TcpHeader>();

bitflags! {
    /// The control bits of a segment (RFC 9293, section 3.1) that decide what it does to a
    /// connection. The others (PSH, URG, and ECN's) are left out.
    #[derive(Clone, Copy, PartialEq, Eq)]
    pub struct TcpFlags: u8 {
        /// No more data from the sender.
        const FIN = 0x01;
        /// Synchronize sequence numbers.
        const SYN = 0x02;
        /// Reset the connection.
        const RST = 0x04;
        /// The acknowledgment field is significant.
        const ACK = 0x10;
    }
}

impl TcpFlags {
    /// Whether the segment opens a connection: SYN, without ACK, RST or FIN.
    #[must_use]
    pub fn opens(self) -> bool {
        self == TcpFlags::SYN
    }
}

impl fmt::Debug for TcpFlags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = [(Self::SYN, "S"), (Self::FIN, "F"), (Self::RST, "R"), (Self::ACK, ".")];
        names
            .iter()
            .filter(|(flag, _)| self.contains(*flag))
            .try_for_each(|(_, name)| f.write_str(name))
    }
}

/// The fixed part of a TCP header: 20 bytes.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct TcpHeader {
    ports: Ports,
    sequence: U32,
    acknowledgment: U32,
    data_offset: u8,
    flags: u8,
    window: U16,
    checksum: U16,
    urgent: U16,
}

impl TcpHeader {
    /// Views the header at the start of an IPv4 payload.
    ///
    /// # Errors
    /// Truncated, or a data offset below 5 or beyond the payload.
    pub fn parse(payload: &mut [u8]) -> Result<&mut TcpHeader, Malformed> {
        let available = payload.len();
        let (header, _) =
            TcpHeader::mut_from_prefix(payload).map_err(|_| Malformed::TcpTruncated)?;
        let header_len = header.header_len();
        if header_len < HEADER_LEN || header_len > available {
            Err(Malformed::TcpDataOffset)
        } else {
            Ok(header)
        }
    }

    /// Header length in bytes, options included.
    #[must_use]
    pub fn header_len(&self) -> usize {
        usize::from(self.data_offset >> 4) * 4
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

    /// Sequence number of the first byte, or of the SYN.
    #[must_use]
    pub fn sequence(&self) -> u32 {
        self.sequence.get()
    }

    /// The next sequence number that the sender expects.
    #[must_use]
    pub fn acknowledgment(&self) -> u32 {
        self.acknowledgment.get()
    }

    /// The control bits.
    #[must_use]
    pub fn flags(&self) -> TcpFlags {
        TcpFlags::from_bits_truncate(self.flags)
    }

    /// The checksum field.
    #[must_use]
    pub fn checksum(&self) -> u16 {
        self.checksum.get()
    }

    /// Sets both ports and updates the checksum: `delta` is the change of ports and addresses.
    #[inline(always)]
    pub fn rewrite(&mut self, ports: Ports, delta: Delta) {
        self.ports = ports;
        delta.update(&mut self.checksum);
    }

    /// Sets the checksum field. A NIC that computes the checksum expects the folded sum of the
    /// pseudo-header in it.
    pub fn set_checksum(&mut self, value: u16) {
        self.checksum = value.into();
    }
}

/// Bytes of a reset: IPv4 and TCP headers without options. Never longer than the segment that it answers.
pub const RESET_LEN: usize = ipv4::HEADER_LEN + HEADER_LEN;

/// The reset that refuses `segment` (RFC 9293, section 3.10.7.1: no connection exists), from its
/// destination to its source, checksums included. `None` when the segment is a reset itself, or not
/// a sound TCP segment.
#[must_use]
pub fn reset_for(segment: &mut Ipv4Packet<'_>) -> Option<[u8; RESET_LEN]> {
    let payload_len = segment.payload.len();
    let tcp = TcpHeader::parse(segment.payload).ok()?;
    let flags = tcp.flags();
    if flags.contains(TcpFlags::RST) {
        return None;
    }
    let (sequence, acknowledgment, answer) = if flags.contains(TcpFlags::ACK) {
        (tcp.acknowledgment(), 0, TcpFlags::RST)
    } else {
        let control =
            u32::from(flags.contains(TcpFlags::SYN)) + u32::from(flags.contains(TcpFlags::FIN));
        let length = (payload_len - tcp.header_len()) as u32 + control;
        (0, tcp.sequence().wrapping_add(length), TcpFlags::RST | TcpFlags::ACK)
    };
    let src = SocketAddrV4::new(segment.header.dst(), tcp.dst_port());
    let dst = SocketAddrV4::new(segment.header.src(), tcp.src_port());
    Some(build_reset(src, dst, sequence, acknowledgment, answer))
}

/// The reset that ends an established connection on behalf of `src`. `sequence` is what `dst` expects
/// next: it ignores or challenges any other reset (RFC 5961, section 3.2).
#[must_use]
pub fn reset(src: SocketAddrV4, dst: SocketAddrV4, sequence: u32) -> [u8; RESET_LEN] {
    build_reset(src, dst, sequence, 0, TcpFlags::RST)
}

fn build_reset(
    src: SocketAddrV4,
    dst: SocketAddrV4,
    sequence: u32,
    acknowledgment: u32,
    flags: TcpFlags,
) -> [u8; RESET_LEN] {
    let ip = Ipv4Header::new(*src.ip(), *dst.ip(), protocol::TCP, HEADER_LEN);
    let mut reset = TcpHeader {
        ports: zerocopy::transmute!([U16::new(src.port()), U16::new(dst.port())]),
        sequence: sequence.into(),
        acknowledgment: acknowledgment.into(),
        data_offset: 5 << 4,
        flags: flags.bits(),
        ..TcpHeader::new_zeroed()
    };
    reset.checksum = segment_sum(&ip, reset.as_bytes()).checksum().into();
    joined(&ip, &reset)
}

const OPTION_END: u8 = 0;
const OPTION_NOP: u8 = 1;
const OPTION_MSS: u8 = 2;
const OPTION_MSS_LEN: usize = 4;

/// Lowers the maximum segment size that a SYN announces to at most `limit`, and updates the checksum
/// (RFC 9293, section 3.7.1). Other segments, and SYNs without the option, are left alone.
pub fn clamp_mss(segment: &mut [u8], limit: u16) {
    let Ok(header) = TcpHeader::parse(segment) else { return };
    if !header.flags().contains(TcpFlags::SYN) {
        return;
    }
    let header_len = header.header_len();
    let options = HEADER_LEN..header_len;
    let before = Sum::ZERO.bytes(&segment[options.clone()]);
    let Some(mss) = mss_option(&mut segment[options.clone()]) else { return };
    if u16::from_be_bytes(*mss) <= limit {
        return;
    }
    *mss = limit.to_be_bytes();
    let delta = Delta::between(before, Sum::ZERO.bytes(&segment[options]));
    if let Ok(header) = TcpHeader::parse(segment) {
        header.checksum = delta.apply(header.checksum()).into();
    }
}

/// The value of the MSS option among a header's options.
fn mss_option(mut options: &mut [u8]) -> Option<&mut [u8; 2]> {
    loop {
        let (length, is_mss) = match *options {
            [] | [OPTION_END, ..] => return None,
            [OPTION_NOP, ..] => (1, false),
            // Kind and length are two bytes themselves: a smaller length is malformed.
            [_] | [_, 0..2, ..] => return None,
            [kind, length, ..] => (usize::from(length), kind == OPTION_MSS),
        };
        let (option, rest) = options.split_at_mut_checked(length)?;
        if is_mss && length == OPTION_MSS_LEN {
            return option[2..].first_chunk_mut();
        }
        options = rest;
    }
}

fn joined(ip: &Ipv4Header, tcp: &TcpHeader) -> [u8; RESET_LEN] {
    let mut bytes = [0; RESET_LEN];
    bytes[..ipv4::HEADER_LEN].copy_from_slice(ip.as_bytes());
    bytes[ipv4::HEADER_LEN..].copy_from_slice(tcp.as_bytes());
    bytes
}

/// The sum over a whole segment and its pseudo-header; it folds to all ones if the checksum is right.
fn segment_sum(header: &Ipv4Header, segment: &[u8]) -> Sum {
    header.pseudo_header(segment.len() as u16).bytes(segment)
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::PacketBuilder;

    fn segment(flags: TcpFlags, sequence: u32, acknowledgment: u32, data: &[u8]) -> Vec<u8> {
        let mut builder =
            PacketBuilder::ipv4([10, 0, 0, 1], [10, 0, 0, 2], 9).tcp(4000, 80, sequence, 1024);
        if flags.contains(TcpFlags::SYN) {
            builder = builder.syn();
        }
        if flags.contains(TcpFlags::FIN) {
            builder = builder.fin();
        }
        if flags.contains(TcpFlags::RST) {
            builder = builder.rst();
        }
        if flags.contains(TcpFlags::ACK) {
            builder = builder.ack(acknowledgment);
        }
        let mut bytes = Vec::new();
        builder.write(&mut bytes, data).unwrap();
        bytes
    }

    fn reset(mut bytes: Vec<u8>) -> Option<(u32, u32, TcpFlags)> {
        let mut packet = Ipv4Packet::parse(&mut bytes).unwrap();
        let mut answer = reset_for(&mut packet)?;
        let answer = Ipv4Packet::parse(&mut answer).unwrap();
        assert!(answer.checksum_is_sound());
        assert!(segment_sum(answer.header, answer.payload).is_sound());
        assert_eq!(answer.header.src(), Ipv4Addr::new(10, 0, 0, 2));
        let tcp = TcpHeader::parse(answer.payload).unwrap();
        assert_eq!((tcp.src_port(), tcp.dst_port()), (80, 4000));
        Some((tcp.sequence(), tcp.acknowledgment(), tcp.flags()))
    }

    use std::net::Ipv4Addr;

    #[test]
    fn a_reset_follows_the_rfc() {
        let rst_ack = TcpFlags::RST | TcpFlags::ACK;
        assert_eq!(reset(segment(TcpFlags::SYN, 99, 0, b"")), Some((0, 100, rst_ack)));
        assert_eq!(reset(segment(TcpFlags::FIN, u32::MAX, 0, b"abc")), Some((0, 3, rst_ack)));
        assert_eq!(reset(segment(TcpFlags::ACK, 7, 55, b"abc")), Some((55, 0, TcpFlags::RST)));
        assert_eq!(reset(segment(TcpFlags::RST, 7, 0, b"")), None, "never a reset for a reset");
    }

    #[test]
    fn an_unprovoked_reset_is_a_reset() {
        let (src, dst) = ("10.0.0.2:80".parse().unwrap(), "10.0.0.1:4000".parse().unwrap());
        let mut bytes = super::reset(src, dst, 77);
        let packet = Ipv4Packet::parse(&mut bytes).unwrap();
        assert!(packet.checksum_is_sound());
        assert!(segment_sum(packet.header, packet.payload).is_sound());
        let tcp = TcpHeader::parse(packet.payload).unwrap();
        assert_eq!((tcp.sequence(), tcp.flags()), (77, TcpFlags::RST));
    }

    /// A SYN with these options, and its MSS clamped to 1400.
    fn clamped(flags: TcpFlags, options: &[u8]) -> (Vec<u8>, Vec<u8>) {
        let mut segment = segment(flags, 0, 0, b"")[20..].to_vec();
        segment[12] = ((20 + options.len()) as u8 / 4) << 4;
        segment.extend_from_slice(options);
        segment.extend_from_slice(b"data");
        segment[16..18].fill(0);
        let header = Ipv4Header::new([10, 0, 0, 1].into(), [10, 0, 0, 2].into(), 6, segment.len());
        let checksum = segment_sum(&header, &segment).checksum();
        segment[16..18].copy_from_slice(&checksum.to_be_bytes());
        let before = segment.clone();
        clamp_mss(&mut segment, 1400);
        assert!(segment_sum(&header, &segment).is_sound(), "{options:?}");
        (before, segment)
    }

    #[test]
    fn the_mss_is_clamped() {
        let options = |segment: &[u8]| segment[20..segment.len() - 4].to_vec();
        let (_, after) = clamped(TcpFlags::SYN, &[2, 4, 0x05, 0xb4]);
        assert_eq!(options(&after), [2, 4, 0x05, 0x78]);
        let (_, after) = clamped(TcpFlags::SYN, &[1, 2, 4, 0x23, 0x00, 1, 1, 0]);
        assert_eq!(options(&after), [1, 2, 4, 0x05, 0x78, 1, 1, 0], "at an odd offset");
        for left_alone in [
            &[2, 4, 0x05, 0x00][..],
            &[2, 4, 0x05, 0x78],
            &[0, 2, 4, 0x05, 0xb4, 0, 0, 0],
            &[3, 0, 2, 4, 0x05, 0xb4, 0, 0],
            &[3, 1, 2, 4, 0x05, 0xb4, 0, 0],
            &[3, 9, 2, 4],
            &[1, 1, 1, 2],
            &[2, 3, 9, 0],
            &[],
        ] {
            let (before, after) = clamped(TcpFlags::SYN, left_alone);
            assert_eq!(before, after, "{left_alone:?}");
        }
        let (before, after) = clamped(TcpFlags::ACK, &[2, 4, 0x05, 0xb4]);
        assert_eq!(before, after, "no SYN");
    }

    #[test]
    fn only_a_bare_syn_opens() {
        assert!(TcpFlags::SYN.opens());
        assert!(!(TcpFlags::SYN | TcpFlags::ACK).opens());
        assert!(!(TcpFlags::SYN | TcpFlags::FIN).opens());
        assert!(!(TcpFlags::SYN | TcpFlags::RST).opens());
        assert!(!TcpFlags::ACK.opens());
    }

    #[test]
    fn flags_leave_out_what_decides_nothing() {
        let mut bytes = segment(TcpFlags::SYN, 0, 0, b"")[20..].to_vec();
        for (sent, flags) in [
            (0xc2, TcpFlags::SYN),
            (0x18, TcpFlags::ACK),
            (0x38, TcpFlags::ACK),
            (0xff, TcpFlags::all()),
            (0xe8, TcpFlags::empty()),
        ] {
            bytes[13] = sent;
            assert_eq!(TcpHeader::parse(&mut bytes).unwrap().flags(), flags, "{sent:#x}");
        }
    }

    #[test]
    fn lengths_are_checked() {
        let bytes = segment(TcpFlags::SYN, 0, 0, b"");
        let tcp = &bytes[20..];
        assert_eq!(TcpHeader::parse(&mut tcp[..19].to_vec()).err(), Some(Malformed::TcpTruncated));
        for (offset, error) in [(4, true), (5, false), (6, true)] {
            let mut tcp = tcp.to_vec();
            tcp[12] = offset << 4;
            assert_eq!(TcpHeader::parse(&mut tcp).is_err(), error, "data offset {offset}");
        }
    }
}
