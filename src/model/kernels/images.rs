//! Operations of a convolutional network on duals of images: tokens `(B, T, C)` that are the pixels, row after row.

mod composed;
mod conv3x3;
mod group_norm;
mod resample;
mod residual;

use super::op::{apply1, apply2, apply3};
use super::{all_fused, fused};
use crate::flow::dual::Dual;
use crate::model::sides::Sides;
use candle_core::{Result, Tensor};
pub(in crate::model) use conv3x3::Convolution;
pub(in crate::model) use group_norm::{GroupNorm, GroupNormTangent};
pub(in crate::model) use resample::{Double, Halve};
pub(in crate::model) use residual::Residual;

/// A 3×3 convolution with zeros around the image: `x (B, T, K)`, `w (3, 3, K, N)`, giving `(B, T, N)`.
///
/// `b` is added at every pixel: `(N)` for all images, or `(B, N)` for each.
pub fn conv3x3(x: &Dual, sides: Sides, w: &Tensor, b: &Dual) -> Result<Dual> {
    if !all_fused(&[x, b], &[w]) {
        return composed::conv3x3(x, sides, w, b);
    }
    let kernel = Convolution { sides };
    let primal = apply3(kernel, &x.primal, w, &b.primal)?;
    let tangent = match (&x.tangent, &b.tangent) {
        (None, None) => None,
        (Some(dx), None) => Some(apply2(kernel, dx, w)?),
        (Some(dx), Some(db)) => Some(apply3(kernel, dx, w, db)?),
        (None, Some(db)) if db.rank() == 2 => Some(db.unsqueeze(1)?.broadcast_as(primal.shape())?),
        (None, Some(db)) => Some(db.broadcast_as(primal.shape())?),
    };
    Ok(Dual { primal, tangent })
}

/// Group norm: `(x - mean) / √(var + eps)` over the pixels and channels of each of `groups` runs of channels of an
/// image, then `w` times that plus `b`, both `(C)`.
pub fn group_norm(x: &Dual, w: &Tensor, b: &Tensor, groups: usize, eps: f64) -> Result<Dual> {
    if !all_fused(&[x], &[w, b]) {
        return composed::group_norm(x, w, b, groups, eps);
    }
    let eps = eps as f32;
    x.unary(
        |x| apply3(GroupNorm { groups, eps }, x, w, b),
        |x, _, dx| apply3(GroupNormTangent { groups, eps }, x, w, dx),
    )
}

/// The mean of 2×2 pixels of an image of `sides`: `(B, T, C)` → `(B, T/4, C)`.
pub fn downsample(x: &Dual, sides: Sides) -> Result<Dual> {
    if !all_fused(&[x], &[]) {
        return composed::downsample(x, sides);
    }
    x.linear(|x| apply1(Halve { sides, factor: 0.25 }, x))
}

/// Every pixel of an image of `sides` 2×2 times: `(B, T, C)` → `(B, 4T, C)`.
pub fn upsample(x: &Dual, sides: Sides) -> Result<Dual> {
    if !all_fused(&[x], &[]) {
        return composed::upsample(x, sides);
    }
    x.linear(|x| apply1(Double { sides, factor: 1.0 }, x))
}

/// `(x + y) / √2`: the sum of two branches, as large as one of them.
pub fn residual(x: &Dual, y: &Dual) -> Result<Dual> {
    match (&x.tangent, &y.tangent) {
        (Some(dx), Some(dy)) if all_fused(&[x, y], &[]) => {
            Ok(Dual::new(apply2(Residual, &x.primal, &y.primal)?, apply2(Residual, dx, dy)?))
        }
        (None, None) if fused(&x.primal) && fused(&y.primal) => {
            Ok(Dual::constant(&apply2(Residual, &x.primal, &y.primal)?))
        }
        _ => composed::residual(x, y),
    }
}

#[cfg(test)]
mod tests;
