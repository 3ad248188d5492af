//! Progressive flow map matching (Boffi, Albergo, Vanden-Eijnden, arXiv 2406.07507, Section 3.12): stages that double how
//! far the map jumps. On halving grids it is progressive distillation (Salimans, Ho, arXiv 2202.00512).

use candle_core::{Result, Tensor};

use super::psd::two_jumps;
use super::{Objective, Student};
use crate::flow::map::average_velocity;
use crate::flow::{Dual, FlowMap};
use crate::train::batch::Rows;
use crate::train::pairs::Pairs;

/// `v_{s,t} - (v̂_{s,u} + v̂_{u,t}(X̂_{s,u})) / 2` at `I_s`, `u = (s + t) / 2`, where `X̂` is the student when the stage
/// began; in the first stage, steps of Euler along the teacher's velocity. No derivative is needed.
pub(crate) struct Progressive {
    /// The velocity field.
    pub teacher: Box<dyn FlowMap>,
    /// Steps of a stage; the last stage takes all that are left.
    pub stage_steps: u64,
    /// How far the map jumps in the stages.
    pub windows: Windows,
    /// Fraction of rows on the diagonal, where the student learns the teacher's velocity.
    pub diagonal: f64,
}

/// The jumps of the stages.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Windows {
    /// `t - s` up to a first width, then twice as far with each stage, up to 1.
    Doubling {
        /// Of the first stage.
        first: f64,
    },
    /// `t - s = 2^{-k}` at its multiples: a finest level, with each stage one more that is twice as long, down to `k = 0`.
    Halving {
        /// Of the first stage.
        finest: u32,
    },
}

impl Objective for Progressive {
    fn name(&self) -> &'static str {
        match self.windows {
            Windows::Doubling { .. } => "pfmm",
            Windows::Halving { .. } => "progressive_distillation",
        }
    }

    fn pairs(&self, step: u64) -> Pairs {
        let (stage, diagonal) = (self.stage(step), self.diagonal);
        match self.windows {
            Windows::Doubling { first } => Pairs::Window {
                diagonal,
                width: (first * 2f64.powi(i32::try_from(stage).unwrap_or(i32::MAX))).min(1.0),
            },
            Windows::Halving { finest } => {
                let level = finest.saturating_sub(u32::try_from(stage).unwrap_or(u32::MAX));
                Pairs::Dyadic { diagonal, coarsest: level, finest }
            }
        }
    }

    fn stage(&self, step: u64) -> u64 {
        let last = match self.windows {
            Windows::Doubling { first } => (1.0 / first).log2().ceil().max(0.0) as u64,
            Windows::Halving { finest } => u64::from(finest),
        };
        (step / self.stage_steps).min(last)
    }

    fn residual(&self, student: &Student<'_>, rows: &Rows) -> Result<Tensor> {
        let Rows { s, t, labels, .. } = rows;
        let x = rows.interpolant(s)?;
        let v = average_velocity(student.live, &x, s, t, labels)?;
        let teacher = self.teacher.as_ref();
        if rows.diagonal {
            return v - average_velocity(teacher, &x, s, s, labels)?;
        }
        let half = (rows.u.ones_like()? * 0.5)?;
        let shortest = match self.windows {
            Windows::Doubling { .. } => 0.0,
            Windows::Halving { finest } => 0.5f64.powi(finest.cast_signed()),
        };
        let target = match student.before {
            Some(before) => two_jumps(before, &x, rows, &half, shortest)?,
            None => two_jumps(&Euler(teacher), &x, rows, &half, shortest)?,
        };
        v - target.detach()
    }
}

/// Steps of Euler as a flow map: `v_{s,t} = b_s`.
struct Euler<'a>(&'a dyn FlowMap);

impl FlowMap for Euler<'_> {
    fn velocity(&self, x: &Dual, s: &Dual, _: &Dual, labels: &Tensor) -> Result<Dual> {
        self.0.velocity(x, s, s, labels)
    }
}
