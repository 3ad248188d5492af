//! MeanFlow (Geng et al., arXiv 2505.13447): Eulerian self-distillation with the interpolant's own rate for the velocity,
//! and with everything but the average velocity itself stopped.

use candle_core::{Result, Tensor};

use super::flow_matching::velocity_residual;
use super::{Objective, Student};
use crate::flow::map::average_velocity_along;
use crate::train::batch::{Rows, per_row};
use crate::train::pairs::Pairs;

/// `v_{s,t}(I_s) - sg[İ_s + (t - s) (∂_s v + ∇v İ_s)]`, each row divided by `(|residual|² + offset)^{power / 2}`.
///
/// The residual is zero in the mean, not in each row: its average over `x₀`, `x₁` given `I_s` is that of the flow map's
/// Eulerian equation.
pub(crate) struct MeanFlow {
    /// The distribution of times.
    pub pairs: Pairs,
    /// Exponent of the adaptive weight; 0 for none.
    pub power: f64,
    /// What keeps it finite, in squares of the data's unit, summed over a sample.
    pub offset: f64,
}

impl Objective for MeanFlow {
    fn name(&self) -> &'static str {
        "mean_flow"
    }

    fn pairs(&self, _: u64) -> Pairs {
        self.pairs
    }

    fn residual(&self, student: &Student<'_>, rows: &Rows) -> Result<Tensor> {
        let residual = if rows.diagonal {
            velocity_residual(student.live, rows)?
        } else {
            let Rows { s, t, labels, .. } = rows;
            let (x, rate) = (rows.interpolant(s)?, rows.rate()?);
            let (v, dv) = average_velocity_along(student.live, &x, &rate, s, t, labels)?;
            let far = dv.detach().broadcast_mul(&per_row(&(t - s)?, &x)?)?;
            (v - (rate + far)?)?
        };
        if self.power == 0.0 {
            return Ok(residual);
        }
        let norm = residual.detach().sqr()?.flatten_from(1)?.sum(1)?;
        let weight = (norm + self.offset)?.powf(-self.power / 2.0)?;
        residual.broadcast_mul(&per_row(&weight, &residual)?)
    }
}
