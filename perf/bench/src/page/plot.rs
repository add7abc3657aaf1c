//! Plots as SVG: bars in groups, and lines over a logarithmic axis, both with the spread of their runs.

use std::fmt::Display;
use std::ops::Range;

use plotters::coord::Shift;
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;

use super::super::results::Numbers;
use cli::failure::Failure;

/// Colours that people with any eyes can tell apart (Okabe and Ito).
const COLOURS: [RGBColor; 5] = [
    RGBColor(0, 114, 178),
    RGBColor(230, 159, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(86, 180, 233),
];

const WIDTH: u32 = 760;
const HEIGHT: u32 = 300;
const FONT: (&str, u32) = ("sans-serif", 13);
const SMALL: (&str, u32) = ("sans-serif", 11);

/// Height of the strip with the names of what is compared.
const LEGEND: u32 = 26;

/// What a group of bars, or a line, is made of.
#[derive(Clone, Debug)]
pub(super) struct Point<'a> {
    /// Which of the names of the plot it belongs to.
    pub(super) series: usize,
    /// Where it is: the index of the group, or the place on the axis.
    pub(super) x: f64,
    pub(super) numbers: &'a Numbers,
}

/// Something to look at.
#[derive(Debug)]
pub(super) struct Plot<'a> {
    pub(super) title: String,
    /// What is compared.
    pub(super) series: Vec<String>,
    pub(super) points: Vec<Point<'a>>,
}

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Chart<'a, 'b> = ChartContext<'a, SVGBackend<'b>, Cartesian2d<RangedCoordf64, RangedCoordf64>>;

impl Plot<'_> {
    /// Groups of bars, named along the axis: medians, with a line from the worst to the best run and a dot for each.
    pub(super) fn bars(&self, groups: &[String]) -> Result<String, Failure> {
        self.draw(0.0..groups.len() as f64, |chart| {
            chart
                .configure_mesh()
                .disable_x_mesh()
                .x_labels(0)
                .y_desc(self.unit())
                .label_style(FONT)
                .draw()
                .map_err(failed)?;
            let width = 0.8 / self.series.len().max(1) as f64;
            for point in &self.points {
                let left = point.x + 0.1 + width * point.series as f64;
                let (right, middle) = (left + 0.92 * width, left + 0.46 * width);
                let colour = colour(point.series);
                let bar =
                    Rectangle::new([(left, 0.0), (right, point.numbers.median)], colour.mix(0.75).filled());
                chart.draw_series([bar]).map_err(failed)?;
                spread(chart, middle, point.numbers, BLACK)?;
                let text = Text::new(super::super::table::number(point.numbers.median), (-12, -14), SMALL);
                chart.draw_series([EmptyElement::at((middle, point.numbers.max)) + text]).map_err(failed)?;
            }
            for (index, group) in groups.iter().enumerate() {
                let at = EmptyElement::at((index as f64 + 0.5, 0.0));
                let shift = -3 * i32::try_from(group.chars().count()).unwrap_or(0);
                chart.draw_series([at + Text::new(group.clone(), (shift, 6), FONT)]).map_err(failed)?;
            }
            Ok(())
        })
    }

    /// Lines over numbers that double.
    pub(super) fn lines(&self, axis: &str) -> Result<String, Failure> {
        let most = self.points.iter().map(|point| point.x).fold(1.0, f64::max).log2();
        self.draw(-0.2..most + 0.2, |chart| {
            let power =
                |x: &f64| if x.fract().abs() < 1e-6 { format!("{:.0}", x.exp2()) } else { String::new() };
            let mut mesh = chart.configure_mesh();
            mesh.x_labels(most as usize + 1).x_label_formatter(&power).x_desc(axis).y_desc(self.unit());
            mesh.label_style(FONT).draw().map_err(failed)?;
            drop(mesh);
            for series in 0..self.series.len() {
                let own: Vec<&Point<'_>> =
                    self.points.iter().filter(|point| point.series == series).collect();
                let line = own.iter().map(|point| (point.x.log2(), point.numbers.median));
                let style = colour(series).stroke_width(2);
                chart.draw_series(LineSeries::new(line, style)).map_err(failed)?;
                own.iter()
                    .try_for_each(|point| spread(chart, point.x.log2(), point.numbers, colour(series)))?;
            }
            Ok(())
        })
    }

    fn unit(&self) -> String {
        self.points.first().map_or_else(String::new, |point| point.numbers.unit.clone())
    }

    fn draw(
        &self,
        axis: Range<f64>,
        content: impl FnOnce(&mut Chart<'_, '_>) -> Result<(), Failure>,
    ) -> Result<String, Failure> {
        let mut text = String::new();
        {
            let whole = SVGBackend::with_string(&mut text, (WIDTH, HEIGHT)).into_drawing_area();
            whole.fill(&WHITE).map_err(failed)?;
            let (legend, below) = whole.split_vertically(LEGEND);
            self.legend(&legend)?;
            let top = self.points.iter().map(|point| point.numbers.max).fold(0.0, f64::max);
            let mut builder = ChartBuilder::on(&below);
            builder.margin(8).x_label_area_size(36).y_label_area_size(64);
            let range = 0.0..if top > 0.0 { 1.12 * top } else { 1.0 };
            let mut chart = builder.build_cartesian_2d(axis, range).map_err(failed)?;
            content(&mut chart)?;
            whole.present().map_err(failed)?;
        }
        Ok(text)
    }

    /// The title and, beside it, the colours of the series.
    fn legend(&self, area: &Area<'_>) -> Result<(), Failure> {
        let title = ("sans-serif", 15).into_font().style(FontStyle::Bold);
        area.draw(&Text::new(self.title.clone(), (8, 7), title)).map_err(failed)?;
        let mut x = 24 + 9 * i32::try_from(self.title.chars().count()).unwrap_or(0);
        for (index, name) in self.series.iter().enumerate() {
            area.draw(&Rectangle::new([(x, 9), (x + 12, 19)], colour(index).filled())).map_err(failed)?;
            area.draw(&Text::new(name.clone(), (x + 17, 8), FONT)).map_err(failed)?;
            x += 36 + 8 * i32::try_from(name.chars().count()).unwrap_or(0);
        }
        Ok(())
    }
}

/// The runs: a line from the smallest to the largest, and a dot for each.
fn spread(chart: &mut Chart<'_, '_>, x: f64, numbers: &Numbers, colour: RGBColor) -> Result<(), Failure> {
    let line = PathElement::new(vec![(x, numbers.min), (x, numbers.max)], colour.stroke_width(1));
    chart.draw_series([line]).map_err(failed)?;
    let dots = numbers.runs.iter().map(|run| Circle::new((x, *run), 2, colour.filled()));
    chart.draw_series(dots).map_err(failed)?;
    Ok(())
}

fn colour(series: usize) -> RGBColor {
    COLOURS.get(series % COLOURS.len()).copied().unwrap_or(BLACK)
}

fn failed(error: impl Display) -> Failure {
    Failure::trouble(format!("drawing a plot: {error}"))
}
