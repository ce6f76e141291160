//! What can happen to a director, in a form that a fuzzer can change piece by piece: a byte that
//! says which step it is, then the step's fields in their order. Numbers of places wrap around.

use std::net::SocketAddrV4;

use arbitrary::{Arbitrary, Result, Unstructured};

use crate::{
    endpoints::ENDPOINTS,
    packet::{ICMP, TCP, UDP, cut, ipv4, mend, turned_round},
};

/// Steps of an input beyond this many are left out, so that no input takes long.
const MOST_STEPS: usize = 200;

/// Steps from the start of a director's life.
#[derive(Clone, Debug)]
pub struct Steps(pub Vec<Step>);

/// One step.
#[derive(Clone, Debug)]
pub enum Step {
    /// A packet between two of the endpoints around the director.
    Built(Built),
    /// An answer to a packet that left.
    Answer(Answer),
    /// An ICMP error about a packet that left.
    Error(Error),
    /// A packet that arrived before, perhaps damaged.
    Replay(Replay),
    /// Any bytes.
    Raw(Raw),
    /// Time passes, and silent connections end.
    Wait(Wait),
    /// The next packets come in one burst.
    Burst(Burst),
    /// The rules or the routes change.
    Change(Change),
}

/// See [`Step::Built`].
#[derive(Arbitrary, Clone, Copy, Debug, Default)]
pub struct Built {
    /// Places of its endpoints.
    pub src: u8,
    /// Where it goes.
    pub dst: u8,
    /// TCP, UDP, UDP without a checksum, echo request, echo reply, another protocol; whether it
    /// arrives on the wrong side.
    pub kind: u8,
    /// TCP's control bits; the two that are ECN's add an MSS option.
    pub flags: u8,
    /// Sequence number, in units of 64 KiB; also the TTL's distance from 64.
    pub sequence: u8,
    /// Bytes of data.
    pub length: u8,
    /// Which part of it arrives: 0 is all, else offset and length in units of 16 bytes.
    pub part: u8,
    /// What its fragments have in common.
    pub identification: u8,
}

/// See [`Step::Answer`].
#[derive(Arbitrary, Clone, Copy, Debug, Default)]
pub struct Answer {
    /// To which of the last packets: 0 is the last one.
    pub to: u8,
    /// TCP's control bits.
    pub flags: u8,
    /// How far the sequence number is off, in units of 64 KiB.
    pub off: u8,
}

/// See [`Step::Error`].
#[derive(Arbitrary, Clone, Copy, Debug, Default)]
pub struct Error {
    /// About which of the last packets.
    pub about: u8,
    /// The ICMP type; code 4 is fragmentation needed.
    pub kind: u8,
    /// Who reports it: 0 is the packet's receiver, else an endpoint's host.
    pub from: u8,
    /// Bytes of the quote.
    pub quoted: u8,
}

/// See [`Step::Replay`].
#[derive(Arbitrary, Clone, Copy, Debug, Default)]
pub struct Replay {
    /// Which of the last packets.
    pub which: u8,
    /// Where it is changed.
    pub at: u8,
    /// By what; 0 leaves it as it was.
    pub change: u8,
    /// Whether checksums are mended, and whether it arrives on the other side.
    pub how: u8,
}

/// See [`Step::Raw`].
#[derive(Clone, Debug, Default)]
pub struct Raw {
    /// Whether checksums are mended, and where it arrives.
    pub how: u8,
    /// An IPv4 packet, if it is one; up to 255 bytes.
    pub bytes: Vec<u8>,
}

/// See [`Step::Wait`].
#[derive(Arbitrary, Clone, Copy, Debug, Default)]
pub struct Wait {
    /// How many units of time.
    pub count: u8,
    /// 10 ms, 1 s, 10 s or a minute.
    pub unit: u8,
    /// How many records are looked at for silent ones; 255 is all.
    pub budget: u8,
}

/// See [`Step::Burst`].
#[derive(Arbitrary, Clone, Copy, Debug, Default)]
pub struct Burst {
    /// How many.
    pub count: u8,
}

/// See [`Step::Change`].
#[derive(Arbitrary, Clone, Copy, Debug, Default)]
pub struct Change {
    /// The place of the server, service or SNAT rule.
    pub place: u8,
    /// 0 to 3: the server's weight; 4 to 7: the most weight; beyond, whether the server, the service
    /// or the SNAT rule is there at all, the other way than before; 15: the routes.
    pub to: u8,
}

impl<'a> Arbitrary<'a> for Steps {
    fn arbitrary(u: &mut Unstructured<'a>) -> Result<Steps> {
        let mut steps = Vec::new();
        while !u.is_empty() && steps.len() < MOST_STEPS {
            steps.push(u.arbitrary()?);
        }
        Ok(Steps(steps))
    }
}

impl<'a> Arbitrary<'a> for Step {
    fn arbitrary(u: &mut Unstructured<'a>) -> Result<Step> {
        Ok(match u8::arbitrary(u)? % 16 {
            0..6 => Step::Built(u.arbitrary()?),
            6..10 => Step::Answer(u.arbitrary()?),
            10 => Step::Error(u.arbitrary()?),
            11 => Step::Replay(u.arbitrary()?),
            12 => Step::Raw(u.arbitrary()?),
            13 => Step::Wait(u.arbitrary()?),
            14 => Step::Burst(u.arbitrary()?),
            _ => Step::Change(u.arbitrary()?),
        })
    }
}

impl<'a> Arbitrary<'a> for Raw {
    fn arbitrary(u: &mut Unstructured<'a>) -> Result<Raw> {
        let (how, length) = (u8::arbitrary(u)?, u8::arbitrary(u)?);
        let bytes = u.bytes(usize::from(length).min(u.len()))?.to_vec();
        Ok(Raw { how, bytes })
    }
}

