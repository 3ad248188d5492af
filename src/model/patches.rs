//! An image as a sequence of square patches.

use candle_core::{Result, Tensor};

/// The square patches of an image.
#[derive(Debug, Clone, Copy)]
pub struct Patches {
    channels: usize,
    rows: usize,
    columns: usize,
    side: usize,
}

impl Patches {
    /// Patches of `side` pixels of an image of `shape` `[channels, height, width]`.
    pub fn new(shape: &[usize], side: usize) -> Result<Self> {
        match *shape {
            [channels, height, width] if side > 0 && height % side == 0 && width % side == 0 => {
                Ok(Self { channels, rows: height / side, columns: width / side, side })
            }
            _ => candle_core::bail!("data of shape {shape:?} is not an image of whole patches of side {side}"),
        }
    }

    /// Rows and columns of patches.
    pub fn places(&self) -> (usize, usize) {
        (self.rows, self.columns)
    }

    /// Pixels along a patch.
    pub fn side(&self) -> usize {
        self.side
    }

    /// Numbers in one patch.
    pub fn elements(&self) -> usize {
        self.channels * self.side * self.side
    }

    /// `(B, C, H, W)` → `(B, tokens, C side side)`.
    pub fn split(&self, x: &Tensor) -> Result<Tensor> {
        let batch = x.dim(0)?;
        x.reshape(&[batch, self.channels, self.rows, self.side, self.columns, self.side][..])?
            .permute(vec![0, 2, 4, 1, 3, 5])?
            .reshape((batch, self.rows * self.columns, self.elements()))
    }

    /// Copies one patch of an image, row-major `[channels, height, width]`, to `patch`.
    pub(super) fn copy_patch(&self, image: &[f32], index: usize, patch: &mut [f32]) {
        for (line, from) in patch.chunks_exact_mut(self.side).zip(self.lines(index)) {
            line.copy_from_slice(&image[from..from + self.side]);
        }
    }

    /// The inverse of [`copy_patch`](Self::copy_patch).
    pub(super) fn paste_patch(&self, patch: &[f32], index: usize, image: &mut [f32]) {
        for (line, to) in patch.chunks_exact(self.side).zip(self.lines(index)) {
            image[to..to + self.side].copy_from_slice(line);
        }
    }

    /// Where each line of a patch begins in its image.
    fn lines(&self, index: usize) -> impl Iterator<Item = usize> + use<> {
        let Self { channels, rows, columns, side } = *self;
        let corner = (index / columns) * side * columns * side + (index % columns) * side;
        (0..channels * side).map(move |line| {
            let (channel, line) = (line / side, line % side);
            corner + (channel * rows * side + line) * columns * side
        })
    }

    /// The inverse of [`split`](Self::split).
    pub fn join(&self, x: &Tensor) -> Result<Tensor> {
        let batch = x.dim(0)?;
        x.reshape(&[batch, self.rows, self.columns, self.channels, self.side, self.side][..])?
            .permute(vec![0, 3, 1, 4, 2, 5])?
            .reshape((batch, self.channels, self.rows * self.side, self.columns * self.side))
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    #[test]
    fn a_patch_is_a_square_of_the_image() -> Result<()> {
        let image = Tensor::arange(0f32, 32.0, &Device::Cpu)?.reshape((1, 2, 4, 4))?;
        let patches = Patches::new(&[2, 4, 4], 2)?;
        let tokens = patches.split(&image)?;
        assert_eq!(tokens.to_vec3::<f32>()?[0][1], [2.0, 3.0, 6.0, 7.0, 18.0, 19.0, 22.0, 23.0]);
        assert_eq!(patches.join(&tokens)?.flatten_all()?.to_vec1::<f32>()?, image.flatten_all()?.to_vec1::<f32>()?);
        assert!(Patches::new(&[1, 5, 4], 2).is_err() && Patches::new(&[1, 4, 4], 0).is_err());
        Ok(())
    }
}
