//! The one flow that is known in closed form: a Gaussian onto a Gaussian. Every numerical claim is tested against it.
//!
//! `x₀ ~ N(0, s₀²)`, `x₁ ~ N(m, s₁²)` independent in every dimension, linear interpolant. With
//! `S_t² = (1 - t)² s₀² + t² s₁²` and `μ_t = t m`:
//!
//! `X_{s,t}(x) = μ_t + (S_t / S_s)(x - μ_s)`,  `b_t(x) = m + (S'_t / S_t)(x - μ_t)`.

use candle_core::{Result, Tensor};

use super::{Dual, FlowMap};

/// The exact flow map from `N(0, noise²)` to `N(mean, data²)`.
#[derive(Debug, Clone, Copy)]
pub struct GaussianFlow {
    /// Standard deviation at `t = 0`.
    pub noise: f64,
    /// Mean at `t = 1`.
    pub mean: f64,
    /// Standard deviation at `t = 1`.
    pub data: f64,
}

impl GaussianFlow {
    /// `S_t`.
    pub fn deviation(&self, t: f64) -> f64 {
        ((1.0 - t) * self.noise).hypot(t * self.data)
    }

    /// `b_t(x)` of one number.
    pub fn velocity_at(&self, t: f64, x: f64) -> f64 {
        let variance = self.deviation(t).powi(2);
        let slope = (t * self.data.powi(2) - (1.0 - t) * self.noise.powi(2)) / variance;
        self.mean + slope * (x - t * self.mean)
    }

    /// `X_{s,t}(x)` of one number.
    pub fn jump_at(&self, s: f64, t: f64, x: f64) -> f64 {
        t * self.mean + self.deviation(t) / self.deviation(s) * (x - s * self.mean)
    }

    /// `(S_t - S_s) / (t - s)`, written so that it holds at `s = t`: it is `(S_t² - S_s²) / ((t - s)(S_t + S_s))`,
    /// and the first factor is linear in `s + t`.
    fn mean_slope(&self, s: &Dual, t: &Dual) -> Result<Dual> {
        let (noise2, data2) = (self.noise.powi(2), self.data.powi(2));
        let numerator = s.add(t)?.affine(noise2 + data2, -2.0 * noise2)?;
        let sum = self.deviation_dual(s)?.add(&self.deviation_dual(t)?)?;
        numerator.mul(&sum.recip()?)
    }

    fn deviation_dual(&self, t: &Dual) -> Result<Dual> {
        let rest = t.affine(-self.noise, self.noise)?;
        let done = t.affine(self.data, 0.0)?;
        rest.mul(&rest)?.add(&done.mul(&done)?)?.sqrt()
    }
}

impl FlowMap for GaussianFlow {
    /// `v_{s,t}(x) = m + ((S_t - S_s) / (t - s)) (x - μ_s) / S_s`; labels are ignored.
    fn velocity(&self, x: &Dual, s: &Dual, t: &Dual, _labels: &Tensor) -> Result<Dual> {
        let centred = x.sub(&s.affine(self.mean, 0.0)?.per_row(x)?)?;
        let slope = self.mean_slope(s, t)?.mul(&self.deviation_dual(s)?.recip()?)?;
        slope.per_row(x)?.mul(&centred)?.affine(1.0, self.mean)
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};

    use super::*;
    use crate::flow::map::{jump, jump_and_dt};

    const FLOW: GaussianFlow = GaussianFlow { noise: 1.0, mean: 0.7, data: 0.4 };
    const S: [f64; 4] = [0.0, 0.2, 0.5, 0.9];
    const T: [f64; 4] = [1.0, 0.2, 0.8, 0.3];
    const X: [f64; 4] = [1.3, -0.4, 0.0, 2.0];

    fn tensors() -> Result<[Tensor; 4]> {
        let cpu = Device::Cpu;
        Ok([
            Tensor::new(&X, &cpu)?.reshape((4, 1))?,
            Tensor::new(&S, &cpu)?,
            Tensor::new(&T, &cpu)?,
            Tensor::zeros(4, DType::U32, &cpu)?,
        ])
    }

    #[test]
    fn the_map_is_the_closed_form_in_both_directions() -> Result<()> {
        let [x, s, t, labels] = tensors()?;
        let end = jump(&FLOW, &Dual::constant(&x), &Dual::constant(&s), &Dual::constant(&t), &labels)?;
        let end = end.primal.flatten_all()?.to_vec1::<f64>()?;
        for i in 0..4 {
            assert!((end[i] - FLOW.jump_at(S[i], T[i], X[i])).abs() < 1e-14);
        }
        Ok(())
    }

    /// The Lagrangian equation `d/dt X_{s,t}(x) = b_t(X_{s,t}(x))`, exact by forward mode.
    #[test]
    fn the_derivative_in_t_is_the_velocity_at_the_end() -> Result<()> {
        let [x, s, t, labels] = tensors()?;
        let (end, rate) = jump_and_dt(&FLOW, &x, &s, &t, &labels)?;
        let (end, rate) = (end.flatten_all()?.to_vec1::<f64>()?, rate.flatten_all()?.to_vec1::<f64>()?);
        for i in 0..4 {
            assert!((rate[i] - FLOW.velocity_at(T[i], end[i])).abs() < 1e-13);
        }
        Ok(())
    }
}
