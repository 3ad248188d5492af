//! Layer norm over the last dimension without weights, row by row in the first-level cache.
//!
//! With `y = (x - mean x) / n`, `n = √(var x + eps)`, `r = 1 / n`, the derivative of `y` along `h` is the self-adjoint
//! map `A[h] = r (h - mean h - y mean(y h))`, which therefore also takes gradients back.

use super::buffer;
use super::loops::{dot, reduce, sum, vectorized};
use super::op::{Kernel, View};
use candle_core::{Result, Shape, bail};

/// `(x - mean) / √(var + eps)`.
pub(in crate::model) struct LayerNorm {
    pub(in crate::model) eps: f32,
}

impl Kernel<1> for LayerNorm {
    const NAME: &'static str = "layer-norm";

    fn forward(&self, [x]: [View<'_>; 1]) -> Result<(Vec<f32>, Shape)> {
        let y = rows(
            [x.data],
            width(x)?,
            #[inline(always)]
            |[x], y| {
                normalise(x, self.eps, y);
            },
        );
        Ok((y, x.dims.into()))
    }

    fn backward(&self, [x]: [View<'_>; 1], y: &[f32], grad: &[f32], _: [bool; 1]) -> [Option<Vec<f32>>; 1] {
        let Ok(width) = width(x) else { return [None] };
        let dx = rows(
            [x.data, y, grad],
            width,
            #[inline(always)]
            |[x, y, grad], dx| project(grad, y, statistics(x, self.eps)[1], dx),
        );
        [Some(dx)]
    }
}

/// `y' = A[x']` of `(x, x')`.
pub(in crate::model) struct LayerNormTangent {
    pub(in crate::model) eps: f32,
}

impl Kernel<2> for LayerNormTangent {
    const NAME: &'static str = "layer-norm-tangent";

    fn forward(&self, [x, dx]: [View<'_>; 2]) -> Result<(Vec<f32>, Shape)> {
        if x.dims != dx.dims {
            bail!("layer norm: a tangent of shape {:?} at {:?}", dx.dims, x.dims);
        }
        let width = width(x)?;
        let mut y = vec![0.0; width];
        let dy = rows(
            [x.data, dx.data],
            width,
            #[inline(always)]
            |[x, dx], dy| {
                let r = normalise(x, self.eps, &mut y);
                project(dx, &y, r, dy);
            },
        );
        Ok((dy, x.dims.into()))
    }

    fn backward(&self, [x, dx]: [View<'_>; 2], dy: &[f32], grad: &[f32], _: [bool; 2]) -> [Option<Vec<f32>>; 2] {
        let Ok(width) = width(x) else { return [None, None] };
        let (mut y, mut u) = (vec![0.0; width], vec![0.0; width]);
        let [mut of_x, mut of_dx] = [(); 2].map(|()| buffer::take(x.data.len()));
        vectorized(
            #[inline(always)]
            || {
                let out = of_x.chunks_exact_mut(width).zip(of_dx.chunks_exact_mut(width));
                for (row, (of_x, of_dx)) in out.enumerate() {
                    let [x, dx, dy, grad] = [x.data, dx.data, dy, grad].map(|data| &data[row * width..][..width]);
                    let r = normalise(x, self.eps, &mut y);
                    tangent_gradient([dx, dy, grad], &y, r, [&mut u, of_x]);
                    project(grad, &y, r, of_dx);
                }
            },
        );
        [Some(of_x), Some(of_dx)]
    }
}

fn width(x: View<'_>) -> Result<usize> {
    match x.dims.last() {
        Some(&width) if width > 0 => Ok(width),
        _ => bail!("layer norm: {:?} has no last dimension to normalise", x.dims),
    }
}

/// Applies `f(input rows, output row)` to rows of `width` elements.
fn rows<const N: usize>(inputs: [&[f32]; N], width: usize, mut f: impl FnMut([&[f32]; N], &mut [f32])) -> Vec<f32> {
    let mut out = buffer::take(inputs[0].len());
    vectorized(
        #[inline(always)]
        || {
            for (row, out) in out.chunks_exact_mut(width).enumerate() {
                f(inputs.map(|input| &input[row * width..][..width]), out);
            }
        },
    );
    out
}

/// `[mean, r]`.
#[inline(always)]
fn statistics(x: &[f32], eps: f32) -> [f32; 2] {
    let width = x.len() as f32;
    let mean = sum(x) / width;
    let squares = reduce(
        [x, x],
        #[inline(always)]
        |[x, _]| (x - mean) * (x - mean),
    );
    [mean, 1.0 / (squares / width + eps).sqrt()]
}

/// Writes `y` and gives `r`.
#[inline(always)]
fn normalise(x: &[f32], eps: f32, y: &mut [f32]) -> f32 {
    let [mean, r] = statistics(x, eps);
    for (y, x) in y.iter_mut().zip(x) {
        *y = (x - mean) * r;
    }
    r
}

/// `A[h]`.
#[inline(always)]
fn project(h: &[f32], y: &[f32], r: f32, out: &mut [f32]) {
    let width = h.len() as f32;
    let (mean, along) = (sum(h) / width, dot(h, y) / width);
    for ((out, h), y) in out.iter_mut().zip(h).zip(y) {
        *out = r * (h - mean - y * along);
    }
}

/// The gradient of `Σ G y'` with respect to `x`, where `y'` depends on `x` through `y` and `r`: with `m = mean(y x')`,
/// `u = -r (m G + mean(G y) x')` is the gradient for `y`, and `A[u] - r mean(G y') y` the one for `x`.
#[inline(always)]
fn tangent_gradient([dx, dy, grad]: [&[f32]; 3], y: &[f32], r: f32, [u, out]: [&mut [f32]; 2]) {
    let width = y.len() as f32;
    let (m, along, through_r) = (dot(y, dx) / width, dot(grad, y) / width, dot(grad, dy) / width);
    for ((u, grad), dx) in u.iter_mut().zip(grad).zip(dx) {
        *u = -r * (m * grad + along * dx);
    }
    project(u, y, r, out);
    for (out, y) in out.iter_mut().zip(y) {
        *out -= r * through_r * y;
    }
}
