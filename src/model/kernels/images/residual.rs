//! `(x + y) / √2`.

use std::f32::consts::FRAC_1_SQRT_2;

use crate::model::kernels::loops::map;
use crate::model::kernels::op::{Kernel, View};
use candle_core::{Result, Shape, bail};

/// `(x + y) / √2` of two tensors of one shape.
pub(super) struct Residual;

impl Kernel<2> for Residual {
    const NAME: &'static str = "residual";

    fn forward(&self, [x, y]: [View<'_>; 2]) -> Result<(Vec<f32>, Shape)> {
        if x.dims != y.dims {
            bail!("residual: the branches have shapes {:?} and {:?}", x.dims, y.dims);
        }
        let sum = map(
            [x.data, y.data],
            #[inline(always)]
            |[x, y]| FRAC_1_SQRT_2 * (x + y),
        );
        Ok((sum, x.dims.into()))
    }

    fn backward(&self, _: [View<'_>; 2], _: &[f32], grad: &[f32], wanted: [bool; 2]) -> [Option<Vec<f32>>; 2] {
        let half = map(
            [grad],
            #[inline(always)]
            |[grad]| FRAC_1_SQRT_2 * grad,
        );
        match wanted {
            [true, true] => [Some(half.clone()), Some(half)],
            [true, false] => [Some(half), None],
            _ => [None, Some(half)],
        }
    }
}
