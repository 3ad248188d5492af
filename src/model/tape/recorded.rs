//! A recorded network among tensors: a loss made of what it answers goes back to its weights.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use candle_core::backprop::GradStore;
use candle_core::{Result, Tensor, TensorId, Var};

use super::{Array, Tape, Taped};
use crate::flow::{Dual, FlowMap};
use crate::model::kernels::buffer;
use crate::model::ops::{Arguments, Network};

/// A network that can be recorded.
pub trait Learn: FlowMap {
    /// [`Network::velocity`] on a tape.
    fn velocity_on(&self, tape: &Tape, arguments: &Arguments<Tape>) -> Result<Taped>;
}

impl<N: Network> Learn for N {
    fn velocity_on(&self, tape: &Tape, arguments: &Arguments<Tape>) -> Result<Taped> {
        Network::velocity(self, tape, arguments)
    }
}

/// A network whose passes are recorded.
///
/// Its answers are variables: a loss made of them is differentiated as any tensor, and [`gradients`](Self::gradients)
/// takes it on from there, by the tapes, to the weights. A pass may begin where another ended: gradients of its state go
/// on to what the state was computed from.
pub struct Recorded<'a> {
    net: &'a dyn Learn,
    passes: Mutex<Vec<Pass>>,
}

struct Pass {
    tape: Tape,
    /// The state that it began with, as a tensor and on the tape.
    begin: (Tensor, Array),
    /// Arrays at its end, and the variables that stand for them.
    ends: Vec<(Array, Var)>,
}

impl<'a> Recorded<'a> {
    /// Records what `net` does from now on. Its weights are `f32` on the CPU.
    pub fn new(net: &'a dyn Learn) -> Self {
        Self { net, passes: Mutex::default() }
    }

    /// The gradients of the weights, given those of the variables that stand for the answers. What the loss does not
    /// depend on is missing.
    ///
    /// # Errors
    /// Whatever the operations on the way report.
    pub fn gradients(self, of_answers: GradStore) -> Result<HashMap<TensorId, Vec<f32>>> {
        let mut sums: HashMap<TensorId, Vec<f32>> = HashMap::new();
        // Later passes add to the gradients of the answers of earlier ones, which their states were made of.
        let mut stores = vec![of_answers];
        let passes = self.passes.into_inner().unwrap_or_else(PoisonError::into_inner);
        for Pass { tape, begin: (tensor, array), ends } in passes.into_iter().rev() {
            let seeds = ends.iter().flat_map(|(array, var)| {
                let of = |store: &GradStore| store.get(var).map(|gradient| seed(array, gradient));
                stores.iter().filter_map(of).collect::<Vec<_>>()
            });
            let ends = tape.back(seeds.collect::<Result<_>>()?, &array)?;
            for (id, gradient) in ends.weights {
                add(&mut sums, id, gradient);
            }
            if let Some(gradient) = ends.state {
                let gradient = Tensor::from_vec(gradient, tensor.dims(), tensor.device())?;
                stores.push((tensor * gradient)?.sum_all()?.backward()?);
            }
        }
        Ok(sums)
    }
}

fn seed(array: &Array, gradient: &Tensor) -> Result<(Array, Vec<f32>)> {
    Ok((array.clone(), buffer::copy(&gradient.flatten_all()?.to_vec1::<f32>()?)))
}

fn add(sums: &mut HashMap<TensorId, Vec<f32>>, id: TensorId, gradient: Vec<f32>) {
    match sums.get_mut(&id) {
        None => drop(sums.insert(id, gradient)),
        Some(sum) => {
            sum.iter_mut().zip(&gradient).for_each(|(sum, g)| *sum += g);
            buffer::give(gradient);
        }
    }
}

impl FlowMap for Recorded<'_> {
    fn velocity(&self, x: &Dual, s: &Dual, t: &Dual, labels: &Tensor) -> Result<Dual> {
        let tape = Tape::default();
        let state = tape.state(x)?;
        let begin = (x.primal.clone(), state.primal.clone());
        let [s, t] = [s, t].map(Taped::constant);
        let arguments = Arguments { x: state, s: s?, t: t?, labels: labels.clone() };
        let answer = self.net.velocity_on(&tape, &arguments)?;
        let mut ends = Vec::new();
        let mut end = |array: Array| -> Result<Tensor> {
            let var = Var::from_tensor(&array.to_tensor()?)?;
            let tensor = var.as_tensor().clone();
            ends.push((array, var));
            Ok(tensor)
        };
        let primal = end(answer.primal)?;
        let tangent = answer.tangent.map(end).transpose()?;
        self.passes.lock().unwrap_or_else(PoisonError::into_inner).push(Pass { tape, begin, ends });
        Ok(Dual { primal, tangent })
    }
}

/// A network whose answers are constants: it shares the weights of a recorded one, and gradients stop at it.
pub struct Stopped<'a>(pub &'a dyn Learn);

impl FlowMap for Stopped<'_> {
    fn velocity(&self, x: &Dual, s: &Dual, t: &Dual, labels: &Tensor) -> Result<Dual> {
        let tape = Tape::stopped();
        let [s, t] = [s, t].map(Taped::constant);
        let arguments = Arguments { x: tape.state(x)?, s: s?, t: t?, labels: labels.clone() };
        let answer = self.0.velocity_on(&tape, &arguments)?;
        Ok(Dual { primal: answer.primal.to_tensor()?, tangent: answer.tangent.map(|v| v.to_tensor()).transpose()? })
    }
}
