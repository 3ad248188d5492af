//! Fused operations of a transformer on duals: one pass over memory where compositions take many.
//!
//! Each function takes the fused kernel where all its tensors are `f32` on the CPU, and the composition of candle
//! operations (`kernels/composed.rs`) elsewhere: other dtypes and devices, with the same result up to rounding. Both
//! differentiate in reverse mode, the tangents included, so that a loss may contain a time derivative of the network.
//!
//! Kernels run on the calling thread only, and a row (an image) of the result depends on that row (image) alone: the
//! same bits in every batch and on every thread.

pub(super) mod attend;
mod attention;
mod attention_tangent;
pub(crate) mod buffer;
mod composed;
mod concat;
pub(super) mod conv;
mod elementwise;
pub(super) mod epilogue;
mod gemm;
pub(super) mod group_norm;
mod images;
mod layer_norm;
mod linear;
mod loops;
pub(super) mod matrix;
#[doc(hidden)]
pub mod measured;
mod modulate;
mod op;
pub(super) mod packed;
mod padded;
pub(super) mod resample;
pub(super) mod rows;
mod silu;
mod simd;
mod sinusoid;
pub mod team;
pub(super) mod window;
mod winograd;

use crate::flow::dual::Dual;
pub(super) use attention::Attention;
pub(super) use attention_tangent::AttentionTangent;
use candle_core::{DType, Result, Tensor};
pub(super) use concat::Concat;
pub(super) use images::{Convolution, Double, GroupNorm, GroupNormTangent, Halve, Residual};
pub use images::{conv3x3, downsample, group_norm, residual, upsample};
pub(super) use layer_norm::{LayerNorm, LayerNormTangent};
pub(super) use linear::{Linear, LinearTangent};
pub(super) use modulate::{GatedAdd, Modulate};
pub(super) use op::{Kernel, View, slice};
use op::{apply1, apply2, apply3};
pub(super) use silu::{Silu, SiluTangent};
pub(super) use sinusoid::Sinusoid;

/// Whether operations on `x` take the fused kernels: `f32` on the CPU.
fn fused(x: &Tensor) -> bool {
    x.dtype() == DType::F32 && x.device().is_cpu()
}

/// `x σ(x)`.
pub fn silu(x: &Dual) -> Result<Dual> {
    if !all_fused(&[x], &[]) {
        return x.silu();
    }
    x.unary(|x| apply1(Silu, x), |x, _, dx| apply2(SiluTangent, x, dx))
}

/// `x W + b` on the last dimension: `x (…, K)`, `w (K, N)`, `b (N)`, giving `(…, N)`.
///
/// Note the layout of `w`: inputs first, unlike `candle_nn::Linear`.
pub fn linear(x: &Dual, w: &Tensor, b: &Tensor) -> Result<Dual> {
    if !all_fused(&[x], &[w, b]) {
        return composed::linear(x, w, b);
    }
    x.unary(|x| apply3(Linear, x, w, b), |_, _, dx| apply2(LinearTangent, dx, w))
}

/// Layer norm over the last dimension without weights: `(x - mean x) / √(var x + eps)`.
pub fn layer_norm(x: &Dual, eps: f64) -> Result<Dual> {
    if !all_fused(&[x], &[]) {
        return x.layer_norm(eps);
    }
    let eps = eps as f32;
    x.unary(|x| apply1(LayerNorm { eps }, x), |x, _, dx| apply2(LayerNormTangent { eps }, x, dx))
}

/// `x (1 + scale) + shift`: `x (B, T, C)` conditioned by `scale` and `shift (B, C)` of its image.
pub fn modulate(x: &Dual, scale: &Dual, shift: &Dual) -> Result<Dual> {
    if !all_fused(&[x, scale, shift], &[]) {
        return composed::modulate(x, scale, shift);
    }
    let primal = apply3(Modulate, &x.primal, &scale.primal, &shift.primal)?;
    // x' (1 + scale) + shift', then + scale' x.
    let tangent = match (&x.tangent, &shift.tangent) {
        (None, None) => None,
        (Some(dx), _) => Some(apply3(Modulate, dx, &scale.primal, &shift.tangent_or_zero()?)?),
        (None, Some(dshift)) => Some(dshift.unsqueeze(1)?.broadcast_as(primal.shape())?),
    };
    let tangent = add_gated(tangent, scale.tangent.as_ref(), Some(&x.primal))?;
    Ok(Dual { primal, tangent })
}

