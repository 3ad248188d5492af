//! The state machine of a worker: admits jobs, says what the next forward is, takes in what became of it.
//!
//! Knows nothing of threads, clocks and channels: `now` is an argument and everything that callers must hear is
//! returned as [`Event`]s. A forward is of one model; models with work take turns, so each waits at most one forward of
//! every other model. Each call costs at most a pass over the jobs, whose number the permits bound.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Limits;
use super::cost::{Cost, Line};
use super::progress::{JobId, Settled};
use super::queue::{FairQueue, Load};
use crate::domain::{Accepted, Job, JobEvent, ModelInfo, ModelKey};
use crate::engine::{Batch, Outcome, RowId};
use crate::error::{Error, Result};

/// What a job's owner must hear.
#[derive(Debug)]
pub(super) struct Event {
    pub(super) job: JobId,
    pub(super) event: JobEvent,
    /// Images that will never be made: not zero only where the job failed.
    pub(super) lost: u32,
}

/// The next forward, and what is to be known of it beside its rows.
#[derive(Debug)]
pub(super) struct Forward {
    pub(super) batch: Batch,
    /// Rows on the device: an image under two-call guidance counts as two.
    pub(super) rows: usize,
    /// Distinct numbers of evaluations per image among the jobs that share the forward.
    pub(super) distinct_plans: usize,
    /// How long each image that begins now has waited.
    pub(super) queued: Vec<Duration>,
}

/// All that a worker has to do.
#[derive(Debug)]
pub(super) struct Core {
    models: Vec<Model>,
    max_rows: usize,
    max_step: Duration,
    /// The forward that was handed out and not completed.
    running: Option<Running>,
    /// Rows that ended without the engine knowing.
    released: Vec<RowId>,
    next_job: u64,
    next_row: u64,
    /// The model whose turn it is, modulo their number.
    turn: usize,
}

#[derive(Debug)]
struct Model {
    info: ModelInfo,
    queue: FairQueue,
    cost: Cost,
}

#[derive(Debug)]
struct Running {
    model: usize,
    device_rows: usize,
    rows: Vec<(JobId, RowId)>,
}

impl Core {
    /// Nothing to do yet for the models of `catalogue`, whose forwards cost `costs`.
    pub(super) fn new(catalogue: &Arc<[ModelInfo]>, costs: Vec<Cost>, limits: &Limits) -> Self {
        let model = |(info, cost): (&ModelInfo, Cost)| Model { info: info.clone(), queue: FairQueue::default(), cost };
        let costs = costs.into_iter().chain(std::iter::repeat_with(Cost::default));
        Self {
            models: catalogue.iter().zip(costs).map(model).collect(),
            max_rows: limits.max_rows,
            max_step: limits.max_step,
            running: None,
            released: Vec::new(),
            next_job: 0,
            next_row: 0,
            turn: 0,
        }
    }

    /// Takes a job.
    ///
    /// # Errors
    /// [`Error::NotFound`] for a model that is not there, [`Error::Invalid`] for a job without images.
    pub(super) fn admit(&mut self, job: Job, now: Instant) -> Result<(JobId, Accepted)> {
        let key = job.model;
        let model = self.models.get_mut(key.0).ok_or_else(|| Error::NotFound("no such model".into()))?;
        if job.labels.is_empty() {
            return Err(Error::invalid("count", "is 0, must be at least 1"));
        }
        let id = JobId { number: self.next_job, model: key };
        self.next_job += 1;
        let (evaluations, queue_position) = model.queue.admit(id, job, model.info.guidance, now);
        let evaluations = u32::try_from(evaluations).unwrap_or(u32::MAX);
        Ok((id, Accepted { evaluations, queue_position }))
    }

    /// The next forward; `None` while one is out or nothing is to do.
    pub(super) fn next_forward(&mut self, now: Instant) -> Option<Forward> {
        if self.running.is_some() {
            return None;
        }
        let count = self.models.len();
        let model = (0..count).map(|i| (self.turn + i) % count).find(|&i| !self.models[i].queue.is_empty())?;
        self.turn = model + 1;
        let budget = self.models[model].budget(self.max_step, self.max_rows);
        let (chosen, device_rows) = self.models[model].queue.choose(budget);
        Some(self.begin(model, &chosen, device_rows, now))
    }

    fn begin(&mut self, model: usize, chosen: &[(JobId, usize)], device_rows: usize, now: Instant) -> Forward {
        let (mut steps, mut rows) = (Vec::with_capacity(chosen.len()), Vec::with_capacity(chosen.len()));
        let (mut queued, mut plans) = (Vec::new(), Vec::new());
        for &(id, nth) in chosen {
            let Some(job) = self.models[model].queue.get_mut(id) else { continue };
            let Some(step) = job.step(nth, RowId(self.next_row), now) else { continue };
            if step.row.0 == self.next_row {
                self.next_row += 1;
                queued.push(job.queued(now));
            }
            plans.push(job.evaluations_per_image());
            rows.push((id, step.row));
            steps.push(step);
        }
        plans.sort_unstable();
        plans.dedup();
        self.running = Some(Running { model, device_rows, rows });
        let batch = Batch { model: ModelKey(model), rows: steps };
        Forward { batch, rows: device_rows, distinct_plans: plans.len(), queued }
    }

