//! For tests only: packet builders, full checksum recomputation, pcap files, and the [`lab`] of
//! network namespaces.
//!
//! Packets are built and checked with `etherparse`, never with Shunt's own code, so that a mistake
//! there can't hide itself.
#![forbid(unsafe_code)]

mod check;
pub mod lab;
mod packet;
pub mod pcap;

pub use check::{describe, verify_checksums};
pub use packet::{Packet, arp_reply, arp_request, ethernet, mac};
