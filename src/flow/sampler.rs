//! Samplers: a sample is a pure function of (network, initial state, labels, time grid), and of the keys of its noise
//! where it draws any.

use std::ops::Range;

use candle_core::{Device, Result, Tensor};

use super::{Dual, FlowMap, noise};
use crate::domain::{Evaluation, NoiseKey, Rule, Sampler, TimeGrid};

/// Walks `grid` from the states `x` `(B, …)` with labels `(B,)`; returns the states at its last time.
///
/// # Errors
/// Those of the network; and for gamma-sampling, which needs [`sample_with`].
pub fn sample(net: &dyn FlowMap, sampler: Sampler, grid: &TimeGrid, x: &Tensor, labels: &Tensor) -> Result<Tensor> {
    sample_with(net, sampler, grid, x, labels, &Fresh { keys: &[], scale: 0.0 })
}

/// Noise that is drawn on the way.
#[derive(Debug, Clone, Copy)]
pub struct Fresh<'a> {
    /// Whose noise it is, row by row.
    pub keys: &'a [NoiseKey],
    /// Standard deviation of the noise at `t = 0`.
    pub scale: f32,
}

/// [`sample`] for every sampler, those that draw `fresh` noise included.
///
/// # Errors
/// Those of the network; and where noise is drawn and there are other keys than rows.
pub fn sample_with(
    net: &dyn FlowMap,
    sampler: Sampler,
    grid: &TimeGrid,
    x: &Tensor,
    labels: &Tensor,
    fresh: &Fresh<'_>,
) -> Result<Tensor> {
    let mut state = State { x: x.clone(), base: None };
    for evaluation in sampler.plan(grid) {
        state = state.evaluate(net, &evaluation, labels)?;
        if let Some(back) = evaluation.renoising() {
            let noise = fresh.draw(back.step, &state.x)?;
            state.x = ((state.x * back.kept)? + (noise * (back.fresh * f64::from(fresh.scale)))?)?;
        }
    }
    Ok(state.x)
}

impl Fresh<'_> {
    /// Standard normal noise for every row, in the shape of `x`.
    fn draw(&self, step: u32, x: &Tensor) -> Result<Tensor> {
        let rows = x.dim(0)?;
        if self.keys.len() != rows {
            candle_core::bail!("{rows} rows draw noise on their way, and {} have a seed", self.keys.len());
        }
        let elements = x.elem_count() / rows.max(1);
        let numbers: Vec<f32> = self.keys.iter().flat_map(|&key| noise::fresh(key, step, elements)).collect();
        Tensor::from_vec(numbers, x.shape(), x.device())?.to_dtype(x.dtype())
    }
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
        let moved = (&self.x + (v * (evaluation.landing() - evaluation.s))?)?;
        Ok(match evaluation.rule {
            Rule::Jump | Rule::Euler | Rule::Renoise { .. } => Self { x: moved, base: None },
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

    /// Numbers `end` of many rows of one number, walked from noise.
    fn noise_walked(sampler: Sampler, grid: &TimeGrid) -> Vec<f64> {
        const ROWS: u32 = 20_000;
        let x = initial(5, 0..ROWS, &[1], 0.8, &Device::Cpu).unwrap().to_dtype(DType::F64).unwrap();
        let labels = Tensor::zeros(ROWS as usize, DType::U32, &Device::Cpu).unwrap();
        let keys: Vec<_> = (0..ROWS).map(|index| NoiseKey { seed: 5, index }).collect();
        let flow = GaussianFlow { noise: 0.8, ..FLOW };
        let end = sample_with(&flow, sampler, grid, &x, &labels, &Fresh { keys: &keys, scale: 0.8 }).unwrap();
        end.flatten_all().unwrap().to_vec1().unwrap()
    }

    /// Each step leaves the marginal of its time as it should be, whatever gamma: so does the last.
    #[test]
    fn gamma_sampling_of_the_exact_map_ends_in_the_data() {
        let grid = TimeGrid::new(vec![0.0, 0.2, 0.5, 0.8, 1.0]).unwrap();
        for gamma in [0.0, 0.3, 0.7, 1.0] {
            for end in [1.0, 0.8] {
                let times = grid.times().iter().copied().filter(|&t| t <= end).collect();
                let sampler = Sampler::Gamma(crate::domain::Gamma::new(gamma).unwrap());
                let x = noise_walked(sampler, &TimeGrid::new(times).unwrap());
                let mean = x.iter().sum::<f64>() / x.len() as f64;
                let variance = x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / x.len() as f64;
                let deviation = GaussianFlow { noise: 0.8, ..FLOW }.deviation(end);
                // Four standard errors of 20 000 samples.
                assert!((mean - end * FLOW.mean).abs() < 0.03 * deviation, "gamma {gamma}: mean {mean}");
                assert!((variance / deviation.powi(2) - 1.0).abs() < 0.04, "gamma {gamma}: variance {variance}");
            }
        }
    }

    #[test]
    fn without_fresh_noise_gamma_sampling_is_composition_and_with_it_it_is_not() {
        let grid = TimeGrid::uniform(3);
        let composed = noise_walked(Sampler::FlowMap, &grid);
        assert_eq!(noise_walked("gamma:0".parse().unwrap(), &grid), composed);
        for other in ["gamma:0.5", "consistency"] {
            let walked = noise_walked(other.parse().unwrap(), &grid);
            let product: f64 = walked.iter().zip(&composed).map(|(a, b)| (a - FLOW.mean) * (b - FLOW.mean)).sum();
            let correlation = product / walked.len() as f64 / FLOW.data.powi(2);
            assert!(correlation < 0.95, "{other}: {correlation}");
        }
    }

    /// Algorithm 1 of "Consistency models", written out.
    #[test]
    fn with_nothing_but_fresh_noise_it_is_the_multistep_sampler_of_consistency_models() {
        let times = [0.0, 0.3, 0.6];
        let mut x = f64::from(noise::initial(5, 7, 1, 0.8)[0]);
        let flow = GaussianFlow { noise: 0.8, ..FLOW };
        for (step, pair) in (0..).zip(times.windows(2)) {
            let data = flow.jump_at(pair[0], 1.0, x);
            let z = f64::from(noise::fresh(NoiseKey { seed: 5, index: 7 }, step, 1)[0]);
            x = (1.0 - pair[1]) * f64::from(0.8f32) * z + pair[1] * data;
        }
        let expected = flow.jump_at(0.6, 1.0, x);
        let walked = noise_walked(Sampler::CONSISTENCY, &TimeGrid::new(vec![0.0, 0.3, 0.6, 1.0]).unwrap());
        assert!((walked[7] - expected).abs() < 1e-12);
    }

    #[test]
    fn noise_without_a_seed_is_refused() {
        let x = Tensor::zeros((2, 1), DType::F64, &Device::Cpu).unwrap();
        let labels = Tensor::zeros(2, DType::U32, &Device::Cpu).unwrap();
        let walk = |sampler| sample(&FLOW, sampler, &TimeGrid::uniform(2), &x, &labels);
        assert!(walk(Sampler::CONSISTENCY).is_err() && walk(Sampler::FlowMap).is_ok());
    }
}
