//! `silu(x) = x σ(x)` and its derivatives.

use super::elementwise::{Function, map};
use super::op::{Kernel, View};
use super::simd::{Simd, math};
use candle_core::{Result, Shape, bail};

/// `x σ(x)`.
pub(in crate::model) struct Silu;

impl Kernel<1> for Silu {
    const NAME: &'static str = "silu";

    fn forward(&self, [x]: [View<'_>; 1]) -> Result<(Vec<f32>, Shape)> {
        Ok((map(Value, [x.data]), x.dims.into()))
    }

    fn backward(&self, [x]: [View<'_>; 1], _: &[f32], grad: &[f32], _: [bool; 1]) -> [Option<Vec<f32>>; 1] {
        [Some(map(TimesSlope, [x.data, grad]))]
    }
}

/// `x' silu'(x)` of `(x, x')`.
pub(in crate::model) struct SiluTangent;

impl Kernel<2> for SiluTangent {
    const NAME: &'static str = "silu-tangent";

    fn forward(&self, [x, dx]: [View<'_>; 2]) -> Result<(Vec<f32>, Shape)> {
        if x.dims != dx.dims {
            bail!("silu: a tangent of shape {:?} at {:?}", dx.dims, x.dims);
        }
        Ok((map(TimesSlope, [x.data, dx.data]), x.dims.into()))
    }

    fn backward(&self, [x, dx]: [View<'_>; 2], _: &[f32], grad: &[f32], _: [bool; 2]) -> [Option<Vec<f32>>; 2] {
        [Some(map(TimesCurvature, [x.data, dx.data, grad])), Some(map(TimesSlope, [x.data, grad]))]
    }
}

/// `silu(x)`.
#[derive(Clone, Copy)]
struct Value;

impl Function<1> for Value {
    #[inline(always)]
    fn at<S: Simd>(self, simd: S, [x]: [S::V; 1]) -> S::V {
        math::silu(simd, x)
    }
}

/// `g silu'(x)` of `(x, g)`, `silu' = σ (1 + x (1 - σ))`.
#[derive(Clone, Copy)]
struct TimesSlope;

impl Function<2> for TimesSlope {
    #[inline(always)]
    fn at<S: Simd>(self, simd: S, [x, factor]: [S::V; 2]) -> S::V {
        let [p, q] = sigmoids(simd, x);
        simd.mul(factor, simd.mul(p, simd.mul_add(x, q, simd.splat(1.0))))
    }
}

/// `g x' silu''(x)` of `(x, x', g)`, `silu'' = σ (1 - σ) (2 + x (1 - 2σ))`.
#[derive(Clone, Copy)]
struct TimesCurvature;

impl Function<3> for TimesCurvature {
    #[inline(always)]
    fn at<S: Simd>(self, simd: S, [x, dx, grad]: [S::V; 3]) -> S::V {
        let [p, q] = sigmoids(simd, x);
        let curvature = simd.mul(simd.mul(p, q), simd.mul_add(x, simd.sub(q, p), simd.splat(2.0)));
        simd.mul(simd.mul(grad, dx), curvature)
    }
}

/// `[σ(x), 1 - σ(x)]`, each accurate to a few units in the last place also where it is tiny.
#[inline(always)]
fn sigmoids<S: Simd>(simd: S, x: S::V) -> [S::V; 2] {
    // Below -87 both `σ` and what it is multiplied by stay finite.
    let e = math::exp(simd, simd.min(simd.splat(87.0), simd.sub(simd.splat(0.0), x)));
    let p = simd.div(simd.splat(1.0), simd.add(simd.splat(1.0), e));
    [p, simd.mul(e, p)]
}
