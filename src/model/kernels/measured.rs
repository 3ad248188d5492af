//! What `benches/kernels.rs` measures: kernels on made-up numbers, ready to be called again and again.

use std::hint::black_box;

use super::attend::{self, attend};
use super::conv::{Finish, Served};
use super::epilogue::Silu;
use super::matrix::{Mat, MatMut};
use super::packed::{Packed, Product, Store};
use super::rows::NormModulate;
use super::simd::{self, Simd, Task, dispatch};
use crate::model::sides::Sides;

/// The instruction set that kernels run with on this machine.
pub fn instruction_set() -> &'static str {
    simd::name()
}

/// Reproducible numbers in [-1, 1].
fn numbers(seed: usize, len: usize) -> Vec<f32> {
    (0..len).map(|i| ((i * 37 + seed * 53 + 11) % 101) as f32 / 50.0 - 1.0).collect()
}

/// Turns of [`peak`].
const TURNS: usize = 10_000;

/// Operations of one call of [`peak`].
pub const PEAK_OPERATIONS: f64 = (TURNS * 6 * 2 * simd::LANES) as f64;

/// As many multiply-adds as the machine can do, without memory.
pub fn peak() {
    black_box(dispatch(Peak(black_box(0.999))));
}

struct Peak(f32);

impl Task for Peak {
    type Output = f32;

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> f32 {
        let factor = simd.splat(self.0);
        let mut sums = [simd.splat(1.0); 6];
        for _ in 0..TURNS {
            for sum in &mut sums {
                *sum = simd.mul_add(*sum, factor, factor);
            }
        }
        let mut all = sums[0];
        for sum in &sums[1..] {
            all = simd.add(all, *sum);
        }
        simd.sum(all)
    }
}

/// `x W + b` of `x (m, k)` and `W (k, n)`, with SiLU if `silu`.
pub fn linear([m, k, n]: [usize; 3], silu: bool) -> impl FnMut() {
    let (x, bias, packed) = (numbers(1, m * k), numbers(2, n), Packed::new(Mat::new(&numbers(3, k * n), k, n, n)));
    let mut out = vec![0.0; m * n];
    move || {
        let (x, weights, bias, out) =
            (Mat::new(&x, m, k, k), packed.panels(), Some(&bias[..]), MatMut::new(&mut out, m, n, n));
        match silu {
            true => Product { x, weights, bias, out, epilogue: Silu }.run(),
            false => Product { x, weights, bias, out, epilogue: Store }.run(),
        }
    }
}

/// Layer norm and modulation of `rows` rows.
pub fn norm(rows: usize, columns: usize) -> impl FnMut() {
    let (x, scale, shift) = (numbers(1, rows * columns), numbers(2, columns), numbers(3, columns));
    let mut out = vec![0.0; rows * columns];
    move || NormModulate { x: &x, scale: &scale, shift: &shift, eps: 1e-6, out: &mut out }.run()
}

/// Self-attention of one image.
pub fn attention(tokens: usize, channels: usize, heads: usize) -> impl FnMut() {
    let shape = attend::Shape { tokens, channels, heads };
    let (qkv, mut scratch) = (numbers(1, 3 * tokens * channels), vec![0.0; shape.scratch()]);
    let mut out = vec![0.0; tokens * channels];
    move || attend(shape, &qkv, 0, &mut out, &mut scratch)
}

/// A 3×3 convolution of one image, by the algorithm that serves it.
pub fn convolution(side: usize, channels: usize) -> impl FnMut() {
    let sides = Sides { height: side, width: side };
    let conv = Served::new(sides, [channels; 2], &numbers(1, 9 * channels * channels));
    let (image, bias) = (numbers(2, sides.pixels() * channels), numbers(3, channels));
    let (mut out, mut scratch) = (vec![0.0; image.len()], vec![0.0; conv.scratch()]);
    move || {
        let finish = Finish { bias: &bias, shift: None, residual: None };
        conv.forward(&image, 0..side, finish, &mut out, &mut scratch);
    }
}