impl Steps {
    /// The bytes that [`Arbitrary`] makes these steps of.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        self.0.iter().flat_map(Step::to_bytes).collect()
    }
}

impl Step {
    fn to_bytes(&self) -> Vec<u8> {
        match self {
            Step::Built(built) => {
                let Built { src, dst, kind, flags, sequence, length, part, identification } =
                    *built;
                vec![0, src, dst, kind, flags, sequence, length, part, identification]
            }
            Step::Answer(Answer { to, flags, off }) => vec![6, *to, *flags, *off],
            Step::Error(Error { about, kind, from, quoted }) => {
                vec![10, *about, *kind, *from, *quoted]
            }
            Step::Replay(Replay { which, at, change, how }) => {
                vec![11, *which, *at, *change, *how]
            }
            Step::Raw(Raw { how, bytes }) => {
                let length = bytes.len().min(255);
                [&[12, *how, length as u8], &bytes[..length]].concat()
            }
            Step::Wait(Wait { count, unit, budget }) => vec![13, *count, *unit, *budget],
            Step::Burst(Burst { count }) => vec![14, *count],
            Step::Change(Change { place, to }) => vec![15, *place, *to],
        }
    }
}

/// The item at a place that wraps around.
fn pick<T: Copy>(items: &[T], place: u8) -> T {
    items[usize::from(place) % items.len()]
}

impl Built {
    /// The packet, and whether it arrives where its source doesn't live.
    pub(crate) fn packet(&self) -> (Vec<u8>, bool) {
        let (src, dst) = (pick(&ENDPOINTS, self.src), pick(&ENDPOINTS, self.dst));
        let data = vec![self.length; usize::from(self.length)];
        let ports = [src.port().to_be_bytes(), dst.port().to_be_bytes()].concat();
        let echo = |kind, asker: SocketAddrV4| {
            [&[kind, 0, 0, 0], &asker.port().to_be_bytes()[..], &[0, 1], &data].concat()
        };
        let datagram = |checksum: u8| {
            let length = (8 + data.len() as u16).to_be_bytes();
            [&ports, &length[..], &[0, checksum], &data].concat()
        };
        let (protocol, payload) = match self.kind % 8 {
            0..3 => (TCP, self.segment(&ports, &data)),
            3 => (UDP, datagram(1)),
            4 => (UDP, datagram(0)),
            5 => (ICMP, echo(8, src)),
            6 => (ICMP, echo(0, dst)),
            _ => (47, data.clone()),
        };
        let ttl = 64u8.wrapping_sub(if self.kind & 64 == 0 { 0 } else { self.sequence });
        let id = (u16::from(self.identification % 4), ttl);
        let whole = ipv4(src, dst, protocol, id, &payload);
        let (offset, length) = (usize::from(self.part >> 4) * 16, usize::from(self.part & 15) * 16);
        let packet = match self.part {
            0 => whole,
            _ => cut(&whole, offset..if length == 0 { usize::MAX } else { offset + length }),
        };
        (packet, self.kind & 128 != 0)
    }

    fn segment(&self, ports: &[u8], data: &[u8]) -> Vec<u8> {
        let sequence = (u32::from(self.sequence) << 16).to_be_bytes();
        let mss: &[u8] = if self.flags & 0xc0 == 0 { &[] } else { &[1, 1, 2, 4, 5, 0xb4, 1, 0] };
        let data_offset = 5 + mss.len() as u8 / 4;
        let control = [data_offset << 4, self.flags & 0x3f, 0xfa, 0xf0, 0, 0, 0, 0];
        [ports, &sequence, &sequence, &control, mss, data].concat()
    }
}

impl Answer {
    pub(crate) fn packet(&self, answered: &[u8]) -> Vec<u8> {
        let mut packet = turned_round(answered);
        if packet.get(9) == Some(&TCP)
            && let Some(segment) = packet.get_mut(20..)
            && segment.len() >= 20
        {
            segment[4] ^= self.off >> 4;
            segment[5] ^= self.off << 4;
            segment[13] = self.flags;
        }
        mend(&mut packet);
        packet
    }
}

impl Error {
    pub(crate) fn packet(&self, about: &[u8]) -> Option<Vec<u8>> {
        const KINDS: [[u8; 2]; 8] =
            [[3, 0], [3, 1], [3, 3], [3, 4], [11, 0], [12, 0], [4, 0], [5, 1]];
        let address = |at: usize| <[u8; 4]>::try_from(about.get(at..at + 4)?).ok();
        let (src, dst) = (address(12)?, address(16)?);
        let from = match self.from {
            0 => SocketAddrV4::new(dst.into(), 0),
            place => pick(&ENDPOINTS, place),
        };
        let quote = &about[..usize::from(self.quoted).min(about.len())];
        let [kind, code] = pick(&KINDS, self.kind);
        let message = [&[kind, code, 0, 0, 0, 0, 5, 0], quote].concat();
        Some(ipv4(from, SocketAddrV4::new(src.into(), 0), ICMP, (0, 60), &message))
    }
}

impl Replay {
    pub(crate) fn packet(&self, original: &[u8]) -> Vec<u8> {
        let mut packet = original.to_vec();
        if let Some(byte) = packet.get_mut(usize::from(self.at)) {
            *byte ^= self.change;
        }
        if self.how & 1 != 0 {
            mend(&mut packet);
        }
        packet
    }
}

impl Raw {
    pub(crate) fn packet(&self) -> Vec<u8> {
        let mut packet = self.bytes.clone();
        if self.how & 1 != 0 {
            mend(&mut packet);
        }
        packet
    }
}
