//! Interpolants `I_τ = α_τ x₀ + β_τ x₁` and their exact conversion to the linear one.
//!
//! Another interpolant is another clock and another scale, not another problem: with `c = α + β` and `r = β / c`,
//! `I_τ / c_τ` is the linear interpolant at time `r_τ`, and
//!
//! `X^{αβ}_{s,t}(x) = c_t X^{lin}_{r_s,r_t}(x / c_s)`.
//!
//! So networks are always those of the linear interpolant; a recipe's interpolant decides how times are distributed
//! and how errors are weighed, and a network of another interpolant is read through [`Canonical`].

use candle_core::{Result, Tensor, bail};
use serde::{Deserialize, Serialize};

use super::{Dual, FlowMap};

/// A way from noise to data, `α₀ = β₁ = 1`, `α₁ = β₀ = 0`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Interpolant {
    /// `α = 1 - τ`, `β = τ`.
    #[default]
    Linear,
    /// `α = cos(πτ/2)`, `β = sin(πτ/2)`.
    Trigonometric,
    /// `α = √(1 - τ²)`, `β = τ`: the clock of variance-preserving diffusions that grows linearly in the data.
    VariancePreserving,
}

/// `α`, `β` and their derivatives at a time.
#[derive(Debug, Clone, Copy)]
struct Coefficients {
    alpha: f64,
    beta: f64,
    alpha_rate: f64,
    beta_rate: f64,
}

impl Interpolant {
    /// The last time at which all derivatives are finite; times beyond are taken for it.
    fn last(self) -> f64 {
        match self {
            Self::Linear | Self::Trigonometric => 1.0,
            Self::VariancePreserving => 1.0 - 1e-4,
        }
    }

    fn at(self, time: f64) -> Coefficients {
        match self {
            Self::Linear => Coefficients { alpha: 1.0 - time, beta: time, alpha_rate: -1.0, beta_rate: 1.0 },
            Self::Trigonometric => {
                let quarter = std::f64::consts::FRAC_PI_2;
                let (beta, alpha) = (quarter * time).sin_cos();
                Coefficients { alpha, beta, alpha_rate: -quarter * beta, beta_rate: quarter * alpha }
            }
            Self::VariancePreserving => {
                let alpha = (1.0 - time * time).max(0.0).sqrt();
                Coefficients { alpha, beta: time, alpha_rate: -time / alpha, beta_rate: 1.0 }
            }
        }
    }

    /// `c_τ = α_τ + β_τ`, by which this interpolant is larger than the linear one.
    pub fn scale(self, time: f64) -> f64 {
        let Coefficients { alpha, beta, .. } = self.at(time);
        alpha + beta
    }

    /// `r_τ = β_τ / c_τ`: the time of the linear interpolant.
    pub fn to_linear(self, time: f64) -> f64 {
        self.at(time).beta / self.scale(time)
    }

    /// The inverse of [`to_linear`](Self::to_linear).
    pub fn from_linear(self, time: f64) -> f64 {
        let rest = 1.0 - time;
        match self {
            Self::Linear => time,
            Self::Trigonometric => time.atan2(rest) / std::f64::consts::FRAC_PI_2,
            Self::VariancePreserving => time / time.hypot(rest),
        }
    }

    /// `c_τ r'_τ`: how much larger a velocity of this interpolant is than the linear one's, so that a residual of
    /// velocities, of derivatives of maps in `t` too, is this many times that of the linear network.
    pub fn speed(self, time: f64) -> f64 {
        let time = time.min(self.last());
        let Coefficients { alpha, beta, alpha_rate, beta_rate } = self.at(time);
        (alpha * beta_rate - beta * alpha_rate) / (alpha + beta)
    }

    /// `c'_τ`.
    fn scale_rate(self, time: f64) -> f64 {
        let Coefficients { alpha_rate, beta_rate, .. } = self.at(time.min(self.last()));
        alpha_rate + beta_rate
    }

    /// `[c_s, A, B]` with `v^{lin}_{r_s,r_t}(y) = A y + B v^{αβ}_{s,t}(c_s y)`.
    fn conversion(self, s: f64, t: f64) -> [f64; 3] {
        let (from, to) = (self.scale(s), self.scale(t));
        let step = self.to_linear(t) - self.to_linear(s);
        // Below this the quotients lose more digits than their limits are wrong by.
        if step.abs() < 1e-6 {
            let speed = self.speed(s);
            return [from, -self.scale_rate(s) / speed, 1.0 / speed];
        }
        [from, (from / to - 1.0) / step, (t - s) / (step * to)]
    }
}

/// A network of another interpolant as one of the linear interpolant: its times, its states and its velocities are
/// converted, exactly.
pub struct Canonical<N> {
    /// The network in its own coordinates.
    pub net: N,
    /// Its interpolant.
    pub interpolant: Interpolant,
}

impl<N: FlowMap> FlowMap for Canonical<N> {
    fn velocity(&self, x: &Dual, s: &Dual, t: &Dual, labels: &Tensor) -> Result<Dual> {
        if s.tangent.is_some() || t.tangent.is_some() {
            bail!("a network of another interpolant is differentiated in its own times");
        }
        let times = |dual: &Dual| dual.primal.to_dtype(candle_core::DType::F64)?.to_vec1::<f64>();
        let own = |time: f64| self.interpolant.from_linear(time);
        let pairs: Vec<(f64, f64)> = times(s)?.into_iter().zip(times(t)?).map(|(s, t)| (own(s), own(t))).collect();
        let column = |values: Vec<f64>| -> Result<Dual> {
            let count = values.len();
            Ok(Dual::constant(&Tensor::from_vec(values, count, x.primal.device())?.to_dtype(x.primal.dtype())?))
        };
        let part = |i: usize| column(pairs.iter().map(|&(s, t)| self.interpolant.conversion(s, t)[i]).collect());
        let time = |f: fn(&(f64, f64)) -> f64| column(pairs.iter().map(f).collect());
        let scaled = part(0)?.per_row(x)?.mul(x)?;
        let v = self.net.velocity(&scaled, &time(|pair| pair.0)?, &time(|pair| pair.1)?, labels)?;
        part(1)?.per_row(x)?.mul(x)?.add(&part(2)?.per_row(&v)?.mul(&v)?)
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};

