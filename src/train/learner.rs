//! The network being trained: its weights, their average, and one step of learning.

use candle_core::{DType, Device, Tensor, Var};

use super::batch::{Draw, Rows};
use super::before::Before;
use super::objective::{Objective, Student};
use super::optimiser::Optimiser;
use super::recipe::Recipe;
use super::weighting::{PREFIX, Weighting};
use crate::checkpoint::manifest::DataSpec;
use crate::error::{Error, Result};
use crate::flow::FlowMap;
use crate::model::kernels::buffer;
use crate::model::{Initialiser, Learn, Recorded, Stopped, Workers, build};

/// Weights in training.
pub(super) struct Learner {
    net: Box<dyn Learn>,
    weighting: Option<Weighting>,
    /// The tensors that `net` reads, by name.
    vars: Vec<(String, Var)>,
    /// Their values, tensor by tensor.
    pub(super) weights: Vec<Vec<f32>>,
    /// The exponential moving average of the values.
    pub(super) average: Vec<Vec<f32>>,
    pub(super) optimiser: Optimiser,
    /// The network of the stage before, for objectives that have stages.
    pub(super) before: Option<Before>,
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
            before: recipe.objective.has_stages().then(|| Before::new(recipe, data, &vars)).transpose()?,
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
                Error::Compute(format!("the network to start from has no weight '{name}' of shape {:?}", var.dims()))
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
        if let Some(before) = &mut self.before {
            before.enter(objective.stage(step), &self.average)?;
        }
        let parts = workers.map(0..draw.batch / self.micro_batch, |index| {
            let from = index * self.micro_batch;
            let rows = draw.rows(step, from..from + self.micro_batch, &Device::Cpu)?;
            self.gradient(objective, &rows, draw.batch)
        })?;
        let total = Gradient::sum(parts, workers)?;
        let gradient_norm = total.norm;
        if !(total.loss.is_finite() && gradient_norm.is_finite()) {
            let learning_rate = self.optimiser.kind.peak_learning_rate() * factor;
            return Err(Error::Compute(format!(
                "the loss ({}) or its gradient ({gradient_norm}) is not finite at step {step}, learning rate \
                 {learning_rate:.2e}: begin again with a lower rate or clip",
                total.loss
            )));
        }
        let clip = self.clip.filter(|&clip| gradient_norm > clip).map_or(1.0, |clip| clip / gradient_norm);
        self.follow(workers, total.tensors, clip, factor)?;
        Ok(Measured { loss: total.loss, gradient_norm })
    }

    /// Moves weights, their average and what the network reads against `scale` times the gradients.
    #[expect(clippy::cast_possible_truncation, reason = "gradients and decays are f32")]
    fn follow(&mut self, workers: &Workers, gradients: Vec<Vec<f32>>, scale: f64, factor: f64) -> Result<()> {
        let rate = averaging(self.ema_decay, self.optimiser.steps + 1) as f32;
        let (update, moments) = self.optimiser.advance(factor);
        let weights = self.weights.iter_mut().zip(&mut self.average).zip(&self.vars);
        let tensors = weights.zip(moments).zip(gradients);
        workers.map(tensors, |((((weights, average), (_, var)), moments), mut gradient)| {
            gradient.iter_mut().for_each(|g| *g *= scale as f32);
            update.apply(weights, &gradient, moments);
            average.iter_mut().zip(&*weights).for_each(|(a, w)| *a += rate * (w - *a));
            buffer::give(gradient);
            set(var, weights)
        })?;
        Ok(())
    }

    /// The share of one micro-batch in the gradient of a batch of `batch` rows.
    fn gradient(&self, objective: &dyn Objective, rows: &Rows, batch: usize) -> Result<Gradient> {
        let (net, stopped) = (Recorded::new(self.net.as_ref()), Stopped(self.net.as_ref()));
        let before = self.before.as_ref().and_then(Before::network);
        let before = before.as_ref().map(|net| net as &dyn FlowMap);
        let residual = objective.residual(&Student { live: &net, stopped: &stopped, before }, rows)?;
        let loss = residual.sqr()?.flatten_from(1)?.mean(1)?;
        let loss = match &rows.weight {
            Some(weight) => (loss * weight)?,
            None => loss,
        };
        let raw: f32 = loss.sum_all()?.to_scalar()?;
        let weighed = match &self.weighting {
            Some(weighting) => weighting.apply(&loss, &rows.s, &rows.t)?,
            None => loss,
        };
        let gradients = (weighed.sum_all()? / batch as f64)?.backward()?;
        // Only the weights of the loss's own head are tensors of its graph.
        let of_head = self.vars.iter().map(|(_, var)| gradients.get(var).cloned()).collect::<Vec<_>>();
        let mut of_network = net.gradients(gradients)?;
        let tensors = self.vars.iter().zip(of_head).map(|((_, var), of_head)| {
            Ok(match (of_network.remove(&var.id()), of_head) {
                (Some(gradient), _) => gradient,
                (None, Some(gradient)) => buffer::copy(&gradient.flatten_all()?.to_vec1()?),
                (None, None) => buffer::zeros(var.elem_count()),
            })
        });
        let tensors = tensors.collect::<Result<_>>()?;
        Ok(Gradient { loss: f64::from(raw) / batch as f64, tensors })
    }

    /// Makes the network read the current values.
    pub(super) fn publish(&self) -> Result<()> {
        self.set(&self.weights)
    }

    /// Hands the network to `f` while it reads the averaged values.
    pub(super) fn with_average<T>(&self, f: impl FnOnce(&dyn FlowMap) -> Result<T>) -> Result<T> {
        self.set(&self.average)?;
        let result = f(self.net.as_ref() as &dyn FlowMap);
        self.publish()?;
        result
    }

    fn set(&self, values: &[Vec<f32>]) -> Result<()> {
        self.vars.iter().zip(values).try_for_each(|((_, var), values)| set(var, values))
    }
}

