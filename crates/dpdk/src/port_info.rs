//! Ports by number and name, and what they can do.

use std::ffi::{CStr, CString, c_char};
use std::fmt;

use shunt_dpdk_sys as sys;

use crate::eal;
use crate::error::Error;
use crate::offload::{RssHashTypes, RxOffloads, TxOffloads};

/// DPDK's number of an Ethernet device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortId(pub u16);

impl PortId {
    /// The port of that name: a PCI address (`0000:03:00.0`) or a virtual device
    /// (`net_af_packet0`).
    pub fn by_name(name: &str) -> Option<Self> {
        if !eal::is_running() {
            return None;
        }
        let name = CString::new(name).ok()?;
        let mut id = 0;
        // SAFETY: EAL is initialised; DPDK reads the name and writes the number.
        let status = unsafe { sys::rte_eth_dev_get_port_by_name(name.as_ptr(), &raw mut id) };
        (status == 0).then_some(Self(id))
    }

    /// How many ports there are (`rte_eth_dev_count_avail`).
    pub fn count() -> usize {
        Self::iter().count()
    }

    /// All ports, in ascending order.
    pub fn iter() -> impl Iterator<Item = Self> {
        let next = |from: u32| {
            if !eal::is_running() || from >= sys::RTE_MAX_ETHPORTS {
                return None;
            }
            let no_owner = u64::from(sys::RTE_ETH_DEV_NO_OWNER);
            // SAFETY: EAL is initialised; DPDK takes any number.
            let id = unsafe { sys::rte_eth_find_next_owned_by(from as u16, no_owner) };
            u16::try_from(id).ok().filter(|&id| u32::from(id) < sys::RTE_MAX_ETHPORTS).map(Self)
        };
        std::iter::successors(next(0), move |id| next(u32::from(id.0) + 1))
    }

    /// What the port is and what it can do (`rte_eth_dev_info_get`).
    ///
    /// # Errors
    /// `ENODEV` when there is no such port.
    pub fn info(self) -> Result<PortInfo, Error> {
        let info = self.raw_info()?;
        Ok(PortInfo {
            name: self.name()?,
            // SAFETY: DPDK fills in the driver's name, a static string, or leaves it null.
            driver: unsafe { string(info.driver_name) },
            // SAFETY: DPDK checks the number.
            socket: match unsafe { sys::rte_eth_dev_socket_id(self.0) } {
                socket if socket >= 0 => Some(socket),
                _ => None,
            },
            max_rx_queues: info.max_rx_queues,
            max_tx_queues: info.max_tx_queues,
            min_mtu: info.min_mtu,
            max_mtu: info.max_mtu,
            max_rx_pktlen: info.max_rx_pktlen,
            rx_offloads: RxOffloads::from_bits_retain(info.rx_offload_capa),
            tx_offloads: TxOffloads::from_bits_retain(info.tx_offload_capa),
            reta_size: info.reta_size,
            hash_key_size: info.hash_key_size,
            rss_hash_types: RssHashTypes::from_bits_retain(info.flow_type_rss_offloads),
            rx_desc: info.rx_desc_lim.into(),
            tx_desc: info.tx_desc_lim.into(),
        })
    }

    pub(crate) fn raw_info(self) -> Result<sys::rte_eth_dev_info, Error> {
        let mut info = sys::rte_eth_dev_info::default();
        // SAFETY: DPDK checks the number and writes to `info`.
        let status = unsafe { sys::rte_eth_dev_info_get(self.0, &raw mut info) };
        Error::check("rte_eth_dev_info_get", status)?;
        Ok(info)
    }

    fn name(self) -> Result<String, Error> {
        let mut name = [0; sys::RTE_ETH_NAME_MAX_LEN as usize];
        // SAFETY: DPDK checks the number and writes at most RTE_ETH_NAME_MAX_LEN bytes.
        let status = unsafe { sys::rte_eth_dev_get_name_by_port(self.0, name.as_mut_ptr()) };
        Error::check("rte_eth_dev_get_name_by_port", status)?;
        // SAFETY: the name ends in NUL.
        Ok(unsafe { string(name.as_ptr()) })
    }
}

impl fmt::Display for PortId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What a port is and what it can do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortInfo {
    /// Its name, as in [`PortId::by_name`].
    pub name: String,
    /// Its driver, such as `net_af_packet`.
    pub driver: String,
    /// Its NUMA node, where it has one.
    pub socket: Option<i32>,
    /// Receive queues that it can have.
    pub max_rx_queues: u16,
    /// Transmit queues that it can have.
    pub max_tx_queues: u16,
    /// Smallest MTU in bytes, the Ethernet header not counted.
    pub min_mtu: u16,
    /// Largest MTU in bytes; 65535 where the driver names no limit.
    pub max_mtu: u16,
    /// Bytes of the largest frame that it receives, with what stands around a packet of the MTU.
    pub max_rx_pktlen: u32,
    /// What it can do on receive.
    pub rx_offloads: RxOffloads,
    /// What it can do on transmit.
    pub tx_offloads: TxOffloads,
    /// Entries of the RSS redirection table; 0 without RSS.
    pub reta_size: u16,
    /// Bytes of the RSS key; 0 without RSS, or where the driver does not say.
    pub hash_key_size: u8,
    /// What RSS can hash.
    pub rss_hash_types: RssHashTypes,
    /// Descriptors of a receive queue.
    pub rx_desc: DescriptorLimits,
    /// Descriptors of a transmit queue.
    pub tx_desc: DescriptorLimits,
}

/// How many descriptors a queue can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DescriptorLimits {
    /// At least this many.
    pub min: u16,
    /// At most this many.
    pub max: u16,
    /// And a multiple of this.
    pub align: u16,
}

impl From<sys::rte_eth_desc_lim> for DescriptorLimits {
    fn from(limits: sys::rte_eth_desc_lim) -> Self {
        Self { min: limits.nb_min, max: limits.nb_max, align: limits.nb_align }
    }
}

/// Copies a C string; a null pointer is an empty one.
///
/// # Safety
/// The string, if there is one, ends in NUL.
unsafe fn string(text: *const c_char) -> String {
    if text.is_null() {
        return String::new();
    }
    // SAFETY: the caller vouches for the NUL.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}
