//! Receive side scaling: which queue a port puts a packet into.
//!
//! A port hashes addresses and ports of a packet under a key (Toeplitz's hash), and the low bits of
//! the hash choose an entry of its redirection table: the number of a queue.

use shunt_dpdk_sys as sys;

use crate::error::Error;
use crate::offload::RssHashTypes;
use crate::port::Port;
use crate::port_info::PortId;

/// Length of a key in bytes, where the driver does not report it.
pub const DEFAULT_KEY_LEN: usize = 40;

const GROUP: usize = sys::RTE_ETH_RETA_GROUP_SIZE as usize;

/// How a port is to spread packets over its receive queues.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RssConfig {
    /// The key, [`crate::PortInfo::hash_key_size`] bytes long; `None` for the driver's own.
    pub key: Option<Vec<u8>>,
    /// What is hashed: a subset of [`crate::PortInfo::rss_hash_types`].
    pub hash_types: RssHashTypes,
}

impl Port {
    /// Sets the redirection table: for each value of the hash's low bits, a queue
    /// (`rte_eth_dev_rss_reta_update`).
    ///
    /// # Errors
    /// `EINVAL` for a table of another length than [`crate::PortInfo::reta_size`], `ENOTSUP` where
    /// the driver has none.
    pub fn set_redirection(&mut self, table: &[u16]) -> Result<(), Error> {
        let mut groups: Vec<_> = table.chunks(GROUP).map(group).collect();
        // SAFETY: the port exists, and there is a group for each 64 entries, which DPDK reads.
        Error::check("rte_eth_dev_rss_reta_update", unsafe {
            sys::rte_eth_dev_rss_reta_update(
                self.id().0,
                groups.as_mut_ptr(),
                u16::try_from(table.len()).unwrap_or(u16::MAX),
            )
        })
    }

    /// Sets the key and what is hashed (`rte_eth_dev_rss_hash_update`). Some drivers take a key here
    /// that they ignore in [`crate::PortConfig::rss`], and some the other way round.
    ///
    /// # Errors
    /// `EINVAL` for another length of the key or other hash types than the device has, `ENOTSUP`
    /// where the driver cannot.
    pub fn set_rss(&mut self, rss: &RssConfig) -> Result<(), Error> {
        let mut key = rss.key.clone();
        let mut conf =
            sys::rte_eth_rss_conf { rss_hf: rss.hash_types.bits(), ..Default::default() };
        if let Some(key) = &mut key {
            conf.rss_key = key.as_mut_ptr();
            conf.rss_key_len = u8::try_from(key.len()).unwrap_or(u8::MAX);
        }
        // SAFETY: the port exists; the driver copies the key, which is as long as `conf` says.
        Error::check("rte_eth_dev_rss_hash_update", unsafe {
            sys::rte_eth_dev_rss_hash_update(self.id().0, &raw mut conf)
        })
    }
}

impl PortId {
    /// The first `entries` of the redirection table (`rte_eth_dev_rss_reta_query`).
    ///
    /// # Errors
    /// As of [`Port::set_redirection`]; `ENODEV` when there is no such port.
    pub fn redirection(self, entries: u16) -> Result<Vec<u16>, Error> {
        let mut groups: Vec<_> = vec![0; entries.into()].chunks(GROUP).map(group).collect();
        // SAFETY: DPDK checks the number, and fills a group for each 64 entries.
        Error::check("rte_eth_dev_rss_reta_query", unsafe {
            sys::rte_eth_dev_rss_reta_query(self.0, groups.as_mut_ptr(), entries)
        })?;
        let all = groups.iter().flat_map(|group| group.reta);
        Ok(all.take(entries.into()).collect())
    }

    /// The key and what is hashed (`rte_eth_dev_rss_hash_conf_get`). `key_len` is
    /// [`crate::PortInfo::hash_key_size`].
    ///
    /// # Errors
    /// `ENOTSUP` where the driver cannot tell.
    pub fn rss(self, key_len: u8) -> Result<RssConfig, Error> {
        let mut key = vec![0; key_len.into()];
        let mut conf = sys::rte_eth_rss_conf {
            rss_key: key.as_mut_ptr(),
            rss_key_len: key_len,
            ..Default::default()
        };
        // SAFETY: DPDK checks the number, and writes to `conf` and as many bytes to `key` as it has.
        Error::check("rte_eth_dev_rss_hash_conf_get", unsafe {
            sys::rte_eth_dev_rss_hash_conf_get(self.0, &raw mut conf)
        })?;
        Ok(RssConfig { key: Some(key), hash_types: RssHashTypes::from_bits_retain(conf.rss_hf) })
    }
}

/// A group of up to 64 entries of a redirection table, all of them to be read or set.
fn group(queues: &[u16]) -> sys::rte_eth_rss_reta_entry64 {
    let mut reta = [0; GROUP];
    reta[..queues.len()].copy_from_slice(queues);
    sys::rte_eth_rss_reta_entry64 { mask: u64::MAX >> (GROUP - queues.len()), reta }
}

/// The hash of a packet as DPDK computes it in software (`rte_softrss`), and a port in hardware.
/// `input` is what is hashed: source address, destination address, and for TCP and UDP both ports in
/// a third word.
///
/// # Panics
/// When the key is too short for the input: it has to be one word longer.
pub fn softrss(input: &[u32], key: &[u8]) -> u32 {
    assert!(key.len() >= 4 * (input.len() + 1), "{} bytes of key", key.len());
    // DPDK reads the key by words.
    let key: Vec<u32> = key
        .chunks_exact(4)
        .map(|word| u32::from_ne_bytes([word[0], word[1], word[2], word[3]]))
        .collect();
    // SAFETY: DPDK reads `input.len()` words of the one, and one more of the other.
    unsafe { sys::shunt_softrss(input.as_ptr(), input.len() as u32, key.as_ptr().cast()) }
}
