//! What a network does, written down: operations in their order, each on the results of earlier ones.

use candle_core::{Result, Tensor, bail};

use crate::model::patches::Patches;
use crate::model::sides::Sides;

/// A value's place in the order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Id(pub(super) usize);

/// Numbers of a value for one row of the batch: `rows × width`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Shape {
    /// Tokens of an image; 1 for a vector.
    pub(super) rows: usize,
    /// Numbers in each.
    pub(super) width: usize,
}

impl Shape {
    /// Numbers in all.
    pub(super) fn len(self) -> usize {
        self.rows * self.width
    }
}

/// An operation.
#[derive(Debug, Clone)]
pub(super) enum Op {
    /// The state.
    State,
    /// The time before the jump.
    Before,
    /// The time after it.
    After,
    /// `x W + b`: `weight (K, N)`, `bias (N)`.
    Linear { x: Id, weight: Tensor, bias: Tensor },
    /// `x σ(x)`.
    Silu { x: Id },
    /// `a + b`.
    Add { a: Id, b: Id },
    /// `a - b`.
    Sub { a: Id, b: Id },
    /// `x + c` with the same `c` for every row of the batch.
    AddConstant { x: Id, c: Tensor },
    /// Both, side by side.
    Concat { a: Id, b: Id },
    /// Columns of `x` from `start` on.
    Columns { x: Id, start: usize },
    /// Cosines and sines of each number times each frequency.
    Sinusoids { x: Id, frequencies: Tensor },
    /// The row of a table that the label names.
    LookUp { table: Tensor },
    /// An image into patches.
    Split { x: Id, patches: Patches },
    /// Patches into an image.
    Join { x: Id, patches: Patches },
    /// Layer norm.
    LayerNorm { x: Id, eps: f64 },
    /// `x (1 + scale) + shift`.
    Modulate { x: Id, scale: Id, shift: Id },
    /// `x + gate y`.
    GatedAdd { x: Id, gate: Id, y: Id },
    /// Self-attention.
    Attention { qkv: Id, heads: usize },
    /// A convolution of images of `sides`: `weight (3, 3, K, N)`, `bias (N)`, and a vector added at every pixel.
    Conv { x: Id, shift: Option<Id>, sides: Sides, weight: Tensor, bias: Tensor },
    /// Group norm: `weight (C)`, `bias (C)`.
    GroupNorm { x: Id, groups: usize, eps: f64, weight: Tensor, bias: Tensor },
    /// The mean of 2×2 pixels of images of `sides`.
    Downsample { x: Id, sides: Sides },
    /// Every pixel of images of `sides` 2×2 times.
    Upsample { x: Id, sides: Sides },
    /// `(a + b) / √2`.
    Residual { a: Id, b: Id },
}

impl Op {
    /// The values that it needs.
    pub(super) fn inputs(&self) -> Vec<Id> {
        match *self {
            Self::State | Self::Before | Self::After | Self::LookUp { .. } => vec![],
            Self::Linear { x, .. }
            | Self::Silu { x }
            | Self::AddConstant { x, .. }
            | Self::Columns { x, .. }
            | Self::Sinusoids { x, .. }
            | Self::Split { x, .. }
            | Self::Join { x, .. }
            | Self::LayerNorm { x, .. }
            | Self::Attention { qkv: x, .. }
            | Self::Conv { x, shift: None, .. }
            | Self::GroupNorm { x, .. }
            | Self::Downsample { x, .. }
            | Self::Upsample { x, .. } => vec![x],
            Self::Add { a, b } | Self::Sub { a, b } | Self::Concat { a, b } | Self::Residual { a, b } => vec![a, b],
            Self::Conv { x, shift: Some(shift), .. } => vec![x, shift],
            Self::Modulate { x, scale, shift } => vec![x, scale, shift],
            Self::GatedAdd { x, gate, y } => vec![x, gate, y],
        }
    }
}

/// Operations in their order.
#[derive(Debug, Default)]
pub(super) struct Graph {
    nodes: Vec<(Op, Shape)>,
}

impl Graph {
    /// Adds an operation whose result has this shape.
    ///
    /// # Errors
    /// Where the result would have no numbers.
    pub(super) fn push(&mut self, op: Op, rows: usize, width: usize) -> Result<Id> {
        if rows == 0 || width == 0 {
            bail!("an operation without a result: {rows} x {width}");
        }
        self.nodes.push((op, Shape { rows, width }));
        Ok(Id(self.nodes.len() - 1))
    }

    /// The shape of a value.
    pub(super) fn shape(&self, id: Id) -> Shape {
        self.nodes[id.0].1
    }

    /// The operation that gives a value.
    pub(super) fn op(&self, id: Id) -> &Op {
        &self.nodes[id.0].0
    }

    /// All values in their order.
    pub(super) fn ids(&self) -> impl Iterator<Item = Id> + use<> {
        (0..self.nodes.len()).map(Id)
    }

    /// How many operations take each value.
    pub(super) fn uses(&self) -> Vec<usize> {
        let mut uses = vec![0; self.nodes.len()];
        for (op, _) in &self.nodes {
            op.inputs().iter().for_each(|input| uses[input.0] += 1);
        }
        uses
    }
}
