//! The engine over candle networks.
//!
//! States live in plain memory, one vector a row; a forward asks the network once for `v_{s,t}` with the times of each
//! row, and moves every state by its own rule. The arithmetic is that of `flow::sampler::sample`, to the bit; as the rows
//! of a [`FlowMap`](crate::flow::FlowMap) do not depend on one another, an image is the same whatever it shared its
//! forwards with.
//!
//! On a CPU the network is compiled, and each thread takes groups of rows through all of it: nothing is synchronised
//! inside and the activations stay in the thread's cache.

use std::collections::HashMap;

use candle_core::Device;

use super::{Batch, Engine, Outcome, Purpose, RowId, RowStep, Start};
use crate::domain::{Guidance, ModelInfo, NoiseKey, Rule};
use crate::error::{Error, Result};
use crate::flow::{guidance, noise};
use crate::model::{Executable, Query, Team};

/// A network with what its users know of it.
pub struct Loaded {
    /// The network; its weights are on the engine's device and detached from any graph.
    pub net: Executable,
    /// Its shape, noise scale, classes and guidance.
    pub info: ModelInfo,
}

/// Runs batches through candle networks and owns the state of every row in flight.
pub struct DeviceEngine {
    models: Vec<Loaded>,
    device: Device,
    /// The threads of a CPU; another device is driven by the caller alone.
    team: Team,
    states: HashMap<RowId, State>,
    /// The network's answers to one batch: kept for its memory.
    answers: Vec<f32>,
}

impl DeviceEngine {
    /// An engine for `models`, in the order of the catalogue, all of them on `device`. On a CPU the rows of a batch are
    /// spread over `threads` threads that the engine owns; another device gets them in one piece.
    ///
    /// # Errors
    /// [`Error::Compute`] where the threads cannot be started, [`Error::Config`] where a model takes its guidance as an input, for which
    /// a network has no argument.
    pub fn new(models: Vec<Loaded>, device: Device, threads: usize) -> Result<Self> {
        let takes_input = |loaded: &&Loaded| matches!(loaded.info.guidance, Guidance::Input { .. });
        let refused = models.iter().filter(takes_input);
        let problems: Vec<String> =
            refused.map(|m| format!("{}: guidance as an input is not served", m.info.id)).collect();
        if !problems.is_empty() {
            return Err(Error::Config(problems));
        }
        let team = Team::new(if device.is_cpu() { threads } else { 1 })?;
        Ok(Self { models, device, team, states: HashMap::new(), answers: Vec::new() })
    }
}

impl Engine for DeviceEngine {
    fn step(&mut self, batch: &Batch) -> Result<Vec<Outcome>> {
        let Self { models, device, team, states, answers } = self;
        let model = models.get(batch.model.0).ok_or_else(|| Error::Compute("the engine has no such model".into()))?;
        // Previews look before anything moves.
        let peek = |step| Row { step, state: State::peek(step, &model.info, states), before: None };
        let mut rows: Vec<Row<'_>> = batch.rows.iter().map(peek).collect();
        for row in rows.iter_mut().filter(|row| row.step.purpose != Purpose::Preview) {
            row.state = State::take(row.step, &model.info, states);
            row.remember();
        }
        evaluate(model, (device, team), &mut rows, answers)?;
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
            Some(start) => Ok(Self { x: initial(start, step.noise, info)?, base: None }),
        }
    }

    /// Moves along the velocity `v` by the rule of `step`; `scale` is that of the model's noise.
    fn advance(self, step: &RowStep, v: &[f32], scale: f32) -> Self {
        #[expect(clippy::cast_possible_truncation, reason = "states are f32")]
        let h = (step.evaluation.landing() - step.evaluation.s) as f32;
        let moved: Vec<f32> = self.x.iter().zip(v).map(|(x, v)| x + scaled(*v, h)).collect();
        match step.evaluation.rule {
            Rule::Jump | Rule::Euler => Self { x: moved, base: None },
            Rule::Renoise { .. } => match step.evaluation.renoising() {
                Some(back) => Self { x: noise::renoised(&moved, back, step.noise, scale), base: None },
                None => Self { x: moved, base: None },
            },
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

fn initial(start: &Start, key: NoiseKey, info: &ModelInfo) -> Result<Vec<f32>, String> {
    let n = info.elements();
    match start {
        Start::Noise => Ok(noise::initial(key.seed, key.index, n, info.noise_scale)),
        Start::State { states, index, noised_to } => {
            // One state serves all images, without a copy for each.
            let from = if states.len() == n { 0 } else { n * *index as usize };
            let state = states.get(from..from + n).ok_or_else(|| format!("there is no initial state {index}"))?;
            Ok(match noised_to {
                None => state.to_vec(),
                Some(time) => noise::noised(state, *time, key, info.noise_scale),
            })
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
    fn advance(&mut self, v: &[f32], info: &ModelInfo) {
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
        let state = state.advance(self.step, v, info.noise_scale);
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

/// Moves all rows by one evaluation. `answers` is room for the network's.
fn evaluate(model: &Loaded, place: (&Device, &Team), rows: &mut [Row<'_>], answers: &mut Vec<f32>) -> Result<()> {
    let mut queries = Vec::with_capacity(2 * rows.len());
    let widths: Vec<usize> = rows.iter().map(|row| ask(row, &model.info, &mut queries)).collect();
    answers.resize(queries.len() * model.info.elements(), 0.0);
    if !queries.is_empty() {
        model.net.answer(&queries, &model.info.shape, place, answers)?;
    }
    let mut rest = answers.as_slice();
    for (row, width) in rows.iter_mut().zip(widths) {
        let (own, others) = rest.split_at(width * model.info.elements());
        row.advance(own, &model.info);
        rest = others;
    }
    Ok(())
}

/// Adds what `row` asks the network and returns how many queries that is: two under two-call guidance, the null class
/// first; none for a row that has failed.
#[expect(clippy::cast_possible_truncation, reason = "times are f32 in the network; classes are few")]
fn ask<'a>(row: &'a Row<'_>, info: &ModelInfo, queries: &mut Vec<Query<'a>>) -> usize {
    let (step, Ok(state)) = (row.step, &row.state) else { return 0 };
    let null = info.classes.len() as u32;
    let own = step.label.unwrap_or(null);
    let width = info.guidance.rows(step.guidance, step.label);
    let (s, t) = step.evaluation.network_times();
    for label in [null, own].into_iter().skip(2 - width) {
        queries.push(Query { x: &state.x, s: s as f32, t: t as f32, label });
    }
    width
}

#[cfg(test)]
mod tests;
