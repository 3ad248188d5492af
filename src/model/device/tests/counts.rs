//! What a forward costs on candle's CUDA backend, by operation: a wrapper of any [`Ops`] that notes each call and its
//! shapes, and the price of each call as read in candle's source. `docs/CUDA.md` has the rules and these numbers.

use std::cell::RefCell;
use std::ops::AddAssign;

use super::*;
use crate::model::embedding::Sinusoids;
use crate::model::image_layers::{Conv3x3, GroupNorm, Sides};
use crate::model::layers::Linear;
use crate::model::ops::Ops;
use crate::model::patches::Patches;

/// What is paid.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Price {
    /// Kernels and calls of libraries.
    kernels: usize,
    /// Uploads of shapes and strides.
    uploads: usize,
    /// Numbers read and written in the device's memory.
    moved: usize,
}

impl AddAssign for Price {
    fn add_assign(&mut self, other: Self) {
        self.kernels += other.kernels;
        self.uploads += other.uploads;
        self.moved += other.moved;
    }
}

/// A call of an operation.
#[derive(Debug, Clone, Copy)]
struct Call {
    name: &'static str,
    /// Numbers in its largest argument.
    x: usize,
    /// Numbers in its result.
    y: usize,
    /// Numbers in its weights, or in the scores of an attention.
    w: usize,
    /// Of the last dimension of argument and result.
    channels: [usize; 2],
    /// Whether a convolution adds a shift.
    shifted: bool,
    /// Parts of a modulation, heads of an attention, pixels along a patch.
    parts: usize,
}

const fn price(kernels: usize, uploads: usize, moved: usize) -> Price {
    Price { kernels, uploads, moved }
}

/// Compositions of candle's operations, as `Eager` makes them on a device, without cuDNN.
fn composed(call: &Call) -> Price {
    let &Call { x, y, w, parts, .. } = call;
    let [one_in, one_out] = call.channels.map(|channels| usize::from(channels > 1));
    match call.name {
        "linear" => price(2, 1, x + w + 3 * y),
        "silu" => price(1, 0, 2 * x),
        "add" => price(1, 0, 3 * x),
        "sub" => price(2, 0, 5 * x),
        "add_constant" => price(1, 1, 2 * x),
        "concat" => price(2, 0, 2 * y),
        "chunks" => price(parts, parts, 2 * x),
        "sinusoids" => price(5, 1, 9 * y / 2),
        "look_up" => price(1, 1, 2 * y),
        "split" | "join" if parts * one_in.max(one_out) > 1 => price(1, 1, 2 * x),
        "layer_norm" => price(10, 4, 8 * x),
        "modulate" => price(3, 2, 4 * x),
        "gated_add" => price(2, 1, 5 * x),
        "attention" if parts == 1 => price(9, 5, 4 * x + 12 * w - 2 * y),
        "attention" => price(10, 6, 4 * x + 12 * w),
        "conv3x3" => {
            let (copies, shift) = (1 + one_in + one_out, usize::from(call.shifted));
            price(4 + copies + shift, 3 + copies + shift, 3 * w + (19 + 2 * one_in) * x + (5 + 2 * one_out) * y)
        }
        "group_norm" => price(14, 8, 16 * x),
        "downsample" => price(2, 1, x + 3 * y),
        "upsample" => price(1, 1, 2 * y),
        "residual" => price(2, 0, 5 * x),
        _ => price(0, 0, 0),
    }
}

/// As [`Direct`] does it, with or without cuDNN. Uploads are those of a first forward: later ones find them done.
fn direct(call: &Call, cudnn: bool) -> Price {
    let &Call { x, y, w, parts, .. } = call;
    match call.name {
        "sub" => price(1, 0, 3 * x),
        "chunks" => price(0, 0, 0),
        "split" | "join" if parts == 1 => price(0, 0, 0),
        "layer_norm" => price(1, 0, 3 * x),
        "modulate" => price(3, 3, 4 * x),
        "attention" if parts == 1 => price(4, 1, 2 * x + 4 * w),
        "attention" => price(6, 2, 14 * x / 3 + 4 * w),
        "conv3x3" => {
            let shift = usize::from(call.shifted);
            match cudnn {
                true => price(2 + shift, 1 + shift, x + w + 3 * y),
                false => price(4 + shift, 3 + shift, 19 * x + w + 5 * y),
            }
        }
        "group_norm" => price(3, 2, 7 * x),
        "downsample" | "upsample" => price(1, 1, x + y),
        _ => composed(call),
    }
}

/// A value's tensor.
trait Shown {
    fn tensor(&self) -> &Tensor;
}

