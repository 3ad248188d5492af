//! The measures of the checkerboard, whose density is known: divergence, transport, stray points, paired distance.

use serde_json::{Map, Value, json};

use super::histogram::{divergence, first_order_floor, outside};
use super::paired::{median, root_mean_square};
use super::protocol::{FLOOR_DRAWS, Protocol};
use super::report::{Column, Network, Role, Row, Show, Values};
use super::sliced::Sliced;
use crate::data::{Checkerboard, Source};
use crate::error::Result;
use crate::flow::noise::{self, Stream};
use crate::model::Workers;
use crate::picture::{Density, Grid};

/// Bins on each side of the two histograms: multiples of 4, so that no bin straddles an edge of a square.
const BINS: [usize; 2] = [48, 64];
/// Directions of the sliced distance.
const DIRECTIONS: usize = 256;
/// Heun steps of the reference.
const REFERENCE_STEPS: u32 = 64;
/// Points whose reference is computed again.
const CHECKED: usize = 4096;
/// Numbers of a point.
const WIDTH: usize = 2;
/// Cells on each side of a density, and the part of the plane that they cover.
const DENSITY: Density = Density { range: [-1.2, 1.2], side: 128 };

/// Measures of points against the checkerboard.
pub struct PointProtocol<'a> {
    seed: u64,
    samples: usize,
    exact: Sliced,
    workers: &'a Workers,
}

impl<'a> PointProtocol<'a> {
    /// Samples of every row, as in arXiv 2505.18825.
    pub const SAMPLES: usize = 64_000;

    /// The measures for sets of `samples` points.
    ///
    /// # Errors
    /// None of its own.
    pub fn new(seed: u64, samples: usize, workers: &'a Workers) -> Result<Self> {
        let exact = Sliced::new(&exact(seed, 0, samples), DIRECTIONS, workers)?;
        Ok(Self { seed, samples, exact, workers })
    }

    /// Everything that needs no reference.
    fn unpaired(&self, points: &[f32]) -> Result<Values> {
        let [coarse, fine] = BINS.map(|bins| divergence(points, bins, Checkerboard::density));
        Ok(Values::from([
            ("kl_48", coarse.kl),
            ("kl_64", fine.kl),
            ("empty_48", coarse.empty as f64),
            ("empty_64", fine.empty as f64),
            ("sliced_w2", self.exact.distance(points, self.workers)?),
            ("outside", outside(points)),
        ]))
    }
}

impl Protocol for PointProtocol<'_> {
    fn columns(&self) -> Vec<Column> {
        let column = |key, title, show, meaning| Column { key, title, meaning, role: role(key), show };
        vec![
            column("kl_48", "KL 48×48", Show::Digits(4), KL),
            column("kl_64", "KL 64×64", Show::Digits(4), "the same with 64 × 64 bins"),
            column("empty_48", "empty 48×48", Show::Hidden, "bins with mass but without samples, of 1152"),
            column("empty_64", "empty 64×64", Show::Hidden, "bins with mass but without samples, of 2048"),
            column("sliced_w2", "sliced W₂", Show::Digits(4), SLICED),
            column("outside", "outside", Show::Percent, "samples outside the filled squares"),
            column("paired_l2", "paired L₂", Show::Digits(4), PAIRED),
            column("paired_l2_median", "median", Show::Digits(4), "the median of the same distances"),
        ]
    }

    fn settings(&self) -> Map<String, Value> {
        Map::from_iter([
            ("bins".into(), json!(BINS)),
            ("directions".into(), json!(DIRECTIONS)),
            ("floor_draws".into(), json!(FLOOR_DRAWS)),
        ])
    }

    fn reference(&self) -> (u32, usize) {
        (REFERENCE_STEPS, CHECKED)
    }

    fn paired(&self, samples: &[f32], reference: &[f32]) -> f64 {
        root_mean_square(samples, reference, WIDTH)
    }

    fn measure(&self, samples: &[f32], reference: &[f32]) -> Result<Values> {
        let mut values = self.unpaired(samples)?;
        values.insert("paired_l2", self.paired(samples, reference));
        values.insert("paired_l2_median", median(samples, reference, WIDTH));
        Ok(values)
    }

    fn judge(&self, samples: &[f32], _reference: &[f32]) -> Result<f64> {
        Ok(divergence(samples, BINS[0], Checkerboard::density).kl)
    }

    fn floors(&self) -> Result<Vec<Row>> {
        let draws = (1..=FLOOR_DRAWS).map(|draw| self.unpaired(&exact(self.seed, draw, self.samples)));
        let draws = draws.collect::<Result<Vec<_>>>()?;
        let mean = |key: &'static str| draws.iter().map(|values| values[key]).sum::<f64>() / f64::from(FLOOR_DRAWS);
        let floor = draws.iter().flat_map(|values| values.keys()).map(|&key| (key, mean(key))).collect();
        let theory = |bins| first_order_floor(bins, self.samples, Checkerboard::density);
        let theory = Values::from([("kl_48", theory(BINS[0])), ("kl_64", theory(BINS[1]))]);
        Ok(vec![Row::bound(Network::Floor, floor), Row::bound(Network::Theory, theory)])
    }

    fn pictured(&self) -> usize {
        self.samples
    }

    fn picture(&self, shown: &[(String, Vec<f32>)]) -> Result<Vec<u8>> {
        let exact = [("exact".to_owned(), exact(self.seed, 0, self.samples))];
        let all = || shown.iter().chain(&exact);
        let images = all().map(|(_, points)| DENSITY.image(points)).collect();
        Grid::new(DENSITY.shape()).columns(all().map(|(caption, _)| caption.clone())).row("", images)?.png()
    }
}

