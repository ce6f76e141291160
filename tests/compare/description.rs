//! A capture in words, flow by flow, without what may differ.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::{Ipv4Addr, SocketAddrV4},
};

use etherparse::{IpNumber, TcpSlice};

use crate::{
    capture::{Capture, Datagram},
    icmp,
    stream::Stream,
};

/// The director's own addresses.
const DIRECTOR: [Ipv4Addr; 2] = [Ipv4Addr::new(192, 168, 1, 100), Ipv4Addr::new(192, 168, 2, 200)];
/// The TTL of what a host sends: less, and it was passed on.
const INITIAL_TTL: u8 = 64;

/// By flow (one direction of a conversation), what there is to say about it.
pub(crate) struct Description(BTreeMap<String, Vec<String>>);

impl Description {
    pub(crate) fn of(capture: &Capture) -> Description {
        let mut flows: BTreeMap<String, Vec<String>> = BTreeMap::new();
        let starts = initial_sequences(capture);
        let mut streams: BTreeMap<(SocketAddrV4, SocketAddrV4), Stream> = BTreeMap::new();
        for datagram in &capture.datagrams {
            let payload = datagram.payload();
            let (flow, line) = match (datagram.header.protocol, endpoints(datagram, &payload)) {
                (IpNumber::TCP, Some((src, dst))) => {
                    let start = |from, to| starts.get(&(from, to)).copied().unwrap_or_default();
                    let stream = streams
                        .entry((src, dst))
                        .or_insert_with(|| Stream::new(start(src, dst), start(dst, src)));
                    stream.add(&header(datagram), &payload);
                    continue;
                }
                (IpNumber::UDP, Some((src, dst))) => {
                    (format!("udp {src} > {dst}"), data(&payload[8..]))
                }
                (IpNumber::ICMP, _) => icmp::describe(capture, datagram, &payload),
                (other, _) => {
                    let (src, dst) = addresses(datagram);
                    (format!("protocol {} {src} > {dst}", other.0), data(&payload))
                }
            };
            flows.entry(flow).or_default().push(format!("{}; {line}", header(datagram)));
        }
        // An error may be repeated as often as what caused it.
        for (_, lines) in flows.iter_mut().filter(|(flow, _)| flow.starts_with(icmp::ERROR)) {
            let distinct: BTreeSet<String> = lines.drain(..).collect();
            lines.extend(distinct);
        }
        let streams = streams
            .into_iter()
            .map(|((src, dst), stream)| (format!("tcp {src} > {dst}"), stream.describe()));
        flows.extend(streams);
        Description(flows)
    }

    /// How many flows there are.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }
}

/// By flow that isn't the same, the first difference.
pub(crate) fn differences(linux: &Description, shunt: &Description) -> Vec<(String, String)> {
    let flows: BTreeSet<&String> = linux.0.keys().chain(shunt.0.keys()).collect();
    flows
        .into_iter()
        .filter_map(|flow| {
            match (linux.0.get(flow), shunt.0.get(flow)) {
                (Some(linux), Some(shunt)) => first_difference(linux, shunt),
                (Some(lines), None) => {
                    Some(format!("\n  Linux: {}\n  Shunt: no such flow", lines[0]))
                }
                (None, lines) => Some(format!("\n  Linux: no such flow\n  Shunt: {}", lines?[0])),
            }
            .map(|difference| (flow.clone(), difference))
        })
        .collect()
}

fn first_difference(linux: &[String], shunt: &[String]) -> Option<String> {
    let line = |lines: &[String], at| lines.get(at).cloned().unwrap_or("nothing more".to_owned());
    (0..linux.len().max(shunt.len()))
        .map(|at| (line(linux, at), line(shunt, at)))
        .find(|(linux, shunt)| linux != shunt)
        .map(|(linux, shunt)| format!("\n  Linux: {linux}\n  Shunt: {shunt}"))
}

/// The first sequence number of every TCP flow whose SYN was captured.
fn initial_sequences(capture: &Capture) -> HashMap<(SocketAddrV4, SocketAddrV4), u32> {
    let of = |datagram: &Datagram| {
        let payload = datagram.payload();
        let flow = endpoints(datagram, &payload)?;
        let segment = TcpSlice::from_slice(&payload).ok()?;
        (datagram.header.protocol == IpNumber::TCP && segment.syn())
            .then(|| (flow, segment.sequence_number()))
    };
    capture.datagrams.iter().filter_map(of).collect()
}

pub(crate) fn addresses(datagram: &Datagram) -> (Ipv4Addr, Ipv4Addr) {
    (datagram.header.source.into(), datagram.header.destination.into())
}

fn endpoints(datagram: &Datagram, payload: &[u8]) -> Option<(SocketAddrV4, SocketAddrV4)> {
    let (src, dst) = addresses(datagram);
    let &[a, b, c, d] = payload.first_chunk()?;
    let (src_port, dst_port) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
    Some((SocketAddrV4::new(src, src_port), SocketAddrV4::new(dst, dst_port)))
}

/// Whether the director itself sent it, and it is ICMP.
pub(crate) fn is_directors_icmp(datagram: &Datagram) -> bool {
    let header = &datagram.header;
    header.protocol == IpNumber::ICMP
        && DIRECTOR.contains(&header.source.into())
        && header.time_to_live == INITIAL_TTL
}

/// The fields of the IPv4 header that have to be the same, and what is wrong with the datagram.
fn header(datagram: &Datagram) -> String {
    let header = &datagram.header;
    let tos = header.dscp.value() << 2 | header.ecn.value();
    let mut text = format!("ttl {} tos {tos:#04x}", header.time_to_live);
    if header.dont_fragment && !is_directors_icmp(datagram) {
        text += " DF";
    }
    if !header.options.is_empty() {
        text += &format!(" options {:02x?}", header.options.as_slice());
    }
    if !datagram.cuts().is_empty() {
        text += &format!(" in fragments, cut at {:?}", datagram.cuts());
    }
    for fault in &datagram.faults {
        text += &format!(" WRONG: {fault}");
    }
    text
}

/// Data, in a line: how much, and its beginning; a hash stands for the rest.
pub(crate) fn data(bytes: &[u8]) -> String {
    use std::hash::{DefaultHasher, Hash, Hasher};

    const SHOWN: usize = 64;
    let mut text =
        format!("{} bytes \"{}\"", bytes.len(), bytes[..bytes.len().min(SHOWN)].escape_ascii());
    if bytes.len() > SHOWN {
        let mut hasher = DefaultHasher::new();
        bytes.hash(&mut hasher);
        text += &format!("... hash {:016x}", hasher.finish());
    }
    text
}
