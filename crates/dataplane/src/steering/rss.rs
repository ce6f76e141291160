//! Telling a port which worker owns what.
//!
//! A driver may refuse a key, pass over it in silence, or have a redirection table of its own. What
//! it takes is read back; where that isn't what it was told, its packets still come by several
//! queues, and are handed to their owners in software.
//!
//! Hash types that leave out one endpoint (`RTE_ETH_RSS_L3_SRC_ONLY` and the like) are not used. They
//! would be needed where a key can't be set; but drivers differ in what is hashed then, so that
//! software could not tell the owner, and both directions would not meet.

use std::fmt;

use shunt_dpdk::{DEFAULT_KEY_LEN, Port, PortConfig, PortInfo, RssConfig, RssHashTypes};
use shunt_nat::Side;

use super::{
    key::{MIN_KEY_LEN, rss_key},
    owners::{Owners, WorkerId},
};

/// What is hashed where a port can: fragments, and what is neither TCP nor UDP, without ports.
const WANTED: RssHashTypes = RssHashTypes::IPV4
    .union(RssHashTypes::FRAG_IPV4)
    .union(RssHashTypes::IPV4_TCP)
    .union(RssHashTypes::IPV4_UDP)
    .union(RssHashTypes::IPV4_OTHER);

/// How a port spreads packets over its queues.
pub(crate) enum Rss {
    /// As it was told, by a table of so many entries.
    Configured(RssHashTypes, u16),
    /// In a way of the driver's own, for this reason.
    DriverDefault(&'static str),
}

impl Rss {
    /// What is hashed, if it does as it was told.
    pub(crate) fn configured(&self) -> Option<RssHashTypes> {
        match self {
            Rss::Configured(hash_types, _) => Some(*hash_types),
            Rss::DriverDefault(_) => None,
        }
    }
}

impl fmt::Display for Rss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Rss::Configured(_, entries) => write!(f, "RSS key set, {entries}-entry table"),
            Rss::DriverDefault(why) => write!(f, "{why}: workers hand over to each other"),
        }
    }
}

/// Entries of a port's redirection table, if it has RSS for what NAT needs and a table that the hash's
/// low bits index.
pub(crate) fn redirection_entries(info: &PortInfo) -> Option<usize> {
    let entries = usize::from(info.reta_size);
    let is_usable = entries >= 2
        && entries.is_power_of_two()
        && hashes_ports(info.rss_hash_types)
        && key_len(info) >= MIN_KEY_LEN;
    is_usable.then_some(entries)
}

/// What the port on one side is started with, if it has RSS.
pub(crate) fn wanted(info: &PortInfo, side: Side, owners: &Owners) -> Option<RssConfig> {
    let hash_types = info.rss_hash_types & WANTED;
    if hash_types.is_empty() {
        return None;
    }
    let key = redirection_entries(info).map(|_| rss_key(side, owners.index_bits(), key_len(info)));
    Some(RssConfig { key, hash_types })
}

/// Tells a port that was started with `config` which queue each packet belongs into, and finds out
/// whether it has taken it in.
pub(crate) fn set_up(
    port: &mut Port,
    info: &PortInfo,
    config: &PortConfig,
    owners: &Owners,
) -> Rss {
    let Some(rss) = &config.rss else { return Rss::DriverDefault("no RSS") };
    let Some(key) = &rss.key else { return Rss::DriverDefault("no RSS table to set") };
    // Drivers may read back more hash types than were asked for, or fewer: what is hashed under
    // the key counts.
    let hashed = |port: &Port| {
        let set = port.id().rss(key.len() as u8).ok()?;
        let hash_types = set.hash_types & rss.hash_types;
        (set.key.as_ref() == Some(key) && hashes_ports(hash_types)).then_some(hash_types)
    };
    let hash_types = match hashed(port) {
        None if port.set_rss(rss).is_ok() => hashed(port),
        known => known,
    };
    let Some(hash_types) = hash_types else { return Rss::DriverDefault("RSS key not taken") };
    let table =
        owners.redirection(usize::from(info.reta_size), |owner| queue_of(owner, config.rx_queues));
    let is_set = port.set_redirection(&table).is_ok()
        && port.id().redirection(info.reta_size).is_ok_and(|set| set == table);
    if is_set {
        Rss::Configured(hash_types, info.reta_size)
    } else {
        Rss::DriverDefault("RSS table not taken")
    }
}

/// Whether packets of TCP or UDP are spread by their ports, too.
fn hashes_ports(hash_types: RssHashTypes) -> bool {
    hash_types.intersects(RssHashTypes::IPV4_TCP | RssHashTypes::IPV4_UDP)
}

/// The queue that the packets of an owner come by.
pub(crate) fn queue_of(owner: WorkerId, queues: u16) -> u16 {
    u16::from(owner.0) % queues
}

fn key_len(info: &PortInfo) -> usize {
    match info.hash_key_size {
        0 => DEFAULT_KEY_LEN,
        len => len.into(),
    }
}
