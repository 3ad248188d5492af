//! The tangent of self-attention along a direction `(Q', K', V')`, and its backward pass.
//!
//! With scores `S`, probabilities `P = softmax(S)` and everything per head:
//! `S' = (Q' Kᵀ + Q K'ᵀ) / √d`, `W = S' - rowsum(P ∘ S')`, `P' = P ∘ W`, `out' = P' V + P V'`.
//!
//! Backward, for the gradient `G` of `out'`: `dP' = G Vᵀ`, `a = rowsum(P ∘ dP')`, `dS' = P ∘ (dP' - a)`. `P` acts
//! through `P V'` and through `W`: `dP = G V'ᵀ + W ∘ (dP' - a)`, up to a constant of each row, which the softmax
//! ignores, and `dS = P ∘ (dP - rowsum(P ∘ dP))`. The products with `Q`, `K` and `V` follow from these.

use super::attention::{Heads, K, Q, V};
use super::loops::{dot, vectorized};
use super::op::{Kernel, View};
use super::{buffer, gemm};
use candle_core::{Result, Shape, bail};

/// `out'` of `(qkv, qkv')`, both as for [`super::attention::Attention`].
pub(in crate::model) struct AttentionTangent {
    pub(in crate::model) heads: usize,
}

impl Kernel<2> for AttentionTangent {
    const NAME: &'static str = "attention-tangent";

