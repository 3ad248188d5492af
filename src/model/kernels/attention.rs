//! Self-attention of all heads, image by image, reading queries, keys and values in place.
//!
//! The probabilities of one head (`T × T`) stay in the first-level cache; the backward pass computes them again instead
//! of keeping them. Rows of `T × T` matrices are padded to whole registers: for the 49 tokens of a small image the
//! elements left over would otherwise cost as much as the rest.

use super::loops::{self, LANES, dot, vectorized};
use super::matrix::{Mat, MatMut};
use super::op::{Kernel, View};
use super::{buffer, gemm};
use candle_core::{Result, Shape, bail};

/// `softmax(q kᵀ / √d) v` of `(B, T, 3C)`, laid out `[q | k | v]`, each split in `heads` of width `d = C / heads`;
/// gives `(B, T, C)`.
pub(in crate::model) struct Attention {
    pub(in crate::model) heads: usize,
}

impl Kernel<1> for Attention {
    const NAME: &'static str = "attention";

    fn forward(&self, [qkv]: [View<'_>; 1]) -> Result<(Vec<f32>, Shape)> {
        let heads = Heads::new(qkv.dims, self.heads)?;
        let mut out = buffer::take(qkv.data.len() / 3);
        let mut p = heads.square();
        let images = qkv.data.chunks_exact(heads.image_len(3)).zip(out.chunks_exact_mut(heads.image_len(1)));
        for (image, out) in images {
            for head in 0..self.heads {
                heads.probabilities(image, head, &mut p);
                gemm::assign(heads.part_mut(out, 1, 0, head), heads.mat(&p), heads.part(image, 3, V, head));
            }
        }
        Ok((out, heads.output_shape(qkv.dims)))
    }

    fn backward(&self, [qkv]: [View<'_>; 1], _: &[f32], grad: &[f32], _: [bool; 1]) -> [Option<Vec<f32>>; 1] {
        let Ok(heads) = Heads::new(qkv.dims, self.heads) else { return [None] };
        let mut out = buffer::take(qkv.data.len());
        let (mut p, mut ds) = (heads.square(), heads.square());
        let images = qkv.data.chunks_exact(heads.image_len(3)).zip(grad.chunks_exact(heads.image_len(1)));
        for ((image, grad), out) in images.zip(out.chunks_exact_mut(heads.image_len(3))) {
            for head in 0..self.heads {
                let [q, k, v] = [Q, K, V].map(|part| heads.part(image, 3, part, head));
                let g = heads.part(grad, 1, 0, head);
                heads.probabilities(image, head, &mut p);
                heads.product(&mut ds, g, v.t());
                heads.softmax_backward(&p, &mut ds);
                gemm::assign(heads.part_mut(out, 3, Q, head), heads.mat(&ds), k);
                gemm::assign(heads.part_mut(out, 3, K, head), heads.mat(&ds).t(), q);
                gemm::assign(heads.part_mut(out, 3, V, head), heads.mat(&p).t(), g);
            }
        }
        [Some(out)]
    }
}

/// Places of queries, keys and values in a token.
pub(super) const Q: usize = 0;
pub(super) const K: usize = 1;
pub(super) const V: usize = 2;

/// Where each head's matrices lie in an image, and the arithmetic on its `T × T` probabilities.
#[derive(Debug, Clone, Copy)]
pub(super) struct Heads {
    tokens: usize,
    channels: usize,
    /// Channels of one head.
    width: usize,
}

impl Heads {
    /// Fails unless `dims` is `(B, T, 3C)` with `C` a multiple of `heads`.
    pub(super) fn new(dims: &[usize], heads: usize) -> Result<Self> {
        match *dims {
            [_, tokens, packed] if tokens > 0 && packed > 0 && heads > 0 && packed % (3 * heads) == 0 => {
                Ok(Self { tokens, channels: packed / 3, width: packed / 3 / heads })
            }
            _ => bail!("attention: cannot split {dims:?} (B, T, 3C) into {heads} heads"),
        }
    }

    pub(super) fn output_shape(&self, dims: &[usize]) -> Shape {
        (dims[0], self.tokens, self.channels).into()
    }

    /// Elements of one image with `parts` times `C` channels.
    pub(super) fn image_len(&self, parts: usize) -> usize {
        self.tokens * parts * self.channels
    }

    /// Room for a `T × T` matrix, with padded rows.
    pub(super) fn square(&self) -> Vec<f32> {
        vec![0.0; self.tokens * self.stride()]
    }

    /// Distance of the rows of a `T × T` matrix.
    pub(super) fn stride(&self) -> usize {
        self.tokens.next_multiple_of(LANES)
    }

    /// The `(T, d)` matrix of one head in the given part of an image of `parts` parts.
    pub(super) fn part<'a>(&self, image: &'a [f32], parts: usize, part: usize, head: usize) -> Mat<'a> {
        let start = part * self.channels + head * self.width;
        Mat::new(&image[start..], self.tokens, self.width, parts * self.channels)
    }

