//! Matrix products of strided views on this thread: what training multiplies, activations and gradients, packed anew
//! each time.
//!
//! Depth is cut at places that depend on the right operand's shape alone, and between them every element is one chain of
//! multiply-adds; so a row's bits do not depend on how many rows there are.

use std::cell::RefCell;
use std::ops::Range;

use super::buffer;
use super::epilogue::Accumulate;
use super::matrix::{Mat, MatMut};
use super::packed::{Epilogue, Packed, Panels, Product, Store};

/// Most elements of a block of packed panels: half of a second-level cache.
const BLOCK: usize = 64 << 10;

/// Columns of a transposed left operand that are copied side by side: whole tiles, whose lines then lie together
/// instead of at distances that share a few places of the first-level cache.
const STRIP: usize = 24;

/// Up to this depth operands are read where they lie: their lines fit the first-level cache at any distance.
const SHALLOW: usize = 64;

thread_local! {
    static SCRATCH: RefCell<Scratch> = const { RefCell::new(Scratch { panels: Packed::empty(), strip: Vec::new() }) };
}

/// Memory for copies of operands.
struct Scratch {
    panels: Packed,
    strip: Vec<f32>,
}

/// `dst = lhs · rhs`.
pub(super) fn assign(dst: MatMut<'_>, lhs: Mat<'_>, rhs: Mat<'_>) {
    multiply(dst, lhs, rhs, None, false);
}

/// `dst += lhs · rhs`.
pub(super) fn accumulate(dst: MatMut<'_>, lhs: Mat<'_>, rhs: Mat<'_>) {
    multiply(dst, lhs, rhs, None, true);
}

/// `lhs · rhs` in a new row-major buffer.
pub(super) fn product(lhs: Mat<'_>, rhs: Mat<'_>) -> Vec<f32> {
    affine(lhs, rhs, None)
}

/// `lhs · rhs + bias` in a new row-major buffer, the bias in every row.
pub(super) fn affine(lhs: Mat<'_>, rhs: Mat<'_>, bias: Option<&[f32]>) -> Vec<f32> {
    let mut out = buffer::take(lhs.rows * rhs.cols);
    multiply(MatMut::new(&mut out, lhs.rows, rhs.cols, rhs.cols), lhs, rhs, bias, false);
    out
}

fn multiply(mut dst: MatMut<'_>, lhs: Mat<'_>, rhs: Mat<'_>, bias: Option<&[f32]>, add: bool) {
    assert_eq!(lhs.cols, rhs.rows, "inner dimensions differ");
    assert_eq!((dst.rows, dst.cols), (lhs.rows, rhs.cols), "the result has another shape");
    SCRATCH.with_borrow_mut(|Scratch { panels, strip }| {
        for depth in depths(rhs) {
            let (lhs, rhs) = (lhs.part(0..lhs.rows, depth.clone()), rhs.part(depth.clone(), 0..rhs.cols));
            let weights = match rhs.as_panels() {
                Some(weights) if rhs.rows <= SHALLOW => weights,
                _ => {
                    panels.pack(rhs);
                    panels.panels()
                }
            };
            let bias = bias.filter(|_| depth.start == 0);
            if add || depth.start > 0 {
                block(&mut dst, lhs, (weights, bias), Accumulate, strip);
            } else {
                block(&mut dst, lhs, (weights, bias), Store, strip);
            }
        }
    });
}

/// Parts of nearly equal depth whose panels stay in the cache; one empty part where there is no depth at all.
fn depths(rhs: Mat<'_>) -> impl Iterator<Item = Range<usize>> + use<> {
    let inner = rhs.rows;
    let parts = (inner * rhs.cols).div_ceil(BLOCK).clamp(1, inner.max(1));
    let each = inner.div_ceil(parts);
    let depths = (0..parts).map(move |part| (part * each).min(inner)..((part + 1) * each).min(inner));
    depths.filter(|depth| depth.start == 0 || !depth.is_empty())
}

