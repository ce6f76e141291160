//! What all runs of a case found, and what follows from it.

use serde::Serialize;

use crate::{
    case::Case,
    pauses::Pauses,
    stats::{median, nanoseconds},
    throughput::Measurement,
    window::Window,
};

/// The runs of a case, rates in millions of packets per second.
#[derive(Debug, Serialize)]
pub(crate) struct Outcome {
    pub(crate) case: Case,
    /// testpmd's rates, window by window.
    pub(crate) io: Vec<f64>,
    pub(crate) macswap: Vec<f64>,
    pub(crate) csum: Vec<f64>,
    /// The director's runs, which alternated with testpmd's `io`.
    pub(crate) director: Vec<Measurement>,
}

impl Outcome {
    pub(crate) fn new(case: Case) -> Outcome {
        Outcome { case, io: vec![], macswap: vec![], csum: vec![], director: vec![] }
    }

    fn windows(&self) -> impl Iterator<Item = &Window> {
        self.director.iter().flat_map(|run| &run.windows)
    }

    /// The director's rate.
    pub(crate) fn mpps(&self) -> Option<f64> {
        median(self.windows().map(Window::mpps))
    }

    /// testpmd's, doing nothing.
    pub(crate) fn io_mpps(&self) -> Option<f64> {
        median(self.io.iter().copied())
    }

    /// What the director itself takes per packet: nanoseconds more than testpmd.
    pub(crate) fn cost(&self) -> Option<f64> {
        Some(nanoseconds(self.mpps()?) - nanoseconds(self.io_mpps()?))
    }

    /// Millions of new connections per second.
    pub(crate) fn opens(&self) -> Option<f64> {
        median(self.windows().map(Window::opens))
    }

    /// The share of packets that opened a connection.
    pub(crate) fn opening_share(&self) -> Option<f64> {
        median(self.windows().map(|window| window.opened as f64 / window.packets as f64))
    }

    /// Connections in the table.
    pub(crate) fn connections(&self) -> Option<f64> {
        median(self.windows().map(|window| window.connections as f64))
    }

    /// From one poll to the next, at worst.
    pub(crate) fn polls(&self) -> Option<Pauses> {
        self.windows().map(|window| window.polls).reduce(worst)
    }

    /// From one turn to the next of a loop that does nothing, at worst.
    pub(crate) fn nothing(&self) -> Option<Pauses> {
        self.director.iter().map(|run| run.nothing).reduce(worst)
    }
}

fn worst(a: Pauses, b: Pauses) -> Pauses {
    Pauses {
        longest_us: a.longest_us.max(b.longest_us),
        long_per_second: a.long_per_second.max(b.long_per_second),
        median_us: a.median_us.max(b.median_us),
        p99_us: a.p99_us.max(b.p99_us),
    }
}
