//! Operations of a convolutional network on duals of images `(B, H, W, C)`.

mod composed;

use crate::flow::dual::Dual;
use candle_core::{Result, Tensor};

/// A 3×3 convolution with zeros around the image: `x (B, H, W, K)`, `w (3, 3, K, N)`, giving `(B, H, W, N)`.
///
/// `b` is added at every pixel: `(N)` for all images, or `(B, N)` for each.
pub fn conv3x3(x: &Dual, w: &Tensor, b: &Dual) -> Result<Dual> {
    composed::conv3x3(x, w, b)
}

/// Group norm: `(x - mean) / √(var + eps)` over the pixels and channels of each of `groups` runs of channels of an
/// image, then `w` times that plus `b`, both `(C)`.
pub fn group_norm(x: &Dual, w: &Tensor, b: &Tensor, groups: usize, eps: f64) -> Result<Dual> {
    composed::group_norm(x, w, b, groups, eps)
}

/// The mean of 2×2 pixels: `(B, H, W, C)` → `(B, H/2, W/2, C)`.
pub fn downsample(x: &Dual) -> Result<Dual> {
    composed::downsample(x)
}

/// Every pixel 2×2 times: `(B, H, W, C)` → `(B, 2H, 2W, C)`.
pub fn upsample(x: &Dual) -> Result<Dual> {
    composed::upsample(x)
}

/// `(x + y) / √2`: the sum of two branches, as large as one of them.
pub fn residual(x: &Dual, y: &Dual) -> Result<Dual> {
    x.add(y)?.affine(0.5f64.sqrt(), 0.0)
}
