//! 3×3 convolutions by Winograd's minimal filtering F(4×4, 3×3) (Lavin, Gray, arXiv 1509.09308): `Aᵀ [(G w Gᵀ) ∘ (Bᵀ d
//! B)] A`, which multiplies a quarter as often as the definition.
//!
//! The transformed weights are packed once. Rows of tiles go through in groups that stay in the second-level cache:
//! their transforms, one product for each of the 36 places of a transformed tile, and the transforms back. Every
//! element of a product is one chain, so an image's result depends neither on the batch nor on how tiles are grouped.
//!
//! Results are off by up to about 1e-5 of the largest one, ten times what the definition has: for serving, not for
//! gradients.

#![allow(unsafe_code)] // The transforms read and write through pointers; each says once why it stays in its slices.
#![expect(clippy::needless_range_loop, reason = "closures of iterators are not reliably inlined into a `Task`")]

use std::ops::Range;

use super::conv::Finish;
use super::matrix::{Mat, MatMut};
use super::packed::{Packed, Product, Store};
use super::simd::{LANES, Lanes, Simd, Task, dispatch, store_partial};
use crate::model::sides::Sides;

/// Pixels of a tile's side.
const TILE: usize = 4;

/// Pixels of the side of what a tile depends on, and of its transform.
const WIDE: usize = TILE + 2;

/// Places of a transformed tile.
const PLACES: usize = WIDE * WIDE;

/// Bytes that the transforms of a group of tiles may take of the second-level cache.
const GROUP_BYTES: usize = 320 << 10;

/// `G`: filters at the points 0, 1, -1, 2, -2, ∞.
const FILTER: [[f64; 3]; WIDE] = [
    [1.0 / 4.0, 0.0, 0.0],
    [-1.0 / 6.0, -1.0 / 6.0, -1.0 / 6.0],
    [-1.0 / 6.0, 1.0 / 6.0, -1.0 / 6.0],
    [1.0 / 24.0, 1.0 / 12.0, 1.0 / 6.0],
    [1.0 / 24.0, -1.0 / 12.0, 1.0 / 6.0],
    [0.0, 0.0, 1.0],
];

/// A 3×3 convolution with zeros around the image, its weights transformed and packed.
#[derive(Debug, Clone)]
pub(in crate::model) struct Winograd {
    sides: Sides,
    inputs: usize,
    outputs: usize,
    /// Of each place of a transformed tile, `(inputs, outputs)`.
    weights: Vec<Packed>,
}

impl Winograd {
    /// With weights `w (3, 3, inputs, outputs)` for images of `sides`.
    pub(super) fn new(sides: Sides, [inputs, outputs]: [usize; 2], w: &[f32]) -> Self {
        let weights = (0..PLACES).map(|place| {
            let w = transformed(place, inputs * outputs, w);
            Packed::new(Mat::new(&w, inputs, outputs, outputs))
        });
        Self { sides, inputs, outputs, weights: weights.collect() }
    }

    /// Elements of the scratch of [`forward`](Self::forward).
    pub(super) fn scratch(&self) -> usize {
        self.band() + PLACES * (self.distance(self.inputs) + self.distance(self.outputs))
    }

    /// The `lines` of pixels, counted through all `images (B, T, K)`, to `out`.
    ///
    /// Panics where a slice is too short.
    pub(super) fn forward(
        &self,
        images: &[f32],
        lines: Range<usize>,
        finish: Finish<'_>,
        out: &mut [f32],
        scratch: &mut [f32],
    ) {
        let (band, rest) = scratch.split_at_mut(self.band());
        let (transforms, products) = rest.split_at_mut(PLACES * self.distance(self.inputs));
        let bands = self.band_of(lines.start)..lines.end.checked_sub(1).map_or(0, |last| self.band_of(last) + 1);
        for start in bands.clone().step_by(self.group()) {
            let group = start..bands.end.min(start + self.group());
            for (index, number) in group.clone().enumerate() {
                self.copy_band(images, number, band);
                dispatch(Transform { conv: self, band, first: index * self.columns(), out: transforms });
            }
            self.multiply(group.len() * self.columns(), transforms, products);
            for (index, number) in group.enumerate() {
                let top = self.first_line(number);
                let wanted = top.max(lines.start)..self.first_line(number + 1).min(lines.end);
                let from = (wanted.start - lines.start) * self.line();
                let out = &mut out[from..from + wanted.len() * self.line()];
                let first = index * self.columns();
                dispatch(TransformBack { conv: self, products, first, top, lines: wanted, finish, out });
            }
        }
    }

