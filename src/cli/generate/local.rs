//! Images from this process, by the library's sampler: what a server would make, to the bit.

use std::path::Path;
use std::time::Instant;

use candle_core::{Device, Tensor};
use indicatif::ProgressBar;

use super::Backend;
use super::beginning::Given;
use super::order::{Order, Times};
use super::row::{Row, Timing};
use crate::app::EMBEDDED_DEFAULT;
use crate::checkpoint::Repository;
use crate::cli::inspect::told_guidance;
use crate::domain::{Guidance, ModelInfo, ModelRef, NoiseKey, Sampler, TimeGrid};
use crate::error::{Error, Result};
use crate::flow::FlowMap;
use crate::flow::adaptive::{Tolerance, integrate};
use crate::flow::guidance::Guided;
use crate::flow::noise;
use crate::flow::sampler::{Fresh, sample_with};
use crate::model;

/// Numbers in the samples that share a forward, 32 images of 28 × 28: enough to keep the cores busy, few enough to bound
/// memory and to show progress.
const BATCH_ELEMENTS: usize = 32 * 28 * 28;

/// A loaded model.
pub(in crate::cli) struct Local {
    info: ModelInfo,
    net: Box<dyn FlowMap>,
}

/// How samples are made from where they begin.
#[derive(Debug, Clone, Copy)]
pub(in crate::cli) struct Way<'a> {
    /// How the grid is walked.
    pub(in crate::cli) sampler: Sampler,
    /// The times.
    pub(in crate::cli) grid: &'a TimeGrid,
    /// Guidance scale.
    pub(in crate::cli) guidance: f32,
}

impl Local {
    /// Loads the model `name` of the folder `models`, or of those embedded in the program.
    ///
    /// # Errors
    /// [`Error::Config`] for a malformed name, [`Error::NotFound`] where there is no such model, [`Error::File`] where
    /// it cannot be read.
    pub(in crate::cli) fn open(models: Option<&Path>, name: &str) -> Result<Self> {
        let reference: ModelRef = name.parse().map_err(|e| Error::Config(vec![format!("model {name}: {e}")]))?;
        let repository = models.map_or_else(|| Ok(Repository::embedded()), Repository::open)?;
        let embedded = ModelRef { name: Some(EMBEDDED_DEFAULT.into()), version: None };
        let id = repository.resolve(&reference, models.is_none().then_some(&embedded))?;
        let checkpoint = repository.load(&id)?;
        let net = model::load(&checkpoint, &Device::Cpu)?;
        Ok(Self { info: checkpoint.manifest.info(id), net: Box::new(net) })
    }

    /// The model.
    pub(in crate::cli) fn info(&self) -> &ModelInfo {
        &self.info
    }

    /// The samples, one after the other, to which the states `x` `(B, shape…)` with these labels and this noise on their
    /// way lead. The arguments must be such as the model takes.
    ///
    /// # Errors
    /// [`Error::Compute`] where the network fails.
    pub(in crate::cli) fn walk(
        &self,
        way: Way<'_>,
        x: &Tensor,
        labels: &[Option<u32>],
        keys: &[NoiseKey],
    ) -> Result<Vec<f32>> {
        let fresh = Fresh { keys, scale: self.info.noise_scale };
        let sampled = |net: &dyn FlowMap, labels: &Tensor| {
            sample_with(net, way.sampler, way.grid, x, labels, &fresh)?.flatten_all()?.to_vec1()
        };
        self.guided(way.guidance, labels, sampled)
    }

    /// The same by the adaptive method, from the first time of the grid to its last, and the evaluations that it took.
    fn follow(
        &self,
        way: Way<'_>,
        tolerance: Tolerance,
        x: &Tensor,
        labels: &[Option<u32>],
    ) -> Result<(Vec<f32>, u64)> {
        let times = way.grid.times();
        let span = (times[0], times[times.len() - 1]);
        self.guided(way.guidance, labels, |net, labels| {
            let solution = integrate(net, span, x, labels, tolerance)?;
            let evaluations = solution.evaluations.iter().copied().map(u64::from).sum();
            Ok((solution.end.flatten_all()?.to_vec1()?, evaluations))
        })
    }

    /// What `of` makes of the network under a guidance scale, and the labels.
    fn guided<T>(
        &self,
        scale: f32,
        labels: &[Option<u32>],
        of: impl FnOnce(&dyn FlowMap, &Tensor) -> candle_core::Result<T>,
    ) -> Result<T> {
        let null = u32::try_from(self.info.classes.len()).unwrap_or(u32::MAX);
        let guided = Guided { net: &*self.net, null_label: null, scale: f64::from(scale) };
        let is_guided = matches!(self.info.guidance, Guidance::TwoCall { .. });
        let net: &dyn FlowMap = if is_guided { &guided } else { &*self.net };
        let labels: Vec<u32> = labels.iter().map(|label| label.unwrap_or(null)).collect();
        Ok(of(net, &Tensor::new(labels, &Device::Cpu)?)?)
    }

