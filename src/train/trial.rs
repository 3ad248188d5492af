//! Steps of training with nothing on disk: what benchmarks time.

use super::batch::Draw;
use super::learner::Learner;
use super::objective::Objective;
use super::recipe::Recipe;
use super::run::{data_spec, objective};
use crate::checkpoint::Checkpoint;
use crate::data::Source;
use crate::error::Result;
use crate::model::Workers;

/// A run that leaves no trace. It takes the steps that [`run`](super::run()) would take.
pub struct Trial {
    recipe: Recipe,
    source: Box<dyn Source>,
    objective: Box<dyn Objective>,
    learner: Learner,
}

impl Trial {
    /// A run of `recipe` on `source`, whatever data the recipe names, from the weights of `start`, which is also the
    /// teacher of a distillation.
    ///
    /// # Errors
    /// A checkpoint that does not fit the recipe.
    pub fn new(recipe: Recipe, source: Box<dyn Source>, start: &Checkpoint) -> Result<Self> {
        let data = data_spec(&recipe, source.as_ref());
        let mut learner = Learner::new(&recipe, &data)?;
        learner.warm_start(|name| start.tensors.get(name))?;
        Ok(Self { objective: objective(&recipe, &data, Some(start))?, recipe, source, learner })
    }

    /// Rows of a step.
    pub fn batch(&self) -> usize {
        self.recipe.batch
    }

    /// Takes one step and gives its loss.
    ///
    /// # Errors
    /// [`Error::Compute`](crate::error::Error::Compute) when the loss or its gradient is not finite.
    pub fn step(&mut self, workers: &Workers) -> Result<f64> {
        let draw = Draw::new(&self.recipe, self.source.as_ref(), self.objective.pairs(self.learner.optimiser.steps));
        let factor = self.recipe.schedule.factor(self.learner.optimiser.steps, self.recipe.steps);
        Ok(self.learner.step(workers, self.objective.as_ref(), &draw, factor)?.loss)
    }
}
