//! The TOML service file: parsing, validation, errors with line and column.
//!
//! [`Config::load`] reads a file and returns a [`Config`] that makes sense as a whole, or
//! [`Errors`] that name file, line and column, show the line, and say what to write instead. A mistake in
//! syntax, an unknown key or a value of the wrong type ends the reading at once; mistakes in
//! meaning are collected, so that one run shows them all.
//!
//! | section | says | type |
//! | --- | --- | --- |
//! | `[dpdk]` | lcores, memory, mbufs, extra EAL arguments | [`Dpdk`] |
//! | `[[port]]` | one per role, `outside` and `inside` | [`Port`] |
//! | `[[route]]` | static routes and the default gateway | [`Route`] |
//! | `[[service]]`, `[[service.server]]` | virtual services and their real servers | [`VirtualService`], [`RealServer`] |
//! | `[[snat]]` | inside networks that reach the outside behind an address | [`Snat`] |
//! | `[log]` | how much is said | [`Log`] |
//!
//! A VIP, or the `to` of an `[[snat]]` rule, that is no address of a port becomes one of the
//! director's: [`Config::virtual_addresses`] lists them, and the outside port answers ARP for them.
#![forbid(unsafe_code)]

#[macro_use]
mod keyword;

mod device;
mod dpdk;
mod eal;
mod error;
mod fault;
mod log;
mod port;
mod raw;
mod route;
mod service;
mod snat;
mod source;
mod suggest;
mod toml_error;
mod validate;

pub use device::{Device, PciAddress};
pub use dpdk::{Dpdk, HugePages};
pub use error::{ConfigError, Errors, Place};
pub use log::{Level, Log};
pub use port::{Checksum, Port, Ports, Role, Vlan};
pub use route::Route;
pub use service::{Protocol, RealServer, Scheduler, VirtualService};
pub use snat::Snat;

use std::{net::Ipv4Addr, path::Path};

use source::Source;

/// A service file that has been read, completed with defaults and validated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// `[dpdk]`.
    pub dpdk: Dpdk,
    /// The two `[[port]]` sections.
    pub ports: Ports,
    /// `[[route]]`, in the order of the file, destinations unique.
    pub routes: Vec<Route>,
    /// `[[service]]`, in the order of the file, protocol and VIP unique.
    pub services: Vec<VirtualService>,
    /// `[[snat]]`, in the order of the file, `from` networks disjoint.
    pub snat: Vec<Snat>,
    /// `[log]`.
    pub log: Log,
}

impl Config {
    /// Reads and validates the service file at `path`.
    ///
    /// # Errors
    /// A file that cannot be read or is not UTF-8, and whatever [`Config::parse`] refuses.
    pub fn load(path: &Path) -> Result<Config, Errors> {
        let file = path.display().to_string();
        let bytes = std::fs::read(path).map_err(|error| ConfigError::unreadable(&file, &error))?;
        match std::str::from_utf8(&bytes) {
            Ok(text) => Config::parse(&file, text),
            Err(error) => Err(ConfigError::not_utf8(&file, &bytes, error.valid_up_to()).into()),
        }
    }

    /// Validates `text` as a service file; `file_name` is only what errors call it.
    ///
    /// # Errors
    /// The first mistake in syntax, keys or types; otherwise every mistake in meaning, in the order
    /// of the file.
    pub fn parse(file_name: &str, text: &str) -> Result<Config, Errors> {
        let source = Source::new(file_name, text);
        let file = raw::File::parse(&source)?;
        validate::validate(&file, &source)
    }

    /// VIPs and SNAT addresses that are no port's own, each once, in the order of the file: the
    /// outside port answers ARP for them.
    pub fn virtual_addresses(&self) -> Vec<Ipv4Addr> {
        let vips = self.services.iter().map(|service| *service.vip.ip());
        let mut addresses = Vec::new();
        for address in vips.chain(self.snat.iter().map(|rule| rule.to)) {
            if !self.ports.own(address) && !addresses.contains(&address) {
                addresses.push(address);
            }
        }
        addresses
    }
}
