//! Vectorised arithmetic on slices: plain loops over fixed blocks, compiled once for each instruction set.
//!
//! Multiplications and additions are kept apart (no fused multiply-add, which is a slow library call where the machine
//! has none), and sums add in the fixed order of eight lanes: these functions give the same bits on every machine.

/// Elements that reductions handle side by side: one 256-bit register.
pub(super) const LANES: usize = 8;
/// Runs `f` compiled for the best instruction set of this machine. Everything that `f` calls must be inlined into it.
#[inline(always)]
pub(super) fn vectorized<R>(f: impl FnOnce() -> R) -> R {
    pulp::Arch::new().dispatch(f)
}

/// `e^x` with a relative error below 1.5e-7 (about 2 units in the last place) for -87.3 <= x <= 88.3; zero below
/// -87.7, infinite above 88.4, NaN for NaN.
///
/// Cody-Waite reduction to `|r| <= ln 2 / 2` and the polynomial of Cephes' `expf`.
#[inline(always)]
pub(super) fn exp(x: f32) -> f32 {
    /// 1.5 · 2^23: adding it leaves the nearest integer in the low bits.
    const ROUND: f32 = 12_582_912.0;
    // Keeps the exponent in range; unlike `f32::max`, these comparisons let NaN pass.
    let x = if x < -88.0 { -88.0 } else { x };
    let x = if x > 89.0 { 89.0 } else { x };
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = (x - n * 0.693_359_4) + n * 2.121_944_4e-4;
    // By Estrin's scheme: half the depth of Horner's, and the depth is what a loop of these waits for.
    let (low, middle) = (1.666_666_5e-1 * r + 0.5, 8.333_452e-3 * r + 4.166_579_6e-2);
    let (high, square) = (1.987_569_2e-4 * r + 1.398_2e-3, r * r);
    let p = (low + middle * square + high * (square * square)) * square + (r + 1.0);
    // 2^n by its exponent bits: n = -127 gives zero, n = 128 infinity.
    p * f32::from_bits((shifted.to_bits() << 23).wrapping_add(127 << 23))
}

/// `x = f(x)` for every element; fastest where the length is a multiple of [`LANES`].
#[inline(always)]
pub(super) fn update(x: &mut [f32], f: impl Fn(f32) -> f32) {
    let (blocks, rest) = x.as_chunks_mut::<LANES>();
    for block in blocks {
        for v in block {
            *v = f(*v);
        }
    }
    for v in rest {
        *v = f(*v);
    }
}

/// `Σ x`.
#[inline(always)]
pub(super) fn sum(x: &[f32]) -> f32 {
    reduce([x, x], |[x, _]| x)
}

/// `Σ a b`.
#[inline(always)]
pub(super) fn dot(a: &[f32], b: &[f32]) -> f32 {
    reduce([a, b], |[a, b]| a * b)
}

/// `Σ f(a, b)` over two rows of one length.
#[inline(always)]
pub(super) fn reduce([a, b]: [&[f32]; 2], f: impl Fn([f32; 2]) -> f32) -> f32 {
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    let mut lanes = [0.0; LANES];
    for (a, b) in a.iter().zip(b) {
        for l in 0..LANES {
            lanes[l] += f([a[l], b[l]]);
        }
    }
    for (lane, (&a, &b)) in lanes.iter_mut().zip(a_rest.iter().zip(b_rest)) {
        *lane += f([a, b]);
    }
    fold(lanes, |a, b| a + b)
}

/// The largest element; negative infinity for none. NaN does not count.
#[inline(always)]
pub(super) fn max(x: &[f32]) -> f32 {
    let (blocks, rest) = x.as_chunks::<LANES>();
    let larger = |a: f32, b: f32| if b > a { b } else { a };
    let mut lanes = [f32::NEG_INFINITY; LANES];
    for block in blocks {
        for l in 0..LANES {
            lanes[l] = larger(lanes[l], block[l]);
        }
    }
    fold(lanes, larger).max(rest.iter().copied().fold(f32::NEG_INFINITY, larger))
}

/// Halves the lanes until one is left.
#[inline(always)]
fn fold(mut lanes: [f32; LANES], f: impl Fn(f32, f32) -> f32) -> f32 {
    let mut half = LANES / 2;
    while half > 0 {
        for l in 0..half {
            lanes[l] = f(lanes[l], lanes[l + half]);
        }
        half /= 2;
    }
    lanes[0]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_within_two_units_in_the_last_place() {
        let x: Vec<f32> = (-87_300..=88_300).map(|i| i as f32 * 1e-3 + 1e-5).collect();
        for (x, y) in x.iter().map(|&x| (x, exp(x))) {
            let exact = f64::from(x).exp();
            assert!((f64::from(y) / exact - 1.0).abs() < 1.5e-7, "exp({x}) = {y}, not {exact}");
        }
        let edges = [0.0, -0.0, f32::NEG_INFINITY, -1e30, -88.0, f32::INFINITY, 1e30, 89.0, f32::MIN_POSITIVE];
        let expected = [1.0, 1.0, 0.0, 0.0, 0.0, f32::INFINITY, f32::INFINITY, f32::INFINITY, 1.0];
        assert_eq!(edges.map(exp), expected);
        assert!(exp(f32::NAN).is_nan());
    }

    #[test]
    fn updates_and_reductions_take_every_length() {
        for len in [0, 1, 7, 8, 9, 49, 64, 65, 200] {
            let x: Vec<f32> = (0..len).map(|i| (i % 13) as f32 - 20.0).collect();
            let doubled: Vec<f32> = x.iter().map(|v| v * 2.0).collect();
            let mut updated = x.clone();
            update(&mut updated, |v| v * 2.0);
            assert_eq!(updated, doubled);
            assert_eq!(sum(&x), x.iter().sum::<f32>());
            assert_eq!(dot(&x, &doubled), x.iter().map(|v| 2.0 * v * v).sum::<f32>());
            assert_eq!(max(&x), x.iter().copied().fold(f32::NEG_INFINITY, f32::max));
        }
    }
}
