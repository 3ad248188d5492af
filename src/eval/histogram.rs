//! Kullback–Leibler divergence of points of the plane from a known density, by a histogram.
//!
//! `[-1, 1]²` is divided into `M × M` bins. With `p_b` the exact mass of bin `b` (density at its centre times its
//! area, normalised; exact where the density is constant in every bin) and `n_b` of all `n` points in it,
//!
//! `KL(p ‖ q̂) = Σ_b p_b ln(p_b / q̂_b)`,  `q̂_b = max(n_b, ½) / n`.
//!
//! A bin that has mass but no point would make the sum infinite; it counts as half a point, and how often that
//! happened is told. Points outside the mass count in `n` alone. For `n` exact samples and `K` bins with mass the
//! expectation is `(K - 1) / 2n` to first order ([`first_order_floor`]): a floor that no sampler can pass.

use crate::data::Checkerboard;

/// What an empty bin counts as, in points.
const EMPTY_BIN: f64 = 0.5;

/// A divergence, and how many bins it had to guess.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Divergence {
    /// `KL(p ‖ q̂)` in nats.
    pub kl: f64,
    /// Bins with mass but without points.
    pub empty: usize,
}

/// `KL(p ‖ q̂)` of `points` `[x₀, y₀, x₁, y₁, …]` with `bins` bins on each side.
pub fn divergence(points: &[f32], bins: usize, density: impl Fn(f64, f64) -> f64) -> Divergence {
    let counts = counts(points, bins);
    let masses = masses(bins, density);
    let all = (points.len() / 2) as f64;
    let filled = || masses.iter().zip(&counts).filter(|(mass, _)| **mass > 0.0);
    let kl = filled().map(|(mass, &count)| mass * (mass * all / f64::from(count).max(EMPTY_BIN)).ln()).sum();
    Divergence { kl, empty: filled().filter(|(_, count)| **count == 0).count() }
}

/// `(K - 1) / 2n`: the expected divergence of `samples` exact samples, to first order in `1 / n`.
pub fn first_order_floor(bins: usize, samples: usize, density: impl Fn(f64, f64) -> f64) -> f64 {
    let with_mass = masses(bins, density).iter().filter(|mass| **mass > 0.0).count();
    (with_mass as f64 - 1.0) / (2.0 * samples as f64)
}

/// The fraction of `points` that lie in no filled square of the checkerboard.
pub fn outside(points: &[f32]) -> f64 {
    let inside = |point: &&[f32]| Checkerboard::inside(f64::from(point[0]), f64::from(point[1]));
    let all = points.len() / 2;
    (all - points.chunks_exact(2).filter(inside).count()) as f64 / all as f64
}

/// Points in each bin, row by row.
fn counts(points: &[f32], bins: usize) -> Vec<u32> {
    let mut counts = vec![0; bins * bins];
    for point in points.chunks_exact(2) {
        if let (Some(column), Some(row)) = (bin(point[0], bins), bin(point[1], bins)) {
            counts[row * bins + column] += 1;
        }
    }
    counts
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a number in 0 .. bins, truncated")]
fn bin(value: f32, bins: usize) -> Option<usize> {
    let place = (f64::from(value) + 1.0) / 2.0 * bins as f64;
    (0.0..bins as f64).contains(&place).then_some(place as usize)
}

/// The exact mass of each bin, row by row; they sum to 1.
fn masses(bins: usize, density: impl Fn(f64, f64) -> f64) -> Vec<f64> {
    let centre = |i: usize| (2 * i + 1) as f64 / bins as f64 - 1.0;
    let raw: Vec<f64> = (0..bins * bins).map(|b| density(centre(b % bins), centre(b / bins))).collect();
    let total: f64 = raw.iter().sum();
    raw.into_iter().map(|mass| mass / total).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The four middles of a 2 × 2 board, each as often as said.
    fn points(counts: [usize; 4]) -> Vec<f32> {
        let middles = [[-0.5, -0.5], [0.5, -0.5], [-0.5, 0.5], [0.5, 0.5]];
        counts.iter().zip(middles).flat_map(|(&count, middle)| middle.repeat(count)).collect()
    }

    #[test]
    fn a_known_histogram_has_the_divergence_of_its_definition() {
        let uniform = |_: f64, _: f64| 3.0;
        assert_eq!(divergence(&points([5; 4]), 2, uniform), Divergence { kl: 0.0, empty: 0 });
        let expected: f64 = [0.1f64, 0.2, 0.3, 0.4].iter().map(|q| 0.25 * (0.25 / q).ln()).sum();
        let found = divergence(&points([1, 2, 3, 4]), 2, uniform);
        assert!((found.kl - expected).abs() < 1e-15 && found.empty == 0);
    }

    #[test]
    fn mass_decides_which_bins_count_and_points_elsewhere_are_lost() {
        let diagonal = |x: f64, y: f64| if x * y > 0.0 { 0.5 } else { 0.0 };
        let found = divergence(&points([3, 1, 1, 5]), 2, diagonal);
        let expected = 0.5 * (0.5f64 / 0.3).ln() + 0.5 * (0.5f64 / 0.5).ln();
        assert!((found.kl - expected).abs() < 1e-15);
        let beyond = [points([3, 1, 1, 5]), vec![1.0, 0.0, -7.0, f32::NAN]].concat();
        assert!((divergence(&beyond, 2, diagonal).kl - expected - (12f64 / 10.0).ln()).abs() < 1e-14);
    }

    #[test]
    fn an_empty_bin_counts_as_half_a_point() {
        let found = divergence(&points([0, 2, 4, 4]), 2, |_, _| 1.0);
        let expected: f64 = [0.05f64, 0.2, 0.4, 0.4].iter().map(|q| 0.25 * (0.25 / q).ln()).sum();
        assert!((found.kl - expected).abs() < 1e-15);
        assert_eq!(found.empty, 1);
    }

    #[test]
    fn the_checkerboard_fills_half_of_the_bins() {
        for (bins, filled) in [(48usize, 1152), (64, 2048)] {
            let floor = first_order_floor(bins, 64_000, Checkerboard::density);
            assert!((floor - f64::from(filled - 1) / 128_000.0).abs() < 1e-15);
        }
    }

    #[test]
    fn points_outside_the_squares_are_counted() {
        assert_eq!(outside(&[-0.75, -0.75, -0.25, -0.75, 3.0, 0.0, 0.75, 0.75]), 0.5);
    }
}
