//! Addresses, networks and endpoints as the file writes them.
//!
//! IPv6 is read where rules can have it; [`Rules::check`](shunt_rules::Rules::check) knows what the data
//! path can't do yet. The ports' own addresses are IPv4.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    ops::RangeInclusive,
};

use ipnet::{IpNet, Ipv4Net, ipv4_mask_to_prefix};
use shunt_rules::{Reason, VirtualEndpoint};

use crate::fault::Fault;

/// `192.168.1.100`.
pub(crate) fn address(text: &str) -> Result<IpAddr, Fault> {
    text.parse().map_err(|_| {
        let help = if text.contains('/') {
            "write the address alone, without a prefix length"
        } else if text.contains(':') {
            "write the address alone, without a port"
        } else {
            "write four numbers of 0 to 255, as in `192.168.1.100`; names are not looked up"
        };
        Fault::new(format!("`{text}` is not an IPv4 address")).help(help)
    })
}

/// `192.168.1.100`, where nothing but IPv4 will do.
pub(crate) fn ipv4_address(text: &str) -> Result<Ipv4Addr, Fault> {
    match address(text)? {
        IpAddr::V4(address) => Ok(address),
        address => Err(Reason::Ipv6(address).into()),
    }
}

/// `192.168.1.100/24`: a host's address and the prefix of its network.
pub(crate) fn host_in_network(text: &str) -> Result<Ipv4Net, Fault> {
    let (host, prefix) = text.split_once('/').unwrap_or((text, ""));
    let host = ipv4_address(host)?;
    let help = format!("write the prefix length of its network, 1 to 32, as in `{host}/24`");
    if prefix.is_empty() {
        return Err(Fault::new(format!("`{text}` has no prefix length")).help(help));
    }
    prefix_length(prefix)
        .filter(|&length| length > 0)
        .and_then(|length| Ipv4Net::new(host, length).ok())
        .ok_or_else(|| Fault::new(format!("`/{prefix}` is no prefix length")).help(help))
}

/// `192.168.2.0/24`: a network, without host bits.
pub(crate) fn network(text: &str) -> Result<IpNet, Fault> {
    let (base, prefix) = text.split_once('/').unwrap_or((text, ""));
    let base = address(base)?;
    let longest = if base.is_ipv4() { 32 } else { 128 };
    if prefix.is_empty() {
        return Err(Fault::new(format!("`{text}` has no prefix length")).help(format!(
            "write `{base}/{longest}` for that one host, or `/24`, … for its network"
        )));
    }
    let network = prefix_length(prefix)
        .and_then(|length| IpNet::new(base, length).ok())
        .ok_or_else(|| {
            Fault::new(format!("`/{prefix}` is no prefix length"))
                .help(format!("write `/0` to `/{longest}`"))
        })?;
    let truncated = network.trunc();
    if network == truncated {
        Ok(network)
    } else {
        Err(Fault::new(format!("`{text}` is a host in a network, not a network")).help(format!(
            "write `{truncated}` for the network, or `{base}/{longest}` for the host"
        )))
    }
}

/// A server's `192.168.2.210:80`, or without the port.
pub(crate) fn server_endpoint(text: &str) -> Result<(IpAddr, Option<u16>), Fault> {
    let (address, port) = split_endpoint(text)?;
    let help = "write one port of 1 to 65535, or leave it out for the port that was dialled";
    let port = port.map(l4_port).transpose().map_err(|fault| fault.help(help))?;
    Ok((address, port))
}

/// `192.168.1.100:80`, `192.168.1.100:8000-8999` or `192.168.1.100:*`.
pub(crate) fn virtual_endpoint(text: &str) -> Result<VirtualEndpoint, Fault> {
    let (address, ports) = split_endpoint(text)?;
    let ports = match ports {
        Some("*") => VirtualEndpoint::ANY_PORT,
        Some(range) if range.contains('-') => l4_ports(range)?,
        Some(port) => {
            let help = "write a port of 1 to 65535, a range as in `8000-8999`, or `*` for any port";
            let port = l4_port(port).map_err(|fault| fault.help(help))?;
            port..=port
        }
        None if address.is_ipv6() => return Err(Reason::Ipv6(address).into()),
        None => {
            return Err(Fault::new(format!("`{text}` has no port")).help(format!(
                "write the port that clients dial, as in `vip = \"{address}:80\"`"
            )));
        }
    };
    Ok(VirtualEndpoint { address, ports })
}

