//! The engine over candle networks.
//!
//! States live in plain memory, one vector a row; a forward gathers them into tensors, asks the network once for
//! `v_{s,t}` with the times of each row, and moves every state by its own rule. The arithmetic is that of
//! `flow::sampler::sample`, to the bit; as a [`FlowMap`]'s rows do not depend on one another, an image is the same
//! whatever it shared its forwards with.
//!
//! On a CPU each thread takes whole rows through the whole network in micro-batches: nothing is synchronised inside a
//! forward and the activations stay in the thread's cache.

use std::collections::HashMap;

use candle_core::{Device, Tensor};

use super::{Batch, Engine, Outcome, Purpose, RowId, RowStep, Start};
use crate::domain::{Guidance, ModelInfo, Rule};
use crate::error::{Error, Result};
use crate::flow::{Dual, FlowMap, guidance, noise};
use crate::model::Workers;

/// Images in a micro-batch on a CPU.
const MICRO_BATCH_IMAGES: usize = 4;

/// Numbers in the samples of a micro-batch on a CPU, where samples are so small that more of them fit: four images of
/// 28 x 28.
const MICRO_BATCH_ELEMENTS: usize = 4 * 28 * 28;

/// A network with what its users know of it.
pub struct Loaded {
    /// The network; its weights are on the engine's device and detached from any graph.
    pub net: Box<dyn FlowMap>,
    /// Its shape, noise scale, classes and guidance.
    pub info: ModelInfo,
}

/// Runs batches through candle networks and owns the state of every row in flight.
pub struct DeviceEngine {
    models: Vec<Loaded>,
    device: Device,
    /// Only where the device is a CPU.
    workers: Option<Workers>,
    states: HashMap<RowId, State>,
}

impl DeviceEngine {
    /// An engine for `models`, in the order of the catalogue, all of them on `device`. On a CPU the rows of a batch are
    /// spread over `threads` threads that the engine owns; another device gets them in one piece.
    ///
    /// # Errors
    /// [`Error::Compute`] where the threads cannot be started, [`Error::Config`] where a model takes its guidance as an input, for which
    /// [`FlowMap`] has no argument.
    pub fn new(models: Vec<Loaded>, device: Device, threads: usize) -> Result<Self> {
        let takes_input = |loaded: &&Loaded| matches!(loaded.info.guidance, Guidance::Input { .. });
        let refused = models.iter().filter(takes_input);
        let problems: Vec<String> =
            refused.map(|m| format!("{}: guidance as an input is not served", m.info.id)).collect();
        if !problems.is_empty() {
            return Err(Error::Config(problems));
        }
        let workers = device.is_cpu().then(|| Workers::new(threads)).transpose()?;
        Ok(Self { models, device, workers, states: HashMap::new() })
    }
}

impl Engine for DeviceEngine {
    fn step(&mut self, batch: &Batch) -> Result<Vec<Outcome>> {
        let Self { models, device, workers, states } = self;
        let model = models.get(batch.model.0).ok_or_else(|| Error::Compute("the engine has no such model".into()))?;
        // Previews look before anything moves.
        let peek = |step| Row { step, state: State::peek(step, &model.info, states), before: None };
        let mut rows: Vec<Row<'_>> = batch.rows.iter().map(peek).collect();
        for row in rows.iter_mut().filter(|row| row.step.purpose != Purpose::Preview) {
            row.state = State::take(row.step, &model.info, states);
            row.remember();
        }
        evaluate(model, device, workers.as_ref(), &mut rows)?;
        Ok(rows.into_iter().map(|row| row.settle(states)).collect())
    }

    fn release(&mut self, rows: &[RowId]) {
        for row in rows {
            self.states.remove(row);
        }
    }
}

/// Where a row is.
#[derive(Clone)]
struct State {
    /// Where the network is evaluated next.
    x: Vec<f32>,
    /// The start of Heun's interval, between its predictor and its corrector.
    base: Option<Vec<f32>>,
}

