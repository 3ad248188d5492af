//! The rows of a training step, each a pure function of `(seed, step, row)`.

use std::ops::Range;

use candle_core::{Device, Result, Tensor};

use super::pairs::Pairs;
use super::recipe::Recipe;
use crate::data::Source;
use crate::flow::Interpolant;
use crate::flow::noise::{self, Stream};

/// Rows of one micro-batch.
pub(super) struct Rows {
    /// Noise, `(B, …)`.
    pub x0: Tensor,
    /// Data, `(B, …)`.
    pub x1: Tensor,
    /// Start times, `(B,)`.
    pub s: Tensor,
    /// End times, `(B,)`.
    pub t: Tensor,
    /// Uniform numbers that an objective may want, `(B,)`.
    pub u: Tensor,
    /// Classes, u32 `(B,)`; the null class is the number of classes.
    pub labels: Tensor,
    /// Weights of the rows' losses, `(B,)`; all one where there are none.
    pub weight: Option<Tensor>,
    /// Whether `s = t` in every row.
    pub diagonal: bool,
}

impl Rows {
    /// The interpolant at times `(B,)`, `I_t = (1 - t) x₀ + t x₁`.
    pub(super) fn interpolant(&self, time: &Tensor) -> Result<Tensor> {
        &self.x0 + self.rate()?.broadcast_mul(&per_row(time, &self.x0)?)?
    }

    /// Its rate, `İ_t = x₁ - x₀`.
    pub(super) fn rate(&self) -> Result<Tensor> {
        &self.x1 - &self.x0
    }
}

/// Numbers of rows `(B,)` as `(B, 1, …)`, so that they broadcast over the rows of `like`.
pub(super) fn per_row(numbers: &Tensor, like: &Tensor) -> Result<Tensor> {
    let mut shape = vec![1; like.rank()];
    shape[0] = numbers.dim(0)?;
    numbers.reshape(shape)
}

/// What rows are drawn from.
pub(super) struct Draw<'a> {
    /// The data.
    pub source: &'a dyn Source,
    /// The distribution of times, on the interpolant's clock.
    pub pairs: Pairs,
    /// Whose clock it is, and how errors are weighed.
    pub interpolant: Interpolant,
    /// The run's seed.
    pub seed: u64,
    /// Rows of a whole step.
    pub batch: usize,
    /// Standard deviation of the noise.
    pub noise_scale: f32,
    /// Fraction of rows whose class is hidden.
    pub class_dropout: f64,
}

impl<'a> Draw<'a> {
    /// What `recipe` says about rows of `source` at times of `pairs`.
    pub(super) fn new(recipe: &Recipe, source: &'a dyn Source, pairs: Pairs) -> Self {
        let &Recipe { seed, batch, noise_scale, class_dropout, interpolant, .. } = recipe;
        Self { source, pairs, interpolant, seed, batch, noise_scale, class_dropout }
    }

    /// Rows `rows` of step `step`.
    #[expect(
        clippy::cast_possible_truncation,
        reason = "a batch has far fewer than 2³² rows; times are f32 in training"
    )]
    pub(super) fn rows(&self, step: u64, rows: Range<usize>, device: &Device) -> Result<Rows> {
        let (count, elements) = (rows.len(), self.source.shape().iter().product::<usize>());
        let (mut x0, mut x1) = (vec![0f32; count * elements], vec![0f32; count * elements]);
        let (mut s, mut t, mut u, mut weight) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let mut labels = Vec::with_capacity(count);
        let slots = x0.chunks_exact_mut(elements).zip(x1.chunks_exact_mut(elements));
        for (row, (noise, data)) in rows.zip(slots) {
            let mut stream = Stream::new(step_key(self.seed, step), row as u32, noise::stream::TRAINING);
            let label = self.source.draw(&mut || stream.uniform(), data);
            let hidden = stream.uniform() < self.class_dropout;
            labels.push(if hidden { self.source.classes().len() as u32 } else { label });
            let (start, end) = self.pairs.draw(row, self.batch, || stream.uniform());
            s.push(self.interpolant.to_linear(start) as f32);
            t.push(self.interpolant.to_linear(end) as f32);
            weight.push(self.interpolant.speed(end).powi(2) as f32);
            stream.fill_normal(noise);
            noise.iter_mut().for_each(|v| *v *= self.noise_scale);
            u.push(stream.uniform() as f32);
        }
        let shape: Vec<usize> = std::iter::once(count).chain(self.source.shape().iter().copied()).collect();
        let (diagonal, weighed) = (s == t, self.interpolant != Interpolant::Linear);
        Ok(Rows {
            x0: Tensor::from_vec(x0, shape.as_slice(), device)?,
            x1: Tensor::from_vec(x1, shape.as_slice(), device)?,
            s: Tensor::from_vec(s, count, device)?,
            t: Tensor::from_vec(t, count, device)?,
            u: Tensor::from_vec(u, count, device)?,
            weight: weighed.then(|| Tensor::from_vec(weight, count, device)).transpose()?,
            labels: Tensor::from_vec(labels, count, device)?,
            diagonal,
        })
    }
}

/// One key for each step of a run: multiples of an odd constant never meet.
fn step_key(seed: u64, step: u64) -> u64 {
    seed.wrapping_add(step.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::DataSource;
    use crate::data::Split;

    #[test]
    fn interpolants_change_the_clock_and_the_weight_of_the_same_rows() {
        let source = DataSource::Checkerboard {}.open(Split::Train).unwrap();
        let pairs = Pairs::Triangle { diagonal: 0.25, from_noise: 0.5 };
        let rows = |interpolant| {
            let source = source.as_ref();
            let draw = Draw { source, pairs, interpolant, seed: 3, batch: 16, noise_scale: 1.0, class_dropout: 0.0 };
            draw.rows(5, 0..16, &Device::Cpu).unwrap()
        };
        let numbers = |tensor: &Tensor| tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let (linear, other) = (rows(Interpolant::Linear), rows(Interpolant::Trigonometric));
        assert_eq!((numbers(&linear.x0), numbers(&linear.x1)), (numbers(&other.x0), numbers(&other.x1)));
        assert!(linear.weight.is_none());
        let weight = numbers(&other.weight.unwrap());
        let times = numbers(&linear.s).into_iter().zip(numbers(&linear.t)).map(|(s, t)| (f64::from(s), f64::from(t)));
        let converted = numbers(&other.s).into_iter().zip(numbers(&other.t)).zip(weight);
        for ((s, t), ((to_s, to_t), weight)) in times.zip(converted) {
            let clock = Interpolant::Trigonometric;
            let errors = [clock.to_linear(s) - f64::from(to_s), clock.to_linear(t) - f64::from(to_t)];
            assert!(errors.iter().all(|error| error.abs() < 1e-6), "{errors:?}");
            assert!((clock.speed(t).powi(2) - f64::from(weight)).abs() < 1e-5);
        }
    }
}
