//! A white sheet to draw images and text on.

use image::ExtendedColorType;
use noto_sans_mono_bitmap::{FontWeight, RasterHeight, get_raster, get_raster_width};

use super::png;
use crate::error::{Error, Result};

/// Height of a line of text in pixels.
pub(super) const LINE: usize = RasterHeight::Size16.val();
/// Largest canvas in pixels.
const MAX_PIXELS: usize = 1 << 26;
const WHITE: u8 = 255;
const FONT: (FontWeight, RasterHeight) = (FontWeight::Regular, RasterHeight::Size16);

/// Red, green and blue.
pub(super) type Colour = [u8; 3];

/// Pixels of `[height, width]`, three bytes each.
pub(super) struct Canvas {
    height: usize,
    width: usize,
    pixels: Vec<u8>,
}

impl Canvas {
    /// A white one.
    pub(super) fn new(height: usize, width: usize) -> Result<Self> {
        match height.checked_mul(width) {
            Some(n) if n <= MAX_PIXELS => Ok(Self { height, width, pixels: vec![WHITE; 3 * n] }),
            _ => Err(Error::Compute(format!("a picture of {width} × {height} exceeds {MAX_PIXELS} pixels"))),
        }
    }

    /// Draws an image of `[channels, height, width]`, each pixel as a square of `scale`.
    pub(super) fn image(&mut self, pixels: &[u8], shape: [usize; 3], scale: usize, [top, left]: [usize; 2]) {
        let [channels, height, width] = shape;
        let interleaved = png::interleave(pixels, shape);
        for y in 0..height * scale {
            for x in 0..width * scale {
                let at = channels * (y / scale * width + x / scale);
                let pixel = &interleaved[at..at + channels];
                self.blend(top + y, left + x, [pixel[0], pixel[channels / 2], pixel[channels - 1]], 255);
            }
        }
    }

    /// Writes a line whose upper left corner is given; what has no glyph becomes a question mark.
    pub(super) fn text(&mut self, text: &str, colour: Colour, [top, left]: [usize; 2]) {
        let (weight, height) = FONT;
        let glyphs =
            text.chars().filter_map(|c| get_raster(c, weight, height).or_else(|| get_raster('?', weight, height)));
        let mut left = left;
        for glyph in glyphs {
            for (y, row) in glyph.rows().enumerate() {
                row.iter().enumerate().for_each(|(x, &coverage)| self.blend(top + y, left + x, colour, coverage));
            }
            left += glyph.width();
        }
    }

    /// The PNG file.
    pub(super) fn png(&self) -> Result<Vec<u8>> {
        png::write(&self.pixels, [self.height, self.width], ExtendedColorType::Rgb8)
    }

    /// Mixes `colour` into a pixel; outside the canvas nothing happens.
    fn blend(&mut self, y: usize, x: usize, colour: Colour, coverage: u8) {
        if y >= self.height || x >= self.width {
            return;
        }
        let at = 3 * (y * self.width + x);
        for (old, new) in self.pixels[at..at + 3].iter_mut().zip(colour) {
            *old = mix(*old, new, coverage);
        }
    }
}

/// Width of a line of text in pixels.
pub(super) fn text_width(text: &str) -> usize {
    text.chars().count() * get_raster_width(FONT.0, FONT.1)
}

/// `from` at a `share` of 0, `to` at 255.
pub(super) fn mix(from: u8, to: u8, share: u8) -> u8 {
    let sum = u32::from(from) * u32::from(255 - share) + u32::from(to) * u32::from(share);
    u8::try_from((sum + 127) / 255).unwrap_or(u8::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_are_enlarged_and_clipped() {
        let mut canvas = Canvas::new(3, 3).unwrap();
        canvas.image(&[10, 20], [1, 1, 2], 2, [1, 0]);
        assert_eq!(canvas.pixels[..9], [WHITE; 9]);
        assert_eq!(canvas.pixels[9..18], [10, 10, 10, 10, 10, 10, 20, 20, 20]);
        canvas.image(&[1, 2, 3], [3, 1, 1], 1, [0, 2]);
        assert_eq!(canvas.pixels[6..9], [1, 2, 3]);
    }

    #[test]
    fn text_leaves_ink_where_it_was_put() {
        let mut canvas = Canvas::new(LINE, text_width("ab")).unwrap();
        canvas.text("a→", [0; 3], [0, 0]);
        let dark = |x: usize| (0..LINE).any(|y| canvas.pixels[3 * (y * canvas.width + x)] < 128);
        assert!((0..canvas.width / 2).any(dark) && (canvas.width / 2..canvas.width).any(dark));
        assert!(Canvas::new(usize::MAX, 2).is_err() && Canvas::new(1 << 14, 1 << 14).is_err());
    }

    #[test]
    fn mixing_keeps_its_ends() {
        assert_eq!((mix(7, 200, 0), mix(7, 200, 255), mix(0, 255, 128)), (7, 200, 128));
    }
}
