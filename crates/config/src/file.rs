//! The file as a whole: which sections there are, and how they come together.
//!
//! serde reads every key that there is, each value with its place; nothing is required and nothing is
//! defaulted there, as what is missing has no place of its own. Every section has its own module, which
//! makes of that what it means. Sections are read in the order in which they need one another: the
//! ports give the [`Network`](shunt_rules::Network), which the routes complete, and the rules are checked
//! against it. A section that is wrong never hides the mistakes of another, and causes none there: where
//! ports or routes are wrong there is no network, and nothing is said about what it would reach.

use serde::Deserialize;
use shunt_rules::{Defaults, LocalAddress, Location, Rules, SnatRule, Timeouts};

use crate::{
    Config, Errors, Ports, Side, dpdk,
    error::ConfigError,
    log, nat, port,
    report::Report,
    route, service, snat,
    source::{Source, Span},
    timeouts, toml_error,
    value::{Table, Tables},
};

/// The file as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct File {
    #[serde(default)]
    dpdk: Table<dpdk::Raw>,
    #[serde(default)]
    port: Tables<port::Raw>,
    #[serde(default)]
    route: Tables<route::Raw>,
    #[serde(default)]
    nat: Table<nat::Raw>,
    #[serde(default)]
    timeouts: Table<timeouts::Raw>,
    #[serde(default)]
    service: Tables<service::Raw>,
    #[serde(default)]
    snat: Tables<snat::Raw>,
    #[serde(default)]
    log: Table<log::Raw>,
}

impl File {
    pub(crate) fn parse(source: &Source) -> Result<File, ConfigError> {
        toml::from_str(source.text).map_err(|error| toml_error::explain(&error, source))
    }

    /// What the file, read from `source`, means.
    pub(crate) fn read(&self, source: &Source) -> Result<Config, Errors> {
        let mut report = Report::new(source);
        let port::Read { ports, network } =
            port::read(&self.port, dpdk::workers(&self.dpdk.0), &mut report);
        let (routes, network) = route::read(&self.route, network, &mut report);
        let dpdk = dpdk::read(&self.dpdk.0, ports.as_ref(), &mut report);
        let nat = nat::read(&self.nat.0, &mut report);
        let log = log::read(&self.log.0, &mut report);
        let rules = self.rules(ports.as_ref(), &mut report);
        let checked = match &network {
            Some(network) => rules.check(network),
            None => rules.check_values(),
        };
        if let Err(problems) = checked {
            let end = report.end();
            report.add_problems(problems, |location| self.locate(location).unwrap_or(end.clone()));
        }
        match (ports, report.into_errors()) {
            (Some(ports), None) => Ok(Config { dpdk, ports, routes, nat, rules, log }),
            (_, Some(errors)) => Err(errors),
            (None, None) => unreachable!("ports are missing and nobody said why"),
        }
    }

    fn rules(&self, ports: Option<&Ports>, report: &mut Report) -> Rules {
        let timeouts = timeouts::read(&self.timeouts.0, report).over(Timeouts::default());
        let dip = ports.and_then(|ports| ports.get(Side::Inside).addresses.first());
        Rules {
            services: service::read(&self.service, report),
            snat: snat::read(&self.snat, report),
            local_addresses: nat::read_local_addresses(&self.nat.0, report),
            hairpin: dip.map(|dip| LocalAddress {
                address: dip.addr().into(),
                ports: SnatRule::DEFAULT_PORTS,
            }),
            defaults: Defaults { timeouts, ..nat::read_defaults(&self.nat.0, report) },
        }
    }

    /// The place of a value of the rules that the file means, if it is written there.
    fn locate(&self, location: &Location) -> Option<Span> {
        match location {
            Location::Service { index, part, .. } => {
                Some(service::locate(self.service.get(*index)?, *part))
            }
            Location::Snat { index, part, .. } => Some(snat::locate(self.snat.get(*index)?, *part)),
            Location::LocalAddress { index, part, .. } => {
                Some(nat::locate(self.nat.0.local_address.get(*index)?, *part))
            }
            Location::Hairpin(_) => None,
            Location::Timeout(key) => timeouts::locate(&self.timeouts.0, key),
        }
    }

    /// Refuses what a director that runs `old` can't take over from the file, which means `new`: its
    /// lcores, its memory, its devices and the size of its table are fixed.
    pub(crate) fn check_fixed(
        &self,
        source: &Source,
        old: &Config,
        new: &Config,
    ) -> Result<(), Errors> {
        let mut report = Report::new(source);
        dpdk::check_fixed(&self.dpdk.0, &old.dpdk, &new.dpdk, &mut report);
        for side in Side::BOTH {
            port::check_fixed(&self.port, old.ports.get(side), new.ports.get(side), &mut report);
        }
        nat::check_fixed(&self.nat.0, &old.nat, &new.nat, &mut report);
        report.into_errors().map_or(Ok(()), Err)
    }
}
