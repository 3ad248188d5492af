//! Rows of images with captions, as one PNG file.
//!
//! ```text
//! title
//!          column   column
//!   label  [image]  [image]
//!   label  [image]  [image]
//! ```

use super::canvas::{Canvas, Colour, LINE, text_width};
use super::png;
use crate::error::Result;

/// White around everything, in pixels.
const MARGIN: usize = 12;
/// White between neighbouring images.
const GAP: usize = 3;
/// White between a caption and what it belongs to, and between neighbouring captions.
const PADDING: usize = 8;
const INK: Colour = [24, 28, 36];
const MUTED: Colour = [88, 96, 110];

/// Rows of equally sized images with captions.
#[derive(Debug, Clone)]
pub struct Grid {
    shape: [usize; 3],
    scale: usize,
    title: String,
    columns: Vec<String>,
    rows: Vec<(String, Vec<Vec<u8>>)>,
}

impl Grid {
    /// An empty grid of images of `shape` = `[channels, height, width]` with 1 or 3 channels.
    pub fn new(shape: [usize; 3]) -> Self {
        Self { shape, scale: 1, title: String::new(), columns: Vec::new(), rows: Vec::new() }
    }

    /// Draws each pixel as a square of `scale` pixels (0 counts as 1).
    #[must_use]
    pub fn scale(self, scale: usize) -> Self {
        Self { scale: scale.max(1), ..self }
    }

    /// A line above everything. Captions are ASCII: other characters become question marks.
    #[must_use]
    pub fn title(self, title: impl Into<String>) -> Self {
        Self { title: title.into(), ..self }
    }

    /// Headings of the columns, from the left.
    #[must_use]
    pub fn columns(self, headings: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self { columns: headings.into_iter().map(Into::into).collect(), ..self }
    }

    /// Adds a row of images, each the bytes of its planes; an empty label takes no room.
    ///
    /// # Errors
    /// [`Error::Compute`](crate::error::Error::Compute) where an image is not of the grid's shape.
    pub fn row(mut self, label: impl Into<String>, images: Vec<Vec<u8>>) -> Result<Self> {
        images.iter().try_for_each(|image| png::check(image, self.shape))?;
        self.rows.push((label.into(), images));
        Ok(self)
    }

    /// The picture as a PNG file.
    ///
    /// # Errors
    /// [`Error::Compute`](crate::error::Error::Compute) where the picture is too large to be drawn.
    pub fn png(&self) -> Result<Vec<u8>> {
        let place = Places::of(self);
        let mut canvas = Canvas::new(place.height, place.width)?;
        canvas.text(&self.title, INK, [MARGIN, MARGIN]);
        for (column, heading) in self.columns.iter().enumerate() {
            let left = place.column(column) + centred(text_width(heading), place.slot);
            canvas.text(heading, MUTED, [place.top.saturating_sub(LINE + GAP), left]);
        }
        for (row, (label, images)) in self.rows.iter().enumerate() {
            let top = place.row(row);
            let left = place.left.saturating_sub(PADDING + text_width(label));
            canvas.text(label, MUTED, [top + centred(LINE, place.image[0]), left]);
            for (column, image) in images.iter().enumerate() {
                let left = place.column(column) + centred(place.image[1], place.slot);
                canvas.image(image, self.shape, self.scale, [top, left]);
            }
        }
        canvas.png()
    }
}

/// Where everything goes, in pixels.
struct Places {
    height: usize,
    width: usize,
    /// Upper edge of the first row of images.
    top: usize,
    /// Left edge of the first column.
    left: usize,
    /// Height and width of an image as drawn.
    image: [usize; 2],
    /// Width of a column: that of an image or of the widest heading. Both are centred in it.
    slot: usize,
    /// Height of a row: that of an image or of a label.
    shelf: usize,
}

