//! Opening ports: what was asked for, what the device has, and what became of it.

use shunt_config as config;
use shunt_dpdk::{Eal, Error, Mempool, Port, PortConfig, PortId, PortInfo, RxQueue, TxOffloads};
use shunt_packet::ethernet::MacAddr;
use tracing::{info, warn};

use crate::{interface::InterfaceParts, offload::Offloads};

/// Why a port can't be used as the service file wants it.
#[derive(Debug, thiserror::Error)]
pub enum PortError {
    /// EAL came up without the device.
    #[error(
        "port `{port}`: DPDK made no port of `{device}`; its driver says why in the log (`--log-level debug`)"
    )]
    NoDevice {
        /// The port's name.
        port: String,
        /// The device's name.
        device: String,
    },
    /// `checksum = "hardware"`, and it has no such hardware.
    #[error(
        "port `{port}`: its driver {driver} can't do all checksums in hardware; write `checksum = \"auto\"`"
    )]
    NoChecksumHardware {
        /// The port's name.
        port: String,
        /// The driver's name.
        driver: String,
    },
    /// An MTU that it doesn't do.
    #[error("port `{port}`: its driver {driver} does MTUs of {min} to {max}, not {mtu}")]
    Mtu {
        /// The port's name.
        port: String,
        /// The driver's name.
        driver: String,
        /// Wanted.
        mtu: u16,
        /// The least.
        min: u16,
        /// The most.
        max: u16,
    },
    /// More queues than it has.
    #[error("port `{port}`: its driver {driver} has {available} queues, and {wanted} are wanted")]
    Queues {
        /// The port's name.
        port: String,
        /// The driver's name.
        driver: String,
        /// Wanted.
        wanted: u16,
        /// What there is.
        available: u16,
    },
    /// DPDK refused something.
    #[error("port `{port}`: {error}")]
    Dpdk {
        /// The port's name.
        port: String,
        /// The call and its error.
        error: Error,
    },
}

/// A started port.
pub(crate) struct OpenPort {
    pub(crate) port: Port,
    pub(crate) driver: String,
    pub(crate) rx: RxQueue,
    pub(crate) parts: InterfaceParts,
}

/// Negotiates with a port's device, starts it, and says in one line what it does.
pub(crate) fn open(
    eal: &Eal,
    wanted: &config::Port,
    pool: &Mempool,
) -> Result<OpenPort, PortError> {
    let dpdk = |error| PortError::Dpdk { port: wanted.name.clone(), error };
    let device = wanted.device.name();
    let id = PortId::by_name(&device)
        .ok_or_else(|| PortError::NoDevice { port: wanted.name.clone(), device })?;
    let info = id.info().map_err(dpdk)?;
    let offloads = negotiate(wanted, &info)?;
    // All mbufs come from one pool, and none is shared.
    let fast_free = info.tx_offloads & TxOffloads::FAST_FREE;
    let config = PortConfig {
        rx_queues: 1,
        tx_queues: 1,
        rx_descriptors: wanted.rx_descriptors,
        tx_descriptors: wanted.tx_descriptors,
        mtu: wanted.mtu,
        rx_offloads: offloads.rx,
        tx_offloads: offloads.tx | fast_free,
    };
    let (mut port, rx, tx) = Port::start(eal, id, &config, pool).map_err(dpdk)?;
    if wanted.vlan == config::Vlan::Pass
        && let Err(error) = port.set_promiscuous(true)
    {
        // Frames that are passed are for others. Virtual devices hand over all they get anyway.
        warn!(
            "port {}: only tagged frames for its own address may be passed ({error})",
            wanted.name
        );
    }
    let mac = MacAddr(port.mac());
    info!(
        "port {} ({}) is {} on {}, mtu {}, 1 of {} queues; checksums {offloads}",
        wanted.name, wanted.role, mac, info.driver, wanted.mtu, info.max_rx_queues
    );
    let [rx] = only(rx);
    let [tx] = only(tx);
    Ok(OpenPort {
        port,
        driver: info.driver,
        rx,
        parts: InterfaceParts { mac, mtu: wanted.mtu, vlan: wanted.vlan, offloads, tx },
    })
}

fn negotiate(wanted: &config::Port, info: &PortInfo) -> Result<Offloads, PortError> {
    let (port, driver) = (wanted.name.clone(), info.driver.clone());
    let queues = info.max_rx_queues.min(info.max_tx_queues);
    if queues < wanted.queues {
        return Err(PortError::Queues { port, driver, wanted: wanted.queues, available: queues });
    }
    let (mtu, min, max) = (wanted.mtu, info.min_mtu, info.max_mtu);
    if !(min..=max).contains(&mtu) {
        return Err(PortError::Mtu { port, driver, mtu, min, max });
    }
    Offloads::negotiate(wanted.checksum, info).ok_or(PortError::NoChecksumHardware { port, driver })
}

/// The one queue of a port that was started with one.
fn only<Q>(queues: Vec<Q>) -> [Q; 1] {
    let count = queues.len();
    queues.try_into().unwrap_or_else(|_| panic!("{count} queues where one was asked for"))
}