/// `lhs` times some panels.
fn block(
    dst: &mut MatMut<'_>,
    lhs: Mat<'_>,
    (weights, bias): (Panels<'_>, Option<&[f32]>),
    epilogue: impl Epilogue,
    strip: &mut Vec<f32>,
) {
    if lhs.col_stride == 1 || lhs.cols <= SHALLOW {
        return Product { x: lhs, weights, bias, out: dst.rows(0..lhs.rows), epilogue }.run();
    }
    for start in (0..lhs.rows).step_by(STRIP) {
        let rows = start..lhs.rows.min(start + STRIP);
        let width = rows.len();
        copy(lhs.part(rows.clone(), 0..lhs.cols).t(), strip);
        let x = Mat::new(strip, lhs.cols, width, width).t();
        Product { x, weights, bias, out: dst.rows(rows), epilogue }.run();
    }
}

/// Copies a strip, row after row.
fn copy(strip: Mat<'_>, out: &mut Vec<f32>) {
    out.resize(strip.rows * strip.cols, 0.0);
    let (full, _) = out.as_chunks_mut::<STRIP>();
    if strip.cols == STRIP && strip.col_stride == 1 {
        for (row, out) in full.iter_mut().enumerate() {
            if let Some(numbers) = strip.data[row * strip.row_stride..].first_chunk() {
                *out = *numbers;
            }
        }
        return;
    }
    for (row, out) in out.chunks_exact_mut(strip.cols.max(1)).enumerate() {
        strip.copy_row(row, 0, out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ramp(len: usize) -> Vec<f32> {
        (0..len).map(|i| ((i * 37 + 11) % 101) as f32 / 50.0 - 1.0).collect()
    }

    fn naive(lhs: Mat<'_>, rhs: Mat<'_>) -> Vec<f32> {
        let at = |m: Mat<'_>, i: usize, j: usize| f64::from(m.data[i * m.row_stride + j * m.col_stride]);
        let cell = |i, j| (0..lhs.cols).map(|k| at(lhs, i, k) * at(rhs, k, j)).sum::<f64>() as f32;
        (0..lhs.rows).flat_map(|i| (0..rhs.cols).map(move |j| cell(i, j))).collect()
    }

    #[test]
    fn products_of_every_orientation_agree_with_the_definition() {
        for (m, k, n) in [(1, 1, 1), (1, 40, 9), (3, 2, 5), (49, 16, 49), (7, 1100, 133), (61, 300, 1), (2, 0, 3)] {
            let (a, b) = (ramp(m.max(k) * 1200), ramp(n.max(k) * 1200));
            for lhs in [Mat::new(&a, m, k, k + 3), Mat::new(&a, k, m, m).t()] {
                for rhs in [Mat::new(&b, k, n, n), Mat::new(&b, n, k, k + 1).t()] {
                    let (got, want) = (product(lhs, rhs), naive(lhs, rhs));
                    assert!(got.iter().zip(&want).all(|(g, w)| (g - w).abs() < 2e-5 * (k as f32).sqrt() + 1e-7));
                    let mut twice = got.clone();
                    accumulate(MatMut::new(&mut twice, m, n, n), lhs, rhs);
                    assert!(twice.iter().zip(&got).all(|(t, g)| (t - 2.0 * g).abs() < 1e-4));
                    assign(MatMut::new(&mut twice, m, n, n), lhs, rhs);
                    assert_eq!(twice, got);
                }
            }
        }
    }

    #[test]
    fn the_bias_is_added_once_however_deep_the_product() {
        let (a, b, bias) = (ramp(2 * 3000), ramp(3000 * 70), ramp(70));
        let (lhs, rhs) = (Mat::new(&a, 2, 3000, 3000), Mat::new(&b, 3000, 70, 70));
        let (with, without) = (affine(lhs, rhs, Some(&bias)), product(lhs, rhs));
        for (i, (with, without)) in with.iter().zip(&without).enumerate() {
            assert!((with - without - bias[i % 70]).abs() < 1e-3);
        }
    }

    #[test]
    fn strided_writes_leave_the_gaps_alone() {
        let (a, mut out) = (ramp(6), vec![9.0; 8]);
        assign(MatMut::new(&mut out, 2, 2, 5), Mat::new(&a, 2, 3, 3), Mat::new(&a, 3, 2, 2));
        assert!(out[2..5].iter().chain(&out[7..]).all(|&v| v == 9.0));
        assert_ne!(out[5], 9.0);
    }

    #[test]
    #[should_panic(expected = "needs 7 elements of 6")]
    fn a_view_beyond_its_slice_is_refused() {
        let _ = Mat::new(&[0.0; 6], 2, 3, 4);
    }
}
