//! Line charts as SVG, for pages that are light or dark: a white panel, colours that stay apart for every eye.

use std::ops::Range;

use plotters::coord::ranged1d::{DefaultFormatting, KeyPointHint};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::error::{Error, Result};

/// Size of a chart in pixels, a line or two of legend included.
const SIZE: (u32, u32) = (560, 380);
/// Lines of the legend that have room in it; more make all charts taller.
const LINES: usize = 2;
/// Most charts of a picture, and most points of a chart.
const MAX_CHARTS: usize = 64;
const MAX_POINTS: usize = 1 << 20;
/// Okabe and Ito's colours, without the yellow that white swallows.
const COLOURS: [RGBColor; 7] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(86, 180, 233),
    RGBColor(230, 159, 0),
    RGBColor(70, 70, 70),
];
const INK: RGBColor = RGBColor(40, 40, 40);
const RULE: RGBColor = RGBColor(225, 225, 225);
/// Heights of the title's line and of a line of the legend.
const TITLE: i32 = 34;
const LEGEND: i32 = 20;
/// Width of a character, a little more than that of any sans-serif at the legend's size.
const CHARACTER: i32 = 8;

/// A chart.
#[derive(Debug, Clone)]
pub struct Chart {
    /// What it shows.
    pub title: String,
    /// The horizontal axis.
    pub x: Axis,
    /// The vertical axis.
    pub y: Axis,
    /// The lines.
    pub series: Vec<Series>,
}

/// An axis.
#[derive(Debug, Clone)]
pub struct Axis {
    /// Quantity and unit.
    pub label: String,
    /// Whether equal ratios take equal room; what is not above 0 is left out then.
    pub log: bool,
}

/// A line through points, and the points.
#[derive(Debug, Clone)]
pub struct Series {
    /// Its name in the legend.
    pub name: String,
    /// `(x, y)` in the order in which the line goes; those that are not finite are left out.
    pub points: Vec<(f64, f64)>,
}

impl Axis {
    /// Equal differences take equal room.
    pub fn linear(label: impl Into<String>) -> Self {
        Self { label: label.into(), log: false }
    }

    /// Equal ratios take equal room.
    pub fn log(label: impl Into<String>) -> Self {
        Self { label: label.into(), log: true }
    }

    /// Where a value is drawn: along the axis everything is linear.
    fn place(&self, value: f64) -> f64 {
        if self.log { value.log10() } else { value }
    }
}

/// The charts in rows of `columns`.
///
/// # Errors
/// [`Error::Compute`] for more than a picture can hold.
pub fn svg(charts: &[Chart], columns: usize) -> Result<String> {
    let points = charts.iter().flat_map(|chart| &chart.series).map(|series| series.points.len()).sum::<usize>();
    if charts.is_empty() || charts.len() > MAX_CHARTS || points > MAX_POINTS {
        let n = charts.len();
        return Err(Error::Compute(format!(
            "{n} charts with {points} points; a picture has 1 to {MAX_CHARTS} charts and at most {MAX_POINTS} points"
        )));
    }
    let columns = columns.clamp(1, charts.len());
    let most = charts.iter().map(|chart| legend_lines(&chart.series).len()).max().unwrap_or(0);
    let height = SIZE.1 + LEGEND.unsigned_abs() * u32::try_from(most.saturating_sub(LINES)).unwrap_or(0);
    let rows = charts.len().div_ceil(columns);
    let pixels = |n: usize, side: u32| u32::try_from(n).unwrap_or(1) * side;
    let mut text = String::new();
    let root = SVGBackend::with_string(&mut text, (pixels(columns, SIZE.0), pixels(rows, height))).into_drawing_area();
    root.fill(&WHITE).map_err(failed)?;
    for (area, chart) in root.split_evenly((rows, columns)).iter().zip(charts) {
        draw(chart, area)?;
    }
    root.present().map_err(failed)?;
    drop(root);
    Ok(text)
}

type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;

fn failed(error: impl std::fmt::Display) -> Error {
    Error::Compute(format!("the chart cannot be drawn: {error}"))
}

