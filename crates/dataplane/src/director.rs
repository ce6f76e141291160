//! Bringing a director up, and down again.

mod report;
mod worker_setup;

use std::{
    io,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

use shunt_config::Config;
use shunt_dpdk::{Eal, Error, LcoreHandle, LcoreId, Mempool, MempoolConfig, launch};
use shunt_nat::{
    BuildError, ConnectionFilter, ConnectionInfo, Engine, EngineConfig, Instant,
    table::{ConnectionTable, TableMemoryError},
};
use tracing::info;

use crate::{
    checksum_watch::ChecksumWatch,
    clock::Clock,
    control::{ConnectionWalk, Control, MaglevDisruption},
    device_lock::DeviceLocks,
    eal_directory::EalDirectory,
    links::Link,
    mailbox::{Answer, Command, Mailbox, Snapshot, WorkerEnded},
    pipeline::Pipeline,
    ports::PortError,
    preflight,
    worker::Worker,
};
pub use crate::{
    device_lock::DeviceInUse,
    preflight::{MemoryScope, PreflightError},
};
pub use report::{MbufReport, PortReport, Report, ServiceReport};
use worker_setup::{DrivenPorts, WorkerIo, WorkerSetup};

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
    /// Another director has a device.
    #[error(transparent)]
    DeviceInUse(#[from] DeviceInUse),
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
    /// No memory for the connections of a worker.
    #[error("{0}; lower `connections` under `[nat]`")]
    Table(TableMemoryError),
    /// No room for a ring between workers.
    #[error("no room for rings between workers ({0}); {remedy}", remedy = room_for_rings(.0))]
    Ring(Error),
    /// The worker's lcore could not be started.
    #[error("lcore {lcore} did not start: {error}")]
    Lcore {
        /// The lcore.
        lcore: u16,
        /// The call and its error.
        error: Error,
    },
    /// The engine can't run the rules.
    #[error(transparent)]
    Rules(#[from] BuildError),
    /// The system has no random numbers for the connection table's secret.
    #[error("no random numbers from the system: {0}")]
    Random(getrandom::Error),
}

/// What makes room for rings.
fn room_for_rings(error: &Error) -> &'static str {
    match io::Error::from_raw_os_error(error.errno).kind() {
        // ENOSPC: EAL's memzones are used up.
        io::ErrorKind::StorageFull => {
            "each takes one of DPDK's memzones, which are used up; \
             list fewer `worker-lcores` under `[dpdk]`"
        }
        _ => "raise `memory` under `[dpdk]`",
    }
}

/// A running director: workers on their lcores. Stop it with [`Director::stop`].
pub struct Director {
    stop: Arc<AtomicBool>,
    workers: Vec<LcoreHandle<Worker>>,
    ports: Ports,
    control: Control,
    clock: Clock,
    watch: Watch,
    // Dropped last: others may take the devices and EAL's directory when all else is closed.
    _device_locks: DeviceLocks,
    _eal_directory: EalDirectory,
}

impl Director {
    /// How often [`Director::watch`] is to be called.
    pub const WATCH_INTERVAL: Duration = Duration::from_millis(500);

    /// Starts EAL, opens the ports and launches the workers. To be called once per process, on the
    /// thread that is to be the main lcore. `file` is where `config` came from, for directors that want
    /// the same devices.
    ///
    /// # Errors
    /// What is missing or refused, and the command or key that mends it.
    pub fn start(config: &Config, file: &Path) -> Result<Director, StartError> {
        preflight::check(config)?;
        let device_locks = DeviceLocks::take(config, file)?;
        let eal_directory = EalDirectory::make();
        let args = config.eal_args(eal_directory.prefix());
        let eal = Eal::init(&args).map_err(StartError::Eal)?;
        let DirectorSetup { workers, ports, mut control } =
            DirectorSetup::open(&eal, config, open_pool(&eal, config)?)?;
        let lcores = &config.dpdk.worker_lcores;
        let workers = make_on(lcores, workers)?;
        control.monitor(&workers);
        log_tables(&workers);

        let stop = Arc::new(AtomicBool::new(false));
        let clock = Clock::start();
        let mut director = Director {
            stop,
            workers: Vec::new(),
            ports,
            control,
            clock,
            watch: Watch::new(config),
            _device_locks: device_locks,
            _eal_directory: eal_directory,
        };
        for ((number, lcore), worker) in numbered(lcores).zip(workers) {
            let stop = Arc::clone(&director.stop);
            let idle = config.dpdk.idle;
            match launch(number, move || worker.run(clock, &stop, idle)) {
                Ok(running) => director.workers.push(running),
                Err(error) => {
                    director.join();
                    return Err(StartError::Lcore { lcore, error });
                }
            }
        }
        let names: Vec<_> = lcores.iter().map(u16::to_string).collect();
        let plural = if names.len() == 1 { "worker on lcore" } else { "workers on lcores" };
        info!("director ready: {plural} {}, {}", names.join(", "), Eal::version());
        Ok(director)
    }

    /// Runs another configuration from now on, of which the old one has
    /// [approved](Config::load_change), and returns what that did to services that hash. No packet
    /// is lost, and connections live on as their old service or its new options have it.
    ///
    /// # Errors
    /// What the engine can't do; the director runs what it ran then.
    ///
    /// # Panics
    /// When a worker has panicked.
    pub fn apply(&mut self, config: &Config) -> Result<Vec<MaglevDisruption>, BuildError> {
        let moved = self.control.send(self.clock.now(), config)?;
        self.control.collect();
        Ok(moved)
    }

    /// What can be seen of the workers, and asked of them, while they pass packets on.
    #[must_use]
    pub fn control(&self) -> &Control {
        &self.control
    }

    /// Looks what has happened to the ports, and logs it: links that came or went, and packets
    /// that no port can do anything with.
    pub fn watch(&mut self) {
        self.watch.look(&self.ports.ports);
    }

    /// Stops the workers and the ports, and accounts for every mbuf. `config` is the one that runs.
    #[must_use]
    pub fn stop(mut self, config: &Config) -> Report {
        let workers = self.join();
        DirectorParts { workers, ports: self.ports, control: self.control }.close(config)
    }

    fn join(&mut self) -> Vec<Worker> {
        self.stop.store(true, Ordering::Relaxed);
        self.workers.drain(..).map(LcoreHandle::join).collect()
    }
}

/// EAL's numbers of the workers' lcores, with their CPUs. Number 0 is the main one.
fn numbered(lcores: &[u16]) -> impl Iterator<Item = (LcoreId, u16)> {
    (1..).map(LcoreId).zip(lcores.iter().copied())
}

/// Makes each worker on its own lcore, all at the same time: the memory that it touches first is then
/// memory of that lcore's NUMA node.
fn make_on(lcores: &[u16], workers: Vec<WorkerParts>) -> Result<Vec<Worker>, StartError> {
    let at_work = numbered(lcores).zip(workers).map(|((number, lcore), parts)| {
        launch(number, || parts.assemble()).map_err(|error| StartError::Lcore { lcore, error })
    });
    // Started all, before the first is waited for.
    let at_work: Vec<_> = at_work.collect();
    // And all are waited for, whatever became of the others.
    let made: Vec<_> =
        at_work.into_iter().map(|handle| handle?.join().map_err(StartError::Table)).collect();
    made.into_iter().collect()
}

/// What the main lcore keeps an eye on.
struct Watch {
    /// Both ports', outside first.
    links: [Link; 2],
    checksums: Vec<ChecksumWatch>,
}

impl Watch {
    fn new(config: &Config) -> Watch {
        Watch {
            links: [&config.ports.outside, &config.ports.inside].map(Link::new),
            checksums: config.ports.iter().filter_map(ChecksumWatch::start).collect(),
        }
    }

    fn look(&mut self, ports: &DrivenPorts) {
        for (link, (port, _driver)) in self.links.iter_mut().zip(ports) {
            link.watch(port);
        }
        self.checksums.retain_mut(ChecksumWatch::goes_on);
    }
}

/// The ports of a director and the pool that feeds them.
struct Ports {
    ports: DrivenPorts,
    pool: Mempool,
    /// Mbufs that the drivers took before the first packet came: net_af_xdp's fill rings.
    in_use_at_start: u32,
}

/// Opened ports, and what workers are made of.
struct DirectorSetup {
    workers: Vec<WorkerParts>,
    ports: Ports,
    control: Control,
}

/// What one worker is made of.
struct WorkerParts {
    io: WorkerIo,
    snapshot: Snapshot,
    mailbox: Mailbox,
    engine: EngineConfig,
    pool: Mempool,
    secret: [u64; 4],
}

impl DirectorSetup {
    /// Opens the ports, and deals out what belongs to them.
    fn open(eal: &Eal, config: &Config, pool: Mempool) -> Result<DirectorSetup, StartError> {
        let setup = WorkerSetup { eal, pool: &pool, workers: config.dpdk.worker_lcores.len() };
        let (ports, owners, ios) = setup.open_ports(config)?;
        let in_use_at_start = pool.in_use();

        let [seed] = secrets()?;
        let engine = EngineConfig {
            capacity: config.nat.connections.div_ceil(setup.workers as u32),
            secret: secrets()?,
        };
        let (control, starts) = Control::new(config, owners, setup.workers, seed)?;
        let workers = ios.into_iter().zip(starts).map(|(io, (snapshot, mailbox))| {
            let (engine, pool, secret) = (engine, pool.clone(), secrets()?);
            Ok(WorkerParts { io, snapshot, mailbox, engine, pool, secret })
        });
        let workers = workers.collect::<Result<Vec<_>, StartError>>()?;
        Ok(DirectorSetup { workers, ports: Ports { ports, pool, in_use_at_start }, control })
    }
}

impl WorkerParts {
    /// To be called on the worker's lcore.
    fn assemble(self) -> Result<Worker, TableMemoryError> {
        let WorkerParts { io, snapshot, mailbox, engine, pool, secret } = self;
        let WorkerIo { rx, interfaces, steering, context } = io;
        let Snapshot { ruleset, network, new_addresses } = snapshot;
        let engine = Engine::new(&engine, ruleset)?;
        let pipeline = Pipeline::new(network, new_addresses, interfaces, pool, secret, context);
        Ok(Worker::new(rx, engine, pipeline, steering, mailbox))
    }
}

/// Opened ports and workers that poll them, not yet on lcores: for driving them by hand.
pub struct DirectorParts {
    workers: Vec<Worker>,
    ports: Ports,
    control: Control,
}

impl DirectorParts {
    /// Makes the mbuf pool, opens the ports and puts the workers together.
    ///
    /// # Errors
    /// What DPDK refused; ports already opened are closed again.
    pub fn open(eal: &Eal, config: &Config) -> Result<DirectorParts, StartError> {
        DirectorParts::open_with(eal, config, open_pool(eal, config)?)
    }

    /// As [`DirectorParts::open`], with a pool that another one of the same configuration has left:
    /// pools live as long as EAL, which has room for some hundreds.
    ///
    /// # Errors
    /// What DPDK refused; ports already opened are closed again.
    pub fn open_with(
        eal: &Eal,
        config: &Config,
        pool: Mempool,
    ) -> Result<DirectorParts, StartError> {
        let DirectorSetup { workers, ports, mut control } = DirectorSetup::open(eal, config, pool)?;
        let workers = workers.into_iter().map(|parts| parts.assemble().map_err(StartError::Table));
        let workers = workers.collect::<Result<Vec<_>, _>>()?;
        control.monitor(&workers);
        log_tables(&workers);
        Ok(DirectorParts { workers, ports, control })
    }

    /// The workers, in the order of their lcores. They may be taken out, to poll elsewhere, and are to be
    /// back before [`DirectorParts::close`].
    pub fn workers(&mut self) -> &mut Vec<Worker> {
        &mut self.workers
    }

    /// Has every worker take a turn, and returns how many packets came, those that workers handed to
    /// each other counted again.
    pub fn poll(&mut self, now: Instant) -> usize {
        self.workers.iter_mut().map(|worker| worker.poll(now)).sum()
    }

    /// Runs another configuration from now on, as [`Director::apply`] does. Waits for workers that were
    /// taken out until they have [read their mailboxes](Worker::read_mailbox).
    ///
    /// # Errors
    /// What the engine can't do; the director runs what it ran then.
    pub fn apply(
        &mut self,
        now: Instant,
        config: &Config,
    ) -> Result<Vec<MaglevDisruption>, BuildError> {
        let moved = self.control.send(now, config)?;
        for worker in &mut self.workers {
            worker.read_mailbox(now);
        }
        self.control.collect();
        Ok(moved)
    }

    /// What can be seen of the workers.
    #[must_use]
    pub fn control(&self) -> &Control {
        &self.control
    }

    /// The next connections of a walk, as [`Control::next_connections`] finds them.
    ///
    /// # Errors
    /// When the worker in question was taken out.
    pub fn next_connections(
        &mut self,
        now: Instant,
        walk: &mut ConnectionWalk,
    ) -> Result<Option<Vec<ConnectionInfo>>, WorkerEnded> {
        let DirectorParts { workers, control, .. } = self;
        control.walk_on(walk, by_hand(control, workers, now))
    }

    /// How many connections the filter admits, as [`Control::count_connections`] finds it.
    ///
    /// # Errors
    /// When a worker was taken out.
    pub fn count_connections(
        &mut self,
        now: Instant,
        filter: &ConnectionFilter,
    ) -> Result<u64, WorkerEnded> {
        let DirectorParts { workers, control, .. } = self;
        control.count_with(filter, by_hand(control, workers, now))
    }

    /// Ends all connections that the filter admits, as [`Control::kill_connections`] does. The resets leave
    /// with the workers' next turns.
    ///
    /// # Errors
    /// When a worker was taken out.
    pub fn kill_connections(
        &mut self,
        now: Instant,
        filter: &ConnectionFilter,
    ) -> Result<u64, WorkerEnded> {
        let DirectorParts { workers, control, .. } = self;
        control.kill_with(filter, by_hand(control, workers, now))
    }

    /// Closes the ports, and accounts for every mbuf. `config` is the one that runs.
    #[must_use]
    pub fn close(self, config: &Config) -> Report {
        let DirectorParts { workers, ports: Ports { ports, pool, in_use_at_start }, .. } = self;
        let devices = [&ports[0], &ports[1]].map(|(port, driver)| (driver.clone(), port.stats()));
        let keepers = devices.iter().filter(|(driver, _)| driver == "net_af_xdp").count() as u32;
        let mut report = Report::new(config, &workers, devices);
        // The last handles go, and with them what queues and drivers still hold.
        drop(workers);
        drop(ports);
        let keepable = if keepers > 0 { in_use_at_start + keepers * AF_XDP_RING } else { 0 };
        report.mbufs = MbufReport::new(&pool, keepable);
        report
    }
}

/// Asks workers that are driven by hand.
fn by_hand<'a>(
    control: &'a Control,
    workers: &'a mut [Worker],
    now: Instant,
) -> impl FnMut(usize, Command) -> Result<Answer, WorkerEnded> + 'a {
    move |number, command| {
        // Nothing is sent to one that was taken out: it would answer another question with it.
        let worker = workers.get_mut(number).ok_or(WorkerEnded)?;
        control.ask_by_hand(number, command, || {
            worker.read_mailbox(now);
        })
    }
}

/// Makes the mbuf pool for a configuration.
///
/// # Errors
/// When there is no memory for it.
pub fn open_pool(eal: &Eal, config: &Config) -> Result<Mempool, StartError> {
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

/// Says how large the connection tables are, all together.
fn log_tables(workers: &[Worker]) {
    let tables = || workers.iter().map(|worker| worker.engine().table());
    let capacity: usize = tables().map(ConnectionTable::capacity).sum();
    let memory: usize = tables().map(ConnectionTable::memory).sum();
    let Some(pages) = tables().map(ConnectionTable::pages).max() else { return };
    info!(
        "connection table: room for {capacity}, {} MiB in {pages}, {} bytes each",
        memory >> 20,
        memory / capacity
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rings_want_memzones_or_memory() {
        let said = |errno| StartError::Ring(Error { call: "rte_ring_create", errno }).to_string();
        let (memzones, memory) = (said(libc::ENOSPC), said(libc::ENOMEM));
        assert!(memzones.contains("No space left on device"), "{memzones}");
        assert!(memzones.ends_with("list fewer `worker-lcores` under `[dpdk]`"), "{memzones}");
        assert!(memory.contains("(rte_ring_create: Cannot allocate memory (errno 12)); raise"));
    }
}
