//! Joining two arrays along their last dimension.

use super::buffer;
use super::op::{Kernel, View};
use candle_core::{Result, Shape, bail};

/// `(…, A)` and `(…, B)` to `(…, A + B)`.
pub(in crate::model) struct Concat;

impl Kernel<2> for Concat {
    const NAME: &'static str = "concat";

    fn forward(&self, [a, b]: [View<'_>; 2]) -> Result<(Vec<f32>, Shape)> {
        let ([rows @ .., left], [others @ .., right]) = (a.dims, b.dims) else {
            bail!("concat: {:?} and {:?} have no last dimension", a.dims, b.dims);
        };
        if rows != others || left * right == 0 {
            bail!("concat: cannot join {:?} and {:?} along their last dimension", a.dims, b.dims);
        }
        let mut out = buffer::take(a.data.len() + b.data.len());
        let parts = a.data.chunks_exact(*left).zip(b.data.chunks_exact(*right));
        for (out, (a, b)) in out.chunks_exact_mut(left + right).zip(parts) {
            out[..*left].copy_from_slice(a);
            out[*left..].copy_from_slice(b);
        }
        Ok((out, [rows, &[left + right]].concat().into()))
    }

    fn backward(&self, [a, b]: [View<'_>; 2], _: &[f32], grad: &[f32], wanted: [bool; 2]) -> [Option<Vec<f32>>; 2] {
        let [left, right] = [a, b].map(|part| part.dims.last().copied().unwrap_or(0));
        let part = |start: usize, width: usize| {
            let mut part = buffer::take(grad.len() / (left + right) * width);
            for (part, grad) in part.chunks_exact_mut(width).zip(grad.chunks_exact(left + right)) {
                part.copy_from_slice(&grad[start..start + width]);
            }
            part
        };
        [wanted[0].then(|| part(0, left)), wanted[1].then(|| part(left, right))]
    }
}
