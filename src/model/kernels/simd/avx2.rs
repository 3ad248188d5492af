//! Sixteen lanes as two registers of AVX2, with fused multiply-add.

use std::arch::x86_64::*;

use super::math::ROUND_BITS_TO_EXPONENT;
use super::{Lanes, Simd, Task};

/// Proof that the machine has AVX2 and FMA; only [`run`] makes one.
#[derive(Debug, Clone, Copy)]
pub(super) struct Avx2(());

/// Runs `task` compiled for AVX2 and FMA.
///
/// # Safety
/// The machine must have both.
#[target_feature(enable = "avx2,fma")]
pub(super) unsafe fn run<T: Task>(task: T) -> T::Output {
    task.run(Avx2(()))
}

/// One operation on both halves.
macro_rules! both {
    // SAFETY: an `Avx2` exists only within `run`, whose caller vouches for the instructions.
    ($f:ident, $($v:ident),+) => { unsafe { [$f($($v[0]),+), $f($($v[1]),+)] } };
}

/// The upper half onto the lower one, down to one lane.
macro_rules! fold {
    ($wide:ident, $narrow:ident, $v:ident) => {
        // SAFETY: as in `both`.
        unsafe {
            let eight = $wide($v[0], $v[1]);
            let four = $narrow(_mm256_castps256_ps128(eight), _mm256_extractf128_ps::<1>(eight));
            let two = $narrow(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32($narrow(two, _mm_movehdup_ps(two)))
        }
    };
}

impl Simd for Avx2 {
    type V = [__m256; 2];
    const TILE_ROWS: usize = 6;

    #[inline(always)]
    fn splat(self, x: f32) -> Self::V {
        // SAFETY: as in `both`.
        let x = unsafe { _mm256_set1_ps(x) };
        [x, x]
    }

    #[inline(always)]
    fn load(self, x: &Lanes) -> Self::V {
        // SAFETY: as in `both`; both halves lie in the array.
        unsafe { [_mm256_loadu_ps(x.as_ptr()), _mm256_loadu_ps(x.as_ptr().add(8))] }
    }

    #[inline(always)]
    fn store(self, v: Self::V, x: &mut Lanes) {
        // SAFETY: as in `both`; both halves lie in the array.
        unsafe {
            _mm256_storeu_ps(x.as_mut_ptr(), v[0]);
            _mm256_storeu_ps(x.as_mut_ptr().add(8), v[1]);
        }
    }

    #[inline(always)]
    fn add(self, a: Self::V, b: Self::V) -> Self::V {
        both!(_mm256_add_ps, a, b)
    }

    #[inline(always)]
    fn sub(self, a: Self::V, b: Self::V) -> Self::V {
        both!(_mm256_sub_ps, a, b)
    }

    #[inline(always)]
    fn mul(self, a: Self::V, b: Self::V) -> Self::V {
        both!(_mm256_mul_ps, a, b)
    }

    #[inline(always)]
    fn div(self, a: Self::V, b: Self::V) -> Self::V {
        both!(_mm256_div_ps, a, b)
    }

    #[inline(always)]
    fn mul_add(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        both!(_mm256_fmadd_ps, a, b, c)
    }

    #[inline(always)]
    fn mul_sub(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        both!(_mm256_fmsub_ps, a, b, c)
    }

    #[inline(always)]
    fn neg_mul_add(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        both!(_mm256_fnmadd_ps, a, b, c)
    }

    #[inline(always)]
    fn max(self, a: Self::V, b: Self::V) -> Self::V {
        both!(_mm256_max_ps, a, b)
    }

    #[inline(always)]
    fn min(self, a: Self::V, b: Self::V) -> Self::V {
        both!(_mm256_min_ps, a, b)
    }

    #[inline(always)]
    fn exp2(self, biased: Self::V) -> Self::V {
        // SAFETY: as in `both`.
        unsafe {
            let one = _mm256_set1_epi32(ROUND_BITS_TO_EXPONENT.cast_signed());
            let low = _mm256_slli_epi32::<23>(_mm256_castps_si256(biased[0]));
            let high = _mm256_slli_epi32::<23>(_mm256_castps_si256(biased[1]));
            [_mm256_castsi256_ps(_mm256_add_epi32(low, one)), _mm256_castsi256_ps(_mm256_add_epi32(high, one))]
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
