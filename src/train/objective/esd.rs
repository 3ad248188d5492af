//! Eulerian self-distillation (Boffi, Albergo, Vanden-Eijnden, arXiv 2505.18825).

use candle_core::{Result, Tensor};

use super::emd::semigradient;
use super::flow_matching::velocity_residual;
use super::{Objective, Student};
use crate::flow::map::average_velocity;
use crate::train::batch::Rows;
use crate::train::pairs::Pairs;

/// Flow matching on the diagonal, and off it `∂_s X_{s,t}(I_s) + sg[∇X_{s,t}(I_s) v_{s,s}(I_s)]`.
pub(crate) struct Esd {
    /// The distribution of times.
    pub pairs: Pairs,
}

impl Objective for Esd {
    fn name(&self) -> &'static str {
        "esd"
    }

    fn pairs(&self, _: u64) -> Pairs {
        self.pairs
    }

    fn residual(&self, student: &Student<'_>, rows: &Rows) -> Result<Tensor> {
        if rows.diagonal {
            return velocity_residual(student.live, rows);
        }
        let x = rows.interpolant(&rows.s)?;
        let v = average_velocity(student.stopped, &x, &rows.s, &rows.s, &rows.labels)?.detach();
        semigradient(student, rows, &x, &v)
    }
}
