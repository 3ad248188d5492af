//! From a graph to steps: what belongs together is fused, and values share buffers where their lives do not overlap.

use candle_core::{Result, Tensor};

use super::graph::{Graph, Id, Op};
use super::step::{Convolution, Kind, Modulation, Source, Then};
use crate::model::kernels::attend;
use crate::model::kernels::conv::Served;
use crate::model::kernels::matrix::Mat;
use crate::model::kernels::packed::Packed;

/// One step of a plan.
#[derive(Debug)]
pub(super) struct Step {
    /// What it does.
    pub(super) kind: Kind,
    /// The buffer that it writes.
    pub(super) buffer: usize,
    /// Rows of its result for each image, and numbers of a row.
    pub(super) shape: [usize; 2],
    /// The value that is in its buffer before, where it adds to that.
    onto: Option<usize>,
}

/// Steps, and the numbers for one image in each buffer.
#[derive(Debug)]
pub(super) struct Program {
    pub(super) steps: Vec<Step>,
    pub(super) buffers: Vec<usize>,
    /// The buffer that holds the answer in the end.
    pub(super) answer: usize,
}

/// Compiles a graph whose answer is `answer`.
pub(super) fn lower(graph: &Graph, answer: Id) -> Result<Program> {
    let mut lowering = Lowering { graph, consumers: consumers(graph), views: Vec::new(), steps: Vec::new() };
    for id in graph.ids() {
        let view = lowering.view(id);
        lowering.views.push(view);
        if lowering.is_view(id) || lowering.absorbed_by(id).is_some() {
            continue;
        }
        let (kind, onto) = lowering.kind(id)?;
        let shape = graph.shape(id);
        lowering.steps.push(Step { kind, buffer: id.0, shape: [shape.rows, shape.width], onto });
    }
    let answer = lowering.views[answer.0].buffer;
    Ok(place(lowering.steps, answer))
}

/// For each value the one operation that takes it, if it is one.
fn consumers(graph: &Graph) -> Vec<Option<Id>> {
    let uses = graph.uses();
    let mut consumers = vec![None; uses.len()];
    for id in graph.ids() {
        for input in graph.op(id).inputs() {
            consumers[input.0] = (uses[input.0] == 1).then_some(id);
        }
    }
    consumers
}

struct Lowering<'a> {
    graph: &'a Graph,
    consumers: Vec<Option<Id>>,
    /// Where each value lies, by the value whose step writes it.
    views: Vec<Source>,
    steps: Vec<Step>,
}

