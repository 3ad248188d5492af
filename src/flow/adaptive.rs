//! The probability flow by an adaptive method: the reference that other samplers are measured against.
//!
//! Dormand and Prince, "A family of embedded Runge-Kutta formulae", J. Comp. Appl. Math. 6 (1980): a step of fifth order
//! `x₅` in seven evaluations, the last of which is the next step's first, and from the same evaluations one of fourth
//! order, whose difference is the error estimate. A step is taken where the root mean square of
//! `error / (absolute + relative max(|x|, |x₅|))` is at most 1; the next one is `0.9 error^(-1/5)` as long.
//!
//! Every row has its own time and its own step. They share forwards, as the rows of a [`FlowMap`] do not depend on one
//! another, and a row's result does not depend on the others. Times, states and sums are `f64`, whatever the network's
//! numbers are.

use candle_core::{DType, Result, Tensor, bail};

use super::{Dual, FlowMap};

/// Evaluations of a step, the one that it shares with the step before included.
const STAGES: usize = 7;
/// Where in its step each evaluation is.
const NODES: [f64; STAGES] = [0.0, 1.0 / 5.0, 3.0 / 10.0, 4.0 / 5.0, 8.0 / 9.0, 1.0, 1.0];
/// From which slopes its state is made; the last row is the step of fifth order itself.
const WEIGHTS: [&[f64]; STAGES] = [
    &[],
    &[1.0 / 5.0],
    &[3.0 / 40.0, 9.0 / 40.0],
    &[44.0 / 45.0, -56.0 / 15.0, 32.0 / 9.0],
    &[19372.0 / 6561.0, -25360.0 / 2187.0, 64448.0 / 6561.0, -212.0 / 729.0],
    &[9017.0 / 3168.0, -355.0 / 33.0, 46732.0 / 5247.0, 49.0 / 176.0, -5103.0 / 18656.0],
    &[35.0 / 384.0, 0.0, 500.0 / 1113.0, 125.0 / 192.0, -2187.0 / 6784.0, 11.0 / 84.0],
];
/// The step of fifth order less the one of fourth.
const ERROR: [f64; STAGES] =
    [71.0 / 57600.0, 0.0, -71.0 / 16695.0, 71.0 / 1920.0, -17253.0 / 339_200.0, 22.0 / 525.0, -1.0 / 40.0];

/// How far below its bound the error is aimed, and by how much a step may shrink and grow.
const SAFETY: f64 = 0.9;
const SHRINK: f64 = 0.2;
const GROWTH: f64 = 5.0;
/// The first step is this part of the time in which a state would change by as much as it is.
const FIRST: f64 = 0.01;
/// The shortest step, as a part of the whole way.
const SHORTEST: f64 = 1e-12;

/// How exact a solution is to be.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Tolerance {
    /// Error of a step that is allowed whatever the state.
    pub absolute: f64,
    /// Error of a step that is allowed for each unit of the state.
    pub relative: f64,
    /// The most evaluations of a row.
    pub max_evaluations: u32,
}

impl Tolerance {
    /// The same absolute and relative tolerance, within 10 000 evaluations.
    pub const fn new(tolerance: f64) -> Self {
        Self { absolute: tolerance, relative: tolerance, max_evaluations: 10_000 }
    }
}

/// Where the flow leads.
#[derive(Debug, Clone)]
pub struct Solution {
    /// The states at the end, in the shape and dtype of those at the start.
    pub end: Tensor,
    /// Network evaluations of each row.
    pub evaluations: Vec<u32>,
}

/// Follows `dx/dt = v_{t,t}(x)` from the states `x` `(B, …)` with labels `(B,)` at time `from` to time `to`, forward or
/// backward.
///
/// # Errors
/// Those of the network; and where the tolerance would take more evaluations than it allows, or steps too short to be
/// told from none, as it does where the velocity is not finite.
pub fn integrate(
    net: &dyn FlowMap,
    (from, to): (f64, f64),
    x: &Tensor,
    labels: &Tensor,
    tolerance: Tolerance,
) -> Result<Solution> {
    let flow = Flow { net, like: x, tolerance, to };
    let states = x.flatten_from(1)?.to_dtype(DType::F64)?.to_vec2::<f64>()?;
    let mut rows: Vec<Row> =
        states.into_iter().zip(labels.to_vec1::<u32>()?).map(|(x, label)| Row::new(x, from, label)).collect();
    flow.begin(&mut rows.iter_mut().collect::<Vec<_>>(), (to - from).abs())?;
    loop {
        let mut moving: Vec<&mut Row> = rows.iter_mut().filter(|row| row.t != to).collect();
        if moving.is_empty() {
            break;
        }
        flow.step(&mut moving)?;
        for row in moving {
            row.judge(to, (to - from).abs(), tolerance)?;
        }
    }
    let evaluations = rows.iter().map(|row| row.evaluations).collect();
    let numbers: Vec<f64> = rows.into_iter().flat_map(|row| row.x).collect();
    Ok(Solution { end: Tensor::from_vec(numbers, x.shape(), x.device())?.to_dtype(x.dtype())?, evaluations })
}

