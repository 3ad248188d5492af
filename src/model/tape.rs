//! Reverse mode for training: what a network did, step by step, and the way back through it.
//!
//! A [`Tape`] carries out a network's operations on plain arrays with the same kernels as [`Eager`](super::ops::Eager),
//! and keeps what their derivatives need. On the way back gradients move from step to step; nothing is zeroed first and
//! nothing is copied, and every array's memory serves the next one as soon as nobody reads it (`kernels/buffer.rs`).

mod array;
mod ops;
mod recorded;

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use candle_core::{Device, Result, Tensor, TensorId, bail};

use super::kernels::{Kernel, View, buffer};
use crate::flow::Dual;
use array::with_views;
pub use array::{Array, Taped};
pub use recorded::{Learn, Recorded, Stopped};

/// The operations of one pass through a network, in their order.
#[derive(Default)]
pub struct Tape {
    inner: Mutex<Inner>,
    /// Whether nothing has a gradient: then nothing is kept either.
    stopped: bool,
}

#[derive(Default)]
struct Inner {
    steps: Vec<Box<dyn Step>>,
    /// Arrays that have a gradient.
    count: usize,
    /// The weights that were read.
    weights: HashMap<TensorId, Array>,
}

/// An operation that has been carried out.
trait Step: Send {
    /// Takes the gradient of the result and adds to those of the arguments.
    fn back(self: Box<Self>, gradients: &mut Gradients) -> Result<()>;
}

/// The gradients that a way back ends with.
struct Ends {
    weights: HashMap<TensorId, Vec<f32>>,
    /// That of the state, where it has one.
    state: Option<Vec<f32>>,
}

impl Tape {
    /// A tape of a pass whose result is a constant.
    fn stopped() -> Self {
        Self { stopped: true, ..Self::default() }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A new array; with a gradient where one of its arguments has one.
    fn array(&self, data: Vec<f32>, dims: &[usize], tracked: bool) -> Array {
        let id = tracked.then(|| {
            let mut inner = self.inner();
            inner.count += 1;
            inner.count - 1
        });
        Array::own(data, dims, id)
    }

    /// A weight, read where it lies.
    fn weight(&self, tensor: &Tensor) -> Array {
        let mut inner = self.inner();
        if let Some(array) = inner.weights.get(&tensor.id()) {
            return array.clone();
        }
        let id = (tensor.is_variable() && !self.stopped).then_some(inner.count);
        inner.count += usize::from(id.is_some());
        let array = Array::weight(tensor, id);
        inner.weights.insert(tensor.id(), array.clone());
        array
    }

    /// The state that a pass begins with; with a gradient where the tensor was computed from what has one.
    fn state(&self, x: &Dual) -> Result<Taped> {
        if self.stopped {
            return Taped::constant(&Dual {
                primal: x.primal.detach(),
                tangent: x.tangent.as_ref().map(Tensor::detach),
            });
        }
        if !x.primal.track_op() {
            return Taped::constant(x);
        }
        let tangent = x.tangent.as_ref().map(Array::constant).transpose()?;
        let mut inner = self.inner();
        inner.count += 1;
        Ok(Taped { primal: Array::copy(&x.primal, Some(inner.count - 1))?, tangent })
    }

    fn push(&self, step: impl Step + 'static) {
        self.inner().steps.push(Box::new(step));
    }

    /// Applies a kernel.
    fn apply<const N: usize, K: Kernel<N>>(&self, kernel: K, args: [&Array; N]) -> Result<Array> {
        let (data, shape) = with_views(args, |views| kernel.forward(views))??;
        let tracked = args.iter().any(|arg| arg.id().is_some());
        let result = self.array(data, shape.dims(), tracked);
        if tracked {
            self.push(Applied { kernel, args: args.map(Clone::clone), result: result.clone() });
        }
        Ok(result)
    }

    /// Applies an operation that only moves elements, or repeats them.
    fn moved(&self, x: &Array, f: impl Fn(&Tensor) -> Result<Tensor>) -> Result<Array> {
        let places = Tensor::arange(0u32, u32::try_from(x.len()).map_err(candle_core::Error::wrap)?, &Device::Cpu)?;
        let moved = f(&places.reshape(x.dims())?)?;
        let index = moved.flatten_all()?.to_vec1::<u32>()?;
        let data = with_views([x], |[x]| {
            let mut data = buffer::take(index.len());
            data.iter_mut().zip(&index).for_each(|(value, &i)| *value = x.data[i as usize]);
            data
        })?;
        let result = self.array(data, moved.dims(), x.id().is_some());
        if x.id().is_some() {
            self.push(Moved { x: x.clone(), index, result: result.clone() });
        }
        Ok(result)
    }

    /// `a + factor b` of one shape.
    fn sum(&self, a: &Array, b: &Array, factor: f32) -> Result<Array> {
        if a.dims() != b.dims() {
            bail!("cannot add arrays of shapes {:?} and {:?}", a.dims(), b.dims());
        }
        let data = with_views([a, b], |[a, b]| {
            let mut sum = buffer::take(a.data.len());
            for (sum, (a, b)) in sum.iter_mut().zip(a.data.iter().zip(b.data)) {
                *sum = a + factor * b;
            }
            sum
        })?;
        let result = self.array(data, a.dims(), a.id().is_some() || b.id().is_some());
        if let Some(result) = result.id() {
            self.push(Sum { args: [a.id(), b.id()], factor, result });
        }
        Ok(result)
    }

    /// Goes back through all steps, from the gradients of some arrays to those of the weights and of the state.
    fn back(self, seeds: Vec<(Array, Vec<f32>)>, state: &Array) -> Result<Ends> {
        let Inner { steps, count, weights } = self.inner.into_inner().unwrap_or_else(PoisonError::into_inner);
        let mut gradients = Gradients((0..count).map(|_| None).collect());
        for (array, gradient) in seeds {
            gradients.add(array.id(), gradient);
        }
        for step in steps.into_iter().rev() {
            step.back(&mut gradients)?;
        }
        let state = state.id().and_then(|id| gradients.take(id));
        let of = |(id, array): (TensorId, Array)| Some((id, gradients.take(array.id()?)?));
        Ok(Ends { weights: weights.into_iter().filter_map(of).collect(), state })
    }
}

/// Gradients on the way back, by the numbers of their arrays.
struct Gradients(Vec<Option<Vec<f32>>>);

impl Gradients {
    /// Takes the sum of what has come, if any.
    fn take(&mut self, id: usize) -> Option<Vec<f32>> {
        self.0[id].take()
    }

