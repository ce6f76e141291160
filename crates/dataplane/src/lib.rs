//! Workers, ports, ARP, ICMP and routes: the director's data path on DPDK.
//!
//! A [`Director`] opens the ports of a [service file](shunt_config::Config) and runs a [`Worker`]
//! on each worker lcore. A worker polls its queues, hands packets of connections that others own to
//! them, and passes each of its own through its pipeline, run to completion:
//!
//! ```text
//!  rx burst -> Ethernet -> IPv4 checks -> NAT engine -> route -> neighbour -> rewrite -> tx burst
//!                 |            |             |            |          |
//!                ARP         drop         for us:     no route:   unresolved:
//!              replies    with a reason   echo, RST   ICMP error  held, ARP asked
//! ```
//!
//! | module | what lives there |
//! | --- | --- |
//! | `pipeline` | the life of a packet |
//! | `interface` | a port as a worker sees it: its addresses, offloads, neighbours and counters |
//! | `neighbours` | ARP's table: who has which MAC, and packets that wait for an answer |
//! | `routes`, `local_network` | where packets go, and which addresses are ours |
//! | `ports`, `offload` | opening ports and negotiating what they can do |
//! | `steering`, `neighbour_sync` | which worker owns a packet, and what workers hand and tell each other |
//! | `director`, `worker`, `idle` | bringing it up, dealing out queues to the workers, and their loop |
//! | `control`, `mailbox` | what workers run, how it changes while packets flow, and what can be asked of them |
//! | `counters`, `drop_reason` | what workers count, readable while they do |
//! | `preflight`, `device_lock`, `eal_directory` | what the machine must have, and what must not be shared |
//! | `links`, `checksum_watch` | what the main lcore notices of the ports |
#![forbid(unsafe_code)]

mod checksum_watch;
mod clock;
mod control;
mod counters;
mod device_lock;
mod director;
mod drop_reason;
mod eal_directory;
mod egress;
mod frame;
mod idle;
mod interface;
mod links;
mod local_network;
mod lock_file;
mod mailbox;
mod memory;
mod neighbour_sync;
mod neighbours;
mod offload;
mod outgoing;
mod pipeline;
mod ports;
mod preflight;
mod rate_limit;
mod routes;
mod steering;
mod worker;

pub use control::{ConnectionWalk, Control, MaglevDisruption};
pub use counters::{LoopCounters, PipelineCounters, PortCounters, WorkerMonitor, WorkerStatus};
pub use director::{
    DeviceInUse, Director, DirectorParts, MbufReport, MemoryScope, PortReport, PreflightError,
    Report, ServiceReport, StartError, connection_memory, open_pool,
};
pub use drop_reason::{DropCounters, DropReason};
pub use mailbox::WorkerEnded;
pub use ports::PortError;
pub use steering::{Owners, WorkerId, rss_key};
pub use worker::Worker;
