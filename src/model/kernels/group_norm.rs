//! Group norm of one image for serving, with scale and shift and what follows it: three passes over the image.

use super::simd::{LANES, Lanes, Simd, Task, dispatch, load_partial, math, store_partial};

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
    /// The pixel at which `out` begins.
    pub(in crate::model) first: usize,
    /// Some of the pixels of the result.
    pub(in crate::model) out: &'a mut [f32],
    /// Twice `C`.
    pub(in crate::model) scratch: &'a mut [f32],
}

impl GroupNorm<'_> {
    /// Computes it on this thread. Panics where the lengths do not go together.
    pub(in crate::model) fn run(self) {
        let channels = self.w.len();
        assert_eq!(self.b.len(), channels, "scale and shift differ in length");
        assert!(channels.is_multiple_of(self.groups), "{channels} channels in {} groups", self.groups);
        let end = self.first * channels + self.out.len();
        assert!(end <= self.x.len() && self.out.len().is_multiple_of(channels), "a result of another length");
        assert!(
            self.x.len().is_multiple_of(channels) && self.scratch.len() == 2 * channels,
            "another number of channels"
        );
        dispatch(self);
    }
}

impl Task for GroupNorm<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let channels = self.w.len();
        let each = channels / self.groups;
        let count = (self.x.len() / self.groups) as f32;
        let (sums, means) = self.scratch.split_at_mut(channels);
        column_sums::<S, false>(simd, self.x, means, sums);
        for (means, sums) in means.chunks_exact_mut(each).zip(sums.chunks_exact(each)) {
            means.fill(total(sums) / count);
        }
        column_sums::<S, true>(simd, self.x, means, sums);
        let groups = sums.chunks_exact_mut(each).zip(means.chunks_exact_mut(each));
        for ((slopes, shifts), (w, b)) in groups.zip(self.w.chunks_exact(each).zip(self.b.chunks_exact(each))) {
            let inverse = 1.0 / (total(slopes) / count + self.eps).sqrt();
            for c in 0..each {
                slopes[c] = w[c] * inverse;
                shifts[c] = b[c] - shifts[c] * slopes[c];
            }
        }
        for (x, out) in self.x[self.first * channels..].chunks_exact(channels).zip(self.out.chunks_exact_mut(channels))
        {
            for start in (0..channels).step_by(LANES) {
                let range = start..channels.min(start + LANES);
                let slope = load_partial(simd, &sums[range.clone()], 0.0);
                let shift = load_partial(simd, &means[range.clone()], 0.0);
                let value = simd.mul_add(load_partial(simd, &x[range.clone()], 0.0), slope, shift);
                let value = if self.silu { math::silu(simd, value) } else { value };
                store_partial(simd, value, &mut out[range]);
            }
        }
    }
}

fn total(sums: &[f32]) -> f32 {
    sums.iter().sum()
}

/// For each channel the sum over the pixels, or, `CENTRED`, of the squares of what is left of it without its mean.
#[inline(always)]
fn column_sums<S: Simd, const CENTRED: bool>(simd: S, x: &[f32], means: &[f32], sums: &mut [f32]) {
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
        for pixel in x.chunks_exact(channels) {
            let value = load_partial(simd, &pixel[start..], 0.0);
            sum = term::<S, CENTRED>(simd, value, centre, sum);
        }
        store_partial(simd, sum, &mut sums[start..]);
    }
}

/// As [`column_sums`], of `P` vectors of channels from `start` on. Pixels go to two sums in turn.
#[inline(always)]
fn block_sums<S: Simd, const CENTRED: bool, const P: usize>(
    simd: S,
    x: &[f32],
    means: &[f32],
    sums: &mut [f32],
    start: usize,
) {
    let channels = sums.len();
    let mut centres = [simd.splat(0.0); P];
    for p in 0..P {
        centres[p] = load_partial(simd, &means[start + p * LANES..], 0.0);
    }
    let (mut even, mut odd) = ([simd.splat(0.0); P], [simd.splat(0.0); P]);
    let mut pairs = x.chunks_exact(2 * channels);
    for pair in pairs.by_ref() {
        let (first, second) = pair.split_at(channels);
        add_pixel::<S, CENTRED, P>(simd, &first[start..], &centres, &mut even);
        add_pixel::<S, CENTRED, P>(simd, &second[start..], &centres, &mut odd);
    }
    if let Some(last) = pairs.remainder().get(start..) {
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
                GroupNorm { x: &x, w: &w, b: &b, groups, eps: 1e-6, silu, first, out: &mut out, scratch }.run();
                out
            };
            let all = run(0, pixels);
            for (got, want) in all.iter().zip(normed(&x, [&w, &b], groups, silu)) {
                prop_assert!((f64::from(*got) - want).abs() < 1e-5, "{got} {want}");
            }
            let cut = cut % (pixels + 1);
            prop_assert_eq!([run(0, cut), run(cut, pixels)].concat(), all);
        }
    }
}
