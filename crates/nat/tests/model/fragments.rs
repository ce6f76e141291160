//! Fragments follow the first one of their packet, whatever comes before it waits (RFC 791, 1858,
//! 3128, 5722).

use std::net::Ipv4Addr;

use shunt_nat::{Direction, fragments::FragmentError};

use crate::{
    flow::Flow,
    wire::{ICMP, Ip, TCP, UDP},
};

/// How long a packet is remembered after its first fragment to come, in milliseconds.
const TIMEOUT: u64 = 30_000;

/// How long a fragment waits for the first one of its packet, in milliseconds.
const PATIENCE: u64 = 1_000;

#[derive(Clone, Debug, Default)]
pub(crate) struct Fragments {
    /// Packets of which fragments came, and which are not complete.
    packets: Vec<Packet>,
    /// Fragments that came before the first one of their packet, and when.
    waiting: Vec<(PacketId, u64, Vec<u8>)>,
}

#[derive(Clone, Debug)]
struct Packet {
    id: PacketId,
    since: u64,
    fate: Fate,
    /// Bytes that came.
    bytes: Vec<bool>,
    /// Bytes in all, when the last fragment has come.
    length: Option<usize>,
}

/// What all fragments of a packet share.
pub(crate) type PacketId = (Ipv4Addr, Ipv4Addr, u16, u8);

pub(crate) fn packet_id(ip: Ip<'_>) -> PacketId {
    (ip.src(), ip.dst(), ip.id(), ip.protocol())
}

/// What became of a packet's first fragment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It has not come.
    Unknown,
    /// It left as this; and for which service and server it counted, as going which way.
    Translated(Flow, Counted),
    Punted,
    Refused,
    /// Fragments overlapped: nothing of the packet passes any more.
    Overlapped,
}

/// A service with one of its servers, and a direction.
pub(crate) type Counted = Option<((usize, usize), Direction)>;

impl Fragments {
    /// A service is no more, so it counts no more.
    pub(crate) fn forget_server(&mut self, gone: usize) {
        for packet in &mut self.packets {
            if let Fate::Translated(_, counted) = &mut packet.fate {
                *counted = counted.filter(|((_, server), _)| *server != gone);
            }
        }
    }

    /// How many packets are not complete.
    pub(crate) fn len(&self) -> usize {
        self.packets.len()
    }

    pub(crate) fn forget_old(&mut self, now: u64) {
        self.packets.retain(|packet| now - packet.since < TIMEOUT);
    }

    /// A fragment came: what became of the first one of its packet?
    pub(crate) fn admit(&mut self, ip: Ip<'_>, now: u64) -> Result<Fate, FragmentError> {
        let (start, end) = range(ip)?;
        self.forget_old(now);
        let known = self.packets.iter().position(|packet| packet.id == packet_id(ip));
        let place = known.unwrap_or_else(|| {
            self.packets.push(Packet::new(packet_id(ip), now));
            self.packets.len() - 1
        });
        let packet = &mut self.packets[place];
        let result = packet.add(start, end, !ip.more_fragments());
        match result {
            Ok(Fate::Unknown) if start > 0 => {
                self.waiting.push((packet_id(ip), now, ip.0.to_vec()));
            }
            Err(FragmentError::Overlap) => {
                packet.fate = Fate::Overlapped;
                self.waiting.retain(|(packet, ..)| *packet != packet_id(ip));
            }
            _ => {}
        }
        self.forget_complete();
        result
    }

    /// Says what became of the first fragment. Returns those that waited for it.
    pub(crate) fn decide(&mut self, first: Ip<'_>, fate: Fate, now: u64) -> Vec<Vec<u8>> {
        let packet = self.packets.iter_mut().find(|packet| packet.id == packet_id(first));
        packet.expect("a packet that was admitted").fate = fate;
        self.forget_complete();
        self.waiting.retain(|(_, since, _)| now - since < PATIENCE);
        let waited = self.waiting.extract_if(.., |(packet, ..)| *packet == packet_id(first));
        waited.map(|(.., fragment)| fragment).collect()
    }

    fn forget_complete(&mut self) {
        self.packets.retain(|packet| !packet.is_complete());
    }
}

impl Packet {
    fn new(id: PacketId, since: u64) -> Packet {
        Packet { id, since, fate: Fate::Unknown, bytes: Vec::new(), length: None }
    }

    fn add(&mut self, start: usize, end: usize, is_last: bool) -> Result<Fate, FragmentError> {
        let other_end = self.length.is_some_and(|length| end > length || is_last && end != length);
        if self.fate == Fate::Overlapped || other_end || is_last && end < self.bytes.len() {
            return Err(FragmentError::Overlap);
        }
        self.bytes.resize(self.bytes.len().max(end), false);
        let known = self.bytes[start..end].iter().filter(|came| **came).count();
        if known == end - start {
            return Err(FragmentError::Duplicate);
        }
        if known > 0 {
            return Err(FragmentError::Overlap);
        }
        self.bytes[start..end].fill(true);
        self.length = self.length.or(is_last.then_some(end));
        Ok(self.fate)
    }

    fn is_complete(&self) -> bool {
        let is_decided = !matches!(self.fate, Fate::Unknown | Fate::Overlapped);
        is_decided && self.length.is_some() && self.bytes.iter().all(|came| *came)
    }
}

/// Which bytes of its packet a fragment has: whole units of 8, within the longest packet, and none
/// or all of the transport header.
fn range(ip: Ip<'_>) -> Result<(usize, usize), FragmentError> {
    let (start, length) = (ip.fragment_offset(), ip.payload().len());
    let end = start + length;
    let transport_header = match ip.protocol() {
        TCP => 20,
        UDP | ICMP => 8,
        _ => 0,
    };
    let splits_header = |at: usize| 0 < at && at < transport_header;
    if length == 0 || (ip.more_fragments() && length % 8 != 0) {
        Err(FragmentError::Length)
    } else if ip.header_len() + end > 65_535 {
        Err(FragmentError::TooLong)
    } else if splits_header(start) || splits_header(end) {
        Err(FragmentError::Tiny)
    } else {
        Ok((start, end))
    }
}
