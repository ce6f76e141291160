//! What was captured: IPv4 datagrams, put together from their fragments.

use std::collections::BTreeMap;

use etherparse::{IpFragOffset, Ipv4Header};
use shunt_testkit::verify_checksums;

const ETHERNET_LEN: usize = 14;

/// The datagrams that passed, in the order in which their first bytes did.
pub(crate) struct Capture {
    pub(crate) datagrams: Vec<Datagram>,
}

/// An IPv4 datagram, whole or in fragments.
pub(crate) struct Datagram {
    /// The header of the fragment that came first.
    pub(crate) header: Ipv4Header,
    /// The payloads of its fragments, by offset; a whole one has a single part.
    parts: BTreeMap<usize, Vec<u8>>,
    /// The length of the payload, once the last fragment has come.
    len: Option<usize>,
    /// What is wrong with it.
    pub(crate) faults: Vec<String>,
}

impl Capture {
    /// Reads Ethernet frames; those without IPv4 are left out.
    pub(crate) fn of(frames: &[Vec<u8>]) -> Capture {
        let mut datagrams: Vec<Datagram> = Vec::new();
        for frame in frames {
            let Ok((header, rest)) = Ipv4Header::from_slice(&frame[ETHERNET_LEN..]) else {
                continue;
            };
            let payload = &rest[..usize::from(header.total_len) - header.header_len()];
            let fault = verify_checksums(frame).err();
            let known = datagrams.iter_mut().rfind(|datagram| datagram.lacks(&header));
            let datagram = match known {
                Some(datagram) => datagram,
                None => {
                    datagrams.push(Datagram::new(&header));
                    datagrams.last_mut().expect("just pushed")
                }
            };
            datagram.add(&header, payload);
            datagram.faults.extend(fault);
        }
        datagrams.iter_mut().for_each(Datagram::check);
        Capture { datagrams }
    }
}

impl Datagram {
    fn new(header: &Ipv4Header) -> Datagram {
        Datagram { header: header.clone(), parts: BTreeMap::new(), len: None, faults: Vec::new() }
    }

    /// Whether a fragment with this header belongs to this datagram, and is missing.
    fn lacks(&self, header: &Ipv4Header) -> bool {
        let own = &self.header;
        header.is_fragmenting_payload()
            && own.is_fragmenting_payload()
            && (own.source, own.destination, own.protocol, own.identification)
                == (header.source, header.destination, header.protocol, header.identification)
            && !self.is_complete()
    }

    fn add(&mut self, header: &Ipv4Header, payload: &[u8]) {
        let at = usize::from(header.fragment_offset.value()) * 8;
        self.parts.insert(at, payload.to_vec());
        if !header.more_fragments {
            self.len = Some(at + payload.len());
        }
    }

    fn is_complete(&self) -> bool {
        let is_contiguous = self
            .parts
            .iter()
            .try_fold(0, |end, (at, part)| (*at == end).then_some(end + part.len()));
        is_contiguous.is_some() && is_contiguous == self.len
    }

    /// Looks at the checksum of a datagram in fragments.
    fn check(&mut self) {
        if !self.is_complete() {
            self.faults.push("fragments missing".to_owned());
        } else if self.parts.len() > 1 {
            let mut header = self.header.clone();
            header.more_fragments = false;
            header.fragment_offset = IpFragOffset::ZERO;
            let payload = self.payload();
            header.set_payload_len(payload.len()).expect("a datagram that fits");
            header.header_checksum = header.calc_header_checksum();
            let ethernet = shunt_testkit::ethernet([0; 6], [0; 6], 0x0800, &header.to_bytes());
            self.faults.extend(verify_checksums(&[ethernet, payload].concat()).err());
        }
    }

    /// Its data.
    pub(crate) fn payload(&self) -> Vec<u8> {
        self.parts.values().flatten().copied().collect()
    }

    /// Where its fragments end, but the last.
    pub(crate) fn cuts(&self) -> Vec<usize> {
        self.parts.keys().skip(1).copied().collect()
    }

    /// Header and data, as in a datagram that was not cut.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        [&self.header.to_bytes()[..], &self.payload()].concat()
    }
}
