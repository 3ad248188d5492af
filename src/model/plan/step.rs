//! The fused steps of a plan, on rows of buffers.

use std::f32::consts::FRAC_1_SQRT_2;

use super::Query;
use crate::model::kernels::attend::{self, attend};
use crate::model::kernels::conv::{Finish, Joined, Served};
use crate::model::kernels::epilogue::{Gated, Plus, Silu};
use crate::model::kernels::group_norm::{self, GroupNorm};
use crate::model::kernels::matrix::{Mat, MatMut};
use crate::model::kernels::packed::{Epilogue, Packed, Product, Store};
use crate::model::kernels::rows::{NormModulate, SiluOf};
use crate::model::kernels::window::Window;
use crate::model::patches::Patches;
use crate::model::sides::Sides;

/// Where a step finds a value, or columns of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Source {
    /// The buffer; while a plan is made, the value that will be in it.
    pub(super) buffer: usize,
    /// The first column.
    pub(super) column: usize,
    /// Numbers in a row of the buffer.
    pub(super) stride: usize,
    /// Rows for each image.
    pub(super) rows: usize,
    /// Numbers of a row that count.
    pub(super) width: usize,
}

/// What a step does to each row of its result.
#[derive(Debug)]
pub(super) enum Kind {
    /// The state of a query.
    State,
    /// Its time before the jump.
    Before,
    /// Its time after it.
    After,
    /// The row of a table for its label.
    LookUp { table: Vec<f32> },
    /// The same numbers.
    Copy { x: Source },
    /// `x σ(x)`.
    Silu { x: Source },
    /// `a + sign b`.
    Sum { a: Source, b: Source, sign: f32 },
    /// Both, side by side.
    Concat { a: Source, b: Source },
    /// Cosines and sines of each number times each frequency.
    Sinusoids { x: Source, frequencies: Vec<f32> },
    /// An image into patches.
    Split { x: Source, patches: Patches },
    /// Patches into an image.
    Join { x: Source, patches: Patches },
    /// Layer norm, then `x (1 + scale) + shift`.
    Norm { x: Source, modulation: Modulation, eps: f32 },
    /// `x (1 + scale) + shift`.
    Modulate { x: Source, scale: Source, shift: Source },
    /// What is there plus `gate y`.
    AddGated { gate: Source, y: Source },
    /// A product, and what becomes of it.
    Linear { x: Source, weights: Packed, bias: Vec<f32>, then: Then },
    /// Self-attention.
    Attention { qkv: Source, shape: attend::Shape },
    /// A convolution, with a vector added at every pixel, joined with a branch.
    Conv { x: Source, conv: Convolution, shift: Option<Source>, residual: Option<Source> },
    /// Group norm with scale and shift, and SiLU after it.
    GroupNorm { x: Source, groups: usize, eps: f32, weights: [Vec<f32>; 2], silu: bool },
    /// The mean of 2×2 pixels of images of `sides`.
    Downsample { x: Source, sides: Sides },
    /// Every pixel of images of `sides` 2×2 times.
    Upsample { x: Source, sides: Sides },
    /// `(a + b) / √2`.
    Residual { a: Source, b: Source },
}

/// How a norm's result is scaled and moved.
#[derive(Debug)]
pub(super) enum Modulation {
    /// By vectors of the image.
    By { scale: Source, shift: Source },
    /// Not at all: as many zeros as columns.
    None(Vec<f32>),
}

/// A convolution's weights.
#[derive(Debug)]
pub(super) struct Convolution {
    pub(super) kernel: Served,
    pub(super) bias: Vec<f32>,
    /// Pixels of a line.
    pub(super) width: usize,
}

impl Convolution {
    /// What is done to the sums.
    fn finish<'a>(&'a self, cx: Context<'a>, shift: Option<&Source>, residual: Option<&Source>) -> Finish<'a> {
        let [shift, residual] = [shift, residual].map(|source| source.map(|s| cx.buffers[s.buffer].as_slice()));
        Finish { bias: &self.bias, shift, residual }
    }
}

/// What becomes of a linear layer's result.
#[derive(Debug)]
pub(super) enum Then {
    /// It is stored.
    Store,
    /// Its SiLU is.
    Silu,
    /// It is added to the same numbers for every image.
    Plus(Vec<f32>),
    /// It is added through a gate to what is there.
    AddGated(Source),
    /// It is joined with a branch: `(x + branch) / √2`.
    Join(Source),
}

