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
/// takes it on from there, by the tapes, to the weights.
pub struct Recorded<'a> {
    net: &'a dyn Learn,
    passes: Mutex<Vec<Pass>>,
}

struct Pass {
    tape: Tape,
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
    pub fn gradients(self, of_answers: &GradStore) -> Result<HashMap<TensorId, Vec<f32>>> {
        let mut sums: HashMap<TensorId, Vec<f32>> = HashMap::new();
        for Pass { tape, ends } in self.passes.into_inner().unwrap_or_else(PoisonError::into_inner) {
            let mut seeds = Vec::new();
            for (array, var) in ends {
                if let Some(gradient) = of_answers.get(&var) {
                    seeds.push((array, buffer::copy(&gradient.flatten_all()?.to_vec1::<f32>()?)));
                }
            }
            for (id, gradient) in tape.back(seeds)? {
                match sums.get_mut(&id) {
                    None => drop(sums.insert(id, gradient)),
                    Some(sum) => {
                        sum.iter_mut().zip(&gradient).for_each(|(sum, g)| *sum += g);
                        buffer::give(gradient);
                    }
                }
            }
        }
        Ok(sums)
    }
}

impl FlowMap for Recorded<'_> {
    fn velocity(&self, x: &Dual, s: &Dual, t: &Dual, labels: &Tensor) -> Result<Dual> {
        let tape = Tape::default();
        let [x, s, t] = [x, s, t].map(Taped::constant);
        let arguments = Arguments { x: x?, s: s?, t: t?, labels: labels.clone() };
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
        self.passes.lock().unwrap_or_else(PoisonError::into_inner).push(Pass { tape, ends });
        Ok(Dual { primal, tangent })
    }
}
