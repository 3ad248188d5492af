//! The operations on images composed of candle's own: the path of other dtypes and devices, and the reference in tests.

use crate::flow::dual::Dual;
use crate::model::image_layers::Sides;
use candle_core::{Result, Tensor};

/// See [`super::conv3x3()`].
pub(super) fn conv3x3(x: &Dual, sides: Sides, w: &Tensor, b: &Dual) -> Result<Dual> {
    let w = w.permute((3, 2, 0, 1))?.contiguous()?;
    let conv = |x: &Tensor| {
        let (images, _, channels) = x.dims3()?;
        let planes = x.transpose(1, 2)?.reshape((images, channels, sides.height, sides.width))?;
        planes.contiguous()?.conv2d(&w, 1, 1, 1, 1)?.flatten_from(2)?.transpose(1, 2)?.contiguous()
    };
    let b = if b.primal.rank() == 2 { b.linear(|b| b.unsqueeze(1))? } else { b.clone() };
    x.linear(conv)?.add(&b)
}

/// See [`super::group_norm()`].
pub(super) fn group_norm(x: &Dual, w: &Tensor, b: &Tensor, groups: usize, eps: f64) -> Result<Dual> {
    let (images, pixels, channels) = x.primal.dims3()?;
    let each = channels / groups;
    let split = |x: &Tensor| x.reshape((images, (), groups, each))?.transpose(1, 2)?.contiguous()?.flatten_from(2);
    let join = |x: &Tensor| {
        let x = x.reshape((images, groups, pixels, each))?.transpose(1, 2)?.contiguous()?;
        x.reshape((images, pixels, channels))
    };
    let y = x.linear(split)?.layer_norm(eps)?.linear(join)?;
    y.mul(&Dual::constant(w))?.add(&Dual::constant(b))
}

/// See [`super::downsample()`].
pub(super) fn downsample(x: &Dual, sides: Sides) -> Result<Dual> {
    let (images, _, channels) = x.primal.dims3()?;
    let half = sides.halved(1);
    let squares = [images, half.height, 2, half.width, 2, channels];
    let shape = (images, half.pixels(), channels);
    x.linear(|x| (x.reshape(&squares[..])?.sum((2, 4))? * 0.25)?.reshape(shape))
}

/// See [`super::upsample()`].
pub(super) fn upsample(x: &Dual, sides: Sides) -> Result<Dual> {
    let (images, pixels, channels) = x.primal.dims3()?;
    let Sides { height, width } = sides;
    let (single, double) = ([images, height, 1, width, 1, channels], [images, height, 2, width, 2, channels]);
    let shape = (images, 4 * pixels, channels);
    x.linear(|x| x.reshape(&single[..])?.broadcast_as(&double[..])?.reshape(shape))
}

/// See [`super::residual()`].
pub(super) fn residual(x: &Dual, y: &Dual) -> Result<Dual> {
    x.add(y)?.affine(0.5f64.sqrt(), 0.0)
}