/// What a step reads.
#[derive(Debug, Clone, Copy)]
pub(super) struct Context<'a> {
    pub(super) buffers: &'a [Vec<f32>],
    pub(super) queries: &'a [Query<'a>],
}

impl Context<'_> {
    /// Everything from the source's columns of `row` on.
    fn from(&self, source: &Source, row: usize) -> &[f32] {
        &self.buffers[source.buffer][row * source.stride + source.column..]
    }

    /// The source's columns of `row`.
    fn row(&self, source: &Source, row: usize) -> &[f32] {
        &self.from(source, row)[..source.width]
    }

    /// The source's columns of `rows` rows from `first` on.
    fn matrix(&self, source: &Source, first: usize, rows: usize) -> Mat<'_> {
        Mat::new(self.from(source, first), rows, source.width, source.stride)
    }
}

impl Kind {
    /// The values that it reads.
    pub(super) fn sources_mut(&mut self) -> Vec<&mut Source> {
        match self {
            Self::State | Self::Before | Self::After | Self::LookUp { .. } => vec![],
            Self::Copy { x }
            | Self::Silu { x }
            | Self::Sinusoids { x, .. }
            | Self::Split { x, .. }
            | Self::Join { x, .. }
            | Self::Norm { x, modulation: Modulation::None(_), .. }
            | Self::Attention { qkv: x, .. }
            | Self::GroupNorm { x, .. }
            | Self::Downsample { x, .. }
            | Self::Upsample { x, .. } => vec![x],
            Self::Sum { a, b, .. } | Self::Concat { a, b } | Self::Residual { a, b } => vec![a, b],
            Self::Conv { x, shift, residual, .. } => {
                [Some(x), shift.as_mut(), residual.as_mut()].into_iter().flatten().collect()
            }
            Self::Norm { x, modulation: Modulation::By { scale, shift }, .. } | Self::Modulate { x, scale, shift } => {
                vec![x, scale, shift]
            }
            Self::AddGated { gate, y } => vec![gate, y],
            Self::Linear { x, then: Then::AddGated(other) | Then::Join(other), .. } => vec![x, other],
            Self::Linear { x, .. } => vec![x],
        }
    }

    /// The buffers of the values that it reads.
    pub(super) fn buffers(&mut self) -> Vec<usize> {
        self.sources_mut().into_iter().map(|source| source.buffer).collect()
    }

    /// Multiplications of one row of a result of `width` columns, roughly.
    pub(super) fn cost(&self, width: usize) -> usize {
        match self {
            Self::Linear { x, .. } => x.width * width,
            Self::Attention { shape, .. } => 2 * shape.tokens * shape.channels,
            // Winograd's algorithm multiplies a third to a quarter as often as nine times.
            Self::Conv { x, .. } => 3 * x.width * width,
            Self::GroupNorm { .. } => 8 * width,
            Self::Sinusoids { .. } | Self::Silu { .. } => 16 * width,
            _ => 4 * width,
        }
    }

    /// Numbers of scratch that it needs.
    pub(super) fn scratch(&self) -> usize {
        match self {
            Self::Attention { shape, .. } => shape.scratch(),
            Self::Conv { conv, .. } => conv.kernel.scratch(),
            Self::GroupNorm { x, .. } => 2 * x.width,
            _ => 0,
        }
    }

    /// Rows that are best computed together: only multiples of them may be asked for.
    pub(super) fn unit(&self) -> usize {
        match self {
            Self::Conv { conv, .. } => 4 * conv.width,
            _ => 1,
        }
    }

