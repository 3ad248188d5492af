//! Sinusoids of coordinates whose gradient is wanted.

use candle_core::{Result, Shape, bail};

use super::buffer;
use super::op::{Kernel, View};

/// `(B, d)` → `(B, 2nd)`: for each coordinate `cos ω₁x … cos ωₙx, sin ω₁x … sin ωₙx`.
pub(in crate::model) struct Sinusoid {
    /// `ω`, rad per unit.
    pub(in crate::model) frequencies: Vec<f32>,
}

impl Kernel<1> for Sinusoid {
    const NAME: &'static str = "sinusoid";

    fn forward(&self, [x]: [View<'_>; 1]) -> Result<(Vec<f32>, Shape)> {
        let &[rows, features] = x.dims else { bail!("sinusoids are of points (B, d), not of {:?}", x.dims) };
        let count = self.frequencies.len();
        let mut out = buffer::take(2 * count * x.data.len());
        for (out, x) in out.chunks_exact_mut((2 * count).max(1)).zip(x.data) {
            let (cosines, sines) = out.split_at_mut(count);
            for ((cosine, sine), omega) in cosines.iter_mut().zip(sines).zip(&self.frequencies) {
                (*sine, *cosine) = (omega * x).sin_cos();
            }
        }
        Ok((out, (rows, 2 * count * features).into()))
    }

    fn backward(&self, [x]: [View<'_>; 1], result: &[f32], grad: &[f32], _: [bool; 1]) -> [Option<Vec<f32>>; 1] {
        let count = self.frequencies.len();
        let mut dx = buffer::zeros(x.data.len());
        let rows = result.chunks_exact((2 * count).max(1)).zip(grad.chunks_exact((2 * count).max(1)));
        for (dx, (result, grad)) in dx.iter_mut().zip(rows) {
            let ((cosines, sines), (of_cosines, of_sines)) = (result.split_at(count), grad.split_at(count));
            let waves = cosines.iter().zip(sines).zip(of_cosines.iter().zip(of_sines));
            *dx = waves.zip(&self.frequencies).map(|(((c, s), (gc, gs)), omega)| omega * (gs * c - gc * s)).sum();
        }
        [Some(dx)]
    }
}
