//! The operations that networks are written with, and what can carry them out.
//!
//! A network is written once, as a [`Network`] over any [`Ops`]:
//!
//! - [`Eager`] computes on duals as it goes: training, other devices, derivatives in time;
//! - [`Recorder`](super::plan::Recorder) writes down what is done, and [`Plan`](super::plan::Plan) makes of it the list
//!   of fused steps that serves on a CPU.
//!
//! Every implementation agrees with every other up to rounding; `model/tests.rs` holds them to it.

use candle_core::{D, Result, Tensor};

use super::embedding::{self, Sinusoids};
use super::image_layers::{Conv3x3, GroupNorm, Sides};
use super::kernels;
use super::layers::Linear;
use super::patches::Patches;
use crate::flow::{Dual, FlowMap};

/// A network of average velocities, written on any [`Ops`].
pub trait Network: Send + Sync {
    /// `v_{s,t}(x | label)`; see [`FlowMap::velocity`].
    fn velocity<O: Ops>(&self, ops: &O, arguments: &Arguments<O>) -> Result<O::Value>;
}

/// What a network is asked.
pub struct Arguments<O: Ops> {
    /// States `(B, …)`.
    pub x: O::Value,
    /// Times before the jump, `(B,)`.
    pub s: O::Value,
    /// Times after it, `(B,)`.
    pub t: O::Value,
    /// Classes `(B,)`; the null class is the number of classes.
    pub labels: O::Labels,
}

/// Operations of networks. `B` is the number of rows of a batch, `T` that of the tokens of an image.
pub trait Ops {
    /// A tensor, as far as it is known.
    type Value: Clone;
    /// One class for each row.
    type Labels;

    /// `x W + b` on the last dimension.
    fn linear(&self, x: &Self::Value, layer: &Linear) -> Result<Self::Value>;
    /// `x σ(x)`.
    fn silu(&self, x: &Self::Value) -> Result<Self::Value>;
    /// `a + b` of one shape.
    fn add(&self, a: &Self::Value, b: &Self::Value) -> Result<Self::Value>;
    /// `a - b` of one shape.
    fn sub(&self, a: &Self::Value, b: &Self::Value) -> Result<Self::Value>;
    /// `x + c` with `c (1, T, C)` for `x (B, T, C)`.
    fn add_constant(&self, x: &Self::Value, c: &Tensor) -> Result<Self::Value>;
    /// Joins along the last dimension.
    fn concat(&self, a: &Self::Value, b: &Self::Value) -> Result<Self::Value>;
    /// `(B, N width)` into `N` parts `(B, width)`.
    fn chunks<const N: usize>(&self, x: &Self::Value) -> Result<[Self::Value; N]>;
    /// `(B,)` to `(B, 1)`.
    fn column(&self, x: &Self::Value) -> Result<Self::Value>;
    /// `(B,)` to `(B, 2n)`, or `(B, d)` to `(B, 2nd)`.
    fn sinusoids(&self, x: &Self::Value, sinusoids: &Sinusoids) -> Result<Self::Value>;
    /// The row of `table (classes + 1, width)` of each label: `(B, width)`.
    fn look_up(&self, table: &Tensor, labels: &Self::Labels) -> Result<Self::Value>;
    /// `(B, C, H, W)` to `(B, T, C side side)`.
    fn split(&self, x: &Self::Value, patches: &Patches) -> Result<Self::Value>;
    /// The inverse of [`split`](Self::split).
    fn join(&self, x: &Self::Value, patches: &Patches) -> Result<Self::Value>;
    /// `(x - mean x) / √(var x + eps)` over the last dimension.
    fn layer_norm(&self, x: &Self::Value, eps: f64) -> Result<Self::Value>;
    /// `x (1 + scale) + shift` of `x (B, T, C)`, `scale (B, C)`, `shift (B, C)`.
    fn modulate(&self, x: &Self::Value, scale: &Self::Value, shift: &Self::Value) -> Result<Self::Value>;
    /// `x + gate y` of `x (B, T, C)`, `gate (B, C)`, `y (B, T, C)`.
    fn gated_add(&self, x: &Self::Value, gate: &Self::Value, y: &Self::Value) -> Result<Self::Value>;
    /// Self-attention of `qkv (B, T, 3C)`, see [`kernels::attention`].
    fn attention(&self, qkv: &Self::Value, heads: usize) -> Result<Self::Value>;
    /// A convolution of images `(B, T, K)`, with `shift (B, N)` added at every pixel.
    fn conv3x3(&self, x: &Self::Value, conv: &Conv3x3, shift: Option<&Self::Value>) -> Result<Self::Value>;
    /// Group norm of images `(B, T, C)`.
    fn group_norm(&self, x: &Self::Value, norm: &GroupNorm) -> Result<Self::Value>;
    /// The mean of 2×2 pixels of images `(B, T, C)` of `sides`.
    fn downsample(&self, x: &Self::Value, sides: Sides) -> Result<Self::Value>;
    /// Every pixel of images `(B, T, C)` of `sides` 2×2 times.
    fn upsample(&self, x: &Self::Value, sides: Sides) -> Result<Self::Value>;
    /// `(a + b) / √2` of one shape.
    fn residual(&self, a: &Self::Value, b: &Self::Value) -> Result<Self::Value>;
}

