//! The main lcore's side of a running director: what workers run, and what can be asked of them.
//!
//! [`Control`] compiles rules into a [`Snapshot`] for each worker, has each take its own over between two
//! bursts, and gets the old ones back: to be dropped here, where they were made. Counters and loads it reads
//! where they are written; connections it asks for, a page at a time ([`mailbox`](crate::mailbox)).

use std::{
    fmt,
    net::{Ipv4Addr, SocketAddrV4},
    sync::Arc,
};

use hashbrown::HashMap;
use shunt_config::Config;
use shunt_nat::{
    BuildError, ConnectionFilter, ConnectionInfo, Cursor, Instant, PoolUsage, RulesetBuilder,
    ServerId, ServerShared, ServerStatus, ServiceId, ServiceStatus, Update,
};

use crate::{
    counters::WorkerStatus,
    local_network::{LocalNetwork, SIDES},
    mailbox::{Answer, Command, Mailbox, Snapshot, WorkerEnded, WorkerHandle, mailbox},
    steering::Owners,
    worker::Worker,
};

/// Connections on a page.
const PAGE: usize = 1024;

/// What a change did to the clients of a service that schedules by Maglev hashing.
///
/// Displays as part of a sentence: `33.3 % of the clients of tcp 192.0.2.1:80 move`.
#[derive(Debug, Clone, PartialEq)]
pub struct MaglevDisruption {
    /// The service, as it is displayed.
    pub service: String,
    /// The share of its clients whose next connection goes to another server, 0 to 1.
    pub share: f64,
}

impl fmt::Display for MaglevDisruption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.1} % of the clients of {} move", self.share * 100.0, self.service)
    }
}

/// A walk through the connections of all workers. What opens or ends meanwhile may be met or not; all
/// others are met once each.
#[derive(Clone, Debug, Default)]
pub struct ConnectionWalk {
    filter: ConnectionFilter,
    /// The worker whose connections are next.
    worker: usize,
    cursor: Cursor,
}

impl ConnectionWalk {
    /// A walk through the connections that the filter admits.
    #[must_use]
    pub fn new(filter: ConnectionFilter) -> ConnectionWalk {
        ConnectionWalk { filter, ..ConnectionWalk::default() }
    }

    /// Goes on to where a worker says, or to the next worker.
    fn go_on(&mut self, next: Option<Cursor>) {
        match next {
            Some(cursor) => self.cursor = cursor,
            None => (self.worker, self.cursor) = (self.worker + 1, Cursor::default()),
        }
    }
}

/// What the main lcore knows of a director's workers, and can ask them.
pub struct Control {
    builder: RulesetBuilder,
    owners: Owners,
    workers: Vec<WorkerHandle>,
    /// The last configuration, and the network that it comes to.
    last: Option<(Config, Arc<LocalNetwork>)>,
}

impl Control {
    /// A control for so many workers, and what each of them is to start with.
    pub(crate) fn new(
        config: &Config,
        owners: Owners,
        workers: usize,
        seed: u64,
    ) -> Result<(Control, Vec<(Snapshot, Mailbox)>), BuildError> {
        let (handles, mailboxes): (Vec<_>, Vec<_>) = (0..workers).map(|_| mailbox()).unzip();
        let builder = RulesetBuilder::new(seed, workers);
        let mut control = Control { builder, owners, workers: handles, last: None };
        let (snapshots, _) = control.snapshots(Instant::default(), config)?;
        Ok((control, snapshots.into_iter().zip(mailboxes).collect()))
    }

    /// Takes note of the workers' counters, now that they are made.
    pub(crate) fn monitor(&mut self, workers: &[Worker]) {
        for (handle, worker) in self.workers.iter_mut().zip(workers) {
            handle.monitor = Some(worker.monitor());
        }
    }

