//! Flow matching (Lipman et al., arXiv 2210.02747; Albergo, Vanden-Eijnden, arXiv 2209.15571): a velocity field.

use candle_core::{Result, Tensor};

use super::{Objective, Student};
use crate::flow::FlowMap;
use crate::flow::map::average_velocity;
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

    fn pairs(&self, _: u64) -> Pairs {
        Pairs::Diagonal
    }

    fn residual(&self, student: &Student<'_>, rows: &Rows) -> Result<Tensor> {
        velocity_residual(student.live, rows)
    }
}

/// `v_{s,s}(I_s) - İ_s`: what every objective without a teacher asks on the diagonal.
pub(super) fn velocity_residual(net: &dyn FlowMap, rows: &Rows) -> Result<Tensor> {
    average_velocity(net, &rows.interpolant(&rows.s)?, &rows.s, &rows.s, &rows.labels)? - rows.rate()?
}
