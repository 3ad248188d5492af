//! Embeddings of times, of coordinates and of positions.

use candle_core::{D, DType, Device, Result, Tensor};

use crate::flow::Dual;

/// Sinusoids of a number, `[cos ω₁t … cos ωₙt, sin ω₁t … sin ωₙt]`, with `ω` spread geometrically from 1 to a highest
/// frequency in rad per unit.
///
/// For times the highest frequency stays low: it multiplies `∂_t v`, which losses on the flow map's derivative contain.
pub struct Sinusoids {
    /// `(n,)`.
    pub(super) frequencies: Tensor,
}

impl Sinusoids {
    /// `count` frequencies from 1 to `highest`, `f32` even where weights are narrower: times differ by less than `bf16`
    /// can tell.
    pub fn new(count: usize, highest: f64, dtype: DType, device: &Device) -> Result<Self> {
        let dtype = if dtype.size_in_bytes() < 4 { DType::F32 } else { dtype };
        let last = count.saturating_sub(1).max(1) as f64;
        let omega: Vec<f64> = (0..count).map(|k| highest.powf(k as f64 / last)).collect();
        Ok(Self { frequencies: Tensor::from_vec(omega, count, device)?.to_dtype(dtype)? })
    }

    /// Numbers in the embedding of one number.
    pub fn width(&self) -> Result<usize> {
        Ok(2 * self.frequencies.dim(0)?)
    }

    /// `(B,)` → `(B, 2n)`; `(B, d)` → `(B, 2nd)`, one coordinate after the other.
    pub fn forward(&self, t: &Dual) -> Result<Dual> {
        let angle = t.linear(|t| t.unsqueeze(D::Minus1)?.broadcast_mul(&self.frequencies))?;
        concat(&angle.cos()?, &angle.sin()?)?.linear(|v| v.flatten_from(1))
    }
}

/// Joins two duals along their last dimension.
pub fn concat(a: &Dual, b: &Dual) -> Result<Dual> {
    let primal = Tensor::cat(&[&a.primal, &b.primal], D::Minus1)?;
    if a.tangent.is_none() && b.tangent.is_none() {
        return Ok(Dual::constant(&primal));
    }
    Ok(Dual::new(primal, Tensor::cat(&[a.tangent_or_zero()?, b.tangent_or_zero()?], D::Minus1)?))
}

/// Fixed sinusoids of the place of each patch, `(rows · columns, width)`: half of the width for each axis.
pub fn positions(rows: usize, columns: usize, width: usize, dtype: DType, device: &Device) -> Result<Tensor> {
    let quarter = width / 4;
    let axis = |place: usize, out: &mut Vec<f64>| {
        let angles = (0..quarter).map(|k| place as f64 * 10_000f64.powf(-(k as f64) / quarter as f64));
        out.extend(angles.clone().map(f64::sin).chain(angles.map(f64::cos)));
    };
    let mut values = Vec::with_capacity(rows * columns * width);
    for place in 0..rows * columns {
        axis(place / columns, &mut values);
        axis(place % columns, &mut values);
        values.resize((place + 1) * width, 0.0);
    }
    Tensor::from_vec(values, (rows * columns, width), device)?.to_dtype(dtype)
}
