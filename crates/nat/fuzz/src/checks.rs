//! What must hold of a packet and of what became of it, found without the engine's code.

use std::{net::SocketAddrV4, ops::Range};

use shunt_nat::{FlowKey, Verdict};
use shunt_testkit::{ethernet, mac, verify_checksums};

use crate::packet::{ICMP, Layout, TCP, UDP, sum, word};

/// Checks an IPv4 packet against what it was when it arrived: only what a NAT rewrites has changed,
/// every checksum is as right or as wrong as it was, and a packet that isn't sent on is untouched.
///
/// # Errors
/// Says what is wrong.
pub fn check(arrived: &[u8], left: &[u8], verdict: &Verdict) -> Result<(), String> {
    let changed: Vec<usize> = (0..arrived.len()).filter(|&at| arrived[at] != left[at]).collect();
    let layout = Layout::of(arrived).ok_or("the engine saw a packet with wrong lengths")?;
    let rewritten = match verdict {
        Verdict::Translate(_) => rewritten_by_translation(arrived, &layout),
        Verdict::Forward => rewritten_in_error(arrived, &layout),
        _ => vec![],
    };
    if let Some(at) = changed.iter().find(|at| !rewritten.iter().any(|range| range.contains(at))) {
        return Err(format!("byte {at} must not change"));
    }
    if sum(&left[layout.header.clone()]) != 0 {
        return Err("the header checksum is wrong".to_owned());
    }
    sums_are_kept(arrived, left, &layout)?;
    if *verdict == Verdict::Forward {
        quoted_sums_are_kept(&arrived[layout.payload.clone()], &left[layout.payload.clone()])?;
    }
    let framed = |packet| ethernet(mac(1), mac(2), 0x0800, packet);
    match verify_checksums(&framed(arrived)) {
        Ok(()) => verify_checksums(&framed(left)),
        Err(_) => Ok(()),
    }
}

/// The header's checksum and addresses.
fn rewritten_in_header(header: usize) -> Range<usize> {
    header + 10..header + 20
}

fn rewritten_by_translation(packet: &[u8], layout: &Layout) -> Vec<Range<usize>> {
    let mut rewritten = vec![rewritten_in_header(0)];
    if !layout.is_later_fragment {
        let transport = layout.payload.start;
        rewritten.extend(rewritten_in_transport(layout, transport));
        rewritten.extend(mss_option(packet, layout));
    }
    rewritten
}

/// Ports or an echo's identifier, and the checksum.
fn rewritten_in_transport(layout: &Layout, at: usize) -> Vec<Range<usize>> {
    match layout.protocol {
        TCP => vec![at..at + 4, at + 16..at + 18],
        UDP => vec![at..at + 4, at + 6..at + 8],
        ICMP => vec![at + 2..at + 4, at + 4..at + 6],
        _ => vec![],
    }
}

/// The value of a SYN's first MSS option (RFC 9293, section 3.7.1).
fn mss_option(packet: &[u8], layout: &Layout) -> Option<Range<usize>> {
    let segment = &packet[layout.payload.clone()];
    if layout.protocol != TCP || segment.get(13)? & 2 == 0 {
        return None;
    }
    let (mut at, end) = (20, usize::from(segment[12] >> 4) * 4);
    while at < end {
        let length = match *segment.get(at)? {
            0 => return None,
            1 => 1,
            2 if segment.get(at + 1) == Some(&4) => {
                let option = layout.payload.start + at;
                return Some(option + 2..option + 4);
            }
            _ => usize::from(*segment.get(at + 1)?),
        };
        at += length.max(1);
    }
    None
}

/// An error's addresses and checksum, and in its quote all that a translation rewrites.
fn rewritten_in_error(packet: &[u8], layout: &Layout) -> Vec<Range<usize>> {
    let icmp = layout.payload.start;
    let quote = icmp + 8;
    let mut rewritten = vec![rewritten_in_header(0), icmp + 2..icmp + 4];
    if let Some(quoted) = Layout::of_quoted(&packet[quote..]) {
        rewritten.push(rewritten_in_header(quote));
        rewritten.extend(rewritten_in_transport(&quoted, quote + quoted.payload.start));
    }
    rewritten
}

/// A checksum is right when the words that it covers, itself included, sum up to zero. Whatever they
/// sum up to, translation keeps it: so a wrong checksum stays wrong.
fn sums_are_kept(arrived: &[u8], left: &[u8], layout: &Layout) -> Result<(), String> {
    let payload = layout.payload.clone();
    let Some(checksum) = layout.checksum() else { return Ok(()) };
    if layout.is_later_fragment || payload.len() < checksum + 2 {
        return Ok(());
    }
    let at = payload.start + checksum;
    if layout.protocol == UDP && word(arrived, at) == Some(0) {
        return match word(left, at) {
            Some(0) => Ok(()),
            _ => Err("a checksum where there was none".to_owned()),
        };
    }
    let covered = |packet: &[u8]| {
        let addresses = if layout.protocol == ICMP { 0 } else { sum(&packet[12..20]) };
        (addresses + sum(&packet[payload.clone()])) % 0xffff
    };
    if covered(arrived) == covered(left) {
        Ok(())
    } else {
        Err(format!("the checksum of protocol {} is off", layout.protocol))
    }
}

/// The same for the packet that an ICMP error quotes, as far as it does.
fn quoted_sums_are_kept(arrived: &[u8], left: &[u8]) -> Result<(), String> {
    let (arrived, left) = (&arrived[8..], &left[8..]);
    let Some(layout) = Layout::of_quoted(arrived) else { return Ok(()) };
    let header = layout.header.clone();
    if sum(&arrived[header.clone()]) != sum(&left[header]) {
        return Err("the quoted header checksum is off".to_owned());
    }
    sums_are_kept(arrived, left, &layout).map_err(|error| format!("in the quote: {error}"))
}

/// The key of a packet that can belong to a connection, and that of an answer to it.
pub(crate) fn keys(packet: &[u8]) -> Option<(FlowKey, FlowKey)> {
    let layout = Layout::of(packet)?;
    if layout.is_later_fragment {
        return None;
    }
    let address = |at: usize| <[u8; 4]>::try_from(&packet[at..at + 4]).ok();
    let (src, dst) = (address(12)?, address(16)?);
    let transport = &packet[layout.payload.clone()];
    let (src_port, dst_port) = match (layout.protocol, transport.first()?) {
        (TCP | UDP, _) => (word(transport, 0)?, word(transport, 2)?),
        (ICMP, 8) => (word(transport, 4)?, 0),
        (ICMP, 0) => (0, word(transport, 4)?),
        _ => return None,
    };
    let src = SocketAddrV4::new(src.into(), src_port);
    let dst = SocketAddrV4::new(dst.into(), dst_port);
    let key = FlowKey::new(layout.protocol, src, dst);
    Some((key, key.reverse()))
}