impl Lowering<'_> {
    fn is_view(&self, id: Id) -> bool {
        matches!(self.graph.op(id), Op::Columns { .. })
    }

    fn view(&self, id: Id) -> Source {
        let shape = self.graph.shape(id);
        match *self.graph.op(id) {
            Op::Columns { x, start } => {
                let whole = self.views[x.0];
                Source { column: whole.column + start, width: shape.width, ..whole }
            }
            _ => Source { buffer: id.0, column: 0, stride: shape.width, rows: shape.rows, width: shape.width },
        }
    }

    /// The only consumer of `id`, where that does the work of `id` as well.
    fn absorbed_by(&self, id: Id) -> Option<Id> {
        let consumer = self.consumers[id.0]?;
        let fits = match (self.graph.op(id), self.graph.op(consumer)) {
            (Op::Linear { .. }, Op::Silu { .. } | Op::AddConstant { .. }) => true,
            (Op::Linear { .. }, Op::GatedAdd { y, .. }) => *y == id,
            (Op::LayerNorm { .. }, Op::Modulate { x, .. }) => *x == id,
            (Op::GroupNorm { .. }, Op::Silu { .. }) => true,
            (Op::Linear { .. } | Op::Conv { .. }, Op::Residual { a, b }) => *b == id && *a != id,
            _ => false,
        };
        fits.then_some(consumer)
    }

    /// The norm, linear layer or convolution whose work `taker` does as well.
    fn absorbed(&self, id: Id, taker: Id) -> Option<&Op> {
        (self.absorbed_by(id) == Some(taker)).then(|| self.graph.op(id))
    }

    /// The step for a value, and the value that it adds to.
    fn kind(&self, id: Id) -> Result<(Kind, Option<usize>)> {
        let at = |id: Id| self.views[id.0];
        let kind = match self.graph.op(id) {
            Op::State => Kind::State,
            Op::Before => Kind::Before,
            Op::After => Kind::After,
            Op::LookUp { table } => Kind::LookUp { table: numbers(table)? },
            Op::Columns { x, .. } => Kind::Copy { x: at(*x) },
            Op::Add { a, b } => Kind::Sum { a: at(*a), b: at(*b), sign: 1.0 },
            Op::Sub { a, b } => Kind::Sum { a: at(*a), b: at(*b), sign: -1.0 },
            Op::Concat { a, b } => Kind::Concat { a: at(*a), b: at(*b) },
            Op::Sinusoids { x, frequencies } => Kind::Sinusoids { x: at(*x), frequencies: numbers(frequencies)? },
            Op::Split { x, patches } => Kind::Split { x: at(*x), patches: *patches },
            Op::Join { x, patches } => Kind::Join { x: at(*x), patches: *patches },
            Op::Linear { .. } => self.linear(self.graph.op(id), Then::Store)?,
            Op::Silu { x } => match self.absorbed(*x, id) {
                Some(norm @ Op::GroupNorm { .. }) => self.group_norm(norm, true)?,
                Some(linear) => self.linear(linear, Then::Silu)?,
                None => Kind::Silu { x: at(*x) },
            },
            Op::AddConstant { x, c } => match self.absorbed(*x, id) {
                Some(linear) => self.linear(linear, Then::Plus(numbers(c)?))?,
                None => candle_core::bail!("a constant is added to something else than a linear layer's result"),
            },
            Op::LayerNorm { x, eps } => {
                let modulation = Modulation::None(vec![0.0; at(*x).width]);
                Kind::Norm { x: at(*x), modulation, eps: *eps as f32 }
            }
            Op::Modulate { x, scale, shift } => match self.absorbed(*x, id) {
                Some(Op::LayerNorm { x, eps }) => {
                    let modulation = Modulation::By { scale: at(*scale), shift: at(*shift) };
                    Kind::Norm { x: at(*x), modulation, eps: *eps as f32 }
                }
                _ => Kind::Modulate { x: at(*x), scale: at(*scale), shift: at(*shift) },
            },
            Op::GatedAdd { x, gate, y } => {
                let kind = match self.absorbed(*y, id) {
                    Some(linear) => self.linear(linear, Then::AddGated(at(*gate)))?,
                    None => Kind::AddGated { gate: at(*gate), y: at(*y) },
                };
                return Ok((kind, Some(at(*x).buffer)));
            }
            Op::Attention { qkv, heads } => {
                let Source { rows: tokens, width, .. } = at(*qkv);
                Kind::Attention { qkv: at(*qkv), shape: attend::Shape { tokens, channels: width / 3, heads: *heads } }
            }
            Op::Conv { .. } => self.conv(self.graph.op(id), None)?,
            Op::GroupNorm { .. } => self.group_norm(self.graph.op(id), false)?,
            Op::Downsample { x, sides } => Kind::Downsample { x: at(*x), sides: *sides },
            Op::Upsample { x, sides } => Kind::Upsample { x: at(*x), sides: *sides },
            Op::Residual { a, b } => match self.absorbed(*b, id) {
                Some(conv @ Op::Conv { .. }) => self.conv(conv, Some(*a))?,
                Some(linear) => self.linear(linear, Then::Join(self.whole(*a)?))?,
                None => Kind::Residual { a: at(*a), b: at(*b) },
            },
        };
        Ok((kind, None))
    }

    /// Where a value lies that is needed in one piece.
    fn whole(&self, id: Id) -> Result<Source> {
        let source = self.views[id.0];
        if source.stride != source.width {
            candle_core::bail!("an image that is a part of another value: {source:?}")
        }
        Ok(source)
    }

    fn conv(&self, op: &Op, residual: Option<Id>) -> Result<Kind> {
        let Op::Conv { x, shift, sides, weight, bias } = op else { candle_core::bail!("no convolution: {op:?}") };
        let (_, _, inputs, outputs) = weight.dims4()?;
        let shift = shift.map(|shift| self.whole(shift)).transpose()?;
        let residual = residual.map(|branch| self.whole(branch)).transpose()?;
        let kernel = Served::new(*sides, [inputs, outputs], &numbers(weight)?);
        let conv = Convolution { kernel, bias: numbers(bias)?, width: sides.width };
        Ok(Kind::Conv { x: self.whole(*x)?, conv, shift, residual })
    }

    fn group_norm(&self, op: &Op, silu: bool) -> Result<Kind> {
        let Op::GroupNorm { x, groups, eps, weight, bias } = op else { candle_core::bail!("no group norm: {op:?}") };
        let weights = [numbers(weight)?, numbers(bias)?];
        Ok(Kind::GroupNorm { x: self.whole(*x)?, groups: *groups, eps: *eps as f32, weights, silu })
    }

    fn linear(&self, op: &Op, then: Then) -> Result<Kind> {
        let Op::Linear { x, weight, bias } = op else { candle_core::bail!("no linear layer: {op:?}") };
        let (inner, outer) = weight.dims2()?;
        let weights = Packed::new(Mat::new(&numbers(weight)?, inner, outer, outer));
        Ok(Kind::Linear { x: self.views[x.0], weights, bias: numbers(bias)?, then })
    }
}

