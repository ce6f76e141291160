//! Started ports.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::marker::PhantomData;
use std::sync::{Arc, Mutex, MutexGuard};

use shunt_dpdk_sys as sys;

use crate::eal::Eal;
use crate::error::{EBUSY, ENOTSUP, Error};
use crate::mempool::Mempool;
use crate::offload::{RxOffloads, TxOffloads};
use crate::port_info::PortId;
use crate::queue::{RxQueue, TxQueue};
use crate::rss::RssConfig;

/// The ports that run. The lock also keeps starts, stops and hotplug apart, which DPDK leaves to
/// the program.
static RUNNING: Mutex<BTreeSet<PortId>> = Mutex::new(BTreeSet::new());

pub(crate) fn running() -> MutexGuard<'static, BTreeSet<PortId>> {
    RUNNING.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// How a port is to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortConfig {
    /// Receive queues.
    pub rx_queues: u16,
    /// Transmit queues.
    pub tx_queues: u16,
    /// How packets are spread over the receive queues; `None` leaves it to the device.
    pub rss: Option<RssConfig>,
    /// Descriptors of each receive queue. Rounded to what the device has.
    pub rx_descriptors: u16,
    /// Descriptors of each transmit queue. Rounded to what the device has.
    pub tx_descriptors: u16,
    /// MTU in bytes, the Ethernet header not counted. A packet that does not fit a buffer of the
    /// pool needs [`RxOffloads::SCATTER`].
    pub mtu: u16,
    /// A subset of [`crate::PortInfo::rx_offloads`].
    pub rx_offloads: RxOffloads,
    /// A subset of [`crate::PortInfo::tx_offloads`].
    pub tx_offloads: TxOffloads,
}

impl Default for PortConfig {
    /// One queue each way of 1024 descriptors, an MTU of 1500, no offloads.
    fn default() -> Self {
        Self {
            rx_queues: 1,
            tx_queues: 1,
            rss: None,
            rx_descriptors: 1024,
            tx_descriptors: 1024,
            mtu: 1500,
            rx_offloads: RxOffloads::empty(),
            tx_offloads: TxOffloads::empty(),
        }
    }
}

/// A port that runs.
///
/// It is stopped and closed (`rte_eth_dev_stop`, `rte_eth_dev_close`) when the last of its handles
/// goes, this one or one of its queues, whichever thread has it. A closed port is gone: its
/// [`PortId`] names nothing until DPDK gives the number to a new device.
///
/// It may move between threads but not be shared: DPDK's calls to configure a port are not
/// thread-safe. Other threads may poll its queues meanwhile.
#[derive(Debug)]
pub struct Port {
    running: Arc<Running>,
    _not_sync: PhantomData<Cell<()>>,
}

impl Port {
    /// Configures a port and starts it. Received packets come from `pool`.
    ///
    /// # Errors
    /// Which step failed: `rte_eth_dev_configure` with `EINVAL` for more queues or other offloads
    /// than the device has (DPDK's log names them), and with `EBUSY` for a port that runs already.
    /// The port is then not running, and another attempt may be made.
    pub fn start(
        _: &Eal,
        id: PortId,
        config: &PortConfig,
        pool: &Mempool,
    ) -> Result<(Self, Vec<RxQueue>, Vec<TxQueue>), Error> {
        let mut ports = running();
        if ports.contains(&id) {
            return Err(Error::new("rte_eth_dev_configure", EBUSY));
        }
        let mut rss_key = config.rss.as_ref().and_then(|rss| rss.key.clone()).unwrap_or_default();
        configure(id, config, &mut rss_key)?;
        set_up_queues(id, config, pool)?;
        set_mtu(id, config.mtu)?;
        // SAFETY: the port is configured, and its queues are set up.
        Error::check("rte_eth_dev_start", unsafe { sys::rte_eth_dev_start(id.0) })?;

        ports.insert(id);
        let running = Arc::new(Running { id, _rss_key: rss_key });
        let rx = (0..config.rx_queues).map(|queue| RxQueue::new(Arc::clone(&running), queue));
        let tx = (0..config.tx_queues).map(|queue| TxQueue::new(Arc::clone(&running), queue));
        let (rx, tx) = (rx.collect(), tx.collect());
        Ok((Self { running, _not_sync: PhantomData }, rx, tx))
    }

