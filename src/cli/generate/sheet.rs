//! The picture of all rows: images with captions, or densities of points.

use super::order::Order;
use super::row::{Row, title};
use crate::domain::ModelInfo;
use crate::error::Result;
use crate::picture::{Density, Grid, to_u8};

/// Most images side by side.
const MAX_COLUMNS: usize = 16;
/// Side of a drawn image in pixels: about the width of a class name.
const IMAGE_SIDE: usize = 84;
/// Side of a drawn density in pixels.
const DENSITY_SIDE: usize = 256;
/// Points that a cell of a density should have on average for its colour to mean something.
const POINTS_PER_CELL: usize = 2;
/// The part of the plane that is drawn, over the data's range: what misses the data is to be seen.
const MARGIN: f32 = 1.2;

/// Whether samples of this shape can be drawn.
pub(super) fn can_draw(model: &ModelInfo) -> bool {
    model.is_image() || model.shape == [2]
}

/// The picture as a PNG file.
///
/// # Errors
/// [`Error::Compute`](crate::error::Error::Compute) where it would be too large.
pub(super) fn png(order: &Order, rows: &[Row]) -> Result<Vec<u8>> {
    let title = title(order, rows);
    match *order.model.shape {
        [channels, height, width] => images(order, rows, Grid::new([channels, height, width]).title(title)),
        _ => densities(order, rows, &title),
    }
}

fn images(order: &Order, rows: &[Row], grid: Grid) -> Result<Vec<u8>> {
    let columns = columns(order);
    let side = order.model.shape.iter().skip(1).copied().max().unwrap_or(1);
    let headings = order.labels.iter().take(columns).map(|&label| order.class(label));
    let headings: Vec<&str> =
        if order.turn > 1 && columns.is_multiple_of(order.turn) { headings.collect() } else { vec![] };
    let line = |grid: Grid, (label, images): (String, &[Vec<f32>])| {
        grid.row(label, images.iter().map(|image| to_u8(image, order.model.value_range)).collect())
    };
    let lines = rows.iter().flat_map(|row| {
        let labels = std::iter::once(row.caption()).chain(std::iter::repeat(String::new()));
        labels.zip(row.images.chunks(columns))
    });
    lines.into_iter().try_fold(grid.scale(IMAGE_SIDE / side.max(1)).columns(headings), line)?.png()
}

/// Images side by side: lines of equal length, and whole turns of the classes, so that a column has one class.
fn columns(order: &Order) -> usize {
    let images = order.labels.len().max(1);
    let turn = if order.turn > MAX_COLUMNS { 1 } else { order.turn.max(1) };
    let lines = images.div_ceil(MAX_COLUMNS / turn * turn);
    images.div_ceil(lines).next_multiple_of(turn).min(images)
}

fn densities(order: &Order, rows: &[Row], title: &str) -> Result<Vec<u8>> {
    let [low, high] = order.model.value_range;
    let (middle, reach) = ((low + high) / 2.0, (high - low) / 2.0 * MARGIN);
    let density = Density { range: [middle - reach, middle + reach], side: cells(order.labels.len()) };
    let draw = |grid: Grid, row: &Row| grid.row(row.caption(), vec![density.image(&row.images.concat())]);
    let grid = Grid::new(density.shape()).scale(DENSITY_SIDE / density.side).title(title);
    rows.iter().try_fold(grid, draw)?.png()
}

/// Cells on each side of a density of this many points.
fn cells(points: usize) -> usize {
    let side = (points / POINTS_PER_CELL).isqrt().next_power_of_two();
    side.clamp(16, 128)
}

#[cfg(test)]
mod tests {
    use super::super::order::Times;
    use super::super::order::tests::{model, order};
    use super::super::row::tests::row;
    use super::*;

    fn size(file: &[u8]) -> (u32, u32) {
        let picture = image::load_from_memory(file).unwrap();
        (picture.width(), picture.height())
    }

    #[test]
    fn columns_are_whole_turns_of_the_classes() {
        let columns = |images: usize, turn: usize| columns(&order(&vec![Some(0); images], turn));
        assert_eq!((columns(30, 10), columns(24, 2), columns(2, 3)), (10, 12, 2));
        assert_eq!((columns(30, 1), columns(33, 20), columns(0, 1)), (15, 11, 1));
    }

    #[test]
    fn each_row_takes_as_many_lines_as_it_needs() {
        let height = |rows: &[Row], images: usize| size(&png(&order(&vec![Some(0); images], 1), rows).unwrap()).1;
        let (four, eight) = (row(Times::steps(0.0, 4), 16), row(Times::steps(0.0, 8), 16));
        let one = height(std::slice::from_ref(&four), 16);
        assert_eq!(height(&[four, eight], 16), height(&[row(Times::steps(0.0, 4), 17)], 17));
        assert!(height(&[row(Times::steps(0.0, 4), 17)], 17) > one);
    }

    #[test]
    fn points_become_a_density() {
        let points = Order { model: ModelInfo { shape: vec![2], ..model() }, ..order(&[None; 9], 1) };
        let rows = [row(Times::steps(0.0, 4), 9), row(Times::steps(0.0, 8), 9)];
        let (width, height) = size(&png(&points, &rows).unwrap());
        assert!(width > 256 && height > 512, "{width} × {height}");
        assert!(can_draw(&points.model) && !can_draw(&ModelInfo { shape: vec![3], ..model() }));
        assert_eq!((cells(0), cells(1024), cells(1 << 20)), (16, 32, 128));
    }
}