fn numbers(tensor: &Tensor) -> Result<Vec<f32>> {
    tensor.flatten_all()?.to_vec1()
}

/// Gives every value a buffer.
fn place(mut steps: Vec<Step>, answer: usize) -> Program {
    let mut placement = Placement { last: last_uses(&mut steps, answer), at: vec![], buffers: vec![], free: vec![] };
    placement.at.resize(placement.last.len(), 0);
    let mut placed = Vec::with_capacity(steps.len());
    for (index, mut step) in steps.into_iter().enumerate() {
        let (value, [rows, width]) = (step.buffer, step.shape);
        let reads = step.kind.buffers();
        step.buffer = match step.onto {
            // The last to take a value may write over it, unless it reads it elsewhere as well.
            Some(onto) if placement.last[onto] == index && !reads.contains(&onto) => placement.at[onto],
            Some(onto) => {
                let buffer = placement.take(rows * width);
                let x = Source { buffer: placement.at[onto], column: 0, stride: width, rows, width };
                placed.push(Step { kind: Kind::Copy { x }, buffer, shape: step.shape, onto: None });
                buffer
            }
            None => placement.take(rows * width),
        };
        placement.at[value] = step.buffer;
        for source in step.kind.sources_mut() {
            source.buffer = placement.at[source.buffer];
        }
        let mut ended: Vec<usize> =
            reads.into_iter().chain(step.onto).filter(|&v| placement.last[v] == index).collect();
        ended.sort_unstable();
        ended.dedup();
        placement.free.extend(ended.into_iter().map(|v| placement.at[v]).filter(|&buffer| buffer != step.buffer));
        placed.push(step);
    }
    Program { answer: placement.at[answer], steps: placed, buffers: placement.buffers }
}

/// For each value the last step that takes it.
fn last_uses(steps: &mut [Step], answer: usize) -> Vec<usize> {
    let mut last = vec![0; steps.iter().map(|step| step.buffer + 1).max().unwrap_or(0)];
    for (index, step) in steps.iter_mut().enumerate() {
        for value in step.kind.buffers().into_iter().chain(step.onto) {
            last[value] = index;
        }
    }
    last[answer] = usize::MAX;
    last
}

struct Placement {
    last: Vec<usize>,
    /// The buffer of each value.
    at: Vec<usize>,
    /// Numbers of each buffer.
    buffers: Vec<usize>,
    free: Vec<usize>,
}

impl Placement {
    /// A buffer for `len` numbers: the smallest free one that is large enough, or a new one.
    fn take(&mut self, len: usize) -> usize {
        let fits = self.free.iter().enumerate().filter(|&(_, &buffer)| self.buffers[buffer] >= len);
        match fits.min_by_key(|&(_, &buffer)| self.buffers[buffer]).map(|(place, _)| place) {
            Some(place) => self.free.swap_remove(place),
            None => {
                self.buffers.push(len);
                self.buffers.len() - 1
            }
        }
    }
}
