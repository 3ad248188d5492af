//! Lagrangian map distillation (Boffi, Albergo, Vanden-Eijnden, arXiv 2406.07507, Corollary 3.7): a flow map from a
//! velocity field.

use candle_core::{Result, Tensor};

use super::{Objective, Student};
use crate::flow::FlowMap;
use crate::flow::map::{average_velocity, jump_and_dt};
use crate::train::batch::Rows;
use crate::train::pairs::Pairs;

/// `L = E |∂_t X_{s,t}(I_s) - b_t(X_{s,t}(I_s))|²` with a trained velocity field `b`; zero at its flow map.
pub(crate) struct Lmd {
    /// The velocity field `b_t = v_{t,t}`.
    pub teacher: Box<dyn FlowMap>,
    /// The distribution of times.
    pub pairs: Pairs,
    /// Whether the gradient stops at the argument of `b`.
    pub stop_gradient: bool,
}

impl Objective for Lmd {
    fn name(&self) -> &'static str {
        "lmd"
    }

    fn pairs(&self, _: u64) -> Pairs {
        self.pairs
    }

    fn residual(&self, student: &Student<'_>, rows: &Rows) -> Result<Tensor> {
        let x = rows.interpolant(&rows.s)?;
        let (end, rate) = if rows.diagonal {
            // At s = t the map is the identity and its derivative the velocity: no tangent is needed.
            let v = average_velocity(student.live, &x, &rows.t, &rows.t, &rows.labels)?;
            (x, v)
        } else {
            jump_and_dt(student.live, &x, &rows.s, &rows.t, &rows.labels)?
        };
        let end = if self.stop_gradient { end.detach() } else { end };
        rate - average_velocity(self.teacher.as_ref(), &end, &rows.t, &rows.t, &rows.labels)?
    }
}
