//! How many workers share the traffic, and how it comes to them.

use std::{fmt, net::SocketAddrV4, thread::available_parallelism};

use serde::{Deserialize, Serialize};
use shunt_dataplane::Owners;

/// The workers of a director.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum WorkerLayout {
    /// One worker.
    Alone,
    /// Two, and one queue per port: who receives a packet of the other's hands it over in software.
    OneQueue,
    /// Two, and a queue each per port, by which only the packets come that its worker owns: what a
    /// NIC's RSS does when it is told how.
    TwoQueues,
}

/// The CPU of the only worker, here and in testpmd, and of the first of two.
pub(crate) const WORKER: u16 = 1;
/// That of the second worker, if there is one.
const SECOND: u16 = 2;
/// That of the main lcore, which sleeps while workers work: else the second one's, too.
const MAIN: u16 = 0;

/// Entries of the owners' table where no port has one of its own, as none of net_pcap's has.
const ENTRIES: usize = 128;

impl WorkerLayout {
    /// The CPUs of the workers, each its own.
    pub(crate) fn cpus(self) -> &'static [u16] {
        let there_are = available_parallelism().map_or(1, usize::from);
        match self {
            WorkerLayout::Alone => &[WORKER],
            WorkerLayout::OneQueue | WorkerLayout::TwoQueues if there_are > usize::from(SECOND) => {
                &[WORKER, SECOND]
            }
            WorkerLayout::OneQueue | WorkerLayout::TwoQueues => &[WORKER, MAIN],
        }
    }

    /// Receive queues of a port.
    pub(crate) fn queues(self) -> usize {
        match self {
            WorkerLayout::Alone | WorkerLayout::OneQueue => 1,
            WorkerLayout::TwoQueues => 2,
        }
    }

    /// Which worker owns the connections of a client, as the director will find out by itself.
    pub(crate) fn owner(self) -> impl Fn(SocketAddrV4) -> usize {
        let owners = Owners::new(ENTRIES, self.cpus().len());
        move |client| usize::from(owners.owner(*client.ip(), client.port()).0)
    }
}

impl fmt::Display for WorkerLayout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            WorkerLayout::Alone => "one worker",
            WorkerLayout::OneQueue => "two workers, one queue",
            WorkerLayout::TwoQueues => "two workers, two queues",
        })
    }
}
