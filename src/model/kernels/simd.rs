//! Vectors of sixteen `f32`, whatever the machine's registers hold, and the choice of instruction set at run time.
//!
//! A kernel is written once over [`Simd`]. Sixteen lanes are one register of AVX-512, two of AVX2, four of NEON, an
//! array elsewhere, and every operation rounds as the standard says: multiply-adds are fused everywhere and sums fold
//! in one fixed order. So a kernel gives the same bits on every machine.

#![allow(unsafe_code)] // Intrinsics, each behind a token that only detection gives out.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
pub(super) mod math;
mod portable;

use std::sync::OnceLock;

/// Lanes of a vector.
pub(super) const LANES: usize = 16;

/// The elements of one vector.
pub(super) type Lanes = [f32; LANES];

/// An instruction set: arithmetic on vectors of sixteen `f32`.
pub(in crate::model) trait Simd: Copy + Send + Sync {
    /// Sixteen `f32`.
    type V: Copy;
    /// Vectors of sums that the registers hold beside the operands of a product.
    const TILE_ROWS: usize;

    /// All lanes `x`.
    fn splat(self, x: f32) -> Self::V;
    /// The elements of `x`.
    fn load(self, x: &Lanes) -> Self::V;
    /// Writes the lanes to `x`.
    fn store(self, v: Self::V, x: &mut Lanes);
    /// `a + b`.
    fn add(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a - b`.
    fn sub(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a b`.
    fn mul(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a / b`.
    fn div(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a b + c`, rounded once.
    fn mul_add(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// `a b - c`, rounded once.
    fn mul_sub(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// `c - a b`, rounded once.
    fn neg_mul_add(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// `a` where `a > b`, else `b`: NaN in `a` gives `b`, NaN in `b` gives NaN.
    fn max(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a` where `a < b`, else `b`.
    fn min(self, a: Self::V, b: Self::V) -> Self::V;
    /// `2^n`, where `biased` is the integer `n` plus [`math::ROUND`]; zero for n = -127, infinity for n = 128.
    fn exp2(self, biased: Self::V) -> Self::V;
    /// Folds the halves onto each other until one lane is left.
    fn sum(self, v: Self::V) -> f32;
    /// The largest lane, folded as [`sum`](Self::sum).
    fn largest(self, v: Self::V) -> f32;
}

/// Work that is compiled once for each instruction set.
pub(super) trait Task {
    /// What it gives.
    type Output;
    /// Does it. Must be `#[inline(always)]`, and so must everything that it calls with `simd`.
    fn run<S: Simd>(self, simd: S) -> Self::Output;
}

/// Runs `task` with the best instruction set of this machine.
#[inline]
pub(super) fn dispatch<T: Task>(task: T) -> T::Output {
    match Isa::best() {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: `best` names an instruction set only where the machine has it.
        Isa::Avx512 => unsafe { avx512::run(task) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Isa::Avx2 => unsafe { avx2::run(task) },
        Isa::Portable => task.run(portable::Portable),
    }
}

/// Instruction sets that kernels are compiled for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Isa {
    #[cfg(target_arch = "x86_64")]
    Avx512,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// Plain Rust; on ARM the compiler makes NEON of it.
    Portable,
}

impl Isa {
    fn best() -> Self {
        static BEST: OnceLock<Isa> = OnceLock::new();
        *BEST.get_or_init(Self::detect)
    }

    #[cfg(all(target_arch = "x86_64", not(miri)))]
    fn detect() -> Self {
        match () {
            () if is_x86_feature_detected!("avx512f") => Self::Avx512,
            () if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") => Self::Avx2,
            () => Self::Portable,
        }
    }

    #[cfg(any(not(target_arch = "x86_64"), miri))]
    fn detect() -> Self {
        Self::Portable
    }
}

/// The name of the instruction set that kernels run with on this machine.
pub(super) fn name() -> &'static str {
    match Isa::best() {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => "AVX-512",
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => "AVX2",
        Isa::Portable => "portable",
    }
}

/// The first sixteen elements of `x`; those beyond its end are `filler`.
#[inline(always)]
pub(super) fn load_partial<S: Simd>(simd: S, x: &[f32], filler: f32) -> S::V {
    match x.first_chunk() {
        Some(lanes) => simd.load(lanes),
        None => {
            let mut lanes = [filler; LANES];
            lanes[..x.len()].copy_from_slice(x);
            simd.load(&lanes)
        }
    }
}

/// Writes as many lanes as `x` has room for, at most sixteen.
#[inline(always)]
pub(super) fn store_partial<S: Simd>(simd: S, v: S::V, x: &mut [f32]) {
    match x.first_chunk_mut() {
        Some(lanes) => simd.store(v, lanes),
        None => {
            let mut lanes = [0.0; LANES];
            simd.store(v, &mut lanes);
            x.copy_from_slice(&lanes[..x.len()]);
        }
    }
}

/// The same task in plain Rust, to compare with.
#[cfg(test)]
pub(super) fn reference<T: Task>(task: T) -> T::Output {
    task.run(portable::Portable)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Every operation of two vectors, one after the other.
    struct Everything {
        a: Lanes,
        b: Lanes,
    }

    impl Task for Everything {
        type Output = Vec<f32>;

        #[inline(always)]
        fn run<S: Simd>(self, simd: S) -> Vec<f32> {
            let (a, b) = (simd.load(&self.a), simd.load(&self.b));
            let c = simd.splat(self.a[3]);
            let biased =
                simd.add(simd.splat(math::ROUND), simd.max(simd.splat(-126.0), simd.min(simd.splat(127.0), a)));
            let vectors = [
                simd.add(a, b),
                simd.sub(a, b),
                simd.mul(a, b),
                simd.div(a, b),
                simd.mul_add(a, b, c),
                simd.mul_sub(a, b, c),
                simd.neg_mul_add(a, b, c),
                simd.max(a, b),
                simd.min(a, b),
                simd.exp2(biased),
                math::exp(simd, a),
                math::silu(simd, b),
                load_partial(simd, &self.a[..5], 7.0),
            ];
            let mut out = vec![simd.sum(a), simd.largest(a)];
            for v in vectors {
                let mut lanes = [0.0; LANES];
                simd.store(v, &mut lanes);
                out.extend_from_slice(&lanes);
            }
            store_partial(simd, a, &mut out[..7]);
            out
        }
    }

    fn bits(x: &[f32]) -> Vec<u32> {
        x.iter().map(|x| if x.is_nan() { f32::NAN.to_bits() } else { x.to_bits() }).collect()
    }

    proptest! {
        /// What a machine computes does not depend on its instruction set.
        #[test]
        fn every_instruction_set_gives_the_same_bits(
            a in prop::array::uniform16(-120.0f32..120.0),
            b in prop::array::uniform16(-3.0f32..3.0),
        ) {
            prop_assert_eq!(bits(&dispatch(Everything { a, b })), bits(&reference(Everything { a, b })));
        }
    }

    /// One function of many numbers.
    struct Map<'a>(&'a [f32], bool);

    impl Task for Map<'_> {
        type Output = Vec<f32>;

        #[inline(always)]
        fn run<S: Simd>(self, simd: S) -> Vec<f32> {
            let mut out = vec![0.0; self.0.len()];
            for (x, out) in self.0.chunks(LANES).zip(out.chunks_mut(LANES)) {
                let x = load_partial(simd, x, 0.0);
                store_partial(simd, if self.1 { math::silu(simd, x) } else { math::exp(simd, x) }, out);
            }
            out
        }
    }

    #[test]
    fn exp_is_within_two_units_in_the_last_place() {
        let x: Vec<f32> = (-87_300..=88_300).map(|i| i as f32 * 1e-3 + 1e-5).collect();
        for (x, y) in x.iter().zip(dispatch(Map(&x, false))) {
            let exact = f64::from(*x).exp();
            assert!((f64::from(y) / exact - 1.0).abs() < 1.5e-7, "exp({x}) = {y}, not {exact}");
        }
        let edges = [0.0, -0.0, f32::NEG_INFINITY, -1e30, -88.0, f32::INFINITY, 1e30, 89.0, f32::MIN_POSITIVE];
        let expected = [1.0, 1.0, 0.0, 0.0, 0.0, f32::INFINITY, f32::INFINITY, f32::INFINITY, 1.0];
        assert_eq!(dispatch(Map(&edges, false)), expected);
        assert!(dispatch(Map(&[f32::NAN], false))[0].is_nan());
    }

    #[test]
    fn silu_keeps_its_digits_in_both_tails() {
        let x: Vec<f32> = (-8700..=8700).map(|i| i as f32 * 0.01 + 1e-4).collect();
        for (x, y) in x.iter().zip(dispatch(Map(&x, true))) {
            let exact = f64::from(*x) / (1.0 + (-f64::from(*x)).exp());
            assert!((f64::from(y) / exact - 1.0).abs() < 4e-7, "silu({x}) = {y}, not {exact}");
        }
        assert_eq!(dispatch(Map(&[-1e30, 0.0, 1e30], true)), [0.0, 0.0, 1e30]);
        assert!(dispatch(Map(&[f32::NAN], true))[0].is_nan());
    }
}