    /// Bands of an image: rows of tiles.
    fn bands(&self) -> usize {
        self.sides.height.div_ceil(TILE)
    }

    /// The band, counted through all images, that a line lies in.
    fn band_of(&self, line: usize) -> usize {
        line / self.sides.height * self.bands() + line % self.sides.height / TILE
    }

    /// Tiles of a band.
    fn columns(&self) -> usize {
        self.sides.width.div_ceil(TILE)
    }

    /// Elements of a line of a result.
    fn line(&self) -> usize {
        self.sides.width * self.outputs
    }

    /// The line, counted through all images, at which a band begins.
    fn first_line(&self, band: usize) -> usize {
        band / self.bands() * self.sides.height + band % self.bands() * TILE
    }

    /// Bands of a group: about as many tiles as fit, at least two products' worth.
    fn group(&self) -> usize {
        let of_tile = PLACES * (whole(self.inputs) + whole(self.outputs)) * size_of::<f32>();
        (GROUP_BYTES / of_tile).max(12).div_ceil(self.columns())
    }

    /// Distance of the matrices `(tiles, channels)` of two places: odd in lines of the cache, so that they do not all
    /// fall into the same sets.
    fn distance(&self, channels: usize) -> usize {
        ((self.group() * self.columns() * whole(channels) / LANES) | 1) * LANES
    }

    /// Elements of a band with its neighbours: six lines of whole tiles and two pixels.
    fn band(&self) -> usize {
        WIDE * self.band_line()
    }

    fn band_line(&self) -> usize {
        (self.columns() * TILE + 2) * whole(self.inputs)
    }

    /// Copies a band with the lines and pixels around it, zeros where there are none, channels filled up with zeros.
    fn copy_band(&self, images: &[f32], band: usize, to: &mut [f32]) {
        let (Sides { height, width }, channels) = (self.sides, whole(self.inputs));
        let image = &images[band / self.bands() * height * width * self.inputs..][..height * width * self.inputs];
        let top = band % self.bands() * TILE;
        for (index, to) in to.chunks_exact_mut(self.band_line()).enumerate() {
            let Some(from) = (top + index).checked_sub(1).filter(|&line| line < height) else {
                to.fill(0.0);
                continue;
            };
            let from = &image[from * width * self.inputs..][..width * self.inputs];
            let (left, rest) = to.split_at_mut(channels);
            let (pixels, right) = rest.split_at_mut(width * channels);
            left.fill(0.0);
            right.fill(0.0);
            if channels == self.inputs {
                pixels.copy_from_slice(from);
            } else {
                for (to, from) in pixels.chunks_exact_mut(channels).zip(from.chunks_exact(self.inputs)) {
                    to[..self.inputs].copy_from_slice(from);
                    to[self.inputs..].fill(0.0);
                }
            }
        }
    }

    /// The product of each place: `(tiles, inputs)` and `(inputs, outputs)`.
    fn multiply(&self, tiles: usize, transforms: &[f32], products: &mut [f32]) {
        let transforms = transforms.chunks_exact(self.distance(self.inputs));
        let products = products.chunks_exact_mut(self.distance(self.outputs));
        for ((x, out), weights) in transforms.zip(products).zip(&self.weights) {
            let x = Mat::new(x, tiles, self.inputs, whole(self.inputs));
            let out = MatMut::new(out, tiles, self.outputs, whole(self.outputs));
            Product { x, weights: weights.panels(), bias: None, out, epilogue: Store }.run();
        }
    }
}

/// Channels filled up to whole vectors.
fn whole(channels: usize) -> usize {
    channels.next_multiple_of(LANES)
}

