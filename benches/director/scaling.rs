//! Two workers against one, on the same traffic.

use std::fmt;

use serde::Serialize;

use crate::{
    case::Case, stats::median, throughput::Measurement, window::Window, worker_layout::WorkerLayout,
};

/// The runs of a case, which took turns.
#[derive(Debug, Serialize)]
pub(crate) struct ScalingRun {
    pub(crate) case: Case,
    pub(crate) runs: Vec<(WorkerLayout, Measurement)>,
}

impl ScalingRun {
    /// The layouts that take turns.
    pub(crate) const LAYOUTS: [WorkerLayout; 3] =
        [WorkerLayout::Alone, WorkerLayout::OneQueue, WorkerLayout::TwoQueues];

    fn windows(&self, layout: WorkerLayout) -> impl Iterator<Item = &Window> {
        let runs = self.runs.iter().filter(move |(other, _)| *other == layout);
        runs.flat_map(|(_, run)| &run.windows)
    }

    /// Millions of packets per second that went through such a layout.
    pub(crate) fn mpps(&self, layout: WorkerLayout) -> Option<f64> {
        median(self.windows(layout).map(Window::mpps))
    }

    /// How many times as much goes through such a layout as through one worker.
    pub(crate) fn times(&self, layout: WorkerLayout) -> Option<f64> {
        Some(self.mpps(layout)? / self.mpps(WorkerLayout::Alone)?)
    }

    /// The share of packets for which a ring between the workers had no room.
    pub(crate) fn loss(&self, layout: WorkerLayout) -> Option<f64> {
        median(self.windows(layout).map(Window::loss))
    }

    /// The head of the table that [`ScalingRun`]s are the lines of.
    pub(crate) fn header() -> String {
        format!(
            "{:34} {:>9} {:>10} {:>7} {:>9} {:>11} {:>7}",
            "two workers", "one", "one queue", "times", "dropped", "two queues", "times"
        )
    }
}

/// Its line.
impl fmt::Display for ScalingRun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number =
            |value: Option<f64>| value.map_or("-".to_owned(), |value| format!("{value:.2}"));
        write!(
            f,
            "{:34} {:>9} {:>10} {:>7} {:>7.1} % {:>11} {:>7}",
            self.case,
            number(self.mpps(WorkerLayout::Alone)),
            number(self.mpps(WorkerLayout::OneQueue)),
            number(self.times(WorkerLayout::OneQueue)),
            100.0 * self.loss(WorkerLayout::OneQueue).unwrap_or_default(),
            number(self.mpps(WorkerLayout::TwoQueues)),
            number(self.times(WorkerLayout::TwoQueues)),
        )
    }
}
