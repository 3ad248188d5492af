//! Matrix products on strided views, single-threaded: the only place of the crate that calls unsafe code.
//!
//! A product over more than [`DEPTH`] terms is split here at fixed places, and every part is one chain of
//! multiply-adds, so a row of the result does not depend on how many rows there are. The exception is a single row:
//! the `gemm` crate then takes a matrix-vector path that adds in another order.
#![allow(unsafe_code)] // The `gemm` crate's one function is unsafe; `run` states why each call is sound.

use gemm::Parallelism;

use super::matrix::{Mat, MatMut};

/// Longest inner dimension that the `gemm` crate never splits by itself, whatever the other two are.
const DEPTH: usize = 512;

/// `dst = lhs · rhs`.
pub(super) fn assign(dst: MatMut<'_>, lhs: Mat<'_>, rhs: Mat<'_>) {
    check(&dst, lhs, rhs);
    run(dst.data.as_mut_ptr(), dst.row_stride, [lhs, rhs], false);
}

/// `dst += lhs · rhs`.
pub(super) fn accumulate(dst: MatMut<'_>, lhs: Mat<'_>, rhs: Mat<'_>) {
    check(&dst, lhs, rhs);
    run(dst.data.as_mut_ptr(), dst.row_stride, [lhs, rhs], true);
}

/// `lhs · rhs` in a new row-major buffer, which is never zeroed.
pub(super) fn product(lhs: Mat<'_>, rhs: Mat<'_>) -> Vec<f32> {
    assert_eq!(lhs.cols, rhs.rows, "inner dimensions differ");
    let mut out = Vec::with_capacity(lhs.rows * rhs.cols);
    run(out.as_mut_ptr(), rhs.cols, [lhs, rhs], false);
    // SAFETY: the capacity was reserved above, and `run` with `add == false` has written every element.
    unsafe { out.set_len(lhs.rows * rhs.cols) };
    out
}

fn check(dst: &MatMut<'_>, lhs: Mat<'_>, rhs: Mat<'_>) {
    assert_eq!(lhs.cols, rhs.rows, "inner dimensions differ");
    assert_eq!((dst.rows, dst.cols), (lhs.rows, rhs.cols), "the result has another shape");
}

/// Writes `lhs · rhs` to `dst` (row-major, dense columns), or adds it where `add`.
fn run(dst: *mut f32, dst_stride: usize, [lhs, rhs]: [Mat<'_>; 2], mut add: bool) {
    let mut start = 0;
    loop {
        let depth = DEPTH.min(lhs.cols - start);
        // SAFETY: `Mat` guarantees that all its elements lie in its slice, and `start + depth <= lhs.cols` keeps both
        // operands inside theirs; the callers guarantee that `dst` has room for lhs.rows rows of rhs.cols elements,
        // `dst_stride >= rhs.cols` apart, borrowed for writing, hence not aliased. Where `add` is false the crate
        // takes alpha as zero and writes `dst` without reading it, also for depth 0.
        unsafe {
            gemm::gemm(
                lhs.rows,
                rhs.cols,
                depth,
                dst,
                1,
                dst_stride.cast_signed(),
                add,
                lhs.data.as_ptr().wrapping_add(start * lhs.col_stride),
                lhs.col_stride.cast_signed(),
                lhs.row_stride.cast_signed(),
                rhs.data.as_ptr().wrapping_add(start * rhs.row_stride),
                rhs.col_stride.cast_signed(),
                rhs.row_stride.cast_signed(),
                if add { 1.0 } else { 0.0 },
                1.0,
                false,
                false,
                false,
                Parallelism::None,
            );
        }
        add = true;
        start += depth;
        if start == lhs.cols {
            break;
        }
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
        for (m, k, n) in [(1, 1, 1), (1, 40, 9), (3, 2, 5), (49, 16, 49), (7, 1100, 33), (2, 0, 3)] {
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