    /// Where the images of `keys` begin, `(B, shape…)`.
    fn beginnings(&self, keys: &[NoiseKey], given: Option<&Given>) -> Result<Tensor> {
        let (n, scale) = (self.info.elements(), self.info.noise_scale);
        let begin = |(i, key): (usize, &NoiseKey)| match given {
            None => noise::initial(key.seed, key.index, n, scale),
            Some(given) => {
                let from = if given.states.len() == n { 0 } else { i * n };
                let state = &given.states[from..from + n];
                if given.add_noise { noise::noised(state, given.time, *key, scale) } else { state.to_vec() }
            }
        };
        let numbers: Vec<f32> = keys.iter().enumerate().flat_map(begin).collect();
        Ok(Tensor::from_vec(numbers, [&[keys.len()], self.info.shape.as_slice()].concat(), &Device::Cpu)?)
    }

    /// The sampler and the guidance scale of an order.
    ///
    /// # Errors
    /// [`Error::Config`] with what the model does not take.
    fn choose(&self, order: &Order, grid: &TimeGrid) -> Result<(Sampler, f32)> {
        let ModelInfo { id, guidance, time_pairs, .. } = &self.info;
        let default = || if order.ode.is_some() { Sampler::Heun } else { time_pairs.default_sampler() };
        let sampler = order.sampler.unwrap_or_else(default);
        let scale = order.guidance.unwrap_or_else(|| guidance.default_scale());
        let mut problems = Vec::new();
        if let Err(problem) = time_pairs.check(sampler, grid) {
            problems.push(format!("--sampler {sampler}: {id}: {problem}"));
        }
        // The network's interface has no argument for a scale.
        if !guidance.allows(scale) || matches!(guidance, Guidance::Input { .. }) {
            problems.push(format!("--guidance {scale}: {id} takes {}", told_guidance(*guidance)));
        }
        if problems.is_empty() { Ok((sampler, scale)) } else { Err(Error::Config(problems)) }
    }
}

impl Backend for Local {
    fn model(&mut self, _: &str) -> Result<ModelInfo> {
        Ok(self.info.clone())
    }

    fn row(&mut self, order: &Order, times: &Times, given: Option<&Given>, bar: &ProgressBar) -> Result<Row> {
        let (info, grid) = (&self.info, times.grid());
        let (sampler, scale) = self.choose(order, &grid)?;
        let tolerance = order.ode.map(Tolerance::new);
        let (asked, mut first) = (Instant::now(), None);
        let way = Way { sampler, grid: &grid, guidance: scale };
        let rows =
            u32::try_from(order.labels.len()).map_err(|_| Error::Config(vec!["--count: is too large".into()]))?;
        let keys: Vec<NoiseKey> = (0..rows).map(|index| NoiseKey { seed: order.seed, index }).collect();
        let begins = self.beginnings(&keys, given)?;
        let batch = (BATCH_ELEMENTS / info.elements().max(1)).max(1);
        let (mut images, mut evaluations) = (Vec::with_capacity(order.labels.len()), 0);
        for (labels, keys) in order.labels.chunks(batch).zip(keys.chunks(batch)) {
            let x = begins.narrow(0, images.len(), labels.len())?;
            let (states, made) = match tolerance {
                Some(tolerance) => self.follow(way, tolerance, &x, labels)?,
                None => (self.walk(way, &x, labels, keys)?, (sampler.plan(&grid).len() * labels.len()) as u64),
            };
            evaluations += made;
            images.extend(states.chunks(info.elements()).map(<[f32]>::to_vec));
            first.get_or_insert_with(|| asked.elapsed());
            bar.inc(labels.len() as u64);
        }
        let total = asked.elapsed();
        let timing = Timing { first: first.unwrap_or(total), total, computed: total, ..Timing::default() };
        Ok(Row {
            times: times.clone(),
            request_id: String::new(),
            sampler: tolerance.map_or_else(|| sampler.to_string(), |_| "dopri5".into()),
            guidance: scale,
            evaluations,
            images,
            receipts: Vec::new(),
            steps: Vec::new(),
            timing,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_name_the_embedded_default_is_taken() {
        assert_eq!(Local::open(None, "").unwrap().info.id.name, EMBEDDED_DEFAULT);
    }
}
