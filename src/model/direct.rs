//! Operations on plain tensors for serving on a GPU, where the number of kernels is what a small network costs.
//!
//! There are no tangents and no gradients here, so norms and softmax are single kernels, parts of a modulation are
//! views, and what depends on weights alone is made once. `docs/CUDA.md` counts what is launched.
//!
//! Images are `(B, T, C)` as everywhere, but lie in memory channel by channel, as candle's convolutions want them: such
//! a value is the transposed view of a contiguous `(B, C, T)`, here called *planes*, and what follows works on them.
//!
//! Weights may be `bf16`. Times, their sinusoids and the sum with the class stay `f32`; a layer casts what it takes in.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Mutex, PoisonError};

use candle_core::{D, DType, Result, Tensor, TensorId};
use candle_nn::ops;

use super::embedding::Sinusoids;
use super::image_layers::{Conv3x3, GroupNorm, Sides};
use super::layers::Linear;
use super::ops::Ops;
use super::patches::Patches;

/// Computes at once, on tensors without gradients.
#[derive(Debug, Default)]
pub(super) struct Direct {
    /// Weights in the layout of candle's convolutions, by those of the network.
    filters: Mutex<HashMap<TensorId, Tensor>>,
    /// Scale one and shift nought of a norm, by its length.
    units: Mutex<HashMap<(usize, DType), (Tensor, Tensor)>>,
}

impl Direct {
    /// Weights `(out, in, 3, 3)`.
    fn filter(&self, conv: &Conv3x3) -> Result<Tensor> {
        made_once(&self.filters, conv.weight.id(), || conv.weight.permute((3, 2, 0, 1))?.contiguous())
    }

    /// `(x - mean x) / √(var x + eps)` over the last dimension in one kernel.
    fn norm(&self, x: &Tensor, eps: f64) -> Result<Tensor> {
        let (length, dtype) = (x.dim(D::Minus1)?, x.dtype());
        let unit = || Ok((Tensor::ones(length, dtype, x.device())?, Tensor::zeros(length, dtype, x.device())?));
        let (one, nought) = made_once(&self.units, (length, dtype), unit)?;
        ops::layer_norm(&x.contiguous()?, &one, &nought, eps as f32)
    }
}

/// What `make` gave for `key` the first time.
fn made_once<K: Eq + Hash, V: Clone>(made: &Mutex<HashMap<K, V>>, key: K, make: impl Fn() -> Result<V>) -> Result<V> {
    let mut made = made.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(value) = made.get(&key) {
        return Ok(value.clone());
    }
    let value = make()?;
    made.insert(key, value.clone());
    Ok(value)
}

/// Whether `x (B, T, C)` lies in memory channel by channel.
fn is_planes(x: &Tensor) -> bool {
    x.rank() == 3 && !x.is_contiguous() && x.t().is_ok_and(|planes| planes.is_contiguous())
}

/// `(B, C, T)` of `x (B, T, C)`, contiguous.
fn planes(x: &Tensor) -> Result<Tensor> {
    x.t()?.contiguous()
}

/// `(B, C, H, W)` of `x (B, T, C)`, contiguous.
fn image(x: &Tensor, sides: Sides) -> Result<Tensor> {
    let (images, _, channels) = x.dims3()?;
    planes(x)?.reshape((images, channels, sides.height, sides.width))
}

/// `(B, T, C)` of an image `(B, C, H, W)`, without a copy.
fn tokens(image: &Tensor) -> Result<Tensor> {
    image.flatten_from(2)?.t()
}

/// A convolution of images with zeros around them. candle has none of `bf16` on the CPU, where tests run.
fn convolve(x: &Tensor, filter: &Tensor) -> Result<Tensor> {
    if x.device().is_cpu() && x.dtype() == DType::BF16 {
        let wide = |tensor: &Tensor| tensor.to_dtype(DType::F32);
        return wide(x)?.conv2d(&wide(filter)?, 1, 1, 1, 1)?.to_dtype(DType::BF16);
    }
    x.conv2d(filter, 1, 1, 1, 1)
}

/// An elementwise `f` of `a` and `b`, on planes where one of them lies so: what comes out lies as what goes in.
fn elementwise(a: &Tensor, b: &Tensor, f: impl Fn(&Tensor, &Tensor) -> Result<Tensor>) -> Result<Tensor> {
    // The wider of two precisions: the condition of a bf16 network is summed in f32.
    let dtype = if a.dtype() == b.dtype() { a.dtype() } else { DType::F32 };
    let (a, b) = (a.to_dtype(dtype)?, b.to_dtype(dtype)?);
    match is_planes(&a) || is_planes(&b) {
        true => f(&planes(&a)?, &planes(&b)?)?.t(),
        false => f(&a, &b),
    }
}

