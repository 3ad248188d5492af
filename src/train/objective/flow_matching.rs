//! Flow matching (Lipman et al., arXiv 2210.02747; Albergo, Vanden-Eijnden, arXiv 2209.15571): a velocity field.

use candle_core::{Result, Tensor};

use super::Objective;
use crate::flow::{Dual, FlowMap};
use crate::train::batch::Rows;
use crate::train::pairs::Pairs;

/// `L = E |v_{t,t}(I_t) - İ_t|²`, `İ_t = x₁ - x₀`; its minimiser is `b_t(x) = E[İ_t | I_t = x]`.
///
/// The loss of the minimiser is not zero but `E Var(İ_t | I_t)`.
pub(crate) struct FlowMatching;

impl Objective for FlowMatching {
    fn name(&self) -> &'static str {
        "flow_matching"
    }

    fn pairs(&self) -> Pairs {
        Pairs::Diagonal
    }

    fn residual(&self, net: &dyn FlowMap, rows: &Rows) -> Result<Tensor> {
        let t = Dual::constant(&rows.t);
        let v = net.velocity(&Dual::constant(&rows.interpolant()?), &t, &t, &rows.labels)?.primal;
        v - (&rows.x1 - &rows.x0)?
    }
}
