//! `y = x W + b` on the last dimension, with the weights stored `(K, N)`: products on views, no copies.

use super::gemm;
use super::loops::{dot, vectorized};
use super::matrix::{Mat, MatMut};
use super::op::{Kernel, View};
use candle_core::{Result, Shape, bail};

/// `x W + b` of `x (…, K)`, `W (K, N)`, `b (N)`.
pub(super) struct Linear;

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
pub(super) struct LinearTangent;

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

/// `x W (+ b)`. The bias is there first and the product is added to it. A single row is computed twice and dropped
/// once: alone, it would take a path that adds in another order than in a batch.
fn rows_times(x: View<'_>, w: View<'_>, bias: Option<&[f32]>) -> Vec<f32> {
    let (k, n) = (w.dims[0], w.dims[1]);
    let rows = x.data.len() / k;
    if n == 1 {
        // gemm's paths for a column add in different orders for different numbers of rows.
        let b = bias.map_or(0.0, |b| b[0]);
        return vectorized(
            #[inline(always)]
            || x.data.chunks_exact(k).map(|row| b + dot(row, w.data)).collect(),
        );
    }
    let doubled = if rows == 1 { x.data.repeat(2) } else { Vec::new() };
    let (x, padded) = if rows == 1 { (&doubled[..], 2) } else { (x.data, rows) };
    let (x, w) = (Mat::new(x, padded, k, k), Mat::new(w.data, k, n, n));
    let mut y = match bias {
        None => gemm::product(x, w),
        Some(b) => {
            let mut y = b.repeat(padded);
            gemm::accumulate(MatMut::new(&mut y, padded, n, n), x, w);
            y
        }
    };
    y.truncate(rows * n);
    y
}

/// `dx = g Wᵀ`, `dW = xᵀ g`.
fn gradients(x: View<'_>, w: View<'_>, grad: &[f32], wanted: [bool; 2]) -> [Option<Vec<f32>>; 2] {
    let (k, n) = (w.dims[0], w.dims[1]);
    let rows = x.data.len() / k;
    let (x, w, g) = (Mat::new(x.data, rows, k, k), Mat::new(w.data, k, n, n), Mat::new(grad, rows, n, n));
    [wanted[0].then(|| gemm::product(g, w.t())), wanted[1].then(|| gemm::product(x.t(), g))]
}

fn column_sums(x: &[f32], width: usize) -> Vec<f32> {
    let mut sums = vec![0.0; width];
    vectorized(
        #[inline(always)]
        || {
            for row in x.chunks_exact(width) {
                for (sum, v) in sums.iter_mut().zip(row) {
                    *sum += v;
                }
            }
        },
    );
    sums
}
