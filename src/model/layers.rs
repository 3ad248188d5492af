//! Layers: weights with a name and a beginning.

use candle_core::{Result, Tensor};
use candle_nn::{Init, VarBuilder};

/// How a linear layer's weights begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// Normal with variance `1 / inputs`.
    Normal,
    /// Zero: the layer says nothing until it has learned.
    Zero,
}

/// `x W + b`.
///
/// `W` is stored `(inputs, outputs)`, the way the product wants it: no transposition in the forward, and a row's result
/// does not depend on the batch.
pub struct Linear {
    pub(super) weight: Tensor,
    pub(super) bias: Tensor,
}

impl Linear {
    /// A layer from `inputs` to `outputs` numbers; its weights are `weight` and `bias`.
    pub fn new(inputs: usize, outputs: usize, start: Start, weights: &VarBuilder) -> Result<Self> {
        let init = match start {
            Start::Normal => Init::Randn { mean: 0.0, stdev: (inputs as f64).sqrt().recip() },
            Start::Zero => Init::Const(0.0),
        };
        Ok(Self {
            weight: weights.get_with_hints((inputs, outputs), "weight", init)?,
            bias: weights.get_with_hints(outputs, "bias", Init::Const(0.0))?,
        })
    }
}
