//! Lagrangian map distillation (Boffi, Albergo, Vanden-Eijnden, arXiv 2406.07507, Corollary 3.7): a flow map from a
//! velocity field.

use candle_core::{Result, Tensor};

use super::Objective;
use crate::flow::map::jump_and_dt;
use crate::flow::{Dual, FlowMap};
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

    fn pairs(&self) -> Pairs {
        self.pairs
    }

    fn residual(&self, net: &dyn FlowMap, rows: &Rows) -> Result<Tensor> {
        let x = rows.interpolant()?;
        let (end, rate) = if rows.diagonal {
            // At s = t the map is the identity and its derivative the velocity: no tangent is needed.
            let t = Dual::constant(&rows.t);
            let v = net.velocity(&Dual::constant(&x), &t, &t, &rows.labels)?.primal;
            (x, v)
        } else {
            jump_and_dt(net, &x, &rows.s, &rows.t, &rows.labels)?
        };
        let end = if self.stop_gradient { end.detach() } else { end };
        let t = Dual::constant(&rows.t);
        rate - self.teacher.velocity(&Dual::constant(&end), &t, &t, &rows.labels)?.primal
    }
}
