//! Points of the plane as a picture of their density: a two-dimensional histogram in colour.

use super::Grid;
use super::canvas::{Colour, mix};
use crate::error::Result;

/// Colours from nothing to the highest density, evenly spaced: dark to light, and even to the eye.
const COLOURS: [Colour; 5] = [[68, 1, 84], [59, 82, 139], [33, 145, 140], [94, 201, 98], [253, 231, 37]];
/// The share of filled cells that are below the brightest colour: the others share it, so that a few crowded cells do
/// not darken the rest.
const BRIGHTEST: f64 = 0.98;

/// A square of the plane, divided into cells.
#[derive(Debug, Clone, Copy)]
pub struct Density {
    /// Smallest and largest coordinate, the same for both axes.
    pub range: [f32; 2],
    /// Cells along a side.
    pub side: usize,
}

impl Density {
    /// The density of points `[x₀, y₀, x₁, y₁, …]` as an image of [`Density::shape`]: x to the right, y upwards. Points
    /// outside the square do not count.
    pub fn image(&self, points: &[f32]) -> Vec<u8> {
        let counts = self.counts(points);
        let full = brightest(&counts);
        let colours: Vec<Colour> = counts.iter().map(|&count| colour(f64::from(count) / f64::from(full))).collect();
        (0..3).flat_map(|channel| colours.iter().map(move |colour| colour[channel])).collect()
    }

    /// The shape of an image, `[3, side, side]`.
    pub fn shape(&self) -> [usize; 3] {
        [3, self.side, self.side]
    }

    /// The density of points as a PNG file with a title.
    ///
    /// # Errors
    /// [`Error::Compute`](crate::error::Error::Compute) where the square has no cells or too many.
    pub fn png(&self, points: &[f32], title: &str) -> Result<Vec<u8>> {
        Grid::new(self.shape()).scale(2).title(title).row("", vec![self.image(points)])?.png()
    }

    fn counts(&self, points: &[f32]) -> Vec<u32> {
        let mut counts = vec![0; self.side * self.side];
        for point in points.chunks_exact(2) {
            if let (Some(column), Some(row)) = (self.cell(point[0]), self.cell(point[1])) {
                counts[(self.side - 1 - row) * self.side + column] += 1;
            }
        }
        counts
    }

    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a number in 0 .. side, truncated")]
    fn cell(&self, value: f32) -> Option<usize> {
        let [low, high] = self.range;
        let place = (value - low) / (high - low) * self.side as f32;
        (0.0..self.side as f32).contains(&place).then_some(place as usize)
    }
}

/// The count that gets the brightest colour.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an index below the length, truncated")]
fn brightest(counts: &[u32]) -> u32 {
    let mut filled: Vec<u32> = counts.iter().copied().filter(|&count| count > 0).collect();
    filled.sort_unstable();
    filled.get((filled.len() as f64 * BRIGHTEST) as usize).copied().unwrap_or(1)
}

/// The colour of a density from 0 to 1, clamped.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped before, truncated on purpose")]
fn colour(density: f64) -> Colour {
    let place = density.clamp(0.0, 1.0) * (COLOURS.len() - 1) as f64;
    let lower = (place as usize).min(COLOURS.len() - 2);
    let share = ((place - lower as f64) * 255.0) as u8;
    let [from, to] = [COLOURS[lower], COLOURS[lower + 1]];
    [0, 1, 2].map(|channel| mix(from[channel], to[channel], share))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SQUARE: Density = Density { range: [-1.0, 1.0], side: 2 };

    #[test]
    fn y_points_upwards_and_points_outside_do_not_count() {
        let points = [0.5, 0.5, 0.5, 0.5, -0.5, 0.5, 0.5, -0.5, 1.0, 0.0, f32::NAN, 0.0, -3.0, 0.0];
        assert_eq!(SQUARE.counts(&points), [1, 2, 0, 1]);
        assert_eq!(SQUARE.image(&points).len(), 12);
    }

    #[test]
    fn colours_run_from_dark_to_light() {
        assert_eq!(
            (colour(0.0), colour(1.0), colour(9.0), colour(f64::NAN)),
            (COLOURS[0], COLOURS[4], COLOURS[4], COLOURS[0])
        );
        let brightness = |density: f64| colour(density).map(u32::from).iter().sum::<u32>();
        assert!((0..10).all(|i| brightness(f64::from(i) / 10.0) < brightness(f64::from(i + 1) / 10.0)));
    }

    #[test]
    fn one_crowded_cell_does_not_darken_the_rest() {
        let mut counts = vec![10; 200];
        counts[3] = 100_000;
        assert_eq!((brightest(&counts), brightest(&[0, 0])), (10, 1));
    }

    #[test]
    fn it_becomes_a_picture() {
        let file = SQUARE.png(&[0.1, 0.1], "one point").unwrap();
        assert!(image::load_from_memory(&file).is_ok());
        assert!(Density { side: 0, ..SQUARE }.png(&[0.1, 0.1], "").is_err());
    }
}
