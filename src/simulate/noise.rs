//! How much longer or shorter a forward takes than its cost says.

use std::f64::consts::TAU;

use crate::load::Random;

/// Log-normal factors with a mean of 1: `exp(σ z − σ² / 2)` with `z` standard normal.
#[derive(Debug)]
pub(super) struct Noise {
    sigma: f64,
    random: Random,
}

impl Noise {
    /// Factors whose logarithm has the standard deviation `sigma`; 0 for none at all.
    pub(super) fn new(sigma: f64, random: Random) -> Self {
        Self { sigma, random }
    }

    /// The next factor.
    pub(super) fn factor(&mut self) -> f64 {
        if self.sigma == 0.0 {
            return 1.0;
        }
        // Box and Muller 1958; libm's functions are the same on every platform.
        let radius = (-2.0 * libm::log(self.random.uniform())).sqrt();
        let z = radius * libm::cos(TAU * self.random.uniform());
        libm::exp(self.sigma * z - 0.5 * self.sigma * self.sigma)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn factors_have_the_mean_and_the_spread_that_they_should() {
        let mut noise = Noise::new(0.3, Random::new(1, 0));
        let factors: Vec<f64> = (0..40_000).map(|_| noise.factor()).collect();
        let mean = |values: &dyn Fn(f64) -> f64| factors.iter().map(|&f| values(f)).sum::<f64>() / 4e4;
        let log = mean(&f64::ln);
        assert!((mean(&|f| f) - 1.0).abs() < 0.01);
        assert!((mean(&|f| (f.ln() - log).powi(2)).sqrt() - 0.3).abs() < 0.01);
        assert_eq!(Noise::new(0.0, Random::new(1, 0)).factor(), 1.0);
    }
}
