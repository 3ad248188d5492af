//! Lagrangian self-distillation (Boffi, Albergo, Vanden-Eijnden, arXiv 2505.18825): a flow map whose own diagonal is its
//! teacher.

use candle_core::{Result, Tensor};

use super::flow_matching::velocity_residual;
use super::{Objective, Student};
use crate::flow::map::{average_velocity, jump_and_dt};
use crate::train::batch::Rows;
use crate::train::pairs::Pairs;

/// Flow matching on the diagonal, and off it `∂_t X_{s,t}(I_s) - sg[v_{t,t}(X_{s,t}(I_s))]`.
pub(crate) struct Lsd {
    /// The distribution of times.
    pub pairs: Pairs,
}

impl Objective for Lsd {
    fn name(&self) -> &'static str {
        "lsd"
    }

    fn pairs(&self, _: u64) -> Pairs {
        self.pairs
    }

    fn residual(&self, student: &Student<'_>, rows: &Rows) -> Result<Tensor> {
        if rows.diagonal {
            return velocity_residual(student.live, rows);
        }
        let Rows { s, t, labels, .. } = rows;
        let (end, rate) = jump_and_dt(student.live, &rows.interpolant(s)?, s, t, labels)?;
        rate - average_velocity(student.stopped, &end.detach(), t, t, labels)?.detach()
    }
}
