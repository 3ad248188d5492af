//! `silu(x) = x σ(x)` and its derivatives.

use super::loops::{map, sigmoid};
use super::op::{Kernel, View};
use candle_core::{Result, Shape, bail};

/// `x σ(x)`.
pub(super) struct Silu;

impl Kernel<1> for Silu {
    const NAME: &'static str = "silu";

    fn forward(&self, [x]: [View<'_>; 1]) -> Result<(Vec<f32>, Shape)> {
        let y = map(
            [x.data],
            #[inline(always)]
            |[x]| x * sigmoid(x)[0],
        );
        Ok((y, x.dims.into()))
    }

    fn backward(&self, [x]: [View<'_>; 1], _: &[f32], grad: &[f32], _: [bool; 1]) -> [Option<Vec<f32>>; 1] {
        [Some(times_slope(x.data, grad))]
    }
}

/// `x' silu'(x)` of `(x, x')`.
pub(super) struct SiluTangent;

impl Kernel<2> for SiluTangent {
    const NAME: &'static str = "silu-tangent";

    fn forward(&self, [x, dx]: [View<'_>; 2]) -> Result<(Vec<f32>, Shape)> {
        if x.dims != dx.dims {
            bail!("silu: a tangent of shape {:?} at {:?}", dx.dims, x.dims);
        }
        Ok((times_slope(x.data, dx.data), x.dims.into()))
    }

    fn backward(&self, [x, dx]: [View<'_>; 2], _: &[f32], grad: &[f32], _: [bool; 2]) -> [Option<Vec<f32>>; 2] {
        let curved = map(
            [x.data, dx.data, grad],
            #[inline(always)]
            |[x, dx, grad]| grad * dx * curvature(x),
        );
        [Some(curved), Some(times_slope(x.data, grad))]
    }
}

fn times_slope(x: &[f32], factor: &[f32]) -> Vec<f32> {
    map(
        [x, factor],
        #[inline(always)]
        |[x, factor]| factor * slope(x),
    )
}

/// `silu' = σ (1 + x (1 - σ))`.
#[inline(always)]
fn slope(x: f32) -> f32 {
    let [p, q] = sigmoid(x);
    p * (1.0 + x * q)
}

/// `silu'' = σ (1 - σ) (2 + x (1 - 2σ))`.
#[inline(always)]
fn curvature(x: f32) -> f32 {
    let [p, q] = sigmoid(x);
    p * q * (2.0 + x * (q - p))
}
