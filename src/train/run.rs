//! The training loop.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use candle_core::{Device, Tensor};

use super::batch::Draw;
use super::learner::Learner;
use super::objective::{Objective, choose};
use super::recipe::Recipe;
use super::report::Report;
use super::samples;
use super::state::{self, Origin};
use crate::checkpoint::manifest::SCHEMA_VERSION;
use crate::checkpoint::{Checkpoint, DataSpec, Manifest, TimeConvention, TrainingRecord, WeightsRecord};
use crate::data::{Source, Split};
use crate::domain::{Guidance, TimePairs};
use crate::error::{Error, Result};
use crate::model::Workers;

/// Largest guidance scale that a trained checkpoint accepts where rows trained without their class allow guidance.
const GUIDANCE_MAX: f32 = 8.0;

/// A training run.
pub struct Run<'a> {
    /// The recipe's file.
    pub recipe: &'a Path,
    /// Folder of everything that the run writes: `checkpoint/`, `state.safetensors`, `log.jsonl`, `samples/`.
    pub out: &'a Path,
    /// Whether to go on from the state in `out`.
    pub resume: bool,
    /// Threads.
    pub threads: usize,
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// All steps were taken; the checkpoint is in this folder.
    Finished(PathBuf),
    /// It was asked to stop; it can be resumed from this step.
    Stopped(u64),
}

/// Trains until the recipe's last step or until `stop` is set, which leaves a state to resume from.
///
/// # Errors
/// [`Error::File`] for a wrong recipe, data set, teacher or state; [`Error::Compute`] when the loss is not finite.
pub fn run(run: &Run<'_>, stop: &AtomicBool) -> Result<Outcome> {
    let mut training = Training::prepare(run)?;
    training.go(stop)
}

/// Everything that a run needs, in place.
struct Training {
    recipe: Recipe,
    text: String,
    out: PathBuf,
    source: Box<dyn Source>,
    objective: Box<dyn Objective>,
    /// Content hash of the teacher.
    teacher: Option<String>,
    learner: Learner,
    workers: Workers,
}

impl Training {
    fn prepare(run: &Run<'_>) -> Result<Self> {
        let (recipe, text) = Recipe::read(run.recipe)?;
        let source = recipe.data.open(Split::Train)?;
        let data = data_spec(&recipe, source.as_ref());
        let learner = Learner::new(&recipe, &data)?;
        let teacher = teacher(&recipe)?;
        let objective = objective(&recipe, &data, teacher.as_ref())?;
        let hash = teacher.as_ref().map(|teacher| teacher.manifest.weights.blake3.clone());
        let workers = Workers::new(run.threads)?;
        let mut training =
            Self { workers, teacher: hash, out: run.out.to_owned(), recipe, text, source, objective, learner };
        training.begin(run.resume, teacher)?;
        Ok(training)
    }

    /// Goes to where the run begins: the state on disk, or the teacher's weights.
    fn begin(&mut self, resume: bool, teacher: Option<Checkpoint>) -> Result<()> {
        let state = state_path(&self.out);
        if resume {
            let origin =
                Origin { recipe: &self.recipe, text: &self.text, teacher: self.teacher.as_deref().unwrap_or_default() };
            return state::load(&state, &mut self.learner, &origin);
        }
        if state.exists() {
            return Err(Error::file(&state, "a run was begun here; add --resume to go on, or choose another --out"));
        }
        let start = self.recipe.start.as_deref().map(Checkpoint::read).transpose()?;
        if let Some(start) = start.or(teacher) {
            self.learner.warm_start(|name| start.tensors.get(name))?;
        }
        // Saved before any work is: what the recipe, the manifest or the disk forbid is known at once.
        self.save()
    }

    fn go(&mut self, stop: &AtomicBool) -> Result<Outcome> {
        let Recipe { steps, batch, every, .. } = self.recipe;
        let mut report = Report::new(&self.out, self.learner.optimiser.steps, steps, batch)?;
        while self.learner.optimiser.steps < steps {
            if stop.load(Ordering::Relaxed) {
                self.save()?;
                return Ok(Outcome::Stopped(self.learner.optimiser.steps));
            }
            self.step(&mut report)?;
            let step = self.learner.optimiser.steps;
            if step.is_multiple_of(every.sample) || step == steps {
                let sampler = self.legal().default_sampler();
                let picture = self
                    .learner
                    .with_average(|net| samples::picture(net, sampler, self.source.as_ref(), &self.recipe))?;
                report.picture(step, &picture)?;
            }
            if step.is_multiple_of(every.save) || step == steps {
                self.save()?;
            }
        }
        let folder = checkpoint_path(&self.out);
        report.say(&format!("finished; the checkpoint is in {}", folder.display()));
        Ok(Outcome::Finished(folder))
    }

