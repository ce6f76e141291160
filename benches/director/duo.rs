//! Two workers against one, on the same traffic.

use std::fmt;

use serde::Serialize;

use crate::{case::Case, crew::Crew, stats::median, throughput::Measurement, window::Window};

/// The runs of a case, which took turns.
#[derive(Debug, Serialize)]
pub(crate) struct Duo {
    pub(crate) case: Case,
    pub(crate) runs: Vec<(Crew, Measurement)>,
}

impl Duo {
    /// The crews that take turns.
    pub(crate) const CREWS: [Crew; 3] = [Crew::Alone, Crew::OneQueue, Crew::TwoQueues];

    fn windows(&self, crew: Crew) -> impl Iterator<Item = &Window> {
        let runs = self.runs.iter().filter(move |(other, _)| *other == crew);
        runs.flat_map(|(_, run)| &run.windows)
    }

    /// Millions of packets per second that went through such a crew.
    pub(crate) fn mpps(&self, crew: Crew) -> Option<f64> {
        median(self.windows(crew).map(Window::mpps))
    }

    /// How many times as much goes through such a crew as through one worker.
    pub(crate) fn times(&self, crew: Crew) -> Option<f64> {
        Some(self.mpps(crew)? / self.mpps(Crew::Alone)?)
    }

    /// The share of packets for which a ring between the workers had no room.
    pub(crate) fn loss(&self, crew: Crew) -> Option<f64> {
        median(self.windows(crew).map(Window::loss))
    }

    /// The head of the table that [`Duo`]s are the lines of.
    pub(crate) fn header() -> String {
        format!(
            "{:34} {:>9} {:>10} {:>7} {:>9} {:>11} {:>7}",
            "two workers", "one", "one queue", "times", "dropped", "two queues", "times"
        )
    }
}

/// Its line.
impl fmt::Display for Duo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number =
            |value: Option<f64>| value.map_or("-".to_owned(), |value| format!("{value:.2}"));
        write!(
            f,
            "{:34} {:>9} {:>10} {:>7} {:>7.1} % {:>11} {:>7}",
            self.case,
            number(self.mpps(Crew::Alone)),
            number(self.mpps(Crew::OneQueue)),
            number(self.times(Crew::OneQueue)),
            100.0 * self.loss(Crew::OneQueue).unwrap_or_default(),
            number(self.mpps(Crew::TwoQueues)),
            number(self.times(Crew::TwoQueues)),
        )
    }
}
