//! The `device` of a port: a PCI address or a virtual device of DPDK's.

use std::fmt;

use crate::fault::Fault;

/// The device under a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Device {
    /// A network card bound to a driver that DPDK can use.
    Pci(PciAddress),
    /// A virtual device.
    Vdev {
        /// The driver's name and a suffix of one's own, as in `net_af_packet0`.
        name: String,
        /// What `--vdev` takes: the name and the driver's arguments, as in
        /// `net_af_packet0,iface=outside0`.
        devargs: String,
    },
}

/// The place of a card on the PCI bus. Displays as DPDK names it: `0000:03:00.0`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PciAddress {
    /// Domain, 32 bits as in DPDK's `struct rte_pci_addr`; 0 where the file doesn't say.
    pub domain: u32,
    /// Bus.
    pub bus: u8,
    /// Device on the bus, 0 to 31.
    pub device: u8,
    /// Function of the device, 0 to 7.
    pub function: u8,
}

const HELP: &str = "write a virtual device, as in `net_af_packet0,iface=eth0`, or the PCI address \
                    that `dpdk-devbind.py --status` shows, as in `0000:03:00.0`";

/// Bytes that EAL keeps for a device name, with the NUL at its end (`RTE_DEV_NAME_MAX_LEN`).
const NAME_SIZE: usize = 64;

impl Device {
    /// The name under which DPDK knows the port (`rte_eth_dev_get_port_by_name`).
    pub fn name(&self) -> String {
        match self {
            Device::Pci(address) => address.to_string(),
            Device::Vdev { name, .. } => name.clone(),
        }
    }

    /// The EAL arguments that make the device a port: `--allow` and its address, or `--vdev` and
    /// its devargs.
    pub fn eal_args(&self) -> Vec<String> {
        match self {
            Device::Pci(address) => vec!["--allow".to_owned(), address.to_string()],
            Device::Vdev { devargs, .. } => vec!["--vdev".to_owned(), devargs.clone()],
        }
    }

    /// The interface of the kernel's that the device's arguments name (`iface=`), if they do.
    pub fn interface(&self) -> Option<&str> {
        match self {
            Device::Pci(_) => None,
            Device::Vdev { devargs, .. } => {
                devargs.split(',').find_map(|argument| argument.strip_prefix("iface="))
            }
        }
    }

    /// Reads what the file writes.
    pub(crate) fn parse(text: &str) -> Result<Device, Fault> {
        if text.is_empty() {
            return Err(Fault::new("`device` is empty").help(HELP));
        }
        if text.contains(char::is_control) {
            return Err(Fault::new("`device` has a control character in it").help(HELP));
        }
        let (name, arguments) = text.split_once(',').unwrap_or((text, ""));
        if is_vdev(name) {
            parse_vdev(name, arguments, text)
        } else if name.contains(':') {
            parse_pci(name, text)
        } else {
            Err(Fault::new(not_a_device(name)).help(help_for(name)))
        }
    }
}

/// Whether `name` begins like the name of a DPDK network driver: `net_…`, the older `eth_…`, or
/// `virtio_user…`.
fn is_vdev(name: &str) -> bool {
    ["net_", "eth_", "virtio_user"].iter().any(|class| name.starts_with(class))
}

fn not_a_device(name: &str) -> String {
    if is_interface(name) {
        format!(
            "`{name}` is a name of the kernel's; a device is a DPDK virtual device or a PCI address"
        )
    } else {
        format!("`{name}` is neither a DPDK virtual device nor a PCI address")
    }
}

fn help_for(name: &str) -> String {
    if is_interface(name) { HELP.replace("eth0", name) } else { HELP.to_owned() }
}

/// Whether the kernel could call an interface so (`IFNAMSIZ` is 16, with the NUL).
fn is_interface(name: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
    (1..16).contains(&name.len()) && name.chars().all(allowed)
}

fn parse_vdev(name: &str, arguments: &str, text: &str) -> Result<Device, Fault> {
    let odd = name.chars().find(|&c| !(c.is_ascii_alphanumeric() || c == '_' || c == '-'));
    if let Some(odd) = odd {
        let help = format!("separate the name from its arguments by a comma: {HELP}");
        return Err(
            Fault::new(format!("the virtual device name `{name}` has a `{odd}` in it")).help(help)
        );
    }
    if name.len() >= NAME_SIZE {
        let message = format!(
            "the virtual device name has {} characters; DPDK takes up to {}",
            name.len(),
            NAME_SIZE - 1
        );
        return Err(Fault::new(message).help("write a shorter name, as in `net_af_packet0`"));
    }
    if text.ends_with(',') {
        return Err(Fault::new("`device` ends in a comma").help("write the argument or no comma"));
    }
    if let Some(odd) = arguments.split(',').find(|argument| argument.starts_with([' ', '\t'])) {
        return Err(Fault::new(format!("there is a blank before `{}`", odd.trim()))
            .help(format!("write no blank after the comma: `{name},{}`", odd.trim())));
    }
    let device = Device::Vdev { name: name.to_owned(), devargs: text.to_owned() };
    let takes_interface = name.starts_with("net_af_packet") || name.starts_with("net_af_xdp");
    if takes_interface && device.interface().is_none_or(str::is_empty) {
        return Err(Fault::new(format!("`{name}` doesn't say which interface it takes"))
            .help(format!("name one that `ip link` shows: `{name},iface=eth0`")));
    }
    Ok(device)
}

