//! `[[port]]`: its keys, what they can be, and what they come to.

use std::net::Ipv4Addr;

use ipnet::{IpNet, Ipv4Net};
use serde::Deserialize;
use shunt_rules::{Network, Reason, Side, check_edge, check_host};
use strum::{Display, IntoStaticStr, VariantArray};
use toml::Spanned;

use crate::{
    Device, address,
    fault::Fault,
    report::{Report, span},
    value::{Scalar, Table, Tables, Value},
};

/// A section as the file has it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Raw {
    pub(crate) name: Value<String>,
    pub(crate) role: Value<String>,
    pub(crate) device: Value<String>,
    pub(crate) addresses: Value<Vec<Spanned<String>>>,
    pub(crate) mtu: Value<i64>,
    pub(crate) queues: Value<Scalar>,
    pub(crate) rx_descriptors: Value<i64>,
    pub(crate) tx_descriptors: Value<i64>,
    pub(crate) checksum: Value<String>,
    pub(crate) vlan: Value<String>,
}

/// Who computes checksums of packets sent and checks those received.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Display, IntoStaticStr, VariantArray)]
#[strum(serialize_all = "kebab-case")]
pub enum Checksum {
    /// The device where it can, the CPU where it can't.
    Auto,
    /// The device; the director doesn't start if it can't.
    Hardware,
    /// The CPU, whatever the device can.
    Software,
}

/// What becomes of 802.1Q frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Display, IntoStaticStr, VariantArray)]
#[strum(serialize_all = "kebab-case")]
pub enum Vlan {
    /// Counted and dropped.
    Drop,
    /// Handed to the other port untouched.
    Pass,
}

/// A DPDK port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Port {
    /// Key `name`: what logs and counters call it.
    pub name: String,
    /// Key `role`: which side of the director it is on.
    pub side: Side,
    /// Key `device`.
    pub device: Device,
    /// Key `addresses`, at least one: the port's own addresses, each with the prefix of its
    /// network.
    pub addresses: Vec<Ipv4Net>,
    /// Key `mtu`, by default 1500: bytes of an IPv4 packet, 576 to 9216. 576 is what every host
    /// must accept (RFC 791 §3.1); a link with less would fragment what nobody expects to be
    /// fragmented.
    pub mtu: u16,
    /// Key `queues`, at most one for each worker: receive and transmit queues. `None` for `"auto"`,
    /// the default: one for each worker if the device has so many, else as many as it has.
    pub queues: Option<u16>,
    /// Key `rx-descriptors`, by default 1024: packets that a receive queue holds, 64 to 32768.
    pub rx_descriptors: u16,
    /// Key `tx-descriptors`, by default 1024: packets that a transmit queue holds, 64 to 32768.
    pub tx_descriptors: u16,
    /// Key `checksum`, by default [`Checksum::Auto`].
    pub checksum: Checksum,
    /// Key `vlan`, by default [`Vlan::Drop`].
    pub vlan: Vlan,
}

/// The two ports of a director.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ports {
    /// The port towards the clients.
    pub outside: Port,
    /// The port towards the real servers.
    pub inside: Port,
}

impl Ports {
    /// The port on this side.
    pub fn get(&self, side: Side) -> &Port {
        match side {
            Side::Outside => &self.outside,
            Side::Inside => &self.inside,
        }
    }

    /// Both ports, outside first.
    pub fn iter(&self) -> impl Iterator<Item = &Port> {
        [&self.outside, &self.inside].into_iter()
    }

    /// Bytes of the largest frame of either port: its MTU, an Ethernet header and an 802.1Q tag.
    pub fn max_frame(&self) -> u16 {
        self.outside.mtu.max(self.inside.mtu) + 14 + 4
    }

    /// Whether `address` is a port's own.
    pub fn own(&self, address: Ipv4Addr) -> bool {
        self.iter().flat_map(|port| &port.addresses).any(|own| own.addr() == address)
    }
}

/// Bytes; see [`Port::mtu`].
const MTU: std::ops::RangeInclusive<u16> = 576..=9216;
const DESCRIPTORS: std::ops::RangeInclusive<u16> = 64..=32768;
const NAME_LENGTH: std::ops::RangeInclusive<usize> = 1..=32;

