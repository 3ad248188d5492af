//! Functions of single elements of several arrays.

use super::buffer;
use super::simd::{LANES, Simd, Task, dispatch, load_partial, store_partial};

/// A function of `N` numbers.
pub(super) trait Function<const N: usize>: Copy {
    /// Its values at sixteen places.
    fn at<S: Simd>(self, simd: S, x: [S::V; N]) -> S::V;
}

/// `function` of the elements of `inputs`, all of one length.
pub(super) fn map<const N: usize>(function: impl Function<N>, inputs: [&[f32]; N]) -> Vec<f32> {
    let mut out = buffer::take(inputs[0].len());
    assert!(inputs.iter().all(|input| input.len() == out.len()), "arrays of different lengths");
    dispatch(Map { function, inputs, out: &mut out });
    out
}

struct Map<'a, F, const N: usize> {
    function: F,
    inputs: [&'a [f32]; N],
    out: &'a mut [f32],
}

impl<const N: usize, F: Function<N>> Task for Map<'_, F, N> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Self { function, inputs, out } = self;
        for (index, out) in out.chunks_mut(LANES).enumerate() {
            let mut x = [simd.splat(0.0); N];
            for n in 0..N {
                x[n] = load_partial(simd, &inputs[n][index * LANES..][..out.len()], 0.0);
            }
            store_partial(simd, function.at(simd, x), out);
        }
    }
}
