//! Quality against what it costs: evaluations, or milliseconds.

use crate::error::Result;
use crate::picture::plot::svg;
use crate::picture::{Axis, Chart, Series};

/// A measure of some methods.
#[derive(Debug, Clone)]
pub(super) struct Measured {
    /// Its name.
    pub title: String,
    /// The methods.
    pub curves: Vec<Curve>,
    /// What exact samples measure.
    pub floor: Option<f64>,
}

/// A method at several costs.
#[derive(Debug, Clone)]
pub(super) struct Curve {
    /// Its name.
    pub name: String,
    /// Its points, from the cheapest.
    pub points: Vec<Point>,
}

/// What a sample costs and how good it is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Point {
    /// Network evaluations.
    pub evaluations: u32,
    /// Their time, where it was measured.
    pub milliseconds: Option<f64>,
    /// The measure.
    pub value: f64,
}

/// The charts of all measures as SVG: evaluations on the left; milliseconds on the right, where they are known.
///
/// # Errors
/// [`Error::Compute`](crate::error::Error::Compute) for more than a picture can hold.
pub(super) fn draw(measures: &[Measured]) -> Result<String> {
    let timed = measures.iter().flat_map(|m| &m.curves).flat_map(|c| &c.points).any(|p| p.milliseconds.is_some());
    let charts = measures.iter().flat_map(|measured| {
        let evaluations = measured.chart("evaluations", "network evaluations", |point| Some(point.evaluations.into()));
        let times = timed.then(|| measured.chart("time", "time of a sample (ms)", |point| point.milliseconds));
        [Some(evaluations), times].into_iter().flatten()
    });
    svg(&charts.collect::<Vec<_>>(), if timed { 2 } else { 1 })
}

impl Measured {
    fn chart(&self, cost: &str, axis: &str, of: impl Fn(&Point) -> Option<f64>) -> Chart {
        let line = |curve: &Curve| {
            let points = curve.points.iter().filter_map(|point| Some((of(point)?, point.value)));
            Series { name: curve.name.clone(), points: points.collect() }
        };
        let mut series: Vec<Series> = self.curves.iter().map(line).collect();
        let costs = || series.iter().flat_map(|series| &series.points).map(|point| point.0);
        let (from, to) = (costs().fold(f64::INFINITY, f64::min), costs().fold(f64::NEG_INFINITY, f64::max));
        if let Some(floor) = self.floor.filter(|_| from <= to) {
            series.push(Series { name: "floor".into(), points: vec![(from, floor), (to, floor)] });
        }
        let title = format!("{} against {cost}", self.title);
        Chart { title, x: Axis::log(axis), y: Axis::log(format!("{} (less is better)", self.title)), series }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(milliseconds: Option<f64>) -> Measured {
        let point = |evaluations, value| Point { evaluations, milliseconds, value };
        let curve = Curve { name: "flow map".into(), points: vec![point(1, 0.5), point(4, 0.25)] };
        Measured { title: "KL".into(), curves: vec![curve], floor: Some(0.1) }
    }

    #[test]
    fn each_measure_has_a_chart_for_each_cost_and_the_floor_across() {
        let chart = measured(None).chart("evaluations", "evaluations", |point| Some(point.evaluations.into()));
        assert_eq!(chart.title, "KL against evaluations");
        assert_eq!(chart.series[0].points, [(1.0, 0.5), (4.0, 0.25)]);
        assert_eq!(
            (chart.series[1].name.as_str(), &chart.series[1].points[..]),
            ("floor", &[(1.0, 0.1), (4.0, 0.1)][..])
        );
        let count = |of: &[Measured]| draw(of).unwrap().matches("less is better").count();
        assert_eq!(count(&[measured(None)]), 1);
        assert_eq!(count(&[measured(Some(2.0)), measured(None)]), 4);
    }

    #[test]
    fn without_points_there_is_no_floor_to_draw() {
        let chart = Measured { curves: vec![], ..measured(None) }.chart("time", "ms", |point| point.milliseconds);
        assert!(chart.series.is_empty() && draw(&[Measured { curves: vec![], ..measured(None) }]).is_ok());
    }
}
