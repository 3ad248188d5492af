//! A part of a row-major matrix that is written while others write its other columns.

#![allow(unsafe_code)] // Parts share lines of memory but no element; each argument stands where it is used.

use std::marker::PhantomData;
use std::ops::Range;

/// Some columns of all rows of a matrix, to write to.
#[derive(Debug)]
pub(in crate::model) struct Window<'a> {
    start: *mut f32,
    rows: usize,
    stride: usize,
    columns: Range<usize>,
    /// The elements of these columns are borrowed.
    elements: PhantomData<&'a mut [f32]>,
}

// SAFETY: a window is a mutable borrow of `f32`s: those of its columns, which no other window has.
unsafe impl Send for Window<'_> {}

impl<'a> Window<'a> {
    /// All columns of a matrix with rows of `stride`.
    pub(in crate::model) fn new(matrix: &'a mut [f32], stride: usize) -> Self {
        let rows = matrix.len() / stride;
        Self { start: matrix.as_mut_ptr(), rows, stride, columns: 0..stride, elements: PhantomData }
    }

    /// Some of the columns. Panics where they are not all this window's.
    ///
    /// # Safety
    /// Windows of overlapping columns must not be used at the same time, nor may this one while there are others.
    pub(super) unsafe fn part(&self, columns: Range<usize>) -> Window<'a> {
        assert!(
            columns.start >= self.columns.start && columns.end <= self.columns.end,
            "columns of others: {columns:?}"
        );
        Window { columns, ..*self }
    }

    /// How many rows there are.
    pub(super) fn rows(&self) -> usize {
        self.rows
    }

    /// The columns.
    pub(in crate::model) fn columns(&self) -> Range<usize> {
        self.columns.clone()
    }

    /// `lanes` elements of a row from a column on. Panics where they are not all this window's.
    #[inline(always)]
    pub(super) fn place(&mut self, row: usize, column: usize, lanes: usize) -> &mut [f32] {
        let inside = row < self.rows && column >= self.columns.start && column + lanes <= self.columns.end;
        assert!(inside, "beyond the window");
        // SAFETY: the row and the columns lie in the matrix that `new` has borrowed, and nobody else has these columns;
        // `self` is borrowed as long as the slice.
        unsafe { std::slice::from_raw_parts_mut(self.start.wrapping_add(row * self.stride + column), lanes) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[should_panic(expected = "beyond the window")]
    fn columns_of_others_are_refused() {
        let mut matrix = [0.0; 12];
        // SAFETY: it is the only one in use.
        let mut part = unsafe { Window::new(&mut matrix, 4).part(1..3) };
        part.place(2, 1, 2)[0] = 1.0;
        part.place(2, 2, 2)[0] = 1.0;
    }

    #[test]
    #[should_panic(expected = "beyond the window")]
    fn rows_beyond_the_matrix_are_refused() {
        let mut matrix = [0.0; 12];
        Window::new(&mut matrix, 4).place(3, 0, 1)[0] = 1.0;
    }
}
