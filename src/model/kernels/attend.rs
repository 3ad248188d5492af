//! Self-attention of a compiled plan: some rows of queries of one image against all of its keys and values.
//!
//! Keys are turned once for each head into panels; scores of a tile of queries stay in the first-level cache, are
//! exponentiated there and multiply the values where they lie. The division by their sum comes last, in registers.

#![expect(
    clippy::needless_range_loop,
    reason = "plain loops over arrays are what is inlined into every instruction set"
)]

use super::epilogue::Scaled;
use super::matrix::{Mat, MatMut};
use super::packed::{Panels, Product, Store};
use super::simd::{LANES, Simd, Task, dispatch, load_partial, math, store_partial};

/// Most queries whose scores are in memory at a time.
const TILE: usize = 32;

/// The shape of the attention of one image.
#[derive(Debug, Clone, Copy)]
pub(in crate::model) struct Shape {
    /// `T`.
    pub(in crate::model) tokens: usize,
    /// `C`.
    pub(in crate::model) channels: usize,
    /// Heads, each `C / heads` wide.
    pub(in crate::model) heads: usize,
}

impl Shape {
    fn width(self) -> usize {
        self.channels / self.heads
    }

    /// Tokens, filled up to whole vectors.
    fn padded(self) -> usize {
        self.tokens.next_multiple_of(LANES)
    }

    /// Elements of scratch that [`attend`] needs.
    pub(in crate::model) fn scratch(self) -> usize {
        let values = self.tokens * self.width().next_multiple_of(LANES);
        self.width() * self.padded() + TILE * (self.padded() + 1) + values
    }
}

/// Rows `first ..` of `softmax(q kᵀ / √d) v` of one image, as many as `out (…, C)` has room for.
///
/// `qkv` is `(T, 3C)`, laid out `[q | k | v]`. Panics where `scratch` is shorter than [`Shape::scratch`].
pub(in crate::model) fn attend(shape: Shape, qkv: &[f32], first: usize, out: &mut [f32], scratch: &mut [f32]) {
    let Shape { tokens, channels, heads } = shape;
    let (width, padded, stride) = (shape.width(), shape.padded(), 3 * channels);
    let (keys, scratch) = scratch.split_at_mut(width * padded);
    let (scores, scratch) = scratch.split_at_mut(TILE * padded);
    let (inverse, values) = scratch.split_at_mut(TILE);
    // Tiles of nearly equal size: a last one of a single row would cost as much as one of six.
    let rows = out.len() / channels;
    let tile_rows = rows.div_ceil(rows.div_ceil(TILE).max(1)).max(1);
    for head in 0..heads {
        let column = head * width;
        turn(&qkv[channels + column..], [tokens, width], stride, keys);
        let keys = Panels::new(keys, [width, tokens], [LANES, width * LANES]);
        let values = panels_of_values(&qkv[2 * channels + column..], [tokens, width], stride, values);
        for (tile, out) in out.chunks_mut(tile_rows * channels).enumerate() {
            let rows = out.len() / channels;
            let queries = &qkv[(first + tile * tile_rows) * stride + column..];
            let x = Mat::new(queries, rows, width, stride);
            let into = MatMut::new(scores, rows, tokens, padded);
            Product { x, weights: keys, bias: None, out: into, epilogue: Store }.run();
            let scale = 1.0 / (width as f32).sqrt();
            dispatch(Exponentials { scores: &mut scores[..rows * padded], tokens, scale, inverse });
            let x = Mat::new(scores, rows, tokens, padded);
            let out = MatMut::new(&mut out[column..], rows, width, channels);
            Product { x, weights: values, bias: None, out, epilogue: Scaled(inverse) }.run();
        }
    }
}

/// Keys `(tokens, width)`, `stride` apart, into panels of sixteen tokens, the last one filled up with zeros.
fn turn(keys: &[f32], [tokens, width]: [usize; 2], stride: usize, panels: &mut [f32]) {
    for (panel, lines) in panels.chunks_exact_mut(width * LANES).enumerate() {
        let first = panel * LANES;
        if first + LANES > tokens {
            lines.fill(0.0);
        }
        let (lines, _) = lines.as_chunks_mut::<LANES>();
        for lane in 0..LANES.min(tokens - first) {
            let key = &keys[(first + lane) * stride..][..width];
            for (line, k) in lines.iter_mut().zip(key) {
                line[lane] = *k;
            }
        }
    }
}

/// Values `(tokens, width)`, `stride` apart, as panels: where they lie if whole vectors fit, else copied to `scratch`.
fn panels_of_values<'a>(
    values: &'a [f32],
    [tokens, width]: [usize; 2],
    stride: usize,
    scratch: &'a mut [f32],
) -> Panels<'a> {
    if width.is_multiple_of(LANES) {
        return Panels::new(values, [tokens, width], [stride, LANES]);
    }
    let padded = width.next_multiple_of(LANES);
    for (token, line) in scratch.chunks_exact_mut(padded).take(tokens).enumerate() {
        line[..width].copy_from_slice(&values[token * stride..][..width]);
        line[width..].fill(0.0);
    }
    Panels::new(scratch, [tokens, width], [padded, LANES])
}