    /// Its number.
    pub fn id(&self) -> PortId {
        self.running.id
    }

    /// Its Ethernet address (`rte_eth_macaddr_get`).
    pub fn mac(&self) -> [u8; 6] {
        let mut mac = sys::rte_ether_addr::default();
        // SAFETY: the port exists, so the call does not fail; DPDK writes to `mac`.
        unsafe { sys::rte_eth_macaddr_get(self.id().0, &raw mut mac) };
        mac.addr_bytes
    }

    /// Its MTU in bytes, the Ethernet header not counted (`rte_eth_dev_get_mtu`).
    pub fn mtu(&self) -> u16 {
        let mut mtu = 0;
        // SAFETY: the port exists, so the call does not fail; DPDK writes to `mtu`.
        unsafe { sys::rte_eth_dev_get_mtu(self.id().0, &raw mut mtu) };
        mtu
    }

    /// Its link, without waiting for a negotiation (`rte_eth_link_get_nowait`). A port that cannot
    /// tell is down.
    pub fn link(&self) -> Link {
        let mut link = Link { up: false, speed_mbps: 0 };
        // SAFETY: the port exists; the shim writes to both, whether or not the driver can tell.
        unsafe {
            sys::shunt_link_get(self.id().0, &raw mut link.up, &raw mut link.speed_mbps);
        }
        link
    }

    /// Its counters since it started (`rte_eth_stats_get`); zeros where the driver has none.
    pub fn stats(&self) -> PortStats {
        let mut stats = sys::rte_eth_stats::default();
        // SAFETY: the port exists; DPDK writes to `stats` or leaves its zeros.
        unsafe { sys::rte_eth_stats_get(self.id().0, &raw mut stats) };
        PortStats {
            ipackets: stats.ipackets,
            opackets: stats.opackets,
            ibytes: stats.ibytes,
            obytes: stats.obytes,
            imissed: stats.imissed,
            ierrors: stats.ierrors,
            oerrors: stats.oerrors,
            rx_nombuf: stats.rx_nombuf,
        }
    }

    /// Whether the port receives frames for other Ethernet addresses than its own
    /// (`rte_eth_promiscuous_enable`, `rte_eth_promiscuous_disable`).
    ///
    /// # Errors
    /// `ENOTSUP` where the driver cannot.
    pub fn set_promiscuous(&mut self, on: bool) -> Result<(), Error> {
        let id = self.id().0;
        if on {
            // SAFETY: the port exists.
            Error::check("rte_eth_promiscuous_enable", unsafe {
                sys::rte_eth_promiscuous_enable(id)
            })
        } else {
            // SAFETY: the port exists.
            Error::check("rte_eth_promiscuous_disable", unsafe {
                sys::rte_eth_promiscuous_disable(id)
            })
        }
    }
}

/// The state of a port's link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Link {
    /// Whether packets can pass.
    pub up: bool,
    /// Megabits per second; 0 when that is unknown.
    pub speed_mbps: u32,
}

/// A port's counters, in the words of `rte_eth_stats`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PortStats {
    /// Packets received.
    pub ipackets: u64,
    /// Packets sent.
    pub opackets: u64,
    /// Bytes received.
    pub ibytes: u64,
    /// Bytes sent.
    pub obytes: u64,
    /// Packets dropped because a receive queue was full.
    pub imissed: u64,
    /// Packets received with an error.
    pub ierrors: u64,
    /// Packets that could not be sent.
    pub oerrors: u64,
    /// Times that the pool had no mbuf for a received packet.
    pub rx_nombuf: u64,
}

