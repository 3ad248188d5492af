//! Half and double resolution: sums of 2×2 pixels and their adjoint, repetition.

use crate::model::kernels::loops::vectorized;
use crate::model::kernels::op::{Kernel, View};
use crate::model::sides::Sides;
use candle_core::{Result, Shape, bail};

/// `factor` times the sum of 2×2 pixels of images `(B, T, C)` of `sides`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Halve {
    pub(super) sides: Sides,
    pub(super) factor: f32,
}

impl Kernel<1> for Halve {
    const NAME: &'static str = "downsample";

    fn forward(&self, [x]: [View<'_>; 1]) -> Result<(Vec<f32>, Shape)> {
        let half = self.sides.halved(1);
        match *x.dims {
            [images, pixels, channels] if pixels == self.sides.pixels() && half.doubled() == self.sides => {
                Ok((halve(half, channels, x.data, self.factor), (images, half.pixels(), channels).into()))
            }
            _ => bail!("downsample: {:?} are not images of {:?} and whole squares", x.dims, self.sides),
        }
    }

    fn backward(&self, [x]: [View<'_>; 1], _: &[f32], grad: &[f32], _: [bool; 1]) -> [Option<Vec<f32>>; 1] {
        let &[.., channels] = x.dims else { return [None] };
        [Some(double(self.sides.halved(1), channels, grad, self.factor))]
    }
}

/// `factor` times every pixel, 2×2 times, of images `(B, T, C)` of `sides`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Double {
    pub(super) sides: Sides,
    pub(super) factor: f32,
}

impl Kernel<1> for Double {
    const NAME: &'static str = "upsample";

    fn forward(&self, [x]: [View<'_>; 1]) -> Result<(Vec<f32>, Shape)> {
        match *x.dims {
            [images, pixels, channels] if pixels == self.sides.pixels() => {
                Ok((double(self.sides, channels, x.data, self.factor), (images, 4 * pixels, channels).into()))
            }
            _ => bail!("upsample: {:?} are not images of {:?}", x.dims, self.sides),
        }
    }

    fn backward(&self, [x]: [View<'_>; 1], _: &[f32], grad: &[f32], _: [bool; 1]) -> [Option<Vec<f32>>; 1] {
        let &[.., channels] = x.dims else { return [None] };
        [Some(halve(self.sides, channels, grad, self.factor))]
    }
}

/// From twice the sides to `small`.
fn halve(small: Sides, channels: usize, x: &[f32], factor: f32) -> Vec<f32> {
    let line = small.width * channels;
    let mut out = vec![0.0; x.len() / 4];
    vectorized(
        #[inline(always)]
        || {
            for (out, lines) in out.chunks_exact_mut(line).zip(x.chunks_exact(4 * line)) {
                let (upper, lower) = lines.split_at(2 * line);
                let pairs = upper.chunks_exact(2 * channels).zip(lower.chunks_exact(2 * channels));
                for (out, (upper, lower)) in out.chunks_exact_mut(channels).zip(pairs) {
                    let ((a, b), (c, d)) = (upper.split_at(channels), lower.split_at(channels));
                    for (i, out) in out.iter_mut().enumerate() {
                        *out = factor * ((a[i] + b[i]) + (c[i] + d[i]));
                    }
                }
            }
        },
    );
    out
}

/// From `small` to twice the sides.
fn double(small: Sides, channels: usize, x: &[f32], factor: f32) -> Vec<f32> {
    let line = small.width * channels;
    let mut out = vec![0.0; 4 * x.len()];
    vectorized(
        #[inline(always)]
        || {
            for (lines, x) in out.chunks_exact_mut(4 * line).zip(x.chunks_exact(line)) {
                let (upper, lower) = lines.split_at_mut(2 * line);
                for (pair, x) in upper.chunks_exact_mut(2 * channels).zip(x.chunks_exact(channels)) {
                    let (a, b) = pair.split_at_mut(channels);
                    for (i, x) in x.iter().enumerate() {
                        (a[i], b[i]) = (factor * x, factor * x);
                    }
                }
                lower.copy_from_slice(upper);
            }
        },
    );
    out
}
