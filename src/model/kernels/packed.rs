//! Matrix products with weights that are packed once: `epilogue(x W + b)`.
//!
//! Columns of the weights lie in panels of sixteen, one vector for each row of `W`, so that the inner loop reads them
//! in sequence. A tile of the result stays in registers from the bias to the epilogue. Every element is one chain of
//! fused multiply-adds from its bias over the rows of `W` in their order: its bits depend neither on the number of rows
//! nor on the tiles that they fall into nor on the machine.

#![expect(
    clippy::needless_range_loop,
    reason = "plain loops over arrays are what is inlined into every instruction set"
)]
#![allow(unsafe_code)] // The inner loop reads through pointers; `Product::run` checks their bounds once.

use std::ops::Range;

use super::matrix::{Mat, MatMut};
use super::simd::{LANES, Lanes, Simd, Task, dispatch, load_partial, store_partial};

/// Bytes of panels that all tiles of rows go by before the next ones come: they stay in the second-level cache, and what
/// is larger comes from beyond it once.
const BLOCK_BYTES: usize = 128 << 10;

/// Sixteen weights, on a line of the cache of their own.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
struct Line(Lanes);

/// A matrix `(K, N)` in panels of sixteen columns, the last one filled up with zeros.
#[derive(Debug, Clone)]
pub(in crate::model) struct Packed {
    /// Panel after panel, each `K` lines.
    lines: Vec<Line>,
    inner: usize,
    outer: usize,
}

impl Packed {
    /// Packs `w (K, N)`.
    pub(in crate::model) fn new(w: Mat<'_>) -> Self {
        let mut packed = Self::empty();
        packed.pack(w);
        packed
    }

    /// Memory for panels to come.
    pub(super) const fn empty() -> Self {
        Self { lines: Vec::new(), inner: 0, outer: 0 }
    }

    /// Packs `w` into the memory of what was here.
    pub(super) fn pack(&mut self, w: Mat<'_>) {
        (self.inner, self.outer) = (w.rows, w.cols);
        self.lines.resize(w.rows * w.cols.div_ceil(LANES), Line([0.0; LANES]));
        for (panel, lines) in self.lines.chunks_exact_mut(w.rows.max(1)).enumerate() {
            let start = panel * LANES;
            let width = LANES.min(w.cols - start);
            if width < LANES {
                lines.fill(Line([0.0; LANES]));
            }
            if w.col_stride == 1 {
                for (k, line) in lines.iter_mut().enumerate() {
                    let row = &w.data[k * w.row_stride + start..][..width];
                    match row.first_chunk() {
                        Some(lanes) => line.0 = *lanes,
                        None => line.0[..width].copy_from_slice(row),
                    }
                }
                continue;
            }
            // Sixteen lines at a time, which stay in the first-level cache while the columns come past.
            for (block, lines) in lines.chunks_mut(LANES).enumerate() {
                for lane in 0..width {
                    let first = (start + lane) * w.col_stride + block * LANES * w.row_stride;
                    turn(&w.data[first..], w.row_stride, lane, lines);
                }
            }
        }
    }

    /// `N`.
    pub(in crate::model) fn outer(&self) -> usize {
        self.outer
    }

    /// The panels of some columns, from a multiple of sixteen on.
    pub(super) fn part(&self, columns: Range<usize>) -> Panels<'_> {
        assert!(columns.start.is_multiple_of(LANES) && columns.end <= self.outer, "no panels of {columns:?}");
        let Panels { data, inner, line, panel, .. } = self.panels();
        Panels::new(&data[columns.start / LANES * panel..], [inner, columns.len()], [line, panel])
    }

    /// The panels.
    #[inline(always)]
    pub(in crate::model) fn panels(&self) -> Panels<'_> {
        // SAFETY: a `Line` is sixteen `f32` without padding, and the slice covers the vector's lines.
        let data = unsafe { std::slice::from_raw_parts(self.lines.as_ptr().cast(), self.lines.len() * LANES) };
        Panels::new(data, [self.inner, self.outer], [LANES, self.inner * LANES])
    }
}

