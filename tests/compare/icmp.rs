//! ICMP: queries, and errors with what they quote.

use etherparse::{IpNumber, Ipv4Header};

use crate::{
    capture::{Capture, Datagram},
    description::{addresses, data, is_directors_icmp},
};

/// How the flows of errors are called.
pub(crate) const ERROR: &str = "icmp error";

const ECHO_REPLY: u8 = 0;
const UNREACHABLE: u8 = 3;
const ECHO_REQUEST: u8 = 8;
const TIMESTAMP: u8 = 13;
const TIMESTAMP_REPLY: u8 = 14;
const HEADER_LEN: usize = 8;
/// Code of UNREACHABLE: ARP gave up.
const HOST_UNREACHABLE: u8 = 1;
/// What ping begins its data with: a `timeval`.
const PING_TIME_LEN: usize = 16;
/// The first of a timestamp's three times, its sender's: the others are the answering host's.
const ORIGINATE_LEN: usize = 4;

pub(crate) fn is_error(message: &[u8]) -> bool {
    let queries = [ECHO_REPLY, ECHO_REQUEST, TIMESTAMP, TIMESTAMP_REPLY];
    !message.first().is_some_and(|kind| queries.contains(kind))
}

/// The flow of an ICMP message, and what there is to say about it.
pub(crate) fn describe(capture: &Capture, datagram: &Datagram, message: &[u8]) -> (String, String) {
    let (src, dst) = addresses(datagram);
    let Some((header, body)) = message.split_first_chunk::<HEADER_LEN>() else {
        return (format!("icmp {src} > {dst}"), data(message));
    };
    let [kind, code, _, _, a, b, c, d] = *header;
    let (first, second) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
    if is_error(message) {
        let aside_ttl =
            is_directors_icmp(datagram) && (kind, code) == (UNREACHABLE, HOST_UNREACHABLE);
        return (
            format!("{ERROR} {src} > {dst} about {}", quoted_flow(body)),
            format!(
                "type {kind} code {code} mtu {second}; quotes {}",
                describe_quote(capture, body, aside_ttl)
            ),
        );
    }
    let (name, what, compared) = match kind {
        ECHO_REQUEST => ("echo request", "after the time", body.get(PING_TIME_LEN..)),
        ECHO_REPLY => ("echo reply", "after the time", body.get(PING_TIME_LEN..)),
        TIMESTAMP => ("timestamp request", "from the time", body.get(..ORIGINATE_LEN)),
        _ => ("timestamp reply", "from the time", body.get(..ORIGINATE_LEN)),
    };
    (
        format!("icmp {name} {src} > {dst} id {first}"),
        format!("code {code} sequence {second}, {what} {}", data(compared.unwrap_or_default())),
    )
}

/// Addresses and ports of what is quoted.
fn quoted_flow(quote: &[u8]) -> String {
    let Ok((header, payload)) = Ipv4Header::from_slice(quote) else {
        return data(quote);
    };
    let [src, dst] = [header.source, header.destination].map(std::net::Ipv4Addr::from);
    let fields: &[u8] = match header.protocol {
        IpNumber::ICMP => payload.get(4..6).unwrap_or_default(),
        _ => payload.get(..4).unwrap_or_default(),
    };
    let fields: Vec<u16> =
        fields.chunks(2).map(|field| u16::from_be_bytes([field[0], field[1]])).collect();
    format!("protocol {} {src} > {dst} {fields:?}", header.protocol.0)
}

/// How much is quoted, and whether it is what was sent: a datagram of this capture, which only its
/// TTL and with it the header checksum may have changed since.
fn describe_quote(capture: &Capture, quote: &[u8], aside_ttl: bool) -> String {
    let Ok((header, _)) = Ipv4Header::from_slice(quote) else { return data(quote) };
    let mut text = format!("{} bytes", quote.len());
    if !aside_ttl {
        text += &format!(" with ttl {}", header.time_to_live);
    }
    if header.header_checksum != header.calc_header_checksum() {
        text += ", with a wrong header checksum";
    }
    let candidates = capture.datagrams.iter().filter(|sent| {
        let sent = &sent.header;
        (sent.source, sent.destination, sent.protocol, sent.identification)
            == (header.source, header.destination, header.protocol, header.identification)
    });
    let changes = candidates.map(|sent| first_change(&sent.bytes(), quote));
    match changes.max_by_key(|change| change.unwrap_or(usize::MAX)) {
        None => text + " of what was not sent",
        Some(None) => text + " of what was sent",
        Some(Some(at)) => format!("{text}, other than was sent from byte {at} on"),
    }
}

fn first_change(sent: &[u8], quote: &[u8]) -> Option<usize> {
    let may_change = |at| matches!(at, 8 | 10 | 11); // TTL and header checksum
    (0..quote.len()).find(|&at| !may_change(at) && sent.get(at) != quote.get(at))
}
