//! Fréchet distance between Gaussians fitted to two sets of features (Dowson, Landau, 1982; as FID in arXiv
//! 1706.08500): `|μ₁ - μ₂|² + tr(Σ₁ + Σ₂ - 2 (Σ₁ Σ₂)^½)`, all in f64.

use nalgebra::{DMatrix, DVector, SymmetricEigen};

use crate::error::{Error, Result};

/// Mean and covariance of a set of features.
#[derive(Debug, Clone, PartialEq)]
pub struct Moments {
    mean: DVector<f64>,
    covariance: DMatrix<f64>,
}

impl Moments {
    /// The moments of rows of `width` numbers, one after the other in `features`; the covariance is the unbiased one.
    ///
    /// # Errors
    /// [`Error::Compute`] where there are fewer than two rows.
    pub fn of(features: &[f32], width: usize) -> Result<Self> {
        let rows = features.len() / width;
        if rows < 2 {
            return Err(Error::Compute(format!("a covariance needs at least 2 rows of features, not {rows}")));
        }
        let data = DMatrix::from_iterator(width, rows, features[..rows * width].iter().map(|&v| f64::from(v)));
        let mean = data.column_mean();
        let mut centred = data;
        centred.column_iter_mut().for_each(|mut column| column -= &mean);
        let covariance = &centred * centred.transpose() / (rows as f64 - 1.0);
        Ok(Self { mean, covariance })
    }

    /// The Fréchet distance to another Gaussian of the same width.
    pub fn distance(&self, other: &Self) -> f64 {
        let apart = (&self.mean - &other.mean).norm_squared();
        let traces = self.covariance.trace() + other.covariance.trace();
        apart + traces - 2.0 * trace_of_root(&self.covariance, &other.covariance)
    }
}

/// `tr (A B)^½` of covariances: the eigenvalues of `A B` are those of the symmetric `A^½ B A^½`.
fn trace_of_root(a: &DMatrix<f64>, b: &DMatrix<f64>) -> f64 {
    let root = root(a);
    let product = &root * b * &root;
    // The product is symmetric but for rounding; the decomposition reads one triangle only.
    let symmetric = (&product + product.transpose()) * 0.5;
    symmetric.symmetric_eigenvalues().iter().map(|v| v.max(0.0).sqrt()).sum()
}

/// The symmetric square root of a covariance; eigenvalues that rounding made negative count as 0.
fn root(matrix: &DMatrix<f64>) -> DMatrix<f64> {
    let SymmetricEigen { eigenvectors, eigenvalues } = SymmetricEigen::new(matrix.clone());
    let roots = DMatrix::from_diagonal(&eigenvalues.map(|v| v.max(0.0).sqrt()));
    &eigenvectors * roots * eigenvectors.transpose()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gaussian(mean: [f64; 2], covariance: [f64; 4]) -> Moments {
        Moments { mean: DVector::from_row_slice(&mean), covariance: DMatrix::from_row_slice(2, 2, &covariance) }
    }

    #[test]
    fn moments_are_those_of_the_definition() {
        let moments = Moments::of(&[1.0, 2.0, 3.0, 2.0, 5.0, 8.0], 2).unwrap();
        assert_eq!(moments, gaussian([3.0, 4.0], [4.0, 6.0, 6.0, 12.0]));
        assert!(Moments::of(&[1.0, 2.0], 2).is_err());
    }

    /// Commuting covariances: `|Δμ|² + Σ (σ₁ - σ₂)²`.
    #[test]
    fn diagonal_gaussians_have_the_distance_of_their_deviations() {
        let (a, b) = (gaussian([0.0, 1.0], [4.0, 0.0, 0.0, 9.0]), gaussian([3.0, 5.0], [1.0, 0.0, 0.0, 0.0]));
        assert!((a.distance(&b) - (25.0 + 1.0 + 9.0)).abs() < 1e-12);
        assert!(a.distance(&a).abs() < 1e-12);
    }

    /// Of 2 × 2 matrices, `tr √(AB) = √(tr AB + 2 √(det A det B))`, commuting or not.
    #[test]
    fn gaussians_that_do_not_commute_have_the_closed_form() {
        let (a, b) = (gaussian([0.0; 2], [2.0, 1.0, 1.0, 3.0]), gaussian([0.0; 2], [1.0, -0.5, -0.5, 0.5]));
        let product = (&a.covariance * &b.covariance).trace();
        let determinants = a.covariance.determinant() * b.covariance.determinant();
        let expected = 5.0 + 1.5 - 2.0 * (product + 2.0 * determinants.sqrt()).sqrt();
        assert!((a.distance(&b) - expected).abs() < 1e-12);
        assert!((b.distance(&a) - expected).abs() < 1e-12);
    }
}