/// What points are judged by.
const MEASURE: &str = "kl_48";
const KL: &str = "KL(p ‖ q̂) = Σ p_b ln(p_b / q̂_b) in nats over 48 × 48 bins of [-1, 1]²; p_b is the exact mass, \
    q̂_b = max(n_b, ½) / n of all n samples; the floor is the mean over exact sets, in theory (K − 1) / 2n for K bins \
    with mass";
const SLICED: &str = "sliced Wasserstein distance to as many exact samples, root mean square over the directions";
const PAIRED: &str = "root mean square distance to the reference from the same noise";

fn role(key: &str) -> Role {
    match key {
        MEASURE => Role::Measure,
        "sliced_w2" | "paired_l2" => Role::Plotted,
        _ => Role::Told,
    }
}

/// `samples` exact samples, set number `draw`.
fn exact(seed: u64, draw: u32, samples: usize) -> Vec<f32> {
    let mut stream = Stream::new(seed, draw, noise::stream::EVALUATION);
    let mut points = vec![0.0; samples * WIDTH];
    points.chunks_exact_mut(WIDTH).for_each(|point| {
        Checkerboard.draw(&mut || stream.uniform(), point);
    });
    points
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Exact samples reach the floor, which is near its expectation; the square as a whole does not.
    #[test]
    fn the_floor_is_where_theory_says() {
        let workers = Workers::new(1).unwrap();
        let protocol = PointProtocol::new(1, 20_000, &workers).unwrap();
        let rows = protocol.floors().unwrap();
        let (floor, theory) = (&rows[0].values, &rows[1].values);
        assert!((floor["kl_48"] / theory["kl_48"] - 1.0).abs() < 0.15, "{floor:?} {theory:?}");
        assert!(floor["outside"] == 0.0 && floor["sliced_w2"] < 0.02);
        let mut stream = Stream::new(5, 0, 0);
        let square: Vec<f32> = (0..40_000).map(|_| 2.0 * stream.uniform() as f32 - 1.0).collect();
        let found = protocol.measure(&square, &square).unwrap();
        assert!((found["outside"] - 0.5).abs() < 0.02 && (found["kl_48"] - 2f64.ln()).abs() < 0.1);
        assert_eq!((found["paired_l2"], found["paired_l2_median"]), (0.0, 0.0));
        assert_eq!(protocol.judge(&square, &[]).unwrap(), found[MEASURE]);
    }

    #[test]
    fn every_value_has_a_column() {
        let workers = Workers::new(1).unwrap();
        let protocol = PointProtocol::new(1, 10, &workers).unwrap();
        let values = protocol.measure(&[0.1; 20], &[0.2; 20]).unwrap();
        let mut columns: Vec<_> = protocol.columns().iter().map(|column| column.key).collect();
        columns.sort_unstable();
        assert_eq!(values.into_keys().collect::<Vec<_>>(), columns);
    }
}