    /// Adds to the gradient of an array that has one.
    fn add(&mut self, id: Option<usize>, gradient: Vec<f32>) {
        let Some(id) = id else { return buffer::give(gradient) };
        match &mut self.0[id] {
            None => self.0[id] = Some(gradient),
            Some(sum) => {
                sum.iter_mut().zip(&gradient).for_each(|(sum, g)| *sum += g);
                buffer::give(gradient);
            }
        }
    }
}

struct Applied<K, const N: usize> {
    kernel: K,
    args: [Array; N],
    result: Array,
}

impl<const N: usize, K: Kernel<N>> Step for Applied<K, N> {
    fn back(self: Box<Self>, gradients: &mut Gradients) -> Result<()> {
        let Some(grad) = self.result.id().and_then(|id| gradients.take(id)) else { return Ok(()) };
        let wanted = self.args.each_ref().map(|arg| arg.id().is_some());
        let of = with_views([&self.result], |[result]| {
            with_views(self.args.each_ref(), |args: [View<'_>; N]| {
                self.kernel.backward(args, result.data, &grad, wanted)
            })
        })??;
        buffer::give(grad);
        for (arg, gradient) in self.args.iter().zip(of) {
            if let Some(gradient) = gradient {
                gradients.add(arg.id(), gradient);
            }
        }
        Ok(())
    }
}

struct Moved {
    x: Array,
    index: Vec<u32>,
    result: Array,
}

impl Step for Moved {
    fn back(self: Box<Self>, gradients: &mut Gradients) -> Result<()> {
        let Some(grad) = self.result.id().and_then(|id| gradients.take(id)) else { return Ok(()) };
        let mut dx = buffer::zeros(self.x.len());
        for (&i, g) in self.index.iter().zip(&grad) {
            dx[i as usize] += g;
        }
        buffer::give(grad);
        gradients.add(self.x.id(), dx);
        Ok(())
    }
}

struct Sum {
    args: [Option<usize>; 2],
    factor: f32,
    result: usize,
}

impl Step for Sum {
    fn back(self: Box<Self>, gradients: &mut Gradients) -> Result<()> {
        let Some(grad) = gradients.take(self.result) else { return Ok(()) };
        let mut other = buffer::take(grad.len());
        other.iter_mut().zip(&grad).for_each(|(other, g)| *other = self.factor * g);
        gradients.add(self.args[0], grad);
        gradients.add(self.args[1], other);
        Ok(())
    }
}
