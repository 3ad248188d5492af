//! Progressive self-distillation (Boffi, Albergo, Vanden-Eijnden, arXiv 2505.18825): two jumps teach one. On the dyadic
//! grid, with the middle between, it is the shortcut model (Frans et al., arXiv 2410.12557).

use candle_core::{Result, Tensor};

use super::flow_matching::velocity_residual;
use super::{Objective, Student};
use crate::flow::FlowMap;
use crate::flow::map::average_velocity;
use crate::train::batch::{Rows, per_row};
use crate::train::pairs::Pairs;

/// Flow matching on the diagonal, and off it `v_{s,t} - sg[(1-γ) v_{s,u} + γ v_{u,t}(X_{s,u})]` at `I_s`, with
/// `u = γ s + (1-γ) t`: the semigroup property, divided by `t - s`.
pub(crate) struct Psd {
    /// As checkpoints name it.
    pub name: &'static str,
    /// Where between `s` and `t` the two jumps meet.
    pub midpoint: Midpoint,
    /// The distribution of times.
    pub pairs: Pairs,
    /// Jumps shorter than this are the diagonal's velocity: where a grid's shortest jump ends.
    pub shortest: f64,
}

/// A distribution of `γ`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Midpoint {
    /// `γ = 1/2`.
    Half,
    /// `γ` uniform on `[0, 1]`.
    Uniform,
}

impl Objective for Psd {
    fn name(&self) -> &'static str {
        self.name
    }

    fn pairs(&self, _: u64) -> Pairs {
        self.pairs
    }

    fn residual(&self, student: &Student<'_>, rows: &Rows) -> Result<Tensor> {
        if rows.diagonal {
            return velocity_residual(student.live, rows);
        }
        let x = rows.interpolant(&rows.s)?;
        let gamma = match self.midpoint {
            Midpoint::Half => (rows.u.ones_like()? * 0.5)?,
            Midpoint::Uniform => rows.u.clone(),
        };
        let target = two_jumps(student.stopped, &x, rows, &gamma, self.shortest)?.detach();
        average_velocity(student.live, &x, &rows.s, &rows.t, &rows.labels)? - target
    }
}

/// The average velocity `(1-γ) v_{s,u}(x) + γ v_{u,t}(X_{s,u}(x))` of two jumps that meet at `u = γ s + (1-γ) t`; of
/// jumps shorter than `shortest` the velocity where they begin.
pub(super) fn two_jumps(net: &dyn FlowMap, x: &Tensor, rows: &Rows, gamma: &Tensor, shortest: f64) -> Result<Tensor> {
    let Rows { s, t, labels, .. } = rows;
    let u = (t + (gamma * (s - t)?)?)?;
    let jump = |x: &Tensor, from: &Tensor, to: &Tensor| {
        let size = (to - from)?;
        let asked = (from + (&size * size.ge(shortest)?.to_dtype(size.dtype())?)?)?;
        average_velocity(net, x, from, &asked, labels)
    };
    let first = jump(x, s, &u)?;
    let middle = (x + first.broadcast_mul(&per_row(&(&u - s)?, x)?)?)?;
    let second = jump(&middle, &u, t)?;
    let gamma = per_row(gamma, x)?;
    &first + (second - &first)?.broadcast_mul(&gamma)?
}