impl Shown for Tensor {
    fn tensor(&self) -> &Tensor {
        self
    }
}

impl Shown for Dual {
    fn tensor(&self) -> &Tensor {
        &self.primal
    }
}

/// Does what another does, and notes it.
struct Noted<O> {
    ops: O,
    calls: RefCell<Vec<Call>>,
}

impl<O: Ops<Value: Shown>> Noted<O> {
    fn note(&self, name: &'static str, x: &O::Value, more: [usize; 3], y: Result<O::Value>) -> Result<O::Value> {
        let y = y?;
        let [w, parts, shifted] = more;
        let last = |value: &O::Value| value.tensor().dims().last().copied().unwrap_or(1);
        let [numbers, result] = [x, &y].map(|value| value.tensor().elem_count());
        let (channels, shifted) = ([last(x), last(&y)], shifted > 0);
        self.calls.borrow_mut().push(Call { name, x: numbers, y: result, w, channels, shifted, parts });
        Ok(y)
    }
}

impl<O: Ops<Value: Shown>> Ops for Noted<O> {
    type Value = O::Value;
    type Labels = O::Labels;

    fn linear(&self, x: &O::Value, layer: &Linear) -> Result<O::Value> {
        self.note("linear", x, [layer.weight.elem_count(), 0, 0], self.ops.linear(x, layer))
    }

    fn silu(&self, x: &O::Value) -> Result<O::Value> {
        self.note("silu", x, [0; 3], self.ops.silu(x))
    }

    fn add(&self, a: &O::Value, b: &O::Value) -> Result<O::Value> {
        self.note("add", a, [0; 3], self.ops.add(a, b))
    }

    fn sub(&self, a: &O::Value, b: &O::Value) -> Result<O::Value> {
        self.note("sub", a, [0; 3], self.ops.sub(a, b))
    }

    fn add_constant(&self, x: &O::Value, c: &Tensor) -> Result<O::Value> {
        self.note("add_constant", x, [0; 3], self.ops.add_constant(x, c))
    }

    fn concat(&self, a: &O::Value, b: &O::Value) -> Result<O::Value> {
        self.note("concat", a, [0; 3], self.ops.concat(a, b))
    }

    fn chunks<const N: usize>(&self, x: &O::Value) -> Result<[O::Value; N]> {
        self.note("chunks", x, [0, N, 0], Ok(x.clone()))?;
        self.ops.chunks(x)
    }

    fn column(&self, x: &O::Value) -> Result<O::Value> {
        self.ops.column(x)
    }

    fn sinusoids(&self, x: &O::Value, sinusoids: &Sinusoids) -> Result<O::Value> {
        self.note("sinusoids", x, [0; 3], self.ops.sinusoids(x, sinusoids))
    }

    fn look_up(&self, table: &Tensor, labels: &O::Labels) -> Result<O::Value> {
        let found = self.ops.look_up(table, labels)?;
        self.note("look_up", &found.clone(), [0; 3], Ok(found))
    }

    fn split(&self, x: &O::Value, patches: &Patches) -> Result<O::Value> {
        self.note("split", x, [0, patches.elements(), 0], self.ops.split(x, patches))
    }

    fn join(&self, x: &O::Value, patches: &Patches) -> Result<O::Value> {
        self.note("join", x, [0, patches.elements(), 0], self.ops.join(x, patches))
    }

    fn layer_norm(&self, x: &O::Value, eps: f64) -> Result<O::Value> {
        self.note("layer_norm", x, [0; 3], self.ops.layer_norm(x, eps))
    }

    fn modulate(&self, x: &O::Value, scale: &O::Value, shift: &O::Value) -> Result<O::Value> {
        self.note("modulate", x, [0; 3], self.ops.modulate(x, scale, shift))
    }

    fn gated_add(&self, x: &O::Value, gate: &O::Value, y: &O::Value) -> Result<O::Value> {
        self.note("gated_add", x, [0; 3], self.ops.gated_add(x, gate, y))
    }

    fn attention(&self, qkv: &O::Value, heads: usize) -> Result<O::Value> {
        let (images, tokens, _) = qkv.tensor().dims3()?;
        self.note("attention", qkv, [images * heads * tokens * tokens, heads, 0], self.ops.attention(qkv, heads))
    }

    fn conv3x3(&self, x: &O::Value, conv: &Conv3x3, shift: Option<&O::Value>) -> Result<O::Value> {
        let more = [conv.weight.elem_count(), 0, usize::from(shift.is_some())];
        self.note("conv3x3", x, more, self.ops.conv3x3(x, conv, shift))
    }

