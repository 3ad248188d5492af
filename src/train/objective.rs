//! Objectives: what a network is asked to make zero.

mod flow_matching;
mod lmd;

use candle_core::{Result, Tensor};

use super::batch::Rows;
use super::pairs::Pairs;
use crate::flow::FlowMap;

pub(super) use flow_matching::FlowMatching;
pub(super) use lmd::Lmd;

/// An objective: the mean square of a residual.
pub(super) trait Objective: Send + Sync {
    /// Its name in checkpoints and logs.
    fn name(&self) -> &'static str;

    /// The distribution of times that it needs.
    fn pairs(&self) -> Pairs;

    /// The residual of each row, `(B, …)`, in the shape of the data.
    fn residual(&self, net: &dyn FlowMap, rows: &Rows) -> Result<Tensor>;
}