    use super::*;
    use crate::flow::GaussianFlow;

    const ALL: [Interpolant; 3] = [Interpolant::Linear, Interpolant::Trigonometric, Interpolant::VariancePreserving];

    #[test]
    fn clocks_agree_with_their_inverses_and_their_differences() {
        for interpolant in ALL {
            assert!(interpolant.to_linear(0.0).abs() < 1e-15 && (interpolant.to_linear(1.0) - 1.0).abs() < 1e-15);
            for time in [0.05, 0.3, 0.5, 0.8, 0.97] {
                assert!((interpolant.from_linear(interpolant.to_linear(time)) - time).abs() < 1e-14);
                let difference = |f: &dyn Fn(f64) -> f64| (f(time + 1e-6) - f(time - 1e-6)) / 2e-6;
                let speed = interpolant.scale(time) * difference(&|time| interpolant.to_linear(time));
                assert!((interpolant.speed(time) - speed).abs() < 1e-7, "{interpolant:?} {time}");
                let rate = difference(&|time| interpolant.scale(time));
                assert!((interpolant.scale_rate(time) - rate).abs() < 1e-7, "{interpolant:?} {time}");
            }
        }
    }

    /// The Gaussian flow in the coordinates of an interpolant, from its own closed form
    /// `X^{αβ}_{s,t}(x) = β_t m + (S_t / S_s)(x - β_s m)`, `S² = α² s₀² + β² s₁²`.
    struct Native(Interpolant);

    const FLOW: GaussianFlow = GaussianFlow { noise: 1.2, mean: 0.7, data: 0.4 };

    impl Native {
        fn deviation(&self, time: f64) -> f64 {
            let Coefficients { alpha, beta, .. } = self.0.at(time);
            (alpha * FLOW.noise).hypot(beta * FLOW.data)
        }

        fn velocity_at(&self, x: f64, s: f64, t: f64) -> f64 {
            let Coefficients { alpha, beta, alpha_rate, beta_rate } = self.0.at(s);
            if s == t {
                let slope = alpha * alpha_rate * FLOW.noise.powi(2) + beta * beta_rate * FLOW.data.powi(2);
                return beta_rate * FLOW.mean + slope / self.deviation(s).powi(2) * (x - beta * FLOW.mean);
            }
            let end = self.0.at(t).beta * FLOW.mean + self.deviation(t) / self.deviation(s) * (x - beta * FLOW.mean);
            (end - x) / (t - s)
        }
    }

    impl FlowMap for Native {
        fn velocity(&self, x: &Dual, s: &Dual, t: &Dual, _: &Tensor) -> Result<Dual> {
            let numbers = |dual: &Dual| dual.primal.flatten_all()?.to_vec1::<f64>();
            let times = numbers(s)?.into_iter().zip(numbers(t)?);
            let v: Vec<f64> = numbers(x)?.into_iter().zip(times).map(|(x, (s, t))| self.velocity_at(x, s, t)).collect();
            Ok(Dual::constant(&Tensor::from_vec(v, x.primal.dims(), &Device::Cpu)?))
        }
    }

    /// What weighs a linear network's errors: the native residual of flow matching is `speed` times the linear one.
    #[test]
    fn native_errors_of_a_velocity_are_the_linear_ones_times_the_speed() {
        for (interpolant, time, x0, x1) in ALL.into_iter().flat_map(|i| [(i, 0.2, 0.7, -1.1), (i, 0.8, -1.6, 0.3)]) {
            let Coefficients { alpha, beta, alpha_rate, beta_rate } = interpolant.at(time);
            let native = Native(interpolant).velocity_at(alpha * x0 + beta * x1, time, time);
            let native = native - (alpha_rate * x0 + beta_rate * x1);
            let clock = interpolant.to_linear(time);
            let linear = FLOW.velocity_at(clock, (1.0 - clock) * x0 + clock * x1) - (x1 - x0);
            assert!((native - interpolant.speed(time) * linear).abs() < 1e-12, "{interpolant:?} {time}");
        }
    }

    #[test]
    fn every_interpolant_of_the_gaussian_flow_is_its_linear_flow_map() -> Result<()> {
        let cpu = Device::Cpu;
        let (s, t) = ([0.0, 0.2, 0.5, 0.35, 0.9], [1.0, 0.2, 0.8, 0.35, 0.1]);
        let x = Tensor::new(&[[1.3], [-0.4], [0.0], [2.0], [0.5]], &cpu)?;
        let labels = Tensor::zeros(5, DType::U32, &cpu)?;
        let [s, t] = [Tensor::new(&s, &cpu)?, Tensor::new(&t, &cpu)?].map(|time| Dual::constant(&time));
        let exact = FLOW.velocity(&Dual::constant(&x), &s, &t, &labels)?.primal;
        for interpolant in ALL {
            let canonical = Canonical { net: Native(interpolant), interpolant };
            let v = canonical.velocity(&Dual::constant(&x), &s, &t, &labels)?.primal;
            let error = (v - &exact)?.abs()?.max_all()?.to_scalar::<f64>()?;
            assert!(error < 1e-12, "{interpolant:?}: {error}");
        }
        Ok(())
    }
}
