//! Half and double resolution, each other's adjoint.

use crate::model::kernels::buffer;
use crate::model::kernels::op::{Kernel, View};
use crate::model::kernels::resample::{double, halve};
use crate::model::sides::Sides;
use candle_core::{Result, Shape, bail};

/// `factor` times the sum of 2×2 pixels of images `(B, T, C)` of `sides`.
#[derive(Debug, Clone, Copy)]
pub(in crate::model) struct Halve {
    pub(in crate::model) sides: Sides,
    pub(in crate::model) factor: f32,
}

impl Kernel<1> for Halve {
    const NAME: &'static str = "downsample";

    fn forward(&self, [x]: [View<'_>; 1]) -> Result<(Vec<f32>, Shape)> {
        let half = self.sides.halved(1);
        match *x.dims {
            [images, pixels, channels] if pixels == self.sides.pixels() && half.doubled() == self.sides => {
                let mut out = buffer::take(x.data.len() / 4);
                halve(half, channels, x.data, self.factor, &mut out);
                Ok((out, (images, half.pixels(), channels).into()))
            }
            _ => bail!("downsample: {:?} are not images of {:?} and whole squares", x.dims, self.sides),
        }
    }

    fn backward(&self, [x]: [View<'_>; 1], _: &[f32], grad: &[f32], _: [bool; 1]) -> [Option<Vec<f32>>; 1] {
        let &[.., channels] = x.dims else { return [None] };
        let mut out = buffer::take(x.data.len());
        double(self.sides.halved(1), channels, grad, self.factor, &mut out);
        [Some(out)]
    }
}

/// `factor` times every pixel, 2×2 times, of images `(B, T, C)` of `sides`.
#[derive(Debug, Clone, Copy)]
pub(in crate::model) struct Double {
    pub(in crate::model) sides: Sides,
    pub(in crate::model) factor: f32,
}

impl Kernel<1> for Double {
    const NAME: &'static str = "upsample";

    fn forward(&self, [x]: [View<'_>; 1]) -> Result<(Vec<f32>, Shape)> {
        match *x.dims {
            [images, pixels, channels] if pixels == self.sides.pixels() => {
                let mut out = buffer::take(4 * x.data.len());
                double(self.sides, channels, x.data, self.factor, &mut out);
                Ok((out, (images, 4 * pixels, channels).into()))
            }
            _ => bail!("upsample: {:?} are not images of {:?}", x.dims, self.sides),
        }
    }

    fn backward(&self, [x]: [View<'_>; 1], _: &[f32], grad: &[f32], _: [bool; 1]) -> [Option<Vec<f32>>; 1] {
        let &[.., channels] = x.dims else { return [None] };
        let mut out = buffer::take(x.data.len());
        halve(self.sides, channels, grad, self.factor, &mut out);
        [Some(out)]
    }
}
