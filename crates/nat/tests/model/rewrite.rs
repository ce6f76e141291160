//! What a packet looks like after translation. Checksums are kept by RFC 1624's equation 3, word by
//! word; whether they are right after that is not for this model to say but for a full recomputation.

use std::net::Ipv4Addr;

use crate::{
    flow::Flow,
    wire::{ICMP, Ip, QUERIES, SYN, TCP, UDP, word},
};

/// Where the checksum is in an IPv4 header.
const IP_CHECKSUM: usize = 10;
/// Where the addresses are.
const ADDRESSES: std::ops::Range<usize> = 12..20;

/// A packet, or a fragment of one, as it leaves under other endpoints: addresses, ports or echo
/// identifier, and of a SYN the maximum segment size (RFC 9293, section 3.7.1).
pub(crate) fn translated(arrived: &[u8], to: &Flow, mss_limit: Option<u16>) -> Vec<u8> {
    let ip = Ip(arrived);
    let mut left = arrived.to_vec();
    if ip.fragment_offset() == 0 {
        let segment = &mut left[ip.header_len()..ip.total_len()];
        set_ports(segment, &arrived[ADDRESSES], to);
        if let Some(limit) = mss_limit
            && to.protocol == TCP
            && segment[13] & SYN != 0
        {
            clamp_mss(segment, limit);
        }
    }
    set_addresses(&mut left, *to.src.ip(), *to.dst.ip());
    left
}

/// An ICMP error about a packet that had left as `quoted` and had arrived as `original` (RFC 5508,
/// section 4.2): it quotes the packet as its sender knows it, and goes there. If the destination was
/// hidden from the sender, so is where the error comes from.
pub(crate) fn translated_error(arrived: &[u8], quoted: &Flow, original: &Flow) -> Vec<u8> {
    let mut left = arrived.to_vec();
    let ip = Ip(arrived);
    let message = &mut left[ip.header_len()..ip.total_len()];
    let arrived_quote = message[8..].to_vec();
    let mut quote = arrived_quote.clone();
    let quoted_segment = Ip(&quote).header_len();
    set_addresses(&mut quote, *original.src.ip(), *original.dst.ip());
    set_ports(&mut quote[quoted_segment..], &arrived_quote[ADDRESSES], original);
    message[8..].copy_from_slice(&quote);
    update_checksum(message, 2, &arrived_quote, &quote);

    let src = if quoted.dst.ip() == original.dst.ip() { ip.src() } else { *original.dst.ip() };
    set_addresses(&mut left, src, *original.src.ip());
    left
}

fn set_addresses(packet: &mut [u8], src: Ipv4Addr, dst: Ipv4Addr) {
    let old = packet[ADDRESSES].to_vec();
    let new = [src.octets(), dst.octets()].concat();
    packet[ADDRESSES].copy_from_slice(&new);
    update_checksum(packet, IP_CHECKSUM, &old, &new);
}

/// Sets ports, or an echo's identifier, and keeps the checksum that covers them and the addresses.
/// It may lie beyond the end of a quote.
fn set_ports(segment: &mut [u8], old_addresses: &[u8], to: &Flow) {
    let new_addresses = [to.src.ip().octets(), to.dst.ip().octets()].concat();
    if to.protocol == ICMP {
        let identifier = if QUERIES.contains(&segment[0]) { to.src.port() } else { to.dst.port() };
        let old = segment[4..6].to_vec();
        segment[4..6].copy_from_slice(&identifier.to_be_bytes());
        return update_checksum(segment, 2, &old, &identifier.to_be_bytes());
    }
    if ![TCP, UDP].contains(&to.protocol) {
        return;
    }
    let old = [old_addresses, &segment[..4]].concat();
    segment[..2].copy_from_slice(&to.src.port().to_be_bytes());
    segment[2..4].copy_from_slice(&to.dst.port().to_be_bytes());
    let new = [&new_addresses, &segment[..4]].concat();
    let checksum = if to.protocol == UDP { 6 } else { 16 };
    if segment.len() < checksum + 2 {
        return;
    }
    let is_without = to.protocol == UDP && word(segment, checksum) == 0;
    if !is_without {
        update_checksum(segment, checksum, &old, &new);
    }
    // RFC 768: zero is no checksum.
    if to.protocol == UDP && !is_without && word(segment, checksum) == 0 {
        segment[checksum..checksum + 2].fill(0xff);
    }
}

/// Lowers the maximum segment size among a SYN's options.
fn clamp_mss(segment: &mut [u8], limit: u16) {
    let options = 20..usize::from(segment[12] >> 4) * 4;
    let old = segment[options.clone()].to_vec();
    let mut at = options.start;
    while at < options.end && segment[at] != 0 {
        let is_padding = segment[at] == 1;
        if is_padding {
            at += 1;
            continue;
        }
        let length = if at + 1 < options.end { usize::from(segment[at + 1]) } else { 0 };
        if length < 2 || at + length > options.end {
            return;
        }
        if segment[at] == 2 && length == 4 {
            let mss = word(segment, at + 2).min(limit);
            segment[at + 2..at + 4].copy_from_slice(&mss.to_be_bytes());
            let new = segment[options].to_vec();
            return update_checksum(segment, 16, &old, &new);
        }
        at += length;
    }
}

/// RFC 1624, equation 3: `HC' = ~(~HC + ~m + m')`, for each word `m` that became `m'`.
fn update_checksum(bytes: &mut [u8], at: usize, old: &[u8], new: &[u8]) {
    // An odd byte at the end of a quote is payload, which does not change.
    let mut sum = u32::from(!word(bytes, at));
    for (old, new) in old.chunks_exact(2).zip(new.chunks_exact(2)) {
        sum += u32::from(!word(old, 0)) + u32::from(word(new, 0));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    bytes[at..at + 2].copy_from_slice(&(!(sum as u16)).to_be_bytes());
}