impl State {
    /// The state from which `step` goes on. An error is a sentence on why the row cannot.
    fn take(step: &RowStep, info: &ModelInfo, states: &mut HashMap<RowId, Self>) -> Result<Self, String> {
        match &step.start {
            None => Self::known(step, info, states.remove(&step.row)),
            Some(_) => Self::known(step, info, None),
        }
    }

    /// The state that `step` is to show, which stays where it is; an error for every other purpose.
    fn peek(step: &RowStep, info: &ModelInfo, states: &HashMap<RowId, Self>) -> Result<Self, String> {
        match step.purpose {
            Purpose::Preview => Self::known(step, info, states.get(&step.row).cloned()),
            Purpose::Advance | Purpose::Finish { .. } => Err(String::new()),
        }
    }

    fn known(step: &RowStep, info: &ModelInfo, held: Option<Self>) -> Result<Self, String> {
        if step.label.is_some_and(|label| label as usize >= info.classes.len()) {
            return Err(format!("the model has no class {:?}", step.label));
        }
        match &step.start {
            None => held.ok_or_else(|| "the row is not in flight".into()),
            Some(start) => Ok(Self { x: initial(start, info)?, base: None }),
        }
    }

    /// Moves along the velocity `v` by the rule of `step`.
    fn advance(self, step: &RowStep, v: &[f32]) -> Self {
        #[expect(clippy::cast_possible_truncation, reason = "states are f32")]
        let h = (step.evaluation.t - step.evaluation.s) as f32;
        let moved: Vec<f32> = self.x.iter().zip(v).map(|(x, v)| x + scaled(*v, h)).collect();
        match step.evaluation.rule {
            Rule::Jump | Rule::Euler => Self { x: moved, base: None },
            Rule::HeunPredict => Self { x: moved, base: Some(self.x) },
            Rule::HeunCorrect => {
                let base = self.base.unwrap_or(self.x);
                Self { x: base.iter().zip(&moved).map(|(x, y)| scaled(x + y, 0.5)).collect(), base: None }
            }
        }
    }
}

/// A tensor times a number as candle computes it: the zero that it adds turns -0 into 0.
fn scaled(value: f32, factor: f32) -> f32 {
    value * factor + 0.0
}

fn initial(start: &Start, info: &ModelInfo) -> Result<Vec<f32>, String> {
    let n = info.elements();
    match start {
        Start::Noise { seed, index } => Ok(noise::initial(*seed, *index, n, info.noise_scale)),
        Start::State { states, index } => {
            // One state serves all images, without a copy for each.
            let from = if states.len() == n { 0 } else { n * *index as usize };
            states.get(from..from + n).map(<[f32]>::to_vec).ok_or_else(|| format!("there is no initial state {index}"))
        }
    }
}

/// One row during a forward.
struct Row<'a> {
    step: &'a RowStep,
    state: Result<State, String>,
    /// Where it was, should anyone want to go on from there.
    before: Option<Vec<f32>>,
}

impl Row<'_> {
    /// Copies the state that is to be returned beside the one that follows from it.
    fn remember(&mut self) {
        if let (Purpose::Finish { keep: true }, Ok(state)) = (self.step.purpose, &self.state) {
            self.before = Some(state.x.clone());
        }
    }

    /// Moves along `v`, the network's answers to this row's queries one after the other.
    fn advance(&mut self, v: &[f32]) {
        let Ok(state) = std::mem::replace(&mut self.state, Err(String::new())) else { return };
        let mut combined = Vec::new();
        let v = match v.len() / state.x.len().max(1) {
            2 => {
                let (null, class) = v.split_at(state.x.len());
                guidance::combine(null, class, self.step.guidance, &mut combined);
                &combined
            }
            _ => v,
        };
        let state = state.advance(self.step, v);
        self.state = match state.x.iter().all(|value| value.is_finite()) {
            true => Ok(state),
            false => Err(format!("the state is not finite after t = {}", self.step.evaluation.t)),
        };
    }

    /// What became of the row; a state that goes on returns to `states`.
    fn settle(self, states: &mut HashMap<RowId, State>) -> Outcome {
        match self.state {
            Err(reason) => Outcome::Failed(reason),
            Ok(state) => match self.step.purpose {
                Purpose::Finish { .. } => Outcome::Finished { state: state.x, before: self.before },
                Purpose::Preview => Outcome::Preview(state.x),
                Purpose::Advance => {
                    states.insert(self.step.row, state);
                    Outcome::Running
                }
            },
        }
    }
}