/// One trajectory.
struct Row {
    x: Vec<f64>,
    t: f64,
    /// The length of the step that is tried, positive.
    step: f64,
    label: u32,
    /// The evaluations of the step, the first one from the step before.
    slopes: Vec<Vec<f64>>,
    /// Where the step leads.
    next: Vec<f64>,
    /// Whether the last step was refused: the one after it does not grow.
    refused: bool,
    evaluations: u32,
}

impl Row {
    fn new(x: Vec<f64>, t: f64, label: u32) -> Self {
        let next = x.clone();
        Self { x, t, step: 0.0, label, slopes: Vec::with_capacity(STAGES), next, refused: false, evaluations: 0 }
    }

    /// The state at evaluation `stage` of a step of signed length `h`.
    fn at(&self, stage: usize, h: f64) -> Vec<f64> {
        let mut state = self.x.clone();
        for (slope, weight) in self.slopes.iter().zip(WEIGHTS[stage]) {
            state.iter_mut().zip(slope).for_each(|(x, slope)| *x += h * weight * slope);
        }
        state
    }

    /// The estimated error of the step, where 1 is what is allowed.
    fn error(&self, tolerance: Tolerance) -> f64 {
        let part = |i: usize| {
            let difference: f64 = self.slopes.iter().zip(ERROR).map(|(slope, weight)| weight * slope[i]).sum();
            let size = self.x[i].abs().max(self.next[i].abs());
            (self.step * difference / (tolerance.absolute + tolerance.relative * size)).powi(2)
        };
        let sum: f64 = (0..self.x.len()).map(part).sum();
        (sum / self.x.len().max(1) as f64).sqrt()
    }

    /// Takes the step or refuses it, and chooses the length of the next one.
    fn judge(&mut self, to: f64, whole: f64, tolerance: Tolerance) -> Result<()> {
        let error = self.error(tolerance);
        // What is not a number is refused.
        let is_taken = error <= 1.0;
        let factor = if error.is_finite() { SAFETY * error.max(f64::MIN_POSITIVE).powf(-0.2) } else { SHRINK };
        let most = if self.refused || !is_taken { 1.0 } else { GROWTH };
        let left = (to - self.t).abs();
        if is_taken {
            self.t = if self.step >= left { to } else { self.t + self.step.copysign(to - self.t) };
            std::mem::swap(&mut self.x, &mut self.next);
            self.slopes.swap(0, STAGES - 1);
        }
        self.slopes.truncate(1);
        self.refused = !is_taken;
        self.step *= factor.clamp(SHRINK, most);
        if self.t != to && (self.step < SHORTEST * whole || self.evaluations >= tolerance.max_evaluations) {
            bail!("the flow cannot be followed at t = {} within the tolerance", self.t);
        }
        Ok(())
    }
}

/// What all rows have in common.
struct Flow<'a> {
    net: &'a dyn FlowMap,
    /// States of the shape, dtype and device of the network's.
    like: &'a Tensor,
    tolerance: Tolerance,
    to: f64,
}

