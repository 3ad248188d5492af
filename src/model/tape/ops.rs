//! Operations on a tape.

use candle_core::{D, DType, Result, Tensor, bail};

use super::{Array, Tape, Taped};
use crate::flow::Dual;
use crate::model::embedding::Sinusoids;
use crate::model::image_layers::{Conv3x3, GroupNorm, Sides};
use crate::model::kernels::{
    self, Attention, AttentionTangent, Concat, Convolution, Double, GatedAdd, Halve, LayerNorm, LayerNormTangent,
    Linear as Product, LinearTangent, Modulate, Residual, Silu, SiluTangent, Sinusoid, buffer,
};
use crate::model::layers::Linear;
use crate::model::ops::Ops;
use crate::model::patches::Patches;

impl Taped {
    /// A constant of the same values.
    pub(super) fn constant(dual: &Dual) -> Result<Self> {
        Ok(Self {
            primal: Array::constant(&dual.primal)?,
            tangent: dual.tangent.as_ref().map(Array::constant).transpose()?,
        })
    }

    /// Applies `f` and its derivative along the tangent.
    fn unary(
        &self,
        f: impl FnOnce(&Array) -> Result<Array>,
        df: impl FnOnce(&Array, &Array) -> Result<Array>,
    ) -> Result<Self> {
        let tangent = self.tangent.as_ref().map(|dx| df(&self.primal, dx)).transpose()?;
        Ok(Self { primal: f(&self.primal)?, tangent })
    }

    fn linear(&self, f: impl Fn(&Array) -> Result<Array>) -> Result<Self> {
        Ok(Self { primal: f(&self.primal)?, tangent: self.tangent.as_ref().map(&f).transpose()? })
    }
}

impl Tape {
    fn moved_dual(&self, x: &Taped, f: impl Fn(&Tensor) -> Result<Tensor>) -> Result<Taped> {
        x.linear(|x| self.moved(x, &f))
    }

    fn zeros(&self, dims: &[usize]) -> Array {
        self.array(buffer::zeros(dims.iter().product()), dims, false)
    }

    /// The tangent, with zeros where there is none.
    fn tangent(&self, x: &Taped) -> Array {
        x.tangent.clone().unwrap_or_else(|| self.zeros(x.primal.dims()))
    }

    /// `sum + gate · y`, where what is missing is zero.
    fn add_gated(&self, sum: Option<Array>, gate: Option<&Array>, y: Option<&Array>) -> Result<Option<Array>> {
        let (Some(gate), Some(y)) = (gate, y) else { return Ok(sum) };
        let sum = sum.unwrap_or_else(|| self.zeros(y.dims()));
        self.apply(GatedAdd, [&sum, gate, y]).map(Some)
    }

    /// `a + factor b` with tangents.
    fn sum_dual(&self, a: &Taped, b: &Taped, factor: f32) -> Result<Taped> {
        let tangent = match (&a.tangent, &b.tangent) {
            (None, None) => None,
            (Some(a), None) => Some(a.clone()),
            (Some(a), Some(b)) => Some(self.sum(a, b, factor)?),
            (None, Some(b)) if factor == 1.0 => Some(b.clone()),
            (None, Some(b)) => Some(self.sum(&self.zeros(b.dims()), b, factor)?),
        };
        Ok(Taped { primal: self.sum(&a.primal, &b.primal, factor)?, tangent })
    }
}

impl Ops for Tape {
    type Value = Taped;
    type Labels = Tensor;

    fn linear(&self, x: &Taped, layer: &Linear) -> Result<Taped> {
        let (w, b) = (self.weight(&layer.weight), self.weight(&layer.bias));
        x.unary(|x| self.apply(Product, [x, &w, &b]), |_, dx| self.apply(LinearTangent, [dx, &w]))
    }

    fn silu(&self, x: &Taped) -> Result<Taped> {
        x.unary(|x| self.apply(Silu, [x]), |x, dx| self.apply(SiluTangent, [x, dx]))
    }

    fn add(&self, a: &Taped, b: &Taped) -> Result<Taped> {
        self.sum_dual(a, b, 1.0)
    }

    fn sub(&self, a: &Taped, b: &Taped) -> Result<Taped> {
        self.sum_dual(a, b, -1.0)
    }

    fn add_constant(&self, x: &Taped, c: &Tensor) -> Result<Taped> {
        let c = c.broadcast_as(x.primal.dims())?;
        Ok(Taped { primal: self.sum(&x.primal, &Array::constant(&c)?, 1.0)?, tangent: x.tangent.clone() })
    }

    fn concat(&self, a: &Taped, b: &Taped) -> Result<Taped> {
        let primal = self.apply(Concat, [&a.primal, &b.primal])?;
        let tangent = match (&a.tangent, &b.tangent) {
            (None, None) => None,
            _ => Some(self.apply(Concat, [&self.tangent(a), &self.tangent(b)])?),
        };
        Ok(Taped { primal, tangent })
    }

    fn chunks<const N: usize>(&self, x: &Taped) -> Result<[Taped; N]> {
        let width = x.primal.dims().last().copied().unwrap_or(0) / N;
        let part = |i| self.moved_dual(x, |v| v.narrow(1, i * width, width));
        let parts = (0..N).map(part).collect::<Result<Vec<_>>>()?;
        parts.try_into().map_err(|_| candle_core::Error::Msg("a modulation of the wrong width".into()))
    }

