//! Data sets: points of the checkerboard, images in IDX files, CIFAR-10 batches and folders.
//!
//! A [`Source`] hands out one random sample at a time. Randomness is an argument, so the room knows no generator and
//! a trainer decides which numbers make which batch. Readers trust nothing in a file: sizes are checked against named
//! bounds before memory is taken, and whatever is wrong becomes an [`Error::File`](crate::error::Error::File).

pub mod checkerboard;
pub mod cifar;
pub mod folder;
pub mod idx;
pub mod images;
pub mod spec;

mod bounded;

pub use checkerboard::Checkerboard;
pub use images::Images;
pub use spec::{DataSource, IdxNames, Split};

/// A distribution of labelled samples.
pub trait Source: Send + Sync {
    /// Shape of one sample: `[channels, height, width]` for images, `[d]` for points.
    fn shape(&self) -> &[usize];

    /// Class names by label; empty for unlabelled data.
    fn classes(&self) -> &[String];

    /// Smallest and largest value of a sample.
    fn range(&self) -> [f32; 2];

    /// Writes one random sample, row-major, into `out` and returns its label; the label of unlabelled data is the
    /// null class, `classes().len()`.
    ///
    /// `random` gives independent uniform numbers in the open interval (0, 1); the sample is a pure function of them.
    /// `out` is as long as the shape's product.
    fn draw(&self, random: &mut dyn FnMut() -> f64, out: &mut [f32]) -> u32;
}
