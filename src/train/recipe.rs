//! A recipe: everything that decides what a training run makes, in one TOML file.

mod objective;

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::optimiser::OptimiserKind;
use super::schedule::Schedule;
use crate::checkpoint::{Architecture, Precision};
use crate::data::DataSource;
use crate::error::{Error, Result};
use crate::flow::Interpolant;

pub(super) use objective::ObjectiveRecipe;

/// A training recipe. Strict: an unknown field is an error.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// One sentence for people, copied into the checkpoint.
    pub description: String,
    /// Seed of initial weights, data order, noise and times.
    pub seed: u64,
    /// Folder of the checkpoint whose weights the run begins with; without one those of the objective's teacher, and
    /// without that fresh ones.
    #[serde(default)]
    pub start: Option<PathBuf>,
    /// Optimiser steps.
    pub steps: u64,
    /// Rows of one optimiser step.
    pub batch: usize,
    /// Rows that one thread takes through the network at once; divides `batch`.
    pub micro_batch: usize,
    /// Standard deviation of the noise at `t = 0`.
    #[serde(default = "one")]
    pub noise_scale: f32,
    /// Fraction of rows whose class is replaced by the null class.
    #[serde(default)]
    pub class_dropout: f64,
    /// Whose clock times are uniform on, and whose velocities the loss measures. The network is always that of the
    /// linear interpolant, to which all others are equivalent.
    #[serde(default)]
    pub interpolant: Interpolant,
    /// Largest norm of the gradient; longer ones are scaled down to it.
    pub clip: Option<f64>,
    /// Decay of the exponential moving average of the weights, which is what the checkpoint holds.
    pub ema_decay: f64,
    /// Whether a head learns the weight of the loss by `(s, t)`, `e^{-w} L + w` (Kendall, Gal, Cipolla, arXiv 1705.07115).
    #[serde(default)]
    pub learned_weight: bool,
    /// Precision of the checkpoint's weights.
    pub precision: Precision,
    /// What to learn from.
    pub data: DataSource,
    /// The network.
    pub model: Architecture,
    /// What to learn.
    pub objective: ObjectiveRecipe,
    /// How weights follow gradients.
    pub optimiser: OptimiserKind,
    /// How the learning rate changes.
    pub schedule: Schedule,
    /// How often to write what.
    pub every: Intervals,
}

/// How often to write what, in steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Intervals {
    /// A line of the log.
    pub log: u64,
    /// The state to resume from, and the checkpoint.
    pub save: u64,
    /// A picture of samples.
    pub sample: u64,
}

impl Recipe {
    /// Reads and checks a recipe; returns its text too, which the checkpoint keeps.
    ///
    /// # Errors
    /// [`Error::File`] saying which line or which number is wrong.
    pub fn read(path: &Path) -> Result<(Self, String)> {
        let text = std::fs::read_to_string(path).map_err(|e| Error::io(path, "read the recipe", e))?;
        let recipe: Self = toml::from_str(&text).map_err(|e| Error::file(path, e))?;
        let problems = recipe.problems();
        if problems.is_empty() { Ok((recipe, text)) } else { Err(Error::file(path, problems.join("; "))) }
    }

    /// Whether a run of `other` may go on as a run of this recipe: they differ in nothing that shapes a step, only in
    /// how often they write, what they are called and, where the schedule does not depend on it, how long they run.
    pub fn continues(&self, other: &Self) -> bool {
        let length = self.steps == other.steps || !self.schedule.depends_on_steps();
        let rest =
            Self { steps: self.steps, every: self.every, description: self.description.clone(), ..other.clone() };
        length && rest == *self
    }

    fn problems(&self) -> Vec<String> {
        let fraction = |v: f64| (0.0..=1.0).contains(&v);
        let positive = |v: u64| v > 0;
        let rules = [
            (positive(self.steps), "steps must be at least 1"),
            (self.micro_batch > 0 && self.batch > 0, "batch and micro_batch must be at least 1"),
            (self.batch.is_multiple_of(self.micro_batch.max(1)), "micro_batch must divide batch"),
            (self.noise_scale > 0.0 && self.noise_scale.is_finite(), "noise_scale must be positive"),
            (fraction(self.class_dropout), "class_dropout must be in [0, 1]"),
            (self.clip.is_none_or(|c| c > 0.0), "clip must be positive"),
            ((0.0..1.0).contains(&self.ema_decay), "ema_decay must be in [0, 1)"),
            (
                self.interpolant == Interpolant::Linear || !self.objective.has_grid(),
                "interpolant: an objective on a dyadic grid needs the linear one",
            ),
            (
                positive(self.every.log) && positive(self.every.save) && positive(self.every.sample),
                "every: log, save and sample must be at least 1",
            ),
        ];
        let broken = rules.into_iter().filter(|(holds, _)| !holds).map(|(_, problem)| problem.to_owned());
        broken
            .chain(self.objective.problems())
            .chain(self.optimiser.problems())
            .chain(self.schedule.problems())
            .collect()
    }
}

fn one() -> f32 {
    1.0
}
