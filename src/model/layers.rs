//! Layers that carry tangents.

use candle_core::{Result, Tensor};
use candle_nn::{Init, VarBuilder};

use crate::flow::Dual;

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
    weight: Tensor,
    bias: Tensor,
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

    /// `(…, inputs)` → `(…, outputs)`.
    pub fn forward(&self, x: &Dual) -> Result<Dual> {
        let y = x.linear(|x| product(x, &self.weight))?;
        Ok(Dual { primal: y.primal.broadcast_add(&self.bias)?, tangent: y.tangent })
    }
}

/// `x W` with all leading dimensions of `x` as rows of one matrix.
fn product(x: &Tensor, weight: &Tensor) -> Result<Tensor> {
    let (inputs, outputs) = weight.dims2()?;
    let mut shape = x.dims().to_vec();
    if let Some(last) = shape.last_mut() {
        *last = outputs;
    }
    x.reshape(((), inputs))?.matmul(weight)?.reshape(shape)
}

/// `x (1 + scale) + shift`; `x` `(B, T, C)`, `scale` and `shift` `(B, C)`.
pub fn modulate(x: &Dual, scale: &Dual, shift: &Dual) -> Result<Dual> {
    let factor = scale.affine(1.0, 1.0)?.linear(|v| v.unsqueeze(1))?;
    x.mul(&factor)?.add(&shift.linear(|v| v.unsqueeze(1))?)
}

/// `x + gate · y`; `x` and `y` `(B, T, C)`, `gate` `(B, C)`.
pub fn gated_add(x: &Dual, gate: &Dual, y: &Dual) -> Result<Dual> {
    x.add(&gate.linear(|v| v.unsqueeze(1))?.mul(y)?)
}

/// Self-attention of `heads` heads; `qkv` `(B, T, 3C)` holds queries, keys and values side by side; → `(B, T, C)`.
pub fn attention(qkv: &Dual, heads: usize) -> Result<Dual> {
    let (rows, tokens, triple) = qkv.primal.dims3()?;
    let (width, head) = (triple / 3, triple / 3 / heads);
    let part = |index: usize| {
        qkv.linear(|v| {
            v.narrow(2, index * width, width)?.reshape((rows, tokens, heads, head))?.transpose(1, 2)?.contiguous()
        })
    };
    let (query, key, value) = (part(0)?, part(1)?, part(2)?);
    let scores = query.matmul(&key.linear(|k| k.transpose(2, 3)?.contiguous())?)?;
    let mixed = scores.affine((head as f64).sqrt().recip(), 0.0)?.softmax()?.matmul(&value)?;
    mixed.linear(|v| v.transpose(1, 2)?.reshape((rows, tokens, width)))
}
