//! What all runs of a case found, and what follows from it.

use serde::Serialize;

use crate::{
    case::Case,
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

    /// The longest time between two polls, and the machine's own longest pause, in microseconds.
    pub(crate) fn longest_poll(&self) -> Option<(f64, f64)> {
        let longest = self.windows().map(|window| window.longest_poll_us).reduce(f64::max)?;
        let idle = self.director.iter().map(|run| run.idle_pause_us).reduce(f64::max)?;
        Some((longest, idle))
    }
}
