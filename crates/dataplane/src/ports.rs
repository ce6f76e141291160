//! Opening ports: what was asked for, what the device has, and what became of it.

use shunt_config as config;
use shunt_dpdk::{
    Eal, Error, Mempool, Port, PortConfig, PortId, PortInfo, RssHashTypes, RxQueue, TxOffloads,
    TxQueue,
};
use shunt_packet::ethernet::MacAddr;
use tracing::{info, warn};

use crate::{
    interface::InterfaceParts,
    offload::Offloads,
    steering::{
        Owners,
        rss::{self, Rss},
    },
};

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
    #[error(
        "port `{port}`: its driver {driver} does MTUs of {min} to {max}, not {mtu}; \
         lower `mtu`, or take another device"
    )]
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

/// A port's device: what it has, and what is wanted of it. Not yet started.
pub(crate) struct Candidate<'a> {
    wanted: &'a config::Port,
    id: PortId,
    info: PortInfo,
    offloads: Offloads,
    queues: Queues,
}

/// A started port.
pub(crate) struct OpenPort {
    pub(crate) port: Port,
    pub(crate) driver: String,
    pub(crate) rx: Vec<RxQueue>,
    pub(crate) tx: Vec<TxQueue>,
    pub(crate) parts: InterfaceParts,
    /// What is hashed, if it brings packets to their owners by itself.
    pub(crate) rss: Option<RssHashTypes>,
}

/// How many queues a port is started with.
#[derive(Clone, Copy)]
struct Queues {
    rx: u16,
    tx: u16,
}

impl<'a> Candidate<'a> {
    /// Finds a port's device and negotiates with it, for a director of so many workers.
    pub(crate) fn examine(
        wanted: &'a config::Port,
        workers: usize,
    ) -> Result<Candidate<'a>, PortError> {
        let device = wanted.device.name();
        let id = PortId::by_name(&device)
            .ok_or_else(|| PortError::NoDevice { port: wanted.name.clone(), device })?;
        let info =
            id.info().map_err(|error| PortError::Dpdk { port: wanted.name.clone(), error })?;
        let queues = queues(wanted, &info, workers)?;
        let offloads = negotiate(wanted, &info)?;
        Ok(Candidate { wanted, id, info, offloads, queues })
    }

    /// Entries of its redirection table, if it can be told what goes where.
    pub(crate) fn redirection_entries(&self) -> Option<usize> {
        rss::redirection_entries(&self.info).filter(|_| self.queues.rx > 1)
    }

    /// Starts it, and says in one line what it does. With several queues it is told which worker
    /// owns what.
    pub(crate) fn open(
        self,
        eal: &Eal,
        pool: &Mempool,
        owners: &Owners,
        workers: usize,
    ) -> Result<OpenPort, PortError> {
        let Candidate { wanted, id, info, offloads, queues } = self;
        let side = wanted.side;
        let rss = if queues.rx > 1 { rss::wanted(&info, side, owners) } else { None };
        // All mbufs come from one pool, and none is shared.
        let fast_free = info.tx_offloads & TxOffloads::FAST_FREE;
        let config = PortConfig {
            rx_queues: queues.rx,
            tx_queues: queues.tx,
            rss,
            rx_descriptors: wanted.rx_descriptors,
            tx_descriptors: wanted.tx_descriptors,
            mtu: wanted.mtu,
            rx_offloads: offloads.rx,
            tx_offloads: offloads.tx | fast_free,
        };
        let (mut port, rx, tx) = start(eal, id, &config, pool)
            .map_err(|error| PortError::Dpdk { port: wanted.name.clone(), error })?;
        let rss = rss::set_up(&mut port, &info, &config, owners);
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
            "port {} ({}) is {} on {}, mtu {}, {}; checksums {offloads}",
            wanted.name,
            wanted.side,
            mac,
            info.driver,
            wanted.mtu,
            describe(queues, &info, workers, &rss)
        );
        Ok(OpenPort {
            port,
            driver: info.driver,
            rx,
            tx,
            parts: InterfaceParts { mac, mtu: wanted.mtu, vlan: wanted.vlan, offloads },
            rss: rss.configured(),
        })
    }
}

