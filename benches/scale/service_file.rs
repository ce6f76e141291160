//! A service file with very many servers, and such files changed.

use std::{fmt::Write, net::Ipv4Addr};

/// Servers of a service.
pub(crate) const SERVERS: usize = 10;

/// Where their addresses begin: the first two thirds of them lie in the director's own inside network, a
/// /15, the others in a network behind a gateway of it.
const ON_LINK: u32 = 0x0a00_0100;
const ROUTED: u32 = 0x0a08_0100;

/// Where the VIPs begin, in the outside network.
const VIPS: u32 = 0xc0a8_4000;

/// Services: the first half of each pair is scheduled by `wlc`, the other by `mh`. Weights go from 1 to 3.
#[derive(Clone, PartialEq)]
pub(crate) struct ServiceFile {
    services: Vec<Vec<(Ipv4Addr, u16)>>,
    workers: usize,
}

impl ServiceFile {
    pub(crate) fn new(services: usize, workers: usize) -> ServiceFile {
        let on_link = services * SERVERS * 2 / 3;
        let address = |number: usize| {
            let number = number as u32;
            let first = if (number as usize) < on_link { ON_LINK } else { ROUTED };
            Ipv4Addr::from_bits(first + number)
        };
        let server = |number: usize| (address(number), 1 + number as u16 % 3);
        let service = |number| (number * SERVERS..(number + 1) * SERVERS).map(server).collect();
        ServiceFile { services: (0..services).map(service).collect(), workers }
    }

    /// Gives a server another weight: of a service with `wlc` if `service` is even, with `mh` if it is odd.
    pub(crate) fn set_weight(&mut self, service: usize, weight: u16) {
        self.services[service][0].1 = weight;
    }

    /// Takes a server out of each second pair of the first `count` services, and gives those of the
    /// others one more.
    pub(crate) fn change_servers(&mut self, count: usize) {
        let new = (self.services.len() * SERVERS) as u32 + ROUTED;
        for (number, servers) in self.services.iter_mut().take(count).enumerate() {
            if (number / 2).is_multiple_of(2) {
                servers.push((Ipv4Addr::from_bits(new + number as u32), 2));
            } else {
                servers.remove(3);
            }
        }
    }

    /// How many connections there is room for.
    pub(crate) const CONNECTIONS: u32 = 65_536;

    /// How many mbufs there are.
    pub(crate) const MBUFS: u32 = 8192;

    /// The text of the file, for a director whose ports receive nothing.
    pub(crate) fn text(&self) -> String {
        let lcores: Vec<_> = (1..=self.workers).map(|number| (number % 2).to_string()).collect();
        let mut text = format!(
            r#"
            [dpdk]
            main-lcore = 0
            worker-lcores = [{lcores}]
            no-huge = true
            memory = "128M"
            mbufs = {mbufs}

            [nat]
            connections = {connections}

            [[port]]
            name = "outside"
            role = "outside"
            device = "net_null0,no-rx=1"
            addresses = ["192.168.0.1/16"]

            [[port]]
            name = "inside"
            role = "inside"
            device = "net_null1,no-rx=1"
            addresses = ["10.0.0.1/15"]

            [[route]]
            to = "10.8.0.0/14"
            via = "10.0.0.2"
            "#,
            lcores = lcores.join(", "),
            mbufs = ServiceFile::MBUFS,
            connections = ServiceFile::CONNECTIONS,
        );
        for (number, servers) in self.services.iter().enumerate() {
            self.service(&mut text, number, servers).expect("a String takes everything");
        }
        text
    }

    fn service(
        &self,
        text: &mut String,
        number: usize,
        servers: &[(Ipv4Addr, u16)],
    ) -> std::fmt::Result {
        let vip = Ipv4Addr::from_bits(VIPS + number as u32);
        let scheduler = if number.is_multiple_of(2) { "wlc" } else { "mh" };
        writeln!(text, "[[service]]\nvip = \"{vip}:80\"\nscheduler = \"{scheduler}\"\nserver = [")?;
        for (address, weight) in servers {
            writeln!(text, "    {{ address = \"{address}:80\", weight = {weight} }},")?;
        }
        writeln!(text, "]\n")
    }
}
