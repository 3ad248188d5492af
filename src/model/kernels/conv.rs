//! 3×3 convolutions as matrix products on the padded image (implicit GEMM), their gradients, and the choice between
//! these and Winograd's for serving.
//!
//! A convolution is `N W` where a row of `N` is a pixel's neighbourhood `(3, 3, K)` and `W` is `(9K, N)`. The gradient of
//! the input is the convolution of the result's gradient with the weights turned round; that of `W` is `Nᵀ g`.

use std::f32::consts::FRAC_1_SQRT_2;
use std::ops::Range;

use super::epilogue::Accumulate;
use super::matrix::{Mat, MatMut};
use super::packed::{Epilogue, Packed, Panels, Place, Product, Store};
use super::padded::Padded;
use super::simd::{LANES, Simd, load_partial};
use super::window::Window;
use super::winograd::Winograd;
use crate::model::sides::Sides;

/// Pixels over which a gradient of weights is summed before it is added to what is there: as many as keep the result's
/// gradient and the image in the first-level cache.
const PIXELS: usize = 128;

/// Channels before and after from which the transforms of Winograd's algorithm pay.
const WINOGRAD_CHANNELS: usize = 16;

/// Pixels from which they do: fewer fill too little of a tile.
const WINOGRAD_PIXELS: usize = 9;

/// A 3×3 convolution with zeros around the image, ready to serve: by whichever algorithm suits its sizes.
#[derive(Debug, Clone)]
pub(in crate::model) enum Served {
    /// By the definition.
    Direct(Conv),
    /// By Winograd's algorithm.
    Winograd(Winograd),
}

/// What is done to the sums of a convolution before they are written.
#[derive(Debug, Clone, Copy)]
pub(in crate::model) struct Finish<'a> {
    /// Added at every pixel, `(N)`.
    pub(in crate::model) bias: &'a [f32],
    /// The same for each image, `(B, N)`.
    pub(in crate::model) shift: Option<&'a [f32]>,
    /// A branch `(B, T, N)` to join: `(sum + branch) / √2`.
    pub(in crate::model) residual: Option<&'a [f32]>,
}

impl Finish<'_> {
    /// Bias and shift of up to sixteen of `outputs` channels.
    #[inline(always)]
    pub(super) fn bias_of<S: Simd>(self, simd: S, outputs: usize, image: usize, channel: usize) -> S::V {
        let lanes = LANES.min(outputs - channel);
        let bias = load_partial(simd, &self.bias[channel..][..lanes], 0.0);
        match self.shift {
            Some(shift) => simd.add(bias, load_partial(simd, &shift[image * outputs + channel..][..lanes], 0.0)),
            None => bias,
        }
    }

    /// Joins the branch, `lanes` elements from `place` on.
    #[inline(always)]
    pub(super) fn join<S: Simd>(self, simd: S, sum: S::V, place: usize, lanes: usize) -> S::V {
        match self.residual {
            Some(branch) => joined(simd, sum, &branch[place..][..lanes]),
            None => sum,
        }
    }
}

/// `(sum + branch) / √2`.
#[inline(always)]
fn joined<S: Simd>(simd: S, sum: S::V, branch: &[f32]) -> S::V {
    simd.mul(simd.add(sum, load_partial(simd, branch, 0.0)), simd.splat(FRAC_1_SQRT_2))
}

/// The sum joined with the same place of a branch with as many columns: `(sum + branch) / √2`.
#[derive(Debug, Clone, Copy)]
pub(in crate::model) struct Joined<'a> {
    /// The branch, row-major.
    pub(in crate::model) branch: &'a [f32],
    /// Its columns.
    pub(in crate::model) columns: usize,
}

impl Epilogue for Joined<'_> {
    #[inline(always)]
    fn finish<S: Simd>(self, simd: S, sum: S::V, place: Place<'_>) -> S::V {
        joined(simd, sum, &self.branch[place.row * self.columns + place.column..][..place.now.len()])
    }
}

