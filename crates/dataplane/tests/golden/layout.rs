//! Who plays a case: one worker, or several, with queues on their ports that frames come by in
//! different ways. Whatever the layout, the same must leave.

use shunt_dataplane::{Owners, WorkerId, rss_key};
use shunt_dpdk::{DEFAULT_KEY_LEN, softrss};
use shunt_nat::Side;

use crate::network::Frame;

const SIDES: [Side; 2] = [Side::Outside, Side::Inside];

/// Entries of a card's redirection table.
const ENTRIES: usize = 128;

/// Workers, and the queues of each port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct WorkerLayout {
    pub(crate) workers: usize,
    pub(crate) queues: usize,
    rss: Rss,
}

/// How a card spreads frames over its queues.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rss {
    /// As the director would tell it to.
    Configured,
    /// Under a key of its own, by a table of its own.
    DriverDefault,
}

impl WorkerLayout {
    pub(crate) const ALONE: WorkerLayout =
        WorkerLayout { workers: 1, queues: 1, rss: Rss::Configured };

    /// One queue that everything comes by, as many queues as workers with RSS, and queues that are
    /// both too few and wrong.
    pub(crate) const SEVERAL: [WorkerLayout; 5] = [
        WorkerLayout { workers: 2, queues: 1, rss: Rss::Configured },
        WorkerLayout { workers: 2, queues: 2, rss: Rss::Configured },
        WorkerLayout { workers: 4, queues: 1, rss: Rss::Configured },
        WorkerLayout { workers: 4, queues: 4, rss: Rss::Configured },
        WorkerLayout { workers: 4, queues: 3, rss: Rss::DriverDefault },
    ];

    /// Everybody.
    pub(crate) fn all() -> impl Iterator<Item = WorkerLayout> {
        std::iter::once(WorkerLayout::ALONE).chain(WorkerLayout::SEVERAL)
    }

    /// Who owns what.
    pub(crate) fn owners(self) -> Owners {
        Owners::new(ENTRIES, self.workers)
    }

    /// Whether frames come to their owners, as far as a card can tell.
    pub(crate) fn is_well_served(self) -> bool {
        self.queues == self.workers && self.rss == Rss::Configured
    }

    /// A card that spreads frames for this layout.
    pub(crate) fn card(self) -> Card {
        let owners = self.owners();
        match self.rss {
            Rss::Configured => Card {
                keys: SIDES.map(|side| rss_key(side, owners.index_bits(), DEFAULT_KEY_LEN)),
                table: owners
                    .redirection(ENTRIES, |WorkerId(owner)| u16::from(owner) % self.queues as u16),
            },
            Rss::DriverDefault => Card {
                keys: SIDES
                    .map(|_| (0..DEFAULT_KEY_LEN as u8).map(|n| n.wrapping_mul(109)).collect()),
                table: (0..ENTRIES as u16).map(|entry| entry % self.queues as u16).collect(),
            },
        }
    }

    /// The worker that has a queue on one side: those of the inside come behind those of the outside.
    pub(crate) fn worker_at(self, side: Side, queue: usize) -> usize {
        let first = match side {
            Side::Outside => 0,
            Side::Inside => self.queues,
        };
        (first + queue) % self.workers
    }
}

/// What spreads frames over queues.
pub(crate) struct Card {
    keys: [Vec<u8>; 2],
    table: Vec<u16>,
}

impl Card {
    /// The queue that a frame comes by.
    pub(crate) fn queue(&self, frame: &Frame) -> usize {
        let hash = |input: Vec<u32>| softrss(&input, &self.keys[frame.side as usize]) as usize;
        hashed(&frame.bytes).map_or(0, |input| self.table[hash(input) % ENTRIES].into())
    }
}

/// What a card hashes of a frame: addresses, and the ports of whole TCP segments and UDP datagrams.
fn hashed(frame: &[u8]) -> Option<Vec<u32>> {
    let packet = frame.get(12..)?.strip_prefix(&[8, 0])?;
    let word =
        |at: usize| packet.get(at..at + 4).map(|word| u32::from_be_bytes(word.try_into().unwrap()));
    let mut input = vec![word(12)?, word(16)?];
    if has_ports(packet) {
        input.extend(word(usize::from(packet[0] & 15) * 4));
    }
    Some(input)
}

/// Whether an IPv4 packet has ports where a card looks for them.
fn has_ports(packet: &[u8]) -> bool {
    !is_fragment(packet) && matches!(packet[9], 6 | 17)
}

fn is_fragment(packet: &[u8]) -> bool {
    packet[6] & 0x3f != 0 || packet[7] != 0
}

/// Whether a card can tell the owner of a frame: not of fragments, and not of ICMP errors.
pub(crate) fn shows_owner(frame: &Frame) -> bool {
    hashed(&frame.bytes).is_none_or(|_| {
        let packet = &frame.bytes[14..];
        !is_fragment(packet) && (packet[9] != 1 || matches!(packet.get(20), Some(0 | 8)))
    })
}

/// What the frames of one flow have in common, so that their order counts: for IPv4 what a card
/// hashes, for all else everything.
pub(crate) fn flow(frame: &[u8]) -> Vec<u8> {
    match hashed(frame) {
        Some(input) => input.iter().flat_map(|word| word.to_be_bytes()).collect(),
        None => frame.to_vec(),
    }
}
