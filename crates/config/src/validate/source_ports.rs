//! Ports that the director takes as source ports, and services that have them already.

use std::{net::Ipv4Addr, ops::RangeInclusive};

use crate::{VirtualEndpoint, VirtualService, fault::Fault};

/// Refuses source ports on `address` among which a service has its own: a reply to the one could
/// not be told from a request to the other.
pub(super) fn check(
    address: Ipv4Addr,
    ports: &RangeInclusive<u16>,
    services: &[VirtualService],
) -> Result<(), Fault> {
    let wanted = VirtualEndpoint { address, ports: ports.clone() };
    let mut endpoints = services.iter().flat_map(|service| &service.endpoints);
    let Some(taken) = endpoints.find(|endpoint| endpoint.overlaps(&wanted)) else { return Ok(()) };
    let (first, last) = (ports.start(), ports.end());
    let what = match taken.port() {
        Some(vport) => format!("include port {vport}"),
        None => "overlap the ports".to_owned(),
    };
    let message = format!("source ports {first}-{last} {what} of the service on {taken}");
    Err(Fault::new(message).help(instead(ports, taken)))
}

/// The longer of the two parts of `ports` beside those of `taken`, if there is one.
fn instead(ports: &RangeInclusive<u16>, taken: &VirtualEndpoint) -> String {
    let (first, last) = (ports.start(), ports.end());
    let below = taken.ports.start().saturating_sub(*first);
    let above = last.saturating_sub(*taken.ports.end());
    if taken.is_any_port() {
        format!("write another address; the service has every port of {}", taken.address)
    } else if below == 0 && above == 0 {
        "write ports that no service has, as in `ports = \"32768-60999\"`".to_owned()
    } else if below >= above {
        format!("write `ports = \"{first}-{}\"`", taken.ports.start() - 1)
    } else {
        format!("write `ports = \"{}-{last}\"`", taken.ports.end() + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn help(ports: RangeInclusive<u16>, taken: RangeInclusive<u16>) -> String {
        instead(&ports, &VirtualEndpoint { address: Ipv4Addr::new(192, 0, 2, 1), ports: taken })
    }

    #[test]
    fn the_longer_part_is_offered() {
        assert_eq!(help(1..=1023, 80..=80), "write `ports = \"81-1023\"`");
        assert_eq!(help(1024..=65535, 60000..=65535), "write `ports = \"1024-59999\"`");
        assert_eq!(help(1024..=65535, 1..=2000), "write `ports = \"2001-65535\"`");
        assert!(help(80..=80, 80..=80).contains("no service has"));
        assert!(help(8000..=8999, 7000..=9000).contains("no service has"));
        assert!(help(1024..=65535, 1..=65535).contains("another address"));
    }
}