pub(super) fn set(var: &Var, values: &[f32]) -> Result<()> {
    Ok(var.set(&Tensor::from_slice(values, var.dims(), var.device())?)?)
}

/// The share of the newest weights in the average: large at first, so that the initial weights are soon forgotten.
fn averaging(decay: f64, steps: u64) -> f64 {
    let steps = steps as f64;
    1.0 - decay.min((1.0 + steps) / (10.0 + steps))
}

fn values(var: &Var) -> Result<Vec<f32>> {
    Ok(var.flatten_all()?.to_vec1()?)
}

/// A loss and its gradient, tensor by tensor.
struct Gradient {
    loss: f64,
    tensors: Vec<Vec<f32>>,
}

/// The gradient of a whole batch.
struct Total {
    loss: f64,
    norm: f64,
    tensors: Vec<Vec<f32>>,
}

impl Gradient {
    /// The sum of `parts` in their order, whichever worker adds which tensor.
    fn sum(parts: Vec<Self>, workers: &Workers) -> Result<Total> {
        let loss = parts.iter().map(|part| part.loss).sum();
        let mut parts: Vec<_> = parts.into_iter().map(|part| part.tensors.into_iter()).collect();
        let of_tensors = std::iter::from_fn(move || {
            let shares: Vec<Vec<f32>> = parts.iter_mut().filter_map(Iterator::next).collect();
            (!shares.is_empty()).then_some(shares)
        });
        let sums = workers.map(of_tensors, |shares| {
            let mut shares = shares.into_iter();
            let mut sum = shares.next().unwrap_or_default();
            for share in shares {
                sum.iter_mut().zip(&share).for_each(|(sum, g)| *sum += g);
                buffer::give(share);
            }
            let squares: f64 = sum.iter().map(|&g| f64::from(g) * f64::from(g)).sum();
            Ok((sum, squares))
        })?;
        let norm = sums.iter().map(|(_, squares)| squares).sum::<f64>().sqrt();
        Ok(Total { loss, norm, tensors: sums.into_iter().map(|(sum, _)| sum).collect() })
    }
}
