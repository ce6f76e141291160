//! What workers run on, and how it changes while packets flow.
//!
//! The main lcore makes a [`Snapshot`] of the configuration for each worker and puts it into the
//! worker's queue. A worker looks there a few times a second, takes the new one over between two
//! bursts, and sends the old one back: to be dropped on the main lcore, where it was made. So a
//! change costs a worker no more than the exchange.
//!
//! ```text
//!   main lcore   Control ── Snapshot (new) ──> Inbox   worker
//!                        <── Snapshot (old) ──
//! ```

use std::{
    fmt,
    net::{Ipv4Addr, SocketAddrV4},
    sync::{
        Arc,
        mpsc::{Receiver, SyncSender, sync_channel},
    },
};

use hashbrown::HashSet;
use shunt_config::Config;
use shunt_nat::{BuildError, Instant, Ruleset, RulesetBuilder, Update};

use crate::{
    local_network::{LocalNetwork, SIDES},
    steering::Owners,
};

/// The part of a configuration that can change, as one worker runs it.
pub(crate) struct Snapshot {
    pub(crate) ruleset: Ruleset,
    pub(crate) network: Arc<LocalNetwork>,
    /// By side, addresses that have become ours: to be announced.
    pub(crate) new_addresses: [Vec<Ipv4Addr>; 2],
}

/// What a change did to the clients of a service that schedules by Maglev hashing.
///
/// Displays as part of a sentence: `33.3 % of the clients of tcp 192.0.2.1:80 move`.
#[derive(Debug, Clone, PartialEq)]
pub struct Moved {
    /// The service, as it is displayed.
    pub service: String,
    /// The share of its clients whose next connection goes to another server, 0 to 1.
    pub share: f64,
}

impl fmt::Display for Moved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.1} % of the clients of {} move", self.share * 100.0, self.service)
    }
}

/// A worker's end of its queue.
pub(crate) struct Inbox {
    snapshots: Receiver<Snapshot>,
    replaced: SyncSender<Snapshot>,
}

impl Inbox {
    /// Has `replace` exchange a new snapshot for the old one, if there is a new one.
    pub(crate) fn look(&mut self, replace: impl FnOnce(Snapshot) -> Snapshot) {
        if let Ok(snapshot) = self.snapshots.try_recv() {
            // There is room: the main lcore takes the last one back before it sends the next. Where it
            // is gone, there is nobody to hand it to.
            let _ = self.replaced.try_send(replace(snapshot));
        }
    }
}

/// The main lcore's end of all queues, and what it makes snapshots with.
pub(crate) struct Control {
    builder: RulesetBuilder,
    owners: Owners,
    workers: Vec<Outbox>,
    /// The addresses that each side answers for.
    answered: [HashSet<Ipv4Addr>; 2],
}

struct Outbox {
    snapshots: SyncSender<Snapshot>,
    replaced: Receiver<Snapshot>,
}

impl Control {
    /// A control for so many workers, and what each of them is to start with.
    pub(crate) fn new(
        config: &Config,
        owners: Owners,
        workers: usize,
        seed: u64,
    ) -> Result<(Control, Vec<(Snapshot, Inbox)>), BuildError> {
        let (outboxes, inboxes): (Vec<_>, Vec<_>) = (0..workers).map(|_| queue()).unzip();
        let builder = RulesetBuilder::new(seed, workers);
        let answered = Default::default();
        let mut control = Control { builder, owners, workers: outboxes, answered };
        let (snapshots, _) = control.snapshots(Instant::default(), config)?;
        Ok((control, snapshots.into_iter().zip(inboxes).collect()))
    }

    /// Sends every worker another configuration, and returns what that does to services that hash.
    ///
    /// # Errors
    /// What the engine can't do; the workers run what they ran then.
    ///
    /// # Panics
    /// When a worker has ended.
    pub(crate) fn send(&mut self, now: Instant, config: &Config) -> Result<Vec<Moved>, BuildError> {
        let (snapshots, moved) = self.snapshots(now, config)?;
        for (worker, snapshot) in self.workers.iter().zip(snapshots) {
            worker.snapshots.send(snapshot).expect("workers run until they are stopped");
        }
        Ok(moved)
    }

    /// Waits until every worker runs what was last sent, and drops what they ran before.
    ///
    /// # Panics
    /// When a worker has ended.
    pub(crate) fn collect(&mut self) {
        for worker in &self.workers {
            drop(worker.replaced.recv().expect("workers run until they are stopped"));
        }
        self.builder.settle();
    }

    /// What every worker is to run, and what that does to services that hash.
    fn snapshots(
        &mut self,
        now: Instant,
        config: &Config,
    ) -> Result<(Vec<Snapshot>, Vec<Moved>), BuildError> {
        // Replies to a source endpoint of ours must come to the worker that chose it.
        let owner = |endpoint: SocketAddrV4| {
            usize::from(self.owners.owner(*endpoint.ip(), endpoint.port()).0)
        };
        let update = self.builder.build(&config.rules, now, owner)?;
        let moved = moved(config, &update);
        let network = Arc::new(LocalNetwork::new(config));
        let mut new_addresses = SIDES.map(|side| {
            let known = &self.answered[side as usize];
            network.answered(side).filter(|address| !known.contains(address)).collect()
        });
        self.answered = SIDES.map(|side| network.answered(side).collect());

        let snapshots = update.rulesets.into_iter().map(|ruleset| Snapshot {
            ruleset,
            network: Arc::clone(&network),
            // They are announced once: by the first worker.
            new_addresses: std::mem::take(&mut new_addresses),
        });
        Ok((snapshots.collect(), moved))
    }
}

/// The disruption of each service, by its name.
fn moved(config: &Config, update: &Update) -> Vec<Moved> {
    let Some(ruleset) = update.rulesets.first() else { return Vec::new() };
    // A ruleset lists the services of a file in the file's order.
    let ids = ruleset.services().map(|(id, ..)| id);
    let of = |id| update.disruptions.iter().find(|(disrupted, _)| *disrupted == id);
    let disrupted = config.rules.services.iter().zip(ids).filter_map(|(service, id)| {
        of(id)
            .map(|(_, disruption)| Moved { service: service.to_string(), share: disruption.moved })
    });
    disrupted.collect()
}

fn queue() -> (Outbox, Inbox) {
    let (to_worker, snapshots) = sync_channel(1);
    let (replaced, from_worker) = sync_channel(1);
    (Outbox { snapshots: to_worker, replaced: from_worker }, Inbox { snapshots, replaced })
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn every_worker_takes_over_between_two_looks_and_hands_back() {
        let (mut control, starts) =
            Control::new(&config(PORT, &[]), Owners::new(128, 2), 2, 7).unwrap();
        let inboxes = starts.into_iter().map(|(_, inbox)| inbox);
        let mut inboxes: Vec<_> = inboxes.collect();
        let mut taken = [0; 2];
        for round in 1..=3 {
            control.send(Instant::default(), &config(PORT, &[("192.168.1.100:80", TWO)])).unwrap();
            for (inbox, taken) in inboxes.iter_mut().zip(&mut taken) {
                for _look in 0..2 {
                    inbox.look(|snapshot| {
                        *taken += 1;
                        snapshot
                    });
                }
            }
            control.collect();
            assert_eq!(taken, [round; 2], "each change once");
        }
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