    fn group_norm(&self, x: &O::Value, norm: &GroupNorm) -> Result<O::Value> {
        self.note("group_norm", x, [0; 3], self.ops.group_norm(x, norm))
    }

    fn downsample(&self, x: &O::Value, sides: Sides) -> Result<O::Value> {
        self.note("downsample", x, [0; 3], self.ops.downsample(x, sides))
    }

    fn upsample(&self, x: &O::Value, sides: Sides) -> Result<O::Value> {
        self.note("upsample", x, [0; 3], self.ops.upsample(x, sides))
    }

    fn residual(&self, a: &O::Value, b: &O::Value) -> Result<O::Value> {
        self.note("residual", a, [0; 3], self.ops.residual(a, b))
    }
}

/// The networks of the recipes for Fashion-MNIST.
fn shipped() -> [(&'static str, Architecture); 2] {
    let dit = Architecture::Dit {
        patch: 4,
        width: 128,
        depth: 6,
        heads: 4,
        mlp_ratio: 4,
        frequencies: 16,
        max_frequency: 16.0,
    };
    let unet = Architecture::Unet {
        channels: 32,
        multipliers: vec![1, 2, 2],
        blocks: 2,
        attention: vec![7],
        frequencies: 16,
        max_frequency: 16.0,
    };
    [("patch transformer", dit), ("U-Net", unet)]
}

fn fashion_mnist() -> DataSpec {
    let classes = (0..10).map(|class| class.to_string()).collect();
    DataSpec { name: "fashion-mnist".into(), shape: vec![1, 28, 28], range: [-1.0, 1.0], classes }
}

/// The calls of a forward of `rows` rows, where values are made of tensors by `value`.
fn calls<O>(architecture: &Architecture, rows: usize, ops: O, value: fn(&Tensor) -> O::Value) -> Vec<Call>
where
    O: Ops<Value: Shown, Labels = Tensor>,
{
    let (data, cpu) = (fashion_mnist(), Device::Cpu);
    let source = Initialiser::new(1);
    let net = AnyNetwork::new(architecture, &data, source.builder(DType::F32, &cpu)).unwrap();
    let zeros = |shape: &[usize]| value(&Tensor::zeros(shape, DType::F32, &cpu).unwrap());
    let (x, s, t) = (zeros(&[rows, 1, 28, 28]), zeros(&[rows]), zeros(&[rows]));
    let labels = Tensor::zeros(rows, DType::U32, &cpu).unwrap();
    let noted = Noted { ops, calls: RefCell::default() };
    Network::velocity(&net, &noted, &Arguments::<Noted<O>> { x, s, t, labels }).unwrap();
    noted.calls.into_inner()
}

fn total(calls: &[Call], price: impl Fn(&Call) -> Price) -> Price {
    let mut sum = Price::default();
    calls.iter().for_each(|call| sum += price(call));
    sum
}

/// Megabytes moved by 64 rows: what is moved is a constant, of the weights, and a part for each row.
fn megabytes(two: Price, four: Price) -> f64 {
    let each = (four.moved - two.moved) as f64 / 2.0;
    (two.moved as f64 + 62.0 * each) * 4.0 / 1e6
}

#[test]
fn the_documentation_counts_what_is_launched() {
    let mut lines = Vec::new();
    for (name, architecture) in shipped() {
        let [two, four] = [2, 4].map(|rows| calls(&architecture, rows, Eager, Dual::constant));
        let mut line = |how: &str, price: &dyn Fn(&Call) -> Price, two: &[Call], four: &[Call]| {
            let (two, four) = (total(two, price), total(four, price));
            let (Price { kernels, uploads, .. }, moved) = (two, megabytes(two, four));
            lines.push(format!("| {name} | {how} | {kernels} | {uploads} | {moved:.0} |"));
        };
        line("before", &composed, &two, &four);
        let [two, four] = [2, 4].map(|rows| calls(&architecture, rows, Direct::default(), Tensor::clone));
        line("now", &|call| direct(call, false), &two, &four);
        line("now, cuDNN", &|call| direct(call, true), &two, &four);
        let count = |name: &str| two.iter().filter(|call| call.name == name).count();
        let mut names: Vec<_> = two.iter().map(|call| call.name).collect();
        names.sort_unstable();
        names.dedup();
        lines.extend(names.iter().map(|op| format!("| {name} | `{op}` | {} |", count(op))));
    }
    // Not part of the packaged crate.
    let Ok(text) = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/CUDA.md")) else { return };
    let missing: Vec<_> = lines.iter().filter(|line| !text.contains(line.as_str())).collect();
    assert!(missing.is_empty(), "docs/CUDA.md lacks {missing:#?}");
}