/// An address, and what stands behind the colon if there is one: `192.168.1.100:80`, `[2001:db8::1]:80`.
fn split_endpoint(text: &str) -> Result<(IpAddr, Option<&str>), Fault> {
    if let Some((host, rest)) = text.strip_prefix('[').and_then(|text| text.split_once(']')) {
        let port = if rest.is_empty() { Some(None) } else { rest.strip_prefix(':').map(Some) };
        if let (Ok(host), Some(port)) = (host.parse::<Ipv6Addr>(), port) {
            return Ok((host.into(), port));
        }
    }
    match text.split_once(':') {
        Some((host, port)) if text.parse::<Ipv6Addr>().is_err() => Ok((address(host)?, Some(port))),
        _ => Ok((address(text)?, None)),
    }
}

/// `32768-60999`.
pub(crate) fn l4_ports(text: &str) -> Result<RangeInclusive<u16>, Fault> {
    let help = "write the first and the last, as in `32768-60999`";
    let Some((first, last)) = text.split_once('-') else {
        return Err(Fault::new(format!("`{text}` is no range of ports")).help(help));
    };
    let (first, last) = (l4_port(first.trim())?, l4_port(last.trim())?);
    if first > last {
        return Err(Fault::new(format!("the range `{text}` is reversed"))
            .help(format!("write `{last}-{first}`")));
    }
    Ok(first..=last)
}

/// The length of the prefix that `255.255.255.0` stands for, not 0.
pub(crate) fn netmask(text: &str) -> Option<u8> {
    ipv4_mask_to_prefix(text.parse().ok()?).ok().filter(|&length| length > 0)
}

/// A TCP or UDP port, not 0.
fn l4_port(text: &str) -> Result<u16, Fault> {
    let help = "write a port of 1 to 65535";
    match digits(text).and_then(|text| text.parse::<u32>().ok()) {
        Some(0) => Err(Fault::new("port 0 cannot be used").help(help)),
        Some(port) => port
            .try_into()
            .map_err(|_| Fault::new(format!("port {port} is above 65535")).help(help)),
        None => Err(Fault::new(format!("`{text}` is no port")).help(help)),
    }
}

fn prefix_length(text: &str) -> Option<u8> {
    digits(text)?.parse().ok()
}