/// What the `[[port]]` sections come to.
pub(crate) struct Read {
    /// Both ports, unless one is wrong.
    pub(crate) ports: Option<Ports>,
    /// What they connect to, if roles and addresses are right, whatever else isn't.
    pub(crate) network: Option<Network>,
}

/// What the sections say.
pub(crate) fn read(sections: &Tables<Raw>, workers: usize, report: &mut Report) -> Read {
    let drafts: Vec<Draft> =
        sections.iter().map(|section| Draft::read(section, workers, report)).collect();
    let roles_are_right = check_roles(sections, &drafts, report);
    check_names(&drafts, report);
    check_devices(&drafts, report);
    let network = addresses(&drafts, report)
        .filter(|_| roles_are_right)
        .map(|addresses| Network { addresses, routes: Vec::new() });

    let port = |role| drafts.iter().find(|draft| draft.has(role)).and_then(Draft::port);
    let ports = match (port(Side::Outside), port(Side::Inside)) {
        (Some(outside), Some(inside)) => Some(Ports { outside, inside }),
        _ => None,
    };
    Read { ports, network }
}

/// One `[[port]]`: what is right about it, with places for what is compared with other ports.
struct Draft {
    name: Option<Spanned<String>>,
    role: Option<Spanned<Side>>,
    device: Option<Spanned<Device>>,
    addresses: Option<Vec<Spanned<Ipv4Net>>>,
    mtu: u16,
    queues: Option<u16>,
    rx_descriptors: u16,
    tx_descriptors: u16,
    checksum: Checksum,
    vlan: Vlan,
}

impl Draft {
    fn read(section: &Spanned<Table<Raw>>, workers: usize, report: &mut Report) -> Draft {
        let raw = &section.get_ref().0;
        let name = report
            .required(&raw.name, section, "name", "name = \"outside\"")
            .and_then(|name| report.parse(name, port_name));
        let role = report
            .required(&raw.role, section, "role", "role = \"outside\"")
            .and_then(|role| Some(Spanned::new(role.span(), report.keyword("role", role)?)));
        let example = "device = \"net_af_packet0,iface=eth0\"";
        let device = report
            .required(&raw.device, section, "device", example)
            .and_then(|device| report.parse(device, Device::parse));
        let example = "addresses = [\"192.168.1.100/24\"]";
        let addresses = report
            .required(&raw.addresses, section, "addresses", example)
            .and_then(|addresses| own_addresses(addresses, report));
        let help = "write bytes of an IPv4 packet: 1500 on Ethernet, 9000 with jumbo frames";
        let mtu = report.number("mtu", &raw.mtu, MTU, 1500, help);
        Draft {
            name,
            role,
            device,
            addresses,
            mtu,
            queues: queues(&raw.queues, workers, report),
            rx_descriptors: descriptors("rx-descriptors", &raw.rx_descriptors, report),
            tx_descriptors: descriptors("tx-descriptors", &raw.tx_descriptors, report),
            checksum: report.keyword_or("checksum", &raw.checksum, Checksum::Auto),
            vlan: report.keyword_or("vlan", &raw.vlan, Vlan::Drop),
        }
    }

    fn has(&self, role: Side) -> bool {
        self.role.as_ref().is_some_and(|own| *own.get_ref() == role)
    }

    fn port(&self) -> Option<Port> {
        let addresses = self.addresses.as_ref()?;
        Some(Port {
            name: self.name.as_ref()?.get_ref().clone(),
            side: *self.role.as_ref()?.get_ref(),
            device: self.device.as_ref()?.get_ref().clone(),
            addresses: addresses.iter().map(|address| *address.get_ref()).collect(),
            mtu: self.mtu,
            queues: self.queues,
            rx_descriptors: self.rx_descriptors,
            tx_descriptors: self.tx_descriptors,
            checksum: self.checksum,
            vlan: self.vlan,
        })
    }
}