/// Computes at once, on duals.
#[derive(Debug, Clone, Copy)]
pub struct Eager;

impl Ops for Eager {
    type Value = Dual;
    type Labels = Tensor;

    fn linear(&self, x: &Dual, layer: &Linear) -> Result<Dual> {
        kernels::linear(x, &layer.weight, &layer.bias)
    }

    fn silu(&self, x: &Dual) -> Result<Dual> {
        kernels::silu(x)
    }

    fn add(&self, a: &Dual, b: &Dual) -> Result<Dual> {
        a.add(b)
    }

    fn sub(&self, a: &Dual, b: &Dual) -> Result<Dual> {
        a.sub(b)
    }

    fn add_constant(&self, x: &Dual, c: &Tensor) -> Result<Dual> {
        x.add(&Dual::constant(c))
    }

    fn concat(&self, a: &Dual, b: &Dual) -> Result<Dual> {
        embedding::concat(a, b)
    }

    fn chunks<const N: usize>(&self, x: &Dual) -> Result<[Dual; N]> {
        let width = x.primal.dim(1)? / N;
        let parts =
            (0..N).map(|i| x.linear(|v| v.narrow(1, i * width, width)?.contiguous())).collect::<Result<Vec<_>>>()?;
        parts.try_into().map_err(|_| candle_core::Error::Msg("a modulation of the wrong width".into()))
    }

    fn column(&self, x: &Dual) -> Result<Dual> {
        x.linear(|v| v.unsqueeze(D::Minus1))
    }

    fn sinusoids(&self, x: &Dual, sinusoids: &Sinusoids) -> Result<Dual> {
        sinusoids.forward(x)
    }

    fn look_up(&self, table: &Tensor, labels: &Tensor) -> Result<Dual> {
        Ok(Dual::constant(&table.index_select(labels, 0)?))
    }

    fn split(&self, x: &Dual, patches: &Patches) -> Result<Dual> {
        x.linear(|x| patches.split(x))
    }

    fn join(&self, x: &Dual, patches: &Patches) -> Result<Dual> {
        x.linear(|x| patches.join(x))
    }

    fn layer_norm(&self, x: &Dual, eps: f64) -> Result<Dual> {
        kernels::layer_norm(x, eps)
    }

    fn modulate(&self, x: &Dual, scale: &Dual, shift: &Dual) -> Result<Dual> {
        kernels::modulate(x, scale, shift)
    }

    fn gated_add(&self, x: &Dual, gate: &Dual, y: &Dual) -> Result<Dual> {
        kernels::gated_add(x, gate, y)
    }

    fn attention(&self, qkv: &Dual, heads: usize) -> Result<Dual> {
        kernels::attention(qkv, heads)
    }

    fn conv3x3(&self, x: &Dual, conv: &Conv3x3, shift: Option<&Dual>) -> Result<Dual> {
        let bias = Dual::constant(&conv.bias);
        let bias = shift.map_or_else(|| Ok(bias.clone()), |shift| shift.add(&bias))?;
        kernels::conv3x3(x, conv.sides, &conv.weight, &bias)
    }

    fn group_norm(&self, x: &Dual, norm: &GroupNorm) -> Result<Dual> {
        kernels::group_norm(x, &norm.weight, &norm.bias, norm.groups, norm.eps)
    }

    fn downsample(&self, x: &Dual, sides: Sides) -> Result<Dual> {
        kernels::downsample(x, sides)
    }

    fn upsample(&self, x: &Dual, sides: Sides) -> Result<Dual> {
        kernels::upsample(x, sides)
    }

    fn residual(&self, a: &Dual, b: &Dual) -> Result<Dual> {
        kernels::residual(a, b)
    }
}

impl<N: Network> FlowMap for N {
    fn velocity(&self, x: &Dual, s: &Dual, t: &Dual, labels: &Tensor) -> Result<Dual> {
        let arguments = Arguments { x: x.clone(), s: s.clone(), t: t.clone(), labels: labels.clone() };
        Network::velocity(self, &Eager, &arguments)
    }
}