/// Scores to `e^(scale (score - max))` in place, and the inverse of each row's sum.
struct Exponentials<'a> {
    /// Rows filled up to whole vectors.
    scores: &'a mut [f32],
    tokens: usize,
    scale: f32,
    inverse: &'a mut [f32],
}

/// Rows that are exponentiated side by side, so that their reductions hide each other's latency.
const ABREAST: usize = 4;

impl Task for Exponentials<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Self { scores, tokens, scale, inverse } = self;
        let padded = tokens.next_multiple_of(LANES);
        let rows = scores.len() / padded;
        let whole = rows - rows % ABREAST;
        let (scores, rest) = scores.split_at_mut(whole * padded);
        for (scores, inverse) in scores.chunks_exact_mut(ABREAST * padded).zip(inverse.chunks_exact_mut(ABREAST)) {
            exponentiate::<S, ABREAST>(simd, scores, tokens, scale, inverse);
        }
        for (scores, inverse) in rest.chunks_exact_mut(padded).zip(inverse[whole..].chunks_exact_mut(1)) {
            exponentiate::<S, 1>(simd, scores, tokens, scale, inverse);
        }
    }
}

/// [`Exponentials`] of `R` rows.
#[inline(always)]
fn exponentiate<S: Simd, const R: usize>(simd: S, scores: &mut [f32], tokens: usize, scale: f32, inverse: &mut [f32]) {
    let padded = tokens.next_multiple_of(LANES);
    let scale = simd.splat(scale);
    let mut top = [simd.splat(f32::NEG_INFINITY); R];
    for r in 0..R {
        scores[r * padded + tokens..(r + 1) * padded].fill(f32::NEG_INFINITY);
    }
    for start in (0..padded).step_by(LANES) {
        for r in 0..R {
            top[r] = simd.max(load_partial(simd, &scores[r * padded + start..][..LANES], 0.0), top[r]);
        }
    }
    let mut sum = [simd.splat(0.0); R];
    for r in 0..R {
        // `scale (score - top)` is one operation then; at most 0 up to rounding.
        top[r] = simd.mul(simd.splat(simd.largest(top[r])), scale);
    }
    for start in (0..padded).step_by(LANES) {
        for r in 0..R {
            let part = &mut scores[r * padded + start..][..LANES];
            let e = math::exp_below(simd, simd.mul_sub(load_partial(simd, part, 0.0), scale, top[r]));
            sum[r] = simd.add(sum[r], e);
            store_partial(simd, e, part);
        }
    }
    for r in 0..R {
        inverse[r] = 1.0 / simd.sum(sum[r]);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ramp(len: usize) -> Vec<f32> {
        (0..len).map(|i| ((i * 37 + 11) % 101) as f32 / 25.0 - 2.0).collect()
    }

    /// One element of the result by the definition, in `f64`.
    fn definition(shape: Shape, qkv: &[f32], query: usize, channel: usize) -> f64 {
        let Shape { tokens, channels, .. } = shape;
        let (width, head) = (shape.width(), channel / shape.width());
        let at = |token: usize, part: usize, c: usize| f64::from(qkv[token * 3 * channels + part * channels + c]);
        let score = |key: usize| {
            let product: f64 = (0..width).map(|c| at(query, 0, head * width + c) * at(key, 1, head * width + c)).sum();
            (product / (width as f64).sqrt()).exp()
        };
        let weights: Vec<f64> = (0..tokens).map(score).collect();
        let mixed: f64 = weights.iter().enumerate().map(|(key, weight)| weight * at(key, 2, channel)).sum();
        mixed / weights.iter().sum::<f64>()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 1 } else { 40 }))]

        #[test]
        fn attention_agrees_with_its_definition(tokens in 1usize..70, heads in 1usize..4, width in 1usize..36) {
            let shape = Shape { tokens, channels: heads * width, heads };
            let qkv = ramp(tokens * 3 * shape.channels);
            let (mut out, mut scratch) = (vec![0.0; tokens * shape.channels], vec![f32::NAN; shape.scratch()]);
            attend(shape, &qkv, 0, &mut out, &mut scratch);
            for (i, got) in out.iter().enumerate() {
                let want = definition(shape, &qkv, i / shape.channels, i % shape.channels);
                prop_assert!((f64::from(*got) - want).abs() < 2e-5, "{i}: {got}, not {want}");
            }
            // Some queries alone, with a scratch that others have used: the same bits.
            let first = tokens / 3;
            let mut part = vec![0.0; (tokens - first) * shape.channels];
            attend(shape, &qkv, first, &mut part, &mut scratch);
            prop_assert_eq!(&part, &out[first * shape.channels..]);
        }
    }
}
