//! The NAT engine: services, schedulers, connection table, TCP states, timeouts, rewriting.
//!
//! Pure and deterministic: it knows nothing of DPDK, threads, sockets, files or the clock. Packets
//! come as [views](shunt_packet::ipv4::Ipv4Packet) over bytes, time comes as an [`Instant`], and
//! what surrounds the director as a [`Topology`]. One [`Engine`] belongs to one worker and shares
//! nothing.
//!
//! # One idea carries it
//!
//! A [connection](table) is a pair of [`FlowKey`]s: what a packet of either [`Direction`] looks
//! like *when it arrives*. A packet that matches the key of one direction leaves as the reverse of
//! the other key. That covers DNAT, port mapping and outbound SNAT alike, and the checksum delta
//! of one direction is the inverse of the other's:
//!
//! ```text
//!                    key[Inbound]                            reverse of key[Outbound]
//!   DNAT    client:cport -> VIP:vport      leaves as     client:cport -> RIP:rport
//!   SNAT    inside:iport -> remote:port    leaves as     address:sport -> remote:port
//! ```
//!
//! # The path of a packet
//!
//! [`Engine::process`] looks the packet up, or opens a connection, and says in a [`Verdict`] what
//! to do. It does not touch TCP and UDP packets: the caller applies the [`Translation`] once it
//! knows that the packet can leave, so that an ICMP error can still quote what really came.
//!
//! A worker passes its packets in bursts, by [`Engine::burst`]: their lookups wait for memory together,
//! and the bulk of them takes the [fast path](BurstPacket::fast_path), which rewrites at once what leaves
//! its connection as it is, and says by number where it goes.
#![deny(unsafe_code)]

mod connection;
mod counters;
mod egress;
mod egress_set;
mod engine;
mod flow;
pub mod fragments;
mod icmp;
mod persistence;
mod ruleset;
pub mod scheduler;
mod server;
mod slots;
mod source_pool;
mod state;
pub mod table;
mod time;
mod translation;
mod verdict;

pub use connection::{Connection, ConnectionKind, MAX_IDS};
pub use counters::{
    Counter, EngineCounters, LiveEngineCounters, Occupancy, ServerCounters, ServiceCounters,
    Traffic,
};
pub use egress::EgressId;
pub use egress_set::EgressSet;
pub use engine::{
    Burst, BurstPacket, ConnectionFilter, ConnectionInfo, Cursor, Engine, EngineConfig, MAX_BURST,
    Origin, PrefetchedBurst, Processed, SlowPath, Topology,
};
pub use flow::{Direction, FlowKey};
pub use ruleset::{BuildError, Ruleset, RulesetBuilder, ServerStatus, ServiceStatus, Update};
pub use server::{AdminState, Health, Server, ServerShared};
pub use shunt_rules::{ServerId, ServiceId, Side};
pub use source_pool::PoolUsage;
pub use state::ConnectionState;
pub use time::Instant;
pub use translation::Translation;
pub use verdict::{DropReason, Reply, Verdict};
