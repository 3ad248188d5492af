//! The residual block: two convolutions between which the condition joins, and attention.

use candle_core::Result;
use candle_nn::VarBuilder;

use crate::model::image_layers::{Conv3x3, GroupNorm, Sides};
use crate::model::layers::{Linear, Start};
use crate::model::ops::Ops;

/// What a block does to the resolution.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Resample {
    /// Nothing.
    Keep,
    /// Halves it, by the mean of 2×2 pixels.
    Down,
    /// Doubles it, by repetition.
    Up,
}

/// `(x + f(x)) / √2`, twice where it attends.
pub(super) struct Block {
    resample: Resample,
    /// Of the input.
    sides: Sides,
    norm0: GroupNorm,
    conv0: Conv3x3,
    affine: Linear,
    norm1: GroupNorm,
    conv1: Conv3x3,
    /// Where width or resolution change.
    skip: Option<Linear>,
    attention: Option<Attention>,
}

impl Block {
    /// A block that takes images of `sides` and `inputs` channels to `outputs` channels under a condition of
    /// `condition` numbers.
    pub(super) fn new(
        sides: Sides,
        [inputs, outputs, condition]: [usize; 3],
        resample: Resample,
        attends: bool,
        weights: &VarBuilder,
    ) -> Result<Self> {
        let linear = |inputs, name: &str| Linear::new(inputs, outputs, Start::Normal, &weights.pp(name));
        let changes = inputs != outputs || resample != Resample::Keep;
        let after = match resample {
            Resample::Keep => sides,
            Resample::Down => sides.halved(1),
            Resample::Up => sides.doubled(),
        };
        Ok(Self {
            resample,
            sides,
            norm0: GroupNorm::new(inputs, &weights.pp("norm0"))?,
            conv0: Conv3x3::new(after, [inputs, outputs], Start::Normal, &weights.pp("conv0"))?,
            affine: linear(condition, "affine")?,
            norm1: GroupNorm::new(outputs, &weights.pp("norm1"))?,
            conv1: Conv3x3::new(after, [outputs, outputs], Start::Zero, &weights.pp("conv1"))?,
            skip: changes.then(|| linear(inputs, "skip")).transpose()?,
            attention: attends.then(|| Attention::new(outputs, weights)).transpose()?,
        })
    }

    /// `x` `(B, T, inputs)` under `condition` `(B, width)`.
    pub(super) fn forward<O: Ops>(&self, ops: &O, x: &O::Value, condition: &O::Value) -> Result<O::Value> {
        let h = self.resampled(ops, &ops.silu(&ops.group_norm(x, &self.norm0)?)?)?;
        let h = ops.conv3x3(&h, &self.conv0, Some(&ops.linear(condition, &self.affine)?))?;
        let h = ops.conv3x3(&ops.silu(&ops.group_norm(&h, &self.norm1)?)?, &self.conv1, None)?;
        let x = ops.residual(&self.skipped(ops, x)?, &h)?;
        match &self.attention {
            Some(attention) => attention.forward(ops, &x),
            None => Ok(x),
        }
    }

    fn resampled<O: Ops>(&self, ops: &O, x: &O::Value) -> Result<O::Value> {
        match self.resample {
            Resample::Keep => Ok(x.clone()),
            Resample::Down => ops.downsample(x, self.sides),
            Resample::Up => ops.upsample(x, self.sides),
        }
    }

    /// The branch past the convolutions. A pixel's product and its repetition commute: the product comes first where
    /// it has fewer pixels.
    fn skipped<O: Ops>(&self, ops: &O, x: &O::Value) -> Result<O::Value> {
        match (&self.skip, self.resample) {
            (None, _) => Ok(x.clone()),
            (Some(skip), Resample::Up) => ops.upsample(&ops.linear(x, skip)?, self.sides),
            (Some(skip), _) => ops.linear(&self.resampled(ops, x)?, skip),
        }
    }
}

/// Self-attention of one head between all pixels.
struct Attention {
    norm: GroupNorm,
    qkv: Linear,
    projection: Linear,
}

impl Attention {
    fn new(width: usize, weights: &VarBuilder) -> Result<Self> {
        Ok(Self {
            norm: GroupNorm::new(width, &weights.pp("norm2"))?,
            qkv: Linear::new(width, 3 * width, Start::Normal, &weights.pp("qkv"))?,
            projection: Linear::new(width, width, Start::Zero, &weights.pp("proj"))?,
        })
    }

    fn forward<O: Ops>(&self, ops: &O, x: &O::Value) -> Result<O::Value> {
        let qkv = ops.linear(&ops.group_norm(x, &self.norm)?, &self.qkv)?;
        ops.residual(x, &ops.linear(&ops.attention(&qkv, 1)?, &self.projection)?)
    }
}
