//! Noise, version 1: a counter-based generator, the same on every device, platform and batch.
//!
//! Philox4x32-10 (Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011) keyed by a
//! 64-bit seed. A counter of four 32-bit words addresses each block of four outputs directly, so there is no state to
//! carry: number `j` of image `i` is computed from `(seed, i, j)` alone. Normals by Box and Muller in `f64` with
//! `libm`, whose results do not depend on the platform's mathematics library.
//!
//! **Algorithm, version 1** (never changed; another algorithm gets another number). For normals `4k … 4k+3` of image
//! `i` under `seed`: `w = philox4x32_10(counter = [k, 0, i, stream], key = [seed mod 2³², seed div 2³²])`,
//! `uⱼ = (wⱼ + ½) 2⁻³²`; then `r = sqrt(-2 ln u₀)` gives `r cos(2π u₁)`, `r sin(2π u₁)`, and likewise `u₂, u₃`;
//! each is rounded to `f32`. Sampling uses stream 0; [`stream`] lists the others. Noise that a sampler draws on its way
//! has the step's place in the grid as the counter's second word instead of 0.

use std::f64::consts::TAU;

use crate::domain::{NoiseKey, Renoising};

/// Version of the algorithm, printed in receipts.
pub const VERSION: u32 = 1;

/// Who draws from which stream: numbers of different streams are independent.
pub mod stream {
    /// Initial states of samples; part of the algorithm.
    pub const SAMPLING: u32 = 0;
    /// Initial weights.
    pub const WEIGHTS: u32 = 1;
    /// Rows of training steps.
    pub const TRAINING: u32 = 2;
    /// Exact samples and directions of evaluations.
    pub const EVALUATION: u32 = 3;
    /// Training of the classifier that evaluations use.
    pub const CLASSIFIER: u32 = 4;
    /// Fresh noise of gamma-sampling; part of the algorithm.
    pub const RENOISING: u32 = 5;
}

/// Standard normal noise of image `index` under `seed`: `n` numbers, the first ones of an endless sequence.
pub fn normal(seed: u64, index: u32, n: usize) -> Vec<f32> {
    let mut out = vec![0.0; n];
    Stream::new(seed, index, stream::SAMPLING).fill_normal(&mut out);
    out
}

/// Where image `index` under `seed` begins: [`normal`] noise with standard deviation `scale`.
pub fn initial(seed: u64, index: u32, n: usize, scale: f32) -> Vec<f32> {
    let mut state = normal(seed, index, n);
    // Tensors are scaled by `scale * x + 0`, which turns -0 into 0; so it is here, to the bit.
    state.iter_mut().for_each(|value| *value = *value * scale + 0.0);
    state
}

/// Where an image begins that goes on from `data` at `time`: `(1 - time) scale z + time data`, where `z` is the image's
/// [`normal`] noise.
pub fn noised(data: &[f32], time: f64, key: NoiseKey, scale: f32) -> Vec<f32> {
    mixed(data, normal(key.seed, key.index, data.len()), [time, (1.0 - time) * f64::from(scale)])
}

/// Fresh standard normal noise of the step `step` of an image: `n` numbers.
pub fn fresh(key: NoiseKey, step: u32, n: usize) -> Vec<f32> {
    let mut out = vec![0.0; n];
    let mut stream = Stream::new(key.seed, key.index, stream::RENOISING);
    stream.counter[1] = step;
    stream.fill_normal(&mut out);
    out
}

/// The state that follows a jump to `landed` by [`Rule::Renoise`](crate::domain::Rule::Renoise).
pub fn renoised(landed: &[f32], back: Renoising, key: NoiseKey, scale: f32) -> Vec<f32> {
    mixed(landed, fresh(key, back.step, landed.len()), [back.kept, back.fresh * f64::from(scale)])
}

/// `a x + b z`, rounded as tensors are.
#[expect(clippy::cast_possible_truncation, reason = "states are f32")]
fn mixed(x: &[f32], mut z: Vec<f32>, [a, b]: [f64; 2]) -> Vec<f32> {
    let (a, b) = (a as f32, b as f32);
    z.iter_mut().zip(x).for_each(|(z, x)| *z = (x * a + 0.0) + (*z * b + 0.0));
    z
}

/// An endless sequence of random numbers, a pure function of `(seed, index, stream)`.
#[derive(Debug, Clone)]
pub struct Stream {
    key: [u32; 2],
    counter: [u32; 4],
    block: [u32; 4],
    used: usize,
}

impl Stream {
    /// The sequence `stream` of item `index` under `seed`.
    #[expect(clippy::cast_possible_truncation, reason = "the seed is split into its two halves")]
    pub fn new(seed: u64, index: u32, stream: u32) -> Self {
        let key = [seed as u32, (seed >> 32) as u32];
        Self { key, counter: [0, 0, index, stream], block: [0; 4], used: 4 }
    }

    /// The next 32 random bits.
    pub fn next_u32(&mut self) -> u32 {
        if self.used == 4 {
            self.block = self.next_block();
            self.used = 0;
        }
        self.used += 1;
        self.block[self.used - 1]
    }

    /// The next uniform number in the open interval (0, 1).
    pub fn uniform(&mut self) -> f64 {
        unit(self.next_u32())
    }

