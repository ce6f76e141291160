//! Bringing a director up, and down again.

mod report;

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU32, Ordering},
};

use shunt_config::{Config, Role};
use shunt_dpdk::{Eal, Error, LcoreHandle, LcoreId, Mempool, MempoolConfig, Port, launch};
use shunt_nat::{Engine, EngineConfig, Instant, Ruleset, Topology, table::ConnectionTable};
use tracing::info;

pub use crate::preflight::PreflightError;
use crate::{
    interface::Interface,
    pipeline::Pipeline,
    ports::{self, PortError},
    preflight,
    ruleset::{on_unknown, rules, timeouts},
    surroundings::Surroundings,
    worker::Worker,
};
pub use report::{MbufReport, PortReport, Report, ServiceReport};

/// What DPDK keeps free in front of a frame (`RTE_PKTMBUF_HEADROOM`).
const HEADROOM: u16 = 128;

/// Mbufs that a worker keeps at hand (`rte_mempool`'s per-lcore cache).
const MBUF_CACHE: u32 = 256;

/// Mbufs in net_af_xdp's completion ring (`ETH_AF_XDP_DFLT_NUM_DESCS`). When a port is closed, the
/// driver returns neither these nor those in its fill ring, which it has taken at start.
const AF_XDP_RING: u32 = 2048;

/// Why a director did not start. Nothing is left running then.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Something on this machine is missing.
    #[error(transparent)]
    Preflight(#[from] PreflightError),
    /// EAL did not start.
    #[error("EAL did not start ({0}); its log lines above say why")]
    Eal(Error),
    /// No memory for mbufs.
    #[error(
        "no memory for {mbufs} mbufs of {data_room} bytes ({error}); raise `memory` or lower `mbufs` under `[dpdk]`"
    )]
    Mempool {
        /// How many were wanted.
        mbufs: u32,
        /// Bytes of each buffer.
        data_room: u16,
        /// The call and its error.
        error: Error,
    },
    /// A port can't be used as wanted.
    #[error(transparent)]
    Port(#[from] PortError),
    /// The worker's lcore could not be started.
    #[error("lcore {lcore} did not start: {error}")]
    Lcore {
        /// The lcore.
        lcore: u16,
        /// The call and its error.
        error: Error,
    },
    /// The system has no random numbers for the connection table's secret.
    #[error("no random numbers from the system: {0}")]
    Random(getrandom::Error),
}

/// A running director: a worker on its lcore. Stop it with [`Director::stop`].
pub struct Director {
    stop: Arc<AtomicBool>,
    worker: LcoreHandle<Worker>,
    ports: Ports,
}

impl Director {
    /// Starts EAL, opens the ports and launches the worker. To be called once per process, on the
    /// thread that is to be the main lcore.
    ///
    /// # Errors
    /// What is missing or refused, and the command or key that mends it.
    pub fn start(config: &Config) -> Result<Director, StartError> {
        preflight::check(config)?;
        let file_prefix = format!("shunt-{}", std::process::id());
        let eal = Eal::init(&config.eal_args(&file_prefix)).map_err(StartError::Eal)?;
        let Assembly { worker, ports } = Assembly::open(&eal, config)?;

        let stop = Arc::new(AtomicBool::new(false));
        let lcore = config.dpdk.worker_lcores.first().copied().unwrap_or_default();
        let worker = {
            let stop = Arc::clone(&stop);
            launch(LcoreId(lcore.into()), move || worker.run(&stop))
                .map_err(|error| StartError::Lcore { lcore, error })?
        };
        info!("director ready: worker on lcore {lcore}, {}", Eal::version());
        Ok(Director { stop, worker, ports })
    }

    /// Stops the worker and the ports, and accounts for every mbuf.
    #[must_use]
    pub fn stop(self, config: &Config) -> Report {
        self.stop.store(true, Ordering::Relaxed);
        let worker = self.worker.join();
        Assembly { worker, ports: self.ports }.close(config)
    }
}

/// The ports of a director and the pool that feeds them.
struct Ports {
    ports: [(Port, String); 2],
    pool: Mempool,
    /// Mbufs that the drivers took before the first packet came: net_af_xdp's fill rings.
    in_use_at_start: u32,
}

/// Opened ports and a worker that polls them, not yet on an lcore: for driving it by hand.
pub struct Assembly {
    worker: Worker,
    ports: Ports,
}

