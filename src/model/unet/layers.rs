//! Layers on images `(B, H, W, C)`.

use candle_core::{Result, Tensor};
use candle_nn::{Init, VarBuilder};

use crate::flow::Dual;
use crate::model::kernels;
use crate::model::layers::Start;

/// Added to the variance in every group norm.
const NORM_EPSILON: f64 = 1e-6;

/// A convolution with 3×3 weights, stored `(3, 3, inputs, outputs)`, and zeros around the image.
pub(super) struct Conv {
    weight: Tensor,
    bias: Tensor,
}

impl Conv {
    pub(super) fn new([inputs, outputs]: [usize; 2], start: Start, weights: &VarBuilder) -> Result<Self> {
        let init = match start {
            // Of Glorot and Bengio: between what keeps the variance of activations and that of gradients.
            Start::Normal => Init::Randn { mean: 0.0, stdev: (2.0 / (9 * (inputs + outputs)) as f64).sqrt() },
            Start::Zero => Init::Const(0.0),
        };
        Ok(Self {
            weight: weights.get_with_hints((3, 3, inputs, outputs), "weight", init)?,
            bias: weights.get_with_hints(outputs, "bias", Init::Const(0.0))?,
        })
    }

    pub(super) fn forward(&self, x: &Dual) -> Result<Dual> {
        kernels::conv3x3(x, &self.weight, &Dual::constant(&self.bias))
    }

    /// With `shift` `(B, outputs)` added at every pixel of its image.
    pub(super) fn forward_shifted(&self, x: &Dual, shift: &Dual) -> Result<Dual> {
        kernels::conv3x3(x, &self.weight, &shift.add(&Dual::constant(&self.bias))?)
    }
}

/// Group norm with a learned scale and shift of each channel.
pub(super) struct Norm {
    groups: usize,
    weight: Tensor,
    bias: Tensor,
}

impl Norm {
    pub(super) fn new(channels: usize, weights: &VarBuilder) -> Result<Self> {
        Ok(Self {
            groups: groups(channels),
            weight: weights.get_with_hints(channels, "weight", Init::Const(1.0))?,
            bias: weights.get_with_hints(channels, "bias", Init::Const(0.0))?,
        })
    }

    pub(super) fn forward(&self, x: &Dual) -> Result<Dual> {
        kernels::group_norm(x, &self.weight, &self.bias, self.groups, NORM_EPSILON)
    }
}

/// The most groups that divide `channels`, up to 32 of at least four channels.
fn groups(channels: usize) -> usize {
    (1..=32.min(channels / 4)).rev().find(|&groups| channels.is_multiple_of(groups)).unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::groups;

    #[test]
    fn groups_divide_the_channels() {
        let expected = [(1, 1), (4, 1), (32, 8), (96, 24), (128, 32), (192, 32), (256, 32), (176, 22), (7, 1)];
        for (channels, count) in expected {
            assert_eq!(groups(channels), count, "{channels}");
        }
    }
}