/// Puts numbers that lie `stride` apart into one lane of lines.
#[inline(always)]
fn turn(numbers: &[f32], stride: usize, lane: usize, lines: &mut [Line]) {
    if let (1, Some(numbers), Ok(lines)) =
        (stride, numbers.first_chunk::<LANES>(), <&mut [Line; LANES]>::try_from(&mut *lines))
    {
        for (line, number) in lines.iter_mut().zip(numbers) {
            line.0[lane] = *number;
        }
        return;
    }
    for (line, number) in lines.iter_mut().zip(numbers.iter().step_by(stride)) {
        line.0[lane] = *number;
    }
}

/// A view of a matrix `(K, N)` in panels of sixteen columns.
#[derive(Debug, Clone, Copy)]
pub(in crate::model) struct Panels<'a> {
    data: &'a [f32],
    inner: usize,
    outer: usize,
    /// Distance of a panel's lines.
    line: usize,
    /// Distance of the panels.
    panel: usize,
}

impl<'a> Panels<'a> {
    /// A view of `data` as `inner` lines of `outer` columns; `line` and `panel` are the distances of a panel's lines
    /// and of the panels. Panics where a line would end beyond `data`.
    #[inline(always)]
    pub(super) fn new(data: &'a [f32], [inner, outer]: [usize; 2], [line, panel]: [usize; 2]) -> Self {
        let last = outer.div_ceil(LANES).saturating_sub(1) * panel + inner.saturating_sub(1) * line;
        assert!(inner * outer == 0 || last + LANES <= data.len(), "panels of {inner} x {outer} end beyond their data");
        Self { data, inner, outer, line, panel }
    }

    /// Where a panel begins.
    #[inline(always)]
    fn panel_ptr(self, panel: usize) -> *const f32 {
        assert!(panel < self.outer.div_ceil(LANES), "no panel {panel}");
        self.data.as_ptr().wrapping_add(panel * self.panel)
    }
}

/// The left side of a product: a matrix whose rows are alike, each a few runs of elements at equal distances.
///
/// # Safety
/// From each of the pointers that [`starts`](Self::starts) gives for rows of the matrix, all elements of its
/// [`runs`](Self::runs) must be readable, and together they must be as many as the matrix has columns.
pub(in crate::model) unsafe trait Rows: Copy {
    /// Rows and columns.
    fn shape(self) -> [usize; 2];
    /// How the elements of a row follow each other.
    fn runs(self) -> Runs;
    /// Where the rows from `row` on begin. Panics where there are fewer.
    fn starts<const R: usize>(self, row: usize) -> [*const f32; R];
}

/// The elements of a row: `count` runs of `len` elements `step` apart, the runs `jump` apart.
#[derive(Debug, Clone, Copy)]
pub(in crate::model) struct Runs {
    pub(super) count: usize,
    pub(super) len: usize,
    pub(super) step: usize,
    pub(super) jump: usize,
}

// SAFETY: a `Mat` asserts that all its elements lie in its slice when it is made.
unsafe impl Rows for Mat<'_> {
    #[inline(always)]
    fn shape(self) -> [usize; 2] {
        [self.rows, self.cols]
    }

    #[inline(always)]
    fn runs(self) -> Runs {
        Runs { count: 1, len: self.cols, step: self.col_stride, jump: 0 }
    }

    #[inline(always)]
    fn starts<const R: usize>(self, row: usize) -> [*const f32; R] {
        let mut starts = [std::ptr::null(); R];
        for r in 0..R {
            starts[r] = self.row_ptr(row + r);
        }
        starts
    }
}

/// What becomes of the sums of a product before they are written.
pub(in crate::model) trait Epilogue: Copy {
    /// The values of up to sixteen columns from `column` on of `row`, from their sums `x W + b` and from what is in
    /// their place now.
    fn finish<S: Simd>(self, simd: S, sum: S::V, place: Place<'_>) -> S::V;
}

/// A place of up to sixteen columns in a result.
#[derive(Debug, Clone, Copy)]
pub(in crate::model) struct Place<'a> {
    /// Its row.
    pub(super) row: usize,
    /// Its first column.
    pub(super) column: usize,
    /// What is there now.
    pub(super) now: &'a [f32],
}

