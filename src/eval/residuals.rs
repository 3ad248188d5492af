//! How far a network is from being a flow map: the residuals of its identities, by where in time they are taken.
//!
//! A flow map of the velocity `b_t = v_{t,t}` satisfies (Boffi, Albergo, Vanden-Eijnden, arXiv 2406.07507)
//!
//! - the semigroup identity `X_{u,t}(X_{s,u}(x)) = X_{s,t}(x)`,
//! - the Lagrangian equation `∂_t X_{s,t}(x) = v_{t,t}(X_{s,t}(x))`, here with the exact derivative by forward mode,
//! - the inverse identity `X_{t,s}(X_{s,t}(x)) = x`, where the network knows times that fall.
//!
//! They need no reference: the map is measured against itself. Each is the root mean square of a number over points of
//! the interpolant, `x = (1 - s) x₀ + s x₁`, with `s` and `t` uniform in a square of a grid over `s < t`, and `u`
//! uniform between them.

use std::fmt::Write;

use candle_core::{Device, Tensor};
use indicatif::ProgressBar;
use serde::Serialize;

use super::generate::Beginnings;
use crate::data::Source;
use crate::domain::TimePairs;
use crate::error::Result;
use crate::flow::map::{jump, jump_and_dt};
use crate::flow::noise::{self, Stream};
use crate::flow::{Dual, FlowMap};
use crate::model::Workers;

/// Intervals on each axis of the grid.
pub const SIDE: u32 = 4;
/// Points of a square, where they are points and where they are images.
const POINTS: usize = 2048;
const IMAGES: usize = 48;
/// Rows of one forward with derivatives.
const AT_ONCE: usize = 16;
/// Numbers the streams from here on, beside those of other draws.
const FIRST_STREAM: u32 = 1 << 20;

/// Residuals by square.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Residuals {
    /// Intervals on each axis.
    pub side: u32,
    /// Points in each square.
    pub points: usize,
    /// The squares that hold times `s < t`.
    pub cells: Vec<Cell>,
}

/// The residuals of a square of times, root mean squares of a number.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Cell {
    /// Where `s` lies.
    pub s: [f64; 2],
    /// Where `t` lies.
    pub t: [f64; 2],
    /// `X_{u,t}(X_{s,u}(x)) - X_{s,t}(x)`, in units of the data.
    pub semigroup: f64,
    /// `∂_t X_{s,t}(x) - v_{t,t}(X_{s,t}(x))`, in units of the data for a unit of time.
    pub lagrangian: f64,
    /// `X_{t,s}(X_{s,t}(x)) - x`, in units of the data; absent where times may not fall.
    pub inverse: Option<f64>,
}

/// What residuals are taken of, and at which points.
pub struct Subjected<'a> {
    /// The network, with exact derivatives.
    pub net: &'a dyn FlowMap,
    /// The time pairs that it knows.
    pub pairs: TimePairs,
    /// Where the data's end of the interpolant comes from.
    pub data: &'a dyn Source,
    /// Seed, shape and noise of the other end.
    pub beginnings: &'a Beginnings,
}

