//! Sliced Wasserstein distance between two sets of points of the plane (Rabin, Peyré, Delon, Bernot, "Wasserstein
//! barycenter and its application to texture mixing", SSVM 2011).
//!
//! `SW₂² = mean over directions θ of W₂²(θ·X, θ·Y)`; in one dimension the optimal plan pairs the sorted numbers. The
//! directions are `θ_k = π (k + ½) / D`, `k = 0 … D - 1`: evenly spaced over the half circle, which is all of them.

use std::f64::consts::PI;

use crate::error::{Error, Result};
use crate::model::Workers;

/// A set of points, projected and sorted once, that others are measured against.
pub struct Sliced {
    /// Sorted projections, direction by direction.
    sorted: Vec<Vec<f32>>,
}

impl Sliced {
    /// The points `[x₀, y₀, x₁, y₁, …]` along `directions` directions.
    ///
    /// # Errors
    /// None of its own.
    pub fn new(points: &[f32], directions: usize, workers: &Workers) -> Result<Self> {
        let sorted = workers.map(0..directions, |k| Ok(projection(points, angle(k, directions))))?;
        Ok(Self { sorted })
    }

    /// `SW₂` to as many `points`.
    ///
    /// # Errors
    /// [`Error::Compute`] where the numbers of points differ.
    pub fn distance(&self, points: &[f32], workers: &Workers) -> Result<f64> {
        let directions = self.sorted.len();
        let squares = workers.map(0..directions, |k| {
            let (own, other) = (&self.sorted[k], projection(points, angle(k, directions)));
            if own.len() != other.len() {
                let problem = format!("{} points cannot be paired with {}", other.len(), own.len());
                return Err(Error::Compute(problem));
            }
            let sum: f64 = own.iter().zip(&other).map(|(a, b)| f64::from(a - b).powi(2)).sum();
            Ok(sum / own.len() as f64)
        })?;
        Ok((squares.iter().sum::<f64>() / directions as f64).sqrt())
    }
}

fn angle(k: usize, directions: usize) -> f64 {
    PI * (k as f64 + 0.5) / directions as f64
}

/// `x cos θ + y sin θ` of all points, sorted.
#[expect(clippy::cast_possible_truncation, reason = "projections of f32 points are kept in f32")]
fn projection(points: &[f32], angle: f64) -> Vec<f32> {
    let (sin, cos) = angle.sin_cos();
    let along = |p: &[f32]| (f64::from(p[0]) * cos + f64::from(p[1]) * sin) as f32;
    let mut numbers: Vec<f32> = points.chunks_exact(2).map(along).collect();
    numbers.sort_unstable_by(f32::total_cmp);
    numbers
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::noise::normal;

    fn distance(a: &[f32], b: &[f32]) -> Result<f64> {
        let workers = Workers::new(2)?;
        Sliced::new(a, 64, &workers)?.distance(b, &workers)
    }

    /// A shift by `d` moves every quantile by `θ·d`, so `SW₂ = |d| / √2`, whatever the points and their order.
    #[test]
    fn a_shift_is_its_length_over_the_root_of_two() {
        let points = normal(1, 0, 400);
        let mut shifted: Vec<f32> = points.chunks(2).rev().flat_map(|p| [p[0] + 3.0, p[1] - 4.0]).collect();
        assert!((distance(&points, &shifted).unwrap() - 5.0 / 2f64.sqrt()).abs() < 1e-5);
        shifted.truncate(398);
        assert!(distance(&points, &shifted).is_err());
    }

    /// `W₂` between `N(0, 1)` and `N(0, c²)` is `|c - 1|` along every direction.
    #[test]
    fn wider_gaussians_are_apart_by_the_difference_of_their_deviations() {
        let (a, b) = (normal(2, 0, 80_000), normal(2, 1, 80_000));
        let wide: Vec<f32> = b.iter().map(|v| v * 1.5).collect();
        assert!((distance(&a, &wide).unwrap() - 0.5).abs() < 0.01);
        assert!(distance(&a, &b).unwrap() < 0.02);
        assert_eq!(distance(&a, &a).unwrap(), 0.0);
    }
}
