//! Conditioning of tokens by vectors of their image: scale and shift, and the gated residual sum.

use super::buffer;
use super::loops::vectorized;
use super::op::{Kernel, View};
use candle_core::{Result, Shape, bail};

/// `x (1 + scale) + shift` of `x (B, T, C)`, `scale (B, C)`, `shift (B, C)`.
pub(in crate::model) struct Modulate;

impl Kernel<3> for Modulate {
    const NAME: &'static str = "modulate";

    fn forward(&self, [x, scale, shift]: [View<'_>; 3]) -> Result<(Vec<f32>, Shape)> {
        let tokens = Tokens::new(x, [scale, shift])?;
        let y = tokens.map(
            [x.data, x.data],
            [scale.data, shift.data],
            #[inline(always)]
            |[x, _], [scale, shift]| x * (1.0 + scale) + shift,
        );
        Ok((y, x.dims.into()))
    }

    fn backward(
        &self,
        [x, scale, shift]: [View<'_>; 3],
        _: &[f32],
        grad: &[f32],
        _: [bool; 3],
    ) -> [Option<Vec<f32>>; 3] {
        let Ok(tokens) = Tokens::new(x, [scale, shift]) else { return [None, None, None] };
        let dx = tokens.map(
            [grad, grad],
            [scale.data, scale.data],
            #[inline(always)]
            |[grad, _], [scale, _]| grad * (1.0 + scale),
        );
        let dscale = tokens.sum(
            [grad, x.data],
            #[inline(always)]
            |[grad, x]| grad * x,
        );
        let dshift = tokens.sum(
            [grad, grad],
            #[inline(always)]
            |[grad, _]| grad,
        );
        [Some(dx), Some(dscale), Some(dshift)]
    }
}

/// `x + gate · y` of `x (B, T, C)`, `gate (B, C)`, `y (B, T, C)`.
pub(in crate::model) struct GatedAdd;

impl Kernel<3> for GatedAdd {
    const NAME: &'static str = "gated-add";

    fn forward(&self, [x, gate, y]: [View<'_>; 3]) -> Result<(Vec<f32>, Shape)> {
        if x.dims != y.dims {
            bail!("gated add: the branches have shapes {:?} and {:?}", x.dims, y.dims);
        }
        let out = Tokens::new(x, [gate, gate])?.map(
            [x.data, y.data],
            [gate.data, gate.data],
            #[inline(always)]
            |[x, y], [gate, _]| x + gate * y,
        );
        Ok((out, x.dims.into()))
    }

    fn backward(
        &self,
        [x, gate, y]: [View<'_>; 3],
        _: &[f32],
        grad: &[f32],
        wanted: [bool; 3],
    ) -> [Option<Vec<f32>>; 3] {
        let Ok(tokens) = Tokens::new(x, [gate, gate]) else { return [None, None, None] };
        let dgate = tokens.sum(
            [grad, y.data],
            #[inline(always)]
            |[grad, y]| grad * y,
        );
        let dy = tokens.map(
            [grad, grad],
            [gate.data, gate.data],
            #[inline(always)]
            |[grad, _], [gate, _]| grad * gate,
        );
        [wanted[0].then(|| buffer::copy(grad)), Some(dgate), Some(dy)]
    }
}

/// Dimensions of `(B, T, C)`, and the two patterns of loops over it.
#[derive(Debug, Clone, Copy)]
struct Tokens {
    images: usize,
    tokens: usize,
    channels: usize,
}

impl Tokens {
    fn new(x: View<'_>, vectors: [View<'_>; 2]) -> Result<Self> {
        match *x.dims {
            [images, tokens, channels] if channels > 0 && vectors.iter().all(|v| v.dims == [images, channels]) => {
                Ok(Self { images, tokens, channels })
            }
            _ => bail!("cannot condition tokens {:?} (B, T, C) by {:?} (B, C)", x.dims, vectors.map(|v| v.dims)),
        }
    }

    /// `f` of each element of two token tensors and the matching elements of two vectors of the image.
    fn map(self, x: [&[f32]; 2], v: [&[f32]; 2], f: impl Fn([f32; 2], [f32; 2]) -> f32) -> Vec<f32> {
        let Self { images, tokens, channels } = self;
        let mut out = buffer::take(images * tokens * channels);
        vectorized(
            #[inline(always)]
            || {
                for (token, row) in out.chunks_exact_mut(channels).enumerate() {
                    let [a, b] = x.map(|x| &x[token * channels..][..channels]);
                    let [c, d] = v.map(|v| &v[token / tokens * channels..][..channels]);
                    for (out, ((a, b), (c, d))) in row.iter_mut().zip(a.iter().zip(b).zip(c.iter().zip(d))) {
                        *out = f([*a, *b], [*c, *d]);
                    }
                }
            },
        );
        out
    }

    /// The sum over an image's tokens of `f` of the elements of two token tensors: `(B, C)`.
    fn sum(self, x: [&[f32]; 2], f: impl Fn([f32; 2]) -> f32) -> Vec<f32> {
        let Self { images, tokens, channels } = self;
        let mut out = buffer::zeros(images * channels);
        vectorized(
            #[inline(always)]
            || {
                for token in 0..images * tokens {
                    let [a, b] = x.map(|x| &x[token * channels..][..channels]);
                    let sums = &mut out[token / tokens * channels..][..channels];
                    for (sum, (a, b)) in sums.iter_mut().zip(a.iter().zip(b)) {
                        *sum += f([*a, *b]);
                    }
                }
            },
        );
        out
    }
}
