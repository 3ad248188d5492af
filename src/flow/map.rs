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

/// `v_{s,t}(x)`.
pub fn average_velocity(net: &dyn FlowMap, x: &Tensor, s: &Tensor, t: &Tensor, labels: &Tensor) -> Result<Tensor> {
    Ok(net.velocity(&Dual::constant(x), &Dual::constant(s), &Dual::constant(t), labels)?.primal)
}

/// `X_{s,t}(x)`.
pub fn jump_between(net: &dyn FlowMap, x: &Tensor, s: &Tensor, t: &Tensor, labels: &Tensor) -> Result<Tensor> {
    Ok(jump(net, &Dual::constant(x), &Dual::constant(s), &Dual::constant(t), labels)?.primal)
}

/// The derivative of `X_{s,t}(x)` as `x`, `s` and `t` move along `dx` and at the rates beside them: with `dx = b_s(x)`
/// and rates 1 and 0 it is `∂_s X + ∇X b_s`. Exact by forward mode; it back-propagates.
pub fn derivative(
    net: &dyn FlowMap,
    x: &Tensor,
    dx: Option<&Tensor>,
    s: (&Tensor, f64),
    t: (&Tensor, f64),
    labels: &Tensor,
) -> Result<Tensor> {
    let time = |(time, rate): (&Tensor, f64)| -> Result<Dual> {
        let moving = rate != 0.0;
        let tangent = moving.then(|| time.ones_like()? * rate).transpose()?;
        Ok(Dual { primal: time.clone(), tangent })
    };
    let x = Dual { primal: x.clone(), tangent: dx.cloned() };
    jump(net, &x, &time(s)?, &time(t)?, labels)?.tangent_or_zero()
}

/// `v_{s,t}(x)` and its derivative `∂_s v + ∇v dx`.
pub fn average_velocity_along(
    net: &dyn FlowMap,
    x: &Tensor,
    dx: &Tensor,
    s: &Tensor,
    t: &Tensor,
    labels: &Tensor,
) -> Result<(Tensor, Tensor)> {
    let (x, s) = (Dual::new(x.clone(), dx.clone()), Dual::new(s.clone(), s.ones_like()?));
    let v = net.velocity(&x, &s, &Dual::constant(t), labels)?;
    let along = v.tangent_or_zero()?;
    Ok((v.primal, along))
}
