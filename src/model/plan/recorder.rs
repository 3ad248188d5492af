//! Networks' operations, written down instead of carried out.

use std::cell::RefCell;

use candle_core::{Result, Tensor, bail};

use super::graph::{Graph, Id, Op, Shape};
use crate::model::embedding::Sinusoids;
use crate::model::image_layers::{Conv3x3, GroupNorm};
use crate::model::layers::Linear;
use crate::model::ops::{Arguments, Network, Ops};
use crate::model::patches::Patches;
use crate::model::sides::Sides;

/// Writes down what a network does.
#[derive(Debug, Default)]
pub struct Recorder {
    graph: RefCell<Graph>,
}

/// A value that a plan will compute.
#[derive(Debug, Clone, Copy)]
pub struct Recorded(Id);

impl Recorder {
    /// What `network` does with states of `elements` numbers, and which value is its answer.
    pub(super) fn record(network: &impl Network, elements: usize) -> Result<(Graph, Id)> {
        let recorder = Self::default();
        let x = recorder.push(Op::State, 1, elements)?;
        let (s, t) = (recorder.push(Op::Before, 1, 1)?, recorder.push(Op::After, 1, 1)?);
        let answer = network.velocity(&recorder, &Arguments { x, s, t, labels: () })?;
        if recorder.shape(answer) != (Shape { rows: 1, width: elements }) {
            bail!("the network answers {:?} to {elements} numbers", recorder.shape(answer));
        }
        Ok((recorder.graph.into_inner(), answer.0))
    }

    fn push(&self, op: Op, rows: usize, width: usize) -> Result<Recorded> {
        self.graph.borrow_mut().push(op, rows, width).map(Recorded)
    }

    /// An operation whose result has the shape of `like`.
    fn push_like(&self, op: Op, like: Recorded) -> Result<Recorded> {
        let Shape { rows, width } = self.shape(like);
        self.push(op, rows, width)
    }

    fn shape(&self, value: Recorded) -> Shape {
        self.graph.borrow().shape(value.0)
    }

    /// Fails unless `condition`, which says that values go together.
    fn check(&self, condition: bool, what: &str, values: &[Recorded]) -> Result<()> {
        if condition {
            return Ok(());
        }
        let shapes: Vec<Shape> = values.iter().map(|&value| self.shape(value)).collect();
        bail!("{what}: shapes {shapes:?} do not go together")
    }

    /// Checks that `vectors` are one row each, as wide as `x`.
    fn check_vectors(&self, what: &str, x: Recorded, vectors: &[Recorded]) -> Result<()> {
        let expected = Shape { rows: 1, width: self.shape(x).width };
        let all = vectors.iter().all(|&vector| self.shape(vector) == expected);
        self.check(all, what, &[&[x], vectors].concat())
    }
}

impl Ops for Recorder {
    type Value = Recorded;
    type Labels = ();

    fn linear(&self, x: &Recorded, layer: &Linear) -> Result<Recorded> {
        let (inputs, outputs) = layer.weight.dims2()?;
        self.check(self.shape(*x).width == inputs, &format!("a linear layer of {inputs} inputs"), &[*x])?;
        let (weight, bias) = (layer.weight.clone(), layer.bias.clone());
        self.push(Op::Linear { x: x.0, weight, bias }, self.shape(*x).rows, outputs)
    }

    fn silu(&self, x: &Recorded) -> Result<Recorded> {
        self.push_like(Op::Silu { x: x.0 }, *x)
    }

    fn add(&self, a: &Recorded, b: &Recorded) -> Result<Recorded> {
        self.check(self.shape(*a) == self.shape(*b), "add", &[*a, *b])?;
        self.push_like(Op::Add { a: a.0, b: b.0 }, *a)
    }

    fn sub(&self, a: &Recorded, b: &Recorded) -> Result<Recorded> {
        self.check(self.shape(*a) == self.shape(*b), "sub", &[*a, *b])?;
        self.push_like(Op::Sub { a: a.0, b: b.0 }, *a)
    }

    fn add_constant(&self, x: &Recorded, c: &Tensor) -> Result<Recorded> {
        let what = format!("a constant of shape {:?}", c.dims());
        self.check(c.elem_count() == self.shape(*x).len(), &what, &[*x])?;
        self.push_like(Op::AddConstant { x: x.0, c: c.clone() }, *x)
    }

    fn concat(&self, a: &Recorded, b: &Recorded) -> Result<Recorded> {
        let (left, right) = (self.shape(*a), self.shape(*b));
        self.check(left.rows == right.rows, "concat", &[*a, *b])?;
        self.push(Op::Concat { a: a.0, b: b.0 }, left.rows, left.width + right.width)
    }

    fn chunks<const N: usize>(&self, x: &Recorded) -> Result<[Recorded; N]> {
        let Shape { rows, width } = self.shape(*x);
        self.check(width.is_multiple_of(N), &format!("{N} chunks"), &[*x])?;
        let mut chunks = [*x; N];
        for (i, chunk) in chunks.iter_mut().enumerate() {
            *chunk = self.push(Op::Columns { x: x.0, start: i * width / N }, rows, width / N)?;
        }
        Ok(chunks)
    }

