//! The 4 × 4 checkerboard on `[-1, 1]²`: a two-dimensional data set whose density is known exactly.
//!
//! The square in column `i` and row `j` (each 0 … 3, from the corner `(-1, -1)`, side ½) is filled where `i + j` is
//! even: 8 of 16, the corner one among them. The density is uniform over them.

use super::Source;

/// Squares along a side.
const SQUARES: i32 = 4;
/// Side of a square.
const SIDE: f64 = 0.5;
/// Resolution of the coordinates: with half of it as an offset, every one is exact in `f32` and none lies on an edge.
const CELLS: f64 = 8_388_608.0; // 2²³

/// The checkerboard distribution.
#[derive(Debug, Clone, Copy, Default)]
pub struct Checkerboard;

impl Checkerboard {
    /// Density where it is not zero: one over the filled area.
    pub const DENSITY: f64 = 0.5;

    /// Whether `(x, y)` lies in a filled square (lower edges belong to a square, upper ones do not).
    pub fn inside(x: f64, y: f64) -> bool {
        match (square(x), square(y)) {
            (Some(column), Some(row)) => (column + row) % 2 == 0,
            _ => false,
        }
    }

    /// The exact density at `(x, y)`.
    pub fn density(x: f64, y: f64) -> f64 {
        if Self::inside(x, y) { Self::DENSITY } else { 0.0 }
    }
}

impl Source for Checkerboard {
    fn shape(&self) -> &[usize] {
        &[2]
    }

    fn classes(&self) -> &[String] {
        &[]
    }

    fn range(&self) -> [f32; 2] {
        [-1.0, 1.0]
    }

    fn draw(&self, random: &mut dyn FnMut() -> f64, out: &mut [f32]) -> u32 {
        let x = 2.0 * cell(random()) - 1.0;
        // Each column holds two filled squares: the first at row 0 or 1 by the column's parity, the other 2 above.
        let place = 2.0 * cell(random());
        let first_row = f64::from(square(x).unwrap_or(0) % 2);
        let row = first_row + 2.0 * place.floor();
        let y = SIDE * (row + place.fract()) - 1.0;
        for (slot, value) in out.iter_mut().zip([x, y]) {
            *slot = narrow(value);
        }
        0
    }
}

/// Column or row of a coordinate, `None` outside the board.
#[expect(clippy::cast_possible_truncation, reason = "a number in 0 … 3 is truncated on purpose")]
fn square(v: f64) -> Option<i32> {
    (-1.0..1.0).contains(&v).then(|| (((v + 1.0) / SIDE) as i32).min(SQUARES - 1))
}

/// The middle of the one of [`CELLS`] equal intervals of (0, 1) that holds `u`.
fn cell(u: f64) -> f64 {
    ((u * CELLS).floor() + 0.5) / CELLS
}

#[expect(clippy::cast_possible_truncation, reason = "exact: a multiple of 2⁻²⁴ below 1")]
fn narrow(v: f64) -> f32 {
    v as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_corner_square_is_filled_and_half_of_the_board_is() {
        assert!(Checkerboard::inside(-1.0, -1.0) && Checkerboard::inside(0.9, 0.9));
        assert!(!Checkerboard::inside(-0.9, -0.4) && !Checkerboard::inside(1.0, 1.0));
        let middles = || (0..4).map(|i| -0.75 + 0.5 * f64::from(i));
        let mass: f64 = middles().flat_map(|x| middles().map(move |y| Checkerboard::density(x, y) * 0.25)).sum();
        assert!((mass - 1.0).abs() < 1e-12);
    }

    #[test]
    fn samples_lie_inside_whatever_the_random_numbers() {
        let extremes = [f64::MIN_POSITIVE, 0.25, 0.5 - 1e-12, 0.5, 0.75, 1.0 - f64::EPSILON / 2.0];
        for u in extremes {
            for v in extremes {
                let mut numbers = [u, v].into_iter();
                let mut out = [0.0; 2];
                let label = Checkerboard.draw(&mut || numbers.next().unwrap_or(0.5), &mut out);
                assert_eq!(label, 0);
                assert!(Checkerboard::inside(f64::from(out[0]), f64::from(out[1])), "{u} {v} gave {out:?}");
            }
        }
    }

    #[test]
    fn every_filled_square_is_equally_likely() {
        let n = 64;
        let mut counts = [[0u32; 4]; 4];
        for i in 0..n {
            for j in 0..n {
                let mut numbers = [i, j].map(|k| (f64::from(k) + 0.5) / f64::from(n)).into_iter();
                let mut out = [0.0; 2];
                Checkerboard.draw(&mut || numbers.next().unwrap_or(0.5), &mut out);
                let [column, row] = out.map(|v| square(f64::from(v)).unwrap_or(0) as usize);
                counts[column][row] += 1;
            }
        }
        for (column, rows) in counts.iter().enumerate() {
            for (row, &count) in rows.iter().enumerate() {
                let expected = if (column + row) % 2 == 0 { 512 } else { 0 };
                assert_eq!(count, expected, "square ({column}, {row})");
            }
        }
    }
}