/// What the port and its queues share: as long as one of them is there, the port runs.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) id: PortId,
    /// DPDK keeps a pointer to it, and drivers read it when they like.
    _rss_key: Vec<u8>,
}

impl Drop for Running {
    fn drop(&mut self) {
        let mut ports = running();
        // SAFETY: the port runs and the last of its handles is gone, so nobody polls its queues.
        // There is nobody to tell of a failure; DPDK logs it.
        unsafe {
            sys::rte_eth_dev_stop(self.id.0);
            sys::rte_eth_dev_close(self.id.0);
        }
        ports.remove(&self.id);
    }
}

fn configure(id: PortId, config: &PortConfig, rss_key: &mut [u8]) -> Result<(), Error> {
    let mut conf = sys::rte_eth_conf::default();
    conf.rxmode.mtu = u32::from(config.mtu);
    conf.rxmode.offloads = config.rx_offloads.bits();
    conf.txmode.offloads = config.tx_offloads.bits();
    if let Some(rss) = &config.rss {
        conf.rxmode.mq_mode = sys::RTE_ETH_MQ_RX_RSS;
        let conf = &mut conf.rx_adv_conf.rss_conf;
        conf.rss_hf = rss.hash_types.bits();
        if rss.key.is_some() {
            conf.rss_key = rss_key.as_mut_ptr();
            conf.rss_key_len = u8::try_from(rss_key.len()).unwrap_or(u8::MAX);
        }
    }
    // SAFETY: DPDK checks the number and the numbers in `conf`, which it copies. The key is as long
    // as `conf` says, and the caller keeps it as long as the port.
    Error::check("rte_eth_dev_configure", unsafe {
        sys::rte_eth_dev_configure(id.0, config.rx_queues, config.tx_queues, &raw const conf)
    })
}

fn set_up_queues(id: PortId, config: &PortConfig, pool: &Mempool) -> Result<(), Error> {
    let (mut rx_desc, mut tx_desc) = (config.rx_descriptors, config.tx_descriptors);
    // SAFETY: the port is configured; DPDK adjusts the two numbers in place.
    Error::check("rte_eth_dev_adjust_nb_rx_tx_desc", unsafe {
        sys::rte_eth_dev_adjust_nb_rx_tx_desc(id.0, &raw mut rx_desc, &raw mut tx_desc)
    })?;
    let info = id.raw_info()?;
    // SAFETY: DPDK takes any number; -1, for none, is what the calls below mean by any.
    let socket = unsafe { sys::rte_eth_dev_socket_id(id.0) } as u32;

    let mut rx = info.default_rxconf;
    rx.offloads = config.rx_offloads.bits();
    for queue in 0..config.rx_queues {
        // SAFETY: the port is configured with that queue, DPDK copies `rx`, and the pool lives
        // until EAL's cleanup.
        Error::check("rte_eth_rx_queue_setup", unsafe {
            sys::rte_eth_rx_queue_setup(id.0, queue, rx_desc, socket, &raw const rx, pool.as_ptr())
        })?;
    }
    let mut tx = info.default_txconf;
    tx.offloads = config.tx_offloads.bits();
    for queue in 0..config.tx_queues {
        // SAFETY: the port is configured with that queue, and DPDK copies `tx`.
        Error::check("rte_eth_tx_queue_setup", unsafe {
            sys::rte_eth_tx_queue_setup(id.0, queue, tx_desc, socket, &raw const tx)
        })?;
    }
    Ok(())
}

/// `rte_eth_dev_configure` notes the MTU; drivers over a kernel interface set that one's here.
fn set_mtu(id: PortId, mtu: u16) -> Result<(), Error> {
    const CALL: &str = "rte_eth_dev_set_mtu";
    // SAFETY: the port is configured and not started.
    match Error::check(CALL, unsafe { sys::rte_eth_dev_set_mtu(id.0, mtu) }) {
        // A driver without the call takes any packet that fits its buffers.
        Err(Error { errno: ENOTSUP, .. }) => Ok(()),
        result => result,
    }
}
