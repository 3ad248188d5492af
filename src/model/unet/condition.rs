//! The vector that every block adds: both times and the class through a small perceptron.

use candle_core::{Result, Tensor};
use candle_nn::{Init, VarBuilder};

use crate::checkpoint::Architecture;
use crate::model::embedding::Sinusoids;
use crate::model::layers::{Linear, Start};
use crate::model::ops::{Arguments, Ops};

/// Embeds times and class.
pub(super) struct Condition {
    times: Sinusoids,
    /// `(classes + 1, embedding)`: the last one is the null class.
    classes: Tensor,
    hidden: Linear,
    output: Linear,
}

impl Condition {
    pub(super) fn new(architecture: &Architecture, classes: usize, weights: &VarBuilder) -> Result<Self> {
        let &Architecture::Unet { channels, frequencies, max_frequency, .. } = architecture else {
            candle_core::bail!("not a U-Net: {architecture:?}")
        };
        let times = Sinusoids::new(frequencies, max_frequency, weights.dtype(), weights.device())?;
        let (embedding, width) = (2 * times.width()?, Self::width(channels));
        // As large as the sinusoids beside them, whose mean square is a half.
        let init = Init::Randn { mean: 0.0, stdev: 0.5f64.sqrt() };
        Ok(Self {
            classes: weights.get_with_hints((classes + 1, embedding), "map_label.weight", init)?,
            hidden: Linear::new(embedding, width, Start::Normal, &weights.pp("map_layer0"))?,
            output: Linear::new(width, width, Start::Normal, &weights.pp("map_layer1"))?,
            times,
        })
    }

    /// Numbers in the condition of a network of `channels` at the first level.
    pub(super) fn width(channels: usize) -> usize {
        4 * channels
    }

    /// Times and labels → `(B, width)`, activated.
    pub(super) fn forward<O: Ops>(&self, ops: &O, Arguments { s, t, labels, .. }: &Arguments<O>) -> Result<O::Value> {
        let embed = |time| ops.sinusoids(time, &self.times);
        let times = ops.concat(&embed(s)?, &embed(&ops.sub(t, s)?)?)?;
        let embedding = ops.add(&times, &ops.look_up(&self.classes, labels)?)?;
        ops.silu(&ops.linear(&ops.silu(&ops.linear(&embedding, &self.hidden)?)?, &self.output)?)
    }
}