/// Writes the sums as they are.
#[derive(Debug, Clone, Copy)]
pub(in crate::model) struct Store;

impl Epilogue for Store {
    #[inline(always)]
    fn finish<S: Simd>(self, _: S, sum: S::V, _: Place<'_>) -> S::V {
        sum
    }
}

/// `out = epilogue(x W + b)`.
pub(in crate::model) struct Product<'a, X, E> {
    /// `x (M, K)`.
    pub(in crate::model) x: X,
    /// `W (K, N)`.
    pub(in crate::model) weights: Panels<'a>,
    /// `b (N)`; zeros if absent.
    pub(in crate::model) bias: Option<&'a [f32]>,
    /// `(M, N)`.
    pub(in crate::model) out: MatMut<'a>,
    /// What becomes of the sums.
    pub(in crate::model) epilogue: E,
}

impl<X: Rows, E: Epilogue> Product<'_, X, E> {
    /// Computes it on this thread.
    ///
    /// Panics where the shapes do not go together.
    pub(in crate::model) fn run(self) {
        let [rows, columns] = self.x.shape();
        assert_eq!(columns, self.weights.inner, "inner dimensions differ");
        assert_eq!((self.out.rows, self.out.cols), (rows, self.weights.outer), "the result has another shape");
        assert!(self.bias.is_none_or(|bias| bias.len() == self.weights.outer), "a bias of another length");
        dispatch(self);
    }
}

impl<X: Rows, E: Epilogue> Task for Product<'_, X, E> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(mut self, simd: S) {
        if self.weights.outer == 0 {
            return;
        }
        let tiles = Tiles::new(self.out.rows, S::TILE_ROWS);
        let panels = self.weights.outer.div_ceil(LANES);
        // A tile's rows of `x` stay in the first-level cache while a block of panels streams past.
        let block = (BLOCK_BYTES / (self.weights.inner * size_of::<Line>()).max(1)).max(1).next_multiple_of(6);
        for first in (0..panels).step_by(block) {
            for tile in 0..tiles.count {
                self.tile(simd, tiles.rows(tile), first..panels.min(first + block));
            }
        }
    }
}

/// Rows in tiles of nearly equal size: of 49 rows not eight of six and one of one, which would cost as much as a whole
/// one, but four of six and five of five.
#[derive(Debug, Clone, Copy)]
struct Tiles {
    rows: usize,
    count: usize,
}

impl Tiles {
    #[inline(always)]
    fn new(rows: usize, most: usize) -> Self {
        Self { rows, count: rows.div_ceil(most) }
    }

    #[inline(always)]
    fn rows(self, tile: usize) -> Range<usize> {
        let (each, longer) = (self.rows / self.count, self.rows % self.count);
        let start = tile * each + tile.min(longer);
        start..start + each + usize::from(tile < longer)
    }
}