    fn step(&mut self, report: &mut Report) -> Result<()> {
        let recipe = &self.recipe;
        let draw = Draw::new(recipe, self.source.as_ref(), self.objective.pairs(self.learner.optimiser.steps));
        let factor = recipe.schedule.factor(self.learner.optimiser.steps, recipe.steps);
        let measured = self.learner.step(&self.workers, self.objective.as_ref(), &draw, factor)?;
        report.step(&measured);
        let step = self.learner.optimiser.steps;
        if step.is_multiple_of(recipe.every.log) || step == recipe.steps {
            report.line(step, &measured, recipe.optimiser.peak_learning_rate() * factor)?;
        }
        Ok(())
    }

    /// Writes the checkpoint, then the state: a run killed in between repeats some steps and loses nothing.
    fn save(&self) -> Result<()> {
        let tensor = |(name, shape, values): (&str, &[usize], &[f32])| {
            Ok((name.to_owned(), Tensor::from_slice(values, shape, &Device::Cpu)?))
        };
        let tensors = self.learner.averaged().map(tensor).collect::<Result<BTreeMap<_, _>>>()?;
        Checkpoint::write(&checkpoint_path(&self.out), self.manifest(), &tensors, self.recipe.precision)?;
        let teacher = self.teacher.as_deref().unwrap_or_default();
        let origin = Origin { recipe: &self.recipe, text: &self.text, teacher };
        state::save(&state_path(&self.out), &self.learner, &origin)
    }

    /// The pairs at which the network of the last step may be asked.
    fn legal(&self) -> TimePairs {
        self.objective.pairs(self.learner.optimiser.steps.saturating_sub(1)).legal()
    }

    fn manifest(&self) -> Manifest {
        let recipe = &self.recipe;
        let steps = self.learner.optimiser.steps;
        let data = data_spec(recipe, self.source.as_ref());
        let guided = recipe.class_dropout > 0.0 && !data.classes.is_empty();
        Manifest {
            schema_version: SCHEMA_VERSION,
            description: recipe.description.clone(),
            architecture: recipe.model.clone(),
            data,
            noise_scale: recipe.noise_scale,
            time_convention: TimeConvention::Noise0Data1,
            guidance: if guided { Guidance::TwoCall { max: GUIDANCE_MAX } } else { Guidance::None },
            time_pairs: self.legal(),
            training: TrainingRecord {
                objective: self.objective.name().to_owned(),
                steps,
                samples: steps * recipe.batch as u64,
                ema_decay: recipe.ema_decay,
                recipe: self.text.clone(),
                teacher: self.teacher.clone(),
            },
            weights: WeightsRecord::default(),
            quality: None,
            grids: BTreeMap::new(),
        }
    }
}

/// The checkpoint that a recipe distils.
fn teacher(recipe: &Recipe) -> Result<Option<Checkpoint>> {
    recipe.objective.teacher().map(Checkpoint::read).transpose()
}

/// The objective of a recipe for data of `data`'s kind.
pub(super) fn objective(recipe: &Recipe, data: &DataSpec, teacher: Option<&Checkpoint>) -> Result<Box<dyn Objective>> {
    if let (Some(_), Some(teacher)) = (recipe.objective.teacher(), teacher) {
        check_teacher(teacher, recipe, data)?;
    }
    choose(&recipe.objective, teacher)
}

/// A velocity field of other data or other noise would be distilled without a word into a wrong flow map.
fn check_teacher(teacher: &Checkpoint, recipe: &Recipe, data: &DataSpec) -> Result<()> {
    let own = &teacher.manifest;
    let rules = [
        (own.architecture == recipe.model, "network, from whose weights the student starts"),
        (own.data.shape == data.shape, "shape of a sample"),
        (own.data.range == data.range, "range of values"),
        (own.data.classes == data.classes, "classes"),
        (own.noise_scale == recipe.noise_scale, "noise scale"),
    ];
    let problems: Vec<_> = rules
        .iter()
        .filter(|(same, _)| !same)
        .map(|(_, what)| format!("objective.teacher: its {what} is not the recipe's"))
        .collect();
    if problems.is_empty() { Ok(()) } else { Err(Error::Config(problems)) }
}

/// What a checkpoint says of the data.
pub(super) fn data_spec(recipe: &Recipe, source: &dyn Source) -> DataSpec {
    DataSpec {
        name: recipe.data.name(),
        shape: source.shape().to_vec(),
        range: source.range(),
        classes: source.classes().to_vec(),
    }
}

fn checkpoint_path(out: &Path) -> PathBuf {
    out.join("checkpoint")
}

fn state_path(out: &Path) -> PathBuf {
    out.join("state.safetensors")
}
