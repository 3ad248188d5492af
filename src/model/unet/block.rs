//! The residual block: two convolutions between which the condition joins, and attention.

use candle_core::Result;
use candle_nn::VarBuilder;

use super::layers::{Conv, Norm};
use crate::flow::Dual;
use crate::model::kernels::{attention, downsample, residual, silu, upsample};
use crate::model::layers::{Linear, Start};

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
    norm0: Norm,
    conv0: Conv,
    affine: Linear,
    norm1: Norm,
    conv1: Conv,
    /// Where width or resolution change.
    skip: Option<Linear>,
    attention: Option<Attention>,
}

impl Block {
    /// A block from `inputs` to `outputs` channels under a condition of `condition` numbers.
    pub(super) fn new(
        [inputs, outputs, condition]: [usize; 3],
        resample: Resample,
        attends: bool,
        weights: &VarBuilder,
    ) -> Result<Self> {
        let linear = |inputs, name: &str| Linear::new(inputs, outputs, Start::Normal, &weights.pp(name));
        let changes = inputs != outputs || resample != Resample::Keep;
        Ok(Self {
            resample,
            norm0: Norm::new(inputs, &weights.pp("norm0"))?,
            conv0: Conv::new([inputs, outputs], Start::Normal, &weights.pp("conv0"))?,
            affine: linear(condition, "affine")?,
            norm1: Norm::new(outputs, &weights.pp("norm1"))?,
            conv1: Conv::new([outputs, outputs], Start::Zero, &weights.pp("conv1"))?,
            skip: changes.then(|| linear(inputs, "skip")).transpose()?,
            attention: attends.then(|| Attention::new(outputs, weights)).transpose()?,
        })
    }

    /// `x` `(B, H, W, inputs)` under `condition` `(B, width)`.
    pub(super) fn forward(&self, x: &Dual, condition: &Dual) -> Result<Dual> {
        let h = self.resampled(&silu(&self.norm0.forward(x)?)?)?;
        let h = self.conv0.forward_shifted(&h, &self.affine.forward(condition)?)?;
        let h = self.conv1.forward(&silu(&self.norm1.forward(&h)?)?)?;
        let x = residual(&self.skipped(x)?, &h)?;
        self.attention.as_ref().map_or_else(|| Ok(x.clone()), |attention| attention.forward(&x))
    }

    fn resampled(&self, x: &Dual) -> Result<Dual> {
        match self.resample {
            Resample::Keep => Ok(x.clone()),
            Resample::Down => downsample(x),
            Resample::Up => upsample(x),
        }
    }

    /// The branch past the convolutions. A pixel's product and its repetition commute: the product comes first where
    /// it has fewer pixels.
    fn skipped(&self, x: &Dual) -> Result<Dual> {
        match (&self.skip, self.resample) {
            (None, _) => Ok(x.clone()),
            (Some(skip), Resample::Up) => upsample(&skip.forward(x)?),
            (Some(skip), _) => skip.forward(&self.resampled(x)?),
        }
    }
}

/// Self-attention of one head between all pixels.
struct Attention {
    norm: Norm,
    qkv: Linear,
    projection: Linear,
}

impl Attention {
    fn new(width: usize, weights: &VarBuilder) -> Result<Self> {
        Ok(Self {
            norm: Norm::new(width, &weights.pp("norm2"))?,
            qkv: Linear::new(width, 3 * width, Start::Normal, &weights.pp("qkv"))?,
            projection: Linear::new(width, width, Start::Zero, &weights.pp("proj"))?,
        })
    }

    fn forward(&self, x: &Dual) -> Result<Dual> {
        let qkv = self.qkv.forward(&self.norm.forward(x)?)?;
        let mixed = attention(&qkv.linear(|v| v.flatten(1, 2))?, 1)?;
        let shape = x.primal.shape();
        residual(x, &self.projection.forward(&mixed)?.linear(|v| v.reshape(shape))?)
    }
}
