//! The scheduler's state machine: admits jobs, says what each device's next forward is, takes in what became of it.
//!
//! Knows nothing of threads, clocks and channels: `now` is an argument and everything that callers must hear is
//! returned as [`Event`]s. So a server drives it from its device threads, and a simulation in virtual time.
//!
//! A forward is of one model and runs on one device. Several devices draw from one queue: an image that has not begun
//! goes to whichever device asks first, and stays there. Models with work share a device in equal parts of its time.
//! Each call costs at most a pass over the jobs, whose number the limits bound.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::brown_out::{BrownOut, Demand, Level};
use super::cost::Cost;
use super::forecast::{Forecast, Shape};
use super::kept::Kept;
use super::limits::Limits;
use super::progress::{Admission, JobId, Progress};
use super::queue::{Load, Queue};
use super::time::{self, NEVER};
use crate::domain::{Accepted, Job, JobEvent, ModelInfo, ModelKey};
use crate::engine::{Batch, RowId};
use crate::error::{Error, Result};

/// A device of a scheduler.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DeviceId(pub usize);

/// What a job's owner must hear.
#[derive(Debug)]
pub struct Event {
    /// The job.
    pub job: JobId,
    /// What has happened.
    pub event: JobEvent,
    /// Images that will never be made: not zero only where the job failed.
    pub lost: u32,
}

/// The next forward of a device, and what is to be known of it beside its rows.
#[derive(Debug)]
pub struct Forward {
    /// Its rows.
    pub batch: Batch,
    /// Rows on the device: an image under two-call guidance counts as two.
    pub rows: usize,
    /// Distinct numbers of evaluations per image among the jobs that share the forward.
    pub distinct_plans: usize,
    /// How long each image that begins now has waited.
    pub queued: Vec<Duration>,
    /// How long it is expected to take.
    pub expected: Duration,
}

/// What one model's queue holds and how far steps are given up.
#[derive(Debug, Clone, Copy)]
pub struct Status {
    /// What the queue holds.
    pub load: Load,
    /// Until a new image in one step would be finished.
    pub wait: Duration,
}

/// All that a scheduler has to do.
#[derive(Debug)]
pub struct Core {
    models: Vec<Model>,
    devices: Vec<Device>,
    limits: Limits,
    brown_out: BrownOut,
    level: Level,
    kept: Kept,
    /// When everything must be finished.
    curfew: Option<Instant>,
    next_job: u64,
    next_row: u64,
}

#[derive(Debug)]
struct Model {
    info: ModelInfo,
    queue: Queue,
}

#[derive(Debug)]
struct Device {
    /// What forwards cost, by model.
    costs: Vec<Cost>,
    /// Device time that each model has had, those without work brought up to the others.
    served: Vec<f64>,
    /// The forward that was handed out and not completed.
    running: Option<Running>,
    /// Rows that ended without the engine knowing.
    released: Vec<RowId>,
    /// Whether it is gone.
    retired: bool,
}

#[derive(Debug)]
struct Running {
    model: usize,
    device_rows: usize,
    rows: Vec<(JobId, RowId)>,
    shares: BTreeMap<Arc<str>, usize>,
    until: Instant,
}

impl Core {
    /// Nothing to do yet for the models of `catalogue`, and no device.
    pub fn new(catalogue: &[ModelInfo], limits: &Limits) -> Self {
        let model = |info: &ModelInfo| Model { info: info.clone(), queue: Queue::default() };
        Self {
            models: catalogue.iter().map(model).collect(),
            devices: Vec::new(),
            brown_out: BrownOut::new(limits.brown_out),
            level: Level::FULL,
            kept: Kept::new(limits.kept_bytes),
            limits: limits.clone(),
            curfew: None,
            next_job: 0,
            next_row: 0,
        }
    }

    /// Adds a device whose forwards cost `costs`, by model.
    pub fn add_device(&mut self, costs: Vec<Cost>) -> DeviceId {
        let costs: Vec<Cost> =
            costs.into_iter().chain(std::iter::repeat_with(Cost::default)).take(self.models.len()).collect();
        let served = vec![0.0; costs.len()];
        self.devices.push(Device { costs, served, running: None, released: Vec::new(), retired: false });
        DeviceId(self.devices.len() - 1)
    }

