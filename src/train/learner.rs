//! The network being trained: its weights, their average, and one step of learning.

use candle_core::{DType, Device, Tensor, Var};

use super::batch::{Draw, Rows};
use super::objective::Objective;
use super::optimiser::Optimiser;
use super::recipe::Recipe;
use super::weighting::{PREFIX, Weighting};
use crate::checkpoint::manifest::DataSpec;
use crate::error::{Error, Result};
use crate::flow::FlowMap;
use crate::model::{Initialiser, Workers, build};

/// Weights in training.
pub(super) struct Learner {
    net: Box<dyn FlowMap>,
    weighting: Option<Weighting>,
    /// The tensors that `net` reads, by name.
    vars: Vec<(String, Var)>,
    /// Their values, tensor by tensor.
    pub(super) weights: Vec<Vec<f32>>,
    /// The exponential moving average of the values.
    pub(super) average: Vec<Vec<f32>>,
    pub(super) optimiser: Optimiser,
    micro_batch: usize,
    clip: Option<f64>,
    ema_decay: f64,
}

/// What one step measured.
#[derive(Debug, Clone, Copy)]
pub(super) struct Measured {
    /// Mean loss of the rows.
    pub(super) loss: f64,
    /// Norm of the gradient before clipping.
    pub(super) gradient_norm: f64,
}

impl Learner {
    /// Fresh weights for `recipe` on data of `data`'s shape.
    pub(super) fn new(recipe: &Recipe, data: &DataSpec) -> Result<Self> {
        let source = Initialiser::new(recipe.seed);
        let builder = source.builder(DType::F32, &Device::Cpu);
        let net = build(&recipe.model, data, builder.clone())?;
        let weighting = recipe.learned_weight.then(|| Weighting::new(&builder)).transpose()?;
        let vars: Vec<_> = source.vars().into_iter().collect();
        let weights = vars.iter().map(|(_, var)| values(var)).collect::<Result<Vec<_>>>()?;
        let sizes: Vec<usize> = weights.iter().map(Vec::len).collect();
        Ok(Self {
            net,
            weighting,
            average: weights.clone(),
            optimiser: Optimiser::new(recipe.optimiser, &sizes),
            weights,
            vars,
            micro_batch: recipe.micro_batch,
            clip: recipe.clip,
            ema_decay: recipe.ema_decay,
        })
    }

    /// Names and shapes of the weights, in the order of all lists of values.
    pub(super) fn tensors(&self) -> impl Iterator<Item = (&str, &[usize])> {
        self.vars.iter().map(|(name, var)| (name.as_str(), var.dims()))
    }

    /// Names, shapes and averages of the network's own weights: what a checkpoint holds.
    pub(super) fn averaged(&self) -> impl Iterator<Item = (&str, &[usize], &[f32])> {
        let named = self.tensors().zip(&self.average).map(|((name, shape), values)| (name, shape, values.as_slice()));
        named.filter(|(name, ..)| !name.starts_with(PREFIX))
    }

