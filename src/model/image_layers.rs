//! Layers on images: tokens `(B, T, C)` that are the pixels of an image of known sides, row after row.

use candle_core::{Result, Tensor};
use candle_nn::{Init, VarBuilder};

use super::layers::Start;
pub use super::sides::Sides;

/// A convolution with 3×3 weights and zeros around the image.
pub struct Conv3x3 {
    pub(super) sides: Sides,
    /// `(3, 3, inputs, outputs)`.
    pub(super) weight: Tensor,
    /// `(outputs)`.
    pub(super) bias: Tensor,
}

impl Conv3x3 {
    /// A convolution of images of `sides` from `inputs` to `outputs` channels; its weights are `weight` and `bias`.
    pub fn new(sides: Sides, [inputs, outputs]: [usize; 2], start: Start, weights: &VarBuilder) -> Result<Self> {
        let init = match start {
            // Of Glorot and Bengio: between what keeps the variance of activations and that of gradients.
            Start::Normal => Init::Randn { mean: 0.0, stdev: (2.0 / (9 * (inputs + outputs)) as f64).sqrt() },
            Start::Zero => Init::Const(0.0),
        };
        Ok(Self {
            sides,
            weight: weights.get_with_hints((3, 3, inputs, outputs), "weight", init)?,
            bias: weights.get_with_hints(outputs, "bias", Init::Const(0.0))?,
        })
    }
}

/// Group norm with a learned scale and shift of each channel.
pub struct GroupNorm {
    pub(super) groups: usize,
    pub(super) eps: f64,
    /// `(channels)`.
    pub(super) weight: Tensor,
    /// `(channels)`.
    pub(super) bias: Tensor,
}

impl GroupNorm {
    /// Added to the variance.
    const EPSILON: f64 = 1e-6;

    /// A norm of `channels` channels; its weights are `weight` and `bias`.
    pub fn new(channels: usize, weights: &VarBuilder) -> Result<Self> {
        Ok(Self {
            groups: groups(channels),
            eps: Self::EPSILON,
            weight: weights.get_with_hints(channels, "weight", Init::Const(1.0))?,
            bias: weights.get_with_hints(channels, "bias", Init::Const(0.0))?,
        })
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
