//! A learned weight of the loss by `(s, t)`.

use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;

use crate::flow::Dual;
use crate::model::embedding::Sinusoids;
use crate::model::layers::{Linear, Start};
use crate::model::ops::{Eager, Ops};

/// Where the head's weights live among the others: they are trained with them and never part of a checkpoint.
pub(super) const PREFIX: &str = "loss_weight";
/// Sinusoids per time.
const FREQUENCIES: usize = 16;
/// Their highest frequency, rad per unit time.
const HIGHEST: f64 = 32.0;

/// `e^{-w(s,t)} L + w(s,t)` per row (Kendall, Gal, Cipolla, arXiv 1705.07115): rows whose loss is large at every model
/// weigh less. At its optimum `w` is the logarithm of the expected loss.
pub(super) struct Weighting {
    embedding: Sinusoids,
    head: Linear,
}

impl Weighting {
    /// A head that starts at `w = 0`.
    pub(super) fn new(weights: &VarBuilder) -> Result<Self> {
        let embedding = Sinusoids::new(FREQUENCIES, HIGHEST, weights.dtype(), weights.device())?;
        let head = Linear::new(2 * embedding.width()?, 1, Start::Zero, &weights.pp(PREFIX))?;
        Ok(Self { embedding, head })
    }

    /// Weighs the losses of rows, all `(B,)`.
    pub(super) fn apply(&self, loss: &Tensor, s: &Tensor, t: &Tensor) -> Result<Tensor> {
        let embed = |time: &Tensor| Eager.sinusoids(&Dual::constant(time), &self.embedding);
        let w = Eager.linear(&Eager.concat(&embed(s)?, &embed(t)?)?, &self.head)?.primal.squeeze(1)?;
        (w.neg()?.exp()? * loss)? + w
    }
}