impl Served {
    /// With weights `w (3, 3, inputs, outputs)` for images of `sides`.
    pub(in crate::model) fn new(sides: Sides, [inputs, outputs]: [usize; 2], w: &[f32]) -> Self {
        if inputs.min(outputs) >= WINOGRAD_CHANNELS && sides.pixels() >= WINOGRAD_PIXELS {
            Self::Winograd(Winograd::new(sides, [inputs, outputs], w))
        } else {
            Self::Direct(Conv::new(sides, [inputs, outputs], w))
        }
    }

    /// Elements of the scratch of [`forward`](Self::forward).
    pub(in crate::model) fn scratch(&self) -> usize {
        match self {
            Self::Direct(conv) => conv.scratch() + conv.weights.outer(),
            Self::Winograd(conv) => conv.scratch(),
        }
    }

    /// The `lines` of pixels, counted through all `images (B, T, K)`, to `out`. A line's bits do not depend on which
    /// others are asked for, but neighbours cost less together: best are multiples of four from the top of an image.
    ///
    /// Panics where a slice is too short.
    pub(in crate::model) fn forward(
        &self,
        images: &[f32],
        lines: Range<usize>,
        finish: Finish<'_>,
        out: &mut [f32],
        scratch: &mut [f32],
    ) {
        match self {
            Self::Direct(conv) => conv.lines(images, lines, finish, out, scratch),
            Self::Winograd(conv) => {
                let out = Window::new(out, finish.bias.len());
                conv.forward(images, lines, finish, out, scratch);
            }
        }
    }

    /// How many channels of a result of `images` each of `threads` had better compute, by
    /// [`forward_columns`](Self::forward_columns); `None` where they had better share the lines.
    pub(in crate::model) fn share(&self, images: usize, threads: usize) -> Option<usize> {
        match self {
            Self::Direct(_) => None,
            Self::Winograd(conv) => conv.share(images, threads),
        }
    }

    /// All lines of `count` images, but only the channels that are the window's columns: the same bits.
    ///
    /// Panics where [`share`](Self::share) gives none.
    pub(in crate::model) fn forward_columns(
        &self,
        images: &[f32],
        count: usize,
        finish: Finish<'_>,
        out: Window<'_>,
        scratch: &mut [f32],
    ) {
        let Self::Winograd(conv) = self else { unreachable!("shared by channels though `share` gives none") };
        conv.forward(images, 0..count * conv.height(), finish, out, scratch);
    }
}

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
        self.product(padded, bias, None, out);
    }
}

impl Conv {
    /// See [`Served::forward`].
    fn lines(&self, images: &[f32], lines: Range<usize>, finish: Finish<'_>, out: &mut [f32], scratch: &mut [f32]) {
        let (Sides { height, width }, outputs) = (self.sides, self.weights.outer());
        let (bias, scratch) = scratch.split_at_mut(outputs);
        let mut line = lines.start;
        while line < lines.end {
            let (image, first) = (line / height, line % height);
            let count = (height - first).min(lines.end - line);
            bias.copy_from_slice(finish.bias);
            if let Some(shift) = finish.shift {
                bias.iter_mut().zip(&shift[image * outputs..]).for_each(|(bias, shift)| *bias += shift);
            }
            let pixels = &images[image * self.sides.pixels() * self.inputs..];
            let padded = Padded::band(self.sides, self.inputs, pixels, first..first + count, scratch);
            let out = &mut out[(line - lines.start) * width * outputs..][..count * width * outputs];
            let branch = finish.residual.map(|branch| &branch[line * width * outputs..]);
            self.product(padded, Some(bias), branch, out);
            line += count;
        }
    }

