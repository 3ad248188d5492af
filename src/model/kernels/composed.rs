//! The same operations composed of candle's own: the path of other dtypes and devices, and the reference in tests.

use crate::flow::dual::Dual;
use candle_core::{Result, Tensor};

/// See [`super::linear()`].
pub(super) fn linear(x: &Dual, w: &Tensor, b: &Tensor) -> Result<Dual> {
    let (k, n) = w.dims2()?;
    let mut shape = x.primal.dims().to_vec();
    if let Some(last) = shape.last_mut() {
        *last = n;
    }
    let product = |x: &Tensor| x.reshape(((), k))?.matmul(w)?.reshape(shape.as_slice());
    x.unary(|x| product(x)?.broadcast_add(b), |_, _, dx| product(dx))
}

/// See [`super::modulate()`].
pub(super) fn modulate(x: &Dual, scale: &Dual, shift: &Dual) -> Result<Dual> {
    let scale = scale.affine(1.0, 1.0)?.linear(|v| v.unsqueeze(1))?;
    x.mul(&scale)?.add(&shift.linear(|v| v.unsqueeze(1))?)
}

/// See [`super::gated_add()`].
pub(super) fn gated_add(x: &Dual, gate: &Dual, y: &Dual) -> Result<Dual> {
    x.add(&y.mul(&gate.linear(|v| v.unsqueeze(1))?)?)
}

/// See [`super::attention()`].
pub(super) fn attention(qkv: &Dual, heads: usize) -> Result<Dual> {
    let (images, tokens, packed) = qkv.primal.dims3()?;
    let width = packed / 3 / heads;
    // (B, T, 3C) -> (3, B, heads, T, d)
    let split = |x: &Tensor| x.reshape((images, tokens, 3, heads, width))?.permute((2, 0, 3, 1, 4))?.contiguous();
    let parts = qkv.linear(split)?;
    let part = |i| parts.linear(|x| x.get(i));
    let scores = part(0)?.matmul(&part(1)?.linear(Tensor::t)?)?.affine(1.0 / (width as f64).sqrt(), 0.0)?;
    let joined = scores.softmax()?.matmul(&part(2)?)?;
    joined.linear(|x| x.transpose(1, 2)?.reshape((images, tokens, heads * width)))
}