impl Ops for Direct {
    type Value = Tensor;
    type Labels = Tensor;

    fn linear(&self, x: &Tensor, layer: &Linear) -> Result<Tensor> {
        let (inputs, outputs) = layer.weight.dims2()?;
        let x = x.to_dtype(layer.weight.dtype())?;
        if is_planes(&x) {
            // Batches share the weights by a stride of nought, which a batched product takes.
            let weight = layer.weight.t()?.broadcast_as((x.dim(0)?, outputs, inputs))?;
            return weight.matmul(&planes(&x)?)?.broadcast_add(&layer.bias.unsqueeze(1)?)?.t();
        }
        let mut shape = x.dims().to_vec();
        if let Some(last) = shape.last_mut() {
            *last = outputs;
        }
        x.reshape(((), inputs))?.matmul(&layer.weight)?.broadcast_add(&layer.bias)?.reshape(shape)
    }

    fn silu(&self, x: &Tensor) -> Result<Tensor> {
        if is_planes(x) { planes(x)?.silu()?.t() } else { x.silu() }
    }

    fn add(&self, a: &Tensor, b: &Tensor) -> Result<Tensor> {
        elementwise(a, b, |a, b| a + b)
    }

    fn sub(&self, a: &Tensor, b: &Tensor) -> Result<Tensor> {
        elementwise(a, b, |a, b| a - b)
    }

    fn add_constant(&self, x: &Tensor, c: &Tensor) -> Result<Tensor> {
        x.broadcast_add(c)
    }

    fn concat(&self, a: &Tensor, b: &Tensor) -> Result<Tensor> {
        match is_planes(a) || is_planes(b) {
            true => Tensor::cat(&[planes(a)?, planes(b)?], 1)?.t(),
            false => Tensor::cat(&[a, b], D::Minus1),
        }
    }

    fn chunks<const N: usize>(&self, x: &Tensor) -> Result<[Tensor; N]> {
        let width = x.dim(1)? / N;
        let parts = (0..N).map(|i| x.narrow(1, i * width, width)).collect::<Result<Vec<_>>>()?;
        parts.try_into().map_err(|_| candle_core::Error::Msg("a modulation of the wrong width".into()))
    }

    fn column(&self, x: &Tensor) -> Result<Tensor> {
        x.unsqueeze(D::Minus1)
    }

    fn sinusoids(&self, x: &Tensor, sinusoids: &Sinusoids) -> Result<Tensor> {
        let angle = x.unsqueeze(D::Minus1)?.broadcast_mul(&sinusoids.frequencies)?;
        Tensor::cat(&[angle.cos()?, angle.sin()?], D::Minus1)?.flatten_from(1)
    }

    fn look_up(&self, table: &Tensor, labels: &Tensor) -> Result<Tensor> {
        table.index_select(labels, 0)?.to_dtype(DType::F32)
    }

    fn split(&self, x: &Tensor, patches: &Patches) -> Result<Tensor> {
        if patches.side() == 1 { tokens(x) } else { patches.split(x) }
    }

    fn join(&self, x: &Tensor, patches: &Patches) -> Result<Tensor> {
        let (height, width) = patches.places();
        if patches.side() == 1 { image(x, Sides { height, width }) } else { patches.join(x) }
    }

    fn layer_norm(&self, x: &Tensor, eps: f64) -> Result<Tensor> {
        self.norm(x, eps)
    }

    fn modulate(&self, x: &Tensor, scale: &Tensor, shift: &Tensor) -> Result<Tensor> {
        x.broadcast_mul(&scale.affine(1.0, 1.0)?.unsqueeze(1)?)?.broadcast_add(&shift.unsqueeze(1)?)
    }

    fn gated_add(&self, x: &Tensor, gate: &Tensor, y: &Tensor) -> Result<Tensor> {
        x + y.broadcast_mul(&gate.unsqueeze(1)?)?
    }

