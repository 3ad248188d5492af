//! `y = x W + b` on the last dimension, with the weights stored `(K, N)`: products on views, no copies.

use super::matrix::Mat;
use super::op::{Kernel, View};
use super::simd::{LANES, Simd, Task, dispatch, load_partial, store_partial};
use super::{buffer, gemm};
use candle_core::{Result, Shape, bail};

/// `x W + b` of `x (…, K)`, `W (K, N)`, `b (N)`.
pub(in crate::model) struct Linear;

impl Kernel<3> for Linear {
    const NAME: &'static str = "linear";

    fn forward(&self, [x, w, b]: [View<'_>; 3]) -> Result<(Vec<f32>, Shape)> {
        let shape = output_shape(x, w)?;
        if b.dims != [w.dims[1]] {
            bail!("linear: the bias has shape {:?}, the weight {:?}", b.dims, w.dims);
        }
        Ok((rows_times(x, w, Some(b.data)), shape))
    }

    fn backward(&self, [x, w, _]: [View<'_>; 3], _: &[f32], grad: &[f32], wanted: [bool; 3]) -> [Option<Vec<f32>>; 3] {
        let [dx, dw] = gradients(x, w, grad, [wanted[0], wanted[1]]);
        [dx, dw, wanted[2].then(|| column_sums(grad, w.dims[1]))]
    }
}

/// `x W`: the tangent of [`Linear`].
pub(in crate::model) struct LinearTangent;

impl Kernel<2> for LinearTangent {
    const NAME: &'static str = "linear-tangent";

    fn forward(&self, [x, w]: [View<'_>; 2]) -> Result<(Vec<f32>, Shape)> {
        Ok((rows_times(x, w, None), output_shape(x, w)?))
    }

    fn backward(&self, [x, w]: [View<'_>; 2], _: &[f32], grad: &[f32], wanted: [bool; 2]) -> [Option<Vec<f32>>; 2] {
        gradients(x, w, grad, wanted)
    }
}

fn output_shape(x: View<'_>, w: View<'_>) -> Result<Shape> {
    match (x.dims, w.dims) {
        ([rows @ .., k], [inner, n]) if k == inner && *k > 0 => Ok([rows, &[*n]].concat().into()),
        _ => bail!("linear: cannot multiply {:?} by a weight of shape {:?}", x.dims, w.dims),
    }
}

/// `x W (+ b)`.
fn rows_times(x: View<'_>, w: View<'_>, bias: Option<&[f32]>) -> Vec<f32> {
    let (k, n) = (w.dims[0], w.dims[1]);
    let rows = x.data.len() / k;
    gemm::affine(Mat::new(x.data, rows, k, k), Mat::new(w.data, k, n, n), bias)
}

/// `dx = g Wᵀ`, `dW = xᵀ g`.
fn gradients(x: View<'_>, w: View<'_>, grad: &[f32], wanted: [bool; 2]) -> [Option<Vec<f32>>; 2] {
    let (k, n) = (w.dims[0], w.dims[1]);
    let rows = x.data.len() / k;
    let (x, w, g) = (Mat::new(x.data, rows, k, k), Mat::new(w.data, k, n, n), Mat::new(grad, rows, n, n));
    [wanted[0].then(|| gemm::product(g, w.t())), wanted[1].then(|| gemm::product(x.t(), g))]
}

/// The sum of the rows of `x`.
fn column_sums(x: &[f32], width: usize) -> Vec<f32> {
    let mut sums = buffer::zeros(width);
    dispatch(ColumnSums { x, sums: &mut sums });
    sums
}

struct ColumnSums<'a> {
    x: &'a [f32],
    sums: &'a mut [f32],
}

impl Task for ColumnSums<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Self { x, sums } = self;
        for row in x.chunks_exact(sums.len().max(1)) {
            for (sum, x) in sums.chunks_mut(LANES).zip(row.chunks(LANES)) {
                let more = simd.add(load_partial(simd, sum, 0.0), load_partial(simd, x, 0.0));
                store_partial(simd, more, sum);
            }
        }
    }
}
