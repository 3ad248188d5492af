//! Samplers: a sample is a pure function of (network, initial state, labels, time grid).

use std::ops::Range;

use candle_core::{Device, Result, Tensor};

use super::{Dual, FlowMap, noise};
use crate::domain::{Evaluation, Rule, Sampler, TimeGrid};

/// Walks `grid` from the states `x` `(B, …)` with labels `(B,)`; returns the states at its last time.
pub fn sample(net: &dyn FlowMap, sampler: Sampler, grid: &TimeGrid, x: &Tensor, labels: &Tensor) -> Result<Tensor> {
    let start = State { x: x.clone(), base: None };
    let end = sampler.plan(grid).iter().try_fold(start, |state, evaluation| state.evaluate(net, evaluation, labels))?;
    Ok(end.x)
}

/// The state of a batch whose rows are all at the same place of the same grid.
struct State {
    /// Where the network is evaluated next.
    x: Tensor,
    /// The start of Heun's interval, between its predictor and its corrector.
    base: Option<Tensor>,
}

impl State {
    fn evaluate(self, net: &dyn FlowMap, evaluation: &Evaluation, labels: &Tensor) -> Result<Self> {
        let v = average_velocity(net, &self.x, evaluation.network_times(), labels)?;
        let moved = (&self.x + (v * (evaluation.t - evaluation.s))?)?;
        Ok(match evaluation.rule {
            Rule::Jump | Rule::Euler => Self { x: moved, base: None },
            Rule::HeunPredict => Self { x: moved, base: Some(self.x) },
            Rule::HeunCorrect => Self { x: ((self.base.as_ref().unwrap_or(&self.x) + moved)? * 0.5)?, base: None },
        })
    }
}

/// `v_{s,t}(x)` with the same times for all rows.
fn average_velocity(net: &dyn FlowMap, x: &Tensor, times: (f64, f64), labels: &Tensor) -> Result<Tensor> {
    let rows = x.dim(0)?;
    let column = |time: f64| -> Result<Dual> {
        let vector = Tensor::full(time, rows, x.device())?.to_dtype(x.dtype())?;
        Ok(Dual::constant(&vector))
    };
    // Sampling never back-propagates: without this a network in training would keep the graph of every evaluation.
    Ok(net.velocity(&Dual::constant(x), &column(times.0)?, &column(times.1)?, labels)?.primal.detach())
}

/// The initial states of images `rows` under `seed`, `(rows, shape…)` in f32, with standard deviation `scale`.
pub fn initial(seed: u64, rows: Range<u32>, shape: &[usize], scale: f32, device: &Device) -> Result<Tensor> {
    let elements: usize = shape.iter().product();
    let dims: Vec<usize> = std::iter::once(rows.len()).chain(shape.iter().copied()).collect();
    let numbers: Vec<f32> = rows.flat_map(|index| noise::initial(seed, index, elements, scale)).collect();
    Tensor::from_vec(numbers, dims, device)
}

#[cfg(test)]
mod tests {
    use candle_core::DType;

    use super::*;
    use crate::flow::GaussianFlow;

    const FLOW: GaussianFlow = GaussianFlow { noise: 1.0, mean: -0.5, data: 0.3 };

    fn error(sampler: Sampler, grid: &TimeGrid) -> f64 {
        let x = Tensor::new(&[[1.5f64], [-0.3]], &Device::Cpu).unwrap();
        let labels = Tensor::zeros(2, DType::U32, &Device::Cpu).unwrap();
        let end = sample(&FLOW, sampler, grid, &x, &labels).unwrap().flatten_all().unwrap().to_vec1::<f64>().unwrap();
        let last = *grid.times().last().unwrap();
        let exact = |x| FLOW.jump_at(grid.times()[0], last, x);
        (end[0] - exact(1.5)).abs().max((end[1] - exact(-0.3)).abs())
    }

    #[test]
    fn composed_jumps_are_exact_on_any_grid_in_both_directions() {
        for grid in [vec![0.0, 1.0], vec![0.0, 0.1, 0.75, 1.0], vec![0.9, 0.3, 0.0], vec![0.25, 0.5]] {
            assert!(error(Sampler::FlowMap, &TimeGrid::new(grid).unwrap()) < 1e-14);
        }
    }

    #[test]
    fn euler_is_of_first_and_heun_of_second_order() {
        for (sampler, order) in [(Sampler::Euler, 1.0), (Sampler::Heun, 2.0)] {
            let ratio = error(sampler, &TimeGrid::uniform(64)) / error(sampler, &TimeGrid::uniform(128));
            assert!((ratio.log2() - order).abs() < 0.1, "{sampler}: {ratio}");
        }
    }
}
