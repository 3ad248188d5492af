//! The sides of an image.

/// Height and width of an image in pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sides {
    /// Rows of pixels.
    pub height: usize,
    /// Pixels of a row.
    pub width: usize,
}

impl Sides {
    /// Number of pixels.
    pub fn pixels(self) -> usize {
        self.height * self.width
    }

    /// The sides after `levels` halvings.
    pub fn halved(self, levels: usize) -> Self {
        Self { height: self.height >> levels, width: self.width >> levels }
    }

    /// Twice as high and as wide.
    pub fn doubled(self) -> Self {
        Self { height: 2 * self.height, width: 2 * self.width }
    }
}
