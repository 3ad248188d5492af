//! Flow map matching (Boffi, Albergo, Vanden-Eijnden, arXiv 2406.07507, Proposition 3.11): a flow map in both directions
//! without a teacher.

use candle_core::{Result, Tensor};

use super::flow_matching::velocity_residual;
use super::{Objective, Student};
use crate::flow::map::{jump_and_dt, jump_between};
use crate::train::batch::Rows;
use crate::train::pairs::Pairs;

/// `L = E |∂_t X_{s,t}(X_{t,s}(I_t)) - İ_t|² + |X_{s,t}(X_{t,s}(I_t)) - I_t|²` over all of `[0, 1]²`: the map from `s` is
/// differentiated where the map to `s` leads, and each undoes the other. No gradient is stopped.
///
/// As in flow matching the loss of the minimiser is `E Var(İ_t | I_t)`, not zero.
pub(crate) struct Fmm {
    /// The distribution of times.
    pub pairs: Pairs,
}

impl Objective for Fmm {
    fn name(&self) -> &'static str {
        "fmm"
    }

    fn pairs(&self, _: u64) -> Pairs {
        self.pairs
    }

    fn residual(&self, student: &Student<'_>, rows: &Rows) -> Result<Tensor> {
        if rows.diagonal {
            return velocity_residual(student.live, rows);
        }
        let Rows { s, t, labels, .. } = rows;
        let there = rows.interpolant(t)?;
        let start = jump_between(student.live, &there, t, s, labels)?;
        let (back, rate) = jump_and_dt(student.live, &start, s, t, labels)?;
        // The mean over both halves, times two, is the sum of their means.
        Tensor::cat(&[(rate - rows.rate()?)?, (back - there)?], 1)? * std::f64::consts::SQRT_2
    }
}