impl Subjected<'_> {
    /// Points of each square.
    pub fn points(&self) -> usize {
        if self.beginnings.shape.len() == 1 { POINTS } else { IMAGES }
    }

    /// Points of all squares: what the bar counts.
    pub fn all_points(&self) -> u64 {
        u64::from(SIDE * (SIDE + 1) / 2) * self.points() as u64
    }

    /// The residuals, whatever the number of threads.
    ///
    /// # Errors
    /// [`Error::Compute`](crate::error::Error::Compute) where the arithmetic fails.
    pub fn residuals(&self, workers: &Workers, bar: &ProgressBar) -> Result<Residuals> {
        let points = self.points();
        let squares = (0..SIDE).flat_map(|s| (s..SIDE).map(move |t| (s, t)));
        let cells = squares.map(|square| self.cell(square, points, workers, bar)).collect::<Result<_>>()?;
        Ok(Residuals { side: SIDE, points, cells })
    }

    fn cell(&self, (s, t): (u32, u32), points: usize, workers: &Workers, bar: &ProgressBar) -> Result<Cell> {
        let parts = workers.map(0..points.div_ceil(AT_ONCE), |part| {
            let rows = AT_ONCE.min(points - part * AT_ONCE);
            let first = (s * SIDE + t) * POINTS as u32 + (part * AT_ONCE) as u32;
            let squares = self.squares(&self.draw((s, t), first..first + rows as u32)?)?;
            bar.inc(rows as u64);
            Ok(squares)
        })?;
        let numbers = (points * self.beginnings.elements()) as f64;
        let root = |which: usize| (parts.iter().map(|squares| squares[which]).sum::<f64>() / numbers).sqrt();
        let bounds = |i: u32| [i, i + 1].map(|edge| f64::from(edge) / f64::from(SIDE));
        let inverse = (self.pairs == TimePairs::Square).then(|| root(2));
        Ok(Cell { s: bounds(s), t: bounds(t), semigroup: root(0), lagrangian: root(1), inverse })
    }

    /// Rows at times of a square, each a function of its number alone.
    #[expect(clippy::cast_possible_truncation, reason = "times and states are kept in f32")]
    fn draw(&self, square: (u32, u32), numbers: std::ops::Range<u32>) -> Result<Rows> {
        let elements = self.beginnings.elements();
        let (mut x, mut times, mut labels) = (Vec::new(), [Vec::new(), Vec::new(), Vec::new()], Vec::new());
        let mut data = vec![0.0; elements];
        for number in numbers.clone() {
            let mut stream = Stream::new(self.beginnings.seed, FIRST_STREAM + number, noise::stream::EVALUATION);
            labels.push(self.data.draw(&mut || stream.uniform(), &mut data));
            let mut at = |interval: u32| (f64::from(interval) + stream.uniform()) / f64::from(SIDE);
            let (a, b) = (at(square.0), at(square.1));
            let (s, t) = (a.min(b), a.max(b));
            let u = s + (t - s) * stream.uniform();
            times.iter_mut().zip([s, u, t]).for_each(|(all, time)| all.push(time as f32));
            let start =
                noise::initial(self.beginnings.seed, FIRST_STREAM + number, elements, self.beginnings.noise_scale);
            x.extend(start.iter().zip(&data).map(|(x0, x1)| (1.0 - s as f32) * x0 + s as f32 * x1));
        }
        let rows = numbers.len();
        let dims: Vec<usize> = std::iter::once(rows).chain(self.beginnings.shape.iter().copied()).collect();
        let [s, u, t] = times.map(|times| Tensor::from_vec(times, rows, &Device::Cpu));
        let labels = Tensor::from_vec(labels, rows, &Device::Cpu)?;
        Ok(Rows { x: Tensor::from_vec(x, dims, &Device::Cpu)?, s: s?, u: u?, t: t?, labels })
    }

    /// Sums of squared residuals: semigroup, Lagrangian, inverse (0 where times may not fall).
    fn squares(&self, rows: &Rows) -> Result<[f64; 3]> {
        let Rows { x, s, u, t, labels } = rows;
        let to = |x: &Tensor, s: &Tensor, t: &Tensor| -> candle_core::Result<Tensor> {
            let [x, s, t] = [x, s, t].map(Dual::constant);
            Ok(jump(self.net, &x, &s, &t, labels)?.primal)
        };
        let (end, rate) = jump_and_dt(self.net, x, s, t, labels)?;
        let [at_end, final_time] = [&end, t].map(Dual::constant);
        let velocity = self.net.velocity(&at_end, &final_time, &final_time, labels)?.primal;
        let halfway = to(&to(x, s, u)?, u, t)?;
        let inverse = if self.pairs == TimePairs::Square { apart(&to(&end, t, s)?, x)? } else { 0.0 };
        Ok([apart(&halfway, &end)?, apart(&rate, &velocity)?, inverse])
    }
}

/// Rows of one forward.
struct Rows {
    x: Tensor,
    s: Tensor,
    u: Tensor,
    t: Tensor,
    labels: Tensor,
}

fn apart(a: &Tensor, b: &Tensor) -> candle_core::Result<f64> {
    let [a, b] = [a, b].map(|tensor| tensor.flatten_all()?.to_dtype(candle_core::DType::F64)?.to_vec1::<f64>());
    Ok(a?.iter().zip(b?).map(|(a, b)| (a - b).powi(2)).sum())
}

