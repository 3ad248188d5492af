//! Matrices as views of slices.

use std::ops::Range;

use super::packed::Panels;
use super::simd::LANES;

/// A read-only matrix: a view of a slice with strides.
#[derive(Debug, Clone, Copy)]
pub(in crate::model) struct Mat<'a> {
    pub(super) data: &'a [f32],
    pub(super) rows: usize,
    pub(super) cols: usize,
    pub(super) row_stride: usize,
    pub(super) col_stride: usize,
}

impl<'a> Mat<'a> {
    /// `rows × cols`, row-major from the start of `data`, with rows `row_stride >= cols` apart. Panics where `data`
    /// is too short.
    pub(in crate::model) fn new(data: &'a [f32], rows: usize, cols: usize, row_stride: usize) -> Self {
        assert_fits(data, rows, cols, row_stride);
        Self { data, rows, cols, row_stride, col_stride: 1 }
    }

    /// The transposed view.
    pub(super) fn t(self) -> Self {
        let Self { data, rows, cols, row_stride, col_stride } = self;
        Self { data, rows: cols, cols: rows, row_stride: col_stride, col_stride: row_stride }
    }

    /// Some rows and columns.
    pub(super) fn part(self, rows: Range<usize>, cols: Range<usize>) -> Self {
        assert!(rows.end <= self.rows && cols.end <= self.cols, "beyond the matrix");
        let start = (rows.start * self.row_stride + cols.start * self.col_stride).min(self.data.len());
        Self { data: &self.data[start..], rows: rows.len(), cols: cols.len(), ..self }
    }

    /// The matrix as panels where it lies, if its rows are whole vectors.
    pub(super) fn as_panels(self) -> Option<Panels<'a>> {
        let whole = self.col_stride == 1 && self.cols.is_multiple_of(LANES);
        whole.then(|| Panels::new(self.data, [self.rows, self.cols], [self.row_stride, LANES]))
    }

    /// Where a row begins; its `cols` elements lie in the slice.
    #[inline(always)]
    pub(super) fn row_ptr(self, row: usize) -> *const f32 {
        assert!(row < self.rows, "no row {row} in {}", self.rows);
        // In bounds by `assert_fits`, where there is a column at all.
        self.data.as_ptr().wrapping_add(row * self.row_stride)
    }

    /// Copies the elements of `row` from `column` on.
    pub(super) fn copy_row(self, row: usize, column: usize, out: &mut [f32]) {
        assert!(row < self.rows && column + out.len() <= self.cols, "beyond the matrix");
        let start = row * self.row_stride + column * self.col_stride;
        if self.col_stride == 1 {
            out.copy_from_slice(&self.data[start..start + out.len()]);
        } else {
            for (i, out) in out.iter_mut().enumerate() {
                *out = self.data[start + i * self.col_stride];
            }
        }
    }
}

/// A row-major matrix to write to.
#[derive(Debug)]
pub(in crate::model) struct MatMut<'a> {
    pub(super) data: &'a mut [f32],
    pub(super) rows: usize,
    pub(super) cols: usize,
    pub(super) row_stride: usize,
}

impl<'a> MatMut<'a> {
    /// As [`Mat::new`].
    pub(in crate::model) fn new(data: &'a mut [f32], rows: usize, cols: usize, row_stride: usize) -> Self {
        assert_fits(data, rows, cols, row_stride);
        Self { data, rows, cols, row_stride }
    }

    /// Some rows.
    pub(super) fn rows(&mut self, rows: Range<usize>) -> MatMut<'_> {
        assert!(rows.end <= self.rows, "beyond the matrix");
        let start = (rows.start * self.row_stride).min(self.data.len());
        MatMut { data: &mut self.data[start..], rows: rows.len(), cols: self.cols, row_stride: self.row_stride }
    }

    /// Where `R` rows from `row` on begin; their `cols` elements lie in the slice. Panics where there are fewer.
    #[inline(always)]
    pub(super) fn row_ptrs<const R: usize>(&mut self, row: usize) -> [*mut f32; R] {
        assert!(row + R <= self.rows, "no rows up to {} in {}", row + R, self.rows);
        // All from one borrow: a second one would end the claim of the first.
        let start = self.data.as_mut_ptr();
        let mut rows = [start; R];
        for (r, start) in rows.iter_mut().enumerate() {
            *start = start.wrapping_add((row + r) * self.row_stride);
        }
        rows
    }
}

fn assert_fits(data: &[f32], rows: usize, cols: usize, row_stride: usize) {
    assert!(cols <= row_stride, "rows of {cols} elements overlap at a distance of {row_stride}");
    let needed = if rows == 0 { 0 } else { (rows - 1) * row_stride + cols };
    assert!(needed <= data.len(), "a {rows}x{cols} matrix needs {needed} elements of {}", data.len());
}
