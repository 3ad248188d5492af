//! An image with a border of zeros: neighbourhoods of 3×3 pixels as rows of a matrix that nobody has to write down.

#![allow(unsafe_code)] // `Rows` vouches for pointers; each argument stands where it is implemented.
#![expect(clippy::needless_range_loop, reason = "closures of iterators are not reliably inlined into a `Task`")]

use std::ops::Range;

use super::packed::{Rows, Runs};
use crate::model::sides::Sides;

/// A view of an image of `channels` with one pixel of zeros around it.
#[derive(Debug, Clone, Copy)]
pub(in crate::model) struct Padded<'a> {
    data: &'a [f32],
    sides: Sides,
    channels: usize,
}

impl<'a> Padded<'a> {
    /// Elements that an image takes with its border.
    pub(in crate::model) fn len(sides: Sides, channels: usize) -> usize {
        (sides.height + 2) * (sides.width + 2) * channels
    }

    /// Copies `image (T, C)` and its border to the start of `room`. Panics where one of them is too short.
    pub(in crate::model) fn new(sides: Sides, channels: usize, image: &[f32], room: &'a mut [f32]) -> Self {
        Self::band(sides, channels, image, 0..sides.height, room)
    }

    /// As [`new`](Self::new), of some lines of the image, with the lines around them.
    pub(in crate::model) fn band(
        sides: Sides,
        channels: usize,
        image: &[f32],
        lines: Range<usize>,
        room: &'a mut [f32],
    ) -> Self {
        let band = Sides { height: lines.len(), width: sides.width };
        let (line, edge) = (sides.width * channels, channels);
        let data = &mut room[..Self::len(band, channels)];
        for (index, to) in data.chunks_exact_mut(line + 2 * edge).enumerate() {
            match (lines.start + index).checked_sub(1).filter(|&from| from < sides.height) {
                Some(from) => {
                    to[..edge].fill(0.0);
                    to[edge..edge + line].copy_from_slice(&image[from * line..][..line]);
                    to[edge + line..].fill(0.0);
                }
                None => to.fill(0.0),
            }
        }
        Self { data, sides: band, channels }
    }

    /// Distance of the rows of pixels.
    #[inline(always)]
    fn line(self) -> usize {
        (self.sides.width + 2) * self.channels
    }

    /// A row for each pixel: its neighbourhood `(3, 3, C)`.
    pub(in crate::model) fn neighbourhoods(self) -> Neighbourhoods<'a> {
        Neighbourhoods(self)
    }

    /// A row for each place `(3, 3, C)` of a neighbourhood: what is there for the pixels of `lines` lines from `first`
    /// on. Panics where the image has fewer.
    pub(in crate::model) fn places(self, first: usize, lines: usize) -> Places<'a> {
        assert!(first + lines <= self.sides.height, "{lines} lines from {first} on of {:?}", self.sides);
        Places { image: self, first, lines }
    }
}

/// See [`Padded::neighbourhoods`].
#[derive(Debug, Clone, Copy)]
pub(in crate::model) struct Neighbourhoods<'a>(Padded<'a>);

// SAFETY: the neighbourhood of the pixel (y, x) without a border is three runs of three pixels from the pixel (y, x) with
// a border on, each a line after the other. The last one ends where the data does: 2 lines and 2 pixels after the last
// pixel. `Padded::band` has sliced the data to that length.
unsafe impl Rows for Neighbourhoods<'_> {
    #[inline(always)]
    fn shape(self) -> [usize; 2] {
        [self.0.sides.pixels(), 9 * self.0.channels]
    }

    #[inline(always)]
    fn runs(self) -> Runs {
        Runs { count: 3, len: 3 * self.0.channels, step: 1, jump: self.0.line() }
    }

    #[inline(always)]
    fn starts<const R: usize>(self, row: usize) -> [*const f32; R] {
        let Sides { height, width } = self.0.sides;
        assert!(row + R <= height * width, "no {R} pixels from {row} on");
        let (mut y, mut x) = (row / width, row % width);
        let mut starts = [std::ptr::null(); R];
        for r in 0..R {
            starts[r] = self.0.data.as_ptr().wrapping_add(y * self.0.line() + x * self.0.channels);
            x += 1;
            if x == width {
                (y, x) = (y + 1, 0);
            }
        }
        starts
    }
}

/// See [`Padded::places`].
#[derive(Debug, Clone, Copy)]
pub(in crate::model) struct Places<'a> {
    image: Padded<'a>,
    first: usize,
    lines: usize,
}

// SAFETY: row (i, j, c) begins at the pixel (first + i, j) with a border, i, j < 3, and goes over `width` pixels of each
// of `lines` lines: it ends at most at the pixel (first + lines + 1, width + 1), and `first + lines <= height`.
unsafe impl Rows for Places<'_> {
    #[inline(always)]
    fn shape(self) -> [usize; 2] {
        [9 * self.image.channels, self.lines * self.image.sides.width]
    }

    #[inline(always)]
    fn runs(self) -> Runs {
        let Padded { sides, channels, .. } = self.image;
        Runs { count: self.lines, len: sides.width, step: channels, jump: self.image.line() }
    }

    #[inline(always)]
    fn starts<const R: usize>(self, row: usize) -> [*const f32; R] {
        let channels = self.image.channels;
        assert!(row + R <= 9 * channels, "no {R} places from {row} on");
        let mut starts = [std::ptr::null(); R];
        for r in 0..R {
            let (i, rest) = ((row + r) / (3 * channels), (row + r) % (3 * channels));
            starts[r] = self.image.data.as_ptr().wrapping_add((self.first + i) * self.image.line() + rest);
        }
        starts
    }
}
