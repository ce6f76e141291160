//! Building packets, and setting right the checksums of any, without the engine's code.

use std::{net::SocketAddrV4, ops::Range};

pub(crate) const ICMP: u8 = 1;
pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;

/// Where things are in an IPv4 packet whose lengths are sound.
pub(crate) struct Layout {
    pub(crate) header: Range<usize>,
    pub(crate) payload: Range<usize>,
    pub(crate) protocol: u8,
    pub(crate) is_fragment: bool,
    pub(crate) is_later_fragment: bool,
}

impl Layout {
    /// `None` when a length is wrong.
    pub(crate) fn of(packet: &[u8]) -> Option<Layout> {
        let layout = Layout::of_quoted(packet)?;
        let total = usize::from(word(packet, 2)?);
        let is_sound = (layout.header.end..=packet.len()).contains(&total);
        is_sound.then_some(Layout { payload: layout.header.end..total, ..layout })
    }

    /// Of a packet of which only the beginning may be there.
    pub(crate) fn of_quoted(packet: &[u8]) -> Option<Layout> {
        let first = *packet.first()?;
        let header_len = usize::from(first & 15) * 4;
        if first >> 4 != 4 || header_len < 20 || header_len > packet.len() {
            return None;
        }
        let fragment = word(packet, 6)?;
        Some(Layout {
            header: 0..header_len,
            payload: header_len..packet.len(),
            protocol: packet[9],
            is_fragment: fragment & 0x3fff != 0,
            is_later_fragment: fragment & 0x1fff != 0,
        })
    }

    /// Where the checksum of a transport header is, counted from the header.
    pub(crate) fn checksum(&self) -> Option<usize> {
        match self.protocol {
            TCP => Some(16),
            UDP => Some(6),
            ICMP => Some(2),
            _ => None,
        }
    }
}

/// The 16-bit word at an offset.
pub(crate) fn word(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes([*bytes.get(at)?, *bytes.get(at + 1)?]))
}

/// The sum of all 16-bit words, modulo 0xffff: what a checksum is about (RFC 1071).
pub(crate) fn sum(bytes: &[u8]) -> u64 {
    let word = |pair: &[u8]| u64::from(pair[0]) << 8 | u64::from(*pair.get(1).unwrap_or(&0));
    bytes.chunks(2).map(word).sum::<u64>() % 0xffff
}

fn put_checksum(bytes: &mut [u8], at: usize, rest: u64) {
    bytes[at..at + 2].fill(0);
    // Over a header, a sum is zero only as 0xffff.
    let checksum = match (rest + sum(bytes)) % 0xffff {
        0 => 0,
        sum => !(sum as u16),
    };
    bytes[at..at + 2].copy_from_slice(&checksum.to_be_bytes());
}

/// Makes an IPv4 packet's checksums right where its lengths allow: that of the header, and that of
/// the transport header unless it is a fragment, or UDP without a checksum.
pub fn mend(packet: &mut [u8]) {
    let Some(layout) = Layout::of(packet) else { return };
    put_checksum(&mut packet[layout.header.clone()], 10, 0);
    let (header, rest) = packet.split_at_mut(layout.header.end);
    let mut payload = &mut rest[..layout.payload.len()];
    let Some(at) = layout.checksum() else { return };
    if layout.is_fragment || payload.len() < at + 2 {
        return;
    }
    let mut pseudo_header = sum(&header[12..20]) + u64::from(layout.protocol);
    match layout.protocol {
        ICMP => pseudo_header = 0,
        TCP => pseudo_header += payload.len() as u64,
        _ => {
            let length = word(payload, 4).unwrap_or(0);
            if word(payload, at) == Some(0) || usize::from(length) > payload.len() || length < 8 {
                return;
            }
            // What follows the datagram is no part of it.
            payload = &mut payload[..usize::from(length)];
            pseudo_header += u64::from(length);
        }
    }
    put_checksum(payload, at, pseudo_header);
    if layout.protocol == UDP && word(payload, at) == Some(0) {
        payload[at..at + 2].fill(0xff);
    }
}

/// An IPv4 packet around any payload, with checksums.
pub(crate) fn ipv4(
    src: SocketAddrV4,
    dst: SocketAddrV4,
    protocol: u8,
    (identification, ttl): (u16, u8),
    payload: &[u8],
) -> Vec<u8> {
    let total = ((20 + payload.len()) as u16).to_be_bytes();
    let [high, low] = identification.to_be_bytes();
    let start = [0x45, 0, total[0], total[1], high, low, 0, 0, ttl, protocol, 0, 0];
    let mut packet = [&start, &src.ip().octets()[..], &dst.ip().octets(), payload].concat();
    mend(&mut packet);
    packet
}

/// The part of a packet that carries these bytes of its payload; both ends are moved to where
/// fragments may begin and end.
pub(crate) fn cut(whole: &[u8], part: Range<usize>) -> Vec<u8> {
    let payload = &whole[20..];
    let start = (part.start / 8 * 8).min(payload.len() / 8 * 8);
    let end = (part.end / 8 * 8).max(start + 8).min(payload.len());
    let more = if end < payload.len() { 0x2000 } else { 0 };
    let mut fragment = [&whole[..20], &payload[start..end]].concat();
    let total = fragment.len() as u16;
    fragment[2..4].copy_from_slice(&total.to_be_bytes());
    fragment[6..8].copy_from_slice(&(more | (start / 8) as u16).to_be_bytes());
    mend(&mut fragment);
    fragment
}

/// What the receiver of a packet may answer: source and destination exchanged, an echo request become
/// a reply, and of TCP what was acknowledged as the sequence number. Checksums are left to be
/// [mended](mend).
pub(crate) fn turned_round(packet: &[u8]) -> Vec<u8> {
    let mut bytes = packet.to_vec();
    let Some(layout) = Layout::of(packet) else { return bytes };
    bytes[12..16].copy_from_slice(&packet[16..20]);
    bytes[16..20].copy_from_slice(&packet[12..16]);
    let (there, back) = (&packet[layout.payload.clone()], &mut bytes[layout.payload.clone()]);
    if layout.is_later_fragment {
        return bytes;
    }
    match layout.protocol {
        ICMP if matches!(there.first(), Some(0 | 8)) => back[0] = 8 - there[0],
        TCP | UDP if there.len() >= 4 => {
            back[..2].copy_from_slice(&there[2..4]);
            back[2..4].copy_from_slice(&there[..2]);
        }
        _ => {}
    }
    if layout.protocol == TCP && there.len() >= 20 {
        let sequence = u32::from_be_bytes([there[4], there[5], there[6], there[7]]);
        back[4..8].copy_from_slice(&there[8..12]);
        back[8..12].copy_from_slice(&sequence.wrapping_add(1).to_be_bytes());
    }
    bytes
}
