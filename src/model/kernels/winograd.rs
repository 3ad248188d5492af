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

use std::f32::consts::FRAC_1_SQRT_2;
use std::ops::Range;

use super::matrix::{Mat, MatMut};
use super::packed::{Packed, Product, Store};
use super::simd::{LANES, Lanes, Simd, Task, dispatch, load_partial, store_partial};
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

/// What is done to the sums of a convolution before they are written.
#[derive(Debug, Clone, Copy)]
pub(in crate::model) struct Finish<'a> {
    /// Added at every pixel: `(N)` for all images, or `(B, N)`.
    pub(in crate::model) bias: &'a [f32],
    /// A branch `(B, T, N)` to join: `(sum + bias + branch) / √2`.
    pub(in crate::model) residual: Option<&'a [f32]>,
}

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
    pub(in crate::model) fn new(sides: Sides, [inputs, outputs]: [usize; 2], w: &[f32]) -> Self {
        let weights = (0..PLACES).map(|place| {
            let w = transformed(place, inputs * outputs, w);
            Packed::new(Mat::new(&w, inputs, outputs, outputs))
        });
        Self { sides, inputs, outputs, weights: weights.collect() }
    }

    /// Bands of an image: rows of tiles of [`LINES`](Self::LINES) lines of pixels, the last one of what is left.
    pub(in crate::model) fn bands(&self) -> usize {
        self.sides.height.div_ceil(TILE)
    }

    /// Lines of pixels in a band.
    pub(in crate::model) const LINES: usize = TILE;

    /// Elements of the scratch of [`forward`](Self::forward).
    pub(in crate::model) fn scratch(&self) -> usize {
        self.band() + PLACES * (self.distance(self.inputs) + self.distance(self.outputs))
    }

    /// The `bands` of the images `(B, T, K)`, counted through all of them, to `out`: the lines of these bands.
    ///
    /// Panics where a slice is too short.
    pub(in crate::model) fn forward(
        &self,
        images: &[f32],
        bands: Range<usize>,
        finish: Finish<'_>,
        out: &mut [f32],
        scratch: &mut [f32],
    ) {
        let (band, rest) = scratch.split_at_mut(self.band());
        let (transforms, products) = rest.split_at_mut(PLACES * self.distance(self.inputs));
        let first_line = self.first_line(bands.start);
        for start in bands.clone().step_by(self.group()) {
            let group = start..bands.end.min(start + self.group());
            for (index, number) in group.clone().enumerate() {
                self.copy_band(images, number, band);
                dispatch(Transform { conv: self, band, first: index * self.columns(), out: transforms });
            }
            self.multiply(group.len() * self.columns(), transforms, products);
            for (index, number) in group.enumerate() {
                let lines = self.first_line(number)..self.first_line(number + 1);
                let out = &mut out[(lines.start - first_line) * self.line()..(lines.end - first_line) * self.line()];
                let first = index * self.columns();
                dispatch(TransformBack { conv: self, products, first, lines, finish, out });
            }
        }
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
        (self.group() * self.columns() * whole(channels) / LANES | 1) * LANES
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
    /// The lines of the band, counted through all images.
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
                for i in 0..TILE.min(self.lines.len()) {
                    self.write(simd, back(simd, half[i]), [i, tile * TILE], channel);
                }
            }
        }
    }
}

impl TransformBack<'_> {
    /// Writes four pixels from `(y, x)` on, up to sixteen channels from `channel` on.
    #[inline(always)]
    fn write<S: Simd>(&mut self, simd: S, pixels: [S::V; TILE], [y, x]: [usize; 2], channel: usize) {
        let Winograd { sides, outputs, .. } = *self.conv;
        let (lanes, half) = (LANES.min(outputs - channel), simd.splat(FRAC_1_SQRT_2));
        let of_image = if self.finish.bias.len() == outputs { 0 } else { self.lines.start / sides.height * outputs };
        let bias = load_partial(simd, &self.finish.bias[of_image + channel..][..lanes], 0.0);
        for j in 0..TILE.min(sides.width - x) {
            let pixel = y * sides.width + x + j;
            let mut value = simd.add(pixels[j], bias);
            if let Some(branch) = self.finish.residual {
                let place = (self.lines.start * sides.width + pixel) * outputs + channel;
                value = simd.mul(simd.add(value, load_partial(simd, &branch[place..][..lanes], 0.0)), half);
            }
            store_partial(simd, value, &mut self.out[pixel * outputs + channel..][..lanes]);
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