/// `x + gate · y`: the branch `y (B, T, C)` joins the residual stream `x (B, T, C)` through `gate (B, C)`.
pub fn gated_add(x: &Dual, gate: &Dual, y: &Dual) -> Result<Dual> {
    if !all_fused(&[x, gate, y], &[]) {
        return composed::gated_add(x, gate, y);
    }
    let primal = apply3(GatedAdd, &x.primal, &gate.primal, &y.primal)?;
    let tangent = add_gated(x.tangent.clone(), gate.tangent.as_ref(), Some(&y.primal))?;
    let tangent = add_gated(tangent, Some(&gate.primal), y.tangent.as_ref())?;
    Ok(Dual { primal, tangent })
}

/// Self-attention `softmax(q kᵀ / √d) v` of `qkv (B, T, 3C)`, laid out `[q | k | v]`, each split in `heads` of width
/// `d = C / heads`; gives `(B, T, C)` with the heads side by side.
pub fn attention(qkv: &Dual, heads: usize) -> Result<Dual> {
    if !all_fused(&[qkv], &[]) {
        return composed::attention(qkv, heads);
    }
    qkv.unary(|x| apply1(Attention { heads }, x), |x, _, dx| apply2(AttentionTangent { heads }, x, dx))
}

fn all_fused(duals: &[&Dual], tensors: &[&Tensor]) -> bool {
    duals.iter().all(|d| fused(&d.primal) && d.tangent.as_ref().is_none_or(fused)) && tensors.iter().all(|t| fused(t))
}

