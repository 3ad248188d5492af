//! Sixteen lanes as one register of AVX-512.

use std::arch::x86_64::*;

use super::math::ROUND_BITS_TO_EXPONENT;
use super::{Lanes, Simd, Task};

/// Proof that the machine has AVX-512F; only [`run`] makes one.
#[derive(Debug, Clone, Copy)]
pub(super) struct Avx512(());

/// Runs `task` compiled for AVX-512F.
///
/// # Safety
/// The machine must have it.
#[target_feature(enable = "avx512f,avx2,fma")]
pub(super) unsafe fn run<T: Task>(task: T) -> T::Output {
    task.run(Avx512(()))
}

/// One operation.
macro_rules! one {
    // SAFETY: an `Avx512` exists only within `run`, whose caller vouches for the instructions.
    ($f:ident, $($v:ident),+) => { unsafe { $f($($v),+) } };
}

/// The upper half onto the lower one, down to one lane.
macro_rules! fold {
    ($wide:ident, $narrow:ident, $v:ident) => {
        // SAFETY: as in `one`.
        unsafe {
            let upper = _mm256_castpd_ps(_mm512_extractf64x4_pd::<1>(_mm512_castps_pd($v)));
            let eight = $wide(_mm512_castps512_ps256($v), upper);
            let four = $narrow(_mm256_castps256_ps128(eight), _mm256_extractf128_ps::<1>(eight));
            let two = $narrow(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32($narrow(two, _mm_movehdup_ps(two)))
        }
    };
}

impl Simd for Avx512 {
    type V = __m512;
    const TILE_ROWS: usize = 12;

    #[inline(always)]
    fn splat(self, x: f32) -> Self::V {
        one!(_mm512_set1_ps, x)
    }

    #[inline(always)]
    fn load(self, x: &Lanes) -> Self::V {
        // SAFETY: as in `one`; the array has sixteen elements.
        unsafe { _mm512_loadu_ps(x.as_ptr()) }
    }

    #[inline(always)]
    fn store(self, v: Self::V, x: &mut Lanes) {
        // SAFETY: as in `one`; the array has sixteen elements.
        unsafe { _mm512_storeu_ps(x.as_mut_ptr(), v) }
    }

    #[inline(always)]
    fn add(self, a: Self::V, b: Self::V) -> Self::V {
        one!(_mm512_add_ps, a, b)
    }

    #[inline(always)]
    fn sub(self, a: Self::V, b: Self::V) -> Self::V {
        one!(_mm512_sub_ps, a, b)
    }

    #[inline(always)]
    fn mul(self, a: Self::V, b: Self::V) -> Self::V {
        one!(_mm512_mul_ps, a, b)
    }

    #[inline(always)]
    fn div(self, a: Self::V, b: Self::V) -> Self::V {
        one!(_mm512_div_ps, a, b)
    }

    #[inline(always)]
    fn mul_add(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        one!(_mm512_fmadd_ps, a, b, c)
    }

    #[inline(always)]
    fn mul_sub(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        one!(_mm512_fmsub_ps, a, b, c)
    }

    #[inline(always)]
    fn neg_mul_add(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        one!(_mm512_fnmadd_ps, a, b, c)
    }

    #[inline(always)]
    fn max(self, a: Self::V, b: Self::V) -> Self::V {
        one!(_mm512_max_ps, a, b)
    }

    #[inline(always)]
    fn min(self, a: Self::V, b: Self::V) -> Self::V {
        one!(_mm512_min_ps, a, b)
    }

    #[inline(always)]
    fn exp2(self, biased: Self::V) -> Self::V {
        // SAFETY: as in `one`.
        unsafe {
            let exponent = _mm512_slli_epi32::<23>(_mm512_castps_si512(biased));
            let one = _mm512_set1_epi32(ROUND_BITS_TO_EXPONENT.cast_signed());
            _mm512_castsi512_ps(_mm512_add_epi32(exponent, one))
        }
    }

    #[inline(always)]
    fn sum(self, v: Self::V) -> f32 {
        fold!(_mm256_add_ps, _mm_add_ps, v)
    }

    #[inline(always)]
    fn largest(self, v: Self::V) -> f32 {
        fold!(_mm256_max_ps, _mm_max_ps, v)
    }
}