    fn product(&self, padded: Padded<'_>, bias: Option<&[f32]>, branch: Option<&[f32]>, out: &mut [f32]) {
        let columns = self.weights.outer();
        let out_rows = out.len() / columns;
        let (x, weights, out) =
            (padded.neighbourhoods(), self.weights.panels(), MatMut::new(out, out_rows, columns, columns));
        match branch {
            None => Product { x, weights, bias, out, epilogue: Store }.run(),
            Some(branch) => Product { x, weights, bias, out, epilogue: Joined { branch, columns } }.run(),
        }
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

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Reproducible numbers in [-1, 1].
    pub(in crate::model::kernels) fn numbers(seed: usize, len: usize) -> Vec<f32> {
        (0..len).map(|i| ((i * 37 + seed * 61 + 11) % 101) as f32 / 50.0 - 1.0).collect()
    }

    /// The definition, in `f64`.
    pub(in crate::model::kernels) fn convolved(
        sides: Sides,
        [inputs, outputs]: [usize; 2],
        images: &[f32],
        w: &[f32],
        finish: Finish<'_>,
    ) -> Vec<f64> {
        let Sides { height, width } = sides;
        let pixel = |image: usize, y: usize, x: usize, output: usize| -> f64 {
            let place = |(i, j): (usize, usize)| -> f64 {
                let inside = (1..=height).contains(&(y + i)) && (1..=width).contains(&(x + j));
                let from =
                    (image * height + y + i).wrapping_sub(1).wrapping_mul(width).wrapping_add(x + j).wrapping_sub(1);
                let term = |k: usize| {
                    f64::from(images[from * inputs + k]) * f64::from(w[((3 * i + j) * inputs + k) * outputs + output])
                };
                if inside { (0..inputs).map(term).sum() } else { 0.0 }
            };
            let sum: f64 = (0..9).map(|i| place((i / 3, i % 3))).sum();
            let shift = finish.shift.map_or(0.0, |shift| f64::from(shift[image * outputs + output]));
            let sum = sum + f64::from(finish.bias[output]) + shift;
            let at = ((image * height + y) * width + x) * outputs + output;
            finish.residual.map_or(sum, |branch| (sum + f64::from(branch[at])) * 0.5f64.sqrt())
        };
        let count = images.len() / sides.pixels() / inputs;
        let places = (0..count * sides.pixels() * outputs).map(|i| (i / outputs, i % outputs));
        places.map(|(p, o)| pixel(p / sides.pixels(), p / width % height, p % width, o)).collect()
    }

    proptest! {
        #[test]
        fn served_convolutions_agree_with_the_definition_line_by_line(
            (height, width) in (1usize..9, 1usize..9),
            (inputs, outputs) in (1usize..24, 1usize..24),
            (cut, seed, joins) in (0usize..40, 0usize..100, any::<bool>()),
        ) {
            let sides = Sides { height, width };
            let images = numbers(seed, 2 * sides.pixels() * inputs);
            let (w, shift) = (numbers(seed + 1, 9 * inputs * outputs), numbers(seed + 2, 2 * outputs));
            let branch = numbers(seed + 3, 2 * sides.pixels() * outputs);
            let (shift, residual) = if joins { (None, Some(&branch[..])) } else { (Some(&shift[..]), None) };
            let bias = numbers(seed + 4, outputs);
            let finish = Finish { bias: &bias, shift, residual };
            let conv = Served::new(sides, [inputs, outputs], &w);
            let forward = |lines: Range<usize>| {
                let mut out = vec![f32::NAN; lines.len() * width * outputs];
                conv.forward(&images, lines, finish, &mut out, &mut vec![f32::NAN; conv.scratch()]);
                out
            };
            let all = forward(0..2 * height);
            let expected = convolved(sides, [inputs, outputs], &images, &w, finish);
            for (got, want) in all.iter().zip(&expected) {
                prop_assert!((f64::from(*got) - want).abs() < 5e-5 * (inputs as f64), "{got} {want}");
            }
            let cut = cut % (2 * height + 1);
            prop_assert_eq!([forward(0..cut), forward(cut..2 * height)].concat(), all);
        }
    }
}
