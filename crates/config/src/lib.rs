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
//! | `[nat]` | the NAT engine as a whole | [`Nat`], [`Defaults`](shunt_rules::Defaults) |
//! | `[[nat.local-address]]` | the source addresses of `full-nat` | [`LocalAddress`](shunt_rules::LocalAddress) |
//! | `[timeouts]` | how long connections live, by state | [`Timeouts`](shunt_rules::Timeouts) |
//! | `[[service]]`, `[[service.server]]` | virtual services and their real servers | [`VirtualService`](shunt_rules::VirtualService), [`RealServer`](shunt_rules::RealServer) |
//! | `[[snat]]` | inside networks that reach the outside behind an address | [`SnatRule`](shunt_rules::SnatRule) |
//! | `[log]` | how much is said | [`Log`] |
//!
//! A VIP, or the `to` of an `[[snat]]` rule, that is no address of a port becomes one of the
//! director's: [`Config::virtual_addresses`] lists them, and the outside port answers ARP for them.
//! Inside, the same holds for [`Config::local_addresses`].
#![forbid(unsafe_code)]

mod address;
mod change;
mod device;
mod dpdk;
mod duration;
mod eal;
mod error;
mod fault;
mod file;
mod log;
mod nat;
mod port;
mod report;
mod route;
mod server;
mod service;
mod snat;
mod source;
mod suggest;
mod timeouts;
mod toml_error;
mod value;

pub use change::Change;
pub use device::{Device, PciAddress};
pub use dpdk::{Dpdk, HugePages, Idle};
pub use error::{ConfigError, Errors, SourceLocation};
pub use log::{Level, Log};
pub use nat::Nat;
pub use port::{Checksum, Port, Ports, Vlan};
pub use shunt_rules::{Route, Side};

use std::{collections::HashSet, net::IpAddr, path::Path};

use file::File;
use shunt_rules::{Network, Rules};
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
    /// `[nat]`, as far as it is fixed.
    pub nat: Nat,
    /// All other sections: `[[service]]`, `[[snat]]` and `[[nat.local-address]]` in the order of the
    /// file, `[timeouts]` and the rest of `[nat]`. They pass [`Rules::check`] on
    /// [`Config::network`].
    pub rules: Rules,
    /// `[log]`.
    pub log: Log,
}

impl Config {
    /// Reads and validates the service file at `path`.
    ///
    /// # Errors
    /// A file that cannot be read or is not UTF-8, and whatever [`Config::parse`] refuses.
    pub fn load(path: &Path) -> Result<Config, Errors> {
        Config::parse(&path.display().to_string(), &read(path)?)
    }

    /// Reads and validates the service file at `path` for a director that runs this one.
    ///
    /// # Errors
    /// Those of [`Config::load`], and whatever [`Config::parse_change`] refuses.
    pub fn load_change(&self, path: &Path) -> Result<Config, Errors> {
        self.parse_change(&path.display().to_string(), &read(path)?)
    }

    /// Validates `text` as a service file; `file_name` is only what errors call it.
    ///
    /// ```
    /// use shunt_config::Config;
    ///
    /// let text = r#"
    /// [[port]]
    /// name = "outside"
    /// role = "outside"
    /// device = "net_tap0"
    /// addresses = ["192.168.1.100/24"]
    ///
    /// [[port]]
    /// name = "inside"
    /// role = "inside"
    /// device = "net_tap1"
    /// addresses = ["192.168.2.200/24"]
    ///
    /// [[service]]
    /// vip = "192.168.1.100:80"
    /// scheduler = "wlc"
    /// server = [{ address = "192.168.2.210" }, { address = "192.168.2.220" }]
    /// "#;
    /// let config = Config::parse("shunt.toml", text)?;
    /// let web = config.rules.service("tcp-192.168.1.100-80").unwrap();
    /// assert_eq!(web.servers.len(), 2);
    ///
    /// let errors = Config::parse("shunt.toml", &text.replace("wlc", "wcl")).unwrap_err();
    /// assert!(errors.to_string().starts_with("shunt.toml:16:13: `scheduler` is \"wcl\""));
    /// # Ok::<(), shunt_config::Errors>(())
    /// ```
    ///
    /// # Errors
    /// The first mistake in syntax, keys or types; otherwise every mistake in meaning, in the order
    /// of the file.
    pub fn parse(file_name: &str, text: &str) -> Result<Config, Errors> {
        let source = Source::new(file_name, text);
        File::parse(&source)?.read(&source)
    }

    /// Validates `text` as what a director that runs this configuration is to run from now on;
    /// `file_name` is only what errors call it. Services that stay as they are, are shared with this
    /// configuration.
    ///
    /// # Errors
    /// Those of [`Config::parse`]; if there are none, whatever differs from this configuration and
    /// needs a restart to change: `[dpdk]`, a `[[port]]` but for its `addresses`, and
    /// `connections`.
    pub fn parse_change(&self, file_name: &str, text: &str) -> Result<Config, Errors> {
        let source = Source::new(file_name, text);
        let file = File::parse(&source)?;
        let mut new = file.read(&source)?;
        file.check_fixed(&source, self, &new)?;
        new.rules.share_services(&self.rules);
        Ok(new)
    }

    /// What the director is connected to, and what lies behind: what a change of its rules is to be
    /// [checked](Rules::check) against.
    #[must_use]
    pub fn network(&self) -> Network {
        let addresses = |port: &Port| {
            let side = port.side;
            port.addresses.clone().into_iter().map(move |address| (side, address.into()))
        };
        Network {
            addresses: self.ports.iter().flat_map(addresses).collect(),
            routes: self.routes.clone(),
        }
    }

    /// VIPs and SNAT addresses that are no port's own, each once, in the order of the file: the
    /// outside port answers ARP for them.
    pub fn virtual_addresses(&self) -> Vec<IpAddr> {
        let endpoints = self.rules.services.iter().flat_map(|service| &service.endpoints);
        let sources = self.rules.snat.iter().flat_map(|rule| &rule.to).copied();
        self.foreign(endpoints.map(|endpoint| endpoint.address).chain(sources))
    }

    /// Local addresses of `full-nat` that are no port's own, each once, in the order of the file:
    /// the inside port answers ARP for them.
    pub fn local_addresses(&self) -> Vec<IpAddr> {
        self.foreign(self.rules.local_addresses.iter().map(|local| local.address))
    }

    /// Those of `addresses` that no port has, each once.
    fn foreign(&self, addresses: impl Iterator<Item = IpAddr>) -> Vec<IpAddr> {
        let own = self.ports.iter().flat_map(|port| &port.addresses);
        let mut seen: HashSet<IpAddr> = own.map(|own| own.addr().into()).collect();
        addresses.filter(|address| seen.insert(*address)).collect()
    }
}

/// The text of a file.
fn read(path: &Path) -> Result<String, ConfigError> {
    let file = path.display().to_string();
    let bytes = std::fs::read(path).map_err(|error| ConfigError::unreadable(&file, &error))?;
    String::from_utf8(bytes).map_err(|error| {
        let valid_up_to = error.utf8_error().valid_up_to();
        ConfigError::not_utf8(&file, error.as_bytes(), valid_up_to)
    })
}