impl Residuals {
    /// A section of the report: a square table for each identity, `s` downwards and `t` to the right.
    pub(super) fn markdown(&self) -> String {
        let mut text = format!(
            "\n## Self-consistency\n\nRoot mean squares of a number over {} points of the interpolant in each square \
             of times: s downwards, t to the right. 0 for an exact flow map.\n",
            self.points
        );
        self.table(&mut text, "Semigroup: X_{u,t}(X_{s,u}(x)) − X_{s,t}(x)", |cell| Some(cell.semigroup));
        self.table(&mut text, "Lagrangian: ∂_t X_{s,t}(x) − v_{t,t}(X_{s,t}(x))", |cell| Some(cell.lagrangian));
        if self.cells.iter().any(|cell| cell.inverse.is_some()) {
            self.table(&mut text, "Inverse: X_{t,s}(X_{s,t}(x)) − x", |cell| cell.inverse);
        }
        text
    }

    fn table(&self, text: &mut String, title: &str, value: impl Fn(&Cell) -> Option<f64>) {
        let edge = |i: u32| f64::from(i) / f64::from(self.side);
        let told = |i: u32| format!("{}–{}", edge(i), edge(i + 1));
        let columns: String = (0..self.side).map(|i| format!(" {} |", told(i))).collect();
        // Writing to a string does not fail.
        let _ = write!(text, "\n**`{title}`**\n\n| s \\ t |{columns}\n| --- |");
        let _ = writeln!(text, "{}", " ---: |".repeat(self.side as usize));
        for s in 0..self.side {
            let cell = |t| self.cells.iter().find(|cell| cell.s[0] == edge(s) && cell.t[0] == edge(t)).and_then(&value);
            let cells = (0..self.side).map(|t| cell(t).map_or_else(|| " |".into(), |v| format!(" {v:.4} |")));
            let _ = writeln!(text, "| {} |{}", told(s), cells.collect::<String>());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Checkerboard;
    use crate::flow::GaussianFlow;

    const FLOW: GaussianFlow = GaussianFlow { noise: 1.5, mean: 0.4, data: 0.6 };

    /// A flow map that moves a tenth too far.
    struct TooFar;

    impl FlowMap for TooFar {
        fn velocity(&self, x: &Dual, s: &Dual, t: &Dual, labels: &Tensor) -> candle_core::Result<Dual> {
            let length = t.sub(s)?.affine(0.1, 1.0)?;
            let v = FLOW.velocity(x, s, t, labels)?;
            length.per_row(&v)?.mul(&v)
        }
    }

    fn residuals(net: &dyn FlowMap, pairs: TimePairs, threads: usize) -> Residuals {
        let beginnings = Beginnings { seed: 5, shape: vec![2], noise_scale: 1.5, classes: 0 };
        let subjected = Subjected { net, pairs, data: &Checkerboard, beginnings: &beginnings };
        let bar = ProgressBar::hidden();
        let found = subjected.residuals(&Workers::new(threads).unwrap(), &bar).unwrap();
        assert_eq!(bar.position(), subjected.all_points());
        found
    }

    #[test]
    fn the_exact_flow_map_has_none() {
        let found = residuals(&FLOW, TimePairs::Square, 2);
        assert_eq!(found.cells.len(), 10);
        for cell in &found.cells {
            assert!(cell.semigroup < 1e-5 && cell.lagrangian < 1e-4 && cell.inverse.unwrap() < 1e-5, "{cell:?}");
            assert!(cell.s[0] <= cell.t[0] && cell.t[1] <= 1.0);
        }
    }

    #[test]
    fn a_wrong_map_has_some_and_more_for_longer_jumps() {
        let found = residuals(&TooFar, TimePairs::Square, 1);
        let cell = |s, t| found.cells.iter().find(|cell| cell.s[0] == s && cell.t[0] == t).unwrap();
        for of in [|c: &Cell| c.semigroup, |c: &Cell| c.lagrangian, |c: &Cell| c.inverse.unwrap()] {
            assert!(of(cell(0.0, 0.75)) > 0.02 && of(cell(0.0, 0.75)) > 2.0 * of(cell(0.0, 0.0)), "{found:?}");
        }
    }

    #[test]
    fn times_fall_only_where_the_network_knows_them() {
        let found = residuals(&FLOW, TimePairs::Triangle, 1);
        assert!(found.cells.iter().all(|cell| cell.inverse.is_none()) && !found.markdown().contains("Inverse"));
        assert_eq!(found, residuals(&FLOW, TimePairs::Triangle, 3));
        let text = residuals(&FLOW, TimePairs::Square, 1).markdown();
        assert!(text.contains("| 0.75–1 | | | | 0.0000 |") && text.contains("Inverse"), "{text}");
    }
}