/// One place of `G w Gᵀ` for every pair of channels.
#[expect(clippy::cast_possible_truncation, reason = "weights are f32")]
fn transformed(place: usize, pairs: usize, w: &[f32]) -> Vec<f32> {
    let (down, across) = (FILTER[place / WIDE], FILTER[place % WIDE]);
    let term = |pair: usize, i: usize| down[i / 3] * across[i % 3] * f64::from(w[i * pairs + pair]);
    (0..pairs).map(|pair| (0..9).map(|i| term(pair, i)).sum::<f64>() as f32).collect()
}

/// `Bᵀ d B` of the tiles of a band.
struct Transform<'a> {
    conv: &'a Winograd,
    band: &'a [f32],
    /// The place of its first tile in the group.
    first: usize,
    out: &'a mut [f32],
}

impl Task for Transform<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Self { conv, first, .. } = self;
        let (channels, distance) = (whole(conv.inputs), conv.distance(conv.inputs));
        let (line, columns) = (conv.band_line(), conv.columns());
        assert!(self.band.len() >= WIDE * line && self.out.len() >= PLACES * distance, "a band or a group too short");
        assert!((first + columns) * channels <= distance, "more tiles than a group has");
        for tile in 0..columns {
            for channel in (0..channels).step_by(LANES) {
                let from = self.band[tile * TILE * channels + channel..].as_ptr();
                let to = self.out[(first + tile) * channels + channel..].as_mut_ptr();
                let mut half = [[simd.splat(0.0); WIDE]; WIDE];
                for j in 0..WIDE {
                    let mut column = [simd.splat(0.0); WIDE];
                    for i in 0..WIDE {
                        // SAFETY: line `i` of six and pixel `4 tile + j` of `4 columns + 2`, of whole vectors.
                        column[i] = simd.load(unsafe { &*from.add(i * line + j * channels).cast::<Lanes>() });
                    }
                    half[j] = forth(simd, column);
                }
                for i in 0..WIDE {
                    let row = forth(simd, [half[0][i], half[1][i], half[2][i], half[3][i], half[4][i], half[5][i]]);
                    for j in 0..WIDE {
                        // SAFETY: the matrix of each of the places is `distance` long, and the tile lies in it.
                        simd.store(row[j], unsafe { &mut *to.add((i * WIDE + j) * distance).cast::<Lanes>() });
                    }
                }
            }
        }
    }
}

/// `Aᵀ m A` of the tiles of a band, finished and written where the image has pixels.
struct TransformBack<'a> {
    conv: &'a Winograd,
    products: &'a [f32],
    /// The place of its first tile in the group.
    first: usize,
    /// The first line of the band, counted through all images.
    top: usize,
    /// The lines of it that are wanted.
    lines: Range<usize>,
    finish: Finish<'a>,
    /// These lines.
    out: &'a mut [f32],
}

impl Task for TransformBack<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(mut self, simd: S) {
        let Self { conv, first, .. } = self;
        let (channels, distance) = (whole(conv.outputs), conv.distance(conv.outputs));
        assert!(self.products.len() >= PLACES * distance, "a group too short");
        assert!((first + conv.columns()) * channels <= distance, "more tiles than a group has");
        for tile in 0..conv.columns() {
            for channel in (0..channels).step_by(LANES) {
                let from = self.products[(first + tile) * channels + channel..].as_ptr();
                let mut half = [[simd.splat(0.0); WIDE]; TILE];
                for j in 0..WIDE {
                    let mut column = [simd.splat(0.0); WIDE];
                    for i in 0..WIDE {
                        // SAFETY: the matrix of each of the places is `distance` long, and the tile lies in it.
                        column[i] = simd.load(unsafe { &*from.add((i * WIDE + j) * distance).cast::<Lanes>() });
                    }
                    let column = back(simd, column);
                    for i in 0..TILE {
                        half[i][j] = column[i];
                    }
                }
                for i in 0..TILE {
                    if self.lines.contains(&(self.top + i)) {
                        self.write(simd, back(simd, half[i]), [self.top + i, tile * TILE], channel);
                    }
                }
            }
        }
    }
}