/// `text` if it is all digits; `parse` alone takes a `+` as well.
fn digits(text: &str) -> Option<&str> {
    text.chars().all(|c| c.is_ascii_digit()).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message<T: std::fmt::Debug>(result: Result<T, Fault>) -> String {
        result.expect_err("should be refused").message
    }

    #[test]
    fn addresses() {
        assert_eq!(address("192.168.1.100"), Ok(Ipv4Addr::new(192, 168, 1, 100).into()));
        for text in ["", "1.2.3", "1.2.3.256", "1.2.3.4/24", "1.2.3.4:80", "01.2.3.4", "localhost"]
        {
            assert!(message(address(text)).contains("is not an IPv4 address"), "{text}");
        }
        assert_eq!(address("fd00::1").unwrap().to_string(), "fd00::1");
        assert!(message(ipv4_address("fd00::1")).contains("IPv6 is not supported yet"));
    }

    #[test]
    fn hosts_in_networks_keep_their_host_bits() {
        let net = host_in_network("10.0.0.7/8").unwrap();
        assert_eq!((net.addr(), net.prefix_len()), (Ipv4Addr::new(10, 0, 0, 7), 8));
        assert!(message(host_in_network("10.0.0.7")).contains("no prefix length"));
        for text in ["10.0.0.7/0", "10.0.0.7/33", "10.0.0.7/+8", "10.0.0.7/255.0.0.0"] {
            assert!(message(host_in_network(text)).contains("is no prefix length"), "{text}");
        }
        assert!(message(host_in_network("fd00::1/64")).contains("IPv6"));
    }

    #[test]
    fn networks_have_no_host_bits() {
        assert_eq!(network("0.0.0.0/0"), Ok(Ipv4Net::default().into()));
        assert!(network("10.1.2.3/32").is_ok());
        let fault = network("10.0.0.7/8").unwrap_err();
        assert!(fault.message.contains("is a host in a network"));
        assert!(fault.help.unwrap().contains("10.0.0.0/8"));
        assert!(message(network("10.0.0.0")).contains("no prefix length"));
        assert_eq!(network("2001:db8::/32").unwrap().to_string(), "2001:db8::/32");
        assert!(message(network("10.0.0.0/40")).contains("/40"));
    }

    #[test]
    fn server_endpoints() {
        let host = IpAddr::from([10, 0, 0, 1]);
        assert_eq!(server_endpoint("10.0.0.1:8080"), Ok((host, Some(8080))));
        assert_eq!(server_endpoint("10.0.0.1"), Ok((host, None)));
        assert!(message(server_endpoint("10.0.0.1:0")).contains("port 0"));
        assert!(message(server_endpoint("10.0.0.1:65536")).contains("above 65535"));
        for port in ["", "http", "+80", "-1", "*", "80-90"] {
            let text = format!("10.0.0.1:{port}");
            assert!(message(server_endpoint(&text)).contains("is no port"), "{text}");
        }
        let host = IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, 1]);
        assert_eq!(server_endpoint("[fd00::1]:80"), Ok((host, Some(80))));
        assert_eq!(server_endpoint("[fd00::1]"), Ok((host, None)));
        assert_eq!(server_endpoint("fd00::1"), Ok((host, None)));
        for text in ["[fd00::1", "[fd00::1]80", "[10.0.0.1]:80", "fd00::g", "[]"] {
            assert!(message(server_endpoint(text)).contains("is not an IPv4 address"), "{text}");
        }
    }

    #[test]
    fn virtual_endpoints_display_as_they_are_written() {
        for text in ["10.0.0.1:80", "10.0.0.1:8000-8999", "10.0.0.1:*", "[fd00::1]:80"] {
            assert_eq!(virtual_endpoint(text).unwrap().to_string(), text);
        }
        assert_eq!(virtual_endpoint("10.0.0.1:80-80").unwrap().to_string(), "10.0.0.1:80");
        assert_eq!(virtual_endpoint("10.0.0.1:1-65535").unwrap().to_string(), "10.0.0.1:*");
        assert!(message(virtual_endpoint("10.0.0.1")).contains("has no port"));
        assert!(message(virtual_endpoint("10.0.0.1:0-80")).contains("port 0"));
        assert!(message(virtual_endpoint("10.0.0.1:90-80")).contains("reversed"));
        let fault = virtual_endpoint("10.0.0.1:0").unwrap_err();
        assert!(fault.help.unwrap().contains("`*` for any port"));
        for port in ["", "http", "**", "+80", "80,81"] {
            let text = format!("10.0.0.1:{port}");
            assert!(message(virtual_endpoint(&text)).contains("is no port"), "{text}");
        }
        assert!(message(virtual_endpoint("fd00::1")).contains("IPv6"));
    }

    #[test]
    fn netmasks_are_ones_and_then_zeroes() {
        assert_eq!(netmask("255.255.255.255"), Some(32));
        assert_eq!(netmask("255.255.240.0"), Some(20));
        assert_eq!(netmask("128.0.0.0"), Some(1));
        for text in ["0.0.0.0", "255.0.255.0", "0.0.0.255", "24", "/24", ""] {
            assert_eq!(netmask(text), None, "{text}");
        }
    }

    #[test]
    fn ranges_of_ports() {
        assert_eq!(l4_ports("1-65535"), Ok(1..=65535));
        assert_eq!(l4_ports("40000 - 40000"), Ok(40000..=40000));
        assert!(message(l4_ports("2-1")).contains("reversed"));
        assert!(message(l4_ports("0-1")).contains("port 0"));
        assert!(message(l4_ports("80")).contains("no range"));
        assert!(message(l4_ports("a-b")).contains("no port"));
    }
}
