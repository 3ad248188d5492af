//! A patch transformer with adaLN-Zero conditioning (DiT: Peebles, Xie, arXiv 2212.09748) on `s`, `t - s` and the class.

use candle_core::{Result, Tensor};
use candle_nn::{Init, VarBuilder};

use super::embedding::{Sinusoids, concat, positions};
use super::kernels::{attention, gated_add, layer_norm, modulate, silu};
use super::layers::{Linear, Start};
use super::patches::Patches;
use crate::checkpoint::Architecture;
use crate::checkpoint::manifest::DataSpec;
use crate::flow::{Dual, FlowMap};

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

impl FlowMap for Dit {
    fn velocity(&self, x: &Dual, s: &Dual, t: &Dual, labels: &Tensor) -> Result<Dual> {
        let condition = self.condition.forward(s, t, labels)?;
        let tokens = self.input.forward(&x.linear(|x| self.patches.split(x))?)?;
        let mut h = tokens.add(&Dual::constant(&self.positions))?;
        for block in &self.blocks {
            h = block.forward(&h, &condition)?;
        }
        let [shift, scale] = chunks(&self.final_modulation.forward(&condition)?)?;
        let h = modulate(&layer_norm(&h, NORM_EPSILON)?, &scale, &shift)?;
        self.output.forward(&h)?.linear(|v| self.patches.join(v))
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

    /// `(B,)` times and labels → `(B, width)`, activated: every block's modulation begins with the same SiLU.
    fn forward(&self, s: &Dual, t: &Dual, labels: &Tensor) -> Result<Dual> {
        let times = concat(&self.times.forward(s)?, &self.times.forward(&t.sub(s)?)?)?;
        let times = self.output.forward(&silu(&self.hidden.forward(&times)?)?)?;
        silu(&times.add(&Dual::constant(&self.classes.index_select(labels, 0)?))?)
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
    fn forward(&self, x: &Dual, condition: &Dual) -> Result<Dual> {
        let [shift_a, scale_a, gate_a, shift_m, scale_m, gate_m] = chunks(&self.modulation.forward(condition)?)?;
        let h = modulate(&layer_norm(x, NORM_EPSILON)?, &scale_a, &shift_a)?;
        let h = self.projection.forward(&attention(&self.qkv.forward(&h)?, self.heads)?)?;
        let x = gated_add(x, &gate_a, &h)?;
        let h = modulate(&layer_norm(&x, NORM_EPSILON)?, &scale_m, &shift_m)?;
        let h = self.contract.forward(&silu(&self.expand.forward(&h)?)?)?;
        gated_add(&x, &gate_m, &h)
    }
}

/// Splits `(B, N width)` into N parts `(B, width)`.
fn chunks<const N: usize>(x: &Dual) -> Result<[Dual; N]> {
    let width = x.primal.dim(1)? / N;
    let parts =
        (0..N).map(|i| x.linear(|v| v.narrow(1, i * width, width)?.contiguous())).collect::<Result<Vec<_>>>()?;
    parts.try_into().map_err(|_| candle_core::Error::Msg("a modulation of the wrong width".into()))
}
