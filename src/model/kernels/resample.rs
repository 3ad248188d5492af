//! Half and double resolution of images `(T, C)`: sums of 2×2 pixels and their adjoint, repetition.

use super::loops::vectorized;
use crate::model::sides::Sides;

/// `factor` times the sum of 2×2 pixels, from twice the sides to `small`. Takes any number of images.
pub(in crate::model) fn halve(small: Sides, channels: usize, x: &[f32], factor: f32, out: &mut [f32]) {
    let line = small.width * channels;
    vectorized(
        #[inline(always)]
        || {
            for (out, lines) in out.chunks_exact_mut(line).zip(x.chunks_exact(4 * line)) {
                let (upper, lower) = lines.split_at(2 * line);
                let pairs = upper.chunks_exact(2 * channels).zip(lower.chunks_exact(2 * channels));
                for (out, (upper, lower)) in out.chunks_exact_mut(channels).zip(pairs) {
                    let ((a, b), (c, d)) = (upper.split_at(channels), lower.split_at(channels));
                    for (out, ((a, b), (c, d))) in out.iter_mut().zip(a.iter().zip(b).zip(c.iter().zip(d))) {
                        *out = factor * ((a + b) + (c + d));
                    }
                }
            }
        },
    );
}

/// `factor` times every pixel 2×2 times, from `small` to twice the sides. Takes any number of images.
pub(in crate::model) fn double(small: Sides, channels: usize, x: &[f32], factor: f32, out: &mut [f32]) {
    let line = small.width * channels;
    vectorized(
        #[inline(always)]
        || {
            for (lines, x) in out.chunks_exact_mut(4 * line).zip(x.chunks_exact(line)) {
                let (upper, lower) = lines.split_at_mut(2 * line);
                for (pair, x) in upper.chunks_exact_mut(2 * channels).zip(x.chunks_exact(channels)) {
                    let (a, b) = pair.split_at_mut(channels);
                    for (x, (a, b)) in x.iter().zip(a.iter_mut().zip(b)) {
                        (*a, *b) = (factor * x, factor * x);
                    }
                }
                lower.copy_from_slice(upper);
            }
        },
    );
}