    /// As [`Heads::part`], to write to.
    pub(super) fn part_mut<'a>(&self, image: &'a mut [f32], parts: usize, part: usize, head: usize) -> MatMut<'a> {
        let start = part * self.channels + head * self.width;
        MatMut::new(&mut image[start..], self.tokens, self.width, parts * self.channels)
    }

    /// A `T × T` buffer as a matrix.
    pub(super) fn mat<'a>(&self, square: &'a [f32]) -> Mat<'a> {
        Mat::new(square, self.tokens, self.tokens, self.stride())
    }

    /// As [`Heads::mat`], to write to.
    pub(super) fn mat_mut<'a>(&self, square: &'a mut [f32]) -> MatMut<'a> {
        MatMut::new(square, self.tokens, self.tokens, self.stride())
    }

    /// `lhs · rhs` into a `T × T` buffer, with zeros in the padding.
    pub(super) fn product(&self, square: &mut [f32], lhs: Mat<'_>, rhs: Mat<'_>) {
        gemm::assign(self.mat_mut(square), lhs, rhs);
        self.pad(square, 0.0);
    }

    fn pad(&self, square: &mut [f32], value: f32) {
        for row in square.chunks_exact_mut(self.stride()) {
            row[self.tokens..].fill(value);
        }
    }

    /// `1 / √d`.
    pub(super) fn scale(&self) -> f32 {
        1.0 / (self.width as f32).sqrt()
    }

    /// `P = softmax(Q Kᵀ / √d)` of one head, with zeros in the padding.
    pub(super) fn probabilities(&self, image: &[f32], head: usize, p: &mut [f32]) {
        gemm::assign(self.mat_mut(p), self.part(image, 3, Q, head), self.part(image, 3, K, head).t());
        self.pad(p, f32::MIN);
        let scale = self.scale();
        vectorized(
            #[inline(always)]
            || {
                for row in p.chunks_exact_mut(self.stride()) {
                    softmax(row, scale);
                }
            },
        );
    }

    /// From `dP` (in place) to the gradient of the unscaled scores: `P ∘ (dP - rowsum(P ∘ dP)) / √d`.
    pub(super) fn softmax_backward(&self, p: &[f32], dp: &mut [f32]) {
        let (scale, stride) = (self.scale(), self.stride());
        vectorized(
            #[inline(always)]
            || {
                for (p, dp) in p.chunks_exact(stride).zip(dp.chunks_exact_mut(stride)) {
                    let mean = dot(p, dp);
                    for (dp, p) in dp.iter_mut().zip(p) {
                        *dp = p * (*dp - mean) * scale;
                    }
                }
            },
        );
    }
}

/// `softmax(scale · row)` in place.
#[inline(always)]
fn softmax(row: &mut [f32], scale: f32) {
    let top = loops::max(row);
    loops::update(
        row,
        #[inline(always)]
        |s| loops::exp((s - top) * scale),
    );
    let inverse = 1.0 / loops::sum(row);
    loops::update(
        row,
        #[inline(always)]
        |p| p * inverse,
    );
}
