//! A patch transformer with adaLN-Zero conditioning (DiT: Peebles, Xie, arXiv 2212.09748) on `s`, `t - s` and the class.

use candle_core::{Result, Tensor};
use candle_nn::{Init, VarBuilder};

use super::embedding::{Sinusoids, positions};
use super::layers::{Linear, Start};
use super::ops::{Arguments, Network, Ops};
use super::patches::Patches;
use crate::checkpoint::Architecture;
use crate::checkpoint::manifest::DataSpec;

/// Added to the variance in every layer norm.
const NORM_EPSILON: f64 = 1e-6;

/// The patch transformer.
pub struct Dit {
    patches: Patches,
    /// `(1, tokens, width)`.
    positions: Tensor,
    condition: Condition,
    input: Linear,
    blocks: Vec<Block>,
    final_modulation: Linear,
    output: Linear,
}

impl Dit {
    /// The network of an [`Architecture::Dit`] for images of `data`'s shape `[channels, height, width]`.
    pub fn new(architecture: &Architecture, data: &DataSpec, weights: VarBuilder) -> Result<Self> {
        let &Architecture::Dit { patch, width, depth, heads, mlp_ratio, .. } = architecture else {
            candle_core::bail!("not a patch transformer: {architecture:?}")
        };
        let patches = Patches::new(&data.shape, patch)?;
        let blocks = (0..depth)
            .map(|index| Block::new(width, heads, mlp_ratio, &weights.pp(format!("blocks.{index}"))))
            .collect::<Result<_>>()?;
        let (rows, columns) = patches.places();
        Ok(Self {
            condition: Condition::new(architecture, data.classes.len(), &weights)?,
            input: Linear::new(patches.elements(), width, Start::Normal, &weights.pp("input"))?,
            blocks,
            final_modulation: Linear::new(width, 2 * width, Start::Zero, &weights.pp("final_modulation"))?,
            output: Linear::new(width, patches.elements(), Start::Zero, &weights.pp("output"))?,
            // Last: for weights that do not fit, nothing is computed.
            positions: positions(rows, columns, width, weights.dtype(), weights.device())?.unsqueeze(0)?,
            patches,
        })
    }
}

impl Network for Dit {
    fn velocity<O: Ops>(&self, ops: &O, arguments: &Arguments<O>) -> Result<O::Value> {
        let condition = self.condition.forward(ops, arguments)?;
        let tokens = ops.linear(&ops.split(&arguments.x, &self.patches)?, &self.input)?;
        let mut h = ops.add_constant(&tokens, &self.positions)?;
        for block in &self.blocks {
            h = block.forward(ops, &h, &condition)?;
        }
        let [shift, scale] = ops.chunks(&ops.linear(&condition, &self.final_modulation)?)?;
        let h = ops.modulate(&ops.layer_norm(&h, NORM_EPSILON)?, &scale, &shift)?;
        ops.join(&ops.linear(&h, &self.output)?, &self.patches)
    }
}

/// The vector that modulates every block: times through a small perceptron, plus the class.
struct Condition {
    times: Sinusoids,
    hidden: Linear,
    output: Linear,
    /// `(classes + 1, width)`: the last one is the null class.
    classes: Tensor,
}

impl Condition {
    fn new(architecture: &Architecture, classes: usize, weights: &VarBuilder) -> Result<Self> {
        let &Architecture::Dit { width, frequencies, max_frequency, .. } = architecture else {
            candle_core::bail!("not a patch transformer: {architecture:?}")
        };
        let times = Sinusoids::new(frequencies, max_frequency, weights.dtype(), weights.device())?;
        let init = Init::Randn { mean: 0.0, stdev: 0.02 };
        Ok(Self {
            hidden: Linear::new(2 * times.width()?, width, Start::Normal, &weights.pp("times.hidden"))?,
            output: Linear::new(width, width, Start::Normal, &weights.pp("times.output"))?,
            classes: weights.get_with_hints((classes + 1, width), "classes", init)?,
            times,
        })
    }

    /// Times and labels → `(B, width)`, activated: every block's modulation begins with the same SiLU.
    fn forward<O: Ops>(&self, ops: &O, Arguments { s, t, labels, .. }: &Arguments<O>) -> Result<O::Value> {
        let embed = |time| ops.sinusoids(time, &self.times);
        let times = ops.concat(&embed(s)?, &embed(&ops.sub(t, s)?)?)?;
        let times = ops.linear(&ops.silu(&ops.linear(&times, &self.hidden)?)?, &self.output)?;
        ops.silu(&ops.add(&times, &ops.look_up(&self.classes, labels)?)?)
    }
}

/// Attention and a perceptron, each modulated at its entry and gated at its exit.
struct Block {
    heads: usize,
    modulation: Linear,
    qkv: Linear,
    projection: Linear,
    expand: Linear,
    contract: Linear,
}

impl Block {
    fn new(width: usize, heads: usize, mlp_ratio: usize, weights: &VarBuilder) -> Result<Self> {
        let linear = |inputs, outputs, start, name: &str| Linear::new(inputs, outputs, start, &weights.pp(name));
        Ok(Self {
            heads,
            modulation: linear(width, 6 * width, Start::Zero, "modulation")?,
            qkv: linear(width, 3 * width, Start::Normal, "qkv")?,
            projection: linear(width, width, Start::Normal, "projection")?,
            expand: linear(width, mlp_ratio * width, Start::Normal, "expand")?,
            contract: linear(mlp_ratio * width, width, Start::Normal, "contract")?,
        })
    }

    /// `x` `(B, T, width)`, `condition` `(B, width)`.
    fn forward<O: Ops>(&self, ops: &O, x: &O::Value, condition: &O::Value) -> Result<O::Value> {
        let modulation = ops.linear(condition, &self.modulation)?;
        let [shift_a, scale_a, gate_a, shift_m, scale_m, gate_m] = ops.chunks(&modulation)?;
        let h = ops.modulate(&ops.layer_norm(x, NORM_EPSILON)?, &scale_a, &shift_a)?;
        let h = ops.linear(&ops.attention(&ops.linear(&h, &self.qkv)?, self.heads)?, &self.projection)?;
        let x = ops.gated_add(x, &gate_a, &h)?;
        let h = ops.modulate(&ops.layer_norm(&x, NORM_EPSILON)?, &scale_m, &shift_m)?;
        let h = ops.linear(&ops.silu(&ops.linear(&h, &self.expand)?)?, &self.contract)?;
        ops.gated_add(&x, &gate_m, &h)
    }
}
