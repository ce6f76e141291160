//! A worker that is driven by hand, and what it does within a stretch of time.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use shunt_dataplane::Worker;
use shunt_dpdk::clock::Tsc;

use crate::{
    clock::Clock,
    pauses::{LONG_US, Pauses, Turns},
    setup,
};

/// Answers to ARP are repeated this often, in the time that the director sees.
const ARP_INTERVAL: Duration = Duration::from_secs(10);

/// What a worker, or all of them, did in a stretch of time.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Window {
    pub(crate) seconds: f64,
    /// Packets that came from the devices.
    pub(crate) packets: u64,
    /// Packets that left.
    pub(crate) sent: u64,
    /// Packets that were handed to their owner.
    pub(crate) handed_over: u64,
    /// Packets dropped, by reason.
    pub(crate) drops: Vec<(String, u64)>,
    /// Connections that were opened.
    pub(crate) opened: u64,
    /// Connections in the table at the end.
    pub(crate) connections: usize,
    /// From one poll to the next.
    pub(crate) polls: Pauses,
}

impl Window {
    /// Polls for that long, as [`Worker`]'s own loop does, and a little more: it notes how long each
    /// turn took.
    pub(crate) fn run(
        worker: &mut Worker,
        clock: Clock,
        length: Duration,
    ) -> anyhow::Result<Window> {
        let before = Totals::of(worker);
        let length = clock.cycles(length);
        let arp_interval = clock.cycles_told(ARP_INTERVAL);
        let mut turns = Turns::new(clock, LONG_US);
        let start = Tsc::now();
        let (mut last, mut next_arp) = (start, start);
        while last - start < length {
            if last >= next_arp {
                next_arp += arp_interval;
                setup::meet_neighbours(worker, clock)?;
                last = Tsc::now();
            }
            worker.poll(clock.at(last));
            let now = Tsc::now();
            turns.note(now - last);
            last = now;
        }
        let after = Totals::of(worker);
        Ok(Window {
            seconds: clock.seconds(last - start),
            packets: after.packets - before.packets,
            sent: after.sent - before.sent,
            handed_over: after.handed_over - before.handed_over,
            drops: difference(after.drops, &before.drops),
            opened: after.opened - before.opened,
            connections: worker.engine().table().len(),
            polls: turns.pauses(clock, last - start),
        })
    }

    /// What two workers did at the same time.
    pub(crate) fn merge(self, other: Window) -> Window {
        Window {
            seconds: self.seconds.max(other.seconds),
            packets: self.packets + other.packets,
            sent: self.sent + other.sent,
            handed_over: self.handed_over + other.handed_over,
            drops: [self.drops, other.drops].concat(),
            opened: self.opened + other.opened,
            connections: self.connections + other.connections,
            polls: self.polls.merge(other.polls),
        }
    }

    /// Millions of packets per second that went through.
    pub(crate) fn mpps(&self) -> f64 {
        self.sent as f64 / self.seconds / 1e6
    }

    /// Millions of new connections per second.
    pub(crate) fn opens(&self) -> f64 {
        self.opened as f64 / self.seconds / 1e6
    }

    /// The share of packets that were dropped.
    pub(crate) fn loss(&self) -> f64 {
        let dropped: u64 = self.drops.iter().map(|(_, count)| count).sum();
        dropped as f64 / self.packets as f64
    }
}

/// What a worker has done so far.
struct Totals {
    packets: u64,
    sent: u64,
    handed_over: u64,
    drops: Vec<(String, u64)>,
    opened: u64,
}

impl Totals {
    fn of(worker: &Worker) -> Totals {
        let ports = worker.port_counters();
        let drops = worker.drops();
        Totals {
            packets: ports.iter().map(|port| port.rx_packets).sum(),
            sent: ports.iter().map(|port| port.tx_packets).sum(),
            handed_over: ports.iter().map(|port| port.handed_over).sum(),
            drops: drops
                .iter()
                .map(|(reason, count)| (reason.as_str().to_owned(), count))
                .collect(),
            opened: worker.engine().server_counters().map(|server| server.connections).sum(),
        }
    }
}

/// What was added, where something was.
fn difference(after: Vec<(String, u64)>, before: &[(String, u64)]) -> Vec<(String, u64)> {
    let earlier = |name: &str| before.iter().find(|(other, _)| other == name).map_or(0, |d| d.1);
    let added = after.into_iter().map(|(name, count)| {
        let added = count - earlier(&name);
        (name, added)
    });
    added.filter(|(_, count)| *count > 0).collect()
}