    /// Takes in what became of the forward that was handed out, and how long it took.
    pub(super) fn complete(&mut self, result: Result<Vec<Outcome>>, elapsed: Duration, now: Instant) -> Vec<Event> {
        let Some(Running { model, device_rows, rows }) = self.running.take() else { return Vec::new() };
        self.models[model].queue.served(device_rows);
        let outcomes = result.and_then(|outcomes| match outcomes.len() == rows.len() {
            true => Ok(outcomes),
            false => Err(Error::Compute(format!("{} outcomes for {} rows", outcomes.len(), rows.len()))),
        });
        let mut events = Vec::new();
        match outcomes {
            Ok(outcomes) => {
                self.models[model].cost.observe(device_rows, elapsed);
                for ((id, row), outcome) in rows.into_iter().zip(outcomes) {
                    self.settle(id, row, outcome, now, &mut events);
                }
            }
            Err(error) => events.extend(rows.iter().filter_map(|&(id, _)| self.fail(id, copy(&error)))),
        }
        events
    }

    fn settle(&mut self, id: JobId, row: RowId, outcome: Outcome, now: Instant, events: &mut Vec<Event>) {
        let Some(queue) = self.models.get_mut(id.model.0).map(|model| &mut model.queue) else { return };
        let Some(job) = queue.get_mut(id) else { return };
        match job.settle(row, outcome, now) {
            Settled::Running => {}
            Settled::Failed(reason) => events.extend(self.fail(id, Error::Compute(reason))),
            Settled::Image(image) => {
                events.push(Event { job: id, event: JobEvent::Image(image), lost: 0 });
                if let Some(summary) = job.summary(now) {
                    queue.remove(id);
                    events.push(Event { job: id, event: JobEvent::Finished(summary), lost: 0 });
                }
            }
        }
    }

    /// Ends a job whose owner went away.
    pub(super) fn cancel(&mut self, id: JobId) -> Option<Event> {
        self.fail(id, Error::Cancelled)
    }

    /// Ends the jobs whose time has run out.
    pub(super) fn expire(&mut self, now: Instant) -> Vec<Event> {
        let expired: Vec<JobId> = self.models.iter().flat_map(|model| model.queue.expired(now)).collect();
        expired.into_iter().filter_map(|id| self.fail(id, Error::DeadlineExceeded)).collect()
    }

    /// Ends every job with `error`.
    pub(super) fn abort(&mut self, error: &Error) -> Vec<Event> {
        let all: Vec<JobId> = self.models.iter().flat_map(|model| model.queue.ids()).collect();
        all.into_iter().filter_map(|id| self.fail(id, copy(error))).collect()
    }

    /// Ends a job without its missing images; its rows in flight are released.
    fn fail(&mut self, id: JobId, error: Error) -> Option<Event> {
        let job = self.models.get_mut(id.model.0)?.queue.remove(id)?;
        self.released.extend(job.row_ids());
        Some(Event { job: id, event: JobEvent::Failed(error), lost: job.missing() })
    }

    /// The rows that ended without the engine knowing, since the last call.
    pub(super) fn take_released(&mut self) -> Vec<RowId> {
        std::mem::take(&mut self.released)
    }

    /// Whether there is nothing to do.
    pub(super) fn is_idle(&self) -> bool {
        self.models.iter().all(|model| model.queue.is_empty())
    }

    /// What each model's queue holds, and what its forwards cost.
    pub(super) fn loads(&self) -> impl Iterator<Item = (Load, Line)> + '_ {
        self.models.iter().map(|model| (model.queue.load(), model.cost.line()))
    }

    /// Predicted device time for each unfinished image; zero where there is none.
    pub(super) fn time_per_image(&self) -> Duration {
        let (mut seconds, mut images) = (0.0, 0);
        for model in &self.models {
            let load = model.queue.load();
            let per_row = model.cost.seconds_per_row(model.budget(self.max_step, self.max_rows));
            seconds += load.work as f64 * per_row;
            images += load.waiting + load.running;
        }
        Duration::try_from_secs_f64(seconds / images.max(1) as f64).unwrap_or(Duration::MAX)
    }
}

impl Model {
    /// Device rows that one forward may have.
    fn budget(&self, max_step: Duration, max_rows: usize) -> usize {
        self.cost.rows_within(max_step, max_rows)
    }
}

/// The same error for another job that shared its cause.
fn copy(error: &Error) -> Error {
    match error {
        Error::Compute(reason) => Error::Compute(reason.clone()),
        Error::Unavailable(reason) => Error::Unavailable(reason.clone()),
        other => Error::Compute(other.to_string()),
    }
}

#[cfg(test)]
mod tests;
