//! Objectives: what a network is asked to make zero. Each is the whole family's `X_{s,t}` with a choice of time pairs, of
//! an identity that the flow map satisfies, and of who says what the other side of it is; `docs/FLOWMAPS.md` has the
//! table.

mod choose;
mod consistency;
mod emd;
mod esd;
mod flow_matching;
mod fmm;
mod lmd;
mod lsd;
mod mean_flow;
mod progressive;
mod psd;
mod trajectories;

#[cfg(test)]
mod tests;

use candle_core::{Result, Tensor};

use super::batch::Rows;
use super::pairs::Pairs;
use crate::flow::FlowMap;

pub(super) use choose::choose;

/// An objective: the mean square of a residual.
pub(super) trait Objective: Send + Sync {
    /// Its name in checkpoints and logs.
    fn name(&self) -> &'static str;

    /// The distribution of times that it needs at a step.
    fn pairs(&self, step: u64) -> Pairs;

    /// The stage that a step belongs to. Where a stage begins, the average of the weights becomes
    /// [`Student::before`].
    fn stage(&self, _step: u64) -> u64 {
        0
    }

    /// The residual of each row, `(B, …)`: of the data's shape, or longer where there are several.
    fn residual(&self, student: &Student<'_>, rows: &Rows) -> Result<Tensor>;
}

/// The network in training, as objectives see it.
pub(super) struct Student<'a> {
    /// Gradients go back through its answers.
    pub live: &'a dyn FlowMap,
    /// The same weights; gradients stop at its answers.
    pub stopped: &'a dyn FlowMap,
    /// The averaged weights when this stage began; none in the first.
    pub before: Option<&'a dyn FlowMap>,
}
