//! A safe, small wrapper over DPDK.
//!
//! [`Eal`] comes first: it is initialised once per process, and what needs it takes a reference. Ports
//! are found by name ([`PortId::by_name`]), examined ([`PortId::info`]) and started
//! ([`Port::start`]); a started port yields its queues, which move to the threads that poll them.
//!
//! Every packet buffer has one owner. An [`Mbuf`] frees itself, a [`Burst`] frees what is left in
//! it, [`RxQueue::receive`] adds to a burst and [`TxQueue::send`] takes out what the device took. A
//! [`ring()`] hands bursts from one thread to another.
//!
//! ```no_run
//! use shunt_dpdk::{Burst, Eal, Mempool, MempoolConfig, Port, PortConfig, PortId};
//!
//! # fn main() -> Result<(), shunt_dpdk::Error> {
//! let eal = Eal::init(&["--no-huge", "--no-pci", "-m", "64", "--vdev", "net_null0"])?;
//! let pool = Mempool::new(&eal, &MempoolConfig::new("packets", 4095))?;
//! let id = PortId::by_name("net_null0").expect("a port of that name");
//! let (_port, mut rx, mut tx) = Port::start(&eal, id, &PortConfig::default(), &pool)?;
//! let mut burst = Burst::new();
//! rx[0].receive(&mut burst);
//! tx[0].send(&mut burst);
//! # Ok(())
//! # }
//! ```

mod burst;
pub mod clock;
mod eal;
mod error;
mod lcore;
pub mod log;
mod mbuf;
mod mempool;
mod offload;
mod packet_socket;
mod port;
mod port_info;
mod queue;
mod ring;
mod rss;
mod vdev;

pub use burst::{BURST, Burst, Drain};
pub use eal::Eal;
pub use error::Error;
pub use lcore::{LcoreHandle, LcoreId, launch};
pub use mbuf::{ChecksumStatus, L4, Mbuf, RxChecksum, TxChecksum};
pub use mempool::{Mempool, MempoolConfig};
pub use offload::{RssHashTypes, RxOffloads, TxOffloads};
pub use packet_socket::PacketSocket;
pub use port::{Link, Port, PortConfig, PortStats};
pub use port_info::{DescriptorLimits, PortId, PortInfo};
pub use queue::{RxQueue, TxQueue};
pub use ring::{RingConsumer, RingProducer, ring};
pub use rss::{DEFAULT_KEY_LEN, RssConfig, softrss};
