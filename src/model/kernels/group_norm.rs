//! Group norm of one image for serving, with scale and shift and what follows it: three passes over the image.

use super::simd::{LANES, Lanes, Simd, Task, dispatch, load_partial, math, store_partial};
use super::window::Window;

/// Vectors of channels that are summed side by side, so that the chains of additions hide each other's latency.
const SIDE_BY_SIDE: usize = 2;

/// `w (x - mean) / √(var + eps) + b`, where mean and variance are those of each of `groups` runs of channels over all
/// pixels, and SiLU of that where asked for.
pub(in crate::model) struct GroupNorm<'a> {
    /// An image `(T, C)`.
    pub(in crate::model) x: &'a [f32],
    /// `(C)`.
    pub(in crate::model) w: &'a [f32],
    /// `(C)`.
    pub(in crate::model) b: &'a [f32],
    /// Divides `C`.
    pub(in crate::model) groups: usize,
    /// Added to the variance.
    pub(in crate::model) eps: f32,
    /// Whether `x σ(x)` follows.
    pub(in crate::model) silu: bool,
    /// The pixel that is the first row of `out`.
    pub(in crate::model) first: usize,
    /// Some of the pixels of the result, or of whole groups of them, from a multiple of sixteen channels on.
    pub(in crate::model) out: Window<'a>,
    /// Twice as many as the channels of `out`.
    pub(in crate::model) scratch: &'a mut [f32],
}

/// How many channels each of `threads` had better normalise of an image, so that none sums what others sum; `None` where
/// these are not whole groups.
pub(in crate::model) fn share(channels: usize, groups: usize, threads: usize) -> Option<usize> {
    let share = channels.div_ceil(threads).next_multiple_of(LANES);
    (share < channels && share.is_multiple_of(channels / groups)).then_some(share)
}

impl GroupNorm<'_> {
    /// Computes it on this thread. Panics where the lengths do not go together.
    pub(in crate::model) fn run(self) {
        let (channels, part) = (self.w.len(), self.out.columns());
        let each = channels / self.groups;
        assert_eq!(self.b.len(), channels, "scale and shift differ in length");
        assert!(channels.is_multiple_of(self.groups), "{channels} channels in {} groups", self.groups);
        assert!(part.start.is_multiple_of(each) && part.end.is_multiple_of(each), "parts of groups in {part:?}");
        assert!((self.first + self.out.rows()) * channels <= self.x.len(), "a result of another length");
        assert!(
            self.x.len().is_multiple_of(channels) && self.scratch.len() == 2 * part.len(),
            "another number of channels"
        );
        dispatch(self);
    }
}

impl Task for GroupNorm<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(mut self, simd: S) {
        let (channels, part) = (self.w.len(), self.out.columns());
        let each = channels / self.groups;
        let count = (self.x.len() / self.groups) as f32;
        let (sums, means) = std::mem::take(&mut self.scratch).split_at_mut(part.len());
        let x = Pixels { x: self.x, channels, start: part.start };
        column_sums::<S, false>(simd, x, means, sums);
        for (means, sums) in means.chunks_exact_mut(each).zip(sums.chunks_exact(each)) {
            means.fill(total(sums) / count);
        }
        column_sums::<S, true>(simd, x, means, sums);
        let (w, b) = (&self.w[part.clone()], &self.b[part.clone()]);
        let groups = sums.chunks_exact_mut(each).zip(means.chunks_exact_mut(each));
        for ((slopes, shifts), (w, b)) in groups.zip(w.chunks_exact(each).zip(b.chunks_exact(each))) {
            let inverse = 1.0 / (total(slopes) / count + self.eps).sqrt();
            for c in 0..each {
                slopes[c] = w[c] * inverse;
                shifts[c] = b[c] - shifts[c] * slopes[c];
            }
        }
        for start in (0..part.len()).step_by(LANES) {
            let lanes = LANES.min(part.len() - start);
            let slope = load_partial(simd, &sums[start..][..lanes], 0.0);
            let shift = load_partial(simd, &means[start..][..lanes], 0.0);
            for row in 0..self.out.rows() {
                let x = &self.x[(self.first + row) * channels + part.start + start..][..lanes];
                let value = simd.mul_add(load_partial(simd, x, 0.0), slope, shift);
                let value = if self.silu { math::silu(simd, value) } else { value };
                store_partial(simd, value, self.out.place(row, part.start + start, lanes));
            }
        }
    }
}

/// Some channels of pixels.
#[derive(Debug, Clone, Copy)]
struct Pixels<'a> {
    x: &'a [f32],
    channels: usize,
    /// The first of them.
    start: usize,
}

fn total(sums: &[f32]) -> f32 {
    sums.iter().sum()
}

/// For each channel the sum over the pixels, or, `CENTRED`, of the squares of what is left of it without its mean.
#[inline(always)]
fn column_sums<S: Simd, const CENTRED: bool>(simd: S, x: Pixels<'_>, means: &[f32], sums: &mut [f32]) {
    let channels = sums.len();
    let mut start = 0;
    while start + SIDE_BY_SIDE * LANES <= channels {
        block_sums::<S, CENTRED, SIDE_BY_SIDE>(simd, x, means, sums, start);
        start += SIDE_BY_SIDE * LANES;
    }
    while start + LANES <= channels {
        block_sums::<S, CENTRED, 1>(simd, x, means, sums, start);
        start += LANES;
    }
    if start < channels {
        let centre = load_partial(simd, &means[start..], 0.0);
        let mut sum = simd.splat(0.0);
        for pixel in x.x.chunks_exact(x.channels) {
            let value = load_partial(simd, &pixel[x.start + start..][..channels - start], 0.0);
            sum = term::<S, CENTRED>(simd, value, centre, sum);
        }
        store_partial(simd, sum, &mut sums[start..]);
    }
}