    fn forward(&self, [qkv, dqkv]: [View<'_>; 2]) -> Result<(Vec<f32>, Shape)> {
        if qkv.dims != dqkv.dims {
            bail!("attention: the tangent has shape {:?}, the primal {:?}", dqkv.dims, qkv.dims);
        }
        let heads = Heads::new(qkv.dims, self.heads)?;
        let mut out = buffer::take(qkv.data.len() / 3);
        let mut work = Work::new(heads);
        let len = heads.image_len(3);
        let images = qkv.data.chunks_exact(len).zip(dqkv.data.chunks_exact(len));
        for (images, out) in images.zip(out.chunks_exact_mut(heads.image_len(1))) {
            for head in 0..self.heads {
                work.tangent_head(images.into(), head, out);
            }
        }
        Ok((out, heads.output_shape(qkv.dims)))
    }

    fn backward(&self, [qkv, dqkv]: [View<'_>; 2], _: &[f32], grad: &[f32], _: [bool; 2]) -> [Option<Vec<f32>>; 2] {
        let Ok(heads) = Heads::new(qkv.dims, self.heads) else { return [None, None] };
        let mut out = [(); 2].map(|()| buffer::take(qkv.data.len()));
        let mut work = Work::new(heads);
        let len = heads.image_len(3);
        let images = qkv.data.chunks_exact(len).zip(dqkv.data.chunks_exact(len));
        let [of_primal, of_tangent] = &mut out;
        let gradients = of_primal.chunks_exact_mut(len).zip(of_tangent.chunks_exact_mut(len));
        for ((images, grad), gradients) in images.zip(grad.chunks_exact(heads.image_len(1))).zip(gradients) {
            let mut gradients = gradients.into();
            for head in 0..self.heads {
                work.backward_head(images.into(), grad, head, &mut gradients);
            }
        }
        out.map(Some)
    }
}

/// The `T × T` matrices of one head, reused for all.
struct Work {
    heads: Heads,
    /// `P`.
    p: Vec<f32>,
    /// `W`, then `P' = P ∘ W`.
    w: Vec<f32>,
    /// `dP'`, then `dS' / √d`.
    ds_tangent: Vec<f32>,
    /// `dP`, then `dS / √d`.
    ds: Vec<f32>,
}

impl Work {
    fn new(heads: Heads) -> Self {
        Self { heads, p: heads.square(), w: heads.square(), ds_tangent: heads.square(), ds: heads.square() }
    }

    /// Writes `out'` of one head to its columns of `out (T, C)`.
    fn tangent_head(&mut self, [image, dimage]: [&[f32]; 2], head: usize, out: &mut [f32]) {
        self.recompute([image, dimage], head);
        self.weigh();
        let heads = self.heads;
        let [v, dv] = [image, dimage].map(|image| heads.part(image, 3, V, head));
        gemm::assign(heads.part_mut(out, 1, 0, head), heads.mat(&self.w), v);
        gemm::accumulate(heads.part_mut(out, 1, 0, head), heads.mat(&self.p), dv);
    }

    /// Writes the gradients of one head to its columns of those of `qkv` and `qkv'`, both `(T, 3C)`.
    fn backward_head(&mut self, images: [&[f32]; 2], grad: &[f32], head: usize, gradients: &mut [&mut [f32]; 2]) {
        let heads = self.heads;
        let [[q, k, v], [dq, dk, dv]] = images.map(|image| [Q, K, V].map(|part| heads.part(image, 3, part, head)));
        let g = heads.part(grad, 1, 0, head);
        self.recompute(images, head);
        heads.product(&mut self.ds_tangent, g, v.t());
        heads.product(&mut self.ds, g, dv.t());
        self.scores_backward();
        self.weigh();
        let [p, dp, ds, ds_tangent] = [&self.p, &self.w, &self.ds, &self.ds_tangent].map(|m| heads.mat(m));
        let [of_primal, of_tangent] = gradients;
        gemm::assign(heads.part_mut(of_primal, 3, Q, head), ds, k);
        gemm::accumulate(heads.part_mut(of_primal, 3, Q, head), ds_tangent, dk);
        gemm::assign(heads.part_mut(of_primal, 3, K, head), ds.t(), q);
        gemm::accumulate(heads.part_mut(of_primal, 3, K, head), ds_tangent.t(), dq);
        gemm::assign(heads.part_mut(of_primal, 3, V, head), dp.t(), g);
        gemm::assign(heads.part_mut(of_tangent, 3, Q, head), ds_tangent, k);
        gemm::assign(heads.part_mut(of_tangent, 3, K, head), ds_tangent.t(), q);
        gemm::assign(heads.part_mut(of_tangent, 3, V, head), p.t(), g);
    }

    /// `P` and `W` of one head.
    fn recompute(&mut self, [image, dimage]: [&[f32]; 2], head: usize) {
        let heads = self.heads;
        heads.probabilities(image, head, &mut self.p);
        let [[q, k], [dq, dk]] = [image, dimage].map(|image| [Q, K].map(|part| heads.part(image, 3, part, head)));
        heads.product(&mut self.w, dq, k.t());
        gemm::accumulate(heads.mat_mut(&mut self.w), q, dk.t());
        let (scale, stride) = (heads.scale(), heads.stride());
        vectorized(
            #[inline(always)]
            || {
                for (p, w) in self.p.chunks_exact(stride).zip(self.w.chunks_exact_mut(stride)) {
                    let mean = dot(p, w);
                    for w in w {
                        *w = (*w - mean) * scale;
                    }
                }
            },
        );
    }

    /// From `W` to `P' = P ∘ W`, in place.
    fn weigh(&mut self) {
        vectorized(
            #[inline(always)]
            || {
                for (w, p) in self.w.iter_mut().zip(&self.p) {
                    *w *= p;
                }
            },
        );
    }

    /// From `G Vᵀ` to `dS' / √d` and from `G V'ᵀ` to `dS / √d`, in place.
    fn scores_backward(&mut self) {
        let (heads, stride) = (self.heads, self.heads.stride());
        vectorized(
            #[inline(always)]
            || {
                let rows = self.p.chunks_exact(stride).zip(self.w.chunks_exact(stride));
                let gradients = self.ds_tangent.chunks_exact(stride).zip(self.ds.chunks_exact_mut(stride));
                for ((p, w), (dp_tangent, dp)) in rows.zip(gradients) {
                    let a = dot(p, dp_tangent);
                    for (dp, (w, dp_tangent)) in dp.iter_mut().zip(w.iter().zip(dp_tangent)) {
                        *dp += w * (dp_tangent - a);
                    }
                }
            },
        );
        heads.softmax_backward(&self.p, &mut self.ds_tangent);
        heads.softmax_backward(&self.p, &mut self.ds);
    }
}