fn draw(chart: &Chart, area: &Area) -> Result<()> {
    let shown: Vec<Vec<(f64, f64)>> = chart.series.iter().map(|series| placed(chart, series)).collect();
    let lines = legend_lines(&chart.series);
    let (head, body) = area.split_vertically(TITLE + LEGEND * i32::try_from(lines.len()).unwrap_or(0));
    draw_head(chart, &lines, &head)?;
    let all = || shown.iter().flatten();
    let x = Scale::new(&chart.x, all().map(|&(x, _)| x));
    let y = Scale::new(&chart.y, all().map(|&(_, y)| y));
    let mut plot = ChartBuilder::on(&body)
        .margin_right(22)
        .margin_left(6)
        .margin_bottom(4)
        .x_label_area_size(46)
        .y_label_area_size(64)
        .build_cartesian_2d(x.clone(), y.clone())
        .map_err(failed)?;
    plot.configure_mesh()
        .x_desc(&chart.x.label)
        .y_desc(&chart.y.label)
        .x_label_formatter(&|at| x.told(*at))
        .y_label_formatter(&|at| y.told(*at))
        .x_labels(x.ticks.len())
        .y_labels(y.ticks.len())
        .label_style(("sans-serif", 14).into_font().color(&INK))
        .axis_desc_style(("sans-serif", 15).into_font().color(&INK))
        .bold_line_style(RULE)
        .light_line_style(TRANSPARENT)
        .axis_style(INK)
        .draw()
        .map_err(failed)?;
    for (i, points) in shown.iter().enumerate() {
        let (style, points) = (colour(i).stroke_width(2), points.iter().copied());
        match dashes(i) {
            None => plot.draw_series(LineSeries::new(points.clone(), style)).map(drop),
            Some((dash, gap)) => plot.draw_series(DashedLineSeries::new(points.clone(), dash, gap, style)).map(drop),
        }
        .map_err(failed)?;
        plot.draw_series(points.map(|point| Circle::new(point, 3, colour(i).filled()))).map_err(failed)?;
    }
    Ok(())
}

/// The points of a series that can be drawn, where they are drawn.
fn placed(chart: &Chart, series: &Series) -> Vec<(f64, f64)> {
    let place = |&(x, y): &(f64, f64)| (chart.x.place(x), chart.y.place(y));
    series.points.iter().map(place).filter(|(x, y)| x.is_finite() && y.is_finite()).collect()
}

fn colour(series: usize) -> RGBColor {
    COLOURS[series % COLOURS.len()]
}

/// Pixels of a dash and of a gap: where colours come again, lines are broken.
fn dashes(series: usize) -> Option<(u32, u32)> {
    match series / COLOURS.len() {
        0 => None,
        1 => Some((7, 4)),
        _ => Some((2, 4)),
    }
}

/// The legend, broken into lines: numbers of series and where each begins.
fn legend_lines(series: &[Series]) -> Vec<Vec<(usize, i32)>> {
    let (mut lines, mut left) = (Vec::new(), i32::MAX);
    for (i, series) in series.iter().enumerate() {
        let width = 38 + CHARACTER * i32::try_from(series.name.chars().count()).unwrap_or(0);
        if left.saturating_add(width) > i32::try_from(SIZE.0).unwrap_or(0) - 10 {
            lines.push(Vec::new());
            left = 70;
        }
        if let Some(line) = lines.last_mut() {
            line.push((i, left));
        }
        left += width;
    }
    lines
}

fn draw_head(chart: &Chart, lines: &[Vec<(usize, i32)>], head: &Area) -> Result<()> {
    let text =
        |size: i32, h| TextStyle::from(("sans-serif", size).into_font()).color(&INK).pos(Pos::new(h, VPos::Center));
    let middle = i32::try_from(SIZE.0).unwrap_or(0) / 2;
    head.draw_text(&chart.title, &text(18, HPos::Center), (middle, TITLE / 2 + 2)).map_err(failed)?;
    for (row, line) in (0..).zip(lines) {
        let y = TITLE + LEGEND * row + LEGEND / 2;
        for &(i, left) in line {
            let stroke = colour(i).stroke_width(3);
            let (dash, gap) = dashes(i).unwrap_or((20, 1));
            for from in (0..20).step_by((dash + gap) as usize) {
                let to = (from + dash.cast_signed()).min(20);
                head.draw(&PathElement::new([(left + from, y), (left + to, y)], stroke)).map_err(failed)?;
            }
            head.draw_text(&chart.series[i].name, &text(14, HPos::Left), (left + 26, y)).map_err(failed)?;
        }
    }
    Ok(())
}

/// What an axis covers, as places along it.
#[derive(Clone)]
struct Scale {
    log: bool,
    from: f64,
    to: f64,
    ticks: Vec<f64>,
    /// Decimals of a tick's label.
    decimals: usize,
}

impl Scale {
    fn new(axis: &Axis, places: impl Iterator<Item = f64>) -> Self {
        let (low, high) = places.fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), p| (l.min(p), h.max(p)));
        let (low, high) = if low <= high { (low, high) } else { (0.0, 1.0) };
        if axis.log { Self::log(low, high) } else { Self::linear(low, high) }
    }

    /// Ticks at 1, 2 and 5 times a power of ten; the ends are ticks. What is not below 0 begins at 0.
    fn linear(low: f64, high: f64) -> Self {
        let low = low.min(0.0);
        let high = if high > low { high } else { low + 1.0 };
        let rough = (high - low) / 5.0;
        let power = 10f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0].map(|m| m * power).into_iter().find(|step| *step >= rough).unwrap_or(rough);
        let (from, to) = ((low / step).floor() * step, (high / step).ceil() * step);
        let n = ((to - from) / step).round() as usize;
        let ticks = (0..=n).map(|i| from + i as f64 * step).collect();
        Self { log: false, from, to, ticks, decimals: decimals(step) }
    }

    /// Ticks at 1, 2 and 5 times powers of ten, or at the powers only where there are many.
    fn log(low: f64, high: f64) -> Self {
        let (from, to) = (low - 0.04, high + 0.04);
        let powers = || (from.floor() as i32)..=(to.ceil() as i32);
        let inside = |marks: &[f64]| -> Vec<f64> {
            let ticks = powers().flat_map(|power| marks.iter().map(move |m: &f64| f64::from(power) + m.log10()));
            ticks.filter(|tick| (from..=to).contains(tick)).collect()
        };
        let fine = if to - from > 3.0 { inside(&[1.0]) } else { inside(&[1.0, 2.0, 5.0]) };
        let ticks = if fine.len() < 2 { vec![low, high] } else { fine };
        Self { log: true, from, to, ticks, decimals: 0 }
    }

    fn told(&self, place: f64) -> String {
        if !self.log {
            // -0 would be told as such.
            return format!("{:.*}", self.decimals, place + 0.0);
        }
        let value = 10f64.powf(place);
        format!("{value:.*}", decimals(value))
    }
}