impl Flow<'_> {
    /// The first evaluation of every row, and from it the length of its first step.
    fn begin(&self, rows: &mut [&mut Row], whole: f64) -> Result<()> {
        self.evaluate(rows, 0)?;
        for row in rows {
            let Tolerance { absolute, relative, .. } = self.tolerance;
            let norm = |of: &[f64]| {
                let scaled = of.iter().zip(&row.x).map(|(v, x)| (v / (absolute + relative * x.abs())).powi(2));
                scaled.sum::<f64>().sqrt()
            };
            let first = FIRST * norm(&row.x) / norm(&row.slopes[0]);
            row.step = if first.is_finite() { first.clamp(1e-6 * whole, whole) } else { FIRST * whole };
        }
        Ok(())
    }

    /// Tries a step of every row.
    fn step(&self, rows: &mut [&mut Row]) -> Result<()> {
        for row in rows.iter_mut() {
            row.step = row.step.min((self.to - row.t).abs());
        }
        (1..STAGES).try_for_each(|stage| self.evaluate(rows, stage))
    }

    /// Evaluation `stage` of the step of every row.
    fn evaluate(&self, rows: &mut [&mut Row], stage: usize) -> Result<()> {
        let (mut states, mut times) = (Vec::new(), Vec::with_capacity(rows.len()));
        for row in rows.iter_mut() {
            let h = row.step.copysign(self.to - row.t);
            row.next = row.at(stage, h);
            states.extend_from_slice(&row.next);
            times.push(row.t + NODES[stage] * h);
        }
        let mut shape = self.like.dims().to_vec();
        shape[0] = rows.len();
        let (device, dtype) = (self.like.device(), self.like.dtype());
        let x = Dual::constant(&Tensor::from_vec(states, shape, device)?.to_dtype(dtype)?);
        let t = Dual::constant(&Tensor::new(times, device)?.to_dtype(dtype)?);
        let labels = Tensor::new(rows.iter().map(|row| row.label).collect::<Vec<_>>(), device)?;
        // As in sampling, nothing is back-propagated.
        let v = self.net.velocity(&x, &t, &t, &labels)?.primal.detach();
        let slopes = v.flatten_from(1)?.to_dtype(DType::F64)?.to_vec2::<f64>()?;
        for (row, slope) in rows.iter_mut().zip(slopes) {
            row.slopes.push(slope);
            row.evaluations += 1;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;
    use crate::flow::GaussianFlow;

    const FLOW: GaussianFlow = GaussianFlow { noise: 1.0, mean: -0.5, data: 0.3 };
    const X: [f64; 3] = [1.5, -0.3, 0.02];

    fn solve(x: &[f64], span: (f64, f64), tolerance: f64) -> (Vec<f64>, Vec<u32>) {
        let states = Tensor::new(x, &Device::Cpu).unwrap().reshape((x.len(), 1)).unwrap();
        let labels = Tensor::zeros(x.len(), DType::U32, &Device::Cpu).unwrap();
        let solution = integrate(&FLOW, span, &states, &labels, Tolerance::new(tolerance)).unwrap();
        (solution.end.flatten_all().unwrap().to_vec1().unwrap(), solution.evaluations)
    }

    fn worst(span: (f64, f64), tolerance: f64) -> f64 {
        let (end, _) = solve(&X, span, tolerance);
        X.iter().zip(end).map(|(&x, end)| (end - FLOW.jump_at(span.0, span.1, x)).abs()).fold(0.0, f64::max)
    }

    #[test]
    fn the_error_follows_the_tolerance_in_both_directions() {
        for span in [(0.0, 1.0), (1.0, 0.0), (0.2, 0.9)] {
            for tolerance in [1e-4, 1e-6, 1e-8, 1e-10] {
                let error = worst(span, tolerance);
                assert!(error < 20.0 * tolerance, "{span:?} {tolerance}: {error}");
            }
        }
    }

    /// Where equal steps lead, and the estimated error of the last one.
    fn fixed(steps: u32) -> (f64, f64) {
        let like = Tensor::zeros((1, 1), DType::F64, &Device::Cpu).unwrap();
        let tolerance = Tolerance { absolute: 1.0, relative: 0.0, max_evaluations: 1000 };
        let flow = Flow { net: &FLOW, like: &like, tolerance, to: 1.0 };
        let (mut row, mut estimate) = (Row::new(vec![1.5], 0.0, 0), 0.0);
        flow.begin(&mut [&mut row], 1.0).unwrap();
        while row.t != 1.0 {
            row.step = 1.0 / f64::from(steps);
            flow.step(&mut [&mut row]).unwrap();
            estimate = row.error(tolerance);
            row.judge(1.0, 1.0, tolerance).unwrap();
        }
        (row.x[0], estimate)
    }

    /// The error falls with the fifth power of the steps' length; and so does the estimate, which is of one step of
    /// fourth order.
    #[test]
    fn the_method_is_of_fifth_order_and_its_estimate_of_fourth() {
        let exact = FLOW.jump_at(0.0, 1.0, 1.5);
        let [(coarse, estimate), (fine, fine_estimate)] = [32, 64].map(fixed);
        let order = ((coarse - exact) / (fine - exact)).abs().log2();
        assert!((order - 5.0).abs() < 0.3, "{order}");
        let order = (estimate / fine_estimate).log2();
        assert!((order - 5.0).abs() < 0.7, "{order}");
    }

    #[test]
    fn a_row_is_the_same_alone_and_pays_for_itself() {
        let (ends, evaluations) = solve(&X, (0.0, 1.0), 1e-7);
        for (i, &x) in X.iter().enumerate() {
            let (end, own) = solve(&[x], (0.0, 1.0), 1e-7);
            assert_eq!((end[0].to_bits(), own[0]), (ends[i].to_bits(), evaluations[i]));
        }
        let (_, coarse) = solve(&X, (0.0, 1.0), 1e-3);
        assert!(coarse.iter().zip(&evaluations).all(|(coarse, fine)| coarse < fine), "{coarse:?} {evaluations:?}");
    }

    #[test]
    fn what_cannot_be_followed_is_an_error_and_no_way_is_no_work() {
        let states = Tensor::new(&[[1.5f64]], &Device::Cpu).unwrap();
        let labels = Tensor::zeros(1, DType::U32, &Device::Cpu).unwrap();
        let few = Tolerance { max_evaluations: 7, ..Tolerance::new(1e-12) };
        assert!(integrate(&FLOW, (0.0, 1.0), &states, &labels, few).is_err());
        let nowhere = GaussianFlow { mean: f64::NAN, ..FLOW };
        assert!(integrate(&nowhere, (0.0, 1.0), &states, &labels, Tolerance::new(1e-3)).is_err());
        assert_eq!(solve(&[1.5], (0.5, 0.5), 1e-3).0, [1.5]);
    }
}
