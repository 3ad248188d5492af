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

impl Task for NormModulate<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let columns = self.scale.len();
        for (x, out) in self.x.chunks_exact(columns).zip(self.out.chunks_exact_mut(columns)) {
            let [mean, inverse] = moments(simd, x, self.eps);
            let (mean, inverse, one) = (simd.splat(mean), simd.splat(inverse), simd.splat(1.0));
            for start in (0..columns).step_by(LANES) {
                let end = columns.min(start + LANES);
                let scale = simd.add(one, load_partial(simd, &self.scale[start..end], 0.0));
                let shift = load_partial(simd, &self.shift[start..end], 0.0);
                let y = simd.mul(simd.sub(load_partial(simd, &x[start..end], 0.0), mean), inverse);
                store_partial(simd, simd.mul_add(y, scale, shift), &mut out[start..end]);
            }
        }
    }
}

/// The mean of `x` and `1 / √(variance + eps)`.
#[inline(always)]
fn moments<S: Simd>(simd: S, x: &[f32], eps: f32) -> [f32; 2] {
    let (chunks, rest) = x.as_chunks::<LANES>();
    let mut sum = load_partial(simd, rest, 0.0);
    for chunk in chunks {
        sum = simd.add(sum, simd.load(chunk));
    }
    let mean = simd.sum(sum) / x.len() as f32;
    let centre = simd.splat(mean);
    // What is not there lies at the mean.
    let last = simd.sub(load_partial(simd, rest, mean), centre);
    let mut squares = if rest.is_empty() { simd.splat(0.0) } else { simd.mul(last, last) };
    for chunk in chunks {
        let centred = simd.sub(simd.load(chunk), centre);
        squares = simd.mul_add(centred, centred, squares);
    }
    [mean, 1.0 / (simd.sum(squares) / x.len() as f32 + eps).sqrt()]
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