    /// Takes a job.
    ///
    /// # Errors
    /// [`Error::Overloaded`] where it cannot be finished in time even in its fewest steps, or others could not be with
    /// it. [`Error::NotFound`] for a model that is not there, [`Error::Invalid`] for a job without images.
    pub fn admit(&mut self, job: Job, now: Instant) -> Result<(JobId, Accepted)> {
        let key = job.model;
        let model = self.models.get(key.0).ok_or_else(|| Error::NotFound("no such model".into()))?;
        if job.sources.is_empty() {
            return Err(Error::invalid("count", "is 0, must be at least 1"));
        }
        let ModelInfo { guidance, time_pairs: pairs, .. } = model.info;
        let width: u64 = job.sources.iter().map(|source| guidance.rows(job.guidance, source.label) as u64).sum();
        let number = self.next_job;
        let steps = self.ration(&job, width, number, now);
        let target = job.deadline.map_or(now + NEVER, |deadline| self.limits.headroom.target(now, deadline));
        let per_step = u64::from(job.sampler.evaluations_per_step());
        let shape = |steps: u32| Shape { width, depth: u64::from(steps) * per_step };
        let ahead = self.feasible(&job, shape(job.min_steps), target, now)?;
        let finish = self.forecast(key, now).finish(ahead, shape(steps)).min(target.max(now));
        let id = JobId { number, model: key };
        self.next_job += 1;
        let queue = &mut self.models[key.0].queue;
        let turn = queue.turn(&job.tenant);
        let evaluations = steps.saturating_mul(job.sampler.evaluations_per_step());
        let queue_position = queue.admit(id, job, Admission { guidance, pairs, turn, now, target, steps });
        Ok((id, Accepted { evaluations, queue_position, predicted: finish.saturating_duration_since(now) }))
    }

    /// Steps that overload leaves a job, which counts as demand from now on, whether it is taken or not.
    fn ration(&mut self, job: &Job, width: u64, number: u64, now: Instant) -> u32 {
        let asked = u32::try_from(job.grid.steps()).unwrap_or(u32::MAX);
        let seconds_per_row = self.seconds_per_row(job.model);
        let seconds_per_step = width as f64 * seconds_per_row * f64::from(job.sampler.evaluations_per_step());
        let within = job.deadline.map_or(NEVER, |deadline| deadline.saturating_duration_since(now));
        self.brown_out.arrive(Demand { seconds_per_step, steps: asked, min_steps: job.min_steps, within }, now);
        self.level = self.brown_out.level(self.present().count(), self.backlog(), now);
        let steps = self.level.steps(number, asked, job.min_steps);
        self.models[job.model.0].info.time_pairs.steps_from(steps, job.sampler, &job.grid)
    }

    /// Work of earlier deadlines in device rows, where a job of this shape can be finished by `target` and all others
    /// in time.
    fn feasible(&self, job: &Job, least: Shape, target: Instant, now: Instant) -> Result<u64> {
        let (forecast, own) = (self.forecast(job.model, now), least.width * least.depth);
        let (mut earlier, mut all, mut late) = (0, 0, None);
        for (_, other) in self.models[job.model.0].queue.by_target() {
            all += other.mandatory_work();
            if other.target() <= target {
                earlier = all;
                continue;
            }
            let Some(limit) = other.deadline() else { continue };
            let done = forecast.done(all + own);
            // What is late anyway is no reason to refuse anyone.
            if done > limit && forecast.done(all) <= limit {
                late = late.max(done.checked_duration_since(limit));
            }
        }
        if job.deadline.is_none() {
            return Ok(earlier);
        }
        let finish = forecast.finish(earlier, least);
        let late = late.max(finish.checked_duration_since(target)).filter(|late| !late.is_zero());
        let predicted = Some(finish.saturating_duration_since(now));
        late.map_or(Ok(earlier), |retry_after| Err(Error::Overloaded { retry_after, predicted }))
    }

    /// Makes everything end by `curfew`: what may end early does, where it would otherwise be late.
    pub fn curfew(&mut self, curfew: Instant) {
        self.curfew = Some(curfew);
    }

