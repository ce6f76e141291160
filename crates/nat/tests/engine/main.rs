//! The engine's behaviour, packet by packet: what goes in, what comes out, what it counts.
//!
//! A test sends packets to a [`Director`](harness::Director) and says what must become of each:
//!
//! ```text
//! director.outside(tcp(CLIENT, VIP).syn()).leaves_as(tcp(CLIENT, RS1).syn());
//! director.inside(tcp(RS1, CLIENT).syn().ack(1)).leaves_as(tcp(VIP, CLIENT).syn().ack(1));
//! ```
//!
//! The expected packets are built by a library that shares no code with the engine, and compared
//! byte for byte, checksums included.

mod balance;
mod changes;
mod echo;
mod endpoints;
mod fast_path;
mod full_nat;
mod hairpin;
mod harness;
mod hostile;
mod icmp;
mod inspect;
mod invariants;
mod late_packets;
mod mss;
mod no_ports;
mod one_packet;
mod passthrough;
mod persistence;
mod preschedule;
mod properties;
mod resets;
mod service;
mod snat;
mod states;
mod table_pressure;
mod timeouts;
mod workers;
