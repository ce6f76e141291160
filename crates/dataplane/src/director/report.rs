//! What a director did, for people to read when it ends.

use std::{fmt, ops::AddAssign, sync::Arc};

use shunt_config::Config;
use shunt_dpdk::{Mempool, PortStats};
use shunt_nat::{
    Engine, EngineCounters, PoolUsage, Server, ServerCounters, ServiceCounters, ServiceId,
};
use shunt_rules::VirtualService;

use crate::{
    counters::{PipelineCounters, PortCounters},
    drop_reason::DropCounters,
    worker::Worker,
};

/// What a director did. Displays as a table of several lines.
#[derive(Debug)]
pub struct Report {
    /// Both ports, outside first.
    pub ports: [PortReport; 2],
    /// Connections in the table at the end.
    pub connections: usize,
    /// Of the NAT engine.
    pub engine: EngineCounters,
    /// Of the pipeline.
    pub pipeline: PipelineCounters,
    /// Packets dropped, by reason.
    pub drops: DropCounters,
    /// All services, in the order of the service file.
    pub services: Vec<ServiceReport>,
    /// How much of each pool of source endpoints was in use at the end.
    pub pools: Vec<(String, PoolUsage)>,
    /// Where the mbufs are.
    pub mbufs: MbufReport,
}

/// One port's counters.
#[derive(Debug)]
pub struct PortReport {
    /// Its name in the service file.
    pub name: String,
    /// Its driver.
    pub driver: String,
    /// What the worker counted.
    pub counters: PortCounters,
    /// What the device counted.
    pub device: PortStats,
}

/// One service's counters.
#[derive(Debug)]
pub struct ServiceReport {
    /// Protocols and virtual endpoints, as the service file has them.
    pub name: String,
    /// Of the service.
    pub counters: ServiceCounters,
    /// Of its servers, in the order of the service file, by their addresses there; a fallback server
    /// comes last.
    pub servers: Vec<(String, ServerCounters)>,
}

/// Where the mbufs are when all ports are closed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MbufReport {
    /// In all.
    pub size: u32,
    /// Back in the pool.
    pub available: u32,
    /// Of those that are not back, how many a driver is known to keep in its rings when its port is
    /// closed (net_af_xdp).
    pub kept_by_drivers: u32,
}

impl MbufReport {
    /// The account of a pool when all is closed, of which drivers keep `keepable` at most.
    pub(super) fn new(pool: &Mempool, keepable: u32) -> MbufReport {
        let kept_by_drivers = pool.in_use().min(keepable);
        MbufReport { size: pool.size(), available: pool.available(), kept_by_drivers }
    }

    /// Mbufs that nobody accounts for.
    #[must_use]
    pub fn missing(&self) -> u32 {
        self.size - self.available - self.kept_by_drivers
    }
}

impl Report {
    pub(super) fn new(
        config: &Config,
        workers: &[Worker],
        devices: [(String, PortStats); 2],
    ) -> Report {
        let names = [&config.ports.outside, &config.ports.inside].map(|port| port.name.clone());
        let mut counters = [PortCounters::default(); 2];
        let mut pipeline = PipelineCounters::default();
        let mut drops = DropCounters::default();
        let mut engine = EngineCounters::default();
        for worker in workers {
            counters.iter_mut().zip(worker.port_counters()).for_each(|(sum, one)| *sum += one);
            pipeline += worker.counters();
            drops += &worker.drops();
            engine += worker.engine().counters();
        }
        let [outside, inside] = counters;
        let engines: Vec<_> = workers.iter().map(Worker::engine).collect();
        let [(outside_driver, outside_device), (inside_driver, inside_device)] = devices;
        let [outside_name, inside_name] = names;
        Report {
            ports: [
                PortReport {
                    name: outside_name,
                    driver: outside_driver,
                    counters: outside,
                    device: outside_device,
                },
                PortReport {
                    name: inside_name,
                    driver: inside_driver,
                    counters: inside,
                    device: inside_device,
                },
            ],
            connections: engines.iter().map(|engine| engine.table().len()).sum(),
            engine,
            pipeline,
            drops,
            services: services(config, &engines),
            pools: pools(config, &engines),
            mbufs: MbufReport::default(),
        }
    }
}

fn services(config: &Config, engines: &[&Engine]) -> Vec<ServiceReport> {
    let all_services = sum(engines.iter().map(|engine| engine.service_counters().collect()));
    let all_servers = sum(engines.iter().map(|engine| engine.server_counters().collect()));
    let Some(engine) = engines.first() else { return Vec::new() };
    let report =
        |(service, (id, _, servers)): (&Arc<VirtualService>, (ServiceId, _, &[Server]))| {
            let scheduled = service.servers.iter().map(ToString::to_string);
            let fallback = service.fallback.iter().map(|fallback| format!("{fallback} (fallback)"));
            let names = scheduled.chain(fallback);
            let counters = servers.iter().map(|server| all_servers[server.id().0 as usize]);
            ServiceReport {
                name: service.to_string(),
                counters: all_services[id.0 as usize],
                servers: names.zip(counters).collect(),
            }
        };
    config.rules.services.iter().zip(engine.rules().services()).map(report).collect()
}