    fn attention(&self, qkv: &Tensor, heads: usize) -> Result<Tensor> {
        let (images, count, packed) = qkv.dims3()?;
        let width = packed / 3 / heads;
        let scale = 1.0 / (width as f64).sqrt();
        if heads == 1 && is_planes(qkv) {
            let all = planes(qkv)?;
            let part = |i| all.narrow(1, i * width, width);
            let scores = part(0)?.affine(scale, 0.0)?.t()?.matmul(&part(1)?)?;
            return part(2)?.matmul(&ops::softmax_last_dim(&scores)?.t()?)?.t();
        }
        let parts = qkv.reshape((images, count, 3, heads, width))?.permute((2, 0, 3, 1, 4))?.contiguous()?;
        let scores = parts.get(0)?.affine(scale, 0.0)?.matmul(&parts.get(1)?.t()?)?;
        let joined = ops::softmax_last_dim(&scores)?.matmul(&parts.get(2)?)?;
        joined.transpose(1, 2)?.reshape((images, count, heads * width))
    }

    fn conv3x3(&self, x: &Tensor, conv: &Conv3x3, shift: Option<&Tensor>) -> Result<Tensor> {
        let x = image(&x.to_dtype(conv.weight.dtype())?, conv.sides)?;
        let y = convolve(&x, &self.filter(conv)?)?.flatten_from(2)?;
        let bias = shift.map_or_else(|| Ok(conv.bias.clone()), |shift| shift.broadcast_add(&conv.bias))?;
        y.broadcast_add(&bias.unsqueeze(D::Minus1)?)?.t()
    }

    fn group_norm(&self, x: &Tensor, norm: &GroupNorm) -> Result<Tensor> {
        let x = planes(x)?;
        let grouped = x.reshape((x.dim(0)?, norm.groups, ()))?;
        let y = self.norm(&grouped, norm.eps)?.reshape(x.shape())?;
        y.broadcast_mul(&norm.weight.unsqueeze(1)?)?.broadcast_add(&norm.bias.unsqueeze(1)?)?.t()
    }

    fn downsample(&self, x: &Tensor, sides: Sides) -> Result<Tensor> {
        tokens(&image(x, sides)?.avg_pool2d(2)?)
    }

    fn upsample(&self, x: &Tensor, sides: Sides) -> Result<Tensor> {
        tokens(&image(x, sides)?.upsample_nearest2d(2 * sides.height, 2 * sides.width)?)
    }

    fn residual(&self, a: &Tensor, b: &Tensor) -> Result<Tensor> {
        elementwise(a, b, |a, b| (a + b)?.affine(0.5f64.sqrt(), 0.0))
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;
    use candle_nn::VarBuilder;

    use super::*;
    use crate::model::layers::Start;

    /// No operation of an image brings it into another layout, and each agrees with the same on tokens.
    #[test]
    fn images_stay_planes() -> Result<()> {
        let (cpu, ops, sides) = (Device::Cpu, Direct::default(), Sides { height: 4, width: 6 });
        let weights = VarBuilder::zeros(DType::F32, &cpu);
        let layer = |outputs| {
            let weight = Tensor::randn(0f32, 1.0, (8, outputs), &cpu)?;
            Ok::<_, candle_core::Error>(Linear { weight, bias: Tensor::randn(0f32, 1.0, outputs, &cpu)? })
        };
        let (linear, norm) = (layer(24)?, GroupNorm::new(8, &weights.pp("norm"))?);
        let conv = Conv3x3::new(sides, [8, 8], Start::Zero, &weights.pp("conv"))?;
        let conv = Conv3x3 { weight: Tensor::randn(0f32, 1.0, (3, 3, 8, 8), &cpu)?, ..conv };
        let x = tokens(&Tensor::randn(0f32, 1.0, (2, 8, 4, 6), &cpu)?)?;
        assert!(is_planes(&x));
        let all = |x: &Tensor| {
            let qkv = ops.linear(x, &linear)?;
            Ok::<_, candle_core::Error>([
                ops.silu(x)?,
                ops.concat(x, x)?,
                ops.attention(&qkv, 1)?,
                ops.conv3x3(x, &conv, None)?,
                ops.group_norm(x, &norm)?,
                ops.downsample(x, sides)?,
                ops.upsample(x, sides)?,
                ops.residual(x, x)?,
                qkv,
            ])
        };
        for (index, (planar, plain)) in all(&x)?.iter().zip(all(&x.contiguous()?)?).enumerate() {
            assert!(is_planes(planar), "{index}");
            let difference = (planar - plain)?.abs()?.flatten_all()?.max(0)?.to_scalar::<f32>()?;
            assert!(difference < 1e-5, "{index}: {difference}");
        }
        Ok(())
    }
}