    /// Starts from another network's weights, by name.
    ///
    /// # Errors
    /// [`Error::Compute`] when one is missing or of another size.
    pub(super) fn warm_start<'a>(&mut self, find: impl Fn(&str) -> Option<&'a Tensor>) -> Result<()> {
        for ((name, var), weights) in self.vars.iter().zip(&mut self.weights) {
            if name.starts_with(PREFIX) {
                continue;
            }
            let tensor = find(name).filter(|tensor| tensor.dims() == var.dims());
            let tensor = tensor.ok_or_else(|| {
                Error::Compute(format!("the teacher has no weight '{name}' of shape {:?}", var.dims()))
            })?;
            *weights = tensor.flatten_all()?.to_vec1()?;
        }
        self.average.clone_from(&self.weights);
        self.publish()
    }

    /// One step: gradients of the rows that `draw` gives, then the optimiser at `factor` of its learning rate.
    ///
    /// # Errors
    /// [`Error::Compute`] when the loss or the gradient is not finite; the weights are then unchanged.
    pub(super) fn step(
        &mut self,
        workers: &Workers,
        objective: &dyn Objective,
        draw: &Draw<'_>,
        factor: f64,
    ) -> Result<Measured> {
        let step = self.optimiser.steps;
        let parts = workers.map(0..draw.batch / self.micro_batch, |index| {
            let from = index * self.micro_batch;
            let rows = draw.rows(step, from..from + self.micro_batch, &Device::Cpu)?;
            self.gradient(objective, &rows, draw.batch)
        })?;
        let mut total = Gradient::zeros(&self.weights);
        parts.iter().for_each(|part| total.add(part));
        let gradient_norm = total.norm();
        if !(total.loss.is_finite() && gradient_norm.is_finite()) {
            let learning_rate = self.optimiser.kind.peak_learning_rate() * factor;
            return Err(Error::Compute(format!(
                "the loss ({}) or its gradient ({gradient_norm}) is not finite at step {step}, learning rate \
                 {learning_rate:.2e}: begin again with a lower rate or clip",
                total.loss
            )));
        }
        if let Some(clip) = self.clip.filter(|&clip| gradient_norm > clip) {
            total.scale(clip / gradient_norm);
        }
        self.optimiser.step(factor, &mut self.weights, &total.tensors);
        self.update_average();
        self.publish()?;
        Ok(Measured { loss: total.loss, gradient_norm })
    }

    /// The share of one micro-batch in the gradient of a batch of `batch` rows.
    fn gradient(&self, objective: &dyn Objective, rows: &Rows, batch: usize) -> Result<Gradient> {
        let residual = objective.residual(self.net.as_ref(), rows)?;
        let loss = residual.sqr()?.flatten_from(1)?.mean(1)?;
        let raw: f32 = loss.sum_all()?.to_scalar()?;
        let weighed = match &self.weighting {
            Some(weighting) => weighting.apply(&loss, &rows.s, &rows.t)?,
            None => loss,
        };
        let gradients = (weighed.sum_all()? / batch as f64)?.backward()?;
        let of = |(_, var): &(String, Var)| match gradients.get(var) {
            Some(gradient) => Ok(gradient.flatten_all()?.to_vec1()?),
            None => Ok(vec![0.0; var.elem_count()]),
        };
        let tensors = self.vars.iter().map(of).collect::<Result<_>>()?;
        Ok(Gradient { loss: f64::from(raw) / batch as f64, tensors })
    }

    /// Averages with a decay that is small at first, so that the initial weights are soon forgotten.
    #[expect(clippy::cast_possible_truncation, reason = "the decay is applied in f32")]
    fn update_average(&mut self) {
        let steps = self.optimiser.steps as f64;
        let rate = (1.0 - self.ema_decay.min((1.0 + steps) / (10.0 + steps))) as f32;
        for (average, weights) in self.average.iter_mut().zip(&self.weights) {
            average.iter_mut().zip(weights).for_each(|(a, w)| *a += rate * (w - *a));
        }
    }

    /// Makes the network read the current values.
    pub(super) fn publish(&self) -> Result<()> {
        self.set(&self.weights)
    }

    /// Hands the network to `f` while it reads the averaged values.
    pub(super) fn with_average<T>(&self, f: impl FnOnce(&dyn FlowMap) -> Result<T>) -> Result<T> {
        self.set(&self.average)?;
        let result = f(self.net.as_ref());
        self.publish()?;
        result
    }

    fn set(&self, values: &[Vec<f32>]) -> Result<()> {
        for ((_, var), values) in self.vars.iter().zip(values) {
            var.set(&Tensor::from_slice(values, var.dims(), var.device())?)?;
        }
        Ok(())
    }
}

fn values(var: &Var) -> Result<Vec<f32>> {
    Ok(var.flatten_all()?.to_vec1()?)
}

/// A loss and its gradient, tensor by tensor.
struct Gradient {
    loss: f64,
    tensors: Vec<Vec<f32>>,
}

impl Gradient {
    fn zeros(like: &[Vec<f32>]) -> Self {
        Self { loss: 0.0, tensors: like.iter().map(|values| vec![0.0; values.len()]).collect() }
    }

    fn add(&mut self, other: &Self) {
        self.loss += other.loss;
        for (sum, part) in self.tensors.iter_mut().zip(&other.tensors) {
            sum.iter_mut().zip(part).for_each(|(s, p)| *s += p);
        }
    }

    fn norm(&self) -> f64 {
        self.tensors.iter().flatten().map(|&g| f64::from(g) * f64::from(g)).sum::<f64>().sqrt()
    }

    #[expect(clippy::cast_possible_truncation, reason = "gradients are f32")]
    fn scale(&mut self, factor: f64) {
        self.tensors.iter_mut().flatten().for_each(|g| *g *= factor as f32);
    }
}