/// The sums of what all workers have counted, place by place.
fn sum<T: Copy + Default + AddAssign>(workers: impl Iterator<Item = Vec<T>>) -> Vec<T> {
    workers.fold(Vec::new(), |mut sums, counters| {
        sums.resize(sums.len().max(counters.len()), T::default());
        sums.iter_mut().zip(counters).for_each(|(sum, one)| *sum += one);
        sums
    })
}

fn pools(config: &Config, engines: &[&Engine]) -> Vec<(String, PoolUsage)> {
    let snat = config.rules.snat.iter().map(|rule| format!("snat {}", rule.from));
    // Every worker may use all endpoints of an SNAT rule, and has some of the others for itself.
    let snat_usages = sum(engines.iter().map(|engine| engine.rules().snat_usage().collect()));
    let endpoints = engines.first().into_iter().flat_map(|engine| engine.rules().snat_usage());
    let snat = snat.zip(
        snat_usages
            .into_iter()
            .zip(endpoints)
            .map(|(usage, PoolUsage { endpoints, .. })| PoolUsage { endpoints, ..usage }),
    );
    let own = sum(engines
        .iter()
        .map(|engine| vec![engine.rules().local_usage(), engine.rules().hairpin_usage()]));
    let own = ["local addresses", "hairpin"].map(str::to_owned).into_iter().zip(own);
    let all = snat.chain(own);
    all.filter(|(_, usage)| {
        *usage != PoolUsage { endpoints: usage.endpoints, ..PoolUsage::default() }
    })
    .collect()
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for PortReport { name, driver, counters, device } in &self.ports {
            writeln!(
                f,
                "port {name} ({driver}): rx {} packets {} bytes, tx {} packets {} bytes; \
                 device: missed {}, rx errors {}, tx errors {}, no mbuf {}",
                counters.rx_packets,
                counters.rx_bytes,
                counters.tx_packets,
                counters.tx_bytes,
                device.imissed,
                device.ierrors,
                device.oerrors,
                device.rx_nombuf,
            )?;
            if counters.handed_over > 0 {
                writeln!(
                    f,
                    "  {} of these packets handed over between workers, {} misplaced by RSS",
                    counters.handed_over, counters.misplaced,
                )?;
            }
        }
        for ServiceReport { name, counters, servers } in &self.services {
            writeln!(
                f,
                "service {name}: {} connections, {} refused, in {} packets {} bytes, \
                 out {} packets {} bytes",
                counters.connections,
                counters.refused,
                counters.traffic.in_packets,
                counters.traffic.in_bytes,
                counters.traffic.out_packets,
                counters.traffic.out_bytes,
            )?;
            for (server, counters) in servers {
                let ServerCounters { connections, active, inactive, .. } = counters;
                writeln!(
                    f,
                    "  server {server}: {connections} connections, {active} active and \
                     {inactive} inactive now",
                )?;
            }
        }
        for (name, PoolUsage { endpoints, in_use, scarce, exhausted }) in &self.pools {
            writeln!(
                f,
                "{name}: {in_use} connections on {endpoints} endpoints, \
                 {scarce} when these were scarce, {exhausted} refused",
            )?;
        }
        let EngineCounters {
            opened,
            expired,
            replaced,
            evicted,
            rescheduled,
            drained,
            killed,
            icmp_errors,
            out_of_window_resets,
            out_of_window_fins,
        } = self.engine;
        writeln!(
            f,
            "connections: {} now, {opened} opened, {expired} expired, {replaced} replaced, \
             {evicted} evicted, {rescheduled} rescheduled, {drained} drained, \
             {killed} killed; {icmp_errors} ICMP errors translated, \
             {out_of_window_resets} resets and {out_of_window_fins} FINs not believed",
            self.connections,
        )?;
        let counters = &self.pipeline;
        writeln!(
            f,
            "ARP: {} requests and {} replies sent, {} replies taken in; \
             {} echo replies, {} resets, {} ICMP errors sent, {} not sent; \
             {} packets fragmented, {} VLAN frames passed",
            counters.arp_requests,
            counters.arp_replies,
            counters.arp_learned,
            counters.echo_replies,
            counters.resets,
            counters.icmp_errors,
            counters.icmp_errors_suppressed,
            counters.fragmented,
            counters.vlan_passed,
        )?;
        for (reason, packets) in self.drops.iter() {
            writeln!(f, "dropped {}: {packets}", reason.as_str())?;
        }
        write!(f, "{}", self.mbufs)
    }
}

impl fmt::Display for MbufReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let MbufReport { size, available, kept_by_drivers } = self;
        write!(f, "mbufs: {available} of {} back in the pool", size - kept_by_drivers)?;
        if *kept_by_drivers > 0 {
            write!(f, " ({kept_by_drivers} more are kept in its driver's rings)")?;
        }
        Ok(())
    }
}
