//! Sixteen lanes as an array: the reference, and the path of machines that the other files do not know.

use super::math::ROUND_BITS_TO_EXPONENT;
use super::{LANES, Lanes, Simd};

/// Plain Rust.
#[derive(Debug, Clone, Copy)]
pub(super) struct Portable;

#[inline(always)]
fn zip(a: Lanes, b: Lanes, f: impl Fn(f32, f32) -> f32) -> Lanes {
    std::array::from_fn(|i| f(a[i], b[i]))
}

#[inline(always)]
fn fold(mut lanes: Lanes, f: impl Fn(f32, f32) -> f32) -> f32 {
    let mut half = LANES / 2;
    while half > 0 {
        for l in 0..half {
            lanes[l] = f(lanes[l], lanes[l + half]);
        }
        half /= 2;
    }
    lanes[0]
}

impl Simd for Portable {
    type V = Lanes;
    const TILE_ROWS: usize = 6;

    #[inline(always)]
    fn splat(self, x: f32) -> Lanes {
        [x; LANES]
    }

    #[inline(always)]
    fn load(self, x: &Lanes) -> Lanes {
        *x
    }

    #[inline(always)]
    fn store(self, v: Lanes, x: &mut Lanes) {
        *x = v;
    }

    #[inline(always)]
    fn add(self, a: Lanes, b: Lanes) -> Lanes {
        zip(a, b, |a, b| a + b)
    }

    #[inline(always)]
    fn sub(self, a: Lanes, b: Lanes) -> Lanes {
        zip(a, b, |a, b| a - b)
    }

    #[inline(always)]
    fn mul(self, a: Lanes, b: Lanes) -> Lanes {
        zip(a, b, |a, b| a * b)
    }

    #[inline(always)]
    fn div(self, a: Lanes, b: Lanes) -> Lanes {
        zip(a, b, |a, b| a / b)
    }

    #[inline(always)]
    fn mul_add(self, a: Lanes, b: Lanes, c: Lanes) -> Lanes {
        std::array::from_fn(|i| a[i].mul_add(b[i], c[i]))
    }

    #[inline(always)]
    fn mul_sub(self, a: Lanes, b: Lanes, c: Lanes) -> Lanes {
        std::array::from_fn(|i| a[i].mul_add(b[i], -c[i]))
    }

    #[inline(always)]
    fn neg_mul_add(self, a: Lanes, b: Lanes, c: Lanes) -> Lanes {
        std::array::from_fn(|i| (-a[i]).mul_add(b[i], c[i]))
    }

    #[inline(always)]
    fn max(self, a: Lanes, b: Lanes) -> Lanes {
        zip(a, b, |a, b| if a > b { a } else { b })
    }

    #[inline(always)]
    fn min(self, a: Lanes, b: Lanes) -> Lanes {
        zip(a, b, |a, b| if a < b { a } else { b })
    }

    #[inline(always)]
    fn exp2(self, biased: Lanes) -> Lanes {
        biased.map(|x| f32::from_bits((x.to_bits() << 23).wrapping_add(ROUND_BITS_TO_EXPONENT)))
    }

    #[inline(always)]
    fn sum(self, v: Lanes) -> f32 {
        fold(v, |a, b| a + b)
    }

    #[inline(always)]
    fn largest(self, v: Lanes) -> f32 {
        fold(v, |a, b| if a > b { a } else { b })
    }
}