    /// Whether there is nothing to do.
    pub fn is_idle(&self) -> bool {
        self.models.iter().all(|model| model.queue.is_empty())
    }

    /// What each model's queue holds, and when a new image would be done.
    pub fn status(&self, now: Instant) -> impl Iterator<Item = Status> + '_ {
        (0..self.models.len()).map(move |model| {
            let queue = &self.models[model].queue;
            let ahead: u64 = queue.by_target().map(|(_, job)| job.mandatory_work()).sum();
            let finish = self.forecast(ModelKey(model), now).finish(ahead, Shape { width: 1, depth: 1 });
            Status { load: queue.load(), wait: finish.saturating_duration_since(now) }
        })
    }

    /// What the forwards of a device cost, by model.
    pub fn costs(&self, device: DeviceId) -> &[Cost] {
        self.devices.get(device.0).map_or(&[], |device| &device.costs)
    }

    /// How far steps are given up.
    pub(super) fn level(&self) -> Level {
        self.level
    }

    /// Memory that kept states take, in bytes.
    pub fn kept_bytes(&self) -> usize {
        self.kept.bytes()
    }

    /// Predicted device time for each unfinished image; zero where there is none.
    pub fn time_per_image(&self) -> Duration {
        let (mut seconds, mut images) = (0.0, 0);
        for (key, model) in self.models.iter().enumerate() {
            let load = model.queue.load();
            seconds += load.work as f64 * self.seconds_per_row(ModelKey(key));
            images += load.waiting + load.running;
        }
        let devices = self.present().count().max(1);
        time::seconds(seconds / devices as f64 / images.max(1) as f64)
    }

    fn present(&self) -> impl Iterator<Item = &Device> {
        self.devices.iter().filter(|device| !device.retired)
    }

    /// Seconds of work before the devices.
    fn backlog(&self) -> f64 {
        let seconds =
            |(key, model): (usize, &Model)| model.queue.load().work as f64 * self.seconds_per_row(ModelKey(key));
        self.models.iter().enumerate().map(seconds).sum()
    }

    /// Device time of a row in a full forward, in seconds, as promised: steps are given up by the same measure by which
    /// requests are refused, and before.
    fn seconds_per_row(&self, key: ModelKey) -> f64 {
        let Some(device) = self.present().next() else { return 0.0 };
        let rows = self.budget(device, key.0);
        device.costs[key.0].promised(rows) / rows as f64
    }

    /// What the devices can do for a model.
    fn forecast(&self, key: ModelKey, now: Instant) -> Forecast {
        let until = |device: &Device| device.running.as_ref().map_or(now, |running| running.until.max(now));
        let Some(device) = self.present().min_by_key(|device| until(device)) else {
            return Forecast { free: now, rows: 1, devices: 1, cycle: 0.0, base: 0.0 };
        };
        let rows = self.budget(device, key.0);
        Forecast {
            free: until(device),
            rows: rows as u64,
            devices: self.present().count() as u64,
            cycle: self.cycle(device, key.0).as_secs_f64(),
            base: device.costs[key.0].promised(0),
        }
    }

    /// From one full forward of a model to the next, the turns of the other models with work included.
    fn cycle(&self, device: &Device, model: usize) -> Duration {
        let takes_turns = |other: &usize| *other == model || !self.models[*other].queue.is_empty();
        let turns = (0..self.models.len()).filter(takes_turns);
        let seconds: f64 = turns.map(|m| device.costs[m].promised(self.budget(device, m))).sum();
        time::seconds(seconds)
    }

    /// Device rows that one forward of a model may have.
    fn budget(&self, device: &Device, model: usize) -> usize {
        let cost = &device.costs[model];
        let most = cost.rows_within(self.limits.max_step, self.limits.max_rows);
        let missing = (1.0 - self.limits.efficiency).max(0.0);
        let missing = if self.level == Level::FULL { missing } else { missing / 4.0 };
        cost.economical(most, 1.0 - missing)
    }

    fn job(&mut self, id: JobId) -> Option<&mut Progress> {
        self.models.get_mut(id.model.0)?.queue.get_mut(id)
    }
}

mod ending;
mod forward;
#[cfg(test)]
mod tests;
