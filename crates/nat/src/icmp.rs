//! Translating ICMP errors (RFC 5508, section 4.2): an error that quotes a translated packet must
//! quote it as its sender knows it, and go to that sender.

use std::net::SocketAddrV4;

use shunt_packet::{
    checksum::{Delta, Sum},
    icmp::IcmpHeader,
    ipv4::{Ipv4Packet, protocol},
    tcp,
};

use crate::flow::FlowKey;

/// The start of a quoted packet's payload: ports, in TCP and UDP alike.
const PORTS_LEN: usize = 4;

/// Offset and end of the checksum in a transport header.
const UDP_CHECKSUM: std::ops::Range<usize> = 6..8;
const TCP_CHECKSUM: std::ops::Range<usize> = 16..18;

/// The key of the packet that an ICMP error quotes; `None` when it quotes none that can have been
/// translated, or is not addressed to the sender of what it quotes: then it is forged.
pub(crate) fn quoted_key(error: &mut Ipv4Packet<'_>) -> Option<FlowKey> {
    let (_, quote) = IcmpHeader::split(error.payload).ok()?;
    let quoted = Ipv4Packet::parse_quoted(quote).ok()?;
    let protocol = quoted.header.protocol();
    let is_forged = error.header.dst() != quoted.header.src();
    if is_forged || quoted.header.is_later_fragment() {
        return None;
    }
    let (src_port, dst_port) = match protocol {
        protocol::TCP | protocol::UDP => {
            let ports = quoted.payload.first_chunk::<PORTS_LEN>()?;
            (u16::from_be_bytes([ports[0], ports[1]]), u16::from_be_bytes([ports[2], ports[3]]))
        }
        protocol::ICMP => match IcmpHeader::split(quoted.payload).ok()?.0 {
            query if query.is_query() => (query.identifier(), 0),
            reply if reply.is_query_reply() => (0, reply.identifier()),
            _ => return None,
        },
        _ => (0, 0),
    };
    let src = SocketAddrV4::new(quoted.header.src(), src_port);
    let dst = SocketAddrV4::new(quoted.header.dst(), dst_port);
    Some(FlowKey::new(protocol, src, dst))
}

/// Rewrites an ICMP error about a translated packet. `quoted` is the key that it quotes, `original`
/// the key under which that packet had arrived here. Addresses, ports and checksums of the quote are
/// set back; the error goes to the packet's sender; and its source is hidden where the packet's
/// destination was translated.
pub(crate) fn translate_error(error: &mut Ipv4Packet<'_>, quoted: &FlowKey, original: &FlowKey) {
    let Ok((header, quote)) = IcmpHeader::split(error.payload) else { return };
    let before = headers_sum(quote);
    restore_quote(quote, quoted, original);
    header.apply(Delta::between(before, headers_sum(quote)));

    let hides_destination = quoted.dst().ip() != original.dst().ip();
    let src = if hides_destination { *original.dst().ip() } else { error.header.src() };
    error.header.set_addresses(src, *original.src().ip());
}

/// What the part of a quote that may be rewritten adds to the ICMP checksum. Its end is even, so
/// the sum of what follows does not depend on it.
fn headers_sum(quote: &[u8]) -> Sum {
    const LONGEST: usize = 60 + tcp::HEADER_LEN;
    Sum::ZERO.bytes(&quote[..quote.len().min(LONGEST)])
}

fn restore_quote(quote: &mut [u8], quoted: &FlowKey, original: &FlowKey) {
    let Ok(packet) = Ipv4Packet::parse_quoted(quote) else { return };
    packet.header.set_addresses(*original.src().ip(), *original.dst().ip());
    match original.protocol() {
        protocol::ICMP => return restore_query(packet.payload, quoted, original),
        protocol::TCP | protocol::UDP => {}
        _ => return,
    }
    let Some(ports) = packet.payload.first_chunk_mut::<PORTS_LEN>() else { return };
    ports[..2].copy_from_slice(&original.src().port().to_be_bytes());
    ports[2..].copy_from_slice(&original.dst().port().to_be_bytes());

    // The transport checksum may lie beyond what is quoted.
    let delta = Delta::between(quoted.transport_sum(), original.transport_sum());
    let (range, apply): (_, fn(Delta, u16) -> u16) = match original.protocol() {
        protocol::UDP => (UDP_CHECKSUM, Delta::apply_udp),
        _ => (TCP_CHECKSUM, Delta::apply),
    };
    if let Some(field) = packet.payload.get_mut(range) {
        let checksum = apply(delta, u16::from_be_bytes([field[0], field[1]]));
        field.copy_from_slice(&checksum.to_be_bytes());
    }
}

fn restore_query(quoted_payload: &mut [u8], quoted: &FlowKey, original: &FlowKey) {
    let Ok((query, _)) = IcmpHeader::split(quoted_payload) else { return };
    let asker = if query.is_query() { original.src() } else { original.dst() };
    let identifier = asker.port();
    query.rewrite(identifier, Delta::between(quoted.transport_sum(), original.transport_sum()));
}
