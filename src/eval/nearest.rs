//! Whether samples are copies: the distance of each to its nearest training image, beside that of test images.
//!
//! A generator that has learned a distribution makes images as far from the training set as new images are; one that
//! has learned its training set by heart makes nearer ones. Distances are root mean squares over pixels of 8 bits, to
//! the nearest of all training images of any class; all sums are exact integers.

use std::fmt::Write;

use serde::Serialize;

use crate::error::{Error, Result};
use crate::model::Workers;

/// Images that go through the training set together: their bytes stay in a core's cache.
const AT_ONCE: usize = 16;
/// The quantile of test images below which a sample is called suspiciously near.
const NEAR: f64 = 0.01;

/// How near samples are to training images, beside test images.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Memorisation {
    /// Samples that were looked up, and as many test images.
    pub samples: usize,
    /// Training images.
    pub training_images: usize,
    /// Median distance of a sample to its nearest training image, root mean square over pixels of 0 to 255.
    pub median: f64,
    /// The same of test images.
    pub test_median: f64,
    /// The first over the second: 1 for new images, 0 for copies.
    pub median_ratio: f64,
    /// The samples that are nearer than the nearest 1 % of test images, as a fraction: about 0.01 for new images.
    pub near: f64,
}

/// The nearest training image of an image.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Nearest {
    /// Its index.
    pub index: usize,
    /// Root mean square difference of a pixel.
    pub distance: f64,
}

/// The nearest of `training` of every image in `images`; all are of `size` bytes, one after the other.
///
/// # Errors
/// [`Error::Compute`] where there are no training images.
pub fn nearest(images: &[u8], training: &[u8], size: usize, workers: &Workers) -> Result<Vec<Nearest>> {
    if training.len() < size {
        return Err(Error::Compute("there are no training images to be near to".into()));
    }
    let found = workers.map(images.chunks(AT_ONCE * size), |chunk| {
        let mut best = vec![(u64::MAX, 0); chunk.len() / size];
        for (index, known) in training.chunks_exact(size).enumerate() {
            for (best, image) in best.iter_mut().zip(chunk.chunks_exact(size)) {
                let apart = squared(image, known);
                if apart < best.0 {
                    *best = (apart, index);
                }
            }
        }
        Ok(best)
    })?;
    let told = |(apart, index): (u64, usize)| Nearest { index, distance: (apart as f64 / size as f64).sqrt() };
    Ok(found.into_iter().flatten().map(told).collect())
}

/// Sum of squared differences; a row of pixels at a time keeps it in 32 bits, which is what makes it fast.
fn squared(a: &[u8], b: &[u8]) -> u64 {
    let row = |(a, b): (&[u8], &[u8])| -> u64 {
        let square = |(a, b): (&u8, &u8)| (i32::from(*a) - i32::from(*b)).pow(2);
        i64::from(a.iter().zip(b).map(square).sum::<i32>()).unsigned_abs()
    };
    a.chunks(1024).zip(b.chunks(1024)).map(row).sum()
}

impl Memorisation {
    /// The verdict on `samples` beside as many `test` images.
    pub fn new(samples: &[Nearest], test: &[Nearest], training_images: usize) -> Self {
        let [own, other] = [samples, test].map(sorted);
        let (median, test_median) = (quantile(&own, 0.5), quantile(&other, 0.5));
        let bound = quantile(&other, NEAR);
        let near = own.iter().filter(|distance| **distance < bound).count() as f64 / own.len().max(1) as f64;
        let median_ratio = median / test_median;
        Self { samples: own.len(), training_images, median, test_median, median_ratio, near }
    }

    /// A section of the report.
    pub(super) fn markdown(&self) -> String {
        let Self { samples, training_images, median, test_median, median_ratio, near } = self;
        let mut text = String::from("\n## Memorisation\n\n");
        // Writing to a string does not fail.
        let _ = write!(
            text,
            "Each of {samples} samples, and each of as many test images, beside its nearest of {training_images} \
             training images (root mean square over pixels of 0 to 255).\n\n\
             | | samples | test images |\n| --- | ---: | ---: |\n\
             | median distance | {median:.2} | {test_median:.2} |\n\
             | nearer than the nearest 1 % of test images | {:.2} % | 1 % |\n\n\
             The median ratio is {median_ratio:.3}: 1 for new images, 0 for copies.\n",
            100.0 * near
        );
        text
    }
}

fn sorted(all: &[Nearest]) -> Vec<f64> {
    let mut distances: Vec<f64> = all.iter().map(|nearest| nearest.distance).collect();
    distances.sort_unstable_by(f64::total_cmp);
    distances
}

/// The quantile of sorted numbers, linear between neighbours; 0 of none.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a place in the slice, truncated")]
fn quantile(sorted: &[f64], share: f64) -> f64 {
    let Some(last) = sorted.len().checked_sub(1) else { return 0.0 };
    let place = share * last as f64;
    let below = place as usize;
    let above = sorted[(below + 1).min(last)];
    sorted[below] + (place - below as f64) * (above - sorted[below])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::noise::{Stream, stream};

    fn images(seed: u64, count: usize) -> Vec<u8> {
        let mut random = Stream::new(seed, 0, stream::EVALUATION);
        (0..count * 16).map(|_| random.next_u32() as u8).collect()
    }

    #[test]
    fn the_nearest_is_found_with_its_distance() {
        let training = [images(1, 50), vec![200; 16]].concat();
        let found = nearest(&[vec![203; 16], training[16..32].to_vec()].concat(), &training, 16, &workers()).unwrap();
        assert_eq!(found, [Nearest { index: 50, distance: 3.0 }, Nearest { index: 1, distance: 0.0 }]);
        assert!(nearest(&[1; 16], &[], 16, &workers()).is_err());
    }

    #[test]
    fn sums_do_not_overflow() {
        let size = 1 << 20;
        assert_eq!(squared(&vec![255; size], &vec![0; size]), 255 * 255 * size as u64);
    }

    fn workers() -> Workers {
        Workers::new(2).unwrap()
    }

    #[test]
    fn copies_are_told_from_new_images() {
        let (training, test, fresh) = (images(1, 300), images(2, 200), images(3, 200));
        let look = |set: &[u8]| nearest(set, &training, 16, &workers()).unwrap();
        let new = Memorisation::new(&look(&fresh), &look(&test), 300);
        assert!((new.median_ratio - 1.0).abs() < 0.1 && new.near < 0.05, "{new:?}");
        let copied = Memorisation::new(&look(&training[..200 * 16]), &look(&test), 300);
        assert_eq!((copied.median_ratio, copied.near, copied.samples), (0.0, 1.0, 200));
        assert!(copied.markdown().contains("| 100.00 % | 1 % |"), "{}", copied.markdown());
    }

    #[test]
    fn quantiles_lie_between_neighbours() {
        assert_eq!((quantile(&[1.0, 2.0, 4.0], 0.5), quantile(&[1.0, 2.0, 4.0], 0.75)), (2.0, 3.0));
        assert_eq!((quantile(&[], 0.5), quantile(&[7.0], 0.99), quantile(&[1.0, 2.0], 1.0)), (0.0, 7.0, 2.0));
    }
}
