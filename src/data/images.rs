//! Labelled images in memory, one byte a number.

use std::path::Path;

use super::Source;
use crate::error::{Error, Result};

/// Images of one shape with their labels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Images {
    shape: [usize; 3],
    pixels: Vec<u8>,
    labels: Vec<u32>,
    classes: Vec<String>,
    flip: bool,
}

impl Images {
    /// Images of `shape` = `[channels, height, width]`, one after the other in `pixels`, row-major. With no classes
    /// every label is 0, the null class. `origin` names the file in errors.
    ///
    /// # Errors
    /// [`Error::File`] where there is no image, the numbers of pixels and labels do not agree, or a label has no class.
    pub fn new(
        shape: [usize; 3],
        pixels: Vec<u8>,
        labels: Vec<u32>,
        classes: Vec<String>,
        origin: &Path,
    ) -> Result<Self> {
        let size = shape.iter().try_fold(1usize, |n, &side| n.checked_mul(side)).filter(|&n| n > 0);
        let Some(size) = size else {
            return Err(Error::file(origin, format!("an image of shape {shape:?} is empty or too large")));
        };
        if labels.is_empty() || size.checked_mul(labels.len()) != Some(pixels.len()) {
            let counts = format!("{} bytes of pixels for {} images of {size} bytes", pixels.len(), labels.len());
            return Err(Error::file(origin, format!("has {counts}: the counts must agree and not be 0")));
        }
        let legal = u32::try_from(classes.len().max(1)).unwrap_or(u32::MAX);
        if let Some((i, label)) = labels.iter().enumerate().find(|(_, label)| **label >= legal) {
            let problem = format!("label {label} of image {i} is beyond the {} classes", classes.len());
            return Err(Error::file(origin, problem));
        }
        Ok(Self { shape, pixels, labels, classes, flip: false })
    }

    /// The same images; [`Source::draw`] mirrors half of its samples left to right if `flip` is set.
    #[must_use]
    pub fn with_flip(self, flip: bool) -> Self {
        Self { flip, ..self }
    }

    /// The number of images, never 0.
    #[expect(clippy::len_without_is_empty, reason = "never empty by construction")]
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Pixels, row-major, and label of image `index`; `None` beyond the last one.
    pub fn get(&self, index: usize) -> Option<(&[u8], u32)> {
        let label = *self.labels.get(index)?;
        let size = self.elements();
        Some((&self.pixels[index * size..][..size], label))
    }

    /// Writes image `index` into `out`, row-major in `[-1, 1]`, and returns its label; `None` beyond the last one.
    pub fn read(&self, index: usize, out: &mut [f32]) -> Option<u32> {
        let (pixels, label) = self.get(index)?;
        for (slot, &pixel) in out.iter_mut().zip(pixels) {
            *slot = to_unit(pixel);
        }
        Some(label)
    }

    /// Numbers in one image.
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// Labels by image.
    pub fn labels(&self) -> &[u32] {
        &self.labels
    }
}

impl Source for Images {
    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn classes(&self) -> &[String] {
        &self.classes
    }

    fn range(&self) -> [f32; 2] {
        [-1.0, 1.0]
    }

    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an index in 0 .. len, truncated")]
    fn draw(&self, random: &mut dyn FnMut() -> f64, out: &mut [f32]) -> u32 {
        let index = ((random() * self.len() as f64) as usize).min(self.len() - 1);
        let label = self.read(index, out).unwrap_or(0);
        if self.flip && random() < 0.5 {
            out.chunks_mut(self.shape[2]).for_each(<[f32]>::reverse);
        }
        label
    }
}

/// `p / 127.5 - 1`: 0 … 255 onto `[-1, 1]`.
fn to_unit(pixel: u8) -> f32 {
    f32::from(pixel) / 127.5 - 1.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn two_images() -> Images {
        let classes = vec!["a".to_owned(), "b".to_owned()];
        let pixels = vec![0, 255, 51, 0, 1, 2, 3, 4];
        Images::new([1, 2, 2], pixels, vec![1, 0], classes, Path::new("test")).unwrap()
    }

    #[test]
    fn pixels_map_onto_the_range() {
        let mut out = [9.0; 4];
        assert_eq!(two_images().read(0, &mut out), Some(1));
        assert_eq!(out, [-1.0, 1.0, 51.0 / 127.5 - 1.0, -1.0]);
        assert_eq!(two_images().read(2, &mut out), None);
    }

    #[test]
    fn draw_picks_by_the_first_number_and_mirrors_by_the_second() {
        let drawn = |flip: bool, numbers: [f64; 2]| {
            let mut numbers = numbers.into_iter();
            let mut out = [0.0; 4];
            let label = two_images().with_flip(flip).draw(&mut || numbers.next().unwrap(), &mut out);
            (label, out)
        };
        let (label, plain) = drawn(false, [0.2, 0.9]);
        assert_eq!((label, plain[1]), (1, 1.0));
        assert_eq!(drawn(true, [0.2, 0.9]).1, plain);
        assert_eq!(drawn(true, [0.2, 0.1]).1, [plain[1], plain[0], plain[3], plain[2]]);
        assert_eq!(drawn(false, [1.0 - 1e-17, 0.9]).0, 0);
    }

    #[test]
    fn counts_and_labels_must_agree() {
        let new = |pixels: usize, labels: Vec<u32>, classes: usize| {
            Images::new([1, 1, 2], vec![0; pixels], labels, vec!["c".to_owned(); classes], Path::new("test"))
        };
        assert!(new(4, vec![0, 1], 2).is_ok() && new(4, vec![0, 0], 0).is_ok());
        assert!(new(3, vec![0, 1], 2).is_err() && new(0, vec![], 2).is_err());
        assert!(new(4, vec![0, 2], 2).is_err() && new(4, vec![0, 1], 0).is_err());
        assert!(Images::new([usize::MAX, 2, 2], vec![], vec![0], vec![], Path::new("test")).is_err());
    }
}
