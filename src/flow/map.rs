//! The flow map `X_{s,t}(x) = x + (t - s) v_{s,t}(x)` and its derivative in `t`.

use candle_core::{Result, Tensor};

use super::Dual;

/// A network of average velocities `v_{s,t}(x)`.
///
/// Implementations are pure functions of their weights and arguments, and each row's result depends on that row alone.
pub trait FlowMap: Send + Sync {
    /// `v_{s,t}(x | label)`.
    ///
    /// - `x`: states, `(B, …)`, f32 (f64 in tests)
    /// - `s`, `t`: times, `(B,)`, dtype of `x`
    /// - `labels`: u32 `(B,)`; the null class is the number of classes
    ///
    /// Tangents of `x`, `s` and `t` are carried to the result (forward mode).
    fn velocity(&self, x: &Dual, s: &Dual, t: &Dual, labels: &Tensor) -> Result<Dual>;
}

/// `X_{s,t}(x)` with whatever tangents the arguments carry.
pub fn jump(net: &dyn FlowMap, x: &Dual, s: &Dual, t: &Dual, labels: &Tensor) -> Result<Dual> {
    let v = net.velocity(x, s, t, labels)?;
    x.add(&t.sub(s)?.per_row(&v)?.mul(&v)?)
}

/// `X_{s,t}(x)` and `d/dt X_{s,t}(x) = v + (t - s) ∂_t v`, exact by forward mode; both back-propagate.
pub fn jump_and_dt(net: &dyn FlowMap, x: &Tensor, s: &Tensor, t: &Tensor, labels: &Tensor) -> Result<(Tensor, Tensor)> {
    let seeded = Dual::new(t.clone(), t.ones_like()?);
    let end = jump(net, &Dual::constant(x), &Dual::constant(s), &seeded, labels)?;
    let rate = end.tangent_or_zero()?;
    Ok((end.primal, rate))
}
