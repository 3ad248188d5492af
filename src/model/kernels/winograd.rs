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
use super::packed::{Packed, Panels, Product, Store};
use super::simd::{LANES, Lanes, Simd, Task, dispatch, load_partial, store_partial};
use super::window::Window;
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

/// Channels of a result whose products are in memory at a time.
const BLOCK: usize = 2 * LANES;

/// A 3×3 convolution with zeros around the image, its weights transformed and packed.
#[derive(Debug, Clone)]
pub(in crate::model) struct Winograd {
    sides: Sides,
    inputs: usize,
    outputs: usize,
    /// `(inputs, blocks of outputs, places of a transformed tile, BLOCK)`: in the order in which they are read.
    weights: Packed,
    /// A pixel beyond the image.
    zeros: Vec<f32>,
}

impl Winograd {
    /// With weights `w (3, 3, inputs, outputs)` for images of `sides`.
    pub(super) fn new(sides: Sides, [inputs, outputs]: [usize; 2], w: &[f32]) -> Self {
        let columns = outputs.next_multiple_of(BLOCK) * PLACES;
        let mut all = vec![0.0; inputs * columns];
        for place in 0..PLACES {
            let w = transformed(place, inputs * outputs, w);
            for (all, w) in all.chunks_exact_mut(columns).zip(w.chunks_exact(outputs)) {
                for (block, w) in w.chunks(BLOCK).enumerate() {
                    all[(block * PLACES + place) * BLOCK..][..w.len()].copy_from_slice(w);
                }
            }
        }
        let weights = Packed::new(Mat::new(&all, inputs, columns, columns));
        Self { sides, inputs, outputs, weights, zeros: vec![0.0; whole(inputs)] }
    }

    /// Elements of the scratch of [`forward`](Self::forward).
    pub(super) fn scratch(&self) -> usize {
        PLACES * (self.distance(whole(self.inputs)) + self.distance(BLOCK))
    }

    /// How many channels of a result of `images` each of `threads` had better compute, for the weights of those only;
    /// `None` where they had better share the lines: where there is less of the weights than of the tiles.
    pub(super) fn share(&self, images: usize, threads: usize) -> Option<usize> {
        let tiles = images * self.bands() * self.columns();
        (tiles <= self.outputs && self.outputs > LANES).then(|| whole(self.outputs.div_ceil(threads)))
    }

    /// The `lines` of pixels, counted through all `images (B, T, K)`, to `out`: the channels that are its columns, from
    /// a multiple of sixteen on.
    ///
    /// Panics where a slice is too short.
    pub(super) fn forward(
        &self,
        images: &[f32],
        lines: Range<usize>,
        finish: Finish<'_>,
        mut out: Window<'_>,
        scratch: &mut [f32],
    ) {
        let (transforms, products) = scratch.split_at_mut(PLACES * self.distance(whole(self.inputs)));
        let bands = self.band_of(lines.start)..lines.end.checked_sub(1).map_or(0, |last| self.band_of(last) + 1);
        for start in bands.clone().step_by(self.group()) {
            let group = start..bands.end.min(start + self.group());
            for (index, number) in group.clone().enumerate() {
                let (image, top) = (number / self.bands(), number % self.bands() * TILE);
                let image = &images[image * self.sides.pixels() * self.inputs..];
                dispatch(Transform { conv: self, image, top, first: index * self.columns(), out: transforms });
            }
            let mut column = out.columns().start;
            while column < out.columns().end {
                let block = column..((column / BLOCK + 1) * BLOCK).min(out.columns().end);
                column = block.end;
                self.multiply(group.len() * self.columns(), &block, transforms, products);
                for (index, number) in group.clone().enumerate() {
                    let (first, top, block) = (index * self.columns(), self.first_line(number), block.clone());
                    let wanted = top.max(lines.start)..self.first_line(number + 1).min(lines.end);
                    let origin = lines.start * self.sides.width;
                    let to = Destination { out: &mut out, origin, lines: wanted, channels: block };
                    dispatch(TransformBack { conv: self, products, first, top, finish, to });
                }
            }
        }
    }

    /// Lines of an image.
    pub(super) fn height(&self) -> usize {
        self.sides.height
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

    /// The line, counted through all images, at which a band begins.
    fn first_line(&self, band: usize) -> usize {
        band / self.bands() * self.sides.height + band % self.bands() * TILE
    }

    /// Bands of a group: about as many tiles as fit, at least two products' worth.
    fn group(&self) -> usize {
        let of_tile = PLACES * (whole(self.inputs) + BLOCK) * size_of::<f32>();
        (GROUP_BYTES / of_tile).max(12).div_ceil(self.columns())
    }

    /// Distance of the matrices `(tiles, channels)` of two places: odd in lines of the cache, so that they do not all
    /// fall into the same sets.
    fn distance(&self, channels: usize) -> usize {
        ((self.group() * self.columns() * channels / LANES) | 1) * LANES
    }

    /// The product of each place: `(tiles, inputs)` and a block of `(inputs, outputs)`.
    fn multiply(&self, tiles: usize, block: &Range<usize>, transforms: &[f32], products: &mut [f32]) {
        let transforms = transforms.chunks_exact(self.distance(whole(self.inputs)));
        let products = products.chunks_exact_mut(self.distance(BLOCK));
        for (place, (x, out)) in transforms.zip(products).enumerate() {
            let weights = self.place(block, place);
            let x = Mat::new(x, tiles, self.inputs, whole(self.inputs));
            let out = MatMut::new(out, tiles, block.len(), BLOCK);
            Product { x, weights, bias: None, out, epilogue: Store }.run();
        }
    }

    /// The weights of a place for a block of channels.
    fn place(&self, block: &Range<usize>, place: usize) -> Panels<'_> {
        let column = (block.start / BLOCK * PLACES + place) * BLOCK + block.start % BLOCK;
        self.weights.part(column..column + block.len())
    }