    /// All services: those of the rules in their order, then those that were removed and may have
    /// connections.
    pub fn services(&self) -> impl Iterator<Item = ServiceStatus<'_>> {
        self.builder.services()
    }

    /// The servers of a service, those last that were removed and may have connections.
    pub fn servers(&self, service: ServiceId) -> impl Iterator<Item = ServerStatus<'_>> {
        self.builder.servers(service)
    }

    /// The state of a server, to be read and set: it takes effect on all workers at once, without new
    /// rules. `None` if no server has this number.
    #[must_use]
    pub fn server(&self, id: ServerId) -> Option<&Arc<ServerShared>> {
        self.builder.server(id)
    }

    /// How much of each SNAT rule's endpoints is in use, in the rules' order.
    #[must_use]
    pub fn snat_usage(&self) -> Vec<PoolUsage> {
        self.builder.snat_usage()
    }

    /// How much of full-NAT's local endpoints is in use.
    #[must_use]
    pub fn local_usage(&self) -> PoolUsage {
        self.builder.local_usage()
    }

    /// How much of the endpoints for hairpins is in use.
    #[must_use]
    pub fn hairpin_usage(&self) -> PoolUsage {
        self.builder.hairpin_usage()
    }

    /// What each worker has counted up to now, in the order of their lcores.
    #[must_use]
    pub fn workers(&self) -> Vec<WorkerStatus> {
        let monitors = self.workers.iter().filter_map(|worker| worker.monitor.as_ref());
        monitors.map(|monitor| monitor.status()).collect()
    }

    /// The next connections of a walk, at least one; `None` when it is over.
    ///
    /// # Errors
    /// When a worker has panicked.
    pub fn next_connections(
        &self,
        walk: &mut ConnectionWalk,
    ) -> Result<Option<Vec<ConnectionInfo>>, WorkerEnded> {
        self.walk_on(walk, |worker, command| self.ask(worker, command))
    }

    /// How many connections the filter admits.
    ///
    /// # Errors
    /// When a worker has panicked.
    pub fn count_connections(&self, filter: &ConnectionFilter) -> Result<u64, WorkerEnded> {
        self.count_with(filter, |worker, command| self.ask(worker, command))
    }

    /// Ends all connections that the filter admits, and resets both ends of those that are TCP. Returns how
    /// many they were.
    ///
    /// # Errors
    /// When a worker has panicked.
    pub fn kill_connections(&self, filter: &ConnectionFilter) -> Result<u64, WorkerEnded> {
        self.kill_with(filter, |worker, command| self.ask(worker, command))
    }

    /// As [`Control::count_connections`], with workers asked by `ask`.
    pub(crate) fn count_with(
        &self,
        filter: &ConnectionFilter,
        ask: impl FnMut(usize, Command) -> Result<Answer, WorkerEnded>,
    ) -> Result<u64, WorkerEnded> {
        self.add_up(*filter, |filter, cursor| Command::Count { filter, cursor }, ask)
    }

    /// As [`Control::kill_connections`], with workers asked by `ask`.
    pub(crate) fn kill_with(
        &self,
        filter: &ConnectionFilter,
        ask: impl FnMut(usize, Command) -> Result<Answer, WorkerEnded>,
    ) -> Result<u64, WorkerEnded> {
        self.add_up(*filter, |filter, cursor| Command::Kill { filter, cursor }, ask)
    }

    /// Has all workers follow a command until they are through their tables, and adds up what they count.
    fn add_up(
        &self,
        filter: ConnectionFilter,
        command: impl Fn(ConnectionFilter, Cursor) -> Command,
        mut ask: impl FnMut(usize, Command) -> Result<Answer, WorkerEnded>,
    ) -> Result<u64, WorkerEnded> {
        let mut walk = ConnectionWalk::new(filter);
        let mut all = 0;
        while walk.worker < self.workers.len() {
            if let Answer::Counted { next, count } =
                ask(walk.worker, command(walk.filter, walk.cursor))?
            {
                all += count;
                walk.go_on(next);
            }
        }
        Ok(all)
    }

    /// As [`Control::next_connections`], with workers asked by `ask`.
    pub(crate) fn walk_on(
        &self,
        walk: &mut ConnectionWalk,
        mut ask: impl FnMut(usize, Command) -> Result<Answer, WorkerEnded>,
    ) -> Result<Option<Vec<ConnectionInfo>>, WorkerEnded> {
        let mut empty = Vec::with_capacity(PAGE);
        while walk.worker < self.workers.len() {
            let command = Command::List { filter: walk.filter, cursor: walk.cursor, page: empty };
            match ask(walk.worker, command)? {
                Answer::Listed { next, page } => {
                    walk.go_on(next);
                    if !page.is_empty() {
                        return Ok(Some(page));
                    }
                    empty = page;
                }
                _ => empty = Vec::with_capacity(PAGE),
            }
        }
        Ok(None)
    }

    /// Has a worker do something, and waits until it has.
    fn ask(&self, worker: usize, command: Command) -> Result<Answer, WorkerEnded> {
        self.workers[worker].send(command)?;
        self.workers[worker].receive()
    }

    /// What a worker that is driven by hand answers, once it has read its mailbox.
    pub(crate) fn ask_by_hand(
        &self,
        worker: usize,
        command: Command,
        read_mailbox: impl FnOnce(),
    ) -> Result<Answer, WorkerEnded> {
        self.workers[worker].send(command)?;
        read_mailbox();
        self.workers[worker].try_receive()?.ok_or(WorkerEnded)
    }

    /// Sends every worker another configuration, and returns what that does to services that hash.
    ///
    /// # Errors
    /// What the engine can't do; the workers run what they ran then.
    ///
    /// # Panics
    /// When a worker has ended.
    pub(crate) fn send(
        &mut self,
        now: Instant,
        config: &Config,
    ) -> Result<Vec<MaglevDisruption>, BuildError> {
        let (snapshots, moved) = self.snapshots(now, config)?;
        for (worker, snapshot) in self.workers.iter().zip(snapshots) {
            let command = Command::Replace(Box::new(snapshot));
            worker.send(command).expect("workers run until they are stopped");
        }
        Ok(moved)
    }

    /// Waits until every worker runs what was last sent, and drops what they ran before.
    ///
    /// # Panics
    /// When a worker has ended.
    pub(crate) fn collect(&mut self) {
        for worker in &self.workers {
            if let Answer::Replaced(before) =
                worker.receive().expect("workers run until they are stopped")
            {
                drop(before);
            }
        }
        self.builder.settle();
    }

    /// What every worker is to run, and what that does to services that hash.
    fn snapshots(
        &mut self,
        now: Instant,
        config: &Config,
    ) -> Result<(Vec<Snapshot>, Vec<MaglevDisruption>), BuildError> {
        // Replies to a source endpoint of ours must come to the worker that chose it.
        let owner = |endpoint: SocketAddrV4| {
            usize::from(self.owners.owner(*endpoint.ip(), endpoint.port()).0)
        };
        let update = self.builder.build(&config.rules, now, owner)?;
        let moved = moved(config, &update);
        let (network, mut new_addresses) = self.network(config);
        self.last = Some((config.clone(), Arc::clone(&network)));

        let snapshots = update.rulesets.into_iter().map(|ruleset| Snapshot {
            ruleset,
            network: Arc::clone(&network),
            // They are announced once: by the first worker.
            new_addresses: std::mem::take(&mut new_addresses),
        });
        Ok((snapshots.collect(), moved))
    }

    /// The network that a configuration comes to, and by side which addresses become ours. If they are what
    /// they were, so is the network: to find out again about 100,000 servers takes a while.
    fn network(&self, config: &Config) -> (Arc<LocalNetwork>, [Vec<Ipv4Addr>; 2]) {
        let before = match &self.last {
            Some((last, network)) if LocalNetwork::is_same(last, config) => {
                return (Arc::clone(network), Default::default());
            }
            before => before.as_ref().map(|(_, network)| network),
        };
        let network = Arc::new(LocalNetwork::new(config));
        let new_addresses = SIDES.map(|side| {
            let is_new = |address: &Ipv4Addr| before.is_none_or(|old| !old.answers(side, *address));
            network.answered(side).filter(is_new).collect()
        });
        (network, new_addresses)
    }
}

