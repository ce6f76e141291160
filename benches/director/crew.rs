//! How many workers share the traffic, and how it comes to them.

use std::{fmt, net::SocketAddrV4, thread::available_parallelism};

use serde::{Deserialize, Serialize};
use shunt_dataplane::Owners;

/// The workers of a director.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Crew {
    /// One worker.
    Alone,
    /// Two, and one queue per port: who receives a packet of the other's hands it over in software.
    OneQueue,
    /// Two, and a queue each per port, by which only the packets come that its worker owns: what a
    /// NIC's RSS does when it is told how.
    TwoQueues,
}

/// The lcore of the only worker, here and in testpmd, and of the first of two.
pub(crate) const WORKER: u16 = 1;
/// The lcore of the second worker.
const SECOND: u16 = 2;

/// Entries of the owners' table where no port has one of its own, as none of net_pcap's has.
const ENTRIES: usize = 128;

impl Crew {
    /// The lcores of the workers.
    pub(crate) fn lcores(self) -> &'static [u16] {
        match self {
            Crew::Alone => &[WORKER],
            Crew::OneQueue | Crew::TwoQueues => &[WORKER, SECOND],
        }
    }

    /// Receive queues of a port.
    pub(crate) fn queues(self) -> usize {
        match self {
            Crew::Alone | Crew::OneQueue => 1,
            Crew::TwoQueues => 2,
        }
    }

    /// Which worker owns the connections of a client, as the director will find out by itself.
    pub(crate) fn owner(self) -> impl Fn(SocketAddrV4) -> usize {
        let owners = Owners::new(ENTRIES, self.lcores().len());
        move |client| usize::from(owners.owner(*client.ip(), client.port()).0)
    }

    /// EAL's arguments for such a crew: where there are two CPUs, the second worker runs on that of
    /// the main lcore, which sleeps while they work.
    pub(crate) fn eal_args(self, mut args: Vec<String>) -> Vec<String> {
        let cpus = available_parallelism().map_or(1, usize::from);
        let value = args.iter().position(|arg| arg == "--lcores").map(|option| option + 1);
        if let Some(lcores) = value.and_then(|value| args.get_mut(value))
            && cpus <= usize::from(SECOND)
        {
            *lcores = lcores.replace(&SECOND.to_string(), &format!("{SECOND}@0"));
        }
        args
    }
}

impl fmt::Display for Crew {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Crew::Alone => "one worker",
            Crew::OneQueue => "two workers, one queue",
            Crew::TwoQueues => "two workers, two queues",
        })
    }
}
