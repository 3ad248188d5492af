//! Forward-mode differentiation: a tensor and its tangent, built from ordinary differentiable operations.
//!
//! A missing tangent is zero and costs nothing, so one definition of a network serves inference (no tangents), and
//! losses that contain `∂_t v`, which reverse mode then differentiates as any other tensor.

use candle_core::{D, Result, Tensor};

/// A tensor `primal` and the directional derivative `tangent` of the same shape; `None` is zero.
#[derive(Debug, Clone)]
pub struct Dual {
    /// The value.
    pub primal: Tensor,
    /// Its derivative along the seeded direction.
    pub tangent: Option<Tensor>,
}

impl Dual {
    /// A value with a tangent of the same shape.
    pub fn new(primal: Tensor, tangent: Tensor) -> Self {
        Self { primal, tangent: Some(tangent) }
    }

    /// A value that does not depend on the seeded direction.
    pub fn constant(primal: &Tensor) -> Self {
        Self { primal: primal.clone(), tangent: None }
    }

    /// The tangent, with zeros where there is none.
    pub fn tangent_or_zero(&self) -> Result<Tensor> {
        self.tangent.clone().map_or_else(|| self.primal.zeros_like(), Ok)
    }

    /// Applies a linear operation (reshape, permutation, sum, product with constants …) to both parts.
    pub fn linear(&self, f: impl Fn(&Tensor) -> Result<Tensor>) -> Result<Self> {
        Ok(Self { primal: f(&self.primal)?, tangent: self.tangent.as_ref().map(&f).transpose()? })
    }

    /// Applies `f` whose derivative at `x` along `dx` is `df(x, f(x), dx)`.
    pub fn unary(
        &self,
        f: impl Fn(&Tensor) -> Result<Tensor>,
        df: impl Fn(&Tensor, &Tensor, &Tensor) -> Result<Tensor>,
    ) -> Result<Self> {
        let y = f(&self.primal)?;
        let tangent = self.tangent.as_ref().map(|dx| df(&self.primal, &y, dx)).transpose()?;
        Ok(Self { primal: y, tangent })
    }

    /// Sum, broadcasting.
    pub fn add(&self, rhs: &Self) -> Result<Self> {
        let tangent = match (&self.tangent, &rhs.tangent) {
            (None, None) => None,
            (Some(a), Some(b)) => Some(a.broadcast_add(b)?),
            (Some(a), None) => Some(a.broadcast_add(&rhs.primal.zeros_like()?)?),
            (None, Some(b)) => Some(self.primal.zeros_like()?.broadcast_add(b)?),
        };
        Ok(Self { primal: self.primal.broadcast_add(&rhs.primal)?, tangent })
    }

    /// Difference, broadcasting.
    pub fn sub(&self, rhs: &Self) -> Result<Self> {
        self.add(&rhs.linear(Tensor::neg)?)
    }

    /// Elementwise product, broadcasting: `(xy)' = x'y + xy'`.
    pub fn mul(&self, rhs: &Self) -> Result<Self> {
        let left = self.tangent.as_ref().map(|dx| dx.broadcast_mul(&rhs.primal)).transpose()?;
        let right = rhs.tangent.as_ref().map(|dy| self.primal.broadcast_mul(dy)).transpose()?;
        Ok(Self { primal: self.primal.broadcast_mul(&rhs.primal)?, tangent: sum(left, right)? })
    }

    /// Batched matrix product.
    pub fn matmul(&self, rhs: &Self) -> Result<Self> {
        let left = self.tangent.as_ref().map(|dx| dx.matmul(&rhs.primal)).transpose()?;
        let right = rhs.tangent.as_ref().map(|dy| self.primal.matmul(dy)).transpose()?;
        Ok(Self { primal: self.primal.matmul(&rhs.primal)?, tangent: sum(left, right)? })
    }

    /// `scale · x + shift` with constants.
    pub fn affine(&self, scale: f64, shift: f64) -> Result<Self> {
        self.unary(|x| x.affine(scale, shift), |_, _, dx| dx.affine(scale, 0.0))
    }

    /// `1 / x`.
    pub fn recip(&self) -> Result<Self> {
        self.unary(Tensor::recip, |_, y, dx| (dx * y.sqr()?)?.neg())
    }

    /// `√x`.
    pub fn sqrt(&self) -> Result<Self> {
        self.unary(Tensor::sqrt, |_, y, dx| dx / (y * 2.0)?)
    }

    /// `sin x`.
    pub fn sin(&self) -> Result<Self> {
        self.unary(Tensor::sin, |x, _, dx| dx * x.cos()?)
    }

    /// `cos x`.
    pub fn cos(&self) -> Result<Self> {
        self.unary(Tensor::cos, |x, _, dx| (dx * x.sin()?)?.neg())
    }

    /// Views a `(B,)` vector as `(B, 1, …)` so that it broadcasts over the rows of `like`.
    pub fn per_row(&self, like: &Self) -> Result<Self> {
        let mut shape = vec![1; like.primal.rank()];
        shape[0] = self.primal.dim(0)?;
        self.linear(|v| v.reshape(shape.as_slice()))
    }

    /// `x · sigmoid(x)`; `silu' = σ (1 + x (1 - σ))`.
    pub fn silu(&self) -> Result<Self> {
        self.unary(candle_nn::ops::silu, |x, y, dx| {
            // With y = xσ: σ + y - yσ, where σ is computed once.
            let sigma = candle_nn::ops::sigmoid(x)?;
            dx * ((&sigma + y)? - (y * &sigma)?)?
        })
    }

    /// Softmax over the last dimension; `p' = p (a' - Σ p a')`.
    pub fn softmax(&self) -> Result<Self> {
        self.unary(
            |a| candle_nn::ops::softmax(a, D::Minus1),
            |_, p, da| {
                let pa = (p * da)?;
                &pa - p.broadcast_mul(&pa.sum_keepdim(D::Minus1)?)?
            },
        )
    }

    /// Layer norm over the last dimension without weights: `y = (x - mean) / n`, `n = sqrt(var + eps)`, and
    /// `y' = (x' - mean(x') - y mean(y x')) / n`.
    pub fn layer_norm(&self, eps: f64) -> Result<Self> {
        let centred = self.primal.broadcast_sub(&self.primal.mean_keepdim(D::Minus1)?)?;
        let inverse = (centred.sqr()?.mean_keepdim(D::Minus1)? + eps)?.sqrt()?.recip()?;
        let y = centred.broadcast_mul(&inverse)?;
        let tangent = match &self.tangent {
            None => None,
            Some(dx) => {
                let centred = dx.broadcast_sub(&dx.mean_keepdim(D::Minus1)?)?;
                let along = y.broadcast_mul(&(&y * dx)?.mean_keepdim(D::Minus1)?)?;
                Some((centred - along)?.broadcast_mul(&inverse)?)
            }
        };
        Ok(Self { primal: y, tangent })
    }
}

fn sum(a: Option<Tensor>, b: Option<Tensor>) -> Result<Option<Tensor>> {
    match (a, b) {
        (Some(a), Some(b)) => Ok(Some(a.broadcast_add(&b)?)),
        (a, b) => Ok(a.or(b)),
    }
}
