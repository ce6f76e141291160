//! `shunt check`.

use std::{collections::BTreeMap, fmt::Write, net::IpAddr, path::Path, sync::Arc, time::Duration};

use shunt_config::{Config, HugePages, Port};
use shunt_rules::{Defaults, ForwardingMode, VirtualService};

use crate::output;

/// Local addresses times their ports that a worker should have, on average.
const LOCAL_ENDPOINTS: usize = 64;

/// More services, or addresses of one kind, are counted rather than printed one by one.
const MANY: usize = 100;

/// Prints what a service file means, very many services one by one only if `all` are wanted. That it is
/// sound has been found out by loading it.
pub(crate) fn check(path: &Path, config: &Config, all: bool) -> anyhow::Result<()> {
    let plan = describe(config, if all { usize::MAX } else { MANY })?;
    output::print(format_args!("{} is sound. `shunt run` would start:\n\n{plan}", path.display()))
}

/// Says what would run; of things of which there are more than `most`, how many there are.
fn describe(config: &Config, most: usize) -> Result<String, std::fmt::Error> {
    let mut text = String::new();
    let dpdk = &config.dpdk;
    let workers: Vec<_> = dpdk.worker_lcores.iter().map(u16::to_string).collect();
    let plural = if workers.len() == 1 { "worker" } else { "workers" };
    writeln!(
        text,
        "lcores   main {}, {plural} {}, idle {}",
        dpdk.main_lcore,
        workers.join(", "),
        dpdk.idle
    )?;
    let pages = match &dpdk.huge_pages {
        HugePages::Default => "huge pages".to_owned(),
        HugePages::Directory(directory) => format!("huge pages in {}", directory.display()),
        HugePages::None => "ordinary pages (slow)".to_owned(),
    };
    writeln!(text, "memory   {} MiB of {pages}, {} mbufs", dpdk.memory_mib, dpdk.mbufs)?;
    for port in config.ports.iter() {
        describe_port(&mut text, port)?;
    }
    let (local, virtual_) = (config.local_addresses(), config.virtual_addresses());
    describe_addresses(&mut text, &local, "local, answered for inside", most)?;
    describe_addresses(&mut text, &virtual_, "virtual, answered for outside", most)?;
    for route in &config.routes {
        writeln!(text, "route    {} via {}", route.destination, route.via)?;
    }
    if config.rules.services.len() > most {
        count_services(&mut text, &config.rules.services)?;
    } else {
        for service in &config.rules.services {
            describe_service(&mut text, &config.rules.defaults, service)?;
        }
    }
    for snat in &config.rules.snat {
        let addresses: Vec<_> = snat.to.iter().map(ToString::to_string).collect();
        let (first, last) = (snat.ports.start(), snat.ports.end());
        let addresses = addresses.join(", ");
        writeln!(text, "snat     {} behind {addresses}, ports {first}-{last}", snat.from)?;
    }
    for local in &config.rules.local_addresses {
        let (first, last) = (local.ports.start(), local.ports.end());
        writeln!(text, "local    {}, ports {first}-{last} (for full-nat)", local.address)?;
    }
    warn_of_few_local_endpoints(&mut text, config)?;
    let (connections, defaults) = (config.nat.connections, &config.rules.defaults);
    let memory = shunt_dataplane::connection_memory(connections);
    writeln!(
        text,
        "nat      {} connections ({:.1} MiB, {} bytes each)\n           \
         on-unknown {}, late-packets {}, source-routes {}, reset-on-expiry {}",
        connections,
        memory as f64 / f64::from(1 << 20),
        memory / connections as usize,
        defaults.on_unknown,
        defaults.late_packets,
        defaults.source_routes,
        defaults.reset_on_expiry
    )?;
    writeln!(text, "timeouts {}", describe_timeouts(defaults.timeouts.iter()))?;
    writeln!(text, "log      {}", config.log.level)?;
    let prefix = format!("shunt-{}", std::process::id());
    writeln!(text, "EAL      {}", config.eal_args(&prefix).join(" "))?;
    Ok(text)
}

/// Each port of a local address is for the one worker that a hash brings its replies to. It serves
/// every server at once, but one connection to each.
fn warn_of_few_local_endpoints(text: &mut String, config: &Config) -> std::fmt::Result {
    let workers = config.dpdk.worker_lcores.len();
    let endpoints: usize = config.rules.local_addresses.iter().map(|local| local.ports.len()).sum();
    let is_full_nat = |service: &VirtualService| service.mode == ForwardingMode::FullNat;
    let is_enough = workers == 1 || endpoints >= LOCAL_ENDPOINTS * workers;
    if is_enough || !config.rules.services.iter().any(|service| is_full_nat(service)) {
        return Ok(());
    }
    let average = endpoints as f64 / workers as f64;
    writeln!(
        text,
        "warning  {workers} workers share {endpoints} ports of local addresses by a hash, {average:.1} \
         each on average;\n           some may have fewer, or none, and none has more connections to \
         one server than ports:\n           widen `ports`, add a [[nat.local-address]], or list \
         fewer `worker-lcores`"
    )
}

