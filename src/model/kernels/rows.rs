//! Operations on rows that serve a compiled plan: norm and modulation in one pass, activations, sums.

use super::simd::{LANES, Simd, Task, dispatch, load_partial, math, store_partial};

/// `layer_norm(x) (1 + scale) + shift` of rows of one image.
pub(in crate::model) struct NormModulate<'a> {
    /// Rows, one after the other.
    pub(in crate::model) x: &'a [f32],
    /// Of as many columns as a row.
    pub(in crate::model) scale: &'a [f32],
    /// Of as many columns as a row.
    pub(in crate::model) shift: &'a [f32],
    /// Added to the variance.
    pub(in crate::model) eps: f32,
    /// As many rows.
    pub(in crate::model) out: &'a mut [f32],
}

impl NormModulate<'_> {
    /// Computes it on this thread. Panics where the lengths do not go together.
    pub(in crate::model) fn run(self) {
        assert_eq!(self.x.len(), self.out.len(), "a result of another length");
        assert_eq!(self.scale.len(), self.shift.len(), "scale and shift differ in length");
        dispatch(self);
    }
}

/// Rows that are normalised side by side, so that their reductions hide each other's latency.
const ABREAST: usize = 4;

impl Task for NormModulate<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let columns = self.scale.len();
        let mut x = self.x.chunks_exact(columns * ABREAST);
        let mut out = self.out.chunks_exact_mut(columns * ABREAST);
        for (x, out) in x.by_ref().zip(out.by_ref()) {
            norm_rows::<S, ABREAST>(simd, x, [self.scale, self.shift], self.eps, out);
        }
        let rest = x.remainder().chunks_exact(columns).zip(out.into_remainder().chunks_exact_mut(columns));
        for (x, out) in rest {
            norm_rows::<S, 1>(simd, x, [self.scale, self.shift], self.eps, out);
        }
    }
}

/// [`NormModulate`] of `R` rows.
#[inline(always)]
fn norm_rows<S: Simd, const R: usize>(simd: S, x: &[f32], [scale, shift]: [&[f32]; 2], eps: f32, out: &mut [f32]) {
    let columns = scale.len();
    let [mean, inverse] = moments::<S, R>(simd, x, columns, eps);
    for start in (0..columns).step_by(LANES) {
        let end = columns.min(start + LANES);
        let scale = simd.add(simd.splat(1.0), load_partial(simd, &scale[start..end], 0.0));
        let shift = load_partial(simd, &shift[start..end], 0.0);
        for r in 0..R {
            let x = load_partial(simd, &x[r * columns + start..r * columns + end], 0.0);
            let y = simd.mul(simd.sub(x, mean[r]), inverse[r]);
            store_partial(simd, simd.mul_add(y, scale, shift), &mut out[r * columns + start..r * columns + end]);
        }
    }
}

/// For each of `R` rows the mean and `1 / √(variance + eps)`, in all lanes.
#[inline(always)]
fn moments<S: Simd, const R: usize>(simd: S, x: &[f32], columns: usize, eps: f32) -> [[S::V; R]; 2] {
    let (whole, count) = (columns - columns % LANES, columns as f32);
    let mut mean = [simd.splat(0.0); R];
    for start in (0..whole).step_by(LANES) {
        for r in 0..R {
            let x = load_partial(simd, &x[r * columns + start..][..LANES], 0.0);
            mean[r] = simd.add(mean[r], x);
        }
    }
    for r in 0..R {
        let rest = load_partial(simd, &x[r * columns + whole..(r + 1) * columns], 0.0);
        mean[r] = simd.splat(simd.sum(simd.add(mean[r], rest)) / count);
    }
    let mut squares = [simd.splat(0.0); R];
    for start in (0..whole).step_by(LANES) {
        for r in 0..R {
            let centred = simd.sub(load_partial(simd, &x[r * columns + start..][..LANES], 0.0), mean[r]);
            squares[r] = simd.mul_add(centred, centred, squares[r]);
        }
    }
    for r in 0..R {
        if whole < columns {
            // What is not there lies at the mean.
            let mut rest = [0.0; LANES];
            simd.store(mean[r], &mut rest);
            rest[..columns - whole].copy_from_slice(&x[r * columns + whole..(r + 1) * columns]);
            let centred = simd.sub(simd.load(&rest), mean[r]);
            squares[r] = simd.mul_add(centred, centred, squares[r]);
        }
        squares[r] = simd.splat(1.0 / (simd.sum(squares[r]) / count + eps).sqrt());
    }
    [mean, squares]
}

/// `silu(x)` into `out`.
pub(in crate::model) struct SiluOf<'a> {
    /// Elements.
    pub(in crate::model) x: &'a [f32],
    /// As many.
    pub(in crate::model) out: &'a mut [f32],
}

impl Task for SiluOf<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        for (x, out) in self.x.chunks(LANES).zip(self.out.chunks_mut(LANES)) {
            store_partial(simd, math::silu(simd, load_partial(simd, x, 0.0)), out);
        }
    }
}

impl SiluOf<'_> {
    /// Computes it on this thread. Panics where the lengths differ.
    pub(in crate::model) fn run(self) {
        assert_eq!(self.x.len(), self.out.len(), "a result of another length");
        dispatch(self);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ramp(seed: usize, len: usize) -> Vec<f32> {
        (0..len).map(|i| ((i * 37 + seed * 53 + 11) % 101) as f32 / 25.0 + 3.0).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 2 } else { 64 }))]

        #[test]
        fn a_norm_with_modulation_agrees_with_its_definition(rows in 1usize..12, columns in 1usize..70) {
            let (x, scale, shift) = (ramp(1, rows * columns), ramp(2, columns), ramp(3, columns));
            let of = |x: &[f32]| {
                let mut out = vec![f32::NAN; x.len()];
                NormModulate { x, scale: &scale, shift: &shift, eps: 1e-3, out: &mut out }.run();
                out
            };
            let got = of(&x);
            for (row, got) in x.chunks_exact(columns).zip(got.chunks_exact(columns)) {
                let row: Vec<f64> = row.iter().copied().map(f64::from).collect();
                let mean = row.iter().sum::<f64>() / columns as f64;
                let variance = row.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / columns as f64;
                for (c, got) in got.iter().enumerate() {
                    let y = (row[c] - mean) / (variance + 1e-3).sqrt();
                    let want = y * (1.0 + f64::from(scale[c])) + f64::from(shift[c]);
                    prop_assert!((f64::from(*got) - want).abs() < 1e-4, "{got}, not {want}");
                }
            }
            // Four abreast or one by one: the same bits.
            let alone: Vec<f32> = x.chunks_exact(columns).flat_map(of).collect();
            prop_assert_eq!(got, alone);
        }
    }
}