    /// Where the pixels are that the tile at `(top, left)` depends on; beyond the image, zeros.
    #[inline(always)]
    fn neighbours(&self, image: &[f32], [top, left]: [usize; 2]) -> [[*const f32; WIDE]; WIDE] {
        let Sides { height, width } = self.sides;
        let mut from = [[self.zeros.as_ptr(); WIDE]; WIDE];
        for i in 0..WIDE {
            let y = (top + i).wrapping_sub(1);
            for j in 0..WIDE {
                let x = (left + j).wrapping_sub(1);
                let pixel =
                    image.as_ptr().wrapping_add(y.wrapping_mul(width).wrapping_add(x).wrapping_mul(self.inputs));
                // Not `&&`: a choice costs less than a branch.
                from[i][j] = if (y < height) & (x < width) { pixel } else { from[i][j] };
            }
        }
        from
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
    /// The image, read where it lies.
    image: &'a [f32],
    /// The first line of the band in it.
    top: usize,
    /// The place of the band's first tile in the group.
    first: usize,
    out: &'a mut [f32],
}

impl Task for Transform<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Self { conv, first, .. } = self;
        let (inputs, channels) = (conv.inputs, whole(conv.inputs));
        let (distance, columns) = (conv.distance(channels), conv.columns());
        assert!(self.image.len() >= conv.sides.pixels() * inputs, "an image too short");
        assert!(self.out.len() >= PLACES * distance, "a group too short");
        assert!((first + columns) * channels <= distance, "more tiles than a group has");
        for tile in 0..columns {
            let from = conv.neighbours(self.image, [self.top, tile * TILE]);
            for channel in (0..inputs).step_by(LANES) {
                let to = self.out[(first + tile) * channels + channel..].as_mut_ptr();
                let lanes = LANES.min(inputs - channel);
                // SAFETY: each of `from` points to the `inputs` channels of a pixel or to as many zeros; the matrix of each
                // place is `distance` long, and the tile lies in it.
                unsafe {
                    if lanes == LANES {
                        transform::<S, true>(simd, &from, [channel, LANES], to, distance);
                    } else {
                        transform::<S, false>(simd, &from, [channel, lanes], to, distance);
                    }
                }
            }
        }
    }
}

/// [`Transform`] of `lanes` channels of one tile: all sixteen, if `WHOLE`.
///
/// # Safety
/// `from` must be readable up to `channel + lanes`, `to` writable in sixteen elements at each multiple of `distance`.
#[inline(always)]
unsafe fn transform<S: Simd, const WHOLE: bool>(
    simd: S,
    from: &[[*const f32; WIDE]; WIDE],
    [channel, lanes]: [usize; 2],
    to: *mut f32,
    distance: usize,
) {
    let place = [channel, lanes];
    // SAFETY: the caller vouches for `lanes` elements of each pixel, sixteen if `WHOLE`. Not a loop over an array that is
    // there before: that would be filled with zeros first.
    let half = unsafe {
        [
            column::<S, WHOLE>(simd, from, 0, place),
            column::<S, WHOLE>(simd, from, 1, place),
            column::<S, WHOLE>(simd, from, 2, place),
            column::<S, WHOLE>(simd, from, 3, place),
            column::<S, WHOLE>(simd, from, 4, place),
            column::<S, WHOLE>(simd, from, 5, place),
        ]
    };
    for i in 0..WIDE {
        let row = forth(simd, [half[0][i], half[1][i], half[2][i], half[3][i], half[4][i], half[5][i]]);
        for j in 0..WIDE {
            // SAFETY: the caller vouches for it.
            simd.store(row[j], unsafe { &mut *to.wrapping_add((i * WIDE + j) * distance).cast::<Lanes>() });
        }
    }
}

