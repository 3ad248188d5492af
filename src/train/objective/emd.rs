//! Eulerian map distillation (Boffi, Albergo, Vanden-Eijnden, arXiv 2406.07507): a flow map from a velocity field by the
//! transport equation of its start.

use candle_core::{Result, Tensor};

use super::{Objective, Student};
use crate::flow::FlowMap;
use crate::flow::map::{average_velocity, derivative};
use crate::train::batch::Rows;
use crate::train::pairs::Pairs;

/// `L = E |∂_s X_{s,t}(I_s) + ∇X_{s,t}(I_s) b_s(I_s)|²` with a trained velocity field `b`; zero at its flow map.
///
/// Both derivatives are one derivative along `(1, b)`. Its gradient goes through the derivative in space, which is
/// unstable for images; the semigradient stops that term.
pub(crate) struct Emd {
    /// The velocity field `b_t = v_{t,t}`.
    pub teacher: Box<dyn FlowMap>,
    /// The distribution of times.
    pub pairs: Pairs,
    /// Whether `∇X b` is a constant: the semigradient.
    pub stop_gradient: bool,
}

impl Objective for Emd {
    fn name(&self) -> &'static str {
        "emd"
    }

    fn pairs(&self, _: u64) -> Pairs {
        self.pairs
    }

    fn residual(&self, student: &Student<'_>, rows: &Rows) -> Result<Tensor> {
        let Rows { s, t, labels, .. } = rows;
        let x = rows.interpolant(s)?;
        let b = average_velocity(self.teacher.as_ref(), &x, s, s, labels)?;
        if rows.diagonal {
            // There ∂_s X = -v and ∇X = 1.
            return average_velocity(student.live, &x, s, s, labels)? - b;
        }
        if self.stop_gradient {
            return semigradient(student, rows, &x, &b);
        }
        derivative(student.live, &x, Some(&b), (s, 1.0), (t, 0.0), labels)
    }
}

/// `∂_s X_{s,t}(x) + sg[∇X_{s,t}(x) b]`.
pub(super) fn semigradient(student: &Student<'_>, rows: &Rows, x: &Tensor, b: &Tensor) -> Result<Tensor> {
    let Rows { s, t, labels, .. } = rows;
    let carried = derivative(student.stopped, x, Some(b), (s, 0.0), (t, 0.0), labels)?;
    derivative(student.live, x, None, (s, 1.0), (t, 0.0), labels)? + carried.detach()
}
