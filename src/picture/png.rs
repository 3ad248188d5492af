//! One image as a PNG file.

use image::codecs::png::{CompressionType, FilterType, PngEncoder};
use image::{ExtendedColorType, ImageEncoder};

use crate::error::{Error, Result};

/// Levels above take seven times as long and more, for files that are a fiftieth smaller in small pictures and a
/// twentieth in large ones (`cargo bench --bench encode`).
const COMPRESSION: CompressionType = CompressionType::Fast;

/// A filter for each line of pixels: twice the time of one for all, and the smallest files.
const FILTER: FilterType = FilterType::Adaptive;

/// `pixels` of `shape` = `[channels, height, width]` (row-major planes of 1 or 3 channels) as a PNG file.
///
/// # Errors
/// [`Error::Compute`] where the shape is not that of a picture or does not fit the number of pixels.
pub fn encode(pixels: &[u8], shape: [usize; 3]) -> Result<Vec<u8>> {
    check(pixels, shape)?;
    let [channels, height, width] = shape;
    let colour = if channels == 1 { ExtendedColorType::L8 } else { ExtendedColorType::Rgb8 };
    write(&interleave(pixels, shape), [height, width], colour)
}

/// Checks that `pixels` are an image of `shape`.
pub(super) fn check(pixels: &[u8], shape: [usize; 3]) -> Result<()> {
    let size = shape.iter().try_fold(1usize, |n, &side| n.checked_mul(side));
    if matches!(shape[0], 1 | 3) && !pixels.is_empty() && size == Some(pixels.len()) {
        return Ok(());
    }
    Err(Error::Compute(format!("{} bytes of shape {shape:?} are not a picture of 1 or 3 channels", pixels.len())))
}

/// Planes of a picture as pixels: `[C, H, W]` to `[H, W, C]`, for 1 or 3 channels.
pub(super) fn interleave(pixels: &[u8], [channels, height, width]: [usize; 3]) -> Vec<u8> {
    let plane = height * width;
    if channels != 3 {
        return pixels.to_vec();
    }
    let (red, others) = pixels.split_at(plane);
    let mut interleaved = vec![0; pixels.len()];
    let (places, _) = interleaved.as_chunks_mut();
    let colours = red.iter().zip(others).zip(&others[plane..]);
    places.iter_mut().zip(colours).for_each(|(place, ((&red, &green), &blue))| *place = [red, green, blue]);
    interleaved
}

/// Interleaved pixels of `[height, width]` as a PNG file.
pub(super) fn write(pixels: &[u8], [height, width]: [usize; 2], colour: ExtendedColorType) -> Result<Vec<u8>> {
    let side = |n: usize| u32::try_from(n).map_err(|_| Error::Compute(format!("a picture cannot be {n} pixels wide")));
    let mut file = Vec::new();
    PngEncoder::new_with_quality(&mut file, COMPRESSION, FILTER)
        .write_image(pixels, side(width)?, side(height)?, colour)
        .map_err(|e| Error::Compute(format!("cannot encode a picture: {e}")))?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pictures_decode_to_the_pixels_they_were_made_of() {
        let grey = image::load_from_memory(&encode(&[0, 50, 100, 150, 200, 250], [1, 2, 3]).unwrap()).unwrap();
        assert_eq!((grey.width(), grey.height()), (3, 2));
        assert_eq!(grey.into_luma8().into_raw(), [0, 50, 100, 150, 200, 250]);
        let colour = image::load_from_memory(&encode(&[1, 2, 3, 4, 5, 6], [3, 1, 2]).unwrap()).unwrap();
        assert_eq!(colour.into_rgb8().into_raw(), [1, 3, 5, 2, 4, 6]);
    }

    #[test]
    fn shapes_that_are_no_pictures_are_refused() {
        for (bytes, shape) in [(4, [2, 1, 2]), (3, [1, 2, 2]), (0, [1, 0, 2]), (0, [3, usize::MAX, 3])] {
            assert!(encode(&vec![0; bytes], shape).is_err(), "{shape:?}");
        }
    }
}