    /// Computes rows from `first` on, as many as `out` has room for, of a result with the given shape for each image.
    pub(super) fn run(&self, cx: Context<'_>, [rows, width]: [usize; 2], first: usize, part: Part<'_>) {
        let Part { out, scratch } = part;
        match self {
            Self::Linear { x, weights, bias, then } => linear(cx, x, (weights, bias, then), [rows, first], out),
            Self::Attention { qkv, shape } => {
                for (image, row, out) in images(rows, width, first, out) {
                    attend(*shape, cx.from(qkv, image * rows), row, out, scratch);
                }
            }
            Self::Norm { x, modulation, eps } => {
                for (image, row, out) in images(rows, width, first, out) {
                    let [scale, shift] = match modulation {
                        Modulation::By { scale, shift } => [cx.row(scale, image), cx.row(shift, image)],
                        Modulation::None(zeros) => [zeros.as_slice(); 2],
                    };
                    let x = &cx.from(x, image * rows + row)[..out.len()];
                    NormModulate { x, scale, shift, eps: *eps, out }.run();
                }
            }
            Self::Conv { x, conv, shift, residual } => {
                let lines = first / conv.width..(first + out.len() / width) / conv.width;
                let finish = conv.finish(cx, shift.as_ref(), residual.as_ref());
                conv.kernel.forward(&cx.buffers[x.buffer], lines, finish, out, scratch);
            }
            Self::GroupNorm { x, groups, eps, weights: [w, b], silu } => {
                for (image, first, out) in images(rows, width, first, out) {
                    let (x, scratch) = (&cx.from(x, image * rows)[..rows * width], &mut scratch[..2 * width]);
                    let out = Window::new(out, width);
                    GroupNorm { x, w, b, groups: *groups, eps: *eps, silu: *silu, first, out, scratch }.run();
                }
            }
            _ => {
                for (i, out) in out.chunks_exact_mut(width).enumerate() {
                    self.row(cx, rows, first + i, out);
                }
            }
        }
    }

    /// How many columns of a result of `images` each of `threads` had better compute; `None` where they had better share
    /// the rows.
    pub(super) fn share(&self, images: usize, threads: usize) -> Option<usize> {
        match self {
            Self::Conv { conv, .. } => conv.kernel.share(images, threads),
            Self::GroupNorm { x, groups, .. } if images == 1 => group_norm::share(x.width, *groups, threads),
            _ => None,
        }
    }

    /// Computes some columns of all rows of the result of every query, where [`share`](Self::share) says so.
    pub(super) fn run_columns(&self, cx: Context<'_>, out: Window<'_>, scratch: &mut [f32]) {
        match self {
            Self::Conv { x, conv, shift, residual } => {
                let finish = conv.finish(cx, shift.as_ref(), residual.as_ref());
                conv.kernel.forward_columns(&cx.buffers[x.buffer], cx.queries.len(), finish, out, scratch);
            }
            Self::GroupNorm { x, groups, eps, weights: [w, b], silu } => {
                let (x, scratch) = (&cx.from(x, 0)[..x.rows * x.width], &mut scratch[..2 * out.columns().len()]);
                GroupNorm { x, w, b, groups: *groups, eps: *eps, silu: *silu, first: 0, out, scratch }.run();
            }
            _ => {}
        }
    }

    /// One row of what is done row by row.
    fn row(&self, cx: Context<'_>, rows: usize, row: usize, out: &mut [f32]) {
        let image = row / rows;
        match self {
            Self::State => out.copy_from_slice(cx.queries[image].x),
            Self::Before => out[0] = cx.queries[image].s,
            Self::After => out[0] = cx.queries[image].t,
            Self::LookUp { table } => {
                out.copy_from_slice(&table[cx.queries[image].label as usize * out.len()..][..out.len()]);
            }
            Self::Copy { x } => out.copy_from_slice(cx.row(x, row)),
            Self::Silu { x } => SiluOf { x: cx.row(x, row), out }.run(),
            Self::Sum { a, b, sign } => zip([cx.row(a, row), cx.row(b, row)], out, |[a, b], _| a + sign * b),
            Self::Concat { a, b } => {
                let (left, right) = out.split_at_mut(a.width);
                left.copy_from_slice(cx.row(a, row));
                right.copy_from_slice(cx.row(b, row));
            }
            Self::Sinusoids { x, frequencies } => sinusoids(cx.row(x, row), frequencies, out),
            Self::Split { x, patches } => patches.copy_patch(cx.row(x, image), row % rows, out),
            Self::Join { x, patches } => {
                for patch in 0..x.rows {
                    patches.paste_patch(cx.row(x, row * x.rows + patch), patch, out);
                }
            }
            Self::Modulate { x, scale, shift } => {
                out.copy_from_slice(cx.row(x, row));
                zip([cx.row(scale, image), cx.row(shift, image)], out, |[scale, shift], x| x * (1.0 + scale) + shift);
            }
            Self::AddGated { gate, y } => {
                zip([cx.row(gate, image), cx.row(y, row)], out, |[gate, y], now| now + gate * y);
            }
            Self::Downsample { x, sides } => {
                let half = sides.halved(1);
                let (y, column) = (row / half.width % half.height, row % half.width);
                let first = image * sides.pixels() + 2 * y * sides.width + 2 * column;
                let pixels = [0, 1, sides.width, sides.width + 1].map(|offset| cx.row(x, first + offset));
                let [upper, lower] = [[pixels[0], pixels[1]], [pixels[2], pixels[3]]];
                zip(upper, out, |[a, b], _| a + b);
                zip(lower, out, |[c, d], sum| 0.25 * (sum + (c + d)));
            }
            Self::Upsample { x, sides } => {
                let double = sides.doubled();
                let (y, column) = (row / double.width % double.height, row % double.width);
                out.copy_from_slice(cx.row(x, image * sides.pixels() + y / 2 * sides.width + column / 2));
            }
            Self::Residual { a, b } => zip([cx.row(a, row), cx.row(b, row)], out, |[a, b], _| FRAC_1_SQRT_2 * (a + b)),
            Self::Linear { .. }
            | Self::Attention { .. }
            | Self::Norm { .. }
            | Self::Conv { .. }
            | Self::GroupNorm { .. } => {}
        }
    }
}