/// `sum + gate · y`, where what is missing is zero.
fn add_gated(sum: Option<Tensor>, gate: Option<&Tensor>, y: Option<&Tensor>) -> Result<Option<Tensor>> {
    let (Some(gate), Some(y)) = (gate, y) else { return Ok(sum) };
    let sum = sum.map_or_else(|| y.zeros_like(), Ok)?;
    apply3(GatedAdd, &sum, gate, y).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{Device, Var};

    /// Reproducible values in [-1, 1], different for every `seed`.
    pub(super) fn values(seed: usize, len: usize) -> Vec<f64> {
        (0..len).map(|i| ((i * 7919 + seed * 104_729 + 17) as f64 * 0.618_033_988_7).fract() * 2.0 - 1.0).collect()
    }

    /// A case: an operation and the shapes of its arguments.
    struct Case<F> {
        shapes: Vec<Vec<usize>>,
        /// For each argument, whether it has a tangent.
        tangents: Vec<bool>,
        op: F,
    }

    /// Primal, tangent (empty for none) and the gradients of a loss of both, in `f64`.
    type Outcome = Vec<Vec<f64>>;

    impl<F: Fn(&[Dual]) -> Result<Dual>> Case<F> {
        fn vars(&self, offset: usize, dtype: DType) -> Result<Vec<Var>> {
            let make = |(i, shape): (usize, &Vec<usize>)| {
                let data = values(i + offset, shape.iter().product());
                Var::from_tensor(&Tensor::from_vec(data, shape.as_slice(), &Device::Cpu)?.to_dtype(dtype)?)
            };
            self.shapes.iter().enumerate().map(make).collect()
        }

        fn duals(&self, primals: &[Var], tangents: &[Var]) -> Vec<Dual> {
            let dual = |((x, dx), &with): ((&Var, &Var), &bool)| Dual {
                primal: x.as_tensor().clone(),
                tangent: with.then(|| dx.as_tensor().clone()),
            };
            primals.iter().zip(tangents).zip(&self.tangents).map(dual).collect()
        }

        /// `Σ w y + Σ w' y'` with weights that differ for each element, back-propagated.
        fn run(&self, dtype: DType) -> Result<Outcome> {
            let (primals, tangents) = (self.vars(0, dtype)?, self.vars(50, dtype)?);
            let y = (self.op)(&self.duals(&primals, &tangents))?;
            let weighted = |y: &Tensor, seed| {
                let w = Tensor::from_vec(values(seed, y.elem_count()), y.shape(), &Device::Cpu)?;
                (y * w.to_dtype(dtype)?)?.sum_all()
            };
            let mut loss = weighted(&y.primal, 90)?;
            if let Some(dy) = &y.tangent {
                loss = (loss + weighted(dy, 91)?)?;
            }
            let gradients = loss.backward()?;
            let flat = |t: &Tensor| t.to_dtype(DType::F64)?.flatten_all()?.to_vec1();
            let mut outcome = vec![flat(&y.primal)?, y.tangent.as_ref().map_or(Ok(vec![]), flat)?];
            for var in primals.iter().chain(&tangents) {
                outcome.push(gradients.get(var).map_or(Ok(vec![]), flat)?);
            }
            Ok(outcome)
        }

        /// `(f(x + h x') - f(x - h x')) / 2h` in `f64`.
        fn central_difference(&self) -> Result<Vec<f64>> {
            let (primals, tangents) = (self.vars(0, DType::F64)?, self.vars(50, DType::F64)?);
            let h = 1e-5;
            let at = |h: f64| -> Result<Tensor> {
                let moved = |((x, dx), &with): ((&Var, &Var), &bool)| -> Result<Dual> {
                    Ok(Dual::constant(&if with { (x.as_tensor() + (dx.as_tensor() * h)?)? } else { x.copy()? }))
                };
                let moved = primals.iter().zip(&tangents).zip(&self.tangents).map(moved).collect::<Result<Vec<_>>>()?;
                Ok((self.op)(&moved)?.primal)
            };
            ((at(h)? - at(-h)?)? / (2.0 * h))?.flatten_all()?.to_vec1()
        }

        /// The fused path agrees with the composed one in f64 to `tolerance` of the largest element of each output and
        /// gradient, and the tangent with central differences.
        fn check(&self, tolerance: f64) {
            let (fused, composed) = (self.run(DType::F32).unwrap(), self.run(DType::F64).unwrap());
            let what = format!("{:?} with tangents {:?}", self.shapes, self.tangents);
            for (i, (got, want)) in fused.iter().zip(&composed).enumerate() {
                assert_close(got, want, tolerance, &format!("{what}, output or gradient {i}"));
            }
            if !fused[1].is_empty() {
                assert_close(&fused[1], &self.central_difference().unwrap(), tolerance, &format!("{what}, difference"));
            }
        }
    }

    fn assert_close(got: &[f64], want: &[f64], tolerance: f64, what: &str) {
        assert_eq!(got.len(), want.len(), "{what}");
        let norm = want.iter().fold(1e-2, |m: f64, v| m.max(v.abs()));
        let error = got.iter().zip(want).fold(0.0, |m: f64, (g, w)| m.max((g - w).abs()));
        assert!(error <= tolerance * norm, "{what}: off by {error:.2e} at a norm of {norm:.2e}");
    }

    /// Checks `op` on the shapes with every subset of tangents among the first `duals` arguments.
    pub(super) fn check(shapes: &[&[usize]], duals: usize, op: impl Fn(&[Dual]) -> Result<Dual>) {
        for subset in 0..1 << duals {
            let shapes: Vec<_> = shapes.iter().map(|s| s.to_vec()).collect();
            let tangents = (0..shapes.len()).map(|i| i < duals && subset >> i & 1 == 1).collect();
            Case { shapes, tangents, op: &op }.check(1e-5);
        }
    }

    #[test]
    fn silu_agrees() {
        for shape in [&[1][..], &[3, 7], &[2, 49, 24]] {
            check(&[shape], 1, |a| silu(&a[0].linear(|x| x * 6.0)?));
        }
    }

    #[test]
    fn linear_agrees() {
        for (x, k, n) in [(&[1, 24][..], 24, 96), (&[5, 3, 7], 7, 5), (&[2, 49, 24], 24, 72), (&[4, 600], 600, 40)] {
            check(&[x, &[k, n], &[n]], 1, |a| linear(&a[0], &a[1].primal, &a[2].primal));
        }
    }

    #[test]
    fn layer_norm_agrees() {
        for shape in [&[1, 24][..], &[3, 5], &[2, 49, 96]] {
            check(&[shape], 1, |a| layer_norm(&a[0], 1e-6));
        }
    }

    #[test]
    fn modulate_agrees() {
        for (b, t, c) in [(1, 1, 24), (2, 3, 5), (3, 49, 96)] {
            check(&[&[b, t, c], &[b, c], &[b, c]], 3, |a| modulate(&a[0], &a[1], &a[2]));
        }
    }

    #[test]
    fn gated_add_agrees() {
        for (b, t, c) in [(1, 1, 24), (2, 3, 5), (3, 49, 96)] {
            check(&[&[b, t, c], &[b, c], &[b, t, c]], 3, |a| gated_add(&a[0], &a[1], &a[2]));
        }
    }

    #[test]
    fn attention_agrees() {
        for (b, t, c, heads) in [(1, 1, 24, 1), (2, 3, 24, 3), (2, 49, 96, 3), (1, 17, 32, 4)] {
            check(&[&[b, t, 3 * c]], 1, move |a| attention(&a[0].linear(|x| x * 3.0)?, heads));
        }
    }

    #[test]
    fn strided_arguments_and_gradients_are_read_right() {
        check(&[&[24, 3, 2]], 1, |a| {
            layer_norm(&silu(&a[0].linear(|x| x.permute((2, 1, 0)))?)?, 1e-6)?.linear(Tensor::t)
        });
    }

    /// Every operation on a batch of `B` images with tangents: `x (B, 9, 24)`, vectors `(B, 24)`, packed `(B, 9, 72)`.
    fn everything(x: &Dual, v: &Dual, qkv: &Dual) -> Result<Vec<Tensor>> {
        let weight =
            |k: usize, n: usize| Tensor::from_vec(values(7, k * n), (k, n), &Device::Cpu)?.to_dtype(DType::F32);
        let (w, deep) = (weight(24, 96)?, weight(9 * 72, 50)?);
        let (b, deep_b) = (w.get(0)?, deep.get(0)?);
        let long = qkv.linear(|t| t.flatten_from(1))?;
        let results = [
            silu(x)?,
            linear(x, &w, &b)?,
            linear(v, &w, &b)?,
            linear(&long, &deep, &deep_b)?,
            layer_norm(x, 1e-6)?,
            modulate(x, v, v)?,
            gated_add(x, v, x)?,
            attention(qkv, 3)?,
        ];
        Ok(results.into_iter().flat_map(|d| [Some(d.primal), d.tangent]).flatten().collect())
    }

    #[test]
    fn a_row_has_the_same_bits_alone_and_in_a_batch() {
        let dual = |seed: usize, shape: &[usize]| {
            let tensor = |seed| {
                let data = values(seed, shape.iter().product());
                Tensor::from_vec(data, shape, &Device::Cpu).unwrap().to_dtype(DType::F32).unwrap()
            };
            Dual::new(tensor(seed), tensor(seed + 1))
        };
        let (x, v, qkv) = (dual(1, &[5, 9, 24]), dual(3, &[5, 24]), dual(5, &[5, 9, 72]));
        let together = everything(&x, &v, &qkv).unwrap();
        let bits = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        for row in 0..5 {
            let [x, v, qkv] = [&x, &v, &qkv].map(|d| d.linear(|t| t.narrow(0, row, 1)).unwrap());
            for (i, (alone, all)) in everything(&x, &v, &qkv).unwrap().iter().zip(&together).enumerate() {
                assert_eq!(bits(alone), bits(&all.narrow(0, row, 1).unwrap()), "row {row} of result {i}");
            }
        }
    }

    #[test]
    fn an_image_that_is_not_a_number_leaves_the_next_one_alone() {
        let tensor = |seed| Tensor::from_vec(values(seed, 5 * 24), (1, 5, 24), &Device::Cpu)?.to_dtype(DType::F32);
        let (qkv, dqkv) = (tensor(1).unwrap(), tensor(2).unwrap());
        let broken = (&qkv * f64::NAN).unwrap();
        let gradients = |images: &[&Tensor]| {
            let x = Var::from_tensor(&Tensor::cat(images, 0)?)?;
            let dx = dqkv.repeat((images.len(), 1, 1))?;
            let y = attention(&Dual::new(x.as_tensor().clone(), dx), 2)?;
            let dx = (&y.primal + y.tangent_or_zero()?)?.backward()?.remove(&x).unwrap_or(y.primal);
            dx.get(images.len() - 1)?.flatten_all()?.to_vec1::<f32>()
        };
        assert_eq!(gradients(&[&broken, &qkv]).unwrap(), gradients(&[&qkv]).unwrap());
    }

    #[test]
    fn only_f32_on_the_cpu_is_fused() {
        let x = Tensor::zeros(3, DType::F32, &Device::Cpu).unwrap();
        assert!(fused(&x));
        assert!(!fused(&x.to_dtype(DType::F64).unwrap()));
    }

    #[test]
    fn shapes_that_do_not_fit_are_refused() {
        let zeros = |shape: &[usize]| Dual::constant(&Tensor::zeros(shape, DType::F32, &Device::Cpu).unwrap());
        let (w, b) = (zeros(&[4, 6]).primal, zeros(&[6]).primal);
        assert!(linear(&zeros(&[2, 5]), &w, &b).is_err());
        assert!(linear(&zeros(&[2, 4]), &w, &zeros(&[4]).primal).is_err());
        assert!(attention(&zeros(&[2, 3, 24]), 3).is_err());
        assert!(modulate(&zeros(&[2, 3, 4]), &zeros(&[3, 4]), &zeros(&[2, 4])).is_err());
        assert!(gated_add(&zeros(&[2, 3, 4]), &zeros(&[2, 4]), &zeros(&[2, 2, 4])).is_err());
        let torn = Dual { primal: zeros(&[2, 4]).primal, tangent: Some(zeros(&[2, 3]).primal) };
        assert!(silu(&torn).is_err() && layer_norm(&torn, 1e-6).is_err());
    }
}
