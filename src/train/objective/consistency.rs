//! Consistency models (Song et al., arXiv 2303.01469): the map to `t = 1` alone, by the Eulerian equation between
//! neighbouring times.

use candle_core::{Result, Tensor};

use super::{Objective, Student};
use crate::flow::FlowMap;
use crate::flow::map::{average_velocity, jump_between};
use crate::train::batch::{Rows, per_row};
use crate::train::pairs::Pairs;

/// `(X_{s,1}(I_s) - sg[X_{s',1}(x')]) / √(s' - s)`, `s' = min(s + 1/points, 1)`.
///
/// Distillation takes `x'` a step of Heun along the teacher's velocity; training takes `I_{s'}` of the same noise and
/// data. Divided by the root of the step, its gradient tends to that of the continuous equation's semigradient.
pub(crate) struct Consistency {
    /// The velocity field that leads from `I_s` to `x'`, if not the interpolant.
    pub teacher: Option<Box<dyn FlowMap>>,
    /// Steps between noise and data.
    pub points: u32,
}

impl Objective for Consistency {
    fn name(&self) -> &'static str {
        if self.teacher.is_some() { "consistency_distillation" } else { "consistency_training" }
    }

    fn pairs(&self, _: u64) -> Pairs {
        Pairs::End
    }

    fn residual(&self, student: &Student<'_>, rows: &Rows) -> Result<Tensor> {
        let Rows { s, t, labels, .. } = rows;
        let x = rows.interpolant(s)?;
        let next = (s + 1.0 / f64::from(self.points))?.clamp(0.0, 1.0)?;
        let step = (&next - s)?;
        let there = match &self.teacher {
            None => rows.interpolant(&next)?,
            Some(teacher) => heun(teacher.as_ref(), &x, s, &next, labels)?,
        };
        let target = jump_between(student.stopped, &there, &next, t, labels)?.detach();
        let gap = (jump_between(student.live, &x, s, t, labels)? - target)?;
        gap.broadcast_div(&per_row(&step.sqrt()?, &x)?)
    }
}

/// A step of Heun's method along `v_{t,t}`, of each row's own length.
pub(super) fn heun(net: &dyn FlowMap, x: &Tensor, s: &Tensor, t: &Tensor, labels: &Tensor) -> Result<Tensor> {
    let step = per_row(&(t - s)?, x)?;
    let first = average_velocity(net, x, s, s, labels)?;
    let second = average_velocity(net, &(x + first.broadcast_mul(&step)?)?, t, t, labels)?;
    x + ((first + second)? * 0.5)?.broadcast_mul(&step)?
}
