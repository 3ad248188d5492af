//! What becomes of the sums of a product while they are in registers.

use super::packed::{Epilogue, Place};
use super::simd::{Simd, load_partial, math};

/// `silu(sum)`.
#[derive(Debug, Clone, Copy)]
pub(in crate::model) struct Silu;

impl Epilogue for Silu {
    #[inline(always)]
    fn finish<S: Simd>(self, simd: S, sum: S::V, _: Place<'_>) -> S::V {
        math::silu(simd, sum)
    }
}

/// What is there, plus the sum.
#[derive(Debug, Clone, Copy)]
pub(in crate::model) struct Accumulate;

impl Epilogue for Accumulate {
    #[inline(always)]
    fn finish<S: Simd>(self, simd: S, sum: S::V, place: Place<'_>) -> S::V {
        simd.add(load_partial(simd, place.now, 0.0), sum)
    }
}

/// What is there, plus the sum times its column's gate.
#[derive(Debug, Clone, Copy)]
pub(in crate::model) struct Gated<'a>(pub(in crate::model) &'a [f32]);

impl Epilogue for Gated<'_> {
    #[inline(always)]
    fn finish<S: Simd>(self, simd: S, sum: S::V, place: Place<'_>) -> S::V {
        let gate = load_partial(simd, &self.0[place.column..][..place.now.len()], 0.0);
        simd.mul_add(gate, sum, load_partial(simd, place.now, 0.0))
    }
}

/// The sum plus the same place of a table with as many columns.
#[derive(Debug, Clone, Copy)]
pub(in crate::model) struct Plus<'a> {
    /// The table, row-major.
    pub(in crate::model) table: &'a [f32],
    /// Its columns.
    pub(in crate::model) columns: usize,
}

impl Epilogue for Plus<'_> {
    #[inline(always)]
    fn finish<S: Simd>(self, simd: S, sum: S::V, place: Place<'_>) -> S::V {
        let other = &self.table[place.row * self.columns + place.column..][..place.now.len()];
        simd.add(sum, load_partial(simd, other, 0.0))
    }
}

/// The sum times its row's factor.
#[derive(Debug, Clone, Copy)]
pub(in crate::model) struct Scaled<'a>(pub(in crate::model) &'a [f32]);

impl Epilogue for Scaled<'_> {
    #[inline(always)]
    fn finish<S: Simd>(self, simd: S, sum: S::V, place: Place<'_>) -> S::V {
        simd.mul(sum, simd.splat(self.0[place.row]))
    }
}