    /// A uniform integer in `0 .. bound` (0 for a bound of 0), by multiplication: the bias is below `bound / 2³²`.
    pub fn below(&mut self, bound: u32) -> u32 {
        ((u64::from(self.next_u32()) * u64::from(bound)) >> 32) as u32
    }

    /// Fills `out` with standard normals, from the next whole block on.
    pub fn fill_normal(&mut self, out: &mut [f32]) {
        self.used = 4;
        for chunk in out.chunks_mut(4) {
            let [a, b, c, d] = self.next_block();
            let (n0, n1) = box_muller(unit(a), unit(b));
            let (n2, n3) = box_muller(unit(c), unit(d));
            for (slot, value) in chunk.iter_mut().zip([n0, n1, n2, n3]) {
                *slot = value;
            }
        }
    }

    fn next_block(&mut self) -> [u32; 4] {
        let block = philox4x32_10(self.counter, self.key);
        let (low, carry) = self.counter[0].overflowing_add(1);
        self.counter[0] = low;
        self.counter[1] = self.counter[1].wrapping_add(u32::from(carry));
        block
    }
}

fn unit(word: u32) -> f64 {
    (f64::from(word) + 0.5) / 4_294_967_296.0
}

#[expect(clippy::cast_possible_truncation, reason = "rounded to f32 as documented")]
fn box_muller(u: f64, v: f64) -> (f32, f32) {
    let radius = libm::sqrt(-2.0 * libm::log(u));
    let (sin, cos) = libm::sincos(TAU * v);
    ((radius * cos) as f32, (radius * sin) as f32)
}

#[expect(clippy::cast_possible_truncation, reason = "a 64-bit product is split into its two halves")]
fn philox4x32_10(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for _ in 0..10 {
        let a = u64::from(counter[0]) * 0xD251_1F53;
        let b = u64::from(counter[2]) * 0xCD9E_8D57;
        counter = [(b >> 32) as u32 ^ counter[1] ^ key[0], b as u32, (a >> 32) as u32 ^ counter[3] ^ key[1], a as u32];
        key = [key[0].wrapping_add(0x9E37_79B9), key[1].wrapping_add(0xBB67_AE85)];
    }
    counter
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The known answers published with the generator (Random123, `kat_vectors`).
    #[test]
    fn philox_gives_the_published_answers() {
        let ones = u32::MAX;
        let cases = [
            ([0; 4], [0; 2], [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]),
            ([ones; 4], [ones; 2], [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]),
            (
                [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344],
                [0xa409_3822, 0x299f_31d0],
                [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1],
            ),
        ];
        for (counter, key, expected) in cases {
            assert_eq!(philox4x32_10(counter, key), expected);
        }
    }

    /// Version 1 of the algorithm, computed independently in Python in double precision.
    #[test]
    fn normals_give_the_known_answer() {
        assert_eq!(normal(7, 3, 4), [0.728_884, 0.717_820_35, -1.543_246, -1.117_998_5]);
    }

    #[test]
    fn noise_is_a_prefix_and_depends_on_seed_and_index() {
        let long = normal(1, 2, 103);
        assert_eq!(normal(1, 2, 17), long[..17]);
        assert_ne!(normal(1, 3, 17), long[..17]);
        assert_ne!(normal(2, 2, 17), long[..17]);
        assert_ne!(normal(1 << 32, 2, 17), normal(0, 2, 17));
    }

    #[test]
    fn every_step_has_noise_of_its_own() {
        let key = NoiseKey { seed: 1, index: 2 };
        let first = fresh(key, 0, 9);
        assert_eq!(fresh(key, 0, 5), first[..5]);
        let others = [
            fresh(key, 1, 9),
            fresh(NoiseKey { index: 3, ..key }, 0, 9),
            fresh(NoiseKey { seed: 2, ..key }, 0, 9),
            normal(1, 2, 9),
        ];
        assert!(others.iter().all(|other| *other != first));
    }

    #[test]
    fn data_is_left_and_noise_is_added_as_the_interpolant_says() {
        let (key, data) = (NoiseKey { seed: 1, index: 2 }, [0.5f32, -1.0, 0.0]);
        assert_eq!(noised(&data, 1.0, key, 2.0), data);
        assert_eq!(noised(&data, 0.0, key, 2.0), initial(1, 2, 3, 2.0));
        let z = normal(1, 2, 3);
        for ((state, x), z) in noised(&data, 0.25, key, 2.0).into_iter().zip(data).zip(z) {
            assert!((state - (0.25 * x + 1.5 * z)).abs() < 1e-6);
        }
    }

    #[test]
    fn moments_are_those_of_a_normal() {
        let n = 200_000;
        let x = normal(42, 0, n);
        let mean_of = |f: fn(f64) -> f64| x.iter().map(|&v| f(f64::from(v))).sum::<f64>() / n as f64;
        assert!(mean_of(|v| v).abs() < 0.01);
        assert!((mean_of(|v| v * v) - 1.0).abs() < 0.015);
        assert!((mean_of(|v| v * v * v * v) - 3.0).abs() < 0.1);
    }

    #[test]
    fn integers_stay_below_their_bound() {
        let mut stream = Stream::new(5, 0, 1);
        let mut seen = [0u32; 7];
        (0..7000).for_each(|_| seen[stream.below(7) as usize] += 1);
        assert!(seen.iter().all(|&count| (850..1150).contains(&count)), "{seen:?}");
        assert_eq!(stream.below(0), 0);
    }
}
