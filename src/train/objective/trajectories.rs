//! Regression on simulated trajectories, as neural operators learn (Zheng et al., arXiv 2211.13449): where the teacher's
//! flow leads, computed.

use candle_core::{Result, Tensor};

use super::consistency::heun;
use super::{Objective, Student};
use crate::flow::FlowMap;
use crate::flow::map::average_velocity;
use crate::train::batch::{Rows, per_row};
use crate::train::pairs::Pairs;

/// `v_{s,t}(I_s) - (x_t - I_s) / (t - s)`, where `x_t` is the end of the teacher's flow from `(s, I_s)` to `t`.
pub(crate) struct Trajectories {
    /// The velocity field.
    pub teacher: Box<dyn FlowMap>,
    /// Steps of Heun from `s` to `t`.
    pub steps: u32,
    /// The distribution of times.
    pub pairs: Pairs,
}

impl Objective for Trajectories {
    fn name(&self) -> &'static str {
        "trajectories"
    }

    fn pairs(&self, _: u64) -> Pairs {
        self.pairs
    }

    fn residual(&self, student: &Student<'_>, rows: &Rows) -> Result<Tensor> {
        let Rows { s, t, labels, .. } = rows;
        let x = rows.interpolant(s)?;
        let v = average_velocity(student.live, &x, s, t, labels)?;
        let teacher = self.teacher.as_ref();
        if rows.diagonal {
            return v - average_velocity(teacher, &x, s, s, labels)?;
        }
        let step = ((t - s)? / f64::from(self.steps))?;
        let at = |k: u32| s + (&step * f64::from(k))?;
        let end = (0..self.steps).try_fold(x.clone(), |x, k| heun(teacher, &x, &at(k)?, &at(k + 1)?, labels))?;
        v - (end - &x)?.broadcast_div(&per_row(&(t - s)?, &x)?)?
    }
}