impl TransformBack<'_> {
    /// Writes four pixels from the pixel `x` of a line on, up to sixteen channels from `channel` on.
    #[inline(always)]
    fn write<S: Simd>(&mut self, simd: S, pixels: [S::V; TILE], [line, x]: [usize; 2], channel: usize) {
        let Winograd { sides, outputs, .. } = *self.conv;
        let lanes = LANES.min(outputs - channel);
        let bias = self.finish.bias_of(simd, outputs, line / sides.height, channel);
        for j in 0..TILE.min(sides.width - x) {
            let pixel = line * sides.width + x + j;
            let value = self.finish.join(simd, simd.add(pixels[j], bias), pixel * outputs + channel, lanes);
            let place = (pixel - self.lines.start * sides.width) * outputs + channel;
            store_partial(simd, value, &mut self.out[place..][..lanes]);
        }
    }
}

/// `Bᵀ d` of one column.
#[inline(always)]
fn forth<S: Simd>(simd: S, [a, b, c, d, e, f]: [S::V; WIDE]) -> [S::V; WIDE] {
    let (two, four, five) = (simd.splat(2.0), simd.splat(4.0), simd.splat(5.0));
    let (even, odd) = (simd.neg_mul_add(four, c, e), simd.neg_mul_add(four, b, d));
    let (outer, inner) = (simd.sub(e, c), simd.sub(d, b));
    [
        simd.mul_add(four, a, simd.neg_mul_add(five, c, e)),
        simd.add(even, odd),
        simd.sub(even, odd),
        simd.mul_add(two, inner, outer),
        simd.neg_mul_add(two, inner, outer),
        simd.mul_add(four, b, simd.neg_mul_add(five, d, f)),
    ]
}

/// `Aᵀ m` of one column.
#[inline(always)]
fn back<S: Simd>(simd: S, [a, b, c, d, e, f]: [S::V; WIDE]) -> [S::V; TILE] {
    let (two, four, eight) = (simd.splat(2.0), simd.splat(4.0), simd.splat(8.0));
    let (even, odd) = (simd.add(b, c), simd.sub(b, c));
    let (far_even, far_odd) = (simd.add(d, e), simd.sub(d, e));
    [
        simd.add(simd.add(a, even), far_even),
        simd.mul_add(two, far_odd, odd),
        simd.mul_add(four, far_even, even),
        simd.add(simd.mul_add(eight, far_odd, odd), f),
    ]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::conv::tests::{convolved, numbers};
    use super::*;

    fn forward(conv: &Winograd, images: &[f32], lines: Range<usize>, finish: Finish<'_>) -> Vec<f32> {
        let mut out = vec![f32::NAN; lines.len() * conv.line()];
        // What an earlier step has left in the scratch must not matter.
        let mut scratch = vec![f32::NAN; conv.scratch()];
        conv.forward(images, lines, finish, &mut out, &mut scratch);
        out
    }

    proptest! {
        #[test]
        fn it_agrees_with_the_definition_and_lines_do_not_depend_on_each_other(
            (height, width) in (1usize..13, 1usize..13),
            (inputs, outputs) in (1usize..40, 1usize..40),
            (cut, seed) in (0usize..40, 0usize..100),
        ) {
            let sides = Sides { height, width };
            let image = numbers(seed, 2 * sides.pixels() * inputs);
            let (w, shift) = (numbers(seed + 1, 9 * inputs * outputs), numbers(seed + 2, 2 * outputs));
            let branch = numbers(seed + 3, 2 * sides.pixels() * outputs);
            let finish = Finish { bias: &shift[..outputs], shift: Some(&shift), residual: Some(&branch) };
            let conv = Winograd::new(sides, [inputs, outputs], &w);
            let all = forward(&conv, &image, 0..2 * height, finish);
            let expected = convolved(sides, [inputs, outputs], &image, &w, finish);
            let largest = expected.iter().fold(0.0f64, |m, v| m.max(v.abs()));
            for (got, want) in all.iter().zip(&expected) {
                prop_assert!((f64::from(*got) - want).abs() < 5e-5 * largest, "{got} {want}");
            }
            let cut = cut % (2 * height + 1);
            let parts = [forward(&conv, &image, 0..cut, finish), forward(&conv, &image, cut..2 * height, finish)];
            prop_assert_eq!(parts.concat(), all);
        }
    }
}
