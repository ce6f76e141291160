//! Header views over bytes, and Internet checksums.
//!
//! A view is a reference to a header inside a packet's own bytes: its length is checked once, when
//! the view is made, and afterwards no accessor can panic. Rewriting happens in place, through the
//! view; nothing is parsed into owned structures and serialised again.
//!
//! | module | what it views |
//! | --- | --- |
//! | [`ethernet`] | Ethernet II, 802.1Q tags |
//! | [`arp`] | ARP for IPv4 over Ethernet |
//! | [`ipv4`] | IPv4 with options |
//! | [`plain`] | TCP and UDP in IPv4 without options: nearly all packets, at once |
//! | [`fragment`] | cutting IPv4 packets into fragments |
//! | [`tcp`], [`udp`] | transport headers |
//! | [`icmp`] | ICMP messages, and building ICMP errors |
//! | [`checksum`] | the Internet checksum, whole and incremental |
#![forbid(unsafe_code)]

pub mod arp;
pub mod checksum;
pub mod ethernet;
pub mod fragment;
pub mod icmp;
pub mod ipv4;
mod malformed;
pub mod options;
pub mod plain;
pub mod tcp;
pub mod udp;

pub use malformed::Malformed;