fn parse_pci(address: &str, text: &str) -> Result<Device, Fault> {
    let help = "write domain:bus:device.function as `dpdk-devbind.py --status` shows it, as in \
                `0000:03:00.0`";
    if address != text {
        return Err(Fault::new("a PCI device takes no arguments").help(help));
    }
    PciAddress::parse(address)
        .map(Device::Pci)
        .ok_or_else(|| Fault::new(format!("`{address}` is no PCI address")).help(help))
}

impl PciAddress {
    /// Reads `0000:03:00.0` or, without the domain, `03:00.0`.
    fn parse(text: &str) -> Option<PciAddress> {
        let (place, function) = text.split_once('.')?;
        let (rest, device) = place.rsplit_once(':')?;
        let (domain, bus) = rest.rsplit_once(':').unwrap_or(("0", rest));
        let address = PciAddress {
            domain: hex(domain, 8)?,
            bus: hex(bus, 2)?.try_into().ok()?,
            device: hex(device, 2)?.try_into().ok()?,
            function: hex(function, 1)?.try_into().ok()?,
        };
        (address.device < 32 && address.function < 8).then_some(address)
    }
}

fn hex(digits: &str, most: usize) -> Option<u32> {
    let is_hex = digits.chars().all(|c| c.is_ascii_hexdigit());
    if is_hex && digits.len() <= most { u32::from_str_radix(digits, 16).ok() } else { None }
}

impl fmt::Display for PciAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let PciAddress { domain, bus, device, function } = self;
        write!(f, "{domain:04x}:{bus:02x}:{device:02x}.{function:x}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(text: &str) -> String {
        let fault = Device::parse(text).expect_err(text);
        format!("{} / {}", fault.message, fault.help.expect("every fault of a device has a help"))
    }

    #[test]
    fn pci_addresses_are_normalised() {
        for (written, name) in [
            ("0000:03:00.0", "0000:03:00.0"),
            ("03:00.1", "0000:03:00.1"),
            ("10000:E1:1f.7", "10000:e1:1f.7"),
        ] {
            let device = Device::parse(written).expect(written);
            assert_eq!(device.name(), name);
            assert_eq!(device.eal_args(), ["--allow", name]);
        }
    }

    #[test]
    fn what_is_no_pci_address_is_refused() {
        for text in
            ["03:00", "03:00.8", "03:20.0", "003:00.0", "g3:00.0", "1:2:3:4.5", ":.", "+3:00.0"]
        {
            assert!(refusal(text).contains("is no PCI address"), "{text}");
        }
        assert!(refusal("03:00.0,representor=0").contains("takes no arguments"));
    }

    #[test]
    fn vdevs_keep_their_devargs() {
        let device = Device::parse("net_pcap0,rx_pcap=in put.pcap,tx_pcap=out.pcap").unwrap();
        assert_eq!(device.name(), "net_pcap0");
        assert_eq!(device.eal_args(), ["--vdev", "net_pcap0,rx_pcap=in put.pcap,tx_pcap=out.pcap"]);
        assert_eq!(device.interface(), None);
        let device = Device::parse("net_af_xdp1,start_queue=0,iface=inside0").unwrap();
        assert_eq!(device.interface(), Some("inside0"));
        assert!(Device::parse("eth_tap0").is_ok());
        assert!(Device::parse("virtio_user0,path=/dev/vhost-net").is_ok());
    }

    #[test]
    fn what_is_no_vdev_is_refused() {
        assert!(refusal("eth0").contains("net_af_packet0,iface=eth0"));
        assert!(refusal("enp3s0").contains("net_af_packet0,iface=enp3s0"));
        assert!(refusal("enp3s0").contains("dpdk-devbind.py --status"));
        assert!(refusal("???").contains("neither"));
        assert!(refusal("net_af_packet0").contains("iface="));
        assert!(refusal("net_af_packet0,iface=").contains("which interface"));
        assert!(refusal("net_af_packet0, iface=eth0").contains("no blank"));
        assert!(refusal("net_tap0 iface=x").contains("has a ` `"));
        assert!(refusal("net_tap0,").contains("comma"));
        assert!(refusal(&format!("net_{}", "x".repeat(60))).contains("64 characters"));
        assert!(refusal("net_tap0,iface=\0").contains("control character"));
    }
}