fn describe_port(text: &mut String, port: &Port) -> std::fmt::Result {
    let device = match &port.device {
        shunt_config::Device::Pci(address) => address.to_string(),
        shunt_config::Device::Vdev { devargs, .. } => devargs.clone(),
    };
    let addresses: Vec<_> = port.addresses.iter().map(ToString::to_string).collect();
    writeln!(text, "port     {} ({}) {}", port.name, port.side, addresses.join(", "))?;
    writeln!(text, "           device {device}")?;
    let queues = match port.queues {
        None => "a queue for each worker".to_owned(),
        Some(1) => "1 queue".to_owned(),
        Some(queues) => format!("{queues} queues"),
    };
    writeln!(
        text,
        "           mtu {}, {queues}, {} rx and {} tx descriptors, checksum {}, vlan {}",
        port.mtu, port.rx_descriptors, port.tx_descriptors, port.checksum, port.vlan
    )
}

fn describe_addresses(
    text: &mut String,
    addresses: &[IpAddr],
    kind: &str,
    most: usize,
) -> std::fmt::Result {
    if addresses.len() > most {
        return writeln!(text, "address  {} of them ({kind}; `--all` lists them)", addresses.len());
    }
    addresses.iter().try_for_each(|address| writeln!(text, "address  {address} ({kind})"))
}

/// Says how many services there are of which kind.
fn count_services(text: &mut String, services: &[Arc<VirtualService>]) -> std::fmt::Result {
    let mut kinds: BTreeMap<String, usize> = BTreeMap::new();
    for VirtualService { scheduler, mode, .. } in services.iter().map(AsRef::as_ref) {
        *kinds.entry(format!("{scheduler} {mode}")).or_default() += 1;
    }
    let kinds: Vec<_> = kinds.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
    let servers: usize = services.iter().map(|service| service.all_servers().count()).sum();
    let (count, kinds) = (services.len(), kinds.join(", "));
    writeln!(text, "services {count} with {servers} servers: {kinds} (`--all` lists them)")
}

fn describe_service(
    text: &mut String,
    defaults: &Defaults,
    service: &VirtualService,
) -> std::fmt::Result {
    let VirtualService { name, scheduler, mode, .. } = service;
    writeln!(text, "service  {service} {scheduler} {mode}")?;
    if *name != service.default_name() {
        writeln!(text, "           called {name}")?;
    }
    let options = service_options(defaults, service);
    if !options.is_empty() {
        writeln!(text, "           {}", options.join(", "))?;
    }
    for server in &service.servers {
        write!(text, "           -> {server} weight {}", server.weight)?;
        if server.upper_threshold > 0 {
            write!(text, ", upper {}, lower {}", server.upper_threshold, server.lower_threshold)?;
        }
        writeln!(text)?;
    }
    match &service.fallback {
        Some(fallback) => writeln!(text, "           -> {fallback} as a fallback"),
        None if service.servers.is_empty() => {
            writeln!(text, "           no server: connections are refused")
        }
        None => Ok(()),
    }
}

/// What a service does differently, in words.
fn service_options(defaults: &Defaults, service: &VirtualService) -> Vec<String> {
    let mut options = Vec::new();
    let mut add = |is_set: bool, option: String| {
        if is_set {
            options.push(option);
        }
    };
    let flags = service.scheduler_flags;
    add(flags.fallback, format!("{}-fallback", service.scheduler));
    add(flags.port, format!("{}-port", service.scheduler));
    if let Some(slots) = service.scheduler_slots {
        add(true, format!("{slots} slots"));
    }
    add(service.one_packet, "one-packet".to_owned());
    if let Some(persistence) = service.persistence {
        let seconds = persistence.timeout.as_secs();
        add(true, format!("persistent for {seconds} s per /{}", persistence.prefix_len));
    }
    if let Some(timeout) = service.drain_timeout {
        add(true, format!("drained servers lose their connections after {} s", timeout.as_secs()));
    }
    if let Some(limit) = service.mss_limit {
        add(true, format!("mss clamped to {limit}"));
    }
    if let Some(on_unknown) = service.on_unknown {
        add(on_unknown != defaults.on_unknown, format!("on-unknown {on_unknown}"));
    }
    if let Some(resets) = service.reset_on_expiry {
        add(resets != defaults.reset_on_expiry, format!("reset-on-expiry {resets}"));
    }
    if !service.timeouts.is_empty() {
        add(true, format!("timeouts {}", describe_timeouts(service.timeouts.iter())));
    }
    options
}

fn describe_timeouts(timeouts: impl Iterator<Item = (&'static str, Duration)>) -> String {
    let words: Vec<_> =
        timeouts.map(|(name, timeout)| format!("{name} {}", timeout.as_secs())).collect();
    words.join(", ")
}