/// Moves all rows by one evaluation: in one piece, or spread over `workers`.
fn evaluate(model: &Loaded, device: &Device, workers: Option<&Workers>, rows: &mut [Row<'_>]) -> Result<()> {
    let Some(workers) = workers else { return Ok(forward(model, device, rows)?) };
    let most = MICRO_BATCH_IMAGES.max(MICRO_BATCH_ELEMENTS / model.info.elements().max(1));
    let micro_batch = rows.len().div_ceil(workers.count()).clamp(1, most);
    workers.map(rows.chunks_mut(micro_batch), |rows| Ok(forward(model, device, rows)?))?;
    Ok(())
}

/// Moves `rows` by one evaluation in one call of the network.
fn forward(model: &Loaded, device: &Device, rows: &mut [Row<'_>]) -> candle_core::Result<()> {
    let mut queries = Queries::default();
    let widths: Vec<usize> = rows.iter().map(|row| queries.push(row, &model.info)).collect();
    let v = queries.ask(model, device)?;
    let mut answers = v.as_slice();
    for (row, width) in rows.iter_mut().zip(widths) {
        let (own, rest) = answers.split_at(width * model.info.elements());
        row.advance(own);
        answers = rest;
    }
    Ok(())
}

/// Arguments of one call of the network, row after row.
#[derive(Default)]
struct Queries {
    x: Vec<f32>,
    s: Vec<f32>,
    t: Vec<f32>,
    labels: Vec<u32>,
}

impl Queries {
    /// Adds what `row` asks and returns how many queries that is: two under two-call guidance, the null class first;
    /// none for a row that has failed.
    #[expect(clippy::cast_possible_truncation, reason = "times are f32 in the network; classes are few")]
    fn push(&mut self, row: &Row<'_>, info: &ModelInfo) -> usize {
        let (step, Ok(state)) = (row.step, &row.state) else { return 0 };
        let null = info.classes.len() as u32;
        let own = step.label.unwrap_or(null);
        let width = info.guidance.rows(step.guidance, step.label);
        let (s, t) = step.evaluation.network_times();
        for label in [null, own].into_iter().skip(2 - width) {
            self.x.extend_from_slice(&state.x);
            self.s.push(s as f32);
            self.t.push(t as f32);
            self.labels.push(label);
        }
        width
    }

    /// The network's velocities, flat.
    fn ask(self, model: &Loaded, device: &Device) -> candle_core::Result<Vec<f32>> {
        let rows = self.labels.len();
        if rows == 0 {
            return Ok(Vec::new());
        }
        let expected = self.x.len();
        let shape: Vec<usize> = std::iter::once(rows).chain(model.info.shape.iter().copied()).collect();
        let column = |times| Tensor::from_vec(times, rows, device).map(|times| Dual::constant(&times));
        let x = Dual::constant(&Tensor::from_vec(self.x, shape, device)?);
        let labels = Tensor::from_vec(self.labels, rows, device)?;
        let v = model.net.velocity(&x, &column(self.s)?, &column(self.t)?, &labels)?;
        let v = v.primal.flatten_all()?.to_vec1::<f32>()?;
        if v.len() != expected {
            candle_core::bail!("the network returned {} numbers for {expected}", v.len());
        }
        Ok(v)
    }
}

#[cfg(test)]
mod tests;