fn port_name(text: &str) -> Result<String, Fault> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
    if NAME_LENGTH.contains(&text.len()) && text.chars().all(allowed) {
        Ok(text.to_owned())
    } else {
        Err(Fault::new(format!("`{text}` is no name for a port"))
            .help("write 1 to 32 letters, digits, `-`, `_` and `.`, as in `name = \"outside\"`"))
    }
}

/// Refuses an address of the port's own that no host can have.
fn check_own(net: Ipv4Net) -> Result<(), Reason> {
    check_host(net.addr().into())?;
    check_edge(net.into(), net.addr().into())
}

/// The port's addresses, if every one is right.
fn own_addresses(
    addresses: &Spanned<Vec<Spanned<String>>>,
    report: &mut Report,
) -> Option<Vec<Spanned<Ipv4Net>>> {
    if addresses.get_ref().is_empty() {
        let fault = Fault::new("the port has no address")
            .help("write at least one, as in `addresses = [\"192.168.1.100/24\"]`");
        report.add(addresses.span(), fault);
        return None;
    }
    let parse = |text: &str| {
        let net = address::host_in_network(text)?;
        check_own(net)?;
        Ok(net)
    };
    let parsed: Vec<_> =
        addresses.get_ref().iter().map(|address| report.parse(address, parse)).collect();
    parsed.into_iter().collect()
}

/// A queue is polled by one worker: with more of them than workers, some would be polled by nobody.
fn queues(value: &Value<Scalar>, workers: usize, report: &mut Report) -> Option<u16> {
    let value = value.as_ref()?;
    let parsed = match value.get_ref() {
        Scalar::Text(text) if text == "auto" => Ok(None),
        Scalar::Number(number) => match usize::try_from(*number) {
            Ok(queues) if queues > workers => Err(Fault::new(format!(
                "`queues` is {queues}, and workers are {workers}; a queue needs a worker"
            ))
            .help("write `queues = \"auto\"`, or more `worker-lcores` under `[dpdk]`")),
            Ok(queues @ 1..) => Ok(Some(queues as u16)),
            _ => Err(no_queues(value.get_ref())),
        },
        other => Err(no_queues(other)),
    };
    report.check(value.span(), parsed).flatten()
}

fn no_queues(value: &Scalar) -> Fault {
    Fault::new(format!("`queues` is {value}; it can be \"auto\" or a number from 1")).help(
        "write `queues = \"auto\"` for as many as there are workers, as far as the device has them",
    )
}

fn descriptors(key: &str, value: &Value<i64>, report: &mut Report) -> u16 {
    let help = format!("write how many packets a queue holds, as in `{key} = 1024`");
    report.number(key, value, DESCRIPTORS, 1024, &help)
}

/// Whether there is exactly one port of each role.
fn check_roles(sections: &Tables<Raw>, drafts: &[Draft], report: &mut Report) -> bool {
    let Some(last) = sections.last() else {
        let fault = Fault::new("there is no `[[port]]` in this file")
            .help("add two, one with `role = \"outside\"` and one with `role = \"inside\"`");
        report.add(report.end(), fault);
        return false;
    };
    report.duplicates(drafts.iter().filter_map(|draft| draft.role.as_ref()), |role, line| {
        Fault::new(format!("a second port with role `{role}`; the first is on line {line}"))
            .help("a director has one port outside and one inside; write the other role")
    });
    let ports_with = |role| drafts.iter().filter(|draft| draft.has(role)).count();
    // A port whose role cannot be read may well be the one that is missed.
    let all_are_known = drafts.iter().all(|draft| draft.role.is_some());
    for role in Side::BOTH {
        if ports_with(role) == 0 && all_are_known {
            let fault = Fault::new(format!("no port has role `{role}`"))
                .help(format!("add a `[[port]]` with `role = \"{role}\"`"));
            report.add(last.span(), fault);
        }
    }
    Side::BOTH.into_iter().all(|role| ports_with(role) == 1)
}

fn check_names(drafts: &[Draft], report: &mut Report) {
    report.duplicates(drafts.iter().filter_map(|draft| draft.name.as_ref()), |name, line| {
        Fault::new(format!("another port is called `{name}`, on line {line}"))
            .help("write another name; logs and counters tell ports apart by it")
    });
}

