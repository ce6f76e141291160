//! The plots, as SVG.

use std::path::Path;

use anyhow::anyhow;
use plotters::{coord::ranged1d::SegmentValue, prelude::*};

use crate::{case::Case, outcome::Outcome};

const SIZE: (u32, u32) = (860, 480);
const FONT: &str = "sans-serif";

/// The cost per packet against the number of flows, on a logarithmic axis.
pub(crate) fn cost(outcomes: &[Outcome], path: &Path) -> anyhow::Result<()> {
    let mut series: Vec<(String, Vec<(f64, f64)>)> = Vec::new();
    for outcome in outcomes.iter().filter(|outcome| outcome.case.is_established()) {
        let Some(cost) = outcome.cost() else { continue };
        let point = (f64::from(outcome.case.flows), cost);
        let name = outcome.case.series();
        match series.iter_mut().find(|(other, _)| *other == name) {
            Some((_, points)) => points.push(point),
            None => series.push((name, vec![point])),
        }
    }
    if series.is_empty() {
        return Ok(());
    }
    let highest =
        series.iter().flat_map(|(_, points)| points).map(|point| point.1).fold(0.0, f64::max);
    draw(path, |root| {
        let mut chart = ChartBuilder::on(root)
            .caption("Cost of a packet over testpmd io", (FONT, 20))
            .margin(12)
            .x_label_area_size(44)
            .y_label_area_size(56)
            .build_cartesian_2d((800.0..1.4e6).log_scale(), 0.0..highest * 1.1)?;
        chart
            .configure_mesh()
            .x_desc("flows")
            .y_desc("ns per packet")
            .x_label_formatter(&|flows| flows_label(*flows))
            .y_label_formatter(&|cost| format!("{cost:.0}"))
            .light_line_style(TRANSPARENT)
            .label_style((FONT, 16))
            .draw()?;
        for (number, (name, points)) in series.iter().enumerate() {
            let colour = Palette99::pick(number).to_rgba();
            chart
                .draw_series(
                    LineSeries::new(points.iter().copied(), colour.stroke_width(2)).point_size(4),
                )?
                .label(name)
                .legend(move |(x, y)| {
                    PathElement::new([(x, y), (x + 18, y)], colour.stroke_width(2))
                });
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperLeft)
            .background_style(WHITE.mix(0.8))
            .border_style(BLACK.mix(0.3))
            .label_font((FONT, 16))
            .draw()?;
        Ok(())
    })
}

/// New connections per second, a bar for each case that opens them.
pub(crate) fn opens(outcomes: &[Outcome], path: &Path) -> anyhow::Result<()> {
    let bars: Vec<_> = outcomes
        .iter()
        // The crowd is there for its stalls, and would go by another one's name.
        .filter(|outcome| !outcome.case.is_established() && outcome.case != Case::CROWD)
        .filter_map(|outcome| Some((outcome.case.series(), outcome.opens()?)))
        .collect();
    if bars.is_empty() {
        return Ok(());
    }
    let highest = bars.iter().map(|(_, opens)| *opens).fold(0.0, f64::max);
    draw(path, |root| {
        let mut chart = ChartBuilder::on(root)
            .caption("New connections per second, one worker", (FONT, 20))
            .margin(12)
            .x_label_area_size(44)
            .y_label_area_size(56)
            .build_cartesian_2d((0..bars.len() - 1).into_segmented(), 0.0..highest * 1.15)?;
        let name = |place: &SegmentValue<usize>| match place {
            SegmentValue::CenterOf(number) => {
                bars.get(*number).map(|(name, _)| name.clone()).unwrap_or_default()
            }
            _ => String::new(),
        };
        chart
            .configure_mesh()
            .disable_x_mesh()
            .y_desc("millions per second")
            .x_label_formatter(&name)
            .light_line_style(TRANSPARENT)
            .label_style((FONT, 16))
            .draw()?;
        chart.draw_series(
            Histogram::vertical(&chart)
                .style(Palette99::pick(0).filled())
                .margin(40)
                .data(bars.iter().enumerate().map(|(number, (_, opens))| (number, *opens))),
        )?;
        Ok(())
    })
}

type Root<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;
type Drawing = Result<(), Box<dyn std::error::Error>>;

fn draw(path: &Path, fill: impl FnOnce(&Root<'_>) -> Drawing) -> anyhow::Result<()> {
    let complain = |error: &dyn std::fmt::Display| anyhow!("{}: {error}", path.display());
    let root = SVGBackend::new(path, SIZE).into_drawing_area();
    root.fill(&WHITE).map_err(|error| complain(&error))?;
    fill(&root).map_err(|error| complain(&error))?;
    root.present().map_err(|error| complain(&error))
}

fn flows_label(flows: f64) -> String {
    if flows >= 1e6 { format!("{} M", flows / 1e6) } else { format!("{} k", flows / 1e3) }
}
