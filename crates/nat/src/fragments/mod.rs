//! IPv4 fragments through NAT: virtual reassembly.
//!
//! Only the first fragment of a packet has a transport header (RFC 791, section 3.2), yet all of
//! them must be translated alike. Nothing is put together here: a [`FragmentTracker`] remembers
//! what became of each packet's first fragment, so that the later ones follow it as they come, and
//! a [`HoldQueue`] keeps those that overtook it until it is there.
//!
//! # The path of a fragment
//!
//! 1. [`FragmentRange::of`] says which bytes it carries, and refuses what no honest sender makes.
//! 2. [`FragmentTracker::admit`] notes them:
//!    - `Ok(Some(decision))`: do with it as with the first fragment.
//!    - `Ok(None)` for the first fragment: decide by its transport header, tell
//!      [`FragmentTracker::decide`], and treat alike all that [`HoldQueue::pop`] has of this
//!      packet. Those were admitted when they came, and must not be again.
//!    - `Ok(None)` for a later one: [`HoldQueue::hold`] it.
//!    - `Err`: drop it. After [`FragmentError::Overlap`], drop what is held of the packet, too.
//!
//! # What attackers do with fragments
//!
//! A director decides by the first fragment, while the receiver acts on what it puts together, so
//! both have to see the same transport header. Tiny fragments split it and overlapping ones
//! overwrite it (RFC 1858, RFC 3128): neither passes. Which of two overlapping fragments wins
//! depends on the receiver; so, as RFC 5722 has it for IPv6, a packet with an overlap is given up
//! as a whole. A fragment all of whose bytes came before is a duplicate, which networks do make: it
//! alone is dropped (RFC 8200, section 4.5), because bytes that differ from the first copy's would
//! go unnoticed.
//!
//! Incomplete packets fill tables. Both structures allocate all they need at the start; when full,
//! the newcomer takes the place of the oldest, because honest fragments follow each other within
//! milliseconds: to keep them out, a flood would have to turn over a whole table in that time. Such
//! a flood can also make the tracker forget a packet and so get an overlap past it; but not over a
//! transport header, since no fragment that touches one passes unless it has it all.

mod coverage;
mod fifo;
mod hold;
mod tracker;

use ahash::RandomState;
use hashbrown::HashMap;
pub use hold::{HoldLimits, HoldQueue};
use shunt_packet::{
    icmp,
    ipv4::{Ipv4Header, Ipv4Packet, protocol},
    tcp, udp,
};
pub use tracker::{FragmentTracker, TrackerCounters, TrackerLimits};

/// The payload bytes of the longest packet (RFC 791: 65,535 bytes with a header of 20).
const MAX_PAYLOAD: usize = MAX_PACKET - shunt_packet::ipv4::HEADER_LEN;
const MAX_PACKET: usize = u16::MAX as usize;

/// Offsets count in units of this many bytes.
const BLOCK: usize = 8;

/// What the fragments of one packet have in common (RFC 791, section 2.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FragmentKey {
    src: u32,
    dst: u32,
    identification: u16,
    protocol: u8,
}

impl FragmentKey {
    /// The key of the packet that a fragment with this header belongs to.
    #[must_use]
    pub fn of(header: &Ipv4Header) -> FragmentKey {
        FragmentKey {
            src: header.src().to_bits(),
            dst: header.dst().to_bits(),
            identification: header.identification(),
            protocol: header.protocol(),
        }
    }
}

/// Why a fragment is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FragmentError {
    /// No payload, or, with more fragments to follow, one that is no multiple of 8 bytes (RFC 791,
    /// section 3.2).
    Length,
    /// It ends beyond the 65,535 bytes of the longest packet ("ping of death").
    TooLong,
    /// It begins or ends within the transport header (RFC 1858, RFC 3128).
    Tiny,
    /// All of its bytes came before (RFC 8200, section 4.5).
    Duplicate,
    /// It, or an earlier one of the same packet, overlaps others or contradicts them about where
    /// the packet ends (RFC 5722).
    Overlap,
}

/// The bytes of a packet's payload that one fragment carries.
///
/// Never empty, never beyond the longest packet; starts on a multiple of 8 bytes, and, unless it is
/// the last, ends on one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FragmentRange {
    start: u16,
    /// Exclusive.
    end: u16,
    is_last: bool,
}

impl FragmentRange {
    /// The range of a fragment. A whole packet counts as one that is both first and last.
    ///
    /// # Errors
    /// [`Length`](FragmentError::Length), [`TooLong`](FragmentError::TooLong) or
    /// [`Tiny`](FragmentError::Tiny): no such fragment should be passed on.
    pub fn of(packet: &Ipv4Packet<'_>) -> Result<FragmentRange, FragmentError> {
        let (start, is_last) = (packet.header.fragment_offset(), !packet.header.more_fragments());
        let len = packet.payload.len();
        let end = start + len;
        if len == 0 || !is_last && !len.is_multiple_of(BLOCK) {
            return Err(FragmentError::Length);
        }
        if packet.header.header_len() + end > MAX_PACKET {
            return Err(FragmentError::TooLong);
        }
        let transport_header = 1..transport_header_len(packet.header.protocol());
        if transport_header.contains(&start) || transport_header.contains(&end) {
            return Err(FragmentError::Tiny);
        }
        Ok(FragmentRange { start: start as u16, end: end as u16, is_last })
    }

    /// Whether it is the first fragment, the one with the transport header.
    #[must_use]
    pub fn is_first(self) -> bool {
        self.start == 0
    }
}

/// Bytes that a first fragment must have: the transport header, without TCP's options.
fn transport_header_len(protocol: u8) -> usize {
    match protocol {
        protocol::TCP => tcp::HEADER_LEN,
        protocol::UDP => udp::HEADER_LEN,
        protocol::ICMP => icmp::HEADER_LEN,
        _ => 0,
    }
}

type PacketMap<V> = HashMap<FragmentKey, V, RandomState>;

/// A map that holds `packets` packets without ever allocating again: half empty as it is, it clears
/// what removals leave behind in place.
fn packet_map<V>(packets: usize, [a, b, c, d]: [u64; 4]) -> PacketMap<V> {
    HashMap::with_capacity_and_hasher(2 * packets, RandomState::with_seeds(a, b, c, d))
}

#[cfg(test)]
mod tests;