/// Refuses two ports on one device: one name for DPDK, or one of the kernel's interfaces.
fn check_devices(drafts: &[Draft], report: &mut Report) {
    let mut seen: Vec<&Spanned<Device>> = Vec::new();
    for device in drafts.iter().filter_map(|draft| draft.device.as_ref()) {
        let (name, interface) = (device.get_ref().name(), device.get_ref().interface());
        let earlier = seen.iter().find_map(|other| {
            let line = report.line(&other.span());
            let other = other.get_ref();
            if other.name() == name {
                return Some(format!("device `{name}` is taken by the port on line {line}"));
            }
            let interface = interface.filter(|own| other.interface() == Some(*own))?;
            Some(format!("interface `{interface}` is taken by the port on line {line}"))
        });
        match earlier {
            Some(message) => {
                let fault = Fault::new(message).help("give each port a device of its own");
                report.add(device.span(), fault);
            }
            None => seen.push(device),
        }
    }
}

/// The addresses of all ports with the roles of their ports, if all are right and fit together.
fn addresses(drafts: &[Draft], report: &mut Report) -> Option<Vec<(Side, IpNet)>> {
    let mut addresses = Vec::new();
    let mut seen: Vec<(&Spanned<Ipv4Net>, Option<Side>)> = Vec::new();
    let mut fit = true;
    for draft in drafts {
        let role = draft.role.as_ref().map(|role| *role.get_ref());
        for address in draft.addresses.iter().flatten() {
            let net = *address.get_ref();
            match seen.iter().find_map(|&(earlier, of)| {
                clash(net, *earlier.get_ref(), of == role, report.line(&earlier.span()))
            }) {
                Some(fault) => {
                    report.add(address.span(), fault);
                    fit = false;
                }
                None => seen.push((address, role)),
            }
            addresses.extend(role.map(|role| (role, net.into())));
        }
    }
    (fit && drafts.iter().all(|draft| draft.addresses.is_some())).then_some(addresses)
}

/// Why `net` cannot stand beside `earlier`, written on `line`, on the same port or the other.
fn clash(net: Ipv4Net, earlier: Ipv4Net, same_port: bool, line: usize) -> Option<Fault> {
    let overlap = net.contains(&earlier.network()) || earlier.contains(&net.network());
    if net.addr() == earlier.addr() {
        let message = format!("{} is on line {line} already", net.addr());
        Some(Fault::new(message).help("write each address once"))
    } else if overlap && !same_port {
        let (net, earlier) = (net.trunc(), earlier.trunc());
        let message = format!("network {net} overlaps {earlier} of the other port, on line {line}");
        Some(Fault::new(message).help("outside and inside must be networks of their own"))
    } else {
        None
    }
}

/// Refuses what a director with the `old` port can't take.
pub(crate) fn check_fixed(sections: &Tables<Raw>, old: &Port, new: &Port, report: &mut Report) {
    let has_role =
        |raw: &Raw| raw.role.as_ref().is_some_and(|role| *role.get_ref() == new.side.to_string());
    let Some(section) = sections.iter().find(|section| has_role(&section.get_ref().0)) else {
        return;
    };
    let raw = &section.get_ref().0;
    let Port {
        name,
        side: _,      // by which the two were matched
        addresses: _, // they can change
        device,
        mtu,
        queues,
        rx_descriptors,
        tx_descriptors,
        checksum,
        vlan,
    } = old;
    let place = section.span();
    let mut check = |is_same, what, value| report.fixed(is_same, what, value, &place);
    check(*name == new.name, "`name`", span(&raw.name));
    check(*device == new.device, "`device`", span(&raw.device));
    check(*mtu == new.mtu, "`mtu`", span(&raw.mtu));
    check(*queues == new.queues, "`queues`", span(&raw.queues));
    let (rx, tx) = (span(&raw.rx_descriptors), span(&raw.tx_descriptors));
    check(*rx_descriptors == new.rx_descriptors, "`rx-descriptors`", rx);
    check(*tx_descriptors == new.tx_descriptors, "`tx-descriptors`", tx);
    check(*checksum == new.checksum, "`checksum`", span(&raw.checksum));
    check(*vlan == new.vlan, "`vlan`", span(&raw.vlan));
}
