//! Images from this process, by the library's sampler: what a server would make, to the bit.

use std::path::Path;
use std::time::Instant;

use candle_core::{Device, Tensor};
use indicatif::ProgressBar;

use super::Backend;
use super::order::{Order, Times};
use super::row::{Row, Timing};
use crate::app::EMBEDDED_DEFAULT;
use crate::checkpoint::Repository;
use crate::cli::inspect::told_guidance;
use crate::domain::{Guidance, ModelInfo, ModelRef, NoiseKey, Sampler, TimeGrid};
use crate::error::{Error, Result};
use crate::flow::FlowMap;
use crate::flow::guidance::Guided;
use crate::flow::sampler::{Fresh, initial, sample_with};
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
        let null = u32::try_from(self.info.classes.len()).unwrap_or(u32::MAX);
        let guided = Guided { net: &*self.net, null_label: null, scale: f64::from(way.guidance) };
        let is_guided = matches!(self.info.guidance, Guidance::TwoCall { .. });
        let net: &dyn FlowMap = if is_guided { &guided } else { &*self.net };
        let labels: Vec<u32> = labels.iter().map(|label| label.unwrap_or(null)).collect();
        let labels = Tensor::new(labels, &Device::Cpu)?;
        let fresh = Fresh { keys, scale: self.info.noise_scale };
        Ok(sample_with(net, way.sampler, way.grid, x, &labels, &fresh)?.flatten_all()?.to_vec1()?)
    }

    /// The sampler and the guidance scale of an order.
    ///
    /// # Errors
    /// [`Error::Config`] with what the model does not take.
    fn choose(&self, order: &Order, grid: &TimeGrid) -> Result<(Sampler, f32)> {
        let ModelInfo { id, guidance, time_pairs, .. } = &self.info;
        let sampler = order.sampler.unwrap_or_else(|| time_pairs.default_sampler());
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

    fn row(&mut self, order: &Order, times: &Times, bar: &ProgressBar) -> Result<Row> {
        let (info, grid) = (&self.info, times.grid());
        let (sampler, scale) = self.choose(order, &grid)?;
        let (asked, mut first) = (Instant::now(), None);
        let way = Way { sampler, grid: &grid, guidance: scale };
        let rows =
            u32::try_from(order.labels.len()).map_err(|_| Error::Config(vec!["--count: is too large".into()]))?;
        let noise = initial(order.seed, 0..rows, &info.shape, info.noise_scale, &Device::Cpu)?;
        let batch = (BATCH_ELEMENTS / info.elements().max(1)).max(1);
        let mut images = Vec::with_capacity(order.labels.len());
        let keys: Vec<NoiseKey> = (0..rows).map(|index| NoiseKey { seed: order.seed, index }).collect();
        for (labels, keys) in order.labels.chunks(batch).zip(keys.chunks(batch)) {
            let x = noise.narrow(0, images.len(), labels.len())?;
            let states = self.walk(way, &x, labels, keys)?;
            images.extend(states.chunks(info.elements()).map(<[f32]>::to_vec));
            first.get_or_insert_with(|| asked.elapsed());
            bar.inc(labels.len() as u64);
        }
        let total = asked.elapsed();
        let timing = Timing { first: first.unwrap_or(total), total, computed: total, ..Timing::default() };
        Ok(Row {
            times: times.clone(),
            request_id: String::new(),
            sampler: sampler.to_string(),
            guidance: scale,
            evaluations: sampler.plan(&grid).len() as u64 * images.len() as u64,
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
