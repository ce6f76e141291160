//! What is measured.

use std::{fmt, time::Duration};

use serde::{Deserialize, Serialize};

/// What clients speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Protocol {
    Tcp,
    Udp,
}

/// What the service does to addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Mode {
    Nat,
    FullNat,
}

/// What comes in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Load {
    /// From the clients, all connections established and answered.
    Forward,
    /// From the clients and from the servers.
    Both,
    /// Each packet opens a connection, and connections end as fast, their time being over: time goes so
    /// fast that all flows of a replay have ended before it starts again.
    Churn,
    /// Each packet opens a connection in a full table, which gives up another one for it.
    Flood,
}

/// After how much of the director's time a connection may end under [`Load::Churn`]. It is a tick of
/// the connection table's timing wheel: connections live for one tick to two and a half.
pub(crate) const CHURN_TIMEOUT: Duration = Duration::from_secs(1);

/// The share of the flows that come in that time. So half of them are open at a time, and none for
/// more than three quarters of a replay.
pub(crate) const CHURN_SHARE: f64 = 0.3;

/// A line of the report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Case {
    pub(crate) protocol: Protocol,
    pub(crate) mode: Mode,
    pub(crate) load: Load,
    /// Distinct flows that are replayed over and over.
    pub(crate) flows: u32,
}

const K1: u32 = 1 << 10;
const K64: u32 = 1 << 16;
const M1: u32 = 1 << 20;
const M2: u32 = 1 << 21;

impl Case {
    /// So many flows come and go that a million connections are open at a time.
    pub(crate) const CROWD: Case =
        Case { protocol: Protocol::Udp, mode: Mode::Nat, load: Load::Churn, flows: M2 };

    /// What two workers are tried with.
    pub(crate) fn of_two_workers() -> [Case; 2] {
        [Load::Forward, Load::Both].map(|load| Case {
            protocol: Protocol::Udp,
            mode: Mode::Nat,
            load,
            flows: K64,
        })
    }

    /// All cases, in the order of the report; few, when it has to be quick.
    pub(crate) fn all(quick: bool) -> Vec<Case> {
        use {Load::*, Mode::*, Protocol::*};
        let series =
            |protocol, mode, load| [K1, K64, M1].map(|flows| Case { protocol, mode, load, flows });
        let opening = |protocol, mode, load| Case { protocol, mode, load, flows: M1 };
        if quick {
            let mut cases = series(Udp, Nat, Forward).to_vec();
            cases.extend([opening(Udp, Nat, Churn), Case::CROWD]);
            return cases;
        }
        let mut cases = [
            series(Udp, Nat, Forward),
            series(Udp, Nat, Both),
            series(Tcp, Nat, Forward),
            series(Tcp, Nat, Both),
            series(Udp, FullNat, Forward),
        ]
        .concat();
        cases.extend([
            opening(Udp, Nat, Churn),
            Case::CROWD,
            opening(Tcp, Nat, Churn),
            opening(Udp, FullNat, Churn),
            opening(Udp, Nat, Flood),
        ]);
        cases
    }

    /// Whether no other case has such frames, so that testpmd's other modes have something new to say.
    pub(crate) fn has_frames_of_its_own(self) -> bool {
        self.is_established() && self.mode == Mode::Nat
    }

    /// Whether connections stay, so that packets per second are what matters.
    pub(crate) fn is_established(self) -> bool {
        matches!(self.load, Load::Forward | Load::Both)
    }

    /// Room in the connection table: what a service file has by default, unless it is to be full.
    pub(crate) fn connections(self) -> u32 {
        match self.load {
            // The larger the share of flows that are forgotten before they come again, the fewer
            // packets belong to a connection: 2 % do.
            Load::Flood => self.flows / 4,
            _ => self.flows.max(M1),
        }
    }

    /// Frames that are preloaded, of both ports.
    pub(crate) fn templates(self) -> u32 {
        if self.load == Load::Both { 2 * self.flows } else { self.flows }
    }

    /// The name of the line that connects cases in a plot.
    pub(crate) fn series(self) -> String {
        let load = match self.load {
            Load::Forward => "forward",
            Load::Both => "both ways",
            Load::Churn => "all new",
            Load::Flood => "all new, table full",
        };
        let protocol = match self.protocol {
            Protocol::Tcp => "TCP",
            Protocol::Udp => "UDP",
        };
        let mode = match self.mode {
            Mode::Nat => "",
            Mode::FullNat => " full-nat",
        };
        format!("{protocol}{mode} {load}")
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let flows = match self.flows {
            flows if flows < M1 => format!("{} k", flows >> 10),
            flows => format!("{} M", flows >> 20),
        };
        f.pad(&format!("{}, {flows} flows", self.series()))
    }
}