impl Places {
    fn of(grid: &Grid) -> Self {
        let [_, height, width] = grid.shape;
        let image = [height, width].map(|side| side.saturating_mul(grid.scale));
        let labels = grid.rows.iter().map(|(label, _)| text_width(label)).max().unwrap_or(0);
        let headings = grid.columns.iter().map(|heading| text_width(heading)).max().unwrap_or(0);
        let columns = grid.rows.iter().map(|(_, images)| images.len()).max().unwrap_or(0).max(grid.columns.len());
        let slot = if headings > image[1] { headings + PADDING } else { image[1] };
        let shelf = image[0].max(if labels > 0 { LINE } else { 0 });
        let title = if grid.title.is_empty() { 0 } else { LINE + PADDING };
        let top = MARGIN + title + if headings > 0 { LINE + GAP } else { 0 };
        let left = MARGIN + if labels > 0 { labels + PADDING } else { 0 };
        let right = left.saturating_add(extent(columns, slot)).max(MARGIN + text_width(&grid.title));
        let bottom = top.saturating_add(extent(grid.rows.len(), shelf));
        let [height, width] = [bottom, right].map(|end| end.saturating_add(MARGIN));
        Self { height, width, top, left, image, slot, shelf }
    }

    fn row(&self, row: usize) -> usize {
        self.top + row * (self.shelf + GAP)
    }

    fn column(&self, column: usize) -> usize {
        self.left + column * (self.slot + GAP)
    }
}

/// The length of `count` things with gaps between them.
fn extent(count: usize, each: usize) -> usize {
    count.saturating_mul(each).saturating_add(GAP * count.saturating_sub(1))
}

/// The offset that centres `inner` in `outer`; 0 for what is larger.
fn centred(inner: usize, outer: usize) -> usize {
    outer.saturating_sub(inner) / 2
}

#[cfg(test)]
mod tests {
    use image::GrayImage;

    use super::*;

    fn decode(grid: &Grid) -> GrayImage {
        image::load_from_memory(&grid.png().unwrap()).unwrap().into_luma8()
    }

    fn black(picture: &GrayImage) -> usize {
        picture.pixels().filter(|pixel| pixel.0[0] == 0).count()
    }

    #[test]
    fn images_lie_side_by_side_at_their_scale() {
        let grid =
            Grid::new([1, 2, 4]).scale(3).row("", vec![vec![0; 8]; 2]).unwrap().row("", vec![vec![0; 8]]).unwrap();
        let picture = decode(&grid);
        let expected = [2 * MARGIN + 2 * 12 + GAP, 2 * MARGIN + 2 * 6 + GAP].map(|n| n as u32);
        assert_eq!([picture.width(), picture.height()], expected);
        assert_eq!(black(&picture), 3 * 8 * 9);
    }

    #[test]
    fn captions_make_room_for_themselves() {
        let plain = Grid::new([3, 40, 40]).row("", vec![vec![9; 4800]; 3]).unwrap();
        let labelled = Grid::new([3, 40, 40]).row("label", vec![vec![9; 4800]; 3]).unwrap();
        let width = |grid: &Grid| decode(grid).width();
        let height = |grid: &Grid| decode(grid).height();
        assert_eq!(width(&labelled) - width(&plain), (text_width("label") + PADDING) as u32);
        let headed = plain.clone().columns(["a", "b", "c"]);
        assert_eq!((width(&headed), height(&headed) - height(&plain)), (width(&plain), (LINE + GAP) as u32));
        let titled = plain.clone().title("a title that is wider than all of the images");
        assert!(width(&titled) > width(&plain) && height(&titled) > height(&plain));
        assert!(width(&plain.clone().columns(["wider than an image"])) > width(&plain));
    }

    #[test]
    fn wrong_images_and_huge_grids_are_refused() {
        assert!(Grid::new([1, 2, 2]).row("", vec![vec![0; 5]]).is_err());
        let huge = Grid::new([1, 2, 2]).scale(usize::MAX).row("", vec![vec![0; 4]]).unwrap();
        assert!(huge.png().is_err());
        assert!(Grid::new([1, 2, 2]).png().is_ok());
    }
}
