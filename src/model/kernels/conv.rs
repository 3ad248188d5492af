//! 3×3 convolutions as matrix products on the padded image (implicit GEMM), and their gradients.
//!
//! A convolution is `N W` where a row of `N` is a pixel's neighbourhood `(3, 3, K)` and `W` is `(9K, N)`. The gradient of
//! the input is the convolution of the result's gradient with the weights turned round; that of `W` is `Nᵀ g`.

use super::epilogue::Accumulate;
use super::matrix::{Mat, MatMut};
use super::packed::{Packed, Panels, Product, Store};
use super::padded::Padded;
use super::simd::LANES;
use crate::model::sides::Sides;

/// Pixels over which a gradient of weights is summed before it is added to what is there: as many as keep the result's
/// gradient and the image in the first-level cache.
const PIXELS: usize = 128;

/// A 3×3 convolution with zeros around the image, its weights packed.
#[derive(Debug, Clone)]
pub(in crate::model) struct Conv {
    sides: Sides,
    inputs: usize,
    weights: Packed,
}

impl Conv {
    /// With weights `w (3, 3, inputs, outputs)` for images of `sides`.
    pub(in crate::model) fn new(sides: Sides, [inputs, outputs]: [usize; 2], w: &[f32]) -> Self {
        Self { sides, inputs, weights: Packed::new(Mat::new(w, 9 * inputs, outputs, outputs)) }
    }

    /// The adjoint of the convolution with weights `w (3, 3, inputs, outputs)`: from `outputs` to `inputs` channels.
    pub(in crate::model) fn adjoint(sides: Sides, [inputs, outputs]: [usize; 2], w: &[f32]) -> Self {
        let mut turned = vec![0.0; w.len()];
        let places = turned.chunks_exact_mut(inputs * outputs).rev();
        for (turned, place) in places.zip(w.chunks_exact(inputs * outputs)) {
            transpose([inputs, outputs], place, turned);
        }
        Self::new(sides, [outputs, inputs], &turned)
    }

    /// Elements of the scratch of [`forward`](Self::forward).
    pub(in crate::model) fn scratch(&self) -> usize {
        Padded::len(self.sides, self.inputs)
    }

    /// One image `(T, K)` to `out (T, N)`; `bias (N)` is added at every pixel.
    pub(in crate::model) fn forward(&self, image: &[f32], bias: Option<&[f32]>, out: &mut [f32], scratch: &mut [f32]) {
        let padded = Padded::new(self.sides, self.inputs, image, scratch);
        let outputs = self.weights.outer();
        let out = MatMut::new(out, self.sides.pixels(), outputs, outputs);
        let weights = self.weights.panels();
        Product { x: padded.neighbourhoods(), weights, bias, out, epilogue: Store }.run();
    }
}

/// From `(rows, columns)` to `(columns, rows)`, in blocks that share lines of the cache.
fn transpose([rows, columns]: [usize; 2], from: &[f32], to: &mut [f32]) {
    for block in (0..columns).step_by(LANES) {
        for (row, from) in from.chunks_exact(columns).enumerate() {
            for (column, value) in from.iter().enumerate().skip(block).take(LANES) {
                to[column * rows + row] = *value;
            }
        }
    }
}

/// Adds the gradient of the weights, `Nᵀ g` of `image (T, K)` and `grad (T, N)`, to `out (9K, N)`. `scratch` is as long
/// as [`Padded::len`] of the image.
pub(in crate::model) fn add_weight_gradient(
    sides: Sides,
    [inputs, outputs]: [usize; 2],
    image: &[f32],
    grad: &[f32],
    out: &mut [f32],
    scratch: &mut [f32],
) {
    let padded = Padded::new(sides, inputs, image, scratch);
    let mut packed = None;
    let lines = PIXELS.div_ceil(sides.width).min(sides.height);
    for first in (0..sides.height).step_by(lines) {
        let lines = lines.min(sides.height - first);
        let pixels = lines * sides.width;
        let grad = &grad[first * sides.width * outputs..][..pixels * outputs];
        // Whole vectors can be read where they are.
        let weights = if outputs.is_multiple_of(LANES) {
            Panels::new(grad, [pixels, outputs], [outputs, LANES])
        } else {
            packed.insert(Packed::new(Mat::new(grad, pixels, outputs, outputs))).panels()
        };
        let out = MatMut::new(out, 9 * inputs, outputs, outputs);
        Product { x: padded.places(first, lines), weights, bias: None, out, epilogue: Accumulate }.run();
    }
}