/// Where a thread writes.
#[derive(Debug)]
pub(super) struct Part<'a> {
    /// Its rows of the result.
    pub(super) out: &'a mut [f32],
    /// Its own.
    pub(super) scratch: &'a mut [f32],
}

/// Cuts `out`, rows of `width` from row `first` on, where images of `rows` rows end: each with its image and the row in
/// it.
fn images(
    rows: usize,
    width: usize,
    first: usize,
    mut out: &mut [f32],
) -> impl Iterator<Item = (usize, usize, &mut [f32])> {
    let mut next = first;
    std::iter::from_fn(move || {
        if out.is_empty() {
            return None;
        }
        let (image, row) = (next / rows, next % rows);
        let here = (rows - row).min(out.len() / width);
        let (now, rest) = std::mem::take(&mut out).split_at_mut(here * width);
        out = rest;
        next += here;
        Some((image, row, now))
    })
}

fn linear(cx: Context<'_>, x: &Source, layer: (&Packed, &[f32], &Then), [rows, first]: [usize; 2], out: &mut [f32]) {
    let (weights, bias, then) = layer;
    let width = weights.outer();
    match then {
        Then::Store => product(cx.matrix(x, first, out.len() / width), weights, bias, out, Store),
        Then::Silu => product(cx.matrix(x, first, out.len() / width), weights, bias, out, Silu),
        Then::Plus(table) => {
            for (image, row, out) in images(rows, width, first, out) {
                let x = cx.matrix(x, image * rows + row, out.len() / width);
                product(x, weights, bias, out, Plus { table: &table[row * width..], columns: width });
            }
        }
        Then::AddGated(gate) => {
            for (image, row, out) in images(rows, width, first, out) {
                let x = cx.matrix(x, image * rows + row, out.len() / width);
                product(x, weights, bias, out, Gated(cx.row(gate, image)));
            }
        }
        Then::Join(branch) => {
            let epilogue = Joined { branch: cx.from(branch, first), columns: width };
            product(cx.matrix(x, first, out.len() / width), weights, bias, out, epilogue);
        }
    }
}

fn product(x: Mat<'_>, weights: &Packed, bias: &[f32], out: &mut [f32], epilogue: impl Epilogue) {
    let width = weights.outer();
    let out = MatMut::new(out, out.len() / width, width, width);
    Product { x, weights: weights.panels(), bias: Some(bias), out, epilogue }.run();
}

/// `out = f(inputs, out)`, number by number.
fn zip([a, b]: [&[f32]; 2], out: &mut [f32], f: impl Fn([f32; 2], f32) -> f32) {
    for (out, (a, b)) in out.iter_mut().zip(a.iter().zip(b)) {
        *out = f([*a, *b], *out);
    }
}

/// For each number all cosines, then all sines. In the `libm` crate, whose bits are the same on every machine.
fn sinusoids(x: &[f32], frequencies: &[f32], out: &mut [f32]) {
    let n = frequencies.len();
    for (x, out) in x.iter().zip(out.chunks_exact_mut(2 * n)) {
        let (cosines, sines) = out.split_at_mut(n);
        for (frequency, (cosine, sine)) in frequencies.iter().zip(cosines.iter_mut().zip(sines)) {
            (*sine, *cosine) = libm::sincosf(x * frequency);
        }
    }
}