/// The disruption of each service, by its name.
fn moved(config: &Config, update: &Update) -> Vec<MaglevDisruption> {
    let Some(ruleset) = update.rulesets.first() else { return Vec::new() };
    // A ruleset lists the services of a file in the file's order.
    let ids = ruleset.services().map(|(id, ..)| id);
    let places: HashMap<ServiceId, usize> =
        if update.disruptions.is_empty() { HashMap::new() } else { ids.zip(0..).collect() };
    let moved = update.disruptions.iter().filter_map(|(id, disruption)| {
        let service = config.rules.services.get(*places.get(id)?)?;
        Some(MaglevDisruption { service: service.to_string(), share: disruption.moved })
    });
    moved.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use shunt_rules::SourceRoutes;

    fn config(addresses: &str, services: &[(&str, &[u8])]) -> Config {
        let service = |(vip, servers): &(&str, &[u8])| {
            let address = |last: &u8| format!("{{ address = \"192.168.2.{last}:80\" }}");
            let servers: Vec<_> = servers.iter().map(address).collect();
            let servers = servers.join(", ");
            format!("[[service]]\nvip = \"{vip}\"\nscheduler = \"mh\"\nserver = [{servers}]\n")
        };
        let services: String = services.iter().map(service).collect();
        let text = format!(
            r#"
            [[port]]
            name = "outside"
            role = "outside"
            device = "net_null0"
            addresses = [{addresses}]

            [[port]]
            name = "inside"
            role = "inside"
            device = "net_null1"
            addresses = ["192.168.2.200/24"]

            {services}
            "#
        );
        Config::parse("control.toml", &text).unwrap_or_else(|errors| panic!("{errors}"))
    }

    fn addresses(texts: &[&str]) -> Vec<Ipv4Addr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    const PORT: &str = "\"192.168.1.100/24\"";
    const TWO: &[u8] = &[10, 20];

    #[test]
    fn every_worker_takes_over_once_and_hands_back() {
        let (mut control, starts) =
            Control::new(&config(PORT, &[]), Owners::new(128, 2), 2, 7).unwrap();
        let inboxes = starts.into_iter().map(|(_, inbox)| inbox);
        let mut inboxes: Vec<_> = inboxes.collect();
        let mut taken = [0; 2];
        for round in 1..=3 {
            control.send(Instant::default(), &config(PORT, &[("192.168.1.100:80", TWO)])).unwrap();
            for (inbox, taken) in inboxes.iter_mut().zip(&mut taken) {
                for _look in 0..2 {
                    inbox.read(|command| match command {
                        Command::Replace(snapshot) => {
                            *taken += 1;
                            Answer::Replaced(snapshot)
                        }
                        _ => panic!("nobody asked"),
                    });
                }
            }
            control.collect();
            assert_eq!(taken, [round; 2], "each change once");
        }
    }

    #[test]
    fn a_worker_that_has_ended_is_an_error() {
        let (control, starts) =
            Control::new(&config(PORT, &[]), Owners::new(128, 2), 2, 7).unwrap();
        drop(starts);
        let all = ConnectionFilter::default();
        let page = control.next_connections(&mut ConnectionWalk::new(all));
        assert_eq!(page, Err(WorkerEnded));
        assert_eq!(control.count_connections(&all), Err(WorkerEnded));
        assert_eq!(control.kill_connections(&all), Err(WorkerEnded));
    }

    #[test]
    fn an_address_is_new_when_it_was_not_ours_before() {
        let (mut control, starts) =
            Control::new(&config(PORT, &[]), Owners::new(128, 2), 2, 7).unwrap();
        let new: Vec<_> = starts.iter().map(|(start, _)| start.new_addresses.clone()).collect();
        let own = [addresses(&["192.168.1.100"]), addresses(&["192.168.2.200"])];
        assert_eq!(new, [own, Default::default()], "one worker announces for all");

        let mut new_outside = |port: &str, services: &[(&str, &[u8])]| {
            let (mut snapshots, _) =
                control.snapshots(Instant::default(), &config(port, services)).unwrap();
            let [outside, inside] = std::mem::take(&mut snapshots[0].new_addresses);
            assert!(inside.is_empty());
            outside
        };
        let vip = [("192.168.1.150:80", TWO)];
        assert_eq!(new_outside(PORT, &vip), addresses(&["192.168.1.150"]));
        assert_eq!(new_outside(PORT, &vip), addresses(&[]));
        assert_eq!(new_outside(PORT, &[]), addresses(&[]));
        assert_eq!(new_outside(PORT, &vip), addresses(&["192.168.1.150"]), "it had gone");
        let more = format!("{PORT}, \"192.168.1.99/24\"");
        assert_eq!(new_outside(&more, &vip), addresses(&["192.168.1.99"]), "of a port");
    }

    #[test]
    fn a_network_whose_addresses_stay_is_shared() {
        let (mut control, starts) =
            Control::new(&config(PORT, &[("192.168.1.100:80", TWO)]), Owners::new(128, 1), 1, 7)
                .unwrap();
        let mut last = Arc::clone(&starts[0].0.network);
        let other = format!("{PORT}, \"192.168.1.99/24\"");
        for (port, vip, servers, is_shared) in [
            (PORT, "192.168.1.100:80", TWO, true),
            (PORT, "192.168.1.100:80", &[10, 30][..], false),
            (PORT, "192.168.1.100:80", &[10], false),
            (PORT, "192.168.1.101:80", &[10], false),
            (&other, "192.168.1.101:80", &[10], false),
        ] {
            let mut config = config(port, &[(vip, servers)]);
            // However often it is applied, and whatever else changes.
            for weight in [1, 0] {
                let service = Arc::make_mut(&mut config.rules.services[0]);
                service.servers[0].weight = weight;
                let (snapshots, _) = control.snapshots(Instant::default(), &config).unwrap();
                let network = &snapshots[0].network;
                assert_eq!(
                    Arc::ptr_eq(network, &last),
                    is_shared || weight == 0,
                    "{vip} {servers:?}"
                );
                last = Arc::clone(network);
            }
        }
        let mut config = config(&other, &[("192.168.1.101:80", &[10])]);
        config.rules.defaults.source_routes = SourceRoutes::Forward;
        let (snapshots, _) = control.snapshots(Instant::default(), &config).unwrap();
        assert!(
            snapshots[0].network.allows_source_routes(),
            "of the network, it is found out again"
        );
    }

    #[test]
    fn clients_of_services_that_hash_move() {
        let services = |web: &'static [u8]| {
            config(PORT, &[("192.168.1.100:443", TWO), ("192.168.1.100:80", web)])
        };
        let (mut control, _starts) =
            Control::new(&services(TWO), Owners::new(128, 1), 1, 7).unwrap();
        assert_eq!(
            control.snapshots(Instant::default(), &services(TWO)).unwrap().1,
            [],
            "nothing changed"
        );
        let (_, moved) = control.snapshots(Instant::default(), &services(&[10])).unwrap();
        let [moved] = &moved[..] else { panic!("{moved:?}") };
        assert_eq!(moved.service, "tcp 192.168.1.100:80");
        assert!((0.45..0.55).contains(&moved.share), "half of them had the other server: {moved}");
        assert!(moved.to_string().ends_with(" % of the clients of tcp 192.168.1.100:80 move"));
    }
}