    fn column(&self, x: &Recorded) -> Result<Recorded> {
        Ok(*x)
    }

    fn sinusoids(&self, x: &Recorded, sinusoids: &Sinusoids) -> Result<Recorded> {
        let (Shape { rows, width }, frequencies) = (self.shape(*x), sinusoids.frequencies.clone());
        self.push(Op::Sinusoids { x: x.0, frequencies }, rows, width * sinusoids.width()?)
    }

    fn look_up(&self, table: &Tensor, (): &()) -> Result<Recorded> {
        self.push(Op::LookUp { table: table.clone() }, 1, table.dim(1)?)
    }

    fn split(&self, x: &Recorded, patches: &Patches) -> Result<Recorded> {
        let ((rows, columns), width) = (patches.places(), patches.elements());
        self.check(self.shape(*x) == Shape { rows: 1, width: rows * columns * width }, "split", &[*x])?;
        self.push(Op::Split { x: x.0, patches: *patches }, rows * columns, width)
    }

    fn join(&self, x: &Recorded, patches: &Patches) -> Result<Recorded> {
        let ((rows, columns), width) = (patches.places(), patches.elements());
        self.check(self.shape(*x) == Shape { rows: rows * columns, width }, "join", &[*x])?;
        self.push(Op::Join { x: x.0, patches: *patches }, 1, rows * columns * width)
    }

    fn layer_norm(&self, x: &Recorded, eps: f64) -> Result<Recorded> {
        self.push_like(Op::LayerNorm { x: x.0, eps }, *x)
    }

    fn modulate(&self, x: &Recorded, scale: &Recorded, shift: &Recorded) -> Result<Recorded> {
        self.check_vectors("modulate", *x, &[*scale, *shift])?;
        self.push_like(Op::Modulate { x: x.0, scale: scale.0, shift: shift.0 }, *x)
    }

    fn gated_add(&self, x: &Recorded, gate: &Recorded, y: &Recorded) -> Result<Recorded> {
        self.check_vectors("gated add", *x, &[*gate])?;
        self.check(self.shape(*x) == self.shape(*y), "gated add", &[*x, *y])?;
        self.push_like(Op::GatedAdd { x: x.0, gate: gate.0, y: y.0 }, *x)
    }

    fn attention(&self, qkv: &Recorded, heads: usize) -> Result<Recorded> {
        let Shape { rows, width } = self.shape(*qkv);
        self.check(heads > 0 && width.is_multiple_of(3 * heads), &format!("attention of {heads} heads"), &[*qkv])?;
        self.push(Op::Attention { qkv: qkv.0, heads }, rows, width / 3)
    }

    fn conv3x3(&self, x: &Recorded, conv: &Conv3x3, shift: Option<&Recorded>) -> Result<Recorded> {
        let (_, _, inputs, outputs) = conv.weight.dims4()?;
        let Shape { rows, width } = self.shape(*x);
        let fits = rows == conv.sides.pixels() && width == inputs;
        self.check(fits, &format!("a convolution of {:?} of {inputs} channels", conv.sides), &[*x])?;
        let (weight, bias) = (conv.weight.clone(), conv.bias.clone());
        let op = Op::Conv { x: x.0, shift: shift.map(|shift| shift.0), sides: conv.sides, weight, bias };
        let result = self.push(op, rows, outputs)?;
        if let Some(shift) = shift {
            self.check_vectors("a shift", result, &[*shift])?;
        }
        Ok(result)
    }

    fn group_norm(&self, x: &Recorded, norm: &GroupNorm) -> Result<Recorded> {
        let channels = norm.weight.dims1()?;
        let fits = self.shape(*x).width == channels && channels.is_multiple_of(norm.groups);
        self.check(fits, &format!("a norm of {channels} channels in {} groups", norm.groups), &[*x])?;
        let (weight, bias) = (norm.weight.clone(), norm.bias.clone());
        self.push_like(Op::GroupNorm { x: x.0, groups: norm.groups, eps: norm.eps, weight, bias }, *x)
    }

    fn downsample(&self, x: &Recorded, sides: Sides) -> Result<Recorded> {
        let Shape { rows, width } = self.shape(*x);
        let half = sides.halved(1);
        self.check(rows == sides.pixels() && half.doubled() == sides, &format!("half of {sides:?}"), &[*x])?;
        self.push(Op::Downsample { x: x.0, sides }, half.pixels(), width)
    }

    fn upsample(&self, x: &Recorded, sides: Sides) -> Result<Recorded> {
        let Shape { rows, width } = self.shape(*x);
        self.check(rows == sides.pixels(), &format!("twice {sides:?}"), &[*x])?;
        self.push(Op::Upsample { x: x.0, sides }, sides.doubled().pixels(), width)
    }

    fn residual(&self, a: &Recorded, b: &Recorded) -> Result<Recorded> {
        self.check(self.shape(*a) == self.shape(*b), "residual", &[*a, *b])?;
        self.push_like(Op::Residual { a: a.0, b: b.0 }, *a)
    }
}