impl<X: Rows, E: Epilogue> Product<'_, X, E> {
    /// Some panels of `rows`. Few rows take several panels at a time, for their chains to hide each other's latency.
    #[inline(always)]
    fn tile<S: Simd>(&mut self, simd: S, rows: Range<usize>, panels: Range<usize>) {
        let row = rows.start;
        match rows.len() {
            1 => return self.sized::<S, 1, 6>(simd, row, panels),
            2 => return self.sized::<S, 2, 3>(simd, row, panels),
            3 => return self.sized::<S, 3, 2>(simd, row, panels),
            4 => return self.sized::<S, 4, 1>(simd, row, panels),
            5 => return self.sized::<S, 5, 1>(simd, row, panels),
            6 => return self.sized::<S, 6, 1>(simd, row, panels),
            _ => (),
        }
        if const { S::TILE_ROWS > 6 } {
            match rows.len() {
                7 => self.sized::<S, 7, 1>(simd, row, panels),
                8 => self.sized::<S, 8, 1>(simd, row, panels),
                9 => self.sized::<S, 9, 1>(simd, row, panels),
                10 => self.sized::<S, 10, 1>(simd, row, panels),
                11 => self.sized::<S, 11, 1>(simd, row, panels),
                _ => self.sized::<S, 12, 1>(simd, row, panels),
            }
        }
    }

    /// Some panels of `R` rows from `row` on, `P` panels at a time.
    #[inline(always)]
    fn sized<S: Simd, const R: usize, const P: usize>(&mut self, simd: S, row: usize, panels: Range<usize>) {
        let (columns, line) = (self.weights.outer, self.weights.line);
        let (starts, Runs { count, len, step, jump }) = (self.x.starts::<R>(row), self.x.runs());
        let out = self.out.row_ptrs::<R>(row);
        for first in panels.clone().step_by(P) {
            let mut sums = [[simd.splat(0.0); P]; R];
            let mut w = [std::ptr::null(); P];
            for p in 0..P {
                // Where there are no more panels, the last one once more, for nothing.
                let panel = (first + p).min(panels.end - 1);
                w[p] = self.weights.panel_ptr(panel);
                if let Some(bias) = self.bias {
                    let bias = load_partial(simd, &bias[panel * LANES..], 0.0);
                    for r in 0..R {
                        sums[r][p] = bias;
                    }
                }
            }
            let mut x = starts;
            for _ in 0..count {
                // SAFETY: `Rows` vouches for the runs of `x`; `Panels` has asserted that its lines lie in its data, and
                // `run` that there are as many as a row of `x` has elements.
                sums = unsafe { chains(simd, x, w, [step, line], len, sums) };
                for r in 0..R {
                    x[r] = x[r].wrapping_add(jump);
                }
                for p in 0..P {
                    w[p] = w[p].wrapping_add(len * line);
                }
            }
            for p in 0..P {
                let column = (first + p) * LANES;
                if P > 1 && first + p >= panels.end {
                    break;
                }
                let width = LANES.min(columns - column);
                for r in 0..R {
                    // SAFETY: `out[r]` points to a row of `columns` elements that this product may write.
                    let now = unsafe { std::slice::from_raw_parts_mut(out[r].wrapping_add(column), width) };
                    let value = self.epilogue.finish(simd, sums[r][p], Place { row: row + r, column, now });
                    store_partial(simd, value, now);
                }
            }
        }
    }
}