/// `Bᵀ d` of column `j` of a tile.
///
/// # Safety
/// `from` must be readable from `channel` on in `lanes` elements, sixteen if `WHOLE`.
#[inline(always)]
unsafe fn column<S: Simd, const WHOLE: bool>(
    simd: S,
    from: &[[*const f32; WIDE]; WIDE],
    j: usize,
    [channel, lanes]: [usize; 2],
) -> [S::V; WIDE] {
    let mut column = [simd.splat(0.0); WIDE];
    for i in 0..WIDE {
        let pixel = from[i][j].wrapping_add(channel);
        // SAFETY: the caller vouches for it.
        column[i] = unsafe {
            if WHOLE {
                simd.load(&*pixel.cast::<Lanes>())
            } else {
                load_partial(simd, std::slice::from_raw_parts(pixel, lanes), 0.0)
            }
        };
    }
    forth(simd, column)
}

/// Where the tiles of a band are written.
struct Destination<'a, 'b> {
    out: &'a mut Window<'b>,
    /// The pixel, counted through all images, that is the first row of `out`.
    origin: usize,
    /// The lines of the band that are wanted, counted through all images.
    lines: Range<usize>,
    /// The channels that have been multiplied.
    channels: Range<usize>,
}

/// `Aᵀ m A` of the tiles of a band, finished and written where the image has pixels.
struct TransformBack<'a, 'b> {
    conv: &'a Winograd,
    products: &'a [f32],
    /// The place of its first tile in the group.
    first: usize,
    /// The first line of the band, counted through all images.
    top: usize,
    finish: Finish<'a>,
    to: Destination<'a, 'b>,
}

impl Task for TransformBack<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(mut self, simd: S) {
        let Self { conv, first, .. } = self;
        let (channels, distance) = (self.to.channels.clone(), conv.distance(BLOCK));
        assert!(self.products.len() >= PLACES * distance && channels.len() <= BLOCK, "a group too short");
        assert!((first + conv.columns()) * BLOCK <= distance, "more tiles than a group has");
        for channel in (0..channels.len()).step_by(LANES) {
            let (place, image) = (channels.start + channel, self.top / conv.sides.height);
            let bias = self.finish.bias_of(simd, conv.outputs, image, place);
            for tile in 0..conv.columns() {
                let from = self.products[(first + tile) * BLOCK + channel..].as_ptr();
                // SAFETY: the matrix of each of the places is `distance` long, and the tile lies in it.
                let half = unsafe {
                    [
                        column_back(simd, from, distance),
                        column_back(simd, from.add(distance), distance),
                        column_back(simd, from.add(2 * distance), distance),
                        column_back(simd, from.add(3 * distance), distance),
                        column_back(simd, from.add(4 * distance), distance),
                        column_back(simd, from.add(5 * distance), distance),
                    ]
                };
                for i in 0..TILE {
                    let line = self.top + i;
                    if line >= self.to.lines.start && line < self.to.lines.end {
                        let row = [half[0][i], half[1][i], half[2][i], half[3][i], half[4][i], half[5][i]];
                        self.write(simd, back(simd, row), [line, tile * TILE], place, bias);
                    }
                }
            }
        }
    }
}

/// `Aᵀ m` of a column of a tile whose elements are `WIDE` places apart.
///
/// # Safety
/// Sixteen elements must be readable at each of them.
#[inline(always)]
unsafe fn column_back<S: Simd>(simd: S, from: *const f32, distance: usize) -> [S::V; TILE] {
    let mut column = [simd.splat(0.0); WIDE];
    for i in 0..WIDE {
        // SAFETY: the caller vouches for it.
        column[i] = simd.load(unsafe { &*from.add(i * WIDE * distance).cast::<Lanes>() });
    }
    back(simd, column)
}

impl TransformBack<'_, '_> {
    /// Writes four pixels from the pixel `x` of a line on, up to sixteen channels from `channel` on.
    #[inline(always)]
    fn write<S: Simd>(&mut self, simd: S, pixels: [S::V; TILE], [line, x]: [usize; 2], channel: usize, bias: S::V) {
        let &Winograd { sides, outputs, .. } = self.conv;
        let lanes = LANES.min(outputs - channel);
        for j in 0..TILE.min(sides.width - x) {
            let pixel = line * sides.width + x + j;
            let value = self.finish.join(simd, simd.add(pixels[j], bias), pixel * outputs + channel, lanes);
            store_partial(simd, value, self.to.out.place(pixel - self.to.origin, channel, lanes));
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
        let mut out = vec![f32::NAN; lines.len() * conv.sides.width * conv.outputs];
        // What an earlier step has left in the scratch must not matter.
        let mut scratch = vec![f32::NAN; conv.scratch()];
        conv.forward(images, lines, finish, Window::new(&mut out, conv.outputs), &mut scratch);
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
            prop_assert_eq!(parts.concat(), &all[..]);
            // Channels from a multiple of sixteen on, for two threads.
            let (mut apart, mut scratch) = (vec![f32::NAN; all.len()], vec![f32::NAN; conv.scratch()]);
            let share = whole(outputs.div_ceil(2));
            for columns in [0..share.min(outputs), share.min(outputs)..outputs] {
                // SAFETY: one after the other.
                let out = unsafe { Window::new(&mut apart, outputs).part(columns) };
                conv.forward(&image, 0..2 * height, finish, out, &mut scratch);
            }
            prop_assert_eq!(apart, all);
        }
    }
}