/// As [`column_sums`], of `P` vectors of channels from `start` on. Pixels go to two sums in turn.
#[inline(always)]
fn block_sums<S: Simd, const CENTRED: bool, const P: usize>(
    simd: S,
    x: Pixels<'_>,
    means: &[f32],
    sums: &mut [f32],
    start: usize,
) {
    let Pixels { x, channels, start: begin } = x;
    let begin = begin + start;
    let mut centres = [simd.splat(0.0); P];
    for p in 0..P {
        centres[p] = load_partial(simd, &means[start + p * LANES..], 0.0);
    }
    let (mut even, mut odd) = ([simd.splat(0.0); P], [simd.splat(0.0); P]);
    let mut pairs = x.chunks_exact(2 * channels);
    for pair in pairs.by_ref() {
        let (first, second) = pair.split_at(channels);
        add_pixel::<S, CENTRED, P>(simd, &first[begin..], &centres, &mut even);
        add_pixel::<S, CENTRED, P>(simd, &second[begin..], &centres, &mut odd);
    }
    if let Some(last) = pairs.remainder().get(begin..) {
        add_pixel::<S, CENTRED, P>(simd, last, &centres, &mut even);
    }
    for p in 0..P {
        store_partial(simd, simd.add(even[p], odd[p]), &mut sums[start + p * LANES..][..LANES]);
    }
}

#[inline(always)]
fn add_pixel<S: Simd, const CENTRED: bool, const P: usize>(
    simd: S,
    pixel: &[f32],
    centres: &[S::V; P],
    sums: &mut [S::V; P],
) {
    let vectors: &[Lanes] = pixel.as_chunks().0;
    for p in 0..P.min(vectors.len()) {
        sums[p] = term::<S, CENTRED>(simd, simd.load(&vectors[p]), centres[p], sums[p]);
    }
}

#[inline(always)]
fn term<S: Simd, const CENTRED: bool>(simd: S, value: S::V, centre: S::V, sum: S::V) -> S::V {
    if CENTRED {
        let centred = simd.sub(value, centre);
        simd.mul_add(centred, centred, sum)
    } else {
        simd.add(value, sum)
    }
}

#[cfg(test)]
#[allow(unsafe_code)] // Windows of different columns, each with its reason.
mod tests {
    use proptest::prelude::*;

    use super::super::conv::tests::numbers;
    use super::*;

    /// The definition, in `f64`.
    fn normed(x: &[f32], [w, b]: [&[f32]; 2], groups: usize, silu: bool) -> Vec<f64> {
        let (channels, each) = (w.len(), w.len() / groups);
        let of_group = |group: usize| x.iter().enumerate().filter(move |(i, _)| i % channels / each == group);
        let mean_of = |group, f: &dyn Fn(f64) -> f64| {
            of_group(group).map(|(_, &x)| f(x.into())).sum::<f64>() / (x.len() / groups) as f64
        };
        let value = |(i, &x): (usize, &f32)| {
            let (channel, group) = (i % channels, i % channels / each);
            let mean = mean_of(group, &|x| x);
            let variance = mean_of(group, &|x| (x - mean).powi(2));
            let y = (f64::from(x) - mean) / (variance + 1e-6).sqrt() * f64::from(w[channel]) + f64::from(b[channel]);
            if silu { y / (1.0 + (-y).exp()) } else { y }
        };
        x.iter().enumerate().map(value).collect()
    }

    proptest! {
        #[test]
        fn it_agrees_with_the_definition_and_a_part_with_the_whole(
            (pixels, groups, each) in (2usize..12, 1usize..6, 4usize..20),
            (cut, seed, silu) in (0usize..12, 0usize..100, any::<bool>()),
        ) {
            let channels = groups * each;
            let x = numbers(seed, pixels * channels);
            let (w, b) = (numbers(seed + 1, channels), numbers(seed + 2, channels));
            let run = |first: usize, end: usize| {
                let mut out = vec![f32::NAN; (end - first) * channels];
                let scratch = &mut vec![f32::NAN; 2 * channels];
                let window = Window::new(&mut out, channels);
                GroupNorm { x: &x, w: &w, b: &b, groups, eps: 1e-6, silu, first, out: window, scratch }.run();
                out
            };
            let all = run(0, pixels);
            for (got, want) in all.iter().zip(normed(&x, [&w, &b], groups, silu)) {
                prop_assert!((f64::from(*got) - want).abs() < 1e-5, "{got} {want}");
            }
            let cut = cut % (pixels + 1);
            prop_assert_eq!([run(0, cut), run(cut, pixels)].concat(), &all[..]);
            if let Some(share) = share(channels, groups, 2) {
                let mut apart = vec![f32::NAN; all.len()];
                for columns in [0..share, share..channels] {
                    let scratch = &mut vec![f32::NAN; 2 * columns.len()];
                    // SAFETY: one after the other.
                    let out = unsafe { Window::new(&mut apart, channels).part(columns) };
                    GroupNorm { x: &x, w: &w, b: &b, groups, eps: 1e-6, silu, first: 0, out, scratch }.run();
                }
                prop_assert_eq!(apart, all);
            }
        }
    }
}