/// Starts a port, without RSS if its driver refuses what it says it can do: packets are brought to
/// their owners anyway.
fn start(
    eal: &Eal,
    id: PortId,
    config: &PortConfig,
    pool: &Mempool,
) -> Result<(Port, Vec<RxQueue>, Vec<TxQueue>), Error> {
    match Port::start(eal, id, config, pool) {
        Err(_) if config.rss.is_some() => {
            Port::start(eal, id, &PortConfig { rss: None, ..config.clone() }, pool)
        }
        started => started,
    }
}

/// The queues of a port, in words.
fn describe(queues: Queues, info: &PortInfo, workers: usize, rss: &Rss) -> String {
    let Queues { rx, tx } = queues;
    if workers == 1 {
        return format!("1 of {} queues", info.max_rx_queues);
    }
    let mut text = match rx {
        1 => format!("1 queue: one worker spreads to {workers} in software"),
        _ => format!("{rx} queues, {rss}"),
    };
    if usize::from(rx) < workers && rx > 1 {
        text += &format!(", and on to {workers} workers in software");
    }
    if usize::from(tx) < workers {
        text += &format!("; {tx} to send, which {workers} workers share");
    }
    text
}

fn queues(wanted: &config::Port, info: &PortInfo, workers: usize) -> Result<Queues, PortError> {
    let most = u16::try_from(workers).unwrap_or(u16::MAX);
    let Some(wanted_queues) = wanted.queues else {
        let of = |available: u16| most.min(available).max(1);
        return Ok(Queues { rx: of(info.max_rx_queues), tx: of(info.max_tx_queues) });
    };
    let available = info.max_rx_queues.min(info.max_tx_queues);
    if available < wanted_queues {
        return Err(PortError::Queues {
            port: wanted.name.clone(),
            driver: info.driver.clone(),
            wanted: wanted_queues,
            available,
        });
    }
    Ok(Queues { rx: wanted_queues, tx: wanted_queues })
}

fn negotiate(wanted: &config::Port, info: &PortInfo) -> Result<Offloads, PortError> {
    let (port, driver) = (wanted.name.clone(), info.driver.clone());
    let (mtu, min, max) = (wanted.mtu, info.min_mtu, max_mtu(info));
    if !(min..=max).contains(&mtu) {
        return Err(PortError::Mtu { port, driver, mtu, min, max });
    }
    Offloads::negotiate(wanted.checksum, info).ok_or(PortError::NoChecksumHardware { port, driver })
}

/// The largest MTU whose frames the device receives. DPDK takes what stands around a packet for the
/// difference of the driver's two limits or, where it names no largest MTU, for a header and a checksum
/// of Ethernet.
fn max_mtu(info: &PortInfo) -> u16 {
    const AROUND: u32 = 14 + 4;
    let by_frame = info.max_rx_pktlen.saturating_sub(AROUND);
    let is_named = info.max_mtu != u16::MAX && info.max_rx_pktlen > u32::from(info.max_mtu);
    if is_named {
        info.max_mtu
    } else {
        info.max_mtu.min(u16::try_from(by_frame).unwrap_or(u16::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use shunt_dpdk::DescriptorLimits;

    fn info(max_mtu: u16, max_rx_pktlen: u32) -> PortInfo {
        let descriptors = DescriptorLimits { min: 0, max: u16::MAX, align: 1 };
        PortInfo {
            name: "net_x0".to_owned(),
            driver: "net_x".to_owned(),
            socket: None,
            max_rx_queues: 1,
            max_tx_queues: 1,
            min_mtu: 68,
            max_mtu,
            max_rx_pktlen,
            rx_offloads: shunt_dpdk::RxOffloads::empty(),
            tx_offloads: TxOffloads::empty(),
            reta_size: 0,
            hash_key_size: 0,
            rss_hash_types: RssHashTypes::empty(),
            rx_desc: descriptors,
            tx_desc: descriptors,
        }
    }

    #[test]
    fn the_largest_mtu_is_what_the_frame_has_room_for() {
        // Limits of net_af_packet, i40e, net_tap and net_pcap.
        for (mtu, pktlen, max) in [
            (u16::MAX, 1518, 1500),
            (9702, 9728, 9702),
            (u16::MAX, 65535, 65517),
            (1500, 1500, 1482),
        ] {
            assert_eq!(max_mtu(&info(mtu, pktlen)), max, "{mtu} {pktlen}");
        }
    }
}
