//! Kernel distance between two sets of features (KID: Bińkowski, Sutherland, Arbel, Gretton, "Demystifying MMD GANs",
//! arXiv 1801.01401): the unbiased estimate of `MMD²` with the kernel `k(x, y) = (x·y / d + 1)³`, mean over subsets.
//!
//! `MMD²_u = Σ_{i≠j} k(xᵢ, xⱼ) / m(m-1) + Σ_{i≠j} k(yᵢ, yⱼ) / m(m-1) - 2 Σ_{i,j} k(xᵢ, yⱼ) / m²`, all in f64. Unlike a
//! Fréchet distance its expectation does not depend on the number of samples: of one distribution with itself it is 0,
//! and an estimate may be below that.

use nalgebra::DMatrix;

use crate::error::{Error, Result};
use crate::flow::noise::{self, Stream};
use crate::model::Workers;

/// Subsets that the estimate is the mean of.
pub const SUBSETS: u32 = 50;
/// Most rows of a subset.
pub const SUBSET_ROWS: usize = 500;
/// Numbers the subsets' streams from here on, beside those of the floors' draws.
const FIRST_STREAM: u32 = 1 << 16;

/// An estimate and how far its subsets are apart.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Kid {
    /// Mean of `MMD²_u` over the subsets.
    pub mean: f64,
    /// Standard deviation over the subsets.
    pub deviation: f64,
}

/// The distance between rows of `width` features in `a` and in `b`, over subsets that are a function of `seed`.
///
/// # Errors
/// [`Error::Compute`] where a set has fewer than two rows.
pub fn distance(a: &[f32], b: &[f32], width: usize, seed: u64, workers: &Workers) -> Result<Kid> {
    let rows = SUBSET_ROWS.min(a.len() / width).min(b.len() / width);
    if rows < 2 {
        return Err(Error::Compute(format!("a kernel distance needs at least 2 rows of features, not {rows}")));
    }
    let all = workers.map(0..SUBSETS, |subset| {
        let mut stream = Stream::new(seed, FIRST_STREAM + subset, noise::stream::EVALUATION);
        let [a, b] = [a, b].map(|set| chosen(set, width, rows, &mut stream));
        Ok(squared_discrepancy(&a, &b))
    })?;
    let mean = all.iter().sum::<f64>() / all.len() as f64;
    let variance = all.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / (all.len() as f64 - 1.0);
    Ok(Kid { mean, deviation: variance.sqrt() })
}

/// `rows` different rows of a set, as columns.
fn chosen(set: &[f32], width: usize, rows: usize, stream: &mut Stream) -> DMatrix<f64> {
    let mut order: Vec<usize> = (0..set.len() / width).collect();
    for place in 0..rows {
        let left = u32::try_from(order.len() - place).unwrap_or(u32::MAX);
        order.swap(place, place + stream.below(left) as usize);
    }
    let numbers = order[..rows].iter().flat_map(|row| &set[row * width..][..width]).map(|&number| f64::from(number));
    DMatrix::from_iterator(width, rows, numbers)
}

/// `MMD²_u` of as many columns in `a` as in `b`.
fn squared_discrepancy(a: &DMatrix<f64>, b: &DMatrix<f64>) -> f64 {
    let (rows, width) = (a.ncols() as f64, a.nrows() as f64);
    let kernel = |x: &DMatrix<f64>, y: &DMatrix<f64>| (x.transpose() * y).map(|dot| (dot / width + 1.0).powi(3));
    let within = |x: &DMatrix<f64>| {
        let all = kernel(x, x);
        (all.sum() - all.trace()) / (rows * (rows - 1.0))
    };
    within(a) + within(b) - 2.0 * kernel(a, b).sum() / (rows * rows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::noise::normal;

    /// By the sums of the definition.
    #[test]
    fn two_rows_have_the_estimate_of_the_definition() {
        let (a, b) = (DMatrix::from_row_slice(1, 2, &[1.0, 2.0]), DMatrix::from_row_slice(1, 2, &[0.0, 3.0]));
        let k = |x: f64, y: f64| (x * y + 1.0).powi(3);
        let across = k(1.0, 0.0) + k(1.0, 3.0) + k(2.0, 0.0) + k(2.0, 3.0);
        let expected = k(1.0, 2.0) + k(0.0, 3.0) - across / 2.0;
        assert!((squared_discrepancy(&a, &b) - expected).abs() < 1e-12);
    }

    #[test]
    fn one_distribution_is_not_apart_from_itself_whatever_the_number_of_rows() {
        let workers = Workers::new(2).unwrap();
        for rows in [60, 400] {
            let (a, b) = (normal(1, 0, 8 * rows), normal(2, 0, 8 * rows));
            let same = distance(&a, &b, 8, 3, &workers).unwrap();
            assert!(same.mean.abs() < 0.12, "{same:?}");
            let shifted: Vec<f32> = b.iter().map(|v| v + 0.5).collect();
            let apart = distance(&a, &shifted, 8, 3, &workers).unwrap();
            assert!(apart.mean > 0.3 && apart.mean > 3.0 * same.mean.abs(), "{apart:?}");
        }
        assert!(distance(&[1.0; 8], &[1.0; 80], 8, 3, &workers).is_err());
    }

    #[test]
    fn the_number_of_threads_does_not_matter() {
        let (a, b) = (normal(1, 0, 8 * 700), normal(2, 0, 8 * 900));
        let on = |threads| distance(&a, &b, 8, 3, &Workers::new(threads).unwrap()).unwrap();
        assert_eq!(on(1), on(3));
        assert!(on(1).deviation > 0.0);
    }
}