impl Ranged for Scale {
    type FormatOption = DefaultFormatting;
    type ValueType = f64;

    fn map(&self, place: &f64, limit: (i32, i32)) -> i32 {
        let share = (place - self.from) / (self.to - self.from);
        limit.0 + (f64::from(limit.1 - limit.0) * share).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, _: Hint) -> Vec<f64> {
        self.ticks.clone()
    }

    fn range(&self) -> Range<f64> {
        self.from..self.to
    }
}

/// Decimals that tell a number of this size in one significant digit.
fn decimals(size: f64) -> usize {
    let power = (size.abs() * 1.000_001).log10().floor();
    if power < 0.0 { (-power).min(12.0) as usize } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart(log: bool, points: &[(f64, f64)]) -> Chart {
        let axis = |label: &str| Axis { label: label.into(), log };
        let series = vec![Series { name: "p99 < 1 & more".into(), points: points.to_vec() }];
        Chart { title: "Latency".into(), x: axis("load"), y: axis("ms"), series }
    }

    #[test]
    fn charts_stand_side_by_side_with_their_words() {
        let svg = svg(&vec![chart(false, &[(0.0, 1.0), (2.0, 4.0)]); 3], 2).unwrap();
        assert!(svg.starts_with("<svg width=\"1120\" height=\"760\""), "{}", &svg[..80]);
        assert_eq!((svg.matches("Latency").count(), svg.matches("<polyline").count() >= 3), (3, true));
        assert!(svg.contains("p99 &lt; 1 &amp; more") && svg.trim_end().ends_with("</svg>"));
    }

    #[test]
    fn whatever_cannot_be_drawn_is_left_out() {
        for log in [false, true] {
            for points in [&[][..], &[(0.0, -1.0)], &[(3.0, 3.0)], &[(f64::NAN, 1.0), (1.0, f64::INFINITY), (2.0, 2.0)]]
            {
                assert!(svg(&[chart(log, points)], 1).is_ok(), "{log} {points:?}");
            }
        }
        assert!(svg(&[], 1).is_err() && svg(&vec![chart(false, &[]); MAX_CHARTS + 1], 8).is_err());
    }

    #[test]
    fn ticks_are_round_numbers() {
        let told = |scale: Scale| scale.ticks.iter().map(|tick| scale.told(*tick)).collect::<Vec<_>>();
        assert_eq!(told(Scale::linear(0.0, 93.0)), ["0", "20", "40", "60", "80", "100"]);
        assert_eq!(told(Scale::linear(0.1, 0.9)), ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]);
        assert_eq!(told(Scale::linear(-3.0, 4.0)), ["-4", "-2", "0", "2", "4"]);
        assert_eq!(told(Scale::log(0.4f64.log10(), 30f64.log10())), ["0.5", "1", "2", "5", "10", "20"]);
        assert_eq!(told(Scale::log(-1.0, 4.0)), ["0.1", "1", "10", "100", "1000", "10000"]);
    }

    #[test]
    fn many_lines_are_told_apart_and_leave_room() {
        let mut many = chart(false, &[(0.0, 1.0), (2.0, 4.0)]);
        many.series = vec![many.series[0].clone(); 3 * COLOURS.len()];
        let looks: std::collections::BTreeSet<_> =
            (0..many.series.len()).map(|i| (i % COLOURS.len(), dashes(i))).collect();
        assert_eq!(looks.len(), many.series.len());
        let lines = legend_lines(&many.series).len() as u32;
        let height = SIZE.1 + LEGEND.unsigned_abs() * (lines - 2);
        assert!(svg(&[many], 1).unwrap().contains(&format!("height=\"{height}\"")));
    }

    #[test]
    fn the_legend_breaks_into_lines() {
        let series = |n: usize| vec![Series { name: "twenty characters ab".into(), points: vec![] }; n];
        assert_eq!(legend_lines(&series(0)).len(), 0);
        assert_eq!(legend_lines(&series(5)).iter().map(Vec::len).collect::<Vec<_>>(), [2, 2, 1]);
    }
}