    fn column(&self, x: &Taped) -> Result<Taped> {
        self.moved_dual(x, |v| v.unsqueeze(D::Minus1))
    }

    fn sinusoids(&self, x: &Taped, sinusoids: &Sinusoids) -> Result<Taped> {
        if x.primal.id().is_some() {
            let frequencies = sinusoids.frequencies.to_dtype(DType::F32)?.to_vec1()?;
            return match x.tangent {
                None => Ok(Taped { primal: self.apply(Sinusoid { frequencies }, [&x.primal])?, tangent: None }),
                Some(_) => bail!("sinusoids of states with both a gradient and a tangent are not differentiated twice"),
            };
        }
        let dual =
            Dual { primal: x.primal.to_tensor()?, tangent: x.tangent.as_ref().map(Array::to_tensor).transpose()? };
        Taped::constant(&sinusoids.forward(&dual)?)
    }

    fn look_up(&self, table: &Tensor, labels: &Tensor) -> Result<Taped> {
        let rows = self.moved(&self.weight(table), |table| table.index_select(labels, 0))?;
        Ok(Taped { primal: rows, tangent: None })
    }

    fn split(&self, x: &Taped, patches: &Patches) -> Result<Taped> {
        self.moved_dual(x, |x| patches.split(x))
    }

    fn join(&self, x: &Taped, patches: &Patches) -> Result<Taped> {
        self.moved_dual(x, |x| patches.join(x))
    }

    fn layer_norm(&self, x: &Taped, eps: f64) -> Result<Taped> {
        let eps = eps as f32;
        x.unary(|x| self.apply(LayerNorm { eps }, [x]), |x, dx| self.apply(LayerNormTangent { eps }, [x, dx]))
    }

    fn modulate(&self, x: &Taped, scale: &Taped, shift: &Taped) -> Result<Taped> {
        let primal = self.apply(Modulate, [&x.primal, &scale.primal, &shift.primal])?;
        // x' (1 + scale) + shift', then + scale' x.
        let tangent = match (&x.tangent, &shift.tangent) {
            (None, None) => None,
            (Some(dx), _) => Some(self.apply(Modulate, [dx, &scale.primal, &self.tangent(shift)])?),
            (None, Some(dshift)) => Some(self.moved(dshift, |v| v.unsqueeze(1)?.broadcast_as(x.primal.dims()))?),
        };
        Ok(Taped { primal, tangent: self.add_gated(tangent, scale.tangent.as_ref(), Some(&x.primal))? })
    }

    fn gated_add(&self, x: &Taped, gate: &Taped, y: &Taped) -> Result<Taped> {
        let primal = self.apply(GatedAdd, [&x.primal, &gate.primal, &y.primal])?;
        let tangent = self.add_gated(x.tangent.clone(), gate.tangent.as_ref(), Some(&y.primal))?;
        Ok(Taped { primal, tangent: self.add_gated(tangent, Some(&gate.primal), y.tangent.as_ref())? })
    }

    fn attention(&self, qkv: &Taped, heads: usize) -> Result<Taped> {
        qkv.unary(|x| self.apply(Attention { heads }, [x]), |x, dx| self.apply(AttentionTangent { heads }, [x, dx]))
    }

    fn conv3x3(&self, x: &Taped, conv: &Conv3x3, shift: Option<&Taped>) -> Result<Taped> {
        let (kernel, w) = (Convolution { sides: conv.sides }, self.weight(&conv.weight));
        let mut bias = Taped { primal: self.weight(&conv.bias), tangent: None };
        if let Some(shift) = shift {
            bias = self.sum_dual(shift, &self.moved_dual(&bias, |b| b.broadcast_as(shift.primal.dims()))?, 1.0)?;
        }
        let primal = self.apply(kernel, [&x.primal, &w, &bias.primal])?;
        let tangent = match (&x.tangent, &bias.tangent) {
            (None, None) => None,
            (Some(dx), None) => Some(self.apply(kernel, [dx, &w])?),
            (Some(dx), Some(db)) => Some(self.apply(kernel, [dx, &w, db])?),
            (None, Some(db)) => Some(self.moved(db, |db| db.unsqueeze(1)?.broadcast_as(primal.dims()))?),
        };
        Ok(Taped { primal, tangent })
    }

    fn group_norm(&self, x: &Taped, norm: &GroupNorm) -> Result<Taped> {
        let (groups, eps) = (norm.groups, norm.eps as f32);
        let (w, b) = (self.weight(&norm.weight), self.weight(&norm.bias));
        x.unary(
            |x| self.apply(kernels::GroupNorm { groups, eps }, [x, &w, &b]),
            |x, dx| self.apply(kernels::GroupNormTangent { groups, eps }, [x, &w, dx]),
        )
    }

    fn downsample(&self, x: &Taped, sides: Sides) -> Result<Taped> {
        x.linear(|x| self.apply(Halve { sides, factor: 0.25 }, [x]))
    }

    fn upsample(&self, x: &Taped, sides: Sides) -> Result<Taped> {
        x.linear(|x| self.apply(Double { sides, factor: 1.0 }, [x]))
    }

    fn residual(&self, a: &Taped, b: &Taped) -> Result<Taped> {
        let primal = self.apply(Residual, [&a.primal, &b.primal])?;
        let tangent = match (&a.tangent, &b.tangent) {
            (None, None) => None,
            _ => Some(self.apply(Residual, [&self.tangent(a), &self.tangent(b)])?),
        };
        Ok(Taped { primal, tangent })
    }
}
