//! The operations on images composed of candle's own.

use crate::flow::dual::Dual;
use candle_core::{Result, Tensor};

/// See [`super::conv3x3()`].
pub(super) fn conv3x3(x: &Dual, w: &Tensor, b: &Dual) -> Result<Dual> {
    let w = w.permute((3, 2, 0, 1))?.contiguous()?;
    let conv = |x: &Tensor| {
        let y = x.permute((0, 3, 1, 2))?.contiguous()?.conv2d(&w, 1, 1, 1, 1)?;
        y.permute((0, 2, 3, 1))?.contiguous()
    };
    let b = if b.primal.rank() == 2 { b.linear(|b| b.unsqueeze(1)?.unsqueeze(1))? } else { b.clone() };
    x.linear(conv)?.add(&b)
}

/// See [`super::group_norm()`].
pub(super) fn group_norm(x: &Dual, w: &Tensor, b: &Tensor, groups: usize, eps: f64) -> Result<Dual> {
    let (images, height, width, channels) = x.primal.dims4()?;
    let each = channels / groups;
    let split = |x: &Tensor| x.reshape((images, (), groups, each))?.transpose(1, 2)?.contiguous()?.flatten_from(2);
    let join = |x: &Tensor| {
        let x = x.reshape((images, groups, height * width, each))?.transpose(1, 2)?.contiguous()?;
        x.reshape((images, height, width, channels))
    };
    let y = x.linear(split)?.layer_norm(eps)?.linear(join)?;
    y.mul(&Dual::constant(w))?.add(&Dual::constant(b))
}

/// See [`super::downsample()`].
pub(super) fn downsample(x: &Dual) -> Result<Dual> {
    let (images, height, width, channels) = x.primal.dims4()?;
    let squares = [images, height / 2, 2, width / 2, 2, channels];
    x.linear(|x| x.reshape(&squares[..])?.sum((2, 4))? * 0.25)
}

/// See [`super::upsample()`].
pub(super) fn upsample(x: &Dual) -> Result<Dual> {
    let (images, height, width, channels) = x.primal.dims4()?;
    let (single, double) = ([images, height, 1, width, 1, channels], [images, height, 2, width, 2, channels]);
    let shape = (images, 2 * height, 2 * width, channels);
    x.linear(|x| x.reshape(&single[..])?.broadcast_as(&double[..])?.reshape(shape))
}
