//! What a director is to do, said in both languages: Shunt's service file, and nftables.

use std::net::Ipv4Addr;

use super::{CLIENT, CLIENT2, DIP, Device, LIP, RS1, RS2, VIP};

/// `examples/lvs-nat.toml`, on which all configurations build.
const EXAMPLE: &str = include_str!("../../../../examples/lvs-nat.toml");
/// What the experiments need beside it. Port 81 leads to one where nobody listens.
const FURTHER_SERVICES: &str = r#"
[[nat.local-address]]
address = "192.168.2.201"

[[service]]
protocol = "tcp"
vip = "192.168.1.100:8080"
scheduler = "rr"
server = [{ address = "192.168.2.210:80" }, { address = "192.168.2.220:80" }]

[[service]]
protocol = "tcp"
vip = "192.168.1.100:81"
scheduler = "rr"
server = [{ address = "192.168.2.210:9" }]

[[service]]
protocol = "udp"
vip = "192.168.1.100:53"
scheduler = "rr"
server = [{ address = "192.168.2.210:53" }, { address = "192.168.2.220:53" }]

[[service]]
protocol = "udp"
vip = "192.168.1.100:7"
scheduler = "rr"
server = [{ address = "192.168.2.210:7" }, { address = "192.168.2.220:7" }]

[[service]]
vip = "192.168.1.100:8081"
scheduler = "rr"
mode = "full-nat"
server = [{ address = "192.168.2.220:80" }]

[[service]]
vip = "192.168.1.100:8082"
scheduler = "rr"
persistence = true
server = [{ address = "192.168.2.210:80" }, { address = "192.168.2.220:80" }]

[[service]]
vip = "192.168.1.100:8083"
scheduler = "rr"
server = [{ address = "192.168.2.210:80", weight = 0 }]
fallback = "192.168.2.220:80"
"#;
/// Packets of connections with this mark get the local address as their source.
const FULL_NAT: u32 = 1;

/// What a director is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Configuration {
    /// Names its service file.
    pub name: &'static str,
    /// Whether there are the example's service and its SNAT.
    pub has_example: bool,
    /// Further sections of the service file.
    pub services: String,
    /// The same for the kernel: a rule of nftables for each service, the example's too, as it matches
    /// packets to the VIP.
    pub nft_services: String,
    /// Networks and their gateways.
    pub routes: Vec<(&'static str, Ipv4Addr)>,
    /// The inside port's, if it isn't 1500.
    pub inside_mtu: Option<u16>,
}

impl Configuration {
    /// No services: the director forwards between its ports.
    #[must_use]
    pub fn router() -> Configuration {
        Configuration {
            name: "router",
            has_example: false,
            services: String::new(),
            nft_services: String::new(),
            routes: Vec::new(),
            inside_mtu: None,
        }
    }

    /// `examples/lvs-nat.toml` as it stands.
    #[must_use]
    pub fn example() -> Configuration {
        Configuration {
            name: "example",
            has_example: true,
            nft_services: format!("tcp dport 80 {}", nft_round_robin(80)),
            ..Configuration::router()
        }
    }

    /// The example, and the further services that the experiments need.
    #[must_use]
    pub fn full() -> Configuration {
        let nft_services = [
            format!("tcp dport {{ 80, 8080 }} {}", nft_round_robin(80)),
            format!("tcp dport 81 dnat to {RS1}:9"),
            format!("udp dport 53 {}", nft_round_robin(53)),
            format!("udp dport 7 {}", nft_round_robin(7)),
            format!("tcp dport 8081 ct mark set {FULL_NAT} dnat to {RS2}:80"),
            format!(
                "tcp dport 8082 dnat ip addr . port to ip saddr map \
                 {{ {CLIENT} : {RS1} . 80, {CLIENT2} : {RS2} . 80 }}"
            ),
            format!("tcp dport 8083 dnat to {RS2}:80"),
        ];
        Configuration {
            name: "full",
            services: FURTHER_SERVICES.to_owned(),
            nft_services: nft_services.join("\n"),
            ..Configuration::example()
        }
    }

    /// The service file for a director on that device.
    ///
    /// # Panics
    /// When the example has changed such that it can't be fitted to the device.
    #[must_use]
    pub fn service_file(&self, device: Device, workers: usize, has_huge_pages: bool) -> String {
        let mut text = match self.has_example {
            true => EXAMPLE.to_owned(),
            false => EXAMPLE[..first_service(EXAMPLE)].to_owned(),
        };
        let mut replace = |old: &str, new: &str| {
            assert_eq!(text.matches(old).count(), 1, "{old} in examples/lvs-nat.toml");
            text = text.replace(old, new);
        };
        let (outside, inside) = Device::AfPacket.vdevs();
        let (new_outside, new_inside) = device.vdevs();
        replace(outside, new_outside);
        replace(inside, new_inside);
        if workers == 2 {
            replace("worker-lcores = [1]", "worker-lcores = [1, 0]");
        }
        if !has_huge_pages {
            replace("[dpdk]", "[dpdk]\nno-huge = true");
        }
        if let Some(mtu) = self.inside_mtu {
            replace("role = \"inside\"", &format!("role = \"inside\"\nmtu = {mtu}"));
        }
        for (network, gateway) in &self.routes {
            text += &format!("\n[[route]]\nto = \"{network}\"\nvia = \"{gateway}\"\n");
        }
        text + &self.services
    }

    /// The rules of nftables that do the same.
    #[must_use]
    pub(super) fn nft_rules(&self) -> Option<String> {
        (!self.nft_services.is_empty()).then(|| {
            format!(
                "table ip lab {{
    chain inbound {{
        type nat hook prerouting priority dstnat
        ip daddr {VIP} jump services
    }}
    chain services {{
        {}
    }}
    chain outbound {{
        type nat hook postrouting priority srcnat
        ip saddr 192.168.2.0/24 oifname outside0 snat to {VIP}
        ip saddr 192.168.2.0/24 oifname inside0 ct status dnat snat to {DIP}
        ct mark {FULL_NAT} snat to {LIP}
    }}
}}\n",
                self.nft_services
            )
        })
    }
}

/// The rest of a rule that sends connections to both servers in turn.
#[must_use]
pub fn nft_round_robin(port: u16) -> String {
    format!(
        "dnat ip addr . port to numgen inc mod 2 map {{ 0 : {RS1} . {port}, 1 : {RS2} . {port} }}"
    )
}

/// Services come last in the example.
fn first_service(example: &str) -> usize {
    example.find("[[service]]").expect("a service in examples/lvs-nat.toml")
}

#[cfg(test)]
mod tests {
    use super::{Configuration, Device};

    #[test]
    fn the_service_file_fits_the_device() {
        let mut configuration = Configuration::router();
        configuration.inside_mtu = Some(1400);
        let file = configuration.service_file(Device::Tap, 2, false);
        for part in
            ["net_tap0,iface=tap-outside", "worker-lcores = [1, 0]", "no-huge = true", "mtu = 1400"]
        {
            assert!(file.contains(part), "{part}:\n{file}");
        }
        assert!(!file.contains("[[service]]") && !file.contains("[[snat]]"), "{file}");
        let plain = Configuration::example().service_file(Device::AfPacket, 1, true);
        assert_eq!(plain, super::EXAMPLE);
    }
}
