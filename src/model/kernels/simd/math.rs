//! Transcendental functions on vectors.

use super::Simd;

/// 1.5 · 2^23: adding it leaves the nearest integer in the low bits.
pub(super) const ROUND: f32 = 12_582_912.0;

/// The exponent of 1, in place: what turns the low bits of `n + ROUND`, shifted to the exponent, into `2^n`.
pub(super) const ROUND_BITS_TO_EXPONENT: u32 = 127 << 23;

/// `e^x` with a relative error below 1.5e-7 (about 2 units in the last place) for -87.3 <= x <= 88.3; zero below
/// -87.7, infinite above 88.4, NaN for NaN.
///
/// Cody-Waite reduction to `|r| <= ln 2 / 2` and the polynomial of Cephes' `expf`.
#[inline(always)]
pub(in super::super) fn exp<S: Simd>(simd: S, x: S::V) -> S::V {
    exp_below(simd, simd.min(simd.splat(89.0), x))
}

/// [`exp`] of numbers that are at most 89.
#[inline(always)]
pub(in super::super) fn exp_below<S: Simd>(simd: S, x: S::V) -> S::V {
    let c = splats(simd);
    // Keeps the exponent in range; NaN is the second operand, hence passes.
    let x = simd.max(simd.splat(-88.0), x);
    let shifted = simd.mul_add(x, simd.splat(std::f32::consts::LOG2_E), simd.splat(ROUND));
    let n = simd.sub(shifted, simd.splat(ROUND));
    let r = simd.mul_add(n, simd.splat(2.121_944_4e-4), simd.neg_mul_add(n, simd.splat(0.693_359_4), x));
    // By Estrin's scheme: half the depth of Horner's, and the depth is what a loop of these waits for.
    let low = simd.mul_add(c[2], r, c[1]);
    let middle = simd.mul_add(c[4], r, c[3]);
    let high = simd.mul_add(c[6], r, c[5]);
    let square = simd.mul(r, r);
    let upper = simd.mul_add(high, square, middle);
    let p = simd.mul_add(upper, square, low);
    let p = simd.mul_add(p, square, simd.add(r, c[0]));
    simd.mul(p, simd.exp2(shifted))
}

/// The polynomial's coefficients, the constant one first after that of the linear term.
#[inline(always)]
fn splats<S: Simd>(simd: S) -> [S::V; 7] {
    [
        simd.splat(1.0),
        simd.splat(0.5),
        simd.splat(1.666_666_5e-1),
        simd.splat(4.166_579_6e-2),
        simd.splat(8.333_452e-3),
        simd.splat(1.398_2e-3),
        simd.splat(1.987_569_2e-4),
    ]
}

/// `x σ(x) = x / (1 + e^-x)`, relative error below 4e-7; 0 below -88.4.
#[inline(always)]
pub(in super::super) fn silu<S: Simd>(simd: S, x: S::V) -> S::V {
    let one = simd.splat(1.0);
    simd.div(x, simd.add(one, exp(simd, simd.sub(simd.splat(0.0), x))))
}
