//! `shunt check`.

use std::{fmt::Write, path::Path};

use shunt_config::{Config, HugePages, Port};

/// Prints what a service file means. That it is sound has been found out by loading it.
pub(crate) fn check(path: &Path, config: &Config) -> anyhow::Result<()> {
    println!("{} is sound. `shunt run` would start:\n", path.display());
    print!("{}", describe(config)?);
    Ok(())
}

fn describe(config: &Config) -> Result<String, std::fmt::Error> {
    let mut text = String::new();
    let dpdk = &config.dpdk;
    let workers: Vec<_> = dpdk.worker_lcores.iter().map(u16::to_string).collect();
    writeln!(text, "lcores   main {}, worker {}", dpdk.main_lcore, workers.join(", "))?;
    let pages = match &dpdk.huge_pages {
        HugePages::Default => "huge pages".to_owned(),
        HugePages::Directory(directory) => format!("huge pages in {}", directory.display()),
        HugePages::None => "ordinary pages (slow)".to_owned(),
    };
    writeln!(text, "memory   {} MiB of {pages}, {} mbufs", dpdk.memory_mib, dpdk.mbufs)?;
    for port in config.ports.iter() {
        describe_port(&mut text, port)?;
    }
    for address in config.virtual_addresses() {
        writeln!(text, "address  {address} (virtual, answered for outside)")?;
    }
    for route in &config.routes {
        writeln!(text, "route    {} via {}", route.destination, route.via)?;
    }
    for service in &config.services {
        writeln!(text, "service  {} {} {}", service.protocol, service.vip, service.scheduler)?;
        for server in &service.servers {
            writeln!(text, "           -> {} weight {}", server.address, server.weight)?;
        }
        if service.servers.is_empty() {
            writeln!(text, "           no server: connections are refused")?;
        }
    }
    for snat in &config.snat {
        let (first, last) = (snat.ports.start(), snat.ports.end());
        writeln!(text, "snat     {} behind {}, ports {first}-{last}", snat.from, snat.to)?;
    }
    writeln!(text, "log      {}", config.log.level)?;
    let prefix = format!("shunt-{}", std::process::id());
    writeln!(text, "EAL      {}", config.eal_args(&prefix).join(" "))?;
    Ok(text)
}

fn describe_port(text: &mut String, port: &Port) -> std::fmt::Result {
    let device = match &port.device {
        shunt_config::Device::Pci(address) => address.to_string(),
        shunt_config::Device::Vdev { devargs, .. } => devargs.clone(),
    };
    let addresses: Vec<_> = port.addresses.iter().map(ToString::to_string).collect();
    writeln!(text, "port     {} ({}) {}", port.name, port.role, addresses.join(", "))?;
    writeln!(text, "           device {device}")?;
    writeln!(
        text,
        "           mtu {}, {} queue, {} rx and {} tx descriptors, checksum {}, vlan {}",
        port.mtu, port.queues, port.rx_descriptors, port.tx_descriptors, port.checksum, port.vlan
    )
}