impl Assembly {
    /// Makes the mbuf pool, opens the ports and puts a worker together.
    ///
    /// # Errors
    /// What DPDK refused; ports already opened are closed again.
    pub fn open(eal: &Eal, config: &Config) -> Result<Assembly, StartError> {
        let pool = open_pool(eal, config)?;
        let outside = ports::open(eal, config.ports.get(Role::Outside), &pool)?;
        let inside = ports::open(eal, config.ports.get(Role::Inside), &pool)?;
        let in_use_at_start = pool.in_use();

        let mut interfaces = [Interface::new(outside.parts), Interface::new(inside.parts)];
        let surroundings = Surroundings::new(config);
        pin_neighbours(&mut interfaces, &surroundings, config);
        let pipeline =
            Pipeline::new(engine(config)?, surroundings, interfaces, pool.clone(), secrets()?);
        Ok(Assembly {
            worker: Worker::new([outside.rx, inside.rx], pipeline),
            ports: Ports {
                ports: [(outside.port, outside.driver), (inside.port, inside.driver)],
                pool,
                in_use_at_start,
            },
        })
    }

    /// The worker.
    pub fn worker(&mut self) -> &mut Worker {
        &mut self.worker
    }

    /// Closes the ports, and accounts for every mbuf.
    #[must_use]
    pub fn close(self, config: &Config) -> Report {
        let Assembly { worker, ports: Ports { ports, pool, in_use_at_start } } = self;
        let devices = [&ports[0], &ports[1]].map(|(port, driver)| (driver.clone(), port.stats()));
        let keepers = devices.iter().filter(|(driver, _)| driver == "net_af_xdp").count() as u32;
        let mut report = Report::new(config, &worker, devices);
        // The last handles go, and with them what queues and drivers still hold.
        drop(worker);
        drop(ports);
        let keepable = if keepers > 0 { in_use_at_start + keepers * AF_XDP_RING } else { 0 };
        report.mbufs = MbufReport::new(&pool, keepable);
        report
    }
}

fn open_pool(eal: &Eal, config: &Config) -> Result<Mempool, StartError> {
    // Pools live as long as EAL, so each has a name of its own.
    static POOLS: AtomicU32 = AtomicU32::new(0);
    let number = POOLS.fetch_add(1, Ordering::Relaxed);
    let frame_room = config.dpdk.mbuf_size.max(config.ports.max_frame());
    let data_room = (frame_room + HEADROOM).next_multiple_of(64);
    let mbufs = config.dpdk.mbufs;
    let pool = MempoolConfig {
        cache: MBUF_CACHE.min(mbufs / 2),
        data_room,
        ..MempoolConfig::new(&format!("shunt-mbufs-{number}"), mbufs)
    };
    Mempool::new(eal, &pool).map_err(|error| StartError::Mempool { mbufs, data_room, error })
}

/// Bytes that a table of so many connections occupies when it is full.
#[must_use]
pub fn connection_memory(connections: u32) -> usize {
    ConnectionTable::memory_of(connections)
}

/// Random words for what must not be guessed: the seeds of hash tables, and of what is left to
/// chance.
fn secrets<const N: usize>() -> Result<[u64; N], StartError> {
    let mut words = [0; N];
    for word in &mut words {
        *word = getrandom::u64().map_err(StartError::Random)?;
    }
    Ok(words)
}

/// An engine for the rules of a service file, under fresh secrets.
fn engine(config: &Config) -> Result<Engine, StartError> {
    let [a, b, c, d, seed] = secrets()?;
    let engine_config = EngineConfig {
        capacity: config.nat.connections,
        secret: [a, b, c, d],
        timeouts: timeouts(config.timeouts),
        on_unknown: on_unknown(config.nat.on_unknown),
        reset_on_expiry: config.nat.reset_on_expiry,
    };
    let engine = Engine::new(&engine_config, Ruleset::new(&rules(config), seed));
    let table = engine.table();
    info!(
        "connection table: room for {}, {} MiB, {} bytes each",
        table.capacity(),
        table.memory() >> 20,
        table.memory() / table.capacity()
    );
    Ok(engine)
}

/// Has servers and gateways resolved before the first client comes.
fn pin_neighbours(interfaces: &mut [Interface; 2], surroundings: &Surroundings, config: &Config) {
    let servers = config.services.iter().flat_map(|service| {
        let fallback = service.fallback.iter().map(|fallback| fallback.ip);
        service.servers.iter().map(|server| server.ip).chain(fallback)
    });
    let gateways = config.routes.iter().map(|route| route.via);
    for address in servers.chain(gateways) {
        if surroundings.is_local(address) {
            continue;
        }
        if let Some(hop) = surroundings.next_hop(address) {
            interfaces[hop.side as usize].neighbours.pin(hop.address, Instant::default());
        }
    }
}
