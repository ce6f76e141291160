//! One direction of a TCP connection: its first segments, its bytes, its end.

use std::collections::{BTreeMap, BTreeSet};

use etherparse::{TcpOptionElement, TcpSlice};

use crate::description::data;

pub(crate) struct Stream {
    /// The initial sequence numbers of both directions, this one first; 0 where there was no SYN.
    start: u32,
    peer_start: u32,
    headers: BTreeSet<String>,
    openings: BTreeSet<String>,
    /// By sequence number.
    parts: BTreeMap<u32, Vec<u8>>,
    endings: BTreeSet<String>,
    acknowledged: Option<u32>,
}

impl Stream {
    pub(crate) fn new(start: u32, peer_start: u32) -> Stream {
        Stream {
            start,
            peer_start,
            headers: BTreeSet::new(),
            openings: BTreeSet::new(),
            parts: BTreeMap::new(),
            endings: BTreeSet::new(),
            acknowledged: None,
        }
    }

    pub(crate) fn add(&mut self, header: &str, payload: &[u8]) {
        let segment = match TcpSlice::from_slice(payload) {
            Ok(segment) => segment,
            Err(error) => {
                self.headers.insert(format!("{header} WRONG: {error}"));
                return;
            }
        };
        let odd = [(segment.urg(), " URG"), (segment.ece(), " ECE"), (segment.cwr(), " CWR")];
        let odd: String = odd.iter().filter(|(is_set, _)| *is_set).map(|(_, name)| *name).collect();
        self.headers.insert(format!("{header}{odd}"));

        let sequence = segment.sequence_number().wrapping_sub(self.start);
        let acknowledgment = segment.acknowledgment_number().wrapping_sub(self.peer_start);
        let ack = if segment.ack() { " ACK" } else { "" };
        if segment.syn() {
            let (window, options) = (segment.window_size(), options(&segment));
            self.openings.insert(format!("SYN{ack}, window {window}, options {options:?}"));
        }
        if !segment.payload().is_empty() {
            let part = self.parts.entry(sequence).or_default();
            if part.len() < segment.payload().len() {
                *part = segment.payload().to_vec();
            }
        }
        if segment.fin() {
            let end = sequence.wrapping_add(segment.payload().len() as u32);
            self.endings.insert(format!("FIN at {end}"));
        }
        if segment.rst() {
            self.endings.insert(format!("RST{ack} at {sequence}"));
        }
        if segment.ack() {
            self.acknowledged = self.acknowledged.max(Some(acknowledgment));
        }
    }

    pub(crate) fn describe(self) -> Vec<String> {
        let data = format!("data: {}", data(&without_date(self.bytes())));
        let acknowledged = self.acknowledged.map(|number| format!("acknowledges up to {number}"));
        self.headers
            .into_iter()
            .map(|header| format!("segments with {header}"))
            .chain(self.openings)
            .chain([data])
            .chain(self.endings)
            .chain(acknowledged)
            .collect()
    }

    /// The bytes of the stream, repetitions left out; a gap ends them.
    fn bytes(&self) -> Vec<u8> {
        let first = self.parts.keys().next().copied().unwrap_or_default();
        let mut bytes = Vec::new();
        for (sequence, part) in &self.parts {
            let known = bytes.len().checked_sub((sequence - first) as usize);
            bytes.extend_from_slice(known.and_then(|known| part.get(known..)).unwrap_or_default());
        }
        bytes
    }
}

/// Options in their order; of timestamps, only that they are there.
fn options(segment: &TcpSlice) -> Vec<String> {
    segment
        .options_iterator()
        .map(|option| match option {
            Ok(TcpOptionElement::Timestamp(..)) => "Timestamp".to_owned(),
            Ok(option) => format!("{option:?}"),
            Err(error) => error.to_string(),
        })
        .collect()
}

/// Blots out the time in an HTTP answer: it has always the same length.
fn without_date(mut bytes: Vec<u8>) -> Vec<u8> {
    const FIELD: &[u8] = b"Date: ";
    if let Some(at) = bytes.windows(FIELD.len()).position(|window| window == FIELD) {
        let value = bytes[at + FIELD.len()..].iter_mut();
        value.take_while(|byte| **byte != b'\r').for_each(|byte| *byte = b'*');
    }
    bytes
}
