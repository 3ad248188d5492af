//! Samples `0 .. n` of a seed, computed on several threads.

use candle_core::{Device, Tensor};
use indicatif::ProgressBar;

use crate::domain::{NoiseKey, Sampler, TimeGrid};
use crate::error::{Error, Result};
use crate::flow::FlowMap;
use crate::flow::sampler::{Fresh, initial, sample_with};
use crate::model::Workers;

/// Rows of one forward: large enough to fill the matrix products, small enough for a core's cache.
const IMAGES_AT_ONCE: usize = 16;
/// The same for points, whose rows are small.
const POINTS_AT_ONCE: usize = 512;

/// How a grid is walked, in how many uniform steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Walk {
    /// The sampler.
    pub sampler: Sampler,
    /// Its steps.
    pub steps: u32,
}

impl Walk {
    /// A walk.
    pub const fn new(sampler: Sampler, steps: u32) -> Self {
        Self { sampler, steps }
    }

    /// Network evaluations that one sample takes.
    pub fn evaluations(self) -> u32 {
        self.steps * self.sampler.evaluations_per_step()
    }
}

/// What samples begin with: sample `i` has the noise of `(seed, i)` and the class `i mod classes`.
///
/// A sample is a pure function of this and of the network, so any two walks are paired sample by sample.
#[derive(Debug, Clone, PartialEq)]
pub struct Beginnings {
    /// Seed of the noise.
    pub seed: u64,
    /// Shape of one sample.
    pub shape: Vec<usize>,
    /// Standard deviation of the noise.
    pub noise_scale: f32,
    /// Number of classes, 0 for an unconditional network.
    pub classes: usize,
}

impl Beginnings {
    /// Numbers in one sample.
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// The class of sample `index`; without classes the null class, which is then 0.
    #[expect(clippy::cast_possible_truncation, reason = "a manifest has far fewer than 2³² classes")]
    pub fn label(&self, index: usize) -> u32 {
        (index % self.classes.max(1)) as u32
    }

    /// Noise `(rows, shape…)` and labels `(rows,)` of samples `from .. from + rows`.
    pub(super) fn rows(&self, from: usize, rows: usize) -> Result<(Tensor, Tensor)> {
        let index = |row| u32::try_from(row).map_err(|_| Error::Compute("more than 2³² samples".into()));
        let indices = index(from)?..index(from + rows)?;
        let noise = initial(self.seed, indices, &self.shape, self.noise_scale, &Device::Cpu)?;
        let labels: Vec<u32> = (from..from + rows).map(|index| self.label(index)).collect();
        Ok((noise, Tensor::from_vec(labels, rows, &Device::Cpu)?))
    }

    fn rows_at_once(&self) -> usize {
        if self.shape.len() == 1 { POINTS_AT_ONCE } else { IMAGES_AT_ONCE }
    }
}

/// Makes samples.
pub struct Generator<'a> {
    /// Where every sample begins.
    pub beginnings: &'a Beginnings,
    /// The threads.
    pub workers: &'a Workers,
    /// Moved on by every evaluation of every sample.
    pub bar: ProgressBar,
}

impl Generator<'_> {
    /// The first `count` samples of `net`, one after the other: the same numbers on any number of threads.
    ///
    /// # Errors
    /// [`Error::Compute`] where the arithmetic fails or a sample is not finite.
    pub fn samples(&self, net: &dyn FlowMap, walk: Walk, count: usize) -> Result<Vec<f32>> {
        self.along(net, walk.sampler, &TimeGrid::uniform(walk.steps), count)
    }

    /// The same along any grid.
    ///
    /// # Errors
    /// As [`Generator::samples`].
    pub fn along(&self, net: &dyn FlowMap, sampler: Sampler, grid: &TimeGrid, count: usize) -> Result<Vec<f32>> {
        let at_once = self.beginnings.rows_at_once();
        let evaluations = sampler.plan(grid).len() as u64;
        let chunks = self.workers.map(0..count.div_ceil(at_once), |chunk| {
            let from = chunk * at_once;
            let rows = at_once.min(count - from);
            let (noise, labels) = self.beginnings.rows(from, rows)?;
            let keys = NoiseKey::of(self.beginnings.seed, from..from + rows);
            let fresh = Fresh { keys: &keys, scale: self.beginnings.noise_scale };
            let end = sample_with(net, sampler, grid, &noise, &labels, &fresh)?.flatten_all()?.to_vec1::<f32>()?;
            self.bar.inc(rows as u64 * evaluations);
            Ok(end)
        })?;
        let samples = chunks.concat();
        if samples.iter().all(|v| v.is_finite()) {
            return Ok(samples);
        }
        Err(Error::Compute(format!("{} steps of {sampler} gave a sample that is not finite", grid.steps())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eval::paired::root_mean_square;
    use crate::flow::GaussianFlow;
    use crate::flow::noise::normal;

    const FLOW: GaussianFlow = GaussianFlow { noise: 1.5, mean: 0.4, data: 0.3 };
    const COUNT: usize = 1100;

    fn beginnings() -> Beginnings {
        Beginnings { seed: 3, shape: vec![2], noise_scale: 1.5, classes: 0 }
    }

    fn samples(walk: Walk, threads: usize) -> Vec<f32> {
        let (beginnings, workers) = (beginnings(), Workers::new(threads).unwrap());
        let generator = Generator { beginnings: &beginnings, workers: &workers, bar: ProgressBar::hidden() };
        let samples = generator.samples(&FLOW, walk, COUNT).unwrap();
        assert_eq!(generator.bar.position(), COUNT as u64 * u64::from(walk.evaluations()));
        samples
    }

    /// Where the exact flow carries the noise of each sample.
    fn exact() -> Vec<f32> {
        let noise = (0..COUNT as u32).flat_map(|index| normal(3, index, 2));
        noise.map(|v| FLOW.jump_at(0.0, 1.0, f64::from(v) * 1.5) as f32).collect()
    }

    fn error(walk: Walk) -> f64 {
        root_mean_square(&samples(walk, 1), &exact(), 2)
    }

    #[test]
    fn threads_do_not_change_a_sample() {
        let walk = Walk::new(Sampler::Heun, 3);
        assert_eq!(samples(walk, 1), samples(walk, 3));
    }

    /// Paired distances to the exact end point: none for the exact flow map, first order for Euler, second for Heun.
    #[test]
    fn paired_distances_fall_with_the_order_of_the_sampler() {
        assert!(error(Walk::new(Sampler::FlowMap, 1)) < 1e-6 && error(Walk::new(Sampler::FlowMap, 4)) < 1e-6);
        for (sampler, steps, order) in [(Sampler::Euler, 64, 1.0), (Sampler::Heun, 16, 2.0)] {
            let ratio = error(Walk::new(sampler, steps)) / error(Walk::new(sampler, 2 * steps));
            assert!((ratio.log2() - order).abs() < 0.15, "{sampler}: {ratio}");
        }
    }

    #[test]
    fn classes_take_turns() {
        let labels = |classes| {
            let (_, labels) = Beginnings { classes, ..beginnings() }.rows(2, 4).unwrap();
            labels.to_vec1::<u32>().unwrap()
        };
        assert_eq!((labels(3), labels(0)), (vec![2, 0, 1, 2], vec![0; 4]));
    }
}
