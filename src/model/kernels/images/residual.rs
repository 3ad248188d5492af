//! `(x + y) / √2`.

use std::f32::consts::FRAC_1_SQRT_2;

use crate::model::kernels::elementwise::{Function, map};
use crate::model::kernels::op::{Kernel, View};
use crate::model::kernels::simd::Simd;
use candle_core::{Result, Shape, bail};

/// `(x + y) / √2` of two tensors of one shape.
pub(in crate::model) struct Residual;

impl Kernel<2> for Residual {
    const NAME: &'static str = "residual";

    fn forward(&self, [x, y]: [View<'_>; 2]) -> Result<(Vec<f32>, Shape)> {
        if x.dims != y.dims {
            bail!("residual: the branches have shapes {:?} and {:?}", x.dims, y.dims);
        }
        Ok((map(Sum, [x.data, y.data]), x.dims.into()))
    }

    fn backward(&self, _: [View<'_>; 2], _: &[f32], grad: &[f32], wanted: [bool; 2]) -> [Option<Vec<f32>>; 2] {
        wanted.map(|wanted| wanted.then(|| map(Share, [grad])))
    }
}

/// `(x + y) / √2`.
#[derive(Clone, Copy)]
struct Sum;

impl Function<2> for Sum {
    #[inline(always)]
    fn at<S: Simd>(self, simd: S, [x, y]: [S::V; 2]) -> S::V {
        simd.mul(simd.splat(FRAC_1_SQRT_2), simd.add(x, y))
    }
}

/// `x / √2`.
#[derive(Clone, Copy)]
struct Share;

impl Function<1> for Share {
    #[inline(always)]
    fn at<S: Simd>(self, simd: S, [x]: [S::V; 1]) -> S::V {
        simd.mul(simd.splat(FRAC_1_SQRT_2), x)
    }
}