/// `sums + x w` for `R` rows of `x` and `P` panels over `inner` terms; neighbours in a row of `x`, and lines of a panel,
/// lie `strides` apart.
///
/// # Safety
/// `inner` elements from each of `x` and `inner` lines of sixteen from each of `w` must be readable at these strides.
#[inline(always)]
unsafe fn chains<S: Simd, const R: usize, const P: usize>(
    simd: S,
    x: [*const f32; R],
    w: [*const f32; P],
    [step, line]: [usize; 2],
    inner: usize,
    mut sums: [[S::V; P]; R],
) -> [[S::V; P]; R] {
    for k in 0..inner {
        let mut columns = [simd.splat(0.0); P];
        for p in 0..P {
            // SAFETY: `k < inner`.
            columns[p] = simd.load(unsafe { &*w[p].add(k * line).cast::<Lanes>() });
        }
        for r in 0..R {
            // SAFETY: `k < inner`.
            let x = simd.splat(unsafe { *x[r].add(k * step) });
            for p in 0..P {
                sums[r][p] = simd.mul_add(x, columns[p], sums[r][p]);
            }
        }
    }
    sums
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::kernels::epilogue::{Accumulate, Gated, Plus, Scaled, Silu};
    use crate::model::kernels::simd::reference;

    fn ramp(seed: usize, len: usize) -> Vec<f32> {
        (0..len).map(|i| ((i * 37 + seed * 53 + 11) % 101) as f32 / 50.0 - 1.0).collect()
    }

    /// A product of `x (m, k)` in rows `k + gap` apart, or of its transpose, by `w (k, n)`, onto a ramp.
    fn product<E: Epilogue>([m, k, n]: [usize; 3], gap: usize, turned: bool, epilogue: E, plain: bool) -> Vec<f32> {
        let (x, w, bias) = (ramp(1, (m.max(k) + gap) * m.max(k).max(1)), ramp(2, k * n), ramp(3, n));
        let packed = Packed::new(Mat::new(&w, k, n, n));
        let x = if turned { Mat::new(&x, k, m, m + gap).t() } else { Mat::new(&x, m, k, k + gap) };
        let mut out = ramp(4, m * n);
        let into = MatMut::new(&mut out, m, n, n);
        let product = Product { x, weights: packed.panels(), bias: Some(&bias), out: into, epilogue };
        if plain {
            reference(product);
        } else {
            product.run();
        }
        out
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 2 } else { 64 }))]

        /// Against sums in `f64`; and with the same bits in plain Rust, whose tiles have other sizes.
        #[test]
        fn products_agree_with_the_definition_and_with_plain_rust(
            m in 0usize..40, k in 0usize..70, n in 1usize..130, gap in 0usize..3, turned: bool,
        ) {
            let got = product([m, k, n], gap, turned, Store, false);
            prop_assert_eq!(&got, &product([m, k, n], gap, turned, Store, true));
            let (x, w, bias) = (ramp(1, (m.max(k) + gap) * m.max(k).max(1)), ramp(2, k * n), ramp(3, n));
            for row in 0..m {
                for column in 0..n {
                    let at = |i: usize| if turned { x[i * (m + gap) + row] } else { x[row * (k + gap) + i] };
                    let terms = (0..k).map(|i| f64::from(at(i)) * f64::from(w[i * n + column]));
                    let want = f64::from(bias[column]) + terms.sum::<f64>();
                    let error = (f64::from(got[row * n + column]) - want).abs();
                    prop_assert!(error < 1e-6 * (k as f64 + 1.0), "{row} {column}: off by {error}");
                }
            }
        }

        /// A row's bits are the same alone and among others.
        #[test]
        fn a_row_does_not_know_the_others(m in 2usize..30, k in 1usize..40, n in 1usize..100) {
            let (x, w) = (ramp(1, m * k), ramp(2, k * n));
            let packed = Packed::new(Mat::new(&w, k, n, n));
            let of = |x: &[f32]| {
                let (rows, mut out) = (x.len() / k, vec![0.0; x.len() / k * n]);
                let (x, into) = (Mat::new(x, rows, k, k), MatMut::new(&mut out, rows, n, n));
                Product { x, weights: packed.panels(), bias: None, out: into, epilogue: Store }.run();
                out
            };
            let alone: Vec<f32> = x.chunks_exact(k).flat_map(of).collect();
            prop_assert_eq!(of(&x), alone);
        }

        /// Every epilogue is what it says, of what [`Store`] stores.
        #[test]
        fn epilogues_are_applied_to_the_sums(m in 1usize..15, k in 1usize..20, n in 1usize..50) {
            let shape = [m, k, n];
            let (sums, before) = (product(shape, 0, false, Store, false), ramp(4, m * n));
            let (gates, table, factors) = (ramp(5, n), ramp(6, m * n), ramp(7, m));
            let check = |got: Vec<f32>, want: &dyn Fn(usize) -> f32| {
                got.iter().enumerate().all(|(i, got)| (got - want(i)).abs() <= 1e-5 * want(i).abs().max(1.0))
            };
            let silu = |x: f32| x / (1.0 + (-x).exp());
            let plus = Plus { table: &table, columns: n };
            prop_assert!(check(product(shape, 0, false, Silu, false), &|i| silu(sums[i])));
            prop_assert!(check(product(shape, 0, false, Accumulate, false), &|i| before[i] + sums[i]));
            let gated = product(shape, 0, false, Gated(&gates), false);
            prop_assert!(check(gated, &|i| before[i] + gates[i % n] * sums[i]));
            prop_assert!(check(product(shape, 0, false, plus, false), &|i| sums[i] + table[i]));
            let scaled = product(shape, 0, false, Scaled(&factors), false);
            prop_assert!(check(scaled, &|i| sums[i] * factors[i / n]));
        }
    }

    #[test]
    #[should_panic(expected = "end beyond their data")]
    fn panels_beyond_their_data_are_refused() {
        Panels::new(&[0.0; 100], [4, 32], [32, 16]);
    }
}
